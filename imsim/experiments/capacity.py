"""The highest load at which a simulated design keeps a budget, as a bracket of two loads.

`search` chooses the loads. It assumes that more load is never better; a note says so if what was measured contradicts
it. At each load, the interval over replications judges the budget. An undecided load gets more replications; a load
that stays undecided lies inside the bracket, and is reported. Where the runs at a load are too short for the budget's
percentile, more of them do not help, so they are made longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imsim.analysis.budgets import Budget, Verdict
from imsim.analysis.kinds import RECOVERY
from imsim.analysis.labels import title_of
from imsim.analysis.run_length import flaw, is_steady, needed
from imsim.core.exceptions import UsageError
from imsim.experiments.replicate import Progress, Replications, Sample, Sampling, Store, flaw_notes, replicate, to_json
from imsim.experiments.search import Bracket, search, start_of
from imsim.scenario import Scenario
from imsim.scenario.sections.topology import TIERS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Far from the budget a few replications suffice; near it a load gets more. An interval from fewer than these is not
#: reliable.
FEWEST_PER_LOAD = 5
MOST_PER_LOAD = 40

#: Runs are made longer until they suffice for the budget's percentile, up to this many times the scenario's duration.
LONGEST = 64.0

#: A tier that is less busy has hardly any queues: at this share, an M/M/1 job waits as long as it is served.
_BUSY = 0.5


def capacity(
    scenario: Scenario,
    budget: Budget,
    over: str,
    sampling: Sampling,
    *,
    tolerance: float,
    lowest: float | None = None,
    highest: float | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Capacity:
    """See `imsim.capacity`. `sampling` measures the budget's metric, `UTILISATIONS` and `WAITS`."""
    if sampling.replications < FEWEST_PER_LOAD:
        raise UsageError(
            f"replications: expected {FEWEST_PER_LOAD} or more, as their interval judges a load, "
            f"got {sampling.replications}"
        )
    if budget.metric == RECOVERY and not scenario.faults:
        raise UsageError(f"capacity: the scenario has no faults, so there is no {RECOVERY}; add one to its [[faults]]")
    start, whole = start_of(scenario, over, tolerance, lowest, highest)
    tried: dict[float, Replications] = {}

    def is_too_short(load: float) -> bool:
        return tried[load].flaw(budget.metric) is not None

    def is_undecided(samples: Sequence[Sample]) -> bool:
        values = [sample.values[budget.metric] for sample in samples]
        # More replications do not mend a percentile of runs that are too short.
        is_flawed = flaw(budget.metric, values, [sample.behind for sample in samples]) is not None
        return budget.judge(values) == "undecided" and not is_flawed and not any(map(math.isnan, values))

    def run(load: float, duration: float) -> Replications:
        design = scenario.replace({over: round(load) if whole else load, "duration": duration})

        def report(what: str, share: float) -> None:
            if progress:
                progress(f"{over} = {load:.4g}, {what}", share)

        (found,) = replicate([design], sampling, wants_more=is_undecided, store=store, progress=report)
        if any(map(math.isnan, found.values(budget.metric))):
            raise UsageError(
                f"capacity: at {over} = {load:.4g} a run has nothing to measure {budget.metric} by; make the "
                "scenario's duration longer, or start from a higher load"
            )
        return found

    def judge(load: float) -> Verdict:
        duration = scenario.duration
        while True:
            tried[load] = found = run(load, duration)
            verdict = budget.judge(found.values(budget.metric), found[budget.metric])
            if verdict != "undecided" or not is_too_short(load) or not is_steady(scenario):
                return verdict
            longer = min(duration * lengthening(found, budget.metric), scenario.duration * LONGEST)
            if longer <= duration:
                return verdict
            duration = longer

    bracket = search(
        judge, start, tolerance=tolerance, whole=whole, lowest=lowest, highest=highest, is_too_short=is_too_short
    )
    return Capacity(scenario, budget, over, bracket, tried)


def lengthening(found: Replications, metric: str) -> float:
    """Return how many times as long the runs should be, so that each has enough latencies for a percentile."""
    fewest = min(sample.behind[metric].latencies for sample in found.samples)
    return max(2.0, 1.2 * needed(metric) / max(fewest, 1))


@dataclass(frozen=True)
class Bottleneck:
    """The tier where messages wait longest at a load.

    wait: ms, the time that the operations of a message wait there for workers, on average over messages. utilisation:
    the share of its workers' time, 0 to 1, of the tier's busiest node.
    """

    tier: str
    wait: float
    utilisation: float
    load: float

    @property
    def is_busy(self) -> bool:
        """Whether queues at its nodes can explain why the budget breaks."""
        return self.utilisation >= _BUSY

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"tier": self.tier, "wait_ms": self.wait, "utilisation": self.utilisation, "load": self.load}

    def __str__(self) -> str:
        return f"{self.tier} ({self.utilisation:.0%} busy, messages wait {round(self.wait, 1):,g} ms)"


