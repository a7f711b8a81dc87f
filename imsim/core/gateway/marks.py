"""Delivered marks on their way from a gateway to the router of their user."""

from __future__ import annotations

from collections.abc import Callable

from imsim.core import frames
from imsim.core.limits import CURSORS
from imsim.core.timers import Timer, Timers


class Marks:
    """The marks of one session. A mark is never refused, because the client would not repeat it: beyond the rate it
    waits, and the latest of its conversation stands for those before it. If the connection ends first, the next sync
    says it.

    `take(now)` takes one from the user's budget and returns 0, or the seconds until there is one again.
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
        """The number of marks that wait."""
        return len(self._waiting)

    def add(self, mark: frames.Delivered, now: float) -> bool:
        """Pass the mark on, now or later. Returns whether there was room for it: marks of more conversations than a
        device may have do not wait."""
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
        if self._timer is not None:
            self._timer.cancel()

    def _pass_on_waiting(self, _: None, now: float) -> None:
        waiting, wait = self._waiting, 0.0
        while waiting and not wait:
            wait = self._take(now)
            if not wait:
                self._pass_on(waiting.pop(next(iter(waiting))), now)
        self._timer = None
        if waiting:  # not at this very moment, which rounding might make of it
            self._timer = self._timers.at(now + max(wait, 0.001), self._pass_on_waiting)
