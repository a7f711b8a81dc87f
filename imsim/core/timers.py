"""The deadlines of one machine: a heap whose cancelled entries are dropped when they reach its top."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Timer(list[Any]):
    """One pending call, as it stands in the heap: deadline, number, callback, argument. `cancel` makes it never
    happen."""

    __slots__ = ()

    def cancel(self) -> None:
        self[2] = self[3] = None


class Timers:
    """Calls `callback(argument, now)` once the time given to `handle` has reached a timer's deadline; equal deadlines
    in the order in which they were set."""

    __slots__ = ("_count", "_heap")

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._count = 0

    def at(self, deadline: float, callback: Callable[[Any, float], None], argument: Any = None) -> Timer:
        heap = self._heap
        while heap and heap[0][2] is None:  # mostly the one that this one replaces
            heappop(heap)
        self._count += 1
        timer = Timer((deadline, self._count, callback, argument))
        heappush(heap, timer)
        return timer

    def clear(self) -> None:
        """Nothing is waited for any more."""
        for timer in self._heap:
            timer.cancel()  # for its owner has it, and it has its owner
        self._heap.clear()

    def next_deadline(self) -> float | None:
        heap = self._heap
        while heap:
            deadline: float
            deadline, _, callback, _ = heap[0]
            if callback is not None:
                return deadline
            heappop(heap)
        return None

    def handle(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, _, callback, argument = timer = heappop(heap)
            if callback is not None:
                timer.cancel()
                callback(argument, now)
