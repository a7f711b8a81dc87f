"""A test that this process leads: its coordinator, its player or its workers, and the folder of its run.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import locust
from gevent.event import Event

from imsim import disk
from imsim.analysis import Run
from imsim.load.collect import collect, read_status, write
from imsim.load.coordinator import Coordinator
from imsim.load.job import Job
from imsim.load.player import Player
from imsim.load.recording import Report
from imsim.load.worker import describe
from imsim.load.workers import Crew, Workers
from imsim.scenario import Scenario


class Test:
    """A run that this process leads, from its start until its folder is written.

    server: what the server has said of itself (`Job.probe`).
    shared: the folder of the parent process, which then makes the run; None: `write` makes it in `out`.
    workers: the other processes, which play the plan; None: this process plays it.
    """

    def __init__(
        self,
        job: Job,
        server: Mapping[str, Any],
        shared: str | None,
        out: str,
        spawning: float,
        finished: Callable[[], None],
        report: Report,
        workers: Workers | None = None,
    ) -> None:
        self.player: Player | None = None
        self.written = Event()
        self._shared = shared
        self._out = out
        self._crew: Crew | None = None
        with disk.errors("make a folder in", tempfile.gettempdir(), note=disk.TMPDIR):
            folder = self._folder = Path(shared or tempfile.mkdtemp(prefix="imsim-load-"))
        known = {name: server.get(name) for name in ("name", "version")}
        manifest, about = {"locust": locust.__version__, "server": known if known["name"] else None}, describe()
        try:
            if workers is not None:
                crew = self._crew = workers.crew(job, folder)
                self._coordinator = Coordinator(job, crew.send, crew.count, folder, finished, manifest, spawning, about)
                crew.start(self._coordinator)
            else:
                self.player = Player(job, 0, 1, folder, self._to_coordinator, report)
                self._coordinator = Coordinator(job, self._to_player, 1, folder, finished, manifest, spawning)
                self._to_coordinator("hello", **about)
        except BaseException:
            self._remove_folder()
            raise
        self._coordinator.start()

    @property
    def failure(self) -> str | None:
        """Why the run ended early or is incomplete; None if it is complete."""
        return self._coordinator.failure

    @property
    def warnings(self) -> list[str]:
        """The warnings that the log has shown."""
        return self._coordinator.warnings

    @property
    def scenario(self) -> Scenario:
        """The scenario that is played."""
        return self._coordinator.job.scenario

    @property
    def elapsed(self) -> float:
        """The seconds since the plan began; 0 before that."""
        return self._coordinator.elapsed

    @property
    def is_ending(self) -> bool:
        """Whether the test has begun to end."""
        return self._coordinator.is_ending

    def spawned(self) -> None:
        """See `Coordinator.spawned`."""
        self._coordinator.spawned()

    def end(self, reason: str, *, is_complete: bool = False, patience: float = math.inf) -> None:
        """See `Coordinator.end`."""
        self._coordinator.end(reason, is_complete=is_complete, patience=patience)

    def collect(self) -> Run | None:
        """Return the run; None if it has no rows, or if the parent makes it. Its rows exist until `close`."""
        if self._shared is not None or "started" not in read_status(self._folder):
            return None
        return collect(self._folder, self._coordinator.job.scenario, rows=self._folder / "rows")

    def write(self, run: Run) -> Path:
        """Write the run, and return the path of its folder."""
        return write(run, self._out)

    def close(self) -> None:
        """Remove the temporary folder."""
        if self._crew is not None:
            self._crew.close()
        self._remove_folder()
        self.written.set()

    def _remove_folder(self) -> None:
        if self._shared is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _to_player(self, index: int, kind: str, **values: Any) -> None:
        assert self.player is not None
        self.player.handle(kind, **values)

    def _to_coordinator(self, kind: str, **values: Any) -> None:
        self._coordinator.handle(0, kind, **values)
