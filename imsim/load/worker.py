"""A worker of a distributed load test: it makes a player for each test, and sends the player's files to the master.

`imsim.load.workers` is the master's side, and lists the messages between the two.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from locust.env import Environment

from imsim import disk
from imsim.core.exceptions import ImsimError
from imsim.load.collect import extras_name, spool_name
from imsim.load.device import now
from imsim.load.job import Job
from imsim.load.locust_stats import Statistics
from imsim.load.player import Player
from imsim.load.wire import Outflow, Wire
from imsim.results.manifest import version

logger = logging.getLogger("imsim.load")

_PREFIX = "imsim-worker-"  # of a worker's folder
_SPAWN_SECONDS = 0.1  # in which new users ask for their devices
_ALIVE_SECONDS = 0.5  # without another message, after which `alive` is sent
_MASTER_LOST_SECONDS = 20.0  # the same for the master
_STORE_TIMEOUT = 25.0  # seconds that the rest of a worker's files may take
_LEAVE_SECONDS = 2.0  # that a terminated worker waits for the end of the test: often the master is terminated, too
_END_SECONDS = 15.0  # that it waits once the master has begun to end the test


def describe() -> dict[str, Any]:
    """Return what identifies this process, as plain values.

    boot: the computer since its last start: processes with the same value have the same clock. anchor: the difference
    between the time of day and this process's clock. version and byteorder must be equal in all processes.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = platform.node()
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "boot": boot,
        "anchor": time.time() - now(),
        "version": version(),
        "byteorder": sys.byteorder,
    }


