"""The status of a test while it runs: its file, which the parent process reads, and its progress in Locust's log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent

from imsim.core.exceptions import ImsimError
from imsim.load.collect import write_status
from imsim.load.device import now
from imsim.load.progress import Progress, line

logger = logging.getLogger("imsim.load")

_PROGRESS_SECONDS = 0.5  # between two writes of the progress
_LINE_SECONDS = 5.0  # between two lines of the progress in the log
_ACTIVITIES = {"play": "", "drain": "waiting for what is in flight, "}


class Status:
    """The phase, the manifest and the progress of a test.

    folder: of the file. duration: of the plan. elapsed: returns the seconds since the plan began.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], duration: float, elapsed: Callable[[], float]) -> None:
        self.phase = "login"
        self.started = ""
        """The time of day at which the plan began (ISO 8601)."""
        self.manifest = manifest
        self._folder = folder
        self._duration = duration
        self._elapsed = elapsed
        self._progress = Progress()
        self._write()

    def start(self) -> None:
        """Begin to report the progress, in a greenlet of its own."""
        self._reporter = gevent.spawn(self._report)

    def stop(self) -> None:
        """Report no more progress."""
        self._reporter.kill()

    def enter(self, phase: str, **entries: Any) -> None:
        """Write that the test has entered this phase, with further entries of the file."""
        self.phase = phase
        self._write(**entries)

    def progressed(self, index: int, report: dict[str, Any]) -> None:
        """Note what a player reports of its progress."""
        self._progress.add(index, report, now())

    def _report(self) -> None:
        next_line = _LINE_SECONDS
        while True:
            gevent.sleep(_PROGRESS_SECONDS)
            if self.phase not in _ACTIVITIES:
                continue
            live = self._progress.to_dict()
            text = f"{_ACTIVITIES[self.phase]}{line(live, self._elapsed(), self._duration)}"
            with contextlib.suppress(ImsimError):  # without space, the end of the test reports it
                self._write(live=live | {"line": text})
            if self._elapsed() >= next_line:
                next_line = self._elapsed() + _LINE_SECONDS
                logger.info(text)

    def _write(self, **entries: Any) -> None:
        started = {"started": self.started} if self.started else {}
        write_status(self._folder, {"phase": self.phase, "manifest": self.manifest, **started, **entries})
