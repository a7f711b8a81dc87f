"""The utilisation of the nodes in a simulated run, and the number of their jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from imsim.results.spans import node_table
from imsim.sim.clock import Clock
from imsim.sim.nodes.work import Work
from imsim.sim.tracing import TracedWork

if TYPE_CHECKING:
    import pyarrow as pa


class Meter:
    """Reads the counters of the stations in a run.

    Utilisation and waiting times are for the window from `since` to `until`, like the other measures. Jobs and drops
    count from the creation of the meter, because all counts are for the whole run. The meter reads at these moments
    only, so a job takes no extra time.
    """

    def __init__(self, clock: Clock, works: Sequence[Work], since: float, until: float) -> None:
        self._clock = clock
        self._works = works
        self._before = [(work.station.jobs, work.station.drops) for work in works]
        self._readings: list[list[tuple[float, float]]] = []
        self.since, self.until = since, until
        for at in (since, until):
            clock.call_at(at, self._read, at)

    def _read(self, at: float) -> None:
        self._readings.append(self._now(at))

    def _now(self, at: float) -> list[tuple[float, float]]:
        return [(work.station.worked(at), work.station.waited) for work in self._works]

    def utilisation(self) -> dict[str, dict[str, float]]:
        """Return four values for each node, by its name.

        busy: the share of the workers' time in the window, 0 to 1. A custom station may do more at a time than its tier
        has `workers`; its share is limited to 1.
        waited: the seconds that the jobs which arrived in the window waited for a worker, as a sum.
        jobs: the number of accepted jobs.
        drops: the number of dropped jobs.
        If the run has not reached `until`, the window ends now.
        """
        until = min(self.until, self._clock.now)
        ends = self._now(until)
        first, last, *_ = [*self._readings, ends, ends]
        length = max(until - self.since, 1e-9)
        return {
            work.name: {
                "busy": round(min(max((done[0] - begun[0]) / (length * work.workers), 0.0), 1.0), 6),
                "waited": round(done[1] - begun[1], 6),
                "jobs": work.station.jobs - jobs,
                "drops": work.station.drops - drops,
            }
            for work, (jobs, drops), begun, done in zip(self._works, self._before, first, last, strict=True)
        }

    def queues(self, works: Sequence[TracedWork]) -> dict[str, float]:
        """Return the number of waiting jobs at each node of a traced run, on average over the window."""
        window, length = np.array([self.since, self.until]), self.until - self.since
        queues = {}
        for work in works:
            arrived, began, _, _ = work.jobs()
            queues[work.name] = round(float(_covered(arrived, began, window)[0]) / length, 6)
        return queues


def node_series(works: Sequence[TracedWork], end: float, buckets: int = 100) -> pa.Table:
    """Return a time series for each node, from time 0 to `end` in `buckets` buckets of equal length.

    For each bucket: the utilisation, the average number of waiting jobs, and the numbers of accepted and dropped jobs.
    """
    edges = np.linspace(0.0, end, buckets + 1)
    width = end / buckets
    columns: list[list[Any]] = [[] for _ in range(7)]
    for work in works:
        arrived, began, done, counts = work.jobs()
        parts = (
            [work.name] * buckets,
            [work.tier] * buckets,
            np.rint(edges[:-1] * 1e9).astype(np.int64),
            _covered(began, done, edges) / (width * work.workers),
            _covered(arrived, began, edges) / width,
            np.histogram(arrived, edges, weights=counts)[0].astype(np.int64),
            np.histogram(work.drops_at, edges)[0],
        )
        for column, values in zip(columns, parts, strict=True):
            column.extend(values)
    return node_table(columns)


def _covered(begin: Any, end: Any, edges: Any) -> Any:
    """Return the seconds of all intervals that are in each bucket, as a sum."""

    def before(times: Any) -> Any:
        """Return for each edge the sum of the distances from the `times` before it to the edge."""
        times = np.sort(times)
        sums = np.concatenate(([0.0], np.cumsum(times)))
        count = np.searchsorted(times, edges)
        return count * edges - sums[count]

    return np.maximum(np.diff(before(begin) - before(end)), 0.0)  # rounding can make a difference negative
