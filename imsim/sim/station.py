"""A station: a queue and the workers that take from it."""

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

_FEW = 64  # flows that are remembered before a station looks which can be forgotten


class Station:
    """First come, first served by `workers` workers, without limit on the queue.

    Because the order of service is the order of arrival, the time at which a job will leave is known when it comes: no
    event is needed for its waiting, its start or its end. Exact for any arrivals and demands, feedback included.
    """

    __slots__ = ("_free", "_last", "_most_flows", "busy", "drops", "jobs", "waited")

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"a station needs 1 or more workers, got {workers}")
        self._free = [float("-inf")] * workers  # a heap: when each worker will be free
        self._last: dict[Hashable, float] = {}  # by flow: when its last job leaves
        self._most_flows = _FEW
        self.jobs = 0  # taken on so far
        self.busy = 0.0  # seconds of work taken on, all workers together, less what a crash has undone
        self.drops = 0  # jobs that did not fit into the queue
        self.waited = 0.0  # seconds that jobs waited for a worker, all together

    def full(self, now: float, besides: int = 0) -> bool:
        """Whether a job that comes now would be dropped. `besides`: jobs that wait at the node and not here."""
        return False

    def worked(self, now: float) -> float:
        """Seconds of work that its workers have done until now, all together: what was taken on, less what is still
        to be done. So a share of time costs something to measure at its two ends only. (A job announced for later,
        while its worker rests, is taken for under way: at each end by at most one job a worker.)"""
        return self.busy - sum(free - now for free in self._free if free > now)

    def forget(self, now: float) -> None:
        """All jobs are gone: the workers are free."""
        self.busy = self.worked(now)
        self._free = [float("-inf")] * len(self._free)
        self._last.clear()

    def submit(self, now: float, demand: float, flow: Hashable = None, jobs: int = 1) -> float | None:
        """When a job that comes now and needs `demand` seconds of work will leave; None: it is dropped. Calls in the
        order of arrival. `jobs`: as how many it counts, if several are done as one.

        With several workers a short job can overtake a long one; jobs of one `flow` (a connection, a conversation)
        still leave in order: the one that is done early is held, while its worker goes on to the next job.
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
        """Forget the flows whose last job leaves before any worker is free: no later job can be done sooner."""
        self._last = {flow: last for flow, last in self._last.items() if last > self._free[0]}
        self._most_flows = 2 * len(self._last) + _FEW


class BoundedStation(Station):
    """The same with room for `room` jobs, waiting or in service; what comes when it is full is dropped.

    A node may know of a job before it comes: the answer to a frame in service comes when the service ends. So jobs
    count from their arrival to their departure, whatever the order of the calls, and what has left by the clock's time
    can be forgotten.
    """

    __slots__ = ("_arrivals", "_clock", "_departures", "_prune_at", "room")

    def __init__(self, workers: int, room: int, clock: Clock) -> None:
        super().__init__(workers)
        self.room = room
        self._clock = clock
        self._arrivals: list[float] = []  # both sorted
        self._departures: list[float] = []
        self._prune_at = 2 * room + 16

    def inside(self, now: float) -> int:
        """How many jobs wait or are in service."""
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
            # As many arrivals as departures: for the time from now on they cancel out.
            left = bisect_right(self._departures, self._clock.now)
            del self._departures[:left], self._arrivals[:left]
            self._prune_at = 2 * len(self._departures) + 16
        return done


class CustomStation(Station):
    """A custom station (`topology.<tier>.station`), with the counters that every station has.

    `own` needs one method, `submit(now, demand, flow)`, called once for each operation in the order of arrival, that
    answers when it will be done (not before `now`) or None: dropped. `flow` is what must stay in order among itself.
    A method `full(now)`, if there is one, is asked by a storage before it carries out a request, so that what is
    dropped is not carried out. A method `forget()`, if there is one, is called when the node crashes.
    """

    __slots__ = ("_clock", "_full", "_name", "_own", "_under_way")

    def __init__(self, own: Any, clock: Clock) -> None:
        super().__init__()
        self._name = f"custom station {type(own).__name__}"
        if not callable(getattr(own, "submit", None)):
            raise UsageError(f"{self._name}: expected a method submit(now, demand, flow), but it has none")
        self._own = own
        self._clock = clock
        self._full = getattr(own, "full", None)
        self._under_way: list[tuple[float, float]] = []  # a heap: when a job will be done, and its demand

    def full(self, now: float, besides: int = 0) -> bool:
        return self._full is not None and bool(self._asked("full", now))

    def worked(self, now: float) -> float:
        """As far as can be known from outside: a job is taken to be worked at right before it is done."""
        return self.busy - sum(min(demand, done - now) for done, demand in self._under_way if done > now)

    def forget(self, now: float) -> None:
        self.busy = self.worked(now)
        self._under_way.clear()
        if hasattr(self._own, "forget"):
            self._asked("forget")

    def _asked(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._own, method)(*arguments)
        except ImsimError:
            raise
        except Exception as error:
            raise broken(f"{self._name}: {method}", error) from error

    def submit(self, now: float, demand: float, flow: Hashable = None, jobs: int = 1) -> float | None:
        done = self._asked("submit", now, demand, flow)
        if done is None:
            self.drops += jobs
            return None
        if not (isinstance(done, Real) and now <= float(done) < math.inf):
            raise UsageError(
                f"{self._name}: submit({now:g}, {demand:g}, ...): expected a time from then on, or None, got {done!r}"
            )
        self.jobs += jobs
        self.busy += demand
        self.waited += max(float(done) - now - demand, 0.0) * jobs
        while self._under_way and self._under_way[0][0] <= self._clock.now:
            heappop(self._under_way)
        heappush(self._under_way, (float(done), demand))
        return float(done)


def _made(station: Callable[[Tier], Any], tier: Tier) -> Any:
    try:
        return station(tier)
    except ImsimError:
        raise
    except Exception as error:
        name = getattr(station, "__name__", type(station).__name__)
        raise broken(f"custom station {name}: {name}(tier)", error) from error


def station_of(tier: Tier, clock: Clock) -> Station:
    """The station of a node of this tier: the simplest that does what the tier asks for."""
    if tier.station is not None:
        return CustomStation(_made(tier.station, tier), clock)
    if tier.queue is not None:
        return BoundedStation(tier.workers, tier.queue, clock)
    return Station(tier.workers)
