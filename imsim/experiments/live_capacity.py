"""The highest load at which a real server keeps a budget, as a bracket of two loads.

`search` chooses the loads, as for a simulated design. At each load the server is loaded under different seeds, one run
after the other, and reset before each run. A run is one piece of evidence: how many times the bound its metric is. The
runs at a load decide as soon as their mean is clear of the bound; a load that stays undecided lies inside the bracket.

Runs that follow each other share what disturbs the computer at that time. So when the search has found its two loads,
each gets another run. If that changes the verdict, the search goes on.

Disturbances make latencies longer, not shorter. So a run that the load generator spoilt counts if it keeps a budget of
latencies; otherwise it is repeated and not judged. If the generator spoils all runs at a load, the search goes on below
it, and the result says that the generator gave way.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from imsim.analysis.budgets import Budget
from imsim.analysis.kinds import kind_of
from imsim.analysis.metrics import Measures
from imsim.core.exceptions import RunError, UsageError
from imsim.experiments.capacity import Capacity
from imsim.experiments.live_runs import CLEAR, FEWEST_RUNS, MOST_RUNS, LiveRun, RunStore, judge_runs
from imsim.experiments.replicate import Progress, Replications, Sample, flaw_notes, replication_seed
from imsim.experiments.search import Bracket, Outcome, load_of, search, start_of
from imsim.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Runs at a load that the generator may spoil before the search gives the load up.
MOST_SPOILT = 3

#: The search gives up at this many times the first load; a simulated one gives up earlier. A server is fast, and the
#: load generator gives way at last.
_WIDEST = 4096.0

#: Seconds that a search may take.
MAX_TIME = 900.0


class _OutOfTimeError(Exception):
    """The next run would end after the search's time."""


class _Loads:
    """The loads of a search: each is run until its runs decide.

    fewest: the smallest number of runs at a load that is confirmed. most: the largest number at any load.
    """

    def __init__(
        self,
        scenario: Scenario,
        budget: Budget,
        over: str,
        whole: bool,
        measure: Callable[[Scenario], LiveRun],
        reset: Callable[[], str | None],
        measures: Measures,
        store: RunStore,
        fewest: int,
        most: int,
        max_time: float,
        progress: Progress | None,
        line: Callable[[str], None],
    ) -> None:
        self.runs: list[LiveRun] = []
        self.notes: list[str] = []
        self.kept = 0  # runs of an earlier search
        self._scenario, self._budget, self._over, self._whole = scenario, budget, over, whole
        self._measure, self._reset, self._measures, self._store = measure, reset, measures, store
        self._fewest, self._most, self._max_time = fewest, most, max_time
        self._progress, self._line = progress, line
        self._began = time.monotonic()

    def count(self, load: float) -> int:
        """Return how many runs the load has had."""
        return sum(run.load == load for run in self.runs)

    def judge(self, load: float) -> Outcome:
        """Run the load until its runs decide."""
        return self._judge(load, 1)

    def confirm(self, load: float) -> Outcome:
        """Run the load once more, at another time, and then until its runs decide."""
        return self._judge(load, self._fewest)

    def _judge(self, load: float, fewest: int) -> Outcome:
        while True:
            run = self._run(load, self.count(load))
            if run.spoilt and kind_of(self._budget.metric).unit == "ms":
                value = run.values[self._budget.metric]
                run = replace(run, spoilt="" if self._budget.is_kept_by(value) else run.spoilt)
            self.runs.append(run)
            outcome = self._outcome(load, fewest)
            self._line(self._text(run, outcome))
            if outcome is not None:
                return outcome

    def _outcome(self, load: float, fewest: int) -> Outcome | None:
        runs = [run for run in self.runs if run.load == load]
        judged = [run.values[self._budget.metric] for run in runs if not run.spoilt]
        found = judge_runs(self._budget, judged, self._most) if len(judged) >= max(fewest, 1) else None
        return "spoilt" if found is None and len(runs) - len(judged) >= MOST_SPOILT else found

    def _run(self, load: float, number: int) -> LiveRun:
        value = round(load) if self._whole else load
        seed = replication_seed(self._scenario.seed, number)
        design = self._scenario.replace({self._over: value, "seed": seed})
        kept = self._store.get(design)
        if kept is not None and all(name in kept.values for name in self._measures.all):
            self.kept += 1
            return kept
        passed = time.monotonic() - self._began
        longest = max((run.seconds for run in self.runs), default=self._scenario.duration)
        if passed + longest > self._max_time:
            raise _OutOfTimeError
        if self._progress:
            self._progress(f"{self._over} = {load:.4g}, run {number + 1}", passed / self._max_time)
        note = self._reset()
        if note and note not in self.notes:
            self.notes.append(note)
        began = time.monotonic()
        try:
            run = self._measure(design)
            found = replace(run, load=load, seed=seed, seconds=round(time.monotonic() - began, 3))
        except RunError as error:
            if not self.runs:
                raise  # a wrong key or url, more likely than a server that gives way under the first load
            self._reset()  # raises if the server has gone
            values = dict.fromkeys(self._measures.all, math.inf)
            found = LiveRun(values, load, seed, failed=str(error), seconds=round(time.monotonic() - began, 3))
        self._store.put(design, found)
        return found

    def _text(self, run: LiveRun, outcome: Outcome | None) -> str:
        metric = self._budget.metric
        value = run.values[metric]
        shown = "null" if not math.isfinite(value) else f"{value:.4g}{kind_of(metric).suffix}"
        detail = f"failed: {run.failed}" if run.failed else f"spoilt: {run.spoilt}" if run.spoilt else ""
        text = f"{self._over} = {run.load:.4g}: {metric} = {shown}"
        return text + (f" ({detail})" if detail else "") + (f" -> {outcome}" if outcome else "")


