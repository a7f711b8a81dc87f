"""Rate limits: the permitted rate of an action, and its permitted burst."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

_BUCKETS = 10_000  # the number of buckets from which on the idle ones are removed

#: The maximum of conversations in one sync. So a device can have at most this many.
CURSORS = 10_000

#: The maximum of ranges of unread messages in a page, and so in one conversation that a first sync leaves out in part.
UNREAD_RANGES = 1_000


class Bucket:
    """A token bucket: it starts with `burst` tokens, gains `rate` tokens a second, and holds at most `burst`."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take one token and return 0. If there is no token, return the seconds until there is one."""
        self._fill(now)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return max((1.0 - self._tokens) / self._rate, 0.001)  # rounding could make it 0, which means success

    def is_full(self, now: float) -> bool:
        """Return whether the bucket is full. A full bucket can be deleted: a new one would be equal."""
        self._fill(now)
        return self._tokens == self._burst

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
            self._at = now


_Key = TypeVar("_Key", bound=Hashable)


class Buckets(Generic[_Key]):
    """A bucket for each key, all with the same rate and burst. With `rate` 0 there is no limit."""

    __slots__ = ("_buckets", "_burst", "_rate", "_sweep_at")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[_Key, Bucket] = {}
        self._sweep_at = _BUCKETS  # twice the count after the last sweep, so sweeps cost little on average

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, whose: _Key, now: float) -> float:
        """Take a token from the bucket of this key, like `Bucket.take`."""
        if not self._rate:
            return 0.0
        bucket = self._buckets.get(whose)
        if bucket is None:
            if len(self._buckets) >= self._sweep_at:
                self._buckets = {key: one for key, one in self._buckets.items() if not one.is_full(now)}
                self._sweep_at = max(_BUCKETS, 2 * len(self._buckets))
            bucket = self._buckets[whose] = Bucket(self._rate, self._burst, now)
        return bucket.take(now)
