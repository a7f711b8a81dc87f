"""Simulated time: SimPy's Environment, whose queue also holds plain calls.

A SimPy process costs a generator, an event and several calls for each wait. The simulation needs only calls at given
times. So the queue holds entries of five parts: (time, priority, number, function, argument). SimPy's own entries have
four parts, and SimPy handles them: processes, resources and `run(until=event)` still work.
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
    """The part of a clock that a node uses. A node may have a clock of its own."""

    @property
    def now(self) -> float: ...

    def call_at(self, at: float, function: Callable[[Any], object], argument: Any) -> None: ...


class Ring(Protocol):
    """The owner of a timer: the clock calls `ring` at the timer's deadline, and `ring` calls the timer's callback."""

    def ring(self, timer: Timer) -> object: ...


class _End(Exception):
    """Ends a run: the last call in the queue raises it."""


def _end(_: None) -> None:
    raise _End


class Clock(simpy.Environment):
    """A clock in seconds. It starts at `initial_time`, which may be negative."""

    # SimPy has `now` as a property. Here it is an attribute, because it is read far more often than anything else.
    __slots__ = ("_timers", "now")

    now: float

    def __init__(self, initial_time: float = 0.0) -> None:
        super().__init__(initial_time)
        self._timers: dict[float, list[Timer]] = {}  # by the slot of their deadline

    @property
    def _now(self) -> float:  # SimPy's name for `now`
        return self.now

    @_now.setter
    def _now(self, now: float) -> None:
        self.now = now

    def call_at(self, at: float, function: Callable[[Any], object], argument: Any) -> None:
        """Call `function(argument)` at the time `at`, which must not be in the past.

        Calls for the same time run in the order in which they were scheduled, also among SimPy's normal events.
        """
        queue: list[Any] = self._queue
        heappush(queue, (at, NORMAL, next(self._eid), function, argument))

    def delay(self, seconds: float) -> Callable[[float, Callable[[Any], object], Any], None]:
        """Return a `call_at` that adds `seconds` to the time it is given.

        Most links have a constant latency: with this, a frame costs one function call.
        """
        queue: list[Any] = self._queue
        numbers = self._eid

        def call_at(at: float, function: Callable[[Any], object], argument: Any) -> None:
            heappush(queue, (at + seconds, NORMAL, next(numbers), function, argument))

        return call_at

    def timer_at(self, at: float, ring: Ring, callback: Any, argument: Any) -> Timer:
        """Set a timer and return it. At the deadline, `ring.ring(timer)` is called, unless the timer was cancelled.

        `ring` is the last part of the timer. This method is for distant deadlines that are likely to be cancelled,
        such as those of retries. Such a timer enters the queue only shortly before its deadline: a short queue is fast.
        """
        slot = at // _SLOT
        timer = Timer((at, next(self._eid), callback, argument, ring))
        timers = self._timers.get(slot)
        if timers is not None:
            timers.append(timer)
        elif slot * _SLOT <= self.now:
            heappush(self._queue, (max(at, self.now), NORMAL, timer[1], ring.ring, timer))  # type: ignore[misc]
        else:
            self._timers[slot] = [timer]
            heappush(self._queue, (slot * _SLOT, URGENT, next(self._eid), self._enqueue_slot, slot))  # type: ignore[misc]
        return timer

    def _enqueue_slot(self, slot: float) -> None:
        """Move the timers of a slot into the queue, except those that were cancelled."""
        for timer in self._timers.pop(slot):
            at, number, callback, _, ring = timer
            if callback is not None:
                heappush(self._queue, (at, NORMAL, number, ring.ring, timer))  # type: ignore[misc]

    def clear(self) -> None:
        """Remove all calls, events and timers."""
        for timer in chain(*self._timers.values(), (entry[-1] for entry in self._queue)):
            if type(timer) is Timer:
                timer.cancel()  # breaks the reference cycle between the timer and its owner
        self._queue.clear()
        self._timers.clear()

    def step(self) -> None:
        """Run the next call or the next SimPy event."""
        queue: list[Any] = self._queue
        if not queue or len(queue[0]) == 4:
            super().step()
        else:
            self.now, _, _, function, argument = heappop(queue)
            function(argument)

    def run(self, until: float | Event | None = None) -> Any:
        """Run as SimPy does. `until`: a time, an event, or None to run until the queue is empty.

        If `until` is a time, the calls at that time do not run.
        """
        if until is None or isinstance(until, Event):
            return super().run(until)
        end = float(until)
        if end <= self.now:
            raise ValueError(f"until ({end}) must be greater than the current simulation time")
        self._run(end, _BEFORE_ALL)
        return None

    def run_until_idle(self) -> None:
        """Run everything that is scheduled for the present time, and nothing later."""
        self._run(self.now, _AFTER_ALL)

    def _run(self, end: float, priority: float) -> None:
        """Run up to the time `end`. The end is a call in the queue, so the loop need not compare each entry with it."""
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
            queue.remove(last)  # a later run must not end at this entry
            heapify(queue)
            raise