class Capacity:
    """The result of `imsim.capacity`: the highest load that keeps a budget lies between `keeps` and `breaks`.

    Attributes:
        scenario: the scenario that was simulated.
        budget: the budget.
        over: the dotted path of the load.
        tried: the `Replications` at each load.

    Example:
        >>> found = imsim.capacity("office", "delivery.mean < 1s", high=0.3, duration="1s")
        >>> found.keeps, found.breaks
        (0.3, None)
    """

    def __init__(
        self, scenario: Scenario, budget: Budget, over: str, bracket: Bracket, tried: dict[float, Replications]
    ) -> None:
        self.scenario = scenario
        self.budget = budget
        self.over = over
        self.bracket = bracket
        self.tried = dict(sorted(tried.items()))

    def __dir__(self) -> list[str]:
        return [
            "bottleneck", "breaks", "budget", "frame", "keeps", "notes", "over", "plot", "save_plot", "scenario",
            "summary", "to_json_dict", "tried", "verdict",
        ]  # fmt: skip

    @property
    def keeps(self) -> float | None:
        """The highest load whose interval keeps the budget; None if no load did."""
        return self.bracket.keeps

    @property
    def breaks(self) -> float | None:
        """The lowest load whose interval breaks the budget; None if no load did."""
        return self.bracket.breaks

    @property
    def bottleneck(self) -> Bottleneck | None:
        """The tier where messages wait longest at the lowest load that breaks the budget.

        None if no load breaks the budget, or the waits are not known.
        """
        if self.breaks is None:
            return None
        waits, busy = self._tiers(self.breaks, "wait"), self._tiers(self.breaks, "utilisation")
        known = {tier: wait for tier, wait in waits.items() if wait is not None}
        if not known:
            return None
        tier = max(known, key=lambda name: (known[name], busy[name] or 0.0))
        return Bottleneck(tier, known[tier], busy[tier] or 0.0, self.breaks)

    def _tiers(self, load: float, what: str) -> dict[str, float | None]:
        """Return `utilisation` or `wait` of each tier at a load, as a mean over replications."""
        one = self.tried[load]
        names = {tier: f"{what}.{tier}" for tier in TIERS}
        return {tier: one[name].value if name in one.metrics else None for tier, name in names.items()}

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each load: the load, every metric with the ends of its interval, and the verdict (`budget`).

        The metrics are those of `imsim.replicate`, and for each tier `utilisation.*` (of its busiest node, 0 to 1) and
        `wait.*` (ms, how long a message waits there on average). `delivery.p99.low` and `delivery.p99.high` are the
        ends of the interval of delivery.p99.
        """
        import pandas as pd

        return pd.DataFrame(
            [{self.over: load, **one.row(), "budget": self.bracket.verdicts[load]} for load, one in self.tried.items()]
        )

    def summary(self) -> pd.DataFrame:
        """Return a row for each load, as texts: the budget's metric, and how busy and how slow each tier was."""
        import pandas as pd

        metric = self.budget.metric
        return pd.DataFrame(
            [
                {
                    self.over: load,
                    metric: str(one[metric]),
                    "replications": len(one),
                    "budget": self.bracket.verdicts[load],
                    **{tier: self._text(load, tier) for tier in TIERS},
                }
                for load, one in self.tried.items()
            ]
        )

    def _text(self, load: float, tier: str) -> str:
        busy, wait = self._tiers(load, "utilisation")[tier], self._tiers(load, "wait")[tier]
        if busy is None:
            return "-"
        return f"{busy:.0%} busy" + ("" if wait is None else f", wait {round(wait, 1):,g} ms")

    @property
    def notes(self) -> list[str]:
        """Facts to know before the result is used, one sentence each."""
        notes = [
            f"the budget is judged by the mean over replications of {self.budget.metric} and its 95 % interval at each "
            "load; more load is assumed to be never better"
        ]
        arrivals = self.scenario.workload.arrivals.kind
        if arrivals != "poisson":
            holds = "workload.rate has no effect" if arrivals == "replay" else "the result holds for this shape only"
            notes.append(
                f"arrivals are not steady ({arrivals}): {holds}. For the highest load that the design can serve for a "
                "long time, set workload.arrivals=poisson"
            )
        longer = {load: one.scenario.duration for load, one in self.tried.items()}
        longer = {load: duration for load, duration in longer.items() if duration > self.scenario.duration}
        if longer:
            loads = ", ".join(f"{load:.4g} ({duration:,.3g} s)" for load, duration in longer.items())
            notes.append(
                f"runs of {self.scenario.duration:g} s are too short for {self.budget.metric} at these loads, so they "
                f"were made longer: {loads}"
            )
        if self.keeps is None:
            notes.append(f"no load is known to keep the budget: the lowest tried is {min(self.tried):.4g}")
        if self.breaks is None:
            notes.append(f"no load is known to break the budget: the highest tried is {max(self.tried):.4g}")
        if self.bottleneck is not None and not self.bottleneck.is_busy:
            notes.append(
                f"no queue breaks the budget, but service times, links or policies: the longest waits are at "
                f"{self.bottleneck}"
            )
        if self.bracket.undecided:
            loads = ", ".join(f"{load:.4g}" for load in self.bracket.undecided)
            most = max(len(self.tried[load]) for load in self.bracket.undecided)
            notes.append(
                f"up to {most} replications do not decide about {loads}: more replications or longer runs may decide"
            )
        notes += [
            f"at {self.over} = {load:.4g}, {note}"
            for load, one in self.tried.items()
            if self.bracket.verdicts[load] == "keeps"
            for note in one.unsteady_notes
        ]
        # A number that is too low cannot break an upper bound by mistake.
        flaws = {
            one.flaw(self.budget.metric)
            for load, one in self.tried.items()
            if self.bracket.verdicts[load] != "breaks" or not self.budget.is_kept_by(0.0)
        }
        for found in sorted(found for found in flaws if found):
            notes += flaw_notes({self.budget.metric: found}, self.scenario.duration)
        if not self.bracket.is_monotone:
            notes.append("a higher load keeps the budget and a lower one breaks it: more load is not always worse here")
        return notes

    def to_json_dict(self) -> dict[str, Any]:
        """Return what `imsim capacity --json` prints."""
        return {
            "scenario": self.scenario.name,
            "seed": self.scenario.seed,
            "budget": str(self.budget),
            "over": self.over,
            "keeps": self.keeps,
            "breaks": self.breaks,
            "undecided": self.bracket.undecided,
            "bottleneck": None if self.bottleneck is None else self.bottleneck.to_json_dict(),
            "tried": [
                {
                    "load": load,
                    "verdict": self.bracket.verdicts[load],
                    "replications": len(one),
                    "metrics": {metric: to_json(one[metric]) for metric in one.metrics},
                }
                for load, one in self.tried.items()
            ],
            "notes": self.notes,
        }

    def plot(self, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
        """Draw the budget's metric over the load, above the utilisation of each tier.

        A line marks the lowest load that breaks the budget.

        Args:
            axes: two axes; None makes a new figure.
        """
        from imsim.analysis import plots

        return plots.capacity(
            self.frame,
            self.over,
            self.budget.metric,
            axes,
            budget=str(self.budget),
            bound=self.budget.bound,
            bracket=(self.keeps, self.breaks),
            currency=self.scenario.cost.currency,
            title=f"{title_of(self.scenario)}\n{self.verdict}",
        )

    def save_plot(self, path: str | PathLike[str]) -> Path:
        """Write the picture that `plot` draws to a file and return its path.

        Args:
            path: the file; its suffix chooses the format (.png, .svg, .pdf).

        Raises:
            UsageError: the file cannot be written.
        """
        from imsim.analysis import plots

        return plots.save_pair(self.plot, path)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.keeps is None:
            known = "known to be " if self.bracket.undecided else ""
            return f"{self.budget} is not {known}kept at any {self.over} that was tried"
        if self.breaks is None:
            return f"{self.budget} is kept up to {self.over} = {self.keeps:.4g} at least"
        text = f"{self.budget} is kept up to {self.over} = {self.keeps:.4g}, and broken from {self.breaks:.4g} on"
        bottleneck = self.bottleneck
        return f"{text}, where {bottleneck} gives way" if bottleneck is not None and bottleneck.is_busy else text

    def __str__(self) -> str:
        text = self.summary().to_string(index=False, float_format=lambda value: f"{value:,.4g}")
        return "\n".join([f"{self.scenario.name}: {self.verdict}", "", text, *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<Capacity of {self.scenario.name}: {self.verdict}>"

    def _repr_html_(self) -> str:
        html = self.summary().to_html(index=False, float_format=lambda value: f"{value:,.4g}", border=0)
        notes = "<br>".join(f"<small>{escape(note)}</small>" for note in self.notes)
        return f"<div><b>{escape(self.scenario.name)}</b>: {escape(self.verdict)}{html}{notes}</div>"
