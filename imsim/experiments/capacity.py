"""How much load a design bears: the highest load that keeps a budget, as a bracket.

Found by doubling or halving until one load keeps the budget and another breaks it, and by bisection between the two.
This takes it that more load is never better; `notes` say so if what was measured contradicts it. At each load the
budget is judged by the interval over replications, of which there are more where it does not decide; a load that stays
undecided is reported as such, and lies inside the bracket.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imsim.analysis.budgets import Budget, Verdict
from imsim.analysis.labels import title_of
from imsim.analysis.metrics import UTILISATIONS
from imsim.core.exceptions import UsageError
from imsim.experiments.replicate import Progress, Replications, Sample, Sampling, Store, flaw_notes, replicate, to_json
from imsim.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: A few replications suffice far from the budget; near to it there are more and more. Fewer than these say nothing.
FEWEST_PER_LOAD = 5
MOST_PER_LOAD = 40

#: A tier less busy than this has hardly any queues: an M/M/1 job waits as long as it is served.
_BUSY = 0.5

#: How many times above or below the first load the search gives up.
WIDEST = 64.0


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
    """See `imsim.capacity`. `sampling` measures the budget's metric and `UTILISATIONS`."""
    if sampling.replications < FEWEST_PER_LOAD:
        raise UsageError(
            f"replications: a load is judged by the interval of {FEWEST_PER_LOAD} or more, got {sampling.replications}"
        )
    start, whole = load_of(scenario, over)
    if not isinstance(tolerance, int | float) or not 0 < tolerance <= 1:
        raise UsageError(f"tolerance: expected a share above 0 and up to 1, as in 0.05, got {tolerance!r}")
    for name, value in (("low", lowest), ("high", highest)):
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise UsageError(f"{name}: expected a number above 0, got {value!r}")
    if lowest is not None and highest is not None and lowest > highest:
        raise UsageError(f"low: must not exceed high, got {lowest:g} and {highest:g}")
    start = min(max(start, lowest or start), highest or start)
    tried: dict[float, Replications] = {}

    def is_undecided(samples: Sequence[Sample]) -> bool:
        values = [sample.values[budget.metric] for sample in samples]
        return budget.judge(values) == "undecided" and not any(map(math.isnan, values))

    def judge(load: float) -> Verdict:
        design = scenario.replace({over: round(load) if whole else load})

        def report(what: str, share: float) -> None:
            if progress:
                progress(f"{over} = {load:.4g}, {what}", share)

        (found,) = replicate([design], sampling, wants_more=is_undecided, store=store, progress=report)
        values = found.values(budget.metric)
        if any(map(math.isnan, values)):
            raise UsageError(
                f"capacity: at {over} = {load:.4g} there is a run with nothing to measure {budget.metric} by; make the "
                "scenario's duration longer, or start from a higher load"
            )
        tried[load] = found
        return budget.judge(values)

    bracket = search(judge, start, tolerance=tolerance, whole=whole, lowest=lowest, highest=highest)
    return Capacity(scenario, budget, over, bracket, tried)


