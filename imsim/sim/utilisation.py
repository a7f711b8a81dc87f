"""How busy the nodes of a simulated run are, and how many jobs came to them."""

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
    """Reads the stations of a run: the share of their workers' time and the waiting times from `since` to `until` (the
    window of the other measures), and jobs and drops from now on, as all counts are of the whole run. It looks at each
    of these moments only, so that it costs a job nothing."""

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
        """Of each node: `busy` (0 to 1; also of a custom station, which may do more at a time than its tier has
        `workers`), `waited` (seconds that jobs which came in the window waited for a worker, all together), the `jobs`
        that it took on, and `drops`. Of a run that has not come to `until`, up to now."""
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
        """Of each node of a traced run, the number of jobs that waited, on average over the same window."""
        window, length = np.array([self.since, self.until]), self.until - self.since
        queues = {}
        for work in works:
            came, began, _, _ = work.jobs()
            queues[work.name] = round(float(_covered(came, began, window)[0]) / length, 6)
        return queues


def node_series(works: Sequence[TracedWork], end: float, buckets: int = 100) -> pa.Table:
    """From time 0 to `end`, in this number of parts: how busy each node was, how many jobs waited, came, were
    dropped."""
    edges = np.linspace(0.0, end, buckets + 1)
    width = end / buckets
    columns: list[list[Any]] = [[] for _ in range(7)]
    for work in works:
        came, began, done, counts = work.jobs()
        parts = (
            [work.name] * buckets,
            [work.tier] * buckets,
            np.rint(edges[:-1] * 1e9).astype(np.int64),
            _covered(began, done, edges) / (width * work.workers),
            _covered(came, began, edges) / width,
            np.histogram(came, edges, weights=counts)[0].astype(np.int64),
            np.histogram(work.drops_at, edges)[0],
        )
        for column, values in zip(columns, parts, strict=True):
            column.extend(values)
    return node_table(columns)


def _covered(begin: Any, end: Any, edges: Any) -> Any:
    """How many seconds of the intervals lie in each bucket, all together."""

    def before(times: Any) -> Any:
        """For each edge, the sum over `times` of what lies between them and the edge."""
        times = np.sort(times)
        sums = np.concatenate(([0.0], np.cumsum(times)))
        count = np.searchsorted(times, edges)
        return count * edges - sums[count]

    return np.maximum(np.diff(before(begin) - before(end)), 0.0)  # negative only by rounding
