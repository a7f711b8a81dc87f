from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.exceptions import UsageError
from imsim.scenario.sections.topology import RouterTier
from imsim.sim import Clock, Station
from imsim.sim.station import BoundedStation, CustomStation, station_of

_JOBS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), min_size=1, max_size=60)


def _by_simpy(jobs: list[tuple[float, float]], workers: int, room: float = math.inf) -> list[float | None]:
    """Return the departures in a plain SimPy model with a Resource and one process for each job."""
    env = simpy.Environment()
    resource = simpy.Resource(env, capacity=workers)
    departures: list[float | None] = [None] * len(jobs)

    def job(number: int, arrival: float, demand: float):
        yield env.timeout(arrival)
        if resource.count + len(resource.queue) >= room:
            return
        with resource.request() as request:
            yield request
            yield env.timeout(demand)
        departures[number] = env.now

    for number, (arrival, demand) in enumerate(jobs):
        env.process(job(number, arrival, demand))
    env.run()
    return departures


@given(_JOBS, st.integers(1, 4))
def test_departures_equal_those_of_simpy_resource(jobs, workers):
    jobs = sorted(jobs)
    station = Station(workers)
    departures = [station.submit(float(arrival), float(demand)) for arrival, demand in jobs]
    assert departures == _by_simpy(jobs, workers)


@given(_JOBS, st.integers(1, 4), st.integers(1, 8))
def test_bounded_station_drops_same_jobs_as_simpy_model(jobs, workers, room):
    # With 1/128 more, no departure has the time of an arrival.
    jobs = [(float(arrival), demand + 1 / 128) for arrival, demand in sorted(jobs)]
    clock = SimpleNamespace(now=0.0)
    station = BoundedStation(workers, room, clock)
    departures = []
    for arrival, demand in jobs:
        clock.now = arrival
        assert station.full(arrival) == (station.inside(arrival) >= room)
        departures.append(station.submit(arrival, demand))
    assert departures == _by_simpy(jobs, workers, room)
    assert (station.jobs, station.drops) == (len(jobs) - departures.count(None), departures.count(None))


@given(_JOBS, st.integers(1, 3), st.integers(1, 5), st.data())
def test_job_submitted_in_advance_takes_no_room_before_arrival(jobs, workers, room, data):
    """An example is the answer to a frame: it is submitted early and arrives when the service of the frame ends."""
    clock = SimpleNamespace(now=0.0)
    station = BoundedStation(workers, room, clock)
    times: list[tuple[float, float]] = []
    for arrival, demand in sorted(jobs):
        clock.now = float(arrival)
        known = arrival + data.draw(st.sampled_from([0, 0, 5]))
        inside = sum(start <= known < left for start, left in times)
        assert station.inside(known) == inside
        left = station.submit(float(known), demand + 0.5)
        assert (left is None) == (inside >= room)
        if left is not None:
            times.append((known, left))


def test_bounded_station_forgets_departed_jobs():
    clock = SimpleNamespace(now=0.0)
    station = BoundedStation(1, 3, clock)
    for number in range(1000):
        clock.now = float(number)
        station.submit(clock.now, 0.9)
    assert (station.jobs, station.drops) == (1000, 0)
    assert len(station._departures) < 40


def test_submission_of_several_jobs_needs_room_for_all():
    station = BoundedStation(1, 3, Clock())
    assert station.submit(0.0, 1.0, None, 2) == 1.0
    assert station.submit(0.0, 1.0, None, 2) is None
    assert station.full(0.0) is False
    assert station.full(0.0, besides=1) is True
    assert (station.jobs, station.drops) == (2, 2)


@given(_JOBS, st.integers(2, 4), st.randoms())
def test_jobs_of_a_flow_leave_in_order_without_blocking_workers(jobs, workers, random):
    jobs = sorted(jobs)
    flows = [random.choice("ab") for _ in jobs]
    free, ordered = Station(workers), Station(workers)
    last = {"a": 0.0, "b": 0.0}
    for (arrival, demand), flow in zip(jobs, flows, strict=True):
        done = free.submit(float(arrival), float(demand))
        assert ordered.submit(float(arrival), float(demand), flow) == max(done, last[flow])
        last[flow] = max(done, last[flow])


def test_station_adds_up_the_waits_of_its_jobs():
    station = Station(2)
    for now, demand in ((0.0, 2.0), (0.0, 3.0), (1.0, 1.0), (1.5, 1.0)):
        station.submit(now, demand)
    assert station.waited == pytest.approx((2 - 1) + (3 - 1.5))
    bounded = BoundedStation(1, 5, Clock())
    bounded.submit(0.0, 2.0)
    bounded.submit(1.0, 1.0, jobs=3)
    assert bounded.submit(1.0, 1.0, jobs=3) is None
    assert bounded.waited == pytest.approx(3 * (2 - 1)), "a dropped job does not wait"


