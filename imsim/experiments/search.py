"""The search for the highest load that keeps a budget, whether the loads are simulated or live.

The search doubles or halves the load until one load keeps the budget and another breaks it, and bisects between them.
It assumes that more load is never better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from imsim.analysis.budgets import Verdict
from imsim.core.exceptions import UsageError
from imsim.scenario import Scenario

#: The search gives up at this many times the first load, and at this part of it.
WIDEST = 64.0

#: The outcome of a load. It is "spoilt" if the load generator could not play it, so there is nothing to judge.
Outcome = Verdict | Literal["spoilt"]


@dataclass
class Bracket:
    """The loads that were tried so far, each with its outcome: the verdict on the budget, or "spoilt"."""

    verdicts: dict[float, Outcome] = field(default_factory=dict)

    @property
    def breaks(self) -> float | None:
        """The lowest load that breaks the budget."""
        return min((load for load, verdict in self.verdicts.items() if verdict == "breaks"), default=None)

    @property
    def keeps(self) -> float | None:
        """The highest load that keeps the budget, below every load that breaks it."""
        limit = math.inf if self.breaks is None else self.breaks
        return max(
            (load for load, verdict in self.verdicts.items() if verdict == "keeps" and load < limit), default=None
        )

    @property
    def spoilt(self) -> float | None:
        """The lowest load above `keeps` whose runs were spoilt; None if some load breaks the budget."""
        if self.breaks is not None:
            return None
        return min(
            (load for load, verdict in self.verdicts.items() if verdict == "spoilt" and load > (self.keeps or 0.0)),
            default=None,
        )

    @property
    def upper(self) -> float | None:
        """The load at which the search for higher loads ends: `breaks`, or `spoilt`."""
        return self.spoilt if self.breaks is None else self.breaks

    @property
    def undecided(self) -> list[float]:
        """The loads without a verdict between `keeps` and `upper`, ascending."""
        low, high = self.keeps or 0.0, math.inf if self.upper is None else self.upper
        return sorted(
            load for load, verdict in self.verdicts.items() if verdict in ("undecided", "spoilt") and low < load < high
        )

    @property
    def is_monotone(self) -> bool:
        """Whether every load that keeps the budget is below all that break it."""
        return self.breaks is None or not any(
            verdict == "keeps" and load > self.breaks for load, verdict in self.verdicts.items()
        )

    def next(self, tolerance: float, whole: bool) -> float | None:
        """Return the load to try next; None if the bracket is narrow enough, or one side is not known."""
        keeps, upper = self.keeps, self.upper
        if keeps is None or upper is None:
            return None
        # An undecided load stays undecided, so the search goes on between it and each of the two sides.
        edges = [keeps, *self.undecided, upper]
        for low, high in {(edges[0], edges[1]), (edges[-2], edges[-1])}:
            middle = math.sqrt(low * high)
            if whole:
                middle = float(round(middle))
            if high > low * (1 + tolerance) and low < middle < high:
                return middle
        return None


def search(
    judge: Callable[[float], Outcome],
    start: float,
    *,
    tolerance: float,
    whole: bool = False,
    lowest: float | None = None,
    highest: float | None = None,
    is_too_short: Callable[[float], bool] = lambda load: False,
    bracket: Bracket | None = None,
) -> Bracket:
    """Try loads until the width of the bracket, without the undecided loads in it, is at most `tolerance` (a share).

    judge: returns the outcome of a load. If it raises, `bracket` has the outcomes so far. Loads that `bracket` has at
        the start are not judged again.
    whole: loads are whole numbers.
    is_too_short: returns whether the runs at a load that was tried are too short to keep the budget. A lower load has
        still fewer messages, so the search for one ends there.
    """
    lowest = start / WIDEST if lowest is None else lowest
    highest = start * WIDEST if highest is None else highest
    bracket = Bracket() if bracket is None else bracket

    def attempt(load: float) -> None:
        if load not in bracket.verdicts:
            bracket.verdicts[load] = judge(load)

    attempt(start)
    load = start
    while bracket.upper is None and load < highest:
        load = min(load * 2, highest)
        attempt(load)
    load = start
    while (
        bracket.keeps is None and load > lowest and not (bracket.verdicts[load] == "undecided" and is_too_short(load))
    ):
        half = max(load / 2, lowest)
        if whole:
            half = float(max(math.floor(half), 1))
        if half == load:
            break
        load = half
        attempt(load)
    while (middle := bracket.next(tolerance, whole)) is not None:
        attempt(middle)
    return bracket


def start_of(
    scenario: Scenario, over: str, tolerance: float, lowest: float | None, highest: float | None
) -> tuple[float, bool]:
    """Return the first load to try, and whether loads are whole numbers. Raises: UsageError if a value is wrong."""
    start, whole = load_of(scenario, over)
    if not isinstance(tolerance, int | float) or not 0 < tolerance <= 1:
        raise UsageError(f"tolerance: expected a share above 0 and up to 1, as in 0.05, got {tolerance!r}")
    for name, value in (("low", lowest), ("high", highest)):
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise UsageError(f"{name}: expected a number above 0, got {value!r}")
    if lowest is not None and highest is not None and lowest > highest:
        raise UsageError(f"low: must not exceed high, got {lowest:g} and {highest:g}")
    return min(max(start, lowest or start), highest or math.inf), whole


def load_of(scenario: Scenario, over: str) -> tuple[float, bool]:
    """Return the load at a dotted path, and whether it is a whole number.

    Raises: UsageError if it is not a number above 0.
    """
    if not isinstance(over, str):
        raise UsageError(f"over: expected a dotted path such as workload.rate, got {over!r}")
    value: object = scenario
    for part in over.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UsageError(f"capacity: {over}: expected the path of a number above 0, as in workload.rate")
    return float(value), isinstance(value, int)
