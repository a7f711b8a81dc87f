"""The devices of a Locust process: the users that have them, their logins, and what follows from their events.

The coordinator leases the numbers of devices, so that each device is in one process. A device that loses its user keeps
its session, because another user may come for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from gevent.event import AsyncResult, Event
from gevent.lock import BoundedSemaphore

from imsim.load.adapters import Closed, Conversation, Feature, Joined, NotJoined, Offline, Ready
from imsim.load.adapters.interface import Event as AdapterEvent
from imsim.load.context import Context
from imsim.load.device import Device, now
from imsim.load.recording import LOGIN, Report
from imsim.scenario.workload import user_name

_LOGINS_AT_ONCE = 32  # more logins would only wait in the server, until they time out
_REACTIONS = frozenset([Ready, Joined, Offline, NotJoined, Closed])  # events that concern more than a message


class Devices:
    """The devices of one Locust process.

    report: feeds Locust's statistics.
    """

    def __init__(self, context: Context, report: Report) -> None:
        self.present: dict[int, Device] = {}
        """The devices whose users Locust runs in this process, by number."""
        self.online: set[int] = set()
        self.away: set[int] = set()
        """Devices that a task has logged out. They do not send what the plan has meanwhile."""
        self.listeners: dict[int, Callable[[AdapterEvent], None]] = {}
        """Called with each event of the device with this number."""
        self.on_admitted: Callable[[int], None] = lambda number: None
        """Called with the number of each device that gets a user after the plan has begun."""
        self.on_logged_in: Callable[[Device, bool], None] = lambda device, is_first: None
        """Called at each login of a device, with whether it is the first since it got its user or `come_online`."""
        self.on_joined: Callable[[int, Conversation], None] = lambda number, place: None
        """Called when the device with this number is in a group or chatroom."""
        self.on_refused: Callable[[int, Conversation, str], None] = lambda number, place, reason: None
        """Called when the server does not let the device with this number into a group or chatroom, and why."""
        self._context = context
        self._record = context.recording.event
        self._report = report
        self._released: dict[int, Device] = {}  # devices without a user, which may come back
        self._leases: deque[AsyncResult[int | None]] = deque()  # users that wait for the number of their device
        self._login_timeout = context.job.scenario.core_policies().login_timeout
        self._gate = BoundedSemaphore(_LOGINS_AT_ONCE)
        self._answered: dict[int, Event] = {}  # devices whose first login has no answer so far
        # Devices that come back during the run, or for the first time, and when they began to log in.
        self._returning: dict[int, float] = {}

    # --- for Locust's users -----------------------------------------------------------------------------------------

    def admit(self) -> Device | None:
        """Return the next device of the population, for `log_in`; None if there is no further device."""
        context = self._context
        if context.stopped < math.inf:
            return None
        lease: AsyncResult[int | None] = AsyncResult()
        self._leases.append(lease)
        context.send("want")
        try:
            number = lease.get()
        except BaseException:  # Locust stops the user
            self._abandon(lease)
            raise
        if number is None:
            return None
        # A device that comes back keeps its session: it knows what it has received, as a real one does.
        admitted = self._released.pop(number, None) or self.make(number, self.react)
        self.present[number] = admitted
        self._answered[number] = Event()
        if context.t0 < math.inf:
            self._returning[number] = math.inf
            admitted.hold()
            self.on_admitted(number)
        return admitted

    def _abandon(self, lease: AsyncResult[int | None]) -> None:
        if lease.ready():
            if lease.value is not None:
                self._context.send("release", number=lease.value)
        else:
            lease.rawlink(self._abandon)

    def log_in(self, device: Device) -> None:
        """Start the device, and wait until the server has answered its login, or until `policies.login_timeout`.

        Only a limited count of devices log in at the same time. The device continues to retry after the timeout.
        """
        with self._gate:
            answered = self._answered.get(device.number)
            if answered is not None and self._context.stopped == math.inf:
                self._begin_login(device)
                answered.wait(timeout=self._login_timeout)

    def _begin_login(self, device: Device) -> None:
        if device.number in self._returning:
            self._returning[device.number] = now()  # from now on, the server lets the device wait, not the tester
            self.away.discard(device.number)
        device.start()

    def release(self, device: Device) -> None:
        """Take the device out of the run, because its Locust user stops. It goes offline."""
        self.present.pop(device.number, None)
        self._answered.pop(device.number, None)
        self.listeners.pop(device.number, None)
        self._withdraw(device)
        self._released[device.number] = device
        self._context.send("release", number=device.number)
        device.stop()

    def _withdraw(self, device: Device) -> None:
        self.online.discard(device.number)
        if self._context.t0 < math.inf:  # during the drain, too; the recording ends before Locust stops all users
            self._context.recording.withdrawn(device.number, now() - self._context.t0)

    # --- for tasks and the plan -------------------------------------------------------------------------------------

    def go_offline(self, device: Device) -> None:
        """Log the device out until `come_online`."""
        self._withdraw(device)
        self.away.add(device.number)
        self.leave(device)

    def come_online(self, device: Device, timeout: float) -> bool:
        """Log the device in, and return whether it was online within `timeout` seconds."""
        self._returning[device.number] = math.inf
        device.hold()
        answered = self._answered[device.number] = Event()
        self._begin_login(device)
        answered.wait(timeout)
        return device.number in self.online

    def leave(self, device: Device) -> None:
        """Log the device out, as the plan or a task demands it."""
        self.online.discard(device.number)
        if Feature.RESUME not in self._context.adapter.features:
            self._disconnected(device.number)
        device.leave()
        self._context.send("offline", number=device.number, reason="", is_final=False)

    def missed(self, number: int) -> None:
        """Note that a task has opened a group while this device of a member was offline."""
        if Feature.MEMBERSHIP not in self._context.adapter.features:
            self._disconnected(number)

    def entered(self, number: int) -> None:
        """Note that the device is logged in, and in all its groups and chatrooms. Send what it kept until then."""
        context = self._context
        if number in self.present:
            self.present[number].let_go()
        if context.t0 < math.inf and not {Feature.RESUME, Feature.MEMBERSHIP} <= context.adapter.features:
            context.recording.entered(number, now() - context.t0)

    def _disconnected(self, number: int) -> None:
        if self._context.t0 < math.inf:
            self._context.recording.disconnected(number, now() - self._context.t0)

    def make(self, number: int, report: Callable[[Device, AdapterEvent, float], None]) -> Device:
        """Create a device whose events `report` receives. It takes part in the run only through `admit`."""
        context = self._context
        user, nth = context.plan.user_and_device(number)
        names = context.job.named(user_name(user)), context.plan.devices[nth]
        return Device(number, *names, context.adapter, report, context.crashed)

    def log_in_and_out(self, device: Device, is_done: Event) -> None:
        """Log a device in that has no user, and out again when `is_done` is set."""
        with self._gate:
            try:
                device.start()
                is_done.wait()
            finally:
                device.stop()

    # --- messages of the coordinator --------------------------------------------------------------------------------

    def lease(self, number: int | None) -> None:
        """Give the next user that waits this number of a device."""
        if self._leases:
            self._leases.popleft().set(number)
        elif number is not None:  # the load was stopped meanwhile
            self._context.send("release", number=number)

    def stop(self) -> None:
        """Give no further user a device."""
        while self._leases:
            self._leases.popleft().set(None)

    # --- events -----------------------------------------------------------------------------------------------------

    def react(self, device: Device, event: AdapterEvent, at: float) -> None:
        """Record an event, and react to it."""
        number, kind = device.number, type(event)
        if number in self.listeners:  # first, because a message is forgotten once all its deliveries are recorded
            self.listeners[number](event)
        self._record(number, event, at)
        if kind not in _REACTIONS:  # as the events of messages
            return
        e: Any = event
        if kind is Ready:
            self._came_online(device, at)
        elif kind is Joined:
            self.on_joined(number, e.conversation)
        elif kind is Offline:
            self._went_offline(device, e.reason, False)
            device.since = at
        elif kind is NotJoined:
            self.on_refused(number, e.conversation, e.reason)
        elif kind is Closed:
            self._went_offline(device, e.reason, True)

    def _came_online(self, device: Device, at: float) -> None:
        self.online.add(device.number)
        if device.number in self._returning:
            began = self._returning.pop(device.number)
            self._context.recording.returned(device.number, max(0.0, min(began, at) - self._context.t0))
        self._report(LOGIN, (at - device.since) * 1e3, 0, None)
        answered = self._answered.pop(device.number, None)
        if answered:
            answered.set()
        self.on_logged_in(device, answered is not None)
        self._context.send("online", number=device.number)

    def _went_offline(self, device: Device, reason: str, is_final: bool) -> None:
        self.online.discard(device.number)
        self._report(LOGIN, None, 0, reason)
        if is_final and (answered := self._answered.pop(device.number, None)):
            answered.set()
        if device.number in self.present:
            self._context.send("offline", number=device.number, reason=reason, is_final=is_final)
