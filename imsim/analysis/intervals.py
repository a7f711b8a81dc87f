"""How well a number is known: an interval over replications, and how many of them a wanted precision takes.

A run's messages wait in the same queues, so they are not independent, and an interval from the messages of one run is
far too narrow. What is independent is one run of another seed: each replication gives one number (a mean, a p99, a
count), and the interval is Student's t over those numbers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95

#: With fewer replications than this, an interval leans on the statistic being normal from run to run.
ENOUGH = 20


@dataclass(frozen=True)
class Estimate:
    """The mean of a statistic over replications with its 95 % t-interval.

    `value` is None if the statistic is not defined in some replication, because it falls among what never came or there
    was nothing to measure: then no mean is. `undefined` counts these replications. `low` and `high` are None
    without `value`, and for one replication. They end where the statistic does: `low` at 0 for what is never negative,
    and `high` at 1 for a share.
    """

    value: float | None
    low: float | None
    high: float | None
    replications: int
    undefined: int = 0

    @property
    def half(self) -> float | None:
        """Half the interval's width, before anything was cut off."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return max(self.high - self.value, self.value - self.low)

    @property
    def relative(self) -> float | None:
        """Half the interval's width as a share of the value; 0 where both are 0."""
        if self.value is None or self.half is None:
            return None
        return 0.0 if self.half == 0 else self.half / abs(self.value) if self.value else math.inf

    def __str__(self) -> str:
        if self.value is None:
            return f"null in {self.undefined} of {self.replications}" if self.replications else "null"
        interval = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{interval}"


def estimate(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Estimate:
    """From one number of each replication; infinite or nan where the statistic is not defined there. `least`, `most`:
    what no such number can be below or above, and so no mean."""
    count = len(values)
    undefined = sum(not math.isfinite(value) for value in values)
    if undefined or not count:
        return Estimate(None, None, None, count, undefined)
    mean = statistics.fmean(values)
    if count == 1:
        return Estimate(mean, None, None, 1)
    half = t_quantile((1 + CONFIDENCE) / 2, count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean, max(mean - half, least), min(mean + half, most), count)


@lru_cache(maxsize=1024)
def t_quantile(probability: float, degrees: int) -> float:
    """Student's t."""
    from scipy.special import stdtrit  # not scipy.stats, which takes twice as long to import

    return float(stdtrit(degrees, probability))


def is_precise(found: Estimate, precision: float) -> bool:
    """Whether the estimate's error is at most `precision` of the true value (with the interval's confidence).

    Half the interval's width is held against gamma / (1 + gamma) of the *estimate*, so that the error relative to the
    *true* value, which is what was asked, is at most gamma. This is the stopping rule of the sequential procedure in
    A. M. Law and W. D. Kelton, Simulation Modeling and Analysis, 3rd ed. (2000), section 9.4.1.
    """
    relative = found.relative
    return relative is not None and relative <= precision / (1 + precision)


def next_count(count: int, most: int) -> int:
    """How many replications to have before the rule is asked again: a quarter more, and at least four.

    Law and Kelton ask after each one. Larger steps keep all cores busy, and as they do not depend on how many there
    are, neither does the result; a few more replications than needed are no loss.
    """
    return min(most, count + max(4, count // 4))
