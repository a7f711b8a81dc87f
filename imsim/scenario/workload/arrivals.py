"""The times at which users send messages: a Poisson process for each user, or a replay."""

from __future__ import annotations

import math

import numpy as np

from imsim.scenario.arrivals import Replay, Shape
from imsim.scenario.distributions import mean_of
from imsim.scenario.draws import Draws
from imsim.scenario.model import Scenario
from imsim.scenario.workload.columns import Floats, Int64s, places

# The count of numbers that are drawn at once. It bounds the memory; the plan does not depend on it.
_BLOCK = 1 << 21


def writing(scenario: Scenario, seed: int, duration: float) -> tuple[Int64s, Int64s, Int64s]:
    """Return the times of all messages: (user, number of the message of this user, ns), sorted by (ns, user)."""
    work = scenario.workload
    activity = _activity(scenario, seed)
    if isinstance(work.arrivals, Replay):
        return _replayed(work.arrivals, seed, activity, duration)
    return arrivals(Draws(seed, "gap"), work.rate * activity, duration, work.arrivals.shape(seed, duration))


def expected(scenario: Scenario, seed: int, duration: float) -> float:
    """Return the expected number of messages."""
    arrivals = scenario.workload.arrivals
    if isinstance(arrivals, Replay):
        return len(arrivals.at)
    shape = arrivals.shape(seed, duration)
    rate = scenario.workload.rate * float(_activity(scenario, seed).sum())
    return rate * (shape.expected(duration) if shape else duration)


def _activity(scenario: Scenario, seed: int) -> Floats:
    """Return the rate of each user as a multiple of the mean rate."""
    activity, users = scenario.workload.activity, np.arange(scenario.population.users)
    if activity.constant is not None:
        return np.ones(len(users))
    return activity.quantiles(Draws(seed, "activity").array(users)) / mean_of(activity)


def arrivals(draws: Draws, rates: Floats, duration: float, shape: Shape | None = None) -> tuple[Int64s, Int64s, Int64s]:
    """Draw a Poisson process for each entity, with its rate, up to `duration`.

    Returns (entity, number of the arrival of this entity, ns), sorted by (ns, entity). With a shape, each time of the
    steady process is taken as an expected number, and moved to the time by which the shape has that expected number.
    """
    end = round(duration * 1e9)
    until = shape.expected(duration) if shape else duration
    nobody = np.empty(0, np.int64)
    found = [(nobody, nobody, nobody)]
    active = np.flatnonzero(rates)
    now = np.zeros(len(active))  # the latest arrival of each active entity, in seconds
    done = 0  # count of arrivals already drawn for each active entity
    while len(active):
        left = float((rates[active] * np.maximum(until - now, 0.0)).max())
        width = max(1, min(math.ceil(left + 3 * math.sqrt(left)), _BLOCK // len(active)))
        number = np.arange(done, done + width)
        times = -np.log1p(-draws.array(active[:, None], number)) / rates[active, None]
        # Gaps are added one after another from time 0, so times do not depend on the width of a block.
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
    """Return the messages of a replay. The user of each moment is drawn in proportion to the activity."""
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