def live_capacity(
    scenario: Scenario,
    budget: Budget,
    over: str,
    measure: Callable[[Scenario], LiveRun],
    reset: Callable[[], str | None],
    measures: Measures,
    *,
    url: str,
    tolerance: float,
    lowest: float | None = None,
    highest: float | None = None,
    fewest: int = FEWEST_RUNS,
    most: int = MOST_RUNS,
    max_time: float = MAX_TIME,
    store: RunStore | None = None,
    progress: Progress | None = None,
    line: Callable[[str], None] = lambda text: None,
) -> LiveCapacity:
    """See `imsim.capacity` with a url.

    Args:
        scenario: the scenario.
        budget: the budget.
        over: the dotted path of the load.
        measure: plays a scenario against the server and returns the data of the run. If it raises RunError, the run
            counts as one that breaks the budget, unless it is the first.
        reset: resets the server before each run, and returns a note or None. If it raises RunError, the search ends.
        measures: the metrics to measure, with that of the budget.
        url: the server's address.
        tolerance: how far apart the two loads may be, as a share.
        lowest: the lowest load to try.
        highest: the highest load to try.
        fewest: the smallest number of runs at the two loads of the result.
        most: the largest number of runs at a load.
        max_time: seconds after which no further run starts.
        store: keeps finished runs.
        progress: receives the current run, and the share of the time that has passed.
        line: receives a line about each finished run.

    Raises:
        UsageError: a value is wrong, or a run has nothing to measure the budget by.
        RunError: the first run failed, or the server does not come back.
    """
    start, whole = start_of(scenario, over, tolerance, lowest, highest)
    store = RunStore(None, measures, {}) if store is None else store
    loads = _Loads(
        scenario, budget, over, whole, measure, reset, measures, store, fewest, most, max_time, progress, line
    )
    highest = start * _WIDEST if highest is None else highest
    bracket = Bracket()
    confirmed: set[float] = set()
    is_complete = True

    def next_end() -> float | None:
        ends = [load for load in (bracket.keeps, bracket.upper) if load is not None and load not in confirmed]
        return next((load for load in ends if loads.count(load) < most), None)

    try:
        while True:
            search(
                loads.judge, start, tolerance=tolerance, whole=whole, lowest=lowest, highest=highest, bracket=bracket
            )
            if fewest == 1 or (end := next_end()) is None:
                break
            confirmed.add(end)
            bracket.verdicts[end] = "undecided"  # if the time ends before the new runs decide
            bracket.verdicts[end] = loads.confirm(end)
    except _OutOfTimeError:
        is_complete = False
        if not loads.runs:
            raise UsageError(
                f"max_time: must be longer than a run, which takes {scenario.duration:g} s or more (got {max_time:g} s)"
            ) from None
        loads.notes.append(f"the search ended after {max_time:g} s, before the loads were {tolerance:.0%} apart")
    except KeyboardInterrupt:
        if loads.runs:
            line(f"interrupted; so far: {LiveCapacity(scenario, budget, over, bracket, loads.runs, url).verdict}")
        raise
    if loads.kept:
        kept = f"{loads.kept} of {len(loads.runs)} runs are of an earlier search"
        loads.notes.append(f"{kept}; with another folder (out) they are run again")
    return LiveCapacity(scenario, budget, over, bracket, loads.runs, url, loads.notes, is_complete)


