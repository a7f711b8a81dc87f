"""Rate limits: how often a user may do something, and how much at once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

_BUCKETS = 10_000  # buckets in use that are kept before the idle ones are dropped

#: Conversations that one sync may speak of, and so that a device may have.
CURSORS = 10_000


class Bucket:
    """`rate` tokens a second flow in, up to `burst`, which is also what there is to begin with."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take one token and return 0; where there is none, the seconds until there will be one."""
        self._fill(now)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return max((1.0 - self._tokens) / self._rate, 0.001)  # not this very moment, which rounding might make of it

    def is_full(self, now: float) -> bool:
        """Whether it has forgotten everything, so that it need not be kept."""
        self._fill(now)
        return self._tokens == self._burst

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
            self._at = now


_Key = TypeVar("_Key", bound=Hashable)


class Buckets(Generic[_Key]):
    """A bucket for each of many, all alike. `rate` 0: there is always something in it."""

    __slots__ = ("_buckets", "_burst", "_rate", "_sweep_at")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[_Key, Bucket] = {}
        self._sweep_at = _BUCKETS  # twice what the last sweep has left, so that a new one costs little on average

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, whose: _Key, now: float) -> float:
        """As `Bucket.take`."""
        if not self._rate:
            return 0.0
        bucket = self._buckets.get(whose)
        if bucket is None:
            if len(self._buckets) >= self._sweep_at:
                self._buckets = {key: one for key, one in self._buckets.items() if not one.is_full(now)}
                self._sweep_at = max(_BUCKETS, 2 * len(self._buckets))
            bucket = self._buckets[whose] = Bucket(self._rate, self._burst, now)
        return bucket.take(now)