@given(_JOBS, st.integers(1, 4))
def test_station_waits_are_departures_less_arrivals_and_demands(jobs, workers):
    station = Station(workers)
    waits = [station.submit(float(now), float(demand)) - now - demand for now, demand in sorted(jobs)]
    assert station.waited == sum(waits)


def test_station_counts_jobs_and_busy_time():
    station = Station(2)
    station.submit(0.0, 3.0)
    station.submit(0.0, 4.0)
    assert (station.jobs, station.busy) == (2, 7.0)


@given(_JOBS, st.integers(1, 3), st.integers(0, 60))
def test_worked_returns_busy_time_until_any_time(jobs, workers, time):
    """The time includes the work so far on jobs in service, but no waiting jobs."""
    station, intervals = Station(workers), []
    for arrival, demand in sorted(jobs):
        if arrival <= time:
            done = station.submit(float(arrival), float(demand))
            intervals.append((done - demand, done))
    assert station.worked(float(time)) == sum(max(0.0, min(done, time) - begun) for begun, done in intervals)


def test_forget_removes_unfinished_work():
    station = Station(2)
    for _ in range(10):
        station.submit(0.0, 3.0)
    station.forget(4.0)
    assert station.worked(4.0) == station.worked(100.0) == 8.0
    station.submit(5.0, 3.0)
    assert station.worked(6.0) == 9.0


def test_station_needs_a_worker():
    with pytest.raises(ValueError, match="workers"):
        Station(0)


# --- custom stations ------------------------------------------------------------------------------------------------


class Nightly:
    """A station that opens at 10 s, divides each demand among all its workers, and accepts only three jobs."""

    def __init__(self, tier):
        self.workers, self.left = tier.workers, 3

    def submit(self, now, demand, flow):
        self.left -= 1
        return None if self.left < 0 else max(now, 10.0) + demand / self.workers


def test_custom_station_is_called_and_counted():
    station = station_of(RouterTier(workers=2, station=Nightly), Clock())
    assert [station.submit(float(now), 4.0, "flow") for now in (1, 11, 12, 13)] == [12.0, 13.0, 14.0, None]
    assert (station.jobs, station.busy, station.drops) == (3, 12.0, 1)
    assert station.waited == 12.0 - 1 - 4, "the other two were faster than their demand"
    assert station.full(0.0) is False
    assert [station.worked(now) for now in (8.0, 12.5, 14.0)] == [0.0, 10.0, 12.0]
    station.forget(12.5)
    assert station.worked(20.0) == 10.0


@pytest.mark.parametrize("answer", [0.5, math.nan, math.inf, "soon"])
def test_custom_station_cannot_finish_before_submission(answer):
    class Wrong:
        def submit(self, now, demand, flow):
            return answer

    with pytest.raises(UsageError, match="custom station Wrong: submit"):
        CustomStation(Wrong(), Clock()).submit(1.0, 1.0)


class Broken:
    def __init__(self, tier):
        pass

    def submit(self, now, demand, flow):
        return {}["flow"]

    def full(self, now):
        return 1 / 0

    def forget(self):
        raise ValueError("several\nlines")


@pytest.mark.parametrize(
    ("call", "reported", "cause"),
    [
        (lambda station: station.submit(1.0, 1.0), "submit raised KeyError: 'flow'", KeyError),
        (lambda station: station.full(1.0), "full raised ZeroDivisionError: division by zero", ZeroDivisionError),
        (lambda station: station.forget(1.0), "forget raised ValueError: several lines", ValueError),
    ],
)
def test_exception_in_custom_station_is_usage_error(call, reported, cause):
    with pytest.raises(UsageError, match=f"^custom station Broken: {reported}$") as caught:
        call(CustomStation(Broken(None), Clock()))
    assert type(caught.value.__cause__) is cause


def test_custom_station_must_have_submit():
    with pytest.raises(
        UsageError, match=r"^custom station object: expected a method submit\(now, demand, flow\), but it"
    ):
        station_of(RouterTier(station=lambda tier: object()), Clock())
    with pytest.raises(
        UsageError, match=r"^custom station object: object\(tier\) raised TypeError: object\(\) takes no arg"
    ):
        station_of(RouterTier(station=object), Clock())


def test_station_of_chooses_simplest_station():
    assert type(station_of(RouterTier(workers=3), Clock())) is Station
    assert type(station_of(RouterTier(queue=3), Clock())) is BoundedStation
    assert type(station_of(RouterTier(queue=3, station=Nightly), Clock())) is CustomStation
