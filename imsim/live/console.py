"""The standard error of `imsim serve`: log lines and, on a terminal, a status line that is rewritten each second.

A thread writes both. So a terminal that has stopped, or a full pipe that nobody reads, does not stop the server.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Thread
from typing import TextIO

from imsim.live.log import FORMATTERS
from imsim.live.metrics import Metrics, quantile

REFRESH = 1.0  # seconds between two status lines
_MOST_LINES = 10_000  # that wait to be written; beyond it, lines are dropped
_END_TIMEOUT = 2.0  # seconds that the end waits for the last lines

_SHOW = ""  # instead of a line: show the status
_CLEAR = "\r\x1b[K"  # to the start of the terminal's line, and erase it


class Console(logging.Handler):
    """A handler that writes log lines to `stream`, and a status line below them if `show_status` gave one.

    It is the handler of all logs of the process between `open` and `close`. Lines below `level` are dropped.
    """

    def __init__(self, stream: TextIO, format: str = "text", level: str = "warning") -> None:
        super().__init__(level.upper())
        self.setFormatter(FORMATTERS[format]())
        self._stream = stream
        # The thread writes to the file itself: if it held the lock of the stream, the process could not exit.
        self._file: int | None = None
        with suppress(OSError):
            self._file = stream.fileno()
        self._lines: Queue[str | None] = Queue(_MOST_LINES)
        self._status: Callable[[], str] | None = None
        self._is_shown = False  # whether the last line of the terminal is the status line
        self._thread = Thread(target=self._write, name="imsim-console", daemon=True)

    def open(self) -> None:
        """Become the handler of all logs."""
        root = logging.getLogger()
        self._before = root.level
        root.addHandler(self)
        root.setLevel(min(self.level, logging.WARNING))
        self._thread.start()

    def close(self) -> None:
        """Write the lines that wait, and remove the status line."""
        root = logging.getLogger()
        if self in root.handlers:
            root.removeHandler(self)
            root.setLevel(self._before)
            with suppress(Full):
                self._lines.put_nowait(None)
            self._thread.join(_END_TIMEOUT)
        super().close()

    def show_status(self, status: Callable[[], str]) -> None:
        """Show the text that `status` returns, and update it each second. Its thread is not that of the event loop."""
        self._status = status
        with suppress(Full):
            self._lines.put_nowait(_SHOW)

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Full):
            self._lines.put_nowait(self.format(record))

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        with suppress(OSError, ValueError):  # the other end is gone, or the stream is closed
            while True:
                try:
                    line = self._lines.get(timeout=REFRESH)
                except Empty:
                    line = _SHOW
                if line == _SHOW:
                    self._show()
                    continue
                clear = _CLEAR if self._is_shown else ""
                self._is_shown = False
                self._put(clear + (line + "\n" if line is not None else ""))
                if line is None:
                    return
                if self._lines.empty():
                    self._show()

    def _show(self) -> None:
        if self._status is None:
            return
        width = shutil.get_terminal_size().columns
        if self._file is not None:
            with suppress(OSError):
                width = os.get_terminal_size(self._file).columns or width
        self._is_shown = True
        self._put(_CLEAR + self._status()[: width - 1])  # a full line would wrap

    def _put(self, text: str) -> None:
        if self._file is None:
            self._stream.write(text)
            return
        data = text.encode(errors="backslashreplace")
        with suppress(BlockingIOError):  # the file does not block, and it is full: drop the rest
            while data:
                data = data[os.write(self._file, data) :]


class Status:
    """The status line of a server: its connections, messages per second, and the 99th percentile of the store time.

    The rates are those since the line before, but over REFRESH seconds at least.
    """

    def __init__(self, metrics: Metrics, connections: Callable[[], int], clock: Callable[[], float] = time.monotonic):
        self._metrics = metrics
        self._connections = connections
        self._clock = clock
        self._at = clock()
        self._counts = list(metrics.store.counts)
        self._messages = self._count()
        self._rates = "0 messages/s"

    def __call__(self) -> str:
        now = self._clock()
        if now - self._at >= REFRESH:
            counts, messages = list(self._metrics.store.counts), self._count()
            rate = (messages - self._messages) / (now - self._at)
            p99 = quantile([new - old for new, old in zip(counts, self._counts, strict=True)], 0.99)
            self._rates = f"{rate:,.0f} messages/s"
            if p99 is not None:
                self._rates += f", stored within {p99 * 1000:,.1f} ms (p99)"
            self._at, self._counts, self._messages = now, counts, messages
        return f"{self._connections():,} connections, {self._rates}"

    def _count(self) -> int:
        return sum(self._metrics.store.counts) + self._metrics.chatroom_messages
