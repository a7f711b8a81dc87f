"""The instant-messaging client of a custom user: `self.im` of an `IMUser`.

Users, groups and messages have the names of the scenario here, without the prefix of the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gevent.event import Event
from locust.exception import StopUser

from imsim.core import events
from imsim.core.exceptions import UsageError
from imsim.core.model import MessageType, Scene
from imsim.load.adapters import Conversation, Delivered
from imsim.load.adapters.interface import Event as AdapterEvent
from imsim.load.device import Device, now
from imsim.load.extras import Pending
from imsim.load.tasks import StoppedError, Tasks
from imsim.scenario import Draws, Stream
from imsim.scenario.workload import PlannedConversation, conversation_of, partner_of, user_name

_MOST_NAMED = 3  # devices in an error
_MOST_KEPT = 1000  # received messages that wait for `expect`; older ones are forgotten


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message that the device received.

    sender: the name of its sender; None if the server does not say.
    conversation: the group or chatroom, or the sender in a p2p conversation; None if the server does not say.
    text: None if the server does not say.
    """

    id: str
    sender: str | None
    conversation: str | None
    text: str | None
    place: Conversation | None = field(default=None, repr=False)  # as the session addresses it, with the run's prefix


class SentMessage:
    """A message that the user sent. It is a row of the run."""

    def __init__(self, id: str, pending: Pending, tasks: Tasks) -> None:
        self.id = id
        self._pending = pending
        self._tasks = tasks

    @property
    def stored(self) -> bool:
        """Whether the server has acknowledged the message."""
        return self._pending.is_stored

    @property
    def delivered(self) -> bool:
        """Whether every device that must receive the message has received it, in any process of the run."""
        return not self._pending.missing

    @property
    def error(self) -> str | None:
        """Why the message failed, or cannot be delivered now; None if neither is so."""
        missing = self._pending.missing
        if self._pending.error is None and missing and missing <= self._tasks.absent:
            names = [self._tasks.name_of(number) for number in sorted(missing)]
            return f"no Locust user runs {', '.join(names[:_MOST_NAMED])}{' ...' * (len(names) > _MOST_NAMED)}"
        return self._pending.error

    def wait_stored(self, timeout: float = 10.0) -> bool:
        """Wait until the server has answered, `timeout` seconds at most, and return whether it has the message."""
        self._wait(timeout, lambda: self._pending.is_answered)
        return self.stored

    def wait_delivered(self, timeout: float = 10.0) -> bool:
        """Wait until the message is delivered or has failed, `timeout` seconds at most, and return `delivered`.

        It does not wait for devices whose Locust users have ended or never began; `error` names them.
        """
        self._wait(timeout, lambda: self.delivered or self.error is not None)
        return self.delivered

    def _wait(self, timeout: float, done: Any) -> None:
        deadline, changed = now() + timeout, Event()
        self._pending.changed.append(changed.set)
        self._tasks.waiting.add(changed)
        try:
            while not done() and (left := deadline - now()) > 0:
                changed.clear()
                changed.wait(left)
        finally:
            self._pending.changed.remove(changed.set)
            self._tasks.waiting.discard(changed)

    def __repr__(self) -> str:
        state = "failed" if self.error else "delivered" if self.delivered else "stored" if self.stored else "sent"
        return f"<SentMessage {self.id}: {state}>"


