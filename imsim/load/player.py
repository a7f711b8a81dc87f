"""The player of a Locust process: it holds the process's devices, and plays their share of the plan.

The coordinator (`imsim.load.coordinator`) tells it what to do and when. They exchange small messages: a kind and plain
values. In a single Locust process both run side by side, otherwise the coordinator is on the master.
"""

from __future__ import annotations

import gc
import heapq
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from gevent.event import AsyncResult, Event
from gevent.lock import BoundedSemaphore

from imsim.core.exceptions import ImsimError, UsageError
from imsim.core.model import Scene
from imsim.load.adapters import Closed, Conversation, Feature, Joined, Message, NotJoined, Offline, Ready
from imsim.load.adapters.interface import Event as AdapterEvent
from imsim.load.alarm import Alarm
from imsim.load.collect import extras_name, spool_name
from imsim.load.device import Device, now
from imsim.load.extras import Extras, Pending
from imsim.load.job import Job
from imsim.load.recording import LOGIN, Recording, Report
from imsim.load.sampler import Sampler
from imsim.scenario import actor, plan
from imsim.scenario.workload import Extra, Plan, PlannedConversation, conversation_of, user_name

logger = logging.getLogger("imsim.load")

_LOGINS_AT_ONCE = 32  # more logins would only wait in the server, until they time out
_JOINS_AT_ONCE = 200  # groups and chatrooms that a process creates or joins at the same time
_SENDS_AT_ONCE = 8  # late messages that are sent before the devices receive
_REPORT_SECONDS = 0.05  # between two reports of what is in flight, once the load is stopped
_ADDING_SECONDS = 0.2  # in which added users gather, so that one plan has them all
_PROGRESS_SECONDS = 0.5  # between two reports of the progress
_IDLE_REPORT_SECONDS = 0.2  # the same until then
_REACTIONS = frozenset([Ready, Joined, Offline, NotJoined, Closed])  # events that concern more than a message

Send = Callable[..., None]
"""Sends a message to the coordinator: `send(kind, **values)`."""


class StoppedError(Exception):
    """A task wanted to send a message before the plan began or after the load was stopped."""


