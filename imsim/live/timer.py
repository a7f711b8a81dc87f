"""The timer of a machine in an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Machine(Protocol):
    def next_deadline(self) -> float | None: ...


class DeadlineTimer:
    """Calls `fire` when the machine's next deadline is due by `clock` (monotonic seconds).

    A clock other than `time.monotonic` is moved by hand: then the timer never fires by itself, and the code that moves
    the clock calls the shell's `wake()`.
    """

    def __init__(self, machine: Machine, clock: Callable[[], float], fire: Callable[[], None]) -> None:
        self._machine = machine
        self._clock = clock
        self._fire = fire
        self._by_hand = clock is not time.monotonic
        self._checking = False
        self._handle: asyncio.TimerHandle | None = None
        self._fires_at = 0.0

    def touch(self) -> None:
        """The machine was called: its deadline may have moved. Checked once per loop iteration."""
        if not self._checking and not self._by_hand:
            self._checking = True
            asyncio.get_running_loop().call_soon(self._check)

    def cancel(self) -> None:
        """Never fire again."""
        self._by_hand = True
        if self._handle is not None:
            self._handle.cancel()

    def _check(self) -> None:
        self._checking = False
        deadline = self._machine.next_deadline()
        if deadline is None or self._by_hand:
            return
        if self._handle is not None:
            # Most deadlines move away, because the answer came. To fire too early once costs less than to set the timer
            # again each time.
            if self._fires_at <= deadline:
                return
            self._handle.cancel()
        self._fires_at = deadline
        delay = max(0.0, deadline - self._clock())
        self._handle = asyncio.get_running_loop().call_later(delay, self._fired)

    def _fired(self) -> None:
        self._handle = None
        self._fire()
        self.touch()
