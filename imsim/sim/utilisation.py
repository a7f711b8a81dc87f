"""How busy the nodes of a simulated run are, and how many jobs came to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from imsim.sim.clock import Clock

if TYPE_CHECKING:
    from imsim.sim.nodes.work import Work


class Meter:
    """Reads the stations of a world: the share of their workers' time from `since` to `until` (the window of the other
    measures), and jobs and drops from now on, as all counts are of the whole run. It looks at each of these moments
    only, so that it costs a job nothing."""

    def __init__(self, clock: Clock, works: Sequence[Work], since: float, until: float) -> None:
        self._clock = clock
        self._works = works
        self._before = [(work.station.jobs, work.station.drops) for work in works]
        self._readings: list[list[float]] = []
        self.since, self.until = since, until
        for at in (since, until):
            clock.call_at(at, self._read, at)

    def _read(self, at: float) -> None:
        self._readings.append([work.station.worked(at) for work in self._works])

    def told(self) -> dict[str, dict[str, float]]:
        """Of each node: `busy` (0 to 1; also of an own station, which may do more at a time than its tier's `workers`),
        the `jobs` that it took on, and `drops`. Of a run that has not come to `until`, up to now."""
        until = min(self.until, self._clock.now)
        ends = [work.station.worked(until) for work in self._works]
        first, last, *_ = [*self._readings, ends, ends]
        length = max(until - self.since, 1e-9)
        return {
            work.name: {
                "busy": round(min(max((done - begun) / (length * work.workers), 0.0), 1.0), 6),
                "jobs": work.station.jobs - jobs,
                "drops": work.station.drops - drops,
            }
            for work, (jobs, drops), begun, done in zip(self._works, self._before, first, last, strict=True)
        }
