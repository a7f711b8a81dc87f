"""The delivered marks that a gateway passes on to the router of their user."""

from __future__ import annotations

from collections.abc import Callable

from imsim.core import frames
from imsim.core.limits import CURSORS
from imsim.core.timers import Timer, Timers


class Marks:
    """The delivered marks of one session.

    A mark is never rejected, because the client would not repeat it. Beyond the rate limit it waits, and a later mark
    of the same conversation replaces it. If the connection ends first, the cursors of the next sync contain the mark.

    `take(now)` takes one token from the user's rate limit and returns 0, or the seconds until there is a token.
    """

    __slots__ = ("_pass_on", "_take", "_timer", "_timers", "_waiting")

    def __init__(
        self, timers: Timers, take: Callable[[float], float], pass_on: Callable[[frames.Delivered, float], None]
    ) -> None:
        self._timers = timers
        self._take = take
        self._pass_on = pass_on
        self._waiting: dict[str, frames.Delivered] = {}  # by conversation
        self._timer: Timer | None = None

    def __len__(self) -> int:
        """Return the count of marks that wait."""
        return len(self._waiting)

    def add(self, mark: frames.Delivered, now: float) -> bool:
        """Pass the mark on, now or later. Return False if marks of too many conversations wait already."""
        waiting, id = self._waiting, mark.conversation_id
        wait = 0.0 if waiting else self._take(now)
        if not waiting and not wait:
            self._pass_on(mark, now)
        elif id in waiting or len(waiting) < CURSORS:
            if id not in waiting or waiting[id].seq < mark.seq:
                waiting[id] = mark
            if self._timer is None:
                self._timer = self._timers.at(now + wait, self._pass_on_waiting)
        else:
            return False
        return True

    def end(self) -> None:
        """Stop the timer, because the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _pass_on_waiting(self, _: None, now: float) -> None:
        waiting, wait = self._waiting, 0.0
        while waiting and not wait:
            wait = self._take(now)
            if not wait:
                self._pass_on(waiting.pop(next(iter(waiting))), now)
        self._timer = None
        if waiting:  # at least 1 ms later, because rounding could make the wait 0
            self._timer = self._timers.at(now + max(wait, 0.001), self._pass_on_waiting)
