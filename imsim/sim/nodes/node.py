"""What the nodes have in common: machines that are woken in time; and of servers, that they crash and come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from imsim.core.timers import Timer, Timers
from imsim.sim.clock import Clock, NodeClock
from imsim.sim.nodes.work import Work

_NEVER = float("inf")


class Node:
    """Holds a core machine. `now` is the time that it is given: when the node's worker is done with what came."""

    __slots__ = ("_timers", "clock", "now")

    def __init__(self, clock: NodeClock) -> None:
        self.clock = clock
        self.now = clock.now
        self._timers: Timers | None = None  # of its machine, if that is alive

    def new_timers(self) -> Timers:
        """For a machine that begins."""
        assert isinstance(self.clock, Clock)
        self._timers = NodeTimers(self, self.clock)
        return self._timers

    def on_time(self, callback: Callable[[Any, float], None], argument: Any) -> None:
        """A timer of the machine has come to its deadline."""
        self.now = now = self.clock.now
        callback(argument, now)

    def forget(self) -> None:
        """Let go of all that it holds: the run is over."""


class NodeTimers(Timers):
    """Those of a node's machine. Each stands in the clock, so the machine is never asked for its next deadline."""

    __slots__ = ("_clock", "_node")

    def __init__(self, node: Node, clock: Clock) -> None:
        self._node: Node | None = node
        self._clock = clock

    def at(self, deadline: float, callback: Callable[[Any, float], None], argument: Any = None) -> Timer:
        return self._clock.timer_at(deadline, self, callback, argument)

    def clear(self) -> None:
        self._node = None

    def handle(self, now: float) -> None:
        """What was due has been called."""

    def ring(self, timer: Timer) -> None:
        _, _, callback, argument, _ = timer
        if callback is not None and self._node is not None:
            timer.cancel()
            self._node.on_time(callback, argument)


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
        if self._timers is not None:
            self._timers.clear()
            self._timers = None
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