@dataclass
class Bracket:
    """The loads that were tried so far, each with its verdict on the budget."""

    verdicts: dict[float, Verdict] = field(default_factory=dict)

    @property
    def breaks(self) -> float | None:
        """The lowest load that breaks the budget."""
        return min((load for load, verdict in self.verdicts.items() if verdict == "breaks"), default=None)

    @property
    def keeps(self) -> float | None:
        """The highest load that keeps it, below any that breaks it."""
        limit = math.inf if self.breaks is None else self.breaks
        return max(
            (load for load, verdict in self.verdicts.items() if verdict == "keeps" and load < limit), default=None
        )

    @property
    def undecided(self) -> list[float]:
        """Ascending, between the two."""
        low, high = self.keeps or 0.0, math.inf if self.breaks is None else self.breaks
        return sorted(load for load, verdict in self.verdicts.items() if verdict == "undecided" and low < load < high)

    @property
    def is_monotone(self) -> bool:
        """Whether no load keeps the budget above one that breaks it."""
        return self.breaks is None or not any(
            verdict == "keeps" and load > self.breaks for load, verdict in self.verdicts.items()
        )

    def next(self, tolerance: float, whole: bool) -> float | None:
        """The load to ask about next; None once both sides are known well enough."""
        keeps, breaks = self.keeps, self.breaks
        if keeps is None or breaks is None:
            return None
        # An undecided load stays undecided: the search goes on between it and each of the two sides.
        edges = [keeps, *self.undecided, breaks]
        for low, high in {(edges[0], edges[1]), (edges[-2], edges[-1])}:
            middle = math.sqrt(low * high)
            if whole:
                middle = float(round(middle))
            if high > low * (1 + tolerance) and low < middle < high:
                return middle
        return None


def search(
    judge: Callable[[float], Verdict],
    start: float,
    *,
    tolerance: float,
    whole: bool = False,
    lowest: float | None = None,
    highest: float | None = None,
) -> Bracket:
    """Ask `judge` about loads until the bracket is no wider than `tolerance` (a share), except for what is undecided
    in it; `whole` if a load is a whole number.
    """
    lowest = start / WIDEST if lowest is None else lowest
    highest = start * WIDEST if highest is None else highest
    bracket = Bracket()

    def ask(load: float) -> None:
        bracket.verdicts[load] = judge(load)

    ask(start)
    load = start
    while bracket.breaks is None and load < highest:
        load = min(load * 2, highest)
        ask(load)
    load = start
    while bracket.keeps is None and load > lowest:
        load = max(load / 2, lowest)
        if whole:
            load = float(max(math.floor(load), 1))
        if load in bracket.verdicts:
            break
        ask(load)
    while (middle := bracket.next(tolerance, whole)) is not None:
        ask(middle)
    return bracket


@dataclass(frozen=True)
class Bottleneck:
    """The busiest tier at a load: `utilisation` is the share of its workers' time, 0 to 1, of its busiest node.
    `tiers`: the same of each.
    """

    tier: str
    utilisation: float
    load: float
    tiers: dict[str, float]

    @property
    def is_busy(self) -> bool:
        """Whether queues before its nodes can explain what broke the budget."""
        return self.utilisation >= _BUSY

    def to_json_dict(self) -> dict[str, Any]:
        return {"tier": self.tier, "utilisation": self.utilisation, "load": self.load}

    def __str__(self) -> str:
        return f"{self.tier} ({self.utilisation:.0%} busy)"


