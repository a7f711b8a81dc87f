"""The clock of one node, which jumps and drifts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imsim.sim.clock import Clock


class OwnClock:
    """A clock that follows the world's clock and never goes back. Its unit is the second."""

    __slots__ = ("_at", "_base", "_latest", "_rate", "_world")

    def __init__(self, world: Clock) -> None:
        self._world = world
        self._base = self._at = self._latest = world.now
        self._rate = 1.0

    @property
    def now(self) -> float:
        now = self._base + (self._world.now - self._at) * self._rate
        if now > self._latest:
            self._latest = now
        return self._latest

    def reach(self, at: float) -> None:
        """Advance the clock to `at`, in case rounding left it slightly earlier."""
        if at > self.now:
            self._latest = at

    def jump(self, ahead: float, drift: float) -> None:
        """Jump forward by `ahead` seconds, and gain `drift` seconds in each second from now on."""
        self._base, self._at, self._rate = self.now + ahead, self._world.now, 1.0 + drift

    def call_at(self, at: float, function: Callable[[Any], object], argument: Any) -> None:
        if at <= self._latest:
            self._world.call_at(self._world.now, function, argument)
        else:
            self.alarm_at(at, function, argument)

    def alarm_at(self, at: float, function: Callable[[Any], object], argument: Any) -> None:
        there = self._at + (at - self._base) / self._rate
        self._world.call_at(max(there, self._world.now), function, argument)
