"""Verdicts on budgets: held, breached or undecided, with bounded probabilities of a wrong one.

The unit of evidence is a replication, a block of load or a pair of blocks, never a message: the messages of a run wait
in the same queues. A budget is judged at several looks, while the evidence grows, and a check judges several budgets.
Both would multiply the false alarms of a test that looks once at one budget. So each look spends an equal part of the
error (Bonferroni), and the budgets of a check share it by the method of S. Holm, "A simple sequentially rejective
multiple test procedure" (1979): the probability that a check reports any breach although all budgets hold is at most
`LEVEL`. The same error, not shared over budgets, bounds the probability that a broken budget is reported as held.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["held", "breached", "undecided", "invalid"]

#: The probability of a wrong verdict that a check accepts.
LEVEL = 0.05

#: With fewer values, Student's t says nothing about a mean.
FEWEST = 3


@dataclass(frozen=True)
class Evidence:
    """How well values agree with a budget.

    against: the probability of values as far beyond the bound as these, if the mean were at the bound; small values
    prove a breach. for_it: the same for values on the other side; small values prove that the budget is held.
    """

    against: float
    for_it: float

    def at_looks(self, looks: int) -> Evidence:
        """Return the evidence of one of several looks."""
        return Evidence(min(1.0, self.against * looks), min(1.0, self.for_it * looks))


NONE = Evidence(1.0, 1.0)


def evidence(values: Sequence[float], bound: float, *, least: float = -math.inf, is_too_low: bool = False) -> Evidence:
    """Return the evidence that independent values give about `mean <= bound`, by Student's t.

    Args:
        values: one number for each replication, block or pair. An infinite one breaches every bound. With nan, which
            means that there was nothing to measure, there is no evidence.
        bound: the largest mean that holds.
        least: the smallest number that is possible. If it is the bound, one larger number proves a breach.
        is_too_low: the numbers are known to be too low, because the runs are too short for a percentile. They can
            breach the bound, but not hold it.
    """
    if any(map(math.isnan, values)) or not values:
        return NONE
    if any(value == math.inf for value in values) or (bound <= least and max(values) > bound):
        return Evidence(0.0, 1.0)
    if len(values) < FEWEST:
        return NONE
    distance = statistics.fmean(values) - bound
    spread = statistics.stdev(values)
    if spread <= 1e-12 * max(map(abs, values)):  # all equal, except for rounding
        found = Evidence(0.0, 1.0) if distance > 0 else Evidence(1.0, 0.0)
    else:
        from scipy.special import stdtr

        below = float(stdtr(len(values) - 1, distance * math.sqrt(len(values)) / spread))
        found = Evidence(1.0 - below, below)
    return Evidence(found.against, 1.0) if is_too_low else found


def decide(found: Sequence[Evidence], level: float = LEVEL) -> list[Verdict]:
    """Return the verdict on each budget of a check. The evidence of budgets that have none yet is `NONE`."""
    breached = set()
    for rank, number in enumerate(sorted(range(len(found)), key=lambda one: found[one].against)):
        if found[number].against * (len(found) - rank) > level:
            break
        breached.add(number)
    return [
        "breached" if number in breached else "held" if one.for_it <= level else "undecided"
        for number, one in enumerate(found)
    ]


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a whole check: a breach counts more than a doubt, and a doubt more than a held budget."""
    order: tuple[Verdict, ...] = ("breached", "invalid", "undecided", "held")
    return min(verdicts, key=order.index, default="held")
