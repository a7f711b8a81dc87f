"""The context of a player: the job, the recording, the time of the plan, and the greenlets that its parts share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.event import Event

from imsim.core.exceptions import ImsimError
from imsim.load.adapters import Adapter
from imsim.load.device import now
from imsim.load.extras import Extras, Pending
from imsim.load.job import Job
from imsim.load.recording import Recording
from imsim.scenario.workload import Extra, PlannedConversation

logger = logging.getLogger("imsim.load")

Send = Callable[..., None]
"""Sends a message to the coordinator: `send(kind, **values)`."""


class Context:
    """The job of a player, its recording, the time of the plan, and the greenlets."""

    def __init__(self, job: Job, adapter: Adapter, recording: Recording, extras: Extras, send: Send) -> None:
        self.job = job
        self.plan = job.plan
        self.adapter = adapter
        self.recording = recording
        self.extras = extras
        self.send = send
        self.t0 = math.inf
        """The time of the plan's start, by the clock of the devices."""
        self.stopped = math.inf
        """The time at which the load was stopped. Messages that are due later are not sent."""
        self.has_stopped = Event()
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def devices_of(self, users: Iterable[int]) -> list[int]:
        """Return the numbers of the devices of these users, in the order of the users."""
        plan = self.plan
        return [plan.device_index(user, device) for user in users for device in range(len(plan.devices))]

    def add_extra(self, number: int, conversation: PlannedConversation, at: int, type: str, size: int) -> Pending:
        """Record a message beyond the plan, which the device with this number is about to send.

        at: the intended time, ns from the start of the plan.
        """
        user, nth = self.plan.user_and_device(number)
        scene, name, members = conversation.scene, conversation.name, conversation.members
        pending = self.extras.add(
            lambda intent: Extra(intent, at, user, nth, scene, name, members, type, size),
            (other for other in self.devices_of(members) if other != number),
        )
        self.recording.asked_extra(pending)
        return pending

    def spawn(self, step: Callable[..., None], *arguments: Any) -> gevent.Greenlet[..., None]:
        """Run a function in a greenlet. Its error ends the test."""
        greenlet = gevent.spawn(step, *arguments)
        greenlet.link_exception(lambda failed: self.crashed(failed.exception))
        self._greenlets.append(greenlet)
        return greenlet

    def kill(self) -> None:
        """End the greenlets, except the current one."""
        gevent.killall([greenlet for greenlet in self._greenlets if greenlet is not gevent.getcurrent()])

    def crashed(self, error: BaseException | None) -> None:
        """End the test because of an error. For example, the spool has no space left."""
        text = str(error) if isinstance(error, ImsimError) else f"internal error in imsim: {error!r}"
        if not isinstance(error, ImsimError):
            logger.error("a device failed", exc_info=error)
        self.send("failed", reason=text)

    def sleep_until(self, ns: int) -> None:
        """Wait until this time of the plan (ns)."""
        gevent.sleep(max(0.0, self.t0 + ns / 1e9 - now()))
