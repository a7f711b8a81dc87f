"""When users do something: a Poisson process of each, and what shapes it."""

from __future__ import annotations

import math

import numpy as np

from imsim.scenario.arrivals import Replay, Shape
from imsim.scenario.distributions import mean_of
from imsim.scenario.draws import Draws
from imsim.scenario.model import Scenario
from imsim.scenario.workload.columns import Floats, Int64s, places

# Numbers drawn at a time: bounds the memory, not the plan.
_BLOCK = 1 << 21


def writing(scenario: Scenario, seed: int, duration: float) -> tuple[Int64s, Int64s, Int64s]:
    """Who writes when: (user, number among the user's own, ns), by (ns, user)."""
    work = scenario.workload
    activity = _activity(scenario, seed)
    if isinstance(work.arrivals, Replay):
        return _replayed(work.arrivals, seed, activity, duration)
    return arrivals(Draws(seed, "gap"), work.rate * activity, duration, work.arrivals.shape(seed, duration))


def expected(scenario: Scenario, seed: int, duration: float) -> float:
    """How many messages are to be expected."""
    arrivals = scenario.workload.arrivals
    if isinstance(arrivals, Replay):
        return len(arrivals.at)
    shape = arrivals.shape(seed, duration)
    rate = scenario.workload.rate * float(_activity(scenario, seed).sum())
    return rate * (shape.expected(duration) if shape else duration)


def _activity(scenario: Scenario, seed: int) -> Floats:
    """How much each user writes, in multiples of what a user writes on average."""
    activity, users = scenario.workload.activity, np.arange(scenario.population.users)
    if activity.constant is not None:
        return np.ones(len(users))
    return activity.quantiles(Draws(seed, "activity").array(users)) / mean_of(activity)


def arrivals(draws: Draws, rates: Floats, duration: float, shape: Shape | None = None) -> tuple[Int64s, Int64s, Int64s]:
    """A Poisson process of each entity, with its rate, up to `duration`: (entity, number among its own, ns), by
    (ns, entity). With a shape, that of the steady process is taken for how much was to be expected until then."""
    end = round(duration * 1e9)
    until = shape.expected(duration) if shape else duration
    nobody = np.empty(0, np.int64)
    found = [(nobody, nobody, nobody)]
    active = np.flatnonzero(rates)
    now = np.zeros(len(active))  # seconds, of each active entity's latest arrival
    done = 0  # arrivals already drawn for each active entity
    while len(active):
        left = float((rates[active] * np.maximum(until - now, 0.0)).max())
        width = max(1, min(math.ceil(left + 3 * math.sqrt(left)), _BLOCK // len(active)))
        number = np.arange(done, done + width)
        times = -np.log1p(-draws.array(active[:, None], number)) / rates[active, None]
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


def _replayed(replay: Replay, seed: int, activity: Floats, duration: float) -> tuple[Int64s, Int64s, Int64s]:
    """Each moment is a message of anybody, of the more active the more often."""
    at = np.rint(np.array(replay.at) * 1e9).astype(np.int64)
    at = at[at < round(duration * 1e9)]
    number = np.arange(len(at))
    shares = np.cumsum(activity)
    user = np.searchsorted(shares[:-1] / shares[-1], Draws(seed, "replayed by").array(number), side="right")
    by_user = np.argsort(user, kind="stable")
    nth = np.empty(len(at), np.int64)
    nth[by_user] = places(np.bincount(user, minlength=len(activity)))
    return _in_order(user, nth, at)


def _in_order(user: Int64s, nth: Int64s, at: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    order = np.lexsort((nth, user, at))
    return user[order], nth[order], at[order]
