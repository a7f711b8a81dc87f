"""A station: a queue and the workers that take from it."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapreplace


class Station:
    """First come, first served by `workers` workers, without limit on the queue.

    Because the order of service is the order of arrival, the time at which a job will leave is known when it comes: no
    event is needed for its waiting, its start or its end. Exact for any arrivals and demands, feedback included.
    """

    __slots__ = ("_free", "_last", "busy", "jobs")

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"a station needs 1 or more workers, got {workers}")
        self._free = [float("-inf")] * workers  # a heap: when each worker will be free
        self._last: dict[Hashable, float] = {}
        self.jobs = 0
        self.busy = 0.0  # seconds of work taken on, all workers together

    def forget(self) -> None:
        """All jobs are gone: the workers are free. (What was taken on stays counted.)"""
        self._free = [float("-inf")] * len(self._free)
        self._last.clear()

    def submit(self, now: float, demand: float, flow: Hashable = None) -> float:
        """When a job that comes now and needs `demand` seconds of work will leave. Calls in the order of arrival.

        With several workers a short job can overtake a long one; jobs of one `flow` (a connection, a conversation)
        still leave in order: the one that is done early is held, while its worker goes on to the next job.
        """
        free = self._free
        start = free[0]
        if start < now:
            start = now
        done = start + demand
        self.jobs += 1
        self.busy += demand
        if len(free) == 1:
            free[0] = done
            return done
        heapreplace(free, done)
        if flow is not None:
            last = self._last.get(flow, done)
            if last > done:
                done = last
            self._last[flow] = done
        return done
