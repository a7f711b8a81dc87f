"""The devices of a run, as its coordinator knows them: which have a user, in which player, and which are online."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from imsim.core.exceptions import RunError
from imsim.load.device import now
from imsim.results import Recorder
from imsim.scenario.workload import Plan

_GONE_SECONDS = 30.0  # without any device online, after which the server counts as gone


class Population:
    """The devices of a run, by number: those of the plan, and those of users that are added during the test.

    spool: the file for the facts about devices that have no user.
    """

    def __init__(self, plan: Plan, spool: Path) -> None:
        self.size = len(plan.users) * len(plan.devices)
        """The count of devices, with and without a user."""
        self.online: set[int] = set()
        self.away: set[int] = set()
        """Devices that the plan or a task has logged out."""
        self.trouble = ""
        """The latest reason why a device was offline."""
        self.added = 0
        """The count of users beyond the plan."""
        self.refused = 0
        """The count of users for whom there was no device."""
        self._per_user = len(plan.devices)
        self._free = list(range(self.size - 1, -1, -1))  # numbers of devices without a user, the lowest last
        self._owner: dict[int, int] = {}  # the player of each device that has a user
        self._seen: float | None = None  # when a device was online, the last time that `watch` looked
        self._spool = spool
        self._recorder: Recorder | None = None

    @property
    def free(self) -> list[int]:
        """The numbers of the devices without a user."""
        return list(self._free)

    @property
    def leased(self) -> int:
        """The count of devices that have a user."""
        return self.size - len(self._free)

    @property
    def expected(self) -> int:
        """The count of devices that would be online if the server let them."""
        return self.leased - len(self.away.difference(self._free))

    def watch(self) -> None:
        """Look whether a device is online. To be called often while the plan is played.

        Raises: RunError if none was for a long time, so the server has gone away.
        """
        if self._seen is None or self.online or self.away or not self.leased:
            self._seen = now()
        elif now() - self._seen > _GONE_SECONDS:
            raise RunError(
                f"the server went away: all {self.leased} devices were offline for {_GONE_SECONDS:.0f} s"
                f" ({self.trouble})"
            )

    def owned(self, player: int) -> list[int]:
        """Return the numbers of the devices whose users are in this player, ascending."""
        return sorted(number for number, owner in self._owner.items() if owner == player)

    def lease(self, player: int) -> int | None:
        """Give the player a device, and return its number; None if there is none without a user."""
        if not self._free:
            return None
        number = self._free.pop()
        self._owner[number] = player
        return number

    def take_back(self, player: int, number: int) -> bool:
        """Handle that a device of this player has lost its user. Return false if it is not one of this player."""
        if self._owner.get(number) != player:
            return False
        del self._owner[number]
        self.online.discard(number)
        self._free.append(number)
        self._free.sort(reverse=True)
        return True

    def add_user(self) -> None:
        """Add a user beyond the plan. The devices are absent until they are online."""
        numbers = range(self.size, self.size + self._per_user)
        self.size += self._per_user
        self.withdraw(numbers, 0.0)
        self._free.extend(reversed(numbers))
        self.added += 1

    def came_online(self, number: int) -> None:
        """Handle that a device is online."""
        self.online.add(number)
        self.away.discard(number)

    def went_offline(self, number: int, reason: str) -> None:
        """Handle that a device is offline. Without a reason, the plan or a task has logged it out."""
        self.online.discard(number)
        if not reason:
            self.away.add(number)
        self.trouble = reason or self.trouble

    def withdraw(self, numbers: Iterable[int], at: float) -> None:
        """Record that these devices have no user from this time of the plan on (seconds)."""
        if self._recorder is None:
            self._recorder = Recorder(self._spool)
        for number in numbers:
            self._recorder.withdrawn(number, at)

    def close(self) -> None:
        """Close the file. Raises: RunError if it cannot be written."""
        if self._recorder is not None:
            self._recorder.close()
