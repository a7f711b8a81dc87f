"""The base classes of nodes: a node runs the timers of its machine, and a server can crash and restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from imsim.core.timers import Timer, Timers
from imsim.sim.clock import Clock, NodeClock
from imsim.sim.nodes.work import Work

_NEVER = float("inf")


class Node:
    """A node that holds a core machine.

    `now` is the time that the machine gets: when the node's worker is done with the frame that arrived.
    """

    __slots__ = ("_timers", "clock", "now")

    def __init__(self, clock: NodeClock) -> None:
        self.clock = clock
        self.now = clock.now
        self._timers: Timers | None = None  # the timers of its machine, or None after a crash

    def new_timers(self) -> Timers:
        """Return timers for a machine that starts."""
        assert isinstance(self.clock, Clock)
        self._timers = NodeTimers(self, self.clock)
        return self._timers

    def on_time(self, callback: Callable[[Any, float], None], argument: Any) -> None:
        """Call the callback of a timer at its deadline."""
        self.now = now = self.clock.now
        callback(argument, now)

    def forget(self) -> None:
        """Release all objects that the node holds, at the end of the run."""


class NodeTimers(Timers):
    """The timers of a node's machine. The clock holds each timer, so the node never needs the next deadline."""

    __slots__ = ("_clock", "_node")

    def __init__(self, node: Node, clock: Clock) -> None:
        self._node: Node | None = node
        self._clock = clock

    def at(self, deadline: float, callback: Callable[[Any, float], None], argument: Any = None) -> Timer:
        return self._clock.timer_at(deadline, self, callback, argument)

    def clear(self) -> None:
        self._node = None

    def handle(self, now: float) -> None:
        """Do nothing: the clock has called the callbacks that were due."""

    def ring(self, timer: Timer) -> None:
        _, _, callback, argument, _ = timer
        if callback is not None and self._node is not None:
            timer.cancel()
            self._node.on_time(callback, argument)


class ServerNode(Node):
    """A server: the node with number `index` of its tier, with the station (`work`) for its operations."""

    __slots__ = ("died", "index", "is_up", "lives", "name", "work")

    tier: ClassVar[str]

    def __init__(self, index: int, clock: NodeClock, work: Work) -> None:
        super().__init__(clock)
        self.index = index
        self.name = f"{self.tier}{index}"
        self.work = work
        self.is_up = True
        self.lives = 0  # the number of its crashes
        self.died = -_NEVER  # the time of its last crash

    @property
    def key(self) -> tuple[str, int]:
        return self.tier, self.index

    def crash(self) -> None:
        """Stop the node. Everything in its memory is lost."""
        self.is_up = False
        self.lives += 1
        self.died = self.clock.now
        if self._timers is not None:
            self._timers.clear()
            self._timers = None
        self.work.forget(self.clock.now)

    def start(self) -> None:
        """Start the node, for the first time or after a crash."""
        self.is_up = True

    def restart(self) -> None:
        """Start the node after a crash, and resume its unfinished operations."""
        self.start()

    def peer_lost(self, peer: ServerNode) -> None:
        """Handle the detection of a broken connection to this peer."""

    def peer_back(self, peer: ServerNode) -> None:
        """Handle a restored connection to this peer."""
