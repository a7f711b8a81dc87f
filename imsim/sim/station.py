"""Stations: a station is a queue and the workers that take jobs from it."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Callable, Hashable
from heapq import heappop, heappush, heapreplace
from numbers import Real
from typing import Any

from imsim.core.exceptions import ImsimError, UsageError
from imsim.scenario.custom_parts import broken
from imsim.scenario.sections import Tier
from imsim.sim.clock import Clock

_FEW = 64  # a station remembers this many flows before it looks for flows to forget


class Station:
    """A queue without limit and `workers` workers, first come, first served.

    Service is in the order of arrival, so the departure of a job is known at its arrival. No event is needed for its
    waiting, its start or its end. The result is exact for any arrivals and demands, feedback included.
    """

    __slots__ = ("_free", "_last", "_most_flows", "busy", "drops", "jobs", "waited")

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers: must be at least 1 (got {workers})")
        self._free = [float("-inf")] * workers  # a heap: when each worker will be free
        self._last: dict[Hashable, float] = {}  # by flow: when its last job leaves
        self._most_flows = _FEW
        self.jobs = 0  # jobs accepted so far
        self.busy = 0.0  # seconds of work of the accepted jobs; a crash subtracts the work that it cancels
        self.drops = 0  # jobs that did not fit into the queue
        self.waited = 0.0  # seconds that the jobs waited for a worker, as a sum

    def wait(self, now: float) -> float:
        """Return how long a job that arrives now will wait for a worker, in seconds."""
        return max(0.0, self._free[0] - now)

    def full(self, now: float, besides: int = 0) -> bool:
        """Return whether a job that arrives now would be dropped.

        `besides`: the count of jobs that wait at the node but not at this station.
        """
        return False

    def worked(self, now: float) -> float:
        """Return the seconds of work that all workers together have done until `now`.

        It is the accepted work minus the remaining work. So the utilisation of a time window needs a reading at each of
        its two ends only. A job that was submitted for a later time counts as started. The error at each end is at most
        one job per worker.
        """
        return self.busy - sum(free - now for free in self._free if free > now)

    def forget(self, now: float) -> None:
        """Remove all jobs, as after a crash: all workers are free."""
        self.busy = self.worked(now)
        self._free = [float("-inf")] * len(self._free)
        self._last.clear()

    def submit(self, now: float, demand: float, flow: Hashable = None, jobs: int = 1) -> float | None:
        """Accept a job that arrives at `now` and needs `demand` seconds of work. Return the time at which it leaves.

        None: the job is dropped. Calls must be in the order of arrival. `jobs`: the number of jobs that it counts as,
        if it does several at once.

        With several workers, a short job can overtake a long one. The jobs of one `flow` (a connection, a conversation)
        still leave in order: a job that is done early is held back, and its worker starts the next job.
        """
        free = self._free
        start = free[0]
        if start < now:
            start = now
        else:
            self.waited += (start - now) * jobs
        done = start + demand
        self.jobs += jobs
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
            if len(self._last) > self._most_flows:
                self._forget_flows()
        return done

    def _forget_flows(self) -> None:
        """Forget the flows whose last job leaves before any worker is free: a later job cannot overtake that job."""
        self._last = {flow: last for flow, last in self._last.items() if last > self._free[0]}
        self._most_flows = 2 * len(self._last) + _FEW


class BoundedStation(Station):
    """A station with room for `room` jobs, waiting or in service. It drops a job that arrives when it is full.

    A node may submit a job before the job arrives: the answer to a frame in service arrives when the service ends. So a
    job counts from its arrival to its departure, for any order of the calls. Jobs that have left by the clock's time
    are forgotten.
    """

    __slots__ = ("_arrivals", "_clock", "_departures", "_prune_at", "room")

    def __init__(self, workers: int, room: int, clock: Clock) -> None:
        super().__init__(workers)
        self.room = room
        self._clock = clock
        # Both lists are in ascending order.
        self._arrivals: list[float] = []
        self._departures: list[float] = []
        self._prune_at = 2 * room + 16

    def inside(self, now: float) -> int:
        """Return the number of jobs that wait or are in service at `now`."""
        return bisect_right(self._arrivals, now) - bisect_right(self._departures, now)

    def full(self, now: float, besides: int = 0) -> bool:
        return self.inside(now) + besides >= self.room

    def forget(self, now: float) -> None:
        super().forget(now)
        self._arrivals.clear()
        self._departures.clear()

    def submit(self, now: float, demand: float, flow: Hashable = None, jobs: int = 1) -> float | None:
        if self.inside(now) + jobs > self.room:
            self.drops += jobs
            return None
        done = super().submit(now, demand, flow, jobs)
        assert done is not None
        for _ in range(jobs):
            insort(self._arrivals, now)
            insort(self._departures, done)
        if len(self._departures) > self._prune_at:
            # Each removed job has left, so its arrival and its departure cancel out in every later count.
            left = bisect_right(self._departures, self._clock.now)
            del self._departures[:left], self._arrivals[:left]
            self._prune_at = 2 * len(self._departures) + 16
        return done


class CustomStation(Station):
    """A custom station (`topology.<tier>.station`), with the counters of every station.

    `custom` must have a method `submit(now, demand, flow)`. It is called once for each operation, in the order of
    arrival. It returns the time at which the operation will be done (not before `now`), or None if the operation is
    dropped. Operations of one `flow` must stay in order.

    `custom` can have a method `full(now)`. A storage calls it before each request, so that it does not carry out a
    request that will be dropped. `custom` can have a method `forget()`, which is called when the node crashes.
    """

    __slots__ = ("_clock", "_custom", "_full", "_in_service", "_name")

    def __init__(self, custom: Any, clock: Clock) -> None:
        super().__init__()
        self._name = f"custom station {type(custom).__name__}"
        if not callable(getattr(custom, "submit", None)):
            raise UsageError(f"{self._name}: expected a method submit(now, demand, flow), but it does not have one")
        self._custom = custom
        self._clock = clock
        self._full = getattr(custom, "full", None)
        self._in_service: list[tuple[float, float]] = []  # a heap of (time when the job is done, its demand)

    def wait(self, now: float) -> float:
        return 0.0  # unknown

    def full(self, now: float, besides: int = 0) -> bool:
        return self._full is not None and bool(self._call("full", now))

    def worked(self, now: float) -> float:
        """Return an estimate of the work done, in seconds: a job counts as in service for the last `demand` seconds
        before it is done."""
        return self.busy - sum(min(demand, done - now) for done, demand in self._in_service if done > now)

    def forget(self, now: float) -> None:
        self.busy = self.worked(now)
        self._in_service.clear()
        if hasattr(self._custom, "forget"):
            self._call("forget")

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._custom, method)(*arguments)
        except ImsimError:
            raise
        except Exception as error:
            raise broken(f"{self._name}: {method}", error) from error

    def submit(self, now: float, demand: float, flow: Hashable = None, jobs: int = 1) -> float | None:
        done = self._call("submit", now, demand, flow)
        if done is None:
            self.drops += jobs
            return None
        if not (isinstance(done, Real) and now <= float(done) < math.inf):
            raise UsageError(
                f"{self._name}: submit({now:g}, {demand:g}, ...): must return a time that is not before {now:g}, or"
                f" None (got {done!r})"
            )
        self.jobs += jobs
        self.busy += demand
        self.waited += max(float(done) - now - demand, 0.0) * jobs
        while self._in_service and self._in_service[0][0] <= self._clock.now:
            heappop(self._in_service)
        heappush(self._in_service, (float(done), demand))
        return float(done)


def _build(station: Callable[[Tier], Any], tier: Tier) -> Any:
    try:
        return station(tier)
    except ImsimError:
        raise
    except Exception as error:
        name = getattr(station, "__name__", type(station).__name__)
        raise broken(f"custom station {name}: {name}(tier)", error) from error


def station_of(tier: Tier, clock: Clock) -> Station:
    """Return a station for a node of this tier: the simplest that has the properties of the tier."""
    if tier.station is not None:
        return CustomStation(_build(tier.station, tier), clock)
    if tier.queue is not None:
        return BoundedStation(tier.workers, tier.queue, clock)
    return Station(tier.workers)
