"""What gateway, router and client nodes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imsim.core.timers import Timers

if TYPE_CHECKING:
    from imsim.sim.world import World

_NEVER = float("inf")


class Machines:
    """The time their worker is done, and one armed timer."""

    __slots__ = ("_armed", "_timers", "clock", "now", "world")

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = world.clock
        self.now = world.clock.now
        self._armed = _NEVER
        self._timers: tuple[Timers, ...] = ()  # of the machines that are alive

    def handle_timer(self, now: float) -> None:
        raise NotImplementedError

    def forget(self) -> None:
        """Let go of all that it holds: the world is at its end."""
        raise NotImplementedError

    def arm(self) -> None:
        """After each call of a machine: be woken at its next deadline, if that is earlier than planned."""
        for timers in self._timers:
            if timers.soonest < self._armed:
                deadline = timers.next_deadline()
                if deadline is not None and deadline < self._armed:
                    clock = self.clock
                    self._armed = deadline if deadline > clock.now else clock.now
                    clock.alarm_at(self._armed, self._wake, self._armed)

    def _wake(self, armed: float) -> None:
        if armed != self._armed:
            return  # an earlier one took its place
        self._armed = _NEVER
        self.now = self.clock.now
        self.handle_timer(self.now)
        self.arm()
