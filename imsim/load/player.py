"""The player of a Locust process: it holds the process's devices, and plays their share of the plan.

The coordinator (`imsim.load.coordinator`) decides what it does and when. They exchange small messages: a kind and plain
values. In a single Locust process both run side by side, otherwise the coordinator is on the master.

The player passes each message to one of its parts: `devices` (users, logins, events), `groups` (groups and chatrooms),
`playing` (the plan), `added` (users beyond the plan) and `tasks` (custom users). They share a `context`.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event

from imsim.core.exceptions import ImsimError
from imsim.load.adapters import Feature
from imsim.load.added import Added
from imsim.load.collect import extras_name, spool_name
from imsim.load.context import Context, Send
from imsim.load.device import Device, now
from imsim.load.devices import Devices
from imsim.load.extras import Extras
from imsim.load.groups import Groups
from imsim.load.job import Job
from imsim.load.playing import Playing
from imsim.load.recording import Recording, Report
from imsim.load.sampler import Sampler
from imsim.load.tasks import Tasks

_REPORT_SECONDS = 0.05  # between two reports of what is in flight, once the load is stopped
_IDLE_REPORT_SECONDS = 0.2  # the same until then
_PROGRESS_SECONDS = 0.5  # between two reports of the progress


class Player:
    """The devices of one Locust process.

    index, count: the number of this process among the processes of the run, and the most that these may become.
    folder: the folder for the facts of this process.
    send: sends a message to the coordinator.
    report: feeds Locust's statistics.

    Raises: UsageError if the adapter cannot be used.
    """

    def __init__(self, job: Job, index: int, count: int, folder: Path, send: Send, report: Report) -> None:
        adapter = job.make_adapter()
        job.check(adapter)
        self.begun = Event()
        """Set when the plan begins."""
        self._index, self._count = index, count
        self._planned = len(job.plan)
        self._send = send
        extras = Extras(self._planned, index, count, folder / extras_name(index))
        self._recording = Recording(
            job.plan,
            job.prefix,
            folder / spool_name(index),
            report,
            extras,
            self._seen_elsewhere,
            job.scenario.core_policies().first_sync,
            Feature.RESUME in adapter.features,
            job.scenario.warmup,
        )
        context = self._context = Context(job, adapter, self._recording, extras, send)
        devices = self._devices = Devices(context, report)
        groups = self._groups = Groups(context, devices, creates_unattended=index == 0)
        self._playing = Playing(context, devices)
        self._added = Added(context, devices)
        self.tasks = Tasks(context, devices, groups)
        devices.on_admitted, devices.on_logged_in = self._admitted, groups.enter
        devices.on_joined, devices.on_refused = groups.answered, groups.refused
        self._sampler = Sampler(lambda: self._recording.recorded)
        self._cpu = 0.0  # CPU seconds of this process at t = 0
        self._handlers: dict[str, Callable[..., None]] = {
            "lease": devices.lease,
            "probe": self._probe,
            "provision": groups.provision,
            "play": self._play,
            "opened": groups.opened,
            "ready": groups.ready,
            "seen": self._recording.delivered_extra,
            "users": self._users_changed,
            "stop": self._stop,
            "finish": self._finish,
        }

    def handle(self, kind: str, **values: Any) -> None:
        """Handle a message of the coordinator."""
        self._handlers[kind](**values)

    def flush(self) -> None:
        """Write what is buffered to the files.

        Raises: RunError if a file cannot be written.
        """
        self._context.extras.flush()  # first, because the facts are about these messages
        self._recording.flush()

    # --- for Locust's users -----------------------------------------------------------------------------------------

    def admit(self) -> Device | None:
        """See `Devices.admit`."""
        return self._devices.admit()

    def log_in(self, device: Device) -> None:
        """See `Devices.log_in`."""
        self._devices.log_in(device)

    def release(self, device: Device) -> None:
        """See `Devices.release`."""
        self._devices.release(device)

    def fail(self, reason: str) -> None:
        """End the test."""
        self._send("failed", reason=reason)

    def _admitted(self, number: int) -> None:
        """Let a device that comes during the run send messages."""
        plan = self._context.plan
        if number < len(plan.users) * len(plan.devices):
            self._playing.schedule(number, now())
        else:
            self._added.add(number)

    # --- messages of the coordinator --------------------------------------------------------------------------------

    def _probe(self, sent: float) -> None:
        self._send("probed", sent=sent, at=now())

    def _seen_elsewhere(self, intent: int, device: int, at: float) -> None:
        """Report the delivery of a message beyond the plan to the process that has sent it."""
        owner = (intent - self._planned) % self._count
        if owner != self._index:
            self._send("seen", owner=owner, intent=intent, device=device, at=at)

    def _play(self, t0: float, absent: list[int]) -> None:
        """Play the plan, which starts at `t0`. It has already begun if this player comes late.

        absent: devices without a user, to be recorded by this process.
        """
        self._groups.begin()
        outside = self._groups.outside()
        self._playing.log_out_absent()
        if Feature.RESUME not in self._context.adapter.features:
            outside = self._groups.outside()  # nothing is kept for those that the plan has offline, either
        gc.collect()
        gc.freeze()  # all present objects live until the end: the collector must not pause the run to scan them again
        self._cpu = time.process_time()
        self._context.t0 = t0
        self._recording.begin(t0)
        self._sampler.begin(t0, self._context.job.scenario.warmup)
        for number in absent:
            self._recording.withdrawn(number, 0.0)
        for number in outside:
            self._recording.disconnected(number, 0.0)
            self._devices.present[number].hold()
        self._playing.begin()
        self._added.begin()
        self._context.spawn(self._report_state)
        gevent.spawn_later(max(0.0, t0 - now()), self.begun.set)

    def _users_changed(self, numbers: list[int], are_present: bool) -> None:
        self._recording.users_changed(numbers, are_present, now() - self._context.t0)
        self.tasks.users_changed(numbers, are_present)

    def _report_state(self) -> None:
        context, recording = self._context, self._recording
        next_progress = context.t0
        while True:
            is_stopped = context.stopped < math.inf
            is_behind = self._playing.is_behind
            in_flight = recording.in_flight
            if is_stopped:
                in_flight -= recording.unreachable()
            self._send("state", in_flight=in_flight, is_behind=is_behind, is_stopped=is_stopped)
            if now() >= next_progress:
                next_progress = now() + _PROGRESS_SECONDS
                self._send("progress", report=recording.progress(now() - context.t0))
            if is_stopped:
                gevent.sleep(_REPORT_SECONDS)
            else:
                context.has_stopped.wait(_IDLE_REPORT_SECONDS)

    def _stop(self, at: float) -> None:
        """Send nothing that is due at `at` or later."""
        self._context.stopped = at
        self._context.has_stopped.set()
        self._devices.stop()

    def _finish(self) -> None:
        """Close the spool, and report what the coordinator needs for the manifest."""
        self._playing.close()
        self._added.close()
        self._context.kill()
        gc.unfreeze()
        recording, scenario = self._recording, self._context.job.scenario
        health = self._sampler.report(*recording.sendings(scenario.warmup))
        self._sampler.stop()
        failure = None
        try:
            recording.close()
        except ImsimError as error:
            failure = str(error)
        self._send(
            "finished",
            failure=failure,
            health=health.to_json_dict(),
            foreign=recording.foreign,
            from_tasks=self.tasks.sent,
            exceptions=list(self.tasks.exceptions.values()),
            missing_in_rooms=recording.missing_in_rooms(),
            between_ms=recording.between_ms() if self._count > 1 and failure is None else None,
            cpu=round((time.process_time() - self._cpu) / max(now() - self._context.t0, 1e-9), 3),
        )
