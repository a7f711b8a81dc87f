"""The groups and chatrooms of a Locust process: its devices create and join those of the plan and those of tasks."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gevent
import numpy as np
from gevent.event import Event

from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Scene
from imsim.load.adapters import Closed, Conversation, Joined, NotJoined, Ready
from imsim.load.adapters.interface import Event as AdapterEvent
from imsim.load.context import Context
from imsim.load.device import Device
from imsim.load.devices import Devices
from imsim.scenario.workload import PlannedConversation, conversation_of

_JOINS_AT_ONCE = 200  # groups and chatrooms that a process creates or joins at the same time


@dataclass(eq=False)
class _Opening:
    """A group that a task opens with the device `creator`. The members are indexes of users."""

    creator: int
    members: list[int]
    is_created: bool = False  # by the server
    over: Event = field(default_factory=Event)
    error: str | None = None  # why `open` fails, once it is over


class Groups:
    """The groups and chatrooms of the devices of one Locust process.

    creates_unattended: whether this process creates the groups of which no member is online.
    """

    def __init__(self, context: Context, devices: Devices, creates_unattended: bool) -> None:
        self.by_name = {one.name: one for one in context.plan.conversations if one.scene is Scene.GROUP}
        """The groups of the plan and those that tasks have opened, by name."""
        self._context = context
        self._job = context.job
        self._devices = devices
        self._creates_unattended = creates_unattended
        self._joins: set[tuple[int, Conversation]] = set()  # those without an answer
        self._joining: Counter[int] = Counter()  # the count of those of each device
        self._missed: defaultdict[int, list[PlannedConversation]] = defaultdict(list)  # opened while it was offline
        self._joined = Event()
        self._are_ready = False  # whether the groups of the plan exist, and all devices that were online are in them
        self._opening: dict[str, _Opening] = {}  # groups that tasks open here, and whose members are not all in them
        self._opened: set[str] = set()  # the names of those that exist
        self._refused: dict[str, str] = {}  # of some of those: why a device is not in it
        self._chosen: Counter[int] = Counter()  # the count of names that were chosen for the groups of each device

    # --- those of the plan ------------------------------------------------------------------------------------------

    def provision(self, creates: bool, online: bytes) -> None:
        """Create the groups and chatrooms, or join those that other devices have created.

        online: a bit for each device of the run.
        """
        self._context.spawn(self._provide, creates, np.unpackbits(np.frombuffer(online, np.uint8)))

    def _provide(self, creates: bool, is_online: Any) -> None:
        for conversation in self._used():
            present = [number for number in self._context.devices_of(conversation.members) if is_online[number]]
            for number in present[:1] if creates else present[1:]:
                if number in self._devices.present:
                    while len(self._joins) >= _JOINS_AT_ONCE:
                        self._wait_for_answer()
                    self._join(self._devices.present[number], conversation, creates)
        while self._joins:
            self._wait_for_answer()
        if creates and self._creates_unattended:
            visits = self._visits(is_online).items()
            gevent.joinall([self._context.spawn(self._visit, number, groups) for number, groups in visits])
        self._are_ready = not creates
        self._context.send("provisioned")

    def outside(self) -> list[int]:
        """Return the devices that are not online, or not in all their groups and chatrooms."""
        devices = self._devices
        return [number for number in devices.present if number not in devices.online or self._joining[number]]

    def begin(self) -> None:
        """Regard the groups as ready, because the plan begins. This process may have come after they were created."""
        self._are_ready = True

    def enter(self, device: Device, is_first: bool) -> None:
        """Let a device that has logged in join the groups and chatrooms that exist, but that it is not in.

        is_first: whether this is its first login since it got its user, or since a task logged it out.
        """
        missed = self._missed.pop(device.number, [])
        if is_first and self._are_ready:
            user, _ = self._context.plan.user_and_device(device.number)
            opened = [group for name, group in self.by_name.items() if name in self._opened]
            missed = [conversation for conversation in (*self._used(), *opened) if user in conversation.members]
        for conversation in missed:
            self._join(device, conversation, creates=False)
        if not self._joining[device.number]:
            self._devices.entered(device.number)

    def _used(self) -> list[PlannedConversation]:
        """Return all chatrooms, and the groups in which the plan sends or changes something, or a task may."""
        plan = self._context.plan
        used = set(plan.conversation.tolist()) | {action.conversation for action in plan.actions}
        return [
            conversation
            for number, conversation in enumerate(plan.conversations)
            if conversation.scene is Scene.CHATROOM
            or (conversation.scene is Scene.GROUP and (number in used or self._job.has_tasks))
        ]

    def _visits(self, is_online: Any) -> dict[int, list[PlannedConversation]]:
        """Return the groups of which no member is online, because a load shape begins with few users.

        The key is the number of a device of a member.
        """
        visits: dict[int, list[PlannedConversation]] = {}
        for conversation in self._used():
            numbers = self._context.devices_of(conversation.members)
            is_free = not any(is_online[number] or number in self._devices.present for number in numbers)
            if conversation.scene is Scene.GROUP and numbers and is_free:
                visits.setdefault(numbers[0], []).append(conversation)
        return visits

    def _visit(self, number: int, groups: list[PlannedConversation]) -> None:
        """Create groups with a device that has no user so far: it logs in for that, and out again."""
        left = {self._job.place(group): group for group in groups}
        created = Event()

        def react(device: Device, event: AdapterEvent, at: float) -> None:
            if isinstance(event, Ready):
                for place, group in left.items():
                    device.do(partial(device.session.join, place, self._names(group), True))
            elif isinstance(event, Joined):
                left.pop(event.conversation, None)
                if not left:
                    created.set()
            elif isinstance(event, NotJoined):
                self._devices.react(device, event, at)
            elif isinstance(event, Closed):
                self._context.send("failed", reason=event.reason)

        self._devices.log_in_and_out(self._devices.make(number, react), created)

    # --- those of tasks ---------------------------------------------------------------------------------------------

    def open(self, device: Device, name: str | None, members: tuple[int, ...], timeout: float) -> str:
        """Create a group, and return its name once every device of its members is in it.

        Raises: TimeoutError if that takes longer than `timeout` seconds; RunError if the server refuses it.
        """
        name = name or self._free_name(device.number)
        if name in self.by_name or name in self._opening:
            raise UsageError(f"group: there is already a group {name}")
        opening = self._opening[name] = _Opening(device.number, list(members))
        self._join(device, conversation_of(Scene.GROUP, name, members), creates=True)
        is_over = opening.over.wait(timeout)
        if opening.error is not None:
            raise RunError(opening.error)
        if not is_over:
            raise TimeoutError(f"the group {name} was not ready within {timeout:g} s")
        return name

    def _free_name(self, number: int) -> str:
        while True:
            name = f"c{number}-{self._chosen[number]}"
            self._chosen[number] += 1
            if name not in self.by_name:  # as it is if the device was in another process before
                return name

    def opened(self, name: str, members: list[int], creator: int) -> None:
        """Let the devices of the members join a group that a task has opened, in this process or in another one."""
        group = self.by_name[name] = conversation_of(Scene.GROUP, name, tuple(members))
        self._opened.add(name)
        self._context.spawn(self._enter_opened, group, creator)

    def _enter_opened(self, group: PlannedConversation, creator: int) -> None:
        for number in self._context.devices_of(group.members):
            if number in self._devices.online and number != creator:
                self._join(self._devices.present[number], group, creates=False)
            elif number in self._devices.present and number != creator:
                self._missed[number].append(group)
                self._devices.missed(number)
        place = self._job.place(group)
        while any(pending == place for _, pending in self._joins):
            self._wait_for_answer()
        self._context.send("entered", name=group.name, error=self._refused.get(group.name))

    def ready(self, name: str, error: str | None) -> None:
        """Let `open` return: the members of the group are in it. error: why one of them is not."""
        if (opening := self._opening.pop(name, None)) is not None:
            opening.error = error
            opening.over.set()

    # --- requests and answers ---------------------------------------------------------------------------------------

    def _join(self, device: Device, conversation: PlannedConversation, creates: bool) -> None:
        place, members = self._job.place(conversation), self._names(conversation)
        if (device.number, place) not in self._joins:
            self._joins.add((device.number, place))
            self._joining[device.number] += 1
        device.do(lambda now: device.session.join(place, members, creates, now))

    def _names(self, conversation: PlannedConversation) -> list[str]:
        return [self._job.named(self._context.plan.users[user]) for user in conversation.members]

    def answered(self, number: int, place: Conversation) -> None:
        """Note that the device with this number is in a group or chatroom."""
        self._settle(number, place)
        name = self._job.plain(place.name)
        opening = self._opening.get(name)
        if opening is not None and opening.creator == number and not opening.is_created:
            opening.is_created = True
            self._context.send("opened", name=name, members=opening.members, creator=number)

    def refused(self, number: int, place: Conversation, reason: str) -> None:
        """Handle that the server does not let a device into a group or chatroom: `open` fails, or else the test."""
        name = self._job.plain(place.name)
        text = f"the server did not let a device into the {place.scene} {name}: {reason}"
        opening = self._opening.get(name)
        if opening is not None and opening.creator == number and not opening.is_created:
            self.ready(name, text)
        elif name in self._opened:
            self._refused[name] = text
        else:
            self._context.send("failed", reason=text)
        self._settle(number, place)

    def _settle(self, number: int, place: Conversation) -> None:
        """Forget a request that has its answer."""
        if (number, place) in self._joins:
            self._joins.remove((number, place))
            self._joining[number] -= 1
            if not self._joining[number]:
                self._devices.entered(number)
        self._joined.set()

    def _wait_for_answer(self) -> None:
        self._joined.clear()
        self._joined.wait()
