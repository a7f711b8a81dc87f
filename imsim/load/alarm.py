"""A precise timer in the event loop of gevent.

The timers of the loop wake up to a millisecond late, because epoll counts in milliseconds. This delay would count as
latency of the server under test. Linux has precise timers that are file descriptors. Elsewhere, the alarm waits for the
last moment outside of the loop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey

from imsim.load.timer_file import open_timer, set_timer

_READ = 1  # an event of the loop's watchers
_WAKE_EARLY = 0.0012  # seconds; more than the timers of the loop may be late

_select = monkey.get_original("select", "select")


class Alarm:
    """A call of `ring` in the event loop, at a time of `time.perf_counter`. `ring` must neither wait nor raise."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._at: float | None = None
        self._is_closed = False
        self._file = open_timer()
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
            set_timer(self._file, at)
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
        if self._at is not None:
            left = self._at - time.perf_counter()
            if left <= 0:
                self._at = None
                self._ring()
            elif self._file is None:
                self._wait(left)
        if self._at is None and self._file is not None:  # it was not set again, so it would stay readable
            os.read(self._file, 8)

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
