"""The timers of one machine: a heap of deadlines. Cancelled entries are removed when they reach its top."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Timer(list[Any]):
    """A pending call and its entry in the heap: deadline, number, callback, argument."""

    __slots__ = ()

    def cancel(self) -> None:
        """Prevent the call."""
        self[2] = self[3] = None


class Timers:
    """The timers of a machine. `handle` calls the callback of each timer whose deadline has passed.

    Timers with equal deadlines run in the order of their creation.
    """

    __slots__ = ("_count", "_heap")

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._count = 0

    def at(self, deadline: float, callback: Callable[[Any, float], None], argument: Any = None) -> Timer:
        """Set a timer: `callback(argument, now)` runs at the deadline."""
        heap = self._heap
        while heap and heap[0][2] is None:  # usually the timer that this one replaces
            heappop(heap)
        self._count += 1
        timer = Timer((deadline, self._count, callback, argument))
        heappush(heap, timer)
        return timer

    def clear(self) -> None:
        """Remove all timers."""
        for timer in self._heap:
            timer.cancel()  # breaks the reference cycle between the timer and its owner
        self._heap.clear()

    def next_deadline(self) -> float | None:
        """Return the next deadline, or None if no timer is pending."""
        heap = self._heap
        while heap:
            deadline: float
            deadline, _, callback, _ = heap[0]
            if callback is not None:
                return deadline
            heappop(heap)
        return None

    def handle(self, now: float) -> None:
        """Call the callbacks of all timers whose deadlines are at or before `now`."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, _, callback, argument = timer = heappop(heap)
            if callback is not None:
                timer.cancel()
                callback(argument, now)
