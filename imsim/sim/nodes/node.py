"""What the nodes have in common: machines that are woken in time; and of servers, that they crash and come back."""

from __future__ import annotations

from typing import ClassVar

from imsim.core.timers import Timers
from imsim.sim.clock import NodeClock
from imsim.sim.nodes.work import Work

_NEVER = float("inf")


class Node:
    """Holds a core machine. `now` is the time that it is given: when the node's worker is done with what came."""

    __slots__ = ("_armed", "_timers", "clock", "now")

    def __init__(self, clock: NodeClock) -> None:
        self.clock = clock
        self.now = clock.now
        self._armed = _NEVER
        self._timers: Timers | None = None  # of its machine, if that is alive

    def handle_timer(self, now: float) -> None:
        """Have the machine do what is due."""

    def forget(self) -> None:
        """Let go of all that it holds: the run is over."""

    def arm(self) -> None:
        """After each call of the machine: be woken at its next deadline, if that is earlier than planned."""
        timers = self._timers
        if timers is not None and timers.soonest < self._armed:
            self._arm_for(timers)

    def _arm_for(self, timers: Timers) -> None:
        deadline = timers.next_deadline()
        if deadline is not None and deadline < self._armed:
            clock = self.clock
            self._armed = deadline if deadline > clock.now else clock.now
            clock.alarm_at(self._armed, self._wake, self._armed)

    def _wake(self, armed: float) -> None:
        if armed != self._armed:
            return  # an earlier one has replaced it
        self._armed = _NEVER
        self.now = self.clock.now
        self.handle_timer(self.now)
        self.arm()


class ServerNode(Node):
    """Node number `index` of its tier, and the station that does its work."""

    __slots__ = ("died", "index", "is_up", "lives", "name", "work")

    tier: ClassVar[str]

    def __init__(self, index: int, clock: NodeClock, work: Work) -> None:
        super().__init__(clock)
        self.index = index
        self.name = f"{self.tier}{index}"
        self.work = work
        self.is_up = True
        self.lives = 0  # how often it has crashed
        self.died = -_NEVER  # when it crashed last

    @property
    def key(self) -> tuple[str, int]:
        return self.tier, self.index

    def crash(self) -> None:
        """Everything in memory is gone."""
        self.is_up = False
        self.lives += 1
        self.died = self.clock.now
        self.work.forget(self.clock.now)

    def start(self) -> None:
        """Run, for the first time or after a crash."""
        self.is_up = True

    def restart(self) -> None:
        """Run after a crash, and take up again what was going on."""
        self.start()

    def peer_lost(self, peer: ServerNode) -> None:
        """The connection to this node broke, and this end has noticed."""

    def peer_back(self, peer: ServerNode) -> None:
        """The two are connected again."""