class Capacity:
    """The highest load that keeps a budget lies between `keeps`, at which its interval says that it is kept, and
    `breaks`, at which it says that it is broken. Either is None if no such load was found.

    `bottleneck`: the tier that gave way; `frame`: each load that was tried; `plot()`.
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
        """The busiest tier at the lowest load that breaks the budget; None if no load did, or nothing is known of the
        nodes.
        """
        if self.breaks is None:
            return None
        busy = self._busy(self.breaks)
        known = {tier: share for tier, share in busy.items() if share is not None}
        tier = max(known, key=lambda name: known[name], default=None)
        return None if tier is None else Bottleneck(tier, known[tier], self.breaks, known)

    def _busy(self, load: float) -> dict[str, float | None]:
        """Of each tier how busy its busiest node was at this load, on average over replications."""
        one = self.tried[load]
        return {name.partition(".")[2]: one[name].value if name in one.metrics else None for name in UTILISATIONS}

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each load that was tried: the load, then as in `Replications.row`: every metric that
        `imsim.replicate` measures, and how busy the busiest node of each tier was (`utilisation.`, 0 to 1),
        with intervals; and the verdict (`budget`).
        """
        import pandas as pd

        return pd.DataFrame(
            [{self.over: load, **one.row(), "budget": self.bracket.verdicts[load]} for load, one in self.tried.items()]
        )

    def summary(self) -> pd.DataFrame:
        """The frame for reading: of the metrics only the budget's, and how busy each tier was."""
        import pandas as pd

        metric = self.budget.metric
        return pd.DataFrame(
            [
                {
                    self.over: load,
                    metric: str(one[metric]),
                    "replications": len(one),
                    "budget": self.bracket.verdicts[load],
                    **{tier: "-" if share is None else f"{share:.0%} busy" for tier, share in self._busy(load).items()},
                }
                for load, one in self.tried.items()
            ]
        )

    @property
    def notes(self) -> list[str]:
        """What to know before this is used, one sentence each."""
        notes = [
            f"judged by the mean over replications of {self.budget.metric}, with its 95 % interval at each load; "
            "more load is taken to be never better"
        ]
        arrivals = self.scenario.workload.arrivals.kind
        if arrivals != "poisson":
            holds = "workload.rate plays no part" if arrivals == "replay" else "what is found holds for this shape only"
            notes.append(
                f"arrivals are not steady here ({arrivals}): {holds}. For the highest load that the design bears for "
                "long, set workload.arrivals=poisson"
            )
        if self.keeps is None:
            notes.append(f"no load was found that keeps the budget: the lowest tried is {min(self.tried):.4g}")
        if self.breaks is None:
            notes.append(f"no load was found that breaks the budget: the highest tried is {max(self.tried):.4g}")
        if self.bottleneck is not None and not self.bottleneck.is_busy:
            notes.append(
                f"no tier is busy where the budget breaks (the busiest is {self.bottleneck}): not queues at nodes, but "
                "service times, links or policies break it"
            )
        if self.bracket.undecided:
            loads = ", ".join(f"{load:.4g}" for load in self.bracket.undecided)
            most = max(len(self.tried[load]) for load in self.bracket.undecided)
            notes.append(f"not told apart from the budget by {most} replications: {loads}; more replications would")
        notes += [
            f"at {self.over} = {load:.4g}, {note}"
            for load, one in self.tried.items()
            if self.bracket.verdicts[load] == "keeps"
            for note in one.unsteady_notes
        ]
        # Too low a number cannot break an upper bound by mistake.
        flaws = {
            one.flaw(self.budget.metric)
            for load, one in self.tried.items()
            if self.bracket.verdicts[load] != "breaks" or not self.budget.is_kept_by(0.0)
        }
        for found in sorted(found for found in flaws if found):
            notes += flaw_notes({self.budget.metric: found}, self.scenario.duration)
        if not self.bracket.is_monotone:
            notes.append("a higher load kept the budget where a lower one broke it: here more load is not always worse")
        return notes

    def to_json_dict(self) -> dict[str, Any]:
        """What `imsim capacity --json` prints."""
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
        """Over the load: the metric with the budget, and how busy each tier was; where the budget breaks is marked. In
        a new figure or in two `axes`.
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
            title=f"{title_of(self.scenario)}\n{self.verdict}",
        )

    def save_plot(self, path: str | PathLike[str]) -> Path:
        """The same as a file, whose suffix chooses the format (.png, .svg, .pdf). Raises: UsageError if it cannot be
        written.
        """
        from imsim.analysis import plots

        return plots.save_pair(self.plot, path)

    @property
    def verdict(self) -> str:
        """One line."""
        if self.keeps is None:
            return f"{self.budget} is not kept by any {self.over} that was tried"
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


def load_of(scenario: Scenario, over: str) -> tuple[float, bool]:
    """The load at a dotted path, and whether it is a whole number. Raises: UsageError if there is no number there."""
    if not isinstance(over, str):
        raise UsageError(f"over: expected a dotted path such as workload.rate, got {over!r}")
    value: object = scenario
    for part in over.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UsageError(f"capacity: {over}: expected the path of a number above 0, as in workload.rate")
    return float(value), isinstance(value, int)
