"""The search for the highest load that keeps a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

from imsim.analysis.budgets import Budget, Verdict
from imsim.analysis.capacity import Capacity, load_of, search
from imsim.analysis.replications import Replications, Sample
from imsim.core.exceptions import UsageError
from imsim.experiments.replicate import Asked, Progress, Store, replicate
from imsim.scenario import Scenario

#: Far from the budget a few replications tell; near to it they are more and more. Fewer than these tell nothing.
FIRST = 5
MOST = 40


def capacity(
    scenario: Scenario,
    budget: Budget,
    over: str,
    asked: Asked,
    *,
    tolerance: float,
    lowest: float | None = None,
    highest: float | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Capacity:
    """See `imsim.capacity`. `asked` measures the budget's metric."""
    start, whole = load_of(scenario, over)
    if not 0 < tolerance <= 1:
        raise UsageError(f"tolerance: expected a share above 0 and up to 1, as in 0.05, got {tolerance!r}")
    for name, value in (("low", lowest), ("high", highest)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name}: expected a number above 0, got {value!r}")
    start = min(max(start, lowest or start), highest or start)
    tried: dict[float, Replications] = {}

    def is_undecided(samples: Sequence[Sample]) -> bool:
        values = [sample.values[budget.metric] for sample in samples]
        return budget.judge(values) == "undecided" and not any(map(math.isnan, values))

    def judge(load: float) -> Verdict:
        design = scenario.with_({over: round(load) if whole else load})

        def told(what: str, share: float) -> None:
            if progress:
                progress(f"{over} = {load:.4g}, {what}", share)

        (found,) = replicate([design], asked, wants_more=is_undecided, store=store, progress=told)
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
