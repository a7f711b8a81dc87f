"""When users do something: a Poisson process of each, and what shapes it."""

from __future__ import annotations

import math

import numpy as np

from imsim.scenario.arrivals import Replay, Shape
from imsim.scenario.draws import Draws
from imsim.scenario.model import Scenario
from imsim.scenario.workload.columns import Int64s, places

# Numbers drawn at a time: bounds the memory, not the plan.
_BLOCK = 1 << 21


def writing(scenario: Scenario, seed: int, duration: float) -> tuple[Int64s, Int64s, Int64s]:
    """Who writes when: (user, number among the user's own, ns), by (ns, user)."""
    work, users = scenario.workload, scenario.population.users
    if isinstance(work.arrivals, Replay):
        return _replayed(work.arrivals, seed, users, duration)
    return arrivals(Draws(seed, "gap"), users, work.rate, duration, work.arrivals.shape(seed, duration))


def expected(scenario: Scenario, seed: int, duration: float) -> float:
    """How many messages are to be expected."""
    arrivals = scenario.workload.arrivals
    if isinstance(arrivals, Replay):
        return len(arrivals.at)
    shape = arrivals.shape(seed, duration)
    return scenario.population.users * scenario.workload.rate * (shape.expected(duration) if shape else duration)


def arrivals(
    draws: Draws, entities: int, rate: float, duration: float, shape: Shape | None = None
) -> tuple[Int64s, Int64s, Int64s]:
    """A Poisson process of each entity up to `duration`: (entity, number among its own, ns), by (ns, entity). With a
    shape, that of the steady process is taken for how much was to be expected until then."""
    end = round(duration * 1e9)
    until = shape.expected(duration) if shape else duration
    found: list[tuple[Int64s, Int64s, Int64s]] = []
    active = np.arange(entities)
    now = np.zeros(entities)  # seconds, of each active entity's latest arrival
    done = 0  # arrivals already drawn for each active entity
    while len(active):
        left = rate * max(until - float(now.min()), 0.0)
        width = max(1, min(math.ceil(left + 3 * math.sqrt(left)), _BLOCK // len(active)))
        number = np.arange(done, done + width)
        times = -np.log1p(-draws.array(active[:, None], number)) / rate
        # Added strictly one after another from time 0, so the width of a block never shows in a time.
        times[:, 0] += now
        np.cumsum(times, axis=1, out=times)
        at = times if shape is None else shape.when(times)
        ns = np.rint(at * 1e9)
        row, column = np.nonzero(ns < end)
        found.append((active[row], number[column], ns[row, column].astype(np.int64)))
        going_on = at[:, -1] < duration
        active, now, done = active[going_on], times[going_on, -1], done + width
    user, nth, ns = (np.concatenate(column) for column in zip(*found, strict=True))
    return _in_order(user, nth, ns)


def _replayed(replay: Replay, seed: int, users: int, duration: float) -> tuple[Int64s, Int64s, Int64s]:
    """Each moment is a message of anybody."""
    at = np.rint(np.array(replay.at) * 1e9).astype(np.int64)
    at = at[at < round(duration * 1e9)]
    number = np.arange(len(at))
    user = (Draws(seed, "replayed by").array(number) * users).astype(np.int64)
    by_user = np.argsort(user, kind="stable")
    nth = np.empty(len(at), np.int64)
    nth[by_user] = places(np.bincount(user, minlength=users))
    return _in_order(user, nth, at)


def _in_order(user: Int64s, nth: Int64s, at: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    order = np.lexsort((nth, user, at))
    return user[order], nth[order], at[order]
