"""The effect on latencies of devices that are offline by plan.

The rows do not contain the online periods. They are derived again from the scenario and the seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imsim.results import RunData
from imsim.scenario import OnlinePeriods

if TYPE_CHECKING:
    import pandas as pd


def waits_since(run: RunData, deliveries: pd.DataFrame, intended: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return when each delivery's device began to wait for it, in ns.

    That is the intended time or, if the device was offline then, the time of its return.
    """
    online_periods = _online_periods(run)
    if online_periods is None:
        return intended
    back = online_periods.online_from(_devices(run, deliveries["recipient"], deliveries["device"]), intended)
    # A live device may leave a moment later than planned. It has not waited for messages that arrive in that moment.
    is_early = deliveries["delivered_at"].to_numpy(np.float64, na_value=np.inf) < back
    return np.where(is_early, intended, back)


def was_offline_at_end(run: RunData, messages: pd.DataFrame) -> NDArray[np.bool_]:
    """Return whether each message's sending device was offline when the run ended: no answer can reach it then."""
    online_periods = _online_periods(run)
    if online_periods is None:
        return np.zeros(len(messages), bool)
    return ~online_periods.is_online_at_end(_devices(run, messages["sender"], messages["device"]))


def had_left(
    run: RunData, users: pd.Series[str], devices: pd.Series[str], start: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether each device was offline by plan at any time from its `start` to its `end` (ns)."""
    online_periods = _online_periods(run)
    if online_periods is None:
        return np.zeros(len(users), bool)
    return ~online_periods.is_online_throughout(_devices(run, users, devices), start, end)


def _online_periods(run: RunData) -> OnlinePeriods | None:
    return OnlinePeriods.drawn(run.scenario, run.seed, run.scenario.duration)


def _devices(run: RunData, users: pd.Series[str], devices: pd.Series[str]) -> NDArray[np.int64]:
    """Return the plan's number of each device: users are u0, u1 ... and their devices d0, d1 ..."""
    user, device = (names.str[1:].astype(int).to_numpy(np.int64) for names in (users, devices))
    numbers: NDArray[np.int64] = user * run.scenario.population.devices + device
    return numbers
