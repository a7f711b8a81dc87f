"""The online periods of devices. Each device alternates between online and offline (an alternating renewal process)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imsim.core.exceptions import UsageError
from imsim.scenario.distributions import Distribution, mean_of
from imsim.scenario.draws import Draws
from imsim.scenario.model import Scenario
from imsim.scenario.workload.columns import Bools, Floats, Int64s, starts

_MOST = 20_000_000
_BLOCK = 1 << 21  # the count of numbers that are drawn at once
_QUANTILES = (np.arange(4096) + 0.5) / 4096

#: Later than any time.
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class OnlinePeriods:
    """The times at which each device goes online or offline, until `end`. Times are in ns.

    After `end`, the state of a device does not change.
    """

    end: int
    is_online_first: Bools  # the state of each device at time 0
    first: Int64s  # index of each device's first change in `at`; the last entry is len(at)
    at: Int64s  # time of each change, sorted by device, then by time

    @classmethod
    def drawn(cls, scenario: Scenario, seed: int, duration: float) -> OnlinePeriods | None:
        """Draw the online periods of a scenario; None if its devices are always online.

        Raises: UsageError if there are too many changes.
        """
        sessions = scenario.population.sessions
        if sessions is None:
            return None
        devices = scenario.population.users * scenario.population.devices
        lengths = [sessions.offline, sessions.online]
        mean = mean_of(lengths[0]) + mean_of(lengths[1])
        if (many := 2 * devices * duration / mean) > _MOST:
            raise UsageError(
                f"scenario {scenario.name}: {many:.2g} online and offline periods are too many for one run (at most"
                f" {_MOST:.0e}); raise population.sessions.online"
            )
        share = mean_of(lengths[1]) / mean if sessions.start is None else sessions.start
        is_online_first = Draws(seed, "online").array(np.arange(devices)) < share

        end = round(duration * 1e9)
        draws, residual = Draws(seed, "spell"), Draws(seed, "spell under way")
        found: list[tuple[Int64s, Int64s]] = []
        for is_online in (False, True):
            active = np.flatnonzero(is_online_first == is_online)
            now = np.zeros(len(active))
            done = 0
            while len(active):
                pairs = max(1, min(math.ceil(1.5 * duration / mean), _BLOCK // len(active) // 2))
                u = draws.array(active[:, None], np.arange(done, done + 2 * pairs))
                times = np.empty(u.shape)
                times[:, 0::2] = lengths[is_online].quantiles(u[:, 0::2])
                times[:, 1::2] = lengths[not is_online].quantiles(u[:, 1::2])
                if done == 0 and sessions.start is None:
                    times[:, 0] = _under_way(lengths[is_online], u[:, 0], residual.array(active))
                times[:, 0] += now
                np.cumsum(times, axis=1, out=times)  # added one after another, so times do not depend on the block size
                ns = np.rint(times * 1e9)
                row, column = np.nonzero(ns < end)
                found.append((active[row], ns[row, column].astype(np.int64)))
                going_on = times[:, -1] < duration
                active, now, done = active[going_on], times[going_on, -1], done + 2 * pairs
        device, at = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(device, kind="stable")  # the changes of one device are already in order
        return cls(end, is_online_first, starts(np.bincount(device, minlength=devices)), at[order])

    def extended(self, devices: int) -> OnlinePeriods:
        """Return the periods of this many devices. The additional ones are always online."""
        more = max(0, devices - len(self.is_online_first))
        is_online_first = np.append(self.is_online_first, np.ones(more, bool))
        return OnlinePeriods(self.end, is_online_first, np.append(self.first, np.full(more, len(self.at))), self.at)

    def is_online(self, device: Int64s, at: Int64s | int) -> Bools:
        """Return whether each device is online at its time."""
        online: Bools = self.is_online_first[device] ^ (self._changes(device, at) % 2 == 1)
        return online

    def is_online_at_end(self, device: Int64s) -> Bools:
        """Return whether each device is online at `end`."""
        return self.is_online(device, self.end)

    def is_online_throughout(self, device: Int64s, since: Int64s, until: Int64s) -> Bools:
        """Return whether each device is online from `since` to `until` without a change."""
        is_same = np.equal(self._changes(device, since), self._changes(device, until))
        return self.is_online(device, since) & is_same

    def online_from(self, device: Int64s, at: Int64s) -> Int64s:
        """Return the first time from `at` on at which each device is online; NEVER if there is none."""
        following = self.first[device] + self._changes(device, at)
        has_following = following < self.first[device + 1]
        back = np.where(has_following, np.append(self.at, NEVER)[np.where(has_following, following, -1)], NEVER)
        return np.where(self.is_online(device, at), at, back)

    def changes(self) -> Iterator[tuple[int, int, bool]]:
        """Yield all changes as (ns, device, whether it goes online), ordered by time."""
        counts = np.diff(self.first)
        device = np.repeat(np.arange(len(counts)), counts)
        nth = np.arange(len(self.at)) - np.repeat(self.first[:-1], counts)
        goes_online = self.is_online_first[device] ^ (nth % 2 == 0)
        order = np.lexsort((device, self.at))
        return zip(self.at[order].tolist(), device[order].tolist(), goes_online[order].tolist(), strict=True)

    def _changes(self, device: Int64s, at: Int64s | int) -> Int64s:
        """Return the number of changes of each device up to its time. The bisection runs for all devices at once."""
        device = np.asarray(device)
        low, high = self.first[device], self.first[device + 1]
        times = np.append(self.at, NEVER)
        while (low < high).any():
            middle = (low + high) // 2
            is_past = (times[middle] <= at) & (low < high)
            low, high = np.where(is_past, middle + 1, low), np.where(is_past, high, np.minimum(high, middle))
        return low - self.first[device]


def _under_way(length: Distribution, u: Floats, v: Floats) -> Floats:
    """Return the remaining lengths of the periods that are under way at time 0.

    A period is under way with a probability in proportion to its length, and time 0 is at a random point of it. The
    lengths are 4,096 quantiles of the distribution, so the very end of a heavy tail is missing.
    """
    lengths = length.quantiles(_QUANTILES)
    chances = np.cumsum(lengths)
    met = lengths[np.minimum(np.searchsorted(chances / chances[-1], u), len(lengths) - 1)]
    left: Floats = met * v
    return left