class Player:
    """The devices of one Locust process.

    index, count: the number of this process among the processes of the run, and the most that these may become.
    folder: the folder for the facts of this process.
    send: sends a message to the coordinator.
    report: feeds Locust's statistics.

    Raises: UsageError if the adapter cannot be used.
    """

    def __init__(self, job: Job, index: int, count: int, folder: Path, send: Send, report: Report) -> None:
        self.job = job
        self.devices: dict[int, Device] = {}
        """The devices whose users Locust runs in this process, by number."""
        self._released: dict[int, Device] = {}  # devices without a user, which may come back
        self._prefix = job.prefix
        self._send = send
        self._report = report
        self.plan = job.plan
        self.groups = {one.name: one for one in self.plan.conversations if one.scene is Scene.GROUP}
        """The groups of the plan and those that tasks have opened, by name."""
        self.listeners: dict[int, Callable[[AdapterEvent], None]] = {}
        """Called with each event of the device with this number."""
        self.begun = Event()
        """Set when the plan begins."""
        self._adapter = job.make_adapter()
        job.check(self.plan, self._adapter)
        first_sync = job.scenario.core_policies().first_sync
        self._extras = Extras(len(self.plan), index, count, folder / extras_name(index))
        self._index, self._count = index, count
        self.recording = Recording(
            self.plan,
            job.prefix,
            folder / spool_name(index),
            report,
            self._extras,
            self._seen_elsewhere,
            first_sync,
            Feature.RESUME in self._adapter.features,
            job.scenario.warmup,
        )
        self._sampler = Sampler(lambda: self.recording.recorded)
        self._login_timeout = job.scenario.core_policies().login_timeout
        self._gate = BoundedSemaphore(_LOGINS_AT_ONCE)
        self._answered: dict[int, Event] = {}  # devices whose first login has no answer so far
        self._leases: deque[AsyncResult[int | None]] = deque()  # users that wait for the number of their device
        self._online: set[int] = set()
        self._joins: set[tuple[int, Conversation]] = set()  # those without an answer
        self._joined = Event()
        self._is_provisioned = False
        self._returning: set[int] = set()  # devices that come back during the run, or for the first time
        self._away: set[int] = set()  # devices that a task has logged out; they do not send what the plan has meanwhile
        self._opening: dict[str, Event] = {}  # groups that tasks open, and whose members are not all in them
        self._opened_groups: set[str] = set()  # the names of those that exist
        self._opening_members: dict[str, list[int]] = {}  # of those that the server has not created yet
        self._t0 = math.inf
        self._cpu = 0.0  # CPU seconds of this process at t = 0
        self._stopped = math.inf  # the time at which the load was stopped; messages due later are not sent
        self._has_stopped = Event()
        self._due: list[tuple[int, int, int]] = []  # a heap: (intended time, device, position in its messages)
        self._alarm: Alarm | None = None  # for the next message; None before the plan begins and after its end
        self._alarm_added: Alarm | None = None  # the same for users beyond the plan
        self._added: set[int] = set()  # devices of users beyond the plan whose messages are not drawn so far
        self._due_added: list[tuple[int, int, int, Plan]] = []  # a heap: time, intent in that plan, device, plan
        self._from_tasks = 0  # count of messages
        self._first, self._intents = self._messages_by_device()
        # Unlike arrays of numpy, these give plain integers, and take half the time for one.
        self._at, self._intent_at = self.plan.at.data, self._intents.data
        self._conversation, self._sender = self.plan.conversation.data, self.plan.sender.data
        self._type, self._size = self.plan.type.data, self.plan.size.data
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def handle(self, kind: str, **values: Any) -> None:
        """Handle a message of the coordinator."""
        getattr(self, f"_{kind}")(**values)

    def flush(self) -> None:
        """Write what is buffered to the files.

        Raises: RunError if a file cannot be written.
        """
        self._extras.flush()  # first, because the facts are about these messages
        self.recording.flush()

    # --- for the Locust users ---------------------------------------------------------------------------------------

    def admit(self) -> Device | None:
        """Return the next device of the population, for `log_in`; None if there is no further device."""
        if self._stopped < math.inf:
            return None
        lease: AsyncResult[int | None] = AsyncResult()
        self._leases.append(lease)
        self._send("want")
        try:
            number = lease.get()
        except BaseException:  # Locust stops the user
            self._abandon(lease)
            raise
        if number is None:
            return None
        user, device = divmod(number, len(self.plan.devices))
        names = self.job.named(user_name(user)), self.plan.devices[device]
        # A device that comes back keeps its session: it knows what it has received, as a real one does.
        admitted = self._released.pop(number, None) or Device(number, *names, self._adapter, self._event, self._crashed)
        self.devices[number] = admitted
        self._answered[number] = Event()
        if self._t0 < math.inf:
            self._returning.add(number)
            if user < len(self.plan.users):
                self._schedule(number, now())
            else:
                self._added.add(number)
        return admitted

    def _abandon(self, lease: AsyncResult[int | None]) -> None:
        if lease.ready():
            if lease.value is not None:
                self._send("release", number=lease.value)
        else:
            lease.rawlink(self._abandon)

    def log_in(self, device: Device) -> None:
        """Start the device, and wait until the server has answered its login, or until `policies.login_timeout`.

        Only a limited count of devices log in at the same time. The device continues to retry after the timeout.
        """
        with self._gate:
            answered = self._answered.get(device.number)
            if answered is not None and self._stopped == math.inf:
                device.start()
                answered.wait(timeout=self._login_timeout)

    def release(self, device: Device) -> None:
        """Take the device out of the run, because its Locust user stops. It goes offline."""
        self.devices.pop(device.number, None)
        self._answered.pop(device.number, None)
        self.listeners.pop(device.number, None)
        self._withdraw(device)
        self._released[device.number] = device
        self._send("release", number=device.number)
        device.stop()

    def _withdraw(self, device: Device) -> None:
        self._online.discard(device.number)
        if self._t0 < math.inf and self._stopped == math.inf:
            self.recording.withdrawn(device.number, now() - self._t0)

    # --- for the tasks of custom users ------------------------------------------------------------------------------

    def id_of(self, intent: int) -> str:
        """Return the id of a message."""
        return f"{self._prefix}{intent}"

    def origin(self, id: str) -> tuple[int, PlannedConversation, str | None] | None:
        """Return the sender (a user index), the conversation and the text of a message.

        None if another process has sent it from a task, or if it is not of this run. The text of a planned message is
        None.
        """
        number = id.removeprefix(self._prefix)
        if number == id or not (number.isascii() and number.isdecimal()):
            return None
        intent, plan = int(number), self.plan
        if intent < len(plan):
            return int(plan.sender[intent]), plan.conversations[int(plan.conversation[intent])], None
        if (pending := self._extras.pending.get(intent)) is None:
            return None
        extra = pending.extra
        return extra.sender, conversation_of(extra.scene, extra.name, extra.members), pending.text

    def p2p(self, user: int, other: int) -> PlannedConversation:
        """Return the conversation of two users."""
        return conversation_of(Scene.P2P, "", (min(user, other), max(user, other)))

    def place(self, conversation: PlannedConversation, user: int = 0) -> Conversation:
        """Return the conversation as the session of a user addresses it."""
        return Conversation(conversation.scene, self.job.named(conversation.to(user)))

    def send_extra(self, device: Device, conversation: PlannedConversation, text: str) -> Pending:
        """Send a message beyond the plan, now.

        Raises: StoppedError if the load was stopped.
        """
        at = now()
        if not self._t0 <= at < self._stopped:
            raise StoppedError
        user, nth = divmod(device.number, len(self.plan.devices))
        scene, name, members = conversation.scene, conversation.name, conversation.members
        ns, size = round((at - self._t0) * 1e9), len(text.encode())
        pending = self._extras.add(
            lambda intent: Extra(intent, ns, user, nth, scene, name, members, "text", size),
            (number for number in self._devices_of(members) if number != device.number),
        )
        pending.text = text
        self.recording.asked_extra(pending)
        id = self.id_of(pending.extra.intent)
        device.send_message(Message(id, self.place(conversation, user), text))
        self._from_tasks += 1
        return pending

    # --- users beyond the plan ----------------------------------------------------------------------------------------

    def _play_added(self) -> None:
        """Send the messages of users whom the tester has added to the population.

        They are those that these users send to another user in the plan of the larger population.
        """
        while True:
            gevent.sleep(_ADDING_SECONDS)
            if not self._added:
                continue
            numbers, self._added = self._added, set()
            users = max(numbers) // len(self.plan.devices) + 1
            scenario = self.job.scenario.replace({"population.users": users})
            # In a thread, because a large plan takes many seconds.
            larger: Plan = gevent.get_hub().threadpool.apply(plan, (scenario,))
            number_of = larger.sender.astype(np.int64) * len(larger.devices) + larger.device
            is_p2p = np.array([one.scene is Scene.P2P for one in larger.conversations])[larger.conversation]
            is_due = larger.at >= round((now() - self._t0) * 1e9)
            for intent in np.flatnonzero(is_p2p & is_due & np.isin(number_of, list(numbers))).tolist():
                at = int(larger.at[intent])
                heapq.heappush(self._due_added, (at, intent, int(number_of[intent]), larger))
            if self._alarm_added is not None:
                self._alarm_added.set(0.0)

    def _send_due_added(self) -> None:
        """Send the messages of added users that are due, and set the alarm for the next one. The alarm calls this."""
        alarm = self._alarm_added
        assert alarm is not None
        for _ in range(_SENDS_AT_ONCE):
            if not self._due_added:
                return
            at, intent, number, larger = self._due_added[0]
            due, moment = self._t0 + at / 1e9, now()
            if due >= self._stopped:
                return
            if moment < due:
                alarm.set(due)
                return
            heapq.heappop(self._due_added)
            device = self.devices.get(number)
            if device is not None and number not in self._away:
                try:
                    self._send_added(device, larger, intent, at)
                except Exception as error:  # in the event loop, no caller would handle it
                    self._crashed(error)
                    return
        alarm.set(0.0)  # once the devices have received

    def _send_added(self, device: Device, larger: Plan, intent: int, at: int) -> None:
        user, nth = divmod(device.number, len(self.plan.devices))
        conversation = larger.conversations[larger.conversation[intent]]
        type, size = larger.types[larger.type[intent]], int(larger.size[intent])
        members = conversation.members
        pending = self._extras.add(
            lambda given: Extra(given, at, user, nth, Scene.P2P, "", members, type, size),
            (number for number in self._devices_of(members) if number != device.number),
        )
        self.recording.asked_extra(pending)
        device.send_message(self._composed(self.id_of(pending.extra.intent), conversation, user, type, size))

    def go_offline(self, device: Device) -> None:
        """Log the device out until `come_online`."""
        self._withdraw(device)
        self._away.add(device.number)
        self._leave(device)

    def come_online(self, device: Device, timeout: float) -> bool:
        """Log the device in, and return whether it was online within `timeout` seconds."""
        self._returning.add(device.number)
        answered = self._answered[device.number] = Event()
        device.start()
        answered.wait(timeout)
        return device.number in self._online

    def open_group(self, device: Device, name: str | None, members: tuple[int, ...], timeout: float) -> str:
        """Create a group, and return its name once every device of its members is in it.

        Raises: TimeoutError if that takes longer than `timeout` seconds.
        """
        name = name or f"c{device.number}-{len(self.groups)}"
        if name in self.groups:
            raise UsageError(f"group: there is already a group {name}")
        opened = self._opening[name] = Event()
        self._opening_members[name] = list(members)
        self._join(device, conversation_of(Scene.GROUP, name, members), creates=True)
        if not opened.wait(timeout):
            raise TimeoutError(f"the group {name} was not ready within {timeout:g} s")
        return name

    def _opened(self, name: str, members: list[int], creator: int) -> None:
        """Let the devices of the members join a group that a task has opened."""
        group = self.groups[name] = conversation_of(Scene.GROUP, name, tuple(members))
        self._opened_groups.add(name)
        self._spawn(self._enter_opened, group, creator)

    def _enter_opened(self, group: PlannedConversation, creator: int) -> None:
        place = Conversation(group.scene, self.job.named(group.name))
        for number in self._devices_of(group.members):
            if number in self._online and number != creator:
                self._join(self.devices[number], group, creates=False)
        while any(pending == place for _, pending in self._joins):
            self._joined.clear()
            self._joined.wait()
        self._send("entered", name=group.name)

    def _ready(self, name: str) -> None:
        if (opened := self._opening.pop(name, None)) is not None:
            opened.set()

    def _seen_elsewhere(self, intent: int, device: int, at: float) -> None:
        owner = (intent - len(self.plan)) % self._count
        if owner != self._index:
            self._send("seen", owner=owner, intent=intent, device=device, at=at)

    def _seen(self, intent: int, device: int, at: float) -> None:
        self.recording.delivered_extra(intent, device, at)

    # --- the devices' events ----------------------------------------------------------------------------------------

    def _event(self, device: Device, event: AdapterEvent, at: float) -> None:
        number, kind = device.number, type(event)
        self.recording.event(number, event, at)
        if number in self.listeners:
            self.listeners[number](event)
        if kind not in _REACTIONS:  # as the events of messages
            return
        e: Any = event
        if kind is Ready:
            self._came_online(device, at)
        elif kind is Joined:
            self._answer_join(device.number, e.conversation)
        elif kind is Offline:
            self._went_offline(device, e.reason, False)
            device.since = at
        elif kind is NotJoined:
            scene, name = e.conversation
            self._send("failed", reason=f"the server did not let a device into the {scene} {name}: {e.reason}")
        elif kind is Closed:
            self._went_offline(device, e.reason, True)

    def _came_online(self, device: Device, at: float) -> None:
        self._online.add(device.number)
        if device.number in self._returning:
            self._returning.discard(device.number)
            self._away.discard(device.number)
            self.recording.returned(device.number, at - self._t0)
        self._report(LOGIN, (at - device.since) * 1e3, 0, None)
        if answered := self._answered.pop(device.number, None):
            answered.set()
            if self._is_provisioned:  # it came late: its groups exist, but it is not in them
                for conversation in self._conversations_of(device):
                    self._join(device, conversation, creates=False)
        self._send("online", number=device.number)

    def _went_offline(self, device: Device, reason: str, is_final: bool) -> None:
        self._online.discard(device.number)
        self._report(LOGIN, None, 0, reason)
        if is_final and (answered := self._answered.pop(device.number, None)):
            answered.set()
        if device.number in self.devices:
            self._send("offline", number=device.number, reason=reason, is_final=is_final)

    def _crashed(self, error: BaseException | None) -> None:
        # For example, the spool has no space left.
        text = str(error) if isinstance(error, ImsimError) else f"internal error in imsim: {error!r}"
        if not isinstance(error, ImsimError):
            logger.error("a device failed", exc_info=error)
        self._send("failed", reason=text)

    # --- messages of the coordinator: preparation -------------------------------------------------------------------

    def _lease(self, number: int | None) -> None:
        if self._leases:
            self._leases.popleft().set(number)
        elif number is not None:  # the load was stopped meanwhile
            self._send("release", number=number)

    def _probe(self, sent: float) -> None:
        self._send("probed", sent=sent, at=now())

    def _provision(self, creates: bool, online: bytes) -> None:
        """Create the groups and chatrooms, or join those that other devices have created."""
        self._spawn(self._provide, creates, np.unpackbits(np.frombuffer(online, np.uint8)))

    def _provide(self, creates: bool, is_online: Any) -> None:
        for conversation in self._used():
            present = [number for number in self._devices_of(conversation.members) if is_online[number]]
            for number in present[:1] if creates else present[1:]:
                if number in self.devices:
                    while len(self._joins) >= _JOINS_AT_ONCE:
                        self._joined.clear()
                        self._joined.wait()
                    self._join(self.devices[number], conversation, creates)
        while self._joins:
            self._joined.clear()
            self._joined.wait()
        if creates and self._index == 0:
            gevent.joinall([self._spawn(self._visit, *visit) for visit in self._visits(is_online).items()])
        self._is_provisioned = not creates
        self._send("provisioned")

    def _visits(self, is_online: Any) -> dict[int, list[PlannedConversation]]:
        """Return the groups of which no member is online, because a load shape begins with few users.

        The key is the number of a device of a member.
        """
        visits: dict[int, list[PlannedConversation]] = {}
        for conversation in self._used():
            numbers = self._devices_of(conversation.members)
            is_free = not any(is_online[number] or number in self.devices for number in numbers)
            if conversation.scene is Scene.GROUP and numbers and is_free:
                visits.setdefault(numbers[0], []).append(conversation)
        return visits

    def _visit(self, number: int, groups: list[PlannedConversation]) -> None:
        """Create groups with a device that has no user so far: it logs in for that, and out again."""
        user, nth = divmod(number, len(self.plan.devices))
        left = {self.place(group): group for group in groups}
        created = Event()

        def report(device: Device, event: AdapterEvent, at: float) -> None:
            if isinstance(event, Ready):
                for place, group in left.items():
                    device.do(partial(device.session.join, place, self._names(group), True))
            elif isinstance(event, Joined):
                left.pop(event.conversation, None)
                if not left:
                    created.set()
            elif isinstance(event, NotJoined):
                self._event(device, event, at)
            elif isinstance(event, Closed):
                self._send("failed", reason=event.reason)

        names = self.job.named(self.plan.users[user]), self.plan.devices[nth]
        device = Device(number, *names, self._adapter, report, self._crashed)
        with self._gate:
            try:
                device.start()
                created.wait()
            finally:
                device.stop()

    def _join(self, device: Device, conversation: PlannedConversation, creates: bool) -> None:
        place, members = self.place(conversation), self._names(conversation)
        self._joins.add((device.number, place))
        device.do(lambda now: device.session.join(place, members, creates, now))

    def _names(self, conversation: PlannedConversation) -> list[str]:
        return [self.job.named(self.plan.users[user]) for user in conversation.members]

    def _answer_join(self, number: int, place: Conversation) -> None:
        self._joins.discard((number, place))
        self._joined.set()
        name = self.job.plain(place.name)
        if name in self._opening and name not in self.groups:
            members = self._opening_members.pop(name)
            self._send("opened", name=name, members=members, creator=number)

    def _used(self) -> list[PlannedConversation]:
        """Return all chatrooms, and the groups in which the plan sends or changes something, or a task may."""
        plan = self.plan
        used = set(plan.conversation.tolist()) | {action.conversation for action in plan.actions}
        return [
            conversation
            for number, conversation in enumerate(plan.conversations)
            if conversation.scene is Scene.CHATROOM
            or (conversation.scene is Scene.GROUP and (number in used or self.job.has_tasks))
        ]

    def _conversations_of(self, device: Device) -> list[PlannedConversation]:
        user = device.number // len(self.plan.devices)
        opened = [group for name, group in self.groups.items() if name in self._opened_groups]
        return [conversation for conversation in (*self._used(), *opened) if user in conversation.members]

    def _devices_of(self, users: Iterable[int]) -> list[int]:
        """Return the numbers of the devices of these users, in the order of the users."""
        per_user = len(self.plan.devices)
        return [user * per_user + device for user in users for device in range(per_user)]

    # --- messages of the coordinator: the plan ----------------------------------------------------------------------

    def _play(self, t0: float, absent: list[int]) -> None:
        """Play the plan, which starts at `t0`. It has already begun if this player comes late.

        absent: devices without a user, to be recorded by this process.
        """
        self._is_provisioned = True
        self._log_out_absent_devices()
        gc.collect()
        gc.freeze()  # all present objects live until the end: the collector must not pause the run to scan them again
        self._cpu = time.process_time()
        self._t0 = t0
        self.recording.begin(t0)
        self._alarm, self._alarm_added = Alarm(self._send_due), Alarm(self._send_due_added)
        self._sampler.begin(t0, self.job.scenario.warmup)
        for number in absent:
            self.recording.withdrawn(number, 0.0)
        for number in self.devices:
            self._schedule(number, t0)
        for step in (self._play_actions, self._play_online_periods, self._play_added, self._report_state):
            self._spawn(step)
        gevent.spawn_later(max(0.0, t0 - now()), self.begun.set)

    def _messages_by_device(self) -> tuple[list[int], Any]:
        """Return the messages of each device: the start of its part in the second list, which has the intents."""
        plan = self.plan
        numbers = plan.sender.astype(np.int64) * len(plan.devices) + plan.device
        order = np.argsort(numbers, kind="stable")
        counts = np.bincount(numbers, minlength=len(plan.users) * len(plan.devices))
        return [0, *np.cumsum(counts).tolist()], order

    def _schedule(self, number: int, since: float) -> None:
        """Schedule the messages of a device that are due after this time."""
        first, last = self._first[number], self._first[number + 1]
        at = self.plan.at[self._intents[first:last]]
        self._push(number, first + int(np.searchsorted(at, round((since - self._t0) * 1e9))))
        if self._alarm is not None:
            self._alarm.set(0.0)

    def _push(self, number: int, position: int) -> None:
        if position < self._first[number + 1]:
            heapq.heappush(self._due, (self._at[self._intent_at[position]], number, position))

    def _send_due(self) -> None:
        """Send the messages that are due, and set the alarm for the next one. The alarm calls this.

        Messages that are late by more than the rest of the duration and `drain` are left out.
        """
        t0, give_up, alarm = self._t0, self._t0 + self.job.scenario.duration + self.job.scenario.drain, self._alarm
        assert alarm is not None
        for _ in range(_SENDS_AT_ONCE):
            if not self._due:
                return
            at, number, position = self._due[0]
            due, moment = t0 + at / 1e9, now()
            if due >= self._stopped or moment > give_up:
                return
            if moment < due:
                alarm.set(due)
                return
            device = self.devices.get(number)
            if device is None or position + 1 == self._first[number + 1]:
                heapq.heappop(self._due)
            else:
                heapq.heapreplace(self._due, (self._at[self._intent_at[position + 1]], number, position + 1))
            if device is not None and number not in self._away:
                try:
                    self._send_message(device, self._intent_at[position], due)
                except Exception as error:  # in the event loop, no caller would handle it
                    self._crashed(error)
                    return
        alarm.set(0.0)  # once the devices have received

    def _send_message(self, device: Device, intent: int, due: float) -> None:
        conversation = self.plan.conversations[self._conversation[intent]]
        type, size = self.plan.types[self._type[intent]], self._size[intent]
        message = self._composed(self.id_of(intent), conversation, self._sender[intent], type, size)
        self.recording.asked(intent, now() - due)
        device.send_message(message)

    def _composed(self, id: str, conversation: PlannedConversation, sender: int, type: str, size: int) -> Message:
        scene, to, content, type, file, custom = actor.compose(conversation, sender, type, size, self.job.named)
        if type != "text" and Feature.TYPES not in self._adapter.features:
            content, type, file, custom = custom or json.dumps(file), "text", None, None
        return Message(id, Conversation(scene, to), content, type, file, custom)

    def _play_actions(self) -> None:
        """Play the actions of the plan, such as recalls and edits.

        They may be a millisecond late, because no latency is measured from them.
        """
        if Feature.ACTIONS not in self._adapter.features:
            return
        plan, seq_of = self.plan, self.recording.seqs.get
        for number, action in enumerate(plan.actions):
            gevent.sleep(max(0.0, self._t0 + action.at / 1e9 - now()))
            device = self.devices.get(plan.device_index(action.user, 0))
            if device is not None:
                session: Any = device.session
                id_client = actor.action_id(number, self.job.prefix)
                step = partial(_act, plan, action, seq_of, self.job.named, id_client)
                device.do(partial(session.act, step))

    def _log_out_absent_devices(self) -> None:
        """Log out the devices that the plan has offline at its start."""
        if self.plan.online_periods is not None:
            for device in list(self.devices.values()):
                if not self.plan.online_periods.is_online_first[device.number]:
                    self._leave(device)
                    gevent.sleep(0)

    def _play_online_periods(self) -> None:
        """Log devices in and out at the times of the plan."""
        for ns, number, comes in self.plan.online_periods.changes() if self.plan.online_periods is not None else ():
            gevent.sleep(max(0.0, self._t0 + ns / 1e9 - now()))
            device = self.devices.get(number)
            if device is not None:
                device.start() if comes else self._leave(device)

    def _leave(self, device: Device) -> None:
        self._online.discard(device.number)
        device.leave()
        self._send("offline", number=device.number, reason="", is_final=False)

    def _report_state(self) -> None:
        next_progress = self._t0
        while True:
            is_stopped = self._stopped < math.inf
            self._send("state", in_flight=self.recording.in_flight, is_behind=self._is_behind(), is_stopped=is_stopped)
            if now() >= next_progress:
                next_progress = now() + _PROGRESS_SECONDS
                self._send("progress", report=self.recording.progress(now() - self._t0))
            if is_stopped:
                gevent.sleep(_REPORT_SECONDS)
            else:
                self._has_stopped.wait(_IDLE_REPORT_SECONDS)

    def _is_behind(self) -> bool:
        """Return whether a message is not sent so far that was due before now and before the stop."""
        return bool(self._due) and self._t0 + self._due[0][0] / 1e9 < min(self._stopped, now())

    # --- messages of the coordinator: the end -----------------------------------------------------------------------

    def _stop(self, at: float) -> None:
        """Send nothing that is due at `at` or later."""
        self._stopped = at
        self._has_stopped.set()
        while self._leases:
            self._leases.popleft().set(None)

    def _finish(self) -> None:
        """Close the spool, and report what the coordinator needs for the manifest."""
        for alarm in (self._alarm, self._alarm_added):
            if alarm is not None:
                alarm.close()
        self._alarm = self._alarm_added = None
        gevent.killall([greenlet for greenlet in self._greenlets if greenlet is not gevent.getcurrent()])
        gc.unfreeze()
        unsent = sum(self._first[number + 1] - position for _, number, position in self._due if number in self.devices)
        health = self._sampler.report(*self.recording.sendings(self.job.scenario.warmup))
        self._sampler.stop()
        failure = None
        try:
            self.recording.close()
        except ImsimError as error:
            failure = str(error)
        self._send(
            "finished",
            failure=failure,
            unsent=unsent,
            health=health.to_json_dict(),
            foreign=self.recording.foreign,
            from_tasks=self._from_tasks,
            missing_in_rooms=self.recording.missing_in_rooms(),
            between_ms=self.recording.between_ms() if self._count > 1 and failure is None else None,
            cpu=round((time.process_time() - self._cpu) / max(now() - self._t0, 1e-9), 3),
        )

    def _spawn(self, step: Callable[..., None], *arguments: Any) -> gevent.Greenlet[..., None]:
        greenlet = gevent.spawn(step, *arguments)
        greenlet.link_exception(lambda failed: self._crashed(failed.exception))
        self._greenlets.append(greenlet)
        return greenlet


def _act(plan: Any, action: Any, seq_of: Any, named: Any, id_client: str, client: Any, now: float) -> None:
    actor.act(client, plan, action, seq_of, named, id_client, now)
