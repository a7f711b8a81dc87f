"""The reports of the players of a run on what is in flight, as its coordinator sums them up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from imsim.load.device import now

_QUIET_SECONDS = 0.3  # without an arrival, after which nothing is in flight between processes


class Flight:
    """The latest report of each player: `in_flight` (without devices that have no user), `is_behind` and `is_stopped`.

    present: returns the players that take part.
    """

    def __init__(self, present: Callable[[], set[int]]) -> None:
        self._present = present
        self._states: dict[int, dict[str, Any]] = {}
        self._arrived = -math.inf  # when one of them last differed from the one before

    def report(self, index: int, state: dict[str, Any]) -> None:
        """Note the report of a player."""
        if state != self._states.get(index):
            self._arrived = now()
        self._states[index] = state

    def forget(self) -> None:
        """Wait for new reports of all players."""
        self._states.clear()

    @property
    def is_known(self) -> bool:
        """Whether all players have reported."""
        return self._states.keys() >= self._present()

    @property
    def is_sent(self) -> bool:
        """Whether all players have sent what was due."""
        return self.is_known and not any(self._states[index]["is_behind"] for index in self._present())

    @property
    def is_over(self) -> bool:
        """Whether nothing is in flight.

        The reports of several players are not of the same moment. A message that its sender gave up, but that arrives
        at another player, makes their sum too small. So nothing may have arrived for a moment, too.
        """
        if not self.is_known or sum(state["in_flight"] for state in self._states.values()) > 0:
            return False
        return len(self._present()) == 1 or now() - self._arrived >= _QUIET_SECONDS
