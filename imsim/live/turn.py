"""The budget of one turn: how much of one kind of work is done in one iteration of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Seconds between two shares of work that others must not wait for. The event loop has time for them in the pause, and
# so has the thread of the storage. It shares the interpreter with the loop: a loop that is always busy lets the thread
# wait for milliseconds, many times in a commit.
PAUSE = 0.001

QUIET_AFTER = 1.0  # seconds


class TurnClock:
    """A clock that measures for how long the present turn of the event loop has handled what it read.

    The loop reads all data of a turn before the turn begins. So the data has waited at least for this time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._is_running = False
        self._began = 0.0

    def elapsed(self) -> float:
        """Return the seconds since the first call in this turn."""
        now = self._clock()
        if not self._is_running:
            self._is_running = True
            self._began = now
            asyncio.get_running_loop().call_soon(self._end)
        return now - self._began

    def _end(self) -> None:
        self._is_running = False


class Quiet:
    """Tells whether the event loop is quiet: whether nothing has happened lately that other work must not delay.

    `count` returns how often it has happened. The calls themselves look at it, so after a long time without a call the
    answer can be False although it is quiet.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._last = 0
        self._changed_at = float("-inf")

    def __call__(self) -> bool:
        now, count = asyncio.get_running_loop().time(), self._count()
        if count != self._last:
            self._last, self._changed_at = count, now
        return now - self._changed_at >= QUIET_AFTER


def never() -> bool:
    """Return False: the `is_quiet` of a loop whose other work is always in a hurry."""
    return False


class TurnBudget:
    """The budget of one turn of the event loop, in units of work.

    The caller takes a unit before it does the work. If none is left, the work must wait. The next turn follows after
    `pause` seconds. Then the budget is `size` again, and `resume` is called, which should do the work that waited.

    While `is_quiet()` is true, the budget is `size_if_quiet`, which can be larger: each turn has a cost of its own, and
    so has each commit to storage.
    """

    def __init__(
        self,
        size: int,
        resume: Callable[[], None],
        pause: float = 0.0,
        is_quiet: Callable[[], bool] = never,
        size_if_quiet: int = 0,
    ) -> None:
        self._size = size
        self._size_if_quiet = size_if_quiet
        self._is_quiet = is_quiet
        self._resume = resume
        self._pause = pause
        self._left = size
        self._is_scheduled = False

    def take(self) -> bool:
        """Take a unit. Return whether there was one."""
        self.continue_later()
        if not self._left:
            return False
        self._left -= 1
        return True

    def continue_later(self) -> None:
        """Call `resume` in the next turn, whether units are left or not."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._end_turn if self._pause else self._begin_turn)

    def _end_turn(self) -> None:
        # Only now, because the pause must not begin before the work of the turn is done.
        asyncio.get_running_loop().call_later(self._pause, self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_scheduled = False
        self._left = self._size_if_quiet if self._is_quiet() else self._size
        self._resume()
