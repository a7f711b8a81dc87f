"""The effect on latencies of devices that were offline by plan, or that the tester had taken out of the test.

The rows do not contain the online periods of the plan. They are derived again from the scenario and the seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imsim.results import RunData
from imsim.scenario import OnlinePeriods

if TYPE_CHECKING:
    import pandas as pd

NEVER = np.iinfo(np.int64).max
"""Later than any time."""

_Int64s = NDArray[np.int64]
_Bools = NDArray[np.bool_]


def waits_since(run: RunData, row: _Int64s | _Bools, delivered_at: _Int64s, intended: _Int64s) -> _Int64s:
    """Return when the device of each delivery began to wait for it, in ns.

    That is the intended time or, if the device was offline or withdrawn then, the time of its return.

    row: selects the rows of `deliveries`. delivered_at: NEVER if the message did not arrive.
    """
    planned, withdrawn = _online_periods(run), _withdrawals(run)
    if planned is None and withdrawn is None:
        return intended
    device = _devices(run, "deliveries", "recipient", row)
    back = intended
    for periods in (planned, withdrawn):
        if periods is not None:
            back = _of(periods, device).online_from(device, back)
    # A live device may leave a moment later than planned. It has not waited for messages that arrive in that moment.
    return np.where(delivered_at < back, intended, back)


def is_excused(run: RunData, row: _Int64s | _Bools, intended: _Int64s) -> _Bools:
    """Return whether a missing answer to each message is not the server's fault.

    This holds if the sending device was offline by plan when the run ended, if the tester withdrew it after the
    intended time, or if the tester ended the test before the answer was due.

    row: selects the rows of `messages`.
    """
    planned, withdrawn = _online_periods(run), _withdrawals(run)
    undecided_since = run.manifest.get("undecided_since")
    found: _Bools = intended >= (NEVER if undecided_since is None else round(undecided_since * 1e9))
    if planned is None and withdrawn is None:
        return found
    device = _devices(run, "messages", "sender", row)
    if planned is not None:
        found |= ~_of(planned, device).is_online_at_end(device)
    if withdrawn is not None:
        found |= ~_of(withdrawn, device).is_online_throughout(device, intended, np.full(len(device), NEVER - 1))
    return found


def had_left(run: RunData, users: pd.Series[str], devices: pd.Series[str], start: _Int64s, end: _Int64s) -> _Bools:
    """Return whether each device was offline by plan at any time from its `start` to its `end` (ns)."""
    online_periods = _online_periods(run)
    if online_periods is None:
        return np.zeros(len(users), bool)
    user, nth = (names.str[1:].astype(int).to_numpy(np.int64) for names in (users, devices))
    device = user * run.scenario.population.devices + nth
    return ~_of(online_periods, device).is_online_throughout(device, start, end)


def _online_periods(run: RunData) -> OnlinePeriods | None:
    return OnlinePeriods.drawn(run.scenario, run.seed, run.scenario.duration)


def _withdrawals(run: RunData) -> OnlinePeriods | None:
    """Return the periods in which devices were not withdrawn; None if none ever was."""
    if not run.has("withdrawals"):
        return None
    device = _devices(run, "withdrawals", "user", np.arange(len(run.integers("withdrawals", "since"))))
    since, until = (run.integers("withdrawals", name, NEVER) for name in ("since", "until"))
    # Devices are sorted, and the times of each. A period without an end is the last of its device.
    at = np.column_stack((since, until)).ravel()
    of_device = np.repeat(device, 2)[at != NEVER]
    first = np.searchsorted(of_device, np.arange(device.max() + 2))
    return OnlinePeriods(NEVER - 1, np.ones(len(first) - 1, bool), first, at[at != NEVER])


def _of(periods: OnlinePeriods, device: _Int64s) -> OnlinePeriods:
    """Return the periods of all of these devices. Devices beyond the plan are always online."""
    return periods.extended(int(device.max(initial=-1)) + 1)


def _devices(run: RunData, table: str, user: str, row: _Int64s | _Bools) -> _Int64s:
    """Return the number of the device of each row. Users are u0, u1 ... and their devices d0, d1 ..."""
    numbers = []
    for column in (user, "device"):
        words = run.words(table, column)
        numbers.append(np.array([int(text[1:]) for text in words.texts], np.int64)[words.index[row]])
    found: _Int64s = numbers[0] * run.scenario.population.devices + numbers[1]
    return found
