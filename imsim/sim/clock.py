"""Simulated time: SimPy's Environment, on whose queue plain calls can stand beside its own events.

A SimPy process costs a generator, an event and several calls for each wait. Nearly everything here is "call this then",
so that is what the queue holds: (time, priority, number, function, argument). SimPy's own entries, which have four
parts, are left to SimPy: processes, resources and `run(until=event)` work as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.events import NORMAL, Event


class Clock(simpy.Environment):
    """Time in seconds. Starts at `initial_time`, which may be negative."""

    def call_at(self, at: float, function: Callable[[Any], object], argument: Any) -> None:
        """Call `function(argument)` at the time `at`, which must not have passed; calls for one time keep their
        order, also among SimPy's events."""
        queue: list[Any] = self._queue
        heappush(queue, (at, NORMAL, next(self._eid), function, argument))

    def step(self) -> None:
        """The next call or the next event of SimPy."""
        queue: list[Any] = self._queue
        if not queue or len(queue[0]) == 4:
            super().step()
        else:
            self._now, _, _, function, argument = heappop(queue)
            function(argument)

    def run(self, until: float | Event | None = None) -> Any:
        """As SimPy's: to the end, up to a time (what happens at that very time is left), or until an event."""
        if until is None or isinstance(until, Event):
            return super().run(until)
        end = float(until)
        if end <= self._now:
            raise ValueError(f"until ({end}) must be greater than the current simulation time")
        self._run(end, inclusive=False)
        self._now = end
        return None

    def settle(self) -> None:
        """Everything that is to happen at the present time, and nothing later."""
        self._run(self._now, inclusive=True)

    def _run(self, end: float, inclusive: bool) -> None:
        queue: list[Any] = self._queue
        while queue and (queue[0][0] < end or (inclusive and queue[0][0] == end)):
            if len(queue[0]) == 5:
                self._now, _, _, function, argument = heappop(queue)
                function(argument)
            else:
                super().step()