class LiveCapacity(Capacity):
    """The result of `imsim.capacity` with a url: the highest load at which a server keeps a budget.

    It lies between `keeps` and `breaks`. `tried` has the runs at each load that were judged, as `Replications`.

    Attributes:
        url: the server's address.
        live_runs: every run of the search, in order, with the spoilt ones.
        is_complete: whether the search came to its end; if not, its time was over.
    """

    def __init__(
        self,
        scenario: Scenario,
        budget: Budget,
        over: str,
        bracket: Bracket,
        runs: Sequence[LiveRun],
        url: str,
        notes: Sequence[str] = (),
        is_complete: bool = True,
    ) -> None:
        self.url = url
        self.live_runs = tuple(runs)
        self.is_complete = is_complete
        self._extra_notes = list(notes)
        tried = {}
        for load in dict.fromkeys(run.load for run in runs):
            bracket.verdicts.setdefault(load, "undecided")  # if the time ended within the load
            at_load = [run for run in runs if run.load == load]
            design = scenario.replace({over: round(load) if load_of(scenario, over)[1] else load})
            samples = [
                Sample(number, run.seed, run.digest, run.values, run.behind, run.steadiness)
                for number, run in enumerate([run for run in at_load if not run.spoilt] or at_load)
            ]
            tried[load] = Replications(design, samples)
        super().__init__(scenario, budget, over, bracket, tried)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), "gave_way", "is_complete", "live_runs", "runs", "url"]

    @property
    def gave_way(self) -> Literal["server", "generator"] | None:
        """Which gave way at the upper end of the bracket: the "server" or the "generator". None if neither did.

        If it is the generator, the server keeps the budget at `keeps`, and perhaps at higher loads.
        """
        if self.breaks is not None:
            return "server"
        return None if self.bracket.spoilt is None else "generator"

    @property
    def bottleneck(self) -> None:
        """None: the tiers of a server under test are not known."""
        return None

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each run: the load, the seed, the metrics, whether the run is `valid`, and the generator's delays.

        `reason` says why a run is not valid, or why it failed. `generator.p99` is in ms; `generator.cpu` is the busiest
        worker's share of a core.
        """
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    self.over: run.load,
                    "seed": run.seed,
                    **{name: value if math.isfinite(value) else math.nan for name, value in run.values.items()},
                    "valid": not run.spoilt,
                    "reason": run.spoilt or run.failed,
                    **{f"generator.{name}": run.generator.get(name, math.nan) for name in ("p50", "p95", "p99", "cpu")},
                }
                for run in self.live_runs
            ]
        )

    def summary(self) -> pd.DataFrame:
        """Return a row for each load, as texts: the budget's metric in the runs, and the verdict."""
        import pandas as pd

        metric = self.budget.metric
        rows = []
        for load, one in self.tried.items():
            at_load = [run for run in self.live_runs if run.load == load]
            spoilt = sum(bool(run.spoilt) for run in at_load)
            values = sorted(one.values(metric))
            sent = statistics.fmean(one.values("messages")) / self.scenario.duration if "messages" in one.metrics else 0
            rows.append(
                {
                    self.over: load,
                    "messages/s": f"{sent:,.0f}" if math.isfinite(sent) and sent else "-",
                    metric: " .. ".join(dict.fromkeys(_shown(value) for value in (values[0], values[-1]))),
                    "runs": len(at_load) - spoilt,
                    "spoilt": spoilt,
                    "budget": self.bracket.verdicts[load],
                }
            )
        return pd.DataFrame(rows)

    @property
    def notes(self) -> list[str]:
        """Facts to know before the result is used, one sentence each."""
        notes = [
            f"a load is decided by the mean over its runs of the logarithm of {self.budget.metric} / bound, once it is "
            f"{CLEAR} standard errors from 0; more load is assumed to be never better",
            *self._extra_notes,
        ]
        if self.keeps is None:
            notes.append(f"no load is known to keep the budget: the lowest tried is {min(self.tried):.4g}")
        if self.breaks is None and self.gave_way is None:
            notes.append(f"no load is known to break the budget: the highest tried is {max(self.tried):.4g}")
        if self.gave_way == "generator":
            reason = next(run.spoilt for run in self.live_runs if run.spoilt and run.load == self.bracket.spoilt)
            notes.append(f"{self.over} = {self.bracket.spoilt:.4g}: {reason}")
            notes.append(
                "for a higher load, the generator needs more processes (--processes) on idle cores, or a computer of "
                "its own"
            )
        if self.bracket.undecided:
            loads = ", ".join(f"{load:.4g}" for load in self.bracket.undecided)
            notes.append(f"not decided: {loads}; more runs (max_replications) or longer ones may decide")
        if failed := next((run for run in self.live_runs if run.failed), None):
            notes.append(f"a run that fails breaks the budget: {self.over} = {failed.load:.4g}: {failed.failed}")
        if self.keeps is not None and (flaw := self.tried[self.keeps].flaw(self.budget.metric)):
            notes += flaw_notes({self.budget.metric: flaw}, self.scenario.duration)
        if not self.bracket.is_monotone:
            notes.append("a higher load keeps the budget and a lower one breaks it: the server or its computer changed")
        return notes

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.keeps is None:
            known = "known to be " if self.bracket.undecided or self.gave_way != "server" else ""
            text = f"{self.budget} is not {known}kept at any {self.over} that was tried"
        elif self.breaks is None:
            text = f"{self.budget} is kept up to {self.over} = {self.keeps:.4g} at least"
        else:
            text = f"{self.budget} is kept up to {self.over} = {self.keeps:.4g}, and broken from {self.breaks:.4g} on"
        if self.gave_way == "server":
            return f"{text}: the server gives way"
        if self.gave_way == "generator":
            return f"{text}; at {self.bracket.spoilt:.4g} the load generator or its computer gives way, not the server"
        return text

    def to_json_dict(self) -> dict[str, Any]:
        """Return what `imsim capacity --url ... --json` prints."""
        return {
            "scenario": self.scenario.name,
            "seed": self.scenario.seed,
            "url": self.url,
            "budget": str(self.budget),
            "over": self.over,
            "keeps": self.keeps,
            "breaks": self.breaks,
            "undecided": self.bracket.undecided,
            "gave_way": self.gave_way,
            "spoilt": self.bracket.spoilt,
            "complete": self.is_complete,
            "tried": [
                {
                    "load": load,
                    "verdict": self.bracket.verdicts[load],
                    "runs": [
                        {
                            "seed": run.seed,
                            "seconds": run.seconds,
                            "valid": not run.spoilt,
                            "reason": run.spoilt or run.failed or None,
                            "generator": run.generator,
                            "metrics": {
                                name: value if math.isfinite(value) else None for name, value in run.values.items()
                            },
                        }
                        for run in self.live_runs
                        if run.load == load
                    ],
                }
                for load in self.tried
            ],
            "notes": self.notes,
        }

    def plot(self, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
        """Draw the budget's metric of every run over the load, above the part that the load generator has in it.

        Args:
            axes: two axes; None makes a new figure.
        """
        from imsim.analysis import plots

        runs = self.runs
        runs["budget"] = [self.bracket.verdicts[run.load] for run in self.live_runs]
        return plots.live_capacity(
            runs,
            self.over,
            self.budget.metric,
            axes,
            budget=str(self.budget),
            bound=self.budget.bound,
            bracket=(self.keeps, self.bracket.upper),
            gave_way=self.gave_way,
            title=f"The capacity of {self.url}, scenario {self.scenario.name}\n{self.verdict}",
        )

    def __repr__(self) -> str:
        return f"<Capacity of {self.url}: {self.verdict}>"


def _shown(value: float) -> str:
    return f"{value:,.4g}" if math.isfinite(value) else "null"
