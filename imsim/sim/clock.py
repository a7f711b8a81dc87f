"""Simulated time: SimPy's Environment, on whose queue plain calls can stand beside its own events.

A SimPy process costs a generator, an event and several calls for each wait. Nearly everything here is "call this then",
so that is what the queue holds: (time, priority, number, function, argument). SimPy's own entries, which have four
parts, are left to SimPy: processes, resources and `run(until=event)` work as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import Any, Protocol

import simpy
from simpy.events import NORMAL, URGENT, Event

from imsim.core.timers import Timer

_SLOT = 0.25  # seconds
_BEFORE_ALL, _AFTER_ALL = -1.0, float("inf")  # priorities; those of SimPy are 0 and 1


class NodeClock(Protocol):
    """What a node needs of a clock, which may be one of its own."""

    @property
    def now(self) -> float: ...

    def call_at(self, at: float, function: Callable[[Any], object], argument: Any) -> None: ...


class Ring(Protocol):
    """Has a timer's callback called when its time has come."""

    def ring(self, timer: Timer) -> object: ...


class _End(Exception):
    """The end of a run has come."""


def _end(_: None) -> None:
    raise _End


class Clock(simpy.Environment):
    """Time in seconds. Starts at `initial_time`, which may be negative."""

    __slots__ = ("_timers", "now")  # `now` is read far more often than anything else: no property, as in SimPy

    now: float

    def __init__(self, initial_time: float = 0.0) -> None:
        super().__init__(initial_time)
        self._timers: dict[float, list[Timer]] = {}  # by the slot of time that they lie in

    @property
    def _now(self) -> float:  # what SimPy calls it
        return self.now

    @_now.setter
    def _now(self, now: float) -> None:
        self.now = now

    def call_at(self, at: float, function: Callable[[Any], object], argument: Any) -> None:
        """Call `function(argument)` at the time `at`, which must not have passed; calls for one time keep their
        order, also among SimPy's events."""
        queue: list[Any] = self._queue
        heappush(queue, (at, NORMAL, next(self._eid), function, argument))

    def delay(self, seconds: float) -> Callable[[float, Callable[[Any], object], Any], None]:
        """`call_at`, this much later than it is asked to; in one call, as most links have a constant latency."""
        queue: list[Any] = self._queue
        numbers = self._eid

        def call_at(at: float, function: Callable[[Any], object], argument: Any) -> None:
            heappush(queue, (at + seconds, NORMAL, next(numbers), function, argument))

        return call_at

    def timer_at(self, at: float, ring: Ring, callback: Any, argument: Any) -> Timer:
        """Have `ring.ring` called with the timer that this returns, unless it is cancelled by then; the ring is the
        timer's last part. For what is far off, and likely to be cancelled, such as a retry: until shortly before, it
        does not stand in the queue, which is the faster the shorter it is."""
        slot = at // _SLOT
        timer = Timer((at, next(self._eid), callback, argument, ring))
        timers = self._timers.get(slot)
        if timers is not None:
            timers.append(timer)
        elif slot * _SLOT <= self.now:
            heappush(self._queue, (max(at, self.now), NORMAL, timer[1], ring.ring, timer))  # type: ignore[misc]
        else:
            self._timers[slot] = [timer]
            heappush(self._queue, (slot * _SLOT, URGENT, next(self._eid), self._come_near, slot))  # type: ignore[misc]
        return timer

    def _come_near(self, slot: float) -> None:
        for timer in self._timers.pop(slot):
            at, number, callback, _, ring = timer
            if callback is not None:
                heappush(self._queue, (at, NORMAL, number, ring.ring, timer))  # type: ignore[misc]

    def clear(self) -> None:
        """Nothing is to happen any more."""
        for timer in chain(*self._timers.values(), (entry[-1] for entry in self._queue)):
            if type(timer) is Timer:
                timer.cancel()  # for its owner has it, and it has its owner
        self._queue.clear()
        self._timers.clear()

    def step(self) -> None:
        """The next call or the next event of SimPy."""
        queue: list[Any] = self._queue
        if not queue or len(queue[0]) == 4:
            super().step()
        else:
            self.now, _, _, function, argument = heappop(queue)
            function(argument)

    def run(self, until: float | Event | None = None) -> Any:
        """As SimPy's: to the end, up to a time (what happens at that very time is left), or until an event."""
        if until is None or isinstance(until, Event):
            return super().run(until)
        end = float(until)
        if end <= self.now:
            raise ValueError(f"until ({end}) must be greater than the current simulation time")
        self._run(end, _BEFORE_ALL)
        return None

    def run_until_idle(self) -> None:
        """Everything that is to happen at the present time, and nothing later."""
        self._run(self.now, _AFTER_ALL)

    def _run(self, end: float, priority: float) -> None:
        """Until the end, which is a call in the queue like any other: so none of them has to be compared with it."""
        queue: list[Any] = self._queue
        last = (end, priority, next(self._eid), _end, None)
        heappush(queue, last)
        try:
            while True:
                entry = heappop(queue)
                try:
                    self.now, _, _, function, argument = entry
                except ValueError:  # an event of SimPy
                    heappush(queue, entry)
                    super().step()
                else:
                    function(argument)
        except _End:
            return
        except BaseException:
            queue.remove(last)  # the run broke off: nothing may end by it later
            heapify(queue)
            raise
