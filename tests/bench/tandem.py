"""A tandem of stations without a protocol, in three versions: on imsim's clock, in idiomatic SimPy, and in Ciw.

It is the reference of the benchmarks: four stations of four workers, a utilization of 70 %, Poisson arrivals and
exponential demands. All three versions get the same numbers, drawn beforehand, so the benchmarks measure only the
simulators.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import ciw
import numpy as np
import simpy

from imsim.scenario import Draws
from imsim.sim import Clock, Station

STATIONS = 4
WORKERS = 4
LOAD = 0.7


class Work:
    """The gaps between `count` messages, about one message a second, and the demand of each message at each station."""

    def __init__(self, count: int, seed: int = 1) -> None:
        numbers = np.arange(count)
        self.gaps: list[float] = (-np.log1p(-Draws(seed, "gap").array(numbers))).tolist()
        self.demands: list[list[float]] = [
            (-WORKERS * LOAD * np.log1p(-Draws(seed, "demand", station).array(numbers))).tolist()
            for station in range(STATIONS)
        ]


class _Stage:
    """A station as an imsim node uses it, with one event per hop."""

    def __init__(self, clock: Clock, demands: list[float], then: Any) -> None:
        self.clock = clock
        self.station = Station(WORKERS)
        self.demands = demands
        self.then = then

    def receive(self, message: int) -> None:
        clock = self.clock
        clock.call_at(self.station.submit(clock.now, self.demands[message]), self.then, message)


def in_imsim(work: Work) -> list[float]:
    """Run the tandem on imsim's clock. Returns the times at which messages left, in ascending order."""
    clock = Clock()
    left: list[float] = []

    def leave(message: int) -> None:
        left.append(clock.now)

    receive = leave
    for demands in reversed(work.demands):
        receive = _Stage(clock, demands, receive).receive
    first = receive

    def arrive(message: int) -> None:
        if message + 1 < len(work.gaps):
            clock.call_at(clock.now + work.gaps[message + 1], arrive, message + 1)
        first(message)

    clock.call_at(work.gaps[0], arrive, 0)
    clock.run()
    return left


def in_simpy(work: Work) -> list[float]:
    """Run the tandem in idiomatic SimPy, with a Resource per station and a process per message."""
    env = simpy.Environment()
    stations = [simpy.Resource(env, capacity=WORKERS) for _ in work.demands]
    left: list[float] = []

    def message(number: int) -> Generator[simpy.Event, Any, None]:
        for station, demands in zip(stations, work.demands, strict=True):
            with station.request() as turn:
                yield turn
                yield env.timeout(demands[number])
        left.append(env.now)

    def source() -> Generator[simpy.Event, Any, None]:
        for number, gap in enumerate(work.gaps):
            yield env.timeout(gap)
            env.process(message(number))

    env.process(source())
    env.run()
    return left


def in_ciw(work: Work) -> list[float]:
    """Run the tandem in Ciw. Its stations use their demands in order of service, and it stops at the last arrival."""
    dists = ciw.dists
    network = ciw.create_network(
        arrival_distributions=[dists.Sequential(work.gaps), *[None] * (STATIONS - 1)],
        service_distributions=[dists.Sequential(demands) for demands in work.demands],
        number_of_servers=[WORKERS] * STATIONS,
        routing=[[float(to == station + 1) for to in range(STATIONS)] for station in range(STATIONS)],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_time(sum(work.gaps))
    return sorted(record.exit_date for record in simulation.get_all_records() if record.node == STATIONS)
