"""A tandem of stations without any protocol, three times: on imsim's clock, in idiomatic SimPy, in Ciw.

Four stations of four workers, 70 % of them busy, Poisson arrivals and exponential demands: the yardstick of the
benchmarks. All three get the same numbers, drawn beforehand, so that what is measured is the simulator.
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
    """The gaps between `count` messages, and the demand of each at each station; about one message a second."""

    def __init__(self, count: int, seed: int = 1) -> None:
        numbers = np.arange(count)
        self.gaps: list[float] = (-np.log1p(-Draws(seed, "gap").array(numbers))).tolist()
        self.demands: list[list[float]] = [
            (-WORKERS * LOAD * np.log1p(-Draws(seed, "demand", station).array(numbers))).tolist()
            for station in range(STATIONS)
        ]


class _Stage:
    """A station as an imsim node uses it: one event a hop."""

    def __init__(self, clock: Clock, demands: list[float], then: Any) -> None:
        self.clock = clock
        self.station = Station(WORKERS)
        self.demands = demands
        self.then = then

    def receive(self, message: int) -> None:
        clock = self.clock
        clock.call_at(self.station.submit(clock.now, self.demands[message]), self.then, message)


def in_imsim(work: Work) -> list[float]:
    """When the messages left, in the order of leaving."""
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
    """The same as one would write it in SimPy: a Resource for each station, a process for each message."""
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
    """The same in Ciw, where a station takes its demands in the order of service; it stops with the last arrival."""
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
