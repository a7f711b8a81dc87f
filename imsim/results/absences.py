"""The devices that were not there: taken out of the test by the tester, or cut off from the server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imsim.results.columns import Names, column
from imsim.results.recorder import Facts, Kind
from imsim.results.schema import WITHDRAWALS

_NEVER = np.iinfo(np.int64).max
_ALWAYS = np.iinfo(np.int64).min

_Ints = NDArray[np.integer]
_Int64s = NDArray[np.int64]
_Bools = NDArray[np.bool_]


class Absences:
    """The times at which devices were withdrawn, or lost their connection.

    facts: the facts about devices. devices: the number of all devices.
    """

    def __init__(self, facts: Facts, devices: int) -> None:
        facts = facts[(facts["device"] >= 0) & (facts["device"] < devices)]
        facts = facts[np.lexsort((facts["kind"], facts["at"], facts["device"]))]
        kind = facts["kind"]
        self._lost = facts[(kind == Kind.DISCONNECTED) | (kind == Kind.WITHDRAWN)]
        self._back = facts[(kind == Kind.ENTERED) | (kind == Kind.RETURNED)]
        entered = facts[kind == Kind.ENTERED]
        self._entered = np.full(devices, _NEVER)
        self._entered[entered["device"][::-1]] = entered["at"][::-1]  # the first one wins
        late = self._lost["device"][self._lost["at"] <= 0]
        self._is_late = np.zeros(devices, bool)
        self._is_late[late] = True
        self.device, self.since, self.until = _periods(facts[(kind == Kind.WITHDRAWN) | (kind == Kind.RETURNED)])
        """The periods in which devices were withdrawn, sorted by device and time. `until` is _NEVER without a return.
        """
        self._last = np.full(devices, _ALWAYS)
        self._last[self.device] = self.until  # the last assignment wins

    @property
    def has_withdrawn(self) -> bool:
        """Whether the tester withdrew a device."""
        return len(self.device) > 0

    def is_withdrawn_at_end(self, device: _Ints) -> _Bools:
        """Return whether each device was withdrawn and did not return."""
        found: _Bools = self._last[device] == _NEVER
        return found

    def is_withdrawn_after(self, device: _Ints, at: _Int64s) -> _Bools:
        """Return whether each device was withdrawn at any time after its `at`."""
        found: _Bools = self._last[device] > at
        return found

    def was_withdrawn(self, device: _Ints) -> _Bools:
        """Return whether each device was withdrawn at any time."""
        found: _Bools = self._last[device] > _ALWAYS
        return found

    def was_cut_off(self, device: _Ints, accepted_at: _Int64s, patience: int) -> _Bools:
        """Return whether each device had lost its connection when its message was accepted, or was withdrawn.

        Only the last loss until `patience` ns after `accepted_at` counts. The device was back if it returned after
        that loss and before `patience` ns before `accepted_at`.
        """
        lost, back = self._lost, self._back
        if not len(lost):
            return np.zeros(len(device), bool)
        at = np.concatenate((lost["at"], back["at"], accepted_at - patience, accepted_at + patience))
        # A device and the rank of a time among all times make one number, so bisection finds the order of events.
        ranks = np.split(np.unique(at, return_inverse=True)[1], np.cumsum([len(lost), len(back), len(accepted_at)]))
        devices = lost["device"].astype(np.int64), back["device"].astype(np.int64), device, device
        keys = [number * (len(at) + 1) + rank for number, rank in zip(devices, ranks, strict=True)]
        losses, returns = np.sort(keys[0]), np.sort(keys[1])
        latest = np.searchsorted(losses, keys[3], side="right")  # losses of lower devices, and of this one until then
        loss = np.append(losses, -1)[latest - 1]
        is_own = (latest > 0) & (loss // (len(at) + 1) == device)
        # The next return after the loss counts only if it lies before the time around the message begins.
        came_back = np.searchsorted(returns, loss, side="right") < np.searchsorted(returns, keys[2], side="left")
        found: _Bools = is_own & ~came_back
        return found

    def had_not_entered(self, device: _Ints, at: _Int64s) -> _Bools:
        """Return whether each device was not there at the start, and had not entered its groups before `at`."""
        found: _Bools = self._is_late[device] & (self._entered[device] > at)
        return found

    def table(self, users: Sequence[str], devices: Sequence[str]) -> pa.Table | None:
        """Return the table schema.WITHDRAWALS; None if no device was withdrawn."""
        if not self.has_withdrawn:
            return None
        return pa.table(
            [
                Names(users).column(self.device // len(devices)),
                Names(devices).column(self.device % len(devices)),
                column(self.since, pa.int64()),
                column(self.until, pa.int64(), self.until == _NEVER),
            ],
            schema=WITHDRAWALS,
        )


def _periods(facts: Facts) -> tuple[_Int64s, _Int64s, _Int64s]:
    """Return (device, since, until) of each period in which a device was withdrawn. A repeated fact changes nothing."""
    device, is_start = facts["device"].astype(np.int64), facts["kind"] == Kind.WITHDRAWN
    is_new = np.append(True, (device[1:] != device[:-1]) | (is_start[1:] != is_start[:-1]))[: len(facts)]
    facts, device, is_start = facts[is_new], device[is_new], is_start[is_new]
    has_end = np.append((device[1:] == device[:-1]) & ~is_start[1:], False)[: len(facts)]
    until = np.where(has_end, np.append(facts["at"][1:], 0)[: len(facts)], _NEVER)
    return device[is_start], facts["at"][is_start].astype(np.int64), until[is_start].astype(np.int64)
