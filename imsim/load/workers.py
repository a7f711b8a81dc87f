"""The workers of a distributed load test, as the master sees them. `imsim.load.worker` is the other side.

The master runs the coordinator of a test, and each worker runs a player. `Crew` and `Worker` carry their messages, and
the workers' files to the master's folder. The messages of these two:

| kind | from | meaning |
|---|---|---|
| present | worker | this process can receive messages; sent again until there is an answer |
| welcome | master | the answer |
| job | master | make a player for this test |
| hello | worker | the player is ready; the values describe the process |
| refused | worker | there is no player, with the reason |
| alive | both | nothing else was to be sent for a while |
| chunk, stored | worker, master | a part of a file, and its acknowledgement |
| finished | worker | the player's last message; all files are complete on the master |
| left | worker | the same, because this worker is terminated |
| quit | master | end the test: the master does not use this worker any longer |

All others go from the coordinator to a player or back. Messages of another test are ignored.

Locust reports a worker as ready before the worker can receive messages of ours, and drops those that arrive earlier. So
the master sends a job only after `present`.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gevent
import psutil
from locust.env import Environment

from imsim import disk
from imsim.core.exceptions import ImsimError
from imsim.load.collect import extras_name, spool_name
from imsim.load.coordinator import Coordinator
from imsim.load.device import now
from imsim.load.job import Job
from imsim.load.wire import Inflow, Wire
from imsim.load.worker import describe, remove_leftovers

logger = logging.getLogger("imsim.load")

_LATE_WORKERS = 15  # that may join while a test runs
_WATCH_SECONDS = 0.2  # between two checks of the other processes
_QUIET_SECONDS = 1.5  # without a message, after which a process of this computer is looked up
_LOST_SECONDS = 10.0  # without a message, after which a worker is lost


class Crew:
    """The workers of one test, as the master sees them. They are numbered in the order in which Locust lists them.

    present: the workers (their Locust ids) that can receive messages; it grows. test: the number of the test in this
    Locust session. folder: the folder for the files of the workers.
    """

    def __init__(self, wire: Wire, runner: Any, present: set[str], test: int, job: Job, folder: Path) -> None:
        self._wire = wire
        self._present = present
        self._runner = runner
        self._test = test
        self._job = job
        self._folder = folder
        connected = (*runner.clients.ready, *runner.clients.spawning, *runner.clients.running)
        self._clients: list[str | None] = [client.id for client in connected]
        self.count = len(self._clients)
        """The count of workers at the start of the test."""
        self._most = self.count + 1 + _LATE_WORKERS
        self._jobs: dict[int, dict[str, Any]] = {}  # those that are not sent so far
        self._inflows: dict[int, Inflow] = {}
        self._about: dict[int, dict[str, Any]] = {}  # what `describe` has returned there
        self._heard: dict[int, float] = {}  # when the latest message arrived, of the workers that have a player
        self._coordinator: Coordinator | None = None
        self._watching: gevent.Greenlet[..., None] | None = None

    def start(self, coordinator: Coordinator) -> None:
        """Send the job to the workers."""
        self._coordinator = coordinator
        for index in range(self.count):
            self._hire(index, is_late=False)
        self._watching = gevent.spawn(self._watch)

    def close(self) -> None:
        """Ignore the workers from now on."""
        self._coordinator = None
        if self._watching is not None:
            self._watching.kill(block=False)

    def send(self, index: int, kind: str, /, **values: Any) -> None:
        """Send a message to the player of a worker."""
        self._wire.send(self._clients[index], self._test, kind, **values)

    def add(self, client: str) -> None:
        """Handle a worker that has connected, perhaps again."""
        if client in self._clients or self._coordinator is None:
            return
        if len(self._clients) == self.count:
            self._clients.append(None)  # the coordinator itself writes facts under this number
        index = len(self._clients)
        takes_part = self._coordinator.add(index) if index < self._most else None
        if takes_part is None:
            logger.warning("a worker that connected during the test takes part only in the next one")
            return
        self._clients.append(client)
        self._hire(index, is_late=not takes_part)

    def appear(self, client: str) -> None:
        """Handle that a worker can receive messages from now on."""
        if client in self._clients:
            self._send_job(self._clients.index(client))

    def handle(self, client: str, kind: str, values: dict[str, Any]) -> None:
        """Handle a message of a worker."""
        if client not in self._clients:
            return
        index = self._clients.index(client)
        coordinator = self._coordinator
        if coordinator is None or coordinator.is_lost(index):
            return
        if kind != "refused":
            self._heard[index] = now()
        if kind == "chunk":
            try:
                size = self._inflows[index].chunk(**values)
            except ImsimError as error:
                coordinator.handle(index, "failed", reason=str(error))
            else:
                self.send(index, "stored", name=values["name"], size=size)
        elif kind == "hello":
            self._about[index] = values
            coordinator.handle(index, kind, **values)
        elif kind in ("finished", "left"):
            if values.pop("files") != self._inflows[index].sizes:
                values["failure"] = values["failure"] or f"the facts of worker {index} are incomplete"
            coordinator.handle(index, "finished", **values)
            if kind == "left":
                coordinator.lose(index, "it was terminated")
        elif kind != "alive":
            coordinator.handle(index, kind, **values)

    def _hire(self, index: int, is_late: bool) -> None:
        with disk.errors("create", self._folder / spool_name(index), note=disk.TMPDIR):
            (self._folder / spool_name(index)).touch(exist_ok=False)
        self._inflows[index] = Inflow(self._folder, (spool_name(index), extras_name(index)))
        self._jobs[index] = {"job": self._job.to_dict(), "index": index, "count": self._most, "is_late": is_late}
        self._send_job(index)

    def _send_job(self, index: int) -> None:
        if self._clients[index] in self._present and (job := self._jobs.pop(index, None)) is not None:
            self.send(index, "job", **job)

    def _watch(self) -> None:
        while True:
            gevent.sleep(_WATCH_SECONDS)
            for index, heard in list(self._heard.items()):
                silence = now() - heard
                if silence > _LOST_SECONDS:
                    self._lose(index, f"it sent nothing for {_LOST_SECONDS:.0f} s")
                elif silence > _QUIET_SECONDS and self._is_gone(index):
                    self._lose(index, "its process has ended")
            for client in self._runner.clients.missing:
                # It has no player so far, and Locust receives nothing of it, either.
                if client.id in self._clients and (index := self._clients.index(client.id)) not in self._heard:
                    self._lose(index, "Locust lost its connection")

    def _is_gone(self, index: int) -> bool:
        about = self._about.get(index)
        return about is not None and about["boot"] == describe()["boot"] and not _is_running(about["pid"])

    def _lose(self, index: int, reason: str) -> None:
        assert self._coordinator is not None
        if not self._coordinator.is_lost(index):
            self._coordinator.lose(index, reason, self._heard.pop(index, now()))
            self.send(index, "quit")
            remove_leftovers()

    def lose_all(self) -> None:
        """Handle that Locust has lost its last worker."""
        for index, client in enumerate(self._clients):
            if client is not None:
                self._lose(index, "it has quit")

    def pulse(self) -> None:
        """Let the workers know that the master lives."""
        for index, client in enumerate(self._clients):
            if client is not None and index in self._heard:
                self.send(index, "alive")


class Workers:
    """The master's connection to its workers, for all tests of a Locust session."""

    def __init__(self, environment: Environment) -> None:
        self._runner: Any = environment.runner
        self._wire = Wire(self._runner, self._handle, self._failed)
        self._test = 0
        self._present: set[str] = set()
        self._crew: Crew | None = None
        events: Any = environment.events
        events.worker_connect.add_listener(self._connected)
        gevent.spawn(self._pulse)

    @property
    def count(self) -> int:
        """The count of workers that are connected."""
        return int(self._runner.worker_count)

    def lose_all(self) -> None:
        """Handle that Locust has lost its last worker."""
        if self._crew is not None:
            self._crew.lose_all()

    def crew(self, job: Job, folder: Path) -> Crew:
        """Return the workers for a new test."""
        self._test += 1
        self._crew = Crew(self._wire, self._runner, self._present, self._test, job, folder)
        return self._crew

    def _handle(self, sender: str, test: int, kind: str, values: dict[str, Any]) -> None:
        if kind == "present":
            self._present.add(sender)
            self._wire.send(sender, 0, "welcome")
            if self._crew is not None:
                self._crew.appear(sender)
        elif self._crew is not None and test == self._test:
            self._crew.handle(sender, kind, values)

    def _failed(self, sender: str, test: int, reason: str) -> None:
        self._handle(sender, test, "failed", {"reason": reason})

    def _connected(self, client_id: str, **_: Any) -> None:
        if self._crew is not None:
            self._crew.add(client_id)

    def _pulse(self) -> None:
        while True:
            gevent.sleep(1.0)
            if self._crew is not None:
                self._crew.pulse()


def _is_running(pid: int) -> bool:
    """Return whether a process of this computer runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
