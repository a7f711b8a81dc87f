"""A timer for the deadlines of a sans-I/O machine in an asyncio event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Machine(Protocol):
    """A machine that has deadlines."""

    def next_deadline(self) -> float | None:
        """Return the time of the next deadline, or None if nothing is pending."""
        ...


class DeadlineTimer:
    """A timer that calls `fire` when the machine's next deadline is due by `clock` (monotonic seconds).

    A clock other than `time.monotonic` is moved by hand. With such a clock the timer never fires by itself; the code
    that moves the clock must call the shell's `wake()`.
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
        """Schedule a check of the machine's deadline, once per iteration of the event loop.

        Call it after each call to the machine, because its deadline may have moved.
        """
        if not self._checking and not self._by_hand:
            self._checking = True
            asyncio.get_running_loop().call_soon(self._check)

    def cancel(self) -> None:
        """Stop the timer permanently."""
        self._by_hand = True
        if self._handle is not None:
            self._handle.cancel()

    def _check(self) -> None:
        self._checking = False
        deadline = self._machine.next_deadline()
        if deadline is None or self._by_hand:
            return
        if self._handle is not None:
            # Most deadlines move to a later time, because the awaited answer arrives. One wake-up that is too early
            # costs less than setting the timer again each time.
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
