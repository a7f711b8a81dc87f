from __future__ import annotations

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from imsim.sim import Station

_JOBS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), min_size=1, max_size=60)


def _by_simpy(jobs: list[tuple[int, int]], workers: int) -> list[int]:
    """The departures of the textbook model: a Resource, and one process for each job."""
    env = simpy.Environment()
    resource = simpy.Resource(env, capacity=workers)
    departures = [0] * len(jobs)

    def job(number: int, arrival: int, demand: int):
        yield env.timeout(arrival)
        with resource.request() as request:
            yield request
            yield env.timeout(demand)
        departures[number] = env.now

    for number, (arrival, demand) in enumerate(jobs):
        env.process(job(number, arrival, demand))
    env.run()
    return departures


@given(_JOBS, st.integers(1, 4))
def test_departures_equal_those_of_a_simpy_resource(jobs, workers):
    jobs = sorted(jobs)
    station = Station(workers)
    departures = [station.submit(float(arrival), float(demand)) for arrival, demand in jobs]
    assert departures == _by_simpy(jobs, workers)


@given(_JOBS, st.integers(2, 4), st.randoms())
def test_a_flow_leaves_in_order_and_no_worker_is_held_up_for_it(jobs, workers, random):
    jobs = sorted(jobs)
    flows = [random.choice("ab") for _ in jobs]
    free, ordered = Station(workers), Station(workers)
    last = {"a": 0.0, "b": 0.0}
    for (arrival, demand), flow in zip(jobs, flows, strict=True):
        done = free.submit(float(arrival), float(demand))
        assert ordered.submit(float(arrival), float(demand), flow) == max(done, last[flow])
        last[flow] = max(done, last[flow])


def test_it_knows_how_busy_it_was():
    station = Station(2)
    station.submit(0.0, 3.0)
    station.submit(0.0, 4.0)
    assert (station.jobs, station.busy) == (2, 7.0)


def test_there_is_always_a_worker():
    with pytest.raises(ValueError, match="workers"):
        Station(0)
