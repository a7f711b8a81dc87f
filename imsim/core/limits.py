"""How often somebody may do something: a token bucket that is told the time."""

from __future__ import annotations

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
        return (1.0 - self._tokens) / self._rate

    def is_full(self, now: float) -> bool:
        """Whether it has forgotten everything, so that it need not be kept."""
        self._fill(now)
        return self._tokens == self._burst

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
            self._at = now