class IM:
    """The client of one user of a load test. Its calls block only this user.

    user: the user's name in the scenario.
    device: the name of this device.
    listens: whether messages that arrive are kept for `expect`, which takes time for each.
    """

    def __init__(self, tasks: Tasks, device: Device, listens: bool = True) -> None:
        self._tasks = tasks
        self._device = device
        self._plan = tasks.job.plan
        self._number, nth = self._plan.user_and_device(device.number)
        self.user = user_name(self._number)
        self.device = self._plan.devices[nth]
        self._draw = Stream(Draws(tasks.job.scenario.seed, "custom"), device.number).next
        self._received: deque[ReceivedMessage] = deque(maxlen=_MOST_KEPT)
        self._senders: set[str] = set()  # of received messages; users beyond the population may be among them
        self._arrived = Event()
        self.has_ended = False
        """Whether a task tried to send a message after the load was stopped."""
        if listens:
            tasks.devices.listeners[device.number] = self._listen

    # --- partners ---------------------------------------------------------------------------------------------------

    def friend(self) -> str:
        """Return a random partner of this user, as the scenario draws them (`conversations.partners`).

        Raises: UsageError if the scenario has no partners.
        """
        scenario = self._tasks.job.scenario
        if not scenario.conversations.partners:
            raise UsageError("conversations.partners: must be at least 1 for friend() (got 0)")
        return user_name(partner_of(scenario, scenario.seed, self._number, self._draw()))

    def pair(self) -> str:
        """Return the other user of this user's pair: u0 and u1, u2 and u3 ... They may be in different processes.

        Raises: UsageError if the last user has no other one.
        """
        other = self._number ^ 1
        if other >= len(self._plan.users):
            raise UsageError(f"population.users: must be even for pair() (got {len(self._plan.users)})")
        return user_name(other)

    def group(self) -> str:
        """Return a random group of this user.

        Raises: UsageError if it has none.
        """
        own = [one.name for one in self._tasks.groups.by_name.values() if self._number in one.members]
        if not own:
            raise UsageError(f"conversations.groups: {self.user} is in no group; raise groups or group_size")
        return own[int(self._draw() * len(own))]

    def open_group(self, members: Iterable[str], name: str | None = None, timeout: float = 10.0) -> str:
        """Create a group with these users and this one, wait until its members are in it, and return its name.

        Raises: TimeoutError if that takes longer than `timeout` seconds; UsageError for an unknown user, or a name that
        another group has; RunError if the server refuses the group.
        """
        users = sorted({self._number, *map(self._index, members)})
        return self._tasks.groups.open(self._device, name, tuple(users), timeout)

    # --- messages ---------------------------------------------------------------------------------------------------

    def send_text(self, to: str, text: str) -> SentMessage:
        """Send a text to a user or a group, and return at once. Its latency counts from this call.

        Raises: UsageError for an unknown name; Locust's StopUser, which ends the tasks, when the load was stopped.
        """
        try:
            pending = self._tasks.send(self._device, self._conversation(to), text)
        except StoppedError:
            self.has_ended = True
            raise StopUser from None
        return SentMessage(self._tasks.job.id_of(pending.extra.intent), pending, self._tasks)

    def expect(
        self,
        *,
        sender: str | None = None,
        conversation: str | None = None,
        text: str | None = None,
        timeout: float = 10.0,
    ) -> ReceivedMessage | None:
        """Return the oldest matching message that no earlier call has returned. If there is none, wait for it.

        sender, conversation: names. text: any part of the text. None matches everything. It returns None after
        `timeout` seconds.
        """
        deadline = now() + timeout
        while True:
            for message in self._received:
                if (
                    sender in (None, message.sender)
                    and conversation in (None, message.conversation)
                    and (text is None or text in (message.text or ""))
                ):
                    self._received.remove(message)
                    return message
            if (left := deadline - now()) <= 0:
                return None
            self._arrived.clear()
            self._arrived.wait(left)

    def read(self, message: ReceivedMessage) -> None:
        """Mark the message's conversation as read up to this message.

        Raises: UsageError if the server does not say in which conversation the message is.
        """
        place, session = message.place, self._device.session
        if place is None:
            raise UsageError("read: the server does not say in which conversation the message is")
        self._device.do(lambda now: session.read(place, message.id, now))

    # --- presence ---------------------------------------------------------------------------------------------------

    def go_offline(self) -> None:
        """Log out. Deliveries that the device misses meanwhile count as absent unless it fetches them later."""
        self._tasks.devices.go_offline(self._device)

    def come_online(self, timeout: float = 10.0) -> bool:
        """Log in again, and return whether the device was online within `timeout` seconds. It continues to try."""
        return self._tasks.devices.come_online(self._device, timeout)

    # --- names and events -------------------------------------------------------------------------------------------

    def _index(self, user: str) -> int:
        number = user.removeprefix("u")
        is_number = number != user and number.isdecimal()
        if not is_number or (int(number) >= len(self._plan.users) and user not in self._senders):
            raise UsageError(f"user: must be one of u0 ... u{len(self._plan.users) - 1} (got {user!r})")
        return int(number)

    def _conversation(self, name: str) -> PlannedConversation:
        if (group := self._tasks.groups.by_name.get(name)) is not None:
            return group
        other = self._index(name)
        return conversation_of(Scene.P2P, "", (min(self._number, other), max(self._number, other)))

    def _listen(self, event: AdapterEvent) -> None:
        job = self._tasks.job
        plain = job.plain
        if isinstance(event, events.Shown):
            message = event.message
            if message.type == MessageType.NOTIFICATION or message.scene == Scene.SYSTEM:
                return  # no user has written it
            text: str | None = message.content
            id, sender = message.id_client, message.sender
            is_to_us = message.scene == Scene.P2P and plain(sender) != self.user  # not from another device of the user
            place: Conversation | None = Conversation(message.scene, sender if is_to_us else message.to)
        elif isinstance(event, Delivered):
            id, sender, text, place = event.id, event.sender or "", event.text, event.conversation
            if (known := self._tasks.origin(id)) is not None:  # the server may say less than this
                number, conversation, sent = known
                text = sent if text is None else text
                sender = sender or job.named(user_name(number))
                place = place or job.place(conversation, number)
            if place is not None and place.scene is Scene.P2P and plain(place.name) == self.user:
                place = Conversation(Scene.P2P, sender) if sender else None  # as this user addresses it
        else:
            return
        self._senders.add(plain(sender))
        name = "" if place is None else plain(place.name)
        self._received.append(ReceivedMessage(id, plain(sender) or None, name or None, text, place))
        self._arrived.set()
