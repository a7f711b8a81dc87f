"""Timers of Linux that are file descriptors (timerfd): readable from a time of `time.perf_counter` on.

They are precise to some ten microseconds. The event loop watches them as it watches a socket.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_SOON = 1  # ns on that clock, so always in the past; 0 would stop the timer


class _Times(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("interval_s", "interval_ns", "s", "ns"))


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_TIMES = _Times()
_TIMES_POINTER = ctypes.byref(_TIMES)


def open_timer() -> int | None:
    """Return the file descriptor of a new timer, which the caller closes. None if the system has no such timers."""
    clock = time.get_clock_info("perf_counter").implementation
    if _LIBC is None or clock != "clock_gettime(CLOCK_MONOTONIC)" or not hasattr(_LIBC, "timerfd_create"):
        return None
    file: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    return file if file >= 0 else None


def set_timer(file: int, at: float) -> None:
    """Make the file descriptor readable at this time, and not before; at once if the time has passed."""
    ns = max(_SOON, int(at * 1e9))
    _TIMES.s, _TIMES.ns = divmod(ns, 1_000_000_000)
    assert _LIBC is not None
    _LIBC.timerfd_settime(file, _ABSOLUTE, _TIMES_POINTER, None)
