"""A precise timer in the event loop of gevent.

The timers of the loop wake up to a millisecond late, because epoll counts in milliseconds. This delay would count as
latency of the server under test. Linux has timers that are file descriptors, which are precise to some ten
microseconds. Elsewhere, the alarm waits for the last moment outside of the loop.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey

_READ = 1  # an event of the loop's watchers
_WAKE_EARLY = 0.0012  # seconds; more than the timers of the loop may be late

_CLOCK_MONOTONIC = 1  # the clock of `time.perf_counter` on Linux
_ABSOLUTE = 1
_SOON = 1  # ns on that clock, so always in the past; 0 would stop the timer
_select = monkey.get_original("select", "select")


class Alarm:
    """A call of `ring` in the event loop, at a time of `time.perf_counter`. `ring` must neither wait nor raise."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._at: float | None = None
        self._is_closed = False
        self._file = _timer_file()
        self._watcher: Any = None
        if self._file is not None:
            self._watcher = gevent.get_hub().loop.io(self._file, _READ)
            self._watcher.start(self._wake)

    def set(self, at: float) -> None:
        """Ring at this time instead of any other; at once, but not within this call, if it has passed."""
        if self._is_closed:
            return
        self._at = at
        if self._file is not None:
            _set_timer(self._file, at)
        else:
            self._start(max(0.0, at - time.perf_counter() - _WAKE_EARLY))

    def close(self) -> None:
        """Ring no more. Repeating the call is harmless."""
        self._at, self._is_closed = None, True
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _wake(self) -> None:
        if self._file is not None:
            try:
                os.read(self._file, 8)  # otherwise it stays readable
            except BlockingIOError:  # it was set again meanwhile
                return
        elif self._at is not None and (left := self._at - time.perf_counter()) > 0:
            self._wait(left)
            return
        if self._at is not None:
            self._at = None
            self._ring()

    # --- without a file descriptor ----------------------------------------------------------------------------------

    def _start(self, after: float) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
        self._watcher = gevent.get_hub().loop.timer(after)
        self._watcher.start(self._wake)

    def _wait(self, left: float) -> None:
        """Wait for the last moment, or until the loop has input. Its file descriptor is readable then."""
        file = gevent.get_hub().loop.fileno()
        if file is not None:
            _select([file], (), (), min(left, _WAKE_EARLY))
        self._start(0.0)


class _Times(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("interval_s", "interval_ns", "s", "ns"))


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_TIMES = _Times()
_TIMES_POINTER = ctypes.byref(_TIMES)


def _timer_file() -> int | None:
    """Return a new timer of Linux; None on other systems."""
    if _LIBC is None:
        return None
    file: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    return file if file >= 0 else None


def _set_timer(file: int, at: float) -> None:
    assert _LIBC is not None
    ns = max(_SOON, int(at * 1e9))
    _TIMES.s, _TIMES.ns = divmod(ns, 1_000_000_000)
    _LIBC.timerfd_settime(file, _ABSOLUTE, _TIMES_POINTER, None)
