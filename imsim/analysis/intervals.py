"""Intervals over replications, and the number of replications that a precision needs.

The messages of a run wait in the same queues. They are not independent, so an interval from the messages of one run is
far too narrow. Runs under different seeds are independent: each replication gives one number (a mean, a p99, a count),
and the interval is Student's t over these numbers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95

#: With fewer replications than this, an interval is right only if the statistic is about normally distributed.
ENOUGH = 20


@dataclass(frozen=True)
class Estimate:
    """The mean of a statistic over replications with its 95 % t-interval.

    `value` is None if the statistic is undefined in some replication, because it falls among messages that never
    arrived or there was nothing to measure. `undefined` counts these replications. `low` and `high` are None if `value`
    is, and for one replication. They stay within the statistic's range: `low` is at least 0 for a latency or a count,
    `high` at most 1 for a share.
    """

    value: float | None
    low: float | None
    high: float | None
    replications: int
    undefined: int = 0

    @property
    def half(self) -> float | None:
        """Half the width of the interval, before it was cut to the statistic's range."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return max(self.high - self.value, self.value - self.low)

    @property
    def relative(self) -> float | None:
        """Half the width of the interval as a share of the value; 0 if both are 0."""
        if self.value is None or self.half is None:
            return None
        return 0.0 if self.half == 0 else self.half / abs(self.value) if self.value else math.inf

    def __str__(self) -> str:
        if self.value is None:
            return f"null in {self.undefined} of {self.replications}" if self.replications else "null"
        interval = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{interval}"


def estimate(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Estimate:
    """Return the mean of one number per replication, with its interval.

    A number is infinite or nan if the statistic is undefined in that replication. No number can be below `least` or
    above `most`, so the interval is cut there.
    """
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
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit  # not scipy.stats, which takes twice as long to import

    return float(stdtrit(degrees, probability))


def is_precise(found: Estimate, precision: float) -> bool:
    """Return whether the error is at most `precision` of the true value, with the interval's confidence.

    Half the interval's width must be at most gamma / (1 + gamma) of the *estimate*. Then the error relative to the
    *true* value is at most gamma. This is the stopping rule of the sequential procedure in A. M. Law and W. D. Kelton,
    Simulation Modeling and Analysis, 3rd ed. (2000), section 9.4.1.
    """
    relative = found.relative
    return relative is not None and relative <= precision / (1 + precision)


def next_count(count: int, most: int) -> int:
    """Return the number of replications before the rule is applied again: a quarter more, and at least four more.

    Law and Kelton apply the rule after each replication. Larger steps keep all cores busy. They do not depend on the
    number of cores, so the result does not either.
    """
    return min(most, count + max(4, count // 4))