class Worker:
    """A worker's part of the tests of a Locust session: it makes a player for each test."""

    def __init__(self, environment: Environment, statistics: Statistics) -> None:
        self._environment = environment
        self._runner: Any = environment.runner
        self._statistics = statistics
        self._test = 0
        self._player: Player | None = None
        self._outflow: Outflow | None = None
        self._is_running = False  # between Locust's start and stop of a test
        self._has_stopped = Event()  # set while no test runs
        self._has_stopped.set()
        self._has_player = Event()  # set once the users may ask for the player, or there is none
        self._is_ending = False  # the coordinator has begun to end the test
        self._is_leaving = False  # this process is terminated
        self._has_finished = Event()  # the master has all facts of this worker, or it does not want them
        self._has_finished.set()
        self._sent = 0.0
        self._is_welcome = False  # the master has answered `present`
        self._wire = Wire(self._runner, self._handle, self._failed, urgent=("stored",))
        events: Any = environment.events
        events.test_start.add_listener(self._start)
        events.spawning_complete.add_listener(self._spawned)
        events.test_stop.add_listener(self._stop)
        events.quitting.add_listener(self._quit)
        gevent.spawn(self._pulse)
        gevent.spawn(self._watch, os.getppid() if getattr(environment.parsed_options, "processes", None) else None)

    def wait(self) -> Player | None:
        """Return the player of the test; None if there is none. The job may arrive after the start of the users."""
        while not self._has_player.is_set():  # gevent wakes a waiter also if the event is cleared meanwhile
            self._has_player.wait()
        return self._player

    # --- Locust's events --------------------------------------------------------------------------------------------

    def _start(self, **_: Any) -> None:
        if self._player is None:  # the job arrives after the start
            self._has_player.clear()
        self._is_running = True
        self._has_stopped.clear()

    def _spawned(self, **_: Any) -> None:
        gevent.spawn(self._report_spawned)

    def _report_spawned(self) -> None:
        if self.wait() is not None:
            gevent.sleep(_SPAWN_SECONDS)
            self._send("spawned")

    def _stop(self, **_: Any) -> None:
        self._discard()
        self._is_running = False
        self._has_stopped.set()

    def _quit(self, **_: Any) -> None:
        self.leave()
        self._discard()

    def leave(self) -> None:
        """Leave the test, because this process is terminated. The master receives all facts so far."""
        if self._player is None or self._has_finished.wait(_LEAVE_SECONDS):
            return
        if self._is_ending and self._has_finished.wait(_END_SECONDS):
            return
        if self._player is not None:
            self._player.handle("stop", at=now())
            self._is_leaving = True
            self._player.handle("finish")
            self._has_finished.wait(_STORE_TIMEOUT)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _handle(self, sender: str, test: int, kind: str, values: dict[str, Any]) -> None:
        self._is_welcome = True
        if kind == "job":
            self._hired(test, **values)
        elif test != self._test:
            return
        elif kind == "stored":
            if self._outflow is not None:
                self._outflow.stored(**values)
        elif kind == "quit":
            logger.error("the master goes on without this worker, because it received nothing of it")
            self._discard()
        elif kind != "alive" and self._player is not None:
            self._is_ending = self._is_ending or kind in ("stop", "finish")
            self._player.handle(kind, **values)
            if kind == "play":
                self._has_player.set()

    def _failed(self, sender: str, test: int, reason: str) -> None:
        if test == self._test:
            self._send("failed", reason=reason)

    def _hired(self, test: int, job: Mapping[str, object], index: int, count: int, is_late: bool) -> None:
        while self._is_running and self._player is not None:  # Locust has not stopped the users of the last test so far
            self._has_stopped.wait()
        self._discard()
        self._test = test
        self._statistics.begin()
        self._has_player.clear()
        self._is_ending = self._is_leaving = False
        about = describe()
        try:
            made = Job.from_dict(job)
            # In a thread, so that Locust's heartbeats continue: a large plan takes many seconds.
            gevent.get_hub().threadpool.apply(lambda: made.plan)
            folder = _make_folder()
            self._player = player = Player(made, index, count, folder, self._send, self._statistics.report)
        except ImsimError as error:
            self._refuse(str(error), about)
        except Exception as error:
            logger.exception("making the player failed")
            self._refuse(f"internal error in imsim: {error!r}", about)
        else:
            self._has_finished.clear()
            names = extras_name(index), spool_name(index)  # the facts are about the messages in the first file
            self._outflow = Outflow(folder, names, self._send, player.flush)
            self._send("hello", **about)
            if not is_late:
                self._has_player.set()

    def _refuse(self, reason: str, about: dict[str, Any]) -> None:
        self._send("refused", reason=reason, host=about["host"], pid=about["pid"])
        self._discard()

    def _send(self, kind: str, **values: Any) -> None:
        if kind == "finished":
            self._statistics.discard()  # the master makes them from the rows
            gevent.spawn(self._finish, values)  # acknowledgements must arrive meanwhile
        else:
            self._sent = now()
            self._wire.send(None, self._test, kind, **values)

    def _finish(self, values: dict[str, Any]) -> None:
        outflow, test = self._outflow, self._test
        if outflow is None:
            return
        files: dict[str, int] = {}
        try:
            files = outflow.finish(_STORE_TIMEOUT)
        except ImsimError as error:
            values["failure"] = values["failure"] or str(error)
        kind = "left" if self._is_leaving else "finished"
        self._wire.send(None, test, kind, files=files, **values)
        gevent.sleep(0.05)  # `send` does not wait; a process that leaves must not end before it
        self._has_finished.set()

    def _discard(self) -> None:
        """Forget the player of the test that is over, and remove its folder."""
        if self._player is not None:
            self._statistics.discard()
        self._player = None
        self._has_player.set()
        self._has_finished.set()
        if self._outflow is not None:
            self._outflow.close()
            self._outflow = None
        remove_folders()

    # --- signs of life ----------------------------------------------------------------------------------------------

    def _pulse(self) -> None:
        while not self._is_welcome:
            self._wire.send(None, 0, "present")
            gevent.sleep(_ALIVE_SECONDS)
        while True:
            gevent.sleep(_ALIVE_SECONDS)
            if self._player is not None and now() - self._sent > _ALIVE_SECONDS:
                self._send("alive")

    def _watch(self, parent: int | None) -> None:
        """End this worker if the master has ended without a word.

        Locust itself waits for a minute. Nothing uses the results of a load that continues until then.
        """
        while True:
            gevent.sleep(1.0)
            if parent is not None and os.getppid() != parent:
                reason = "the master's process has ended"
            elif not self._has_finished.is_set() and now() - self._wire.heard > _MASTER_LOST_SECONDS:
                reason = f"the master sent nothing for {_MASTER_LOST_SECONDS:.0f} s"
            else:
                continue
            logger.error("%s; this worker ends", reason)
            self._discard()
            self._environment.process_exit_code = 1
            self._runner.quit()
            return


# --- folders of workers -------------------------------------------------------------------------------------------


_folders: dict[Path, int] = {}  # those of this process, each with the descriptor that holds its lock


def _make_folder() -> Path:
    """Make a folder for the files of a worker. While this process lives, it holds a lock on it."""
    remove_leftovers()
    with disk.errors("make a folder in", tempfile.gettempdir(), note=disk.TMPDIR):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        descriptor = os.open(folder, os.O_RDONLY)
    _folders[folder] = descriptor
    with contextlib.suppress(OSError):  # not every file system has locks
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return folder


def remove_folders() -> None:
    """Remove the folders of this process."""
    while _folders:
        folder, descriptor = _folders.popitem()
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_leftovers() -> None:
    """Remove the folders of workers that were killed: nothing holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder in _folders or time.time() - folder.stat().st_mtime < 1.0:  # perhaps not locked so far
                continue
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
