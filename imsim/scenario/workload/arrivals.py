"""When users do something: a Poisson process of each."""

from __future__ import annotations

import math

import numpy as np

from imsim.scenario.draws import Draws
from imsim.scenario.workload.columns import Int64s

# Numbers drawn at a time: bounds the memory, not the plan.
_BLOCK = 1 << 21


def arrivals(draws: Draws, users: int, rate: float, duration: float) -> tuple[Int64s, Int64s, Int64s]:
    """Every user's Poisson process up to `duration`: (user, number among the user's own, ns), by (ns, user)."""
    end = round(duration * 1e9)
    found: list[tuple[Int64s, Int64s, Int64s]] = []
    active = np.arange(users)
    now = np.zeros(users)  # seconds, of each active user's latest arrival
    done = 0  # arrivals already drawn for each active user
    while len(active):
        left = rate * max(duration - float(now.min()), 0.0)
        width = max(1, min(math.ceil(left + 3 * math.sqrt(left)), _BLOCK // len(active)))
        number = np.arange(done, done + width)
        times = -np.log1p(-draws.array(active[:, None], number)) / rate
        # Added strictly one after another from time 0, so the width of a block never shows in a time.
        times[:, 0] += now
        np.cumsum(times, axis=1, out=times)
        ns = np.rint(times * 1e9)
        row, column = np.nonzero(ns < end)
        found.append((active[row], number[column], ns[row, column].astype(np.int64)))
        going_on = times[:, -1] < duration
        active, now, done = active[going_on], times[going_on, -1], done + width
    user, nth, at = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((nth, user, at))
    return user[order], nth[order], at[order]
