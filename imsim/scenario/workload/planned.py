"""The parts of a plan: conversations, messages, actions and expected deliveries."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from imsim.core.model import Scene, p2p_id
from imsim.scenario.workload.columns import Bools, Int8s, Int32s, Int64s, places
from imsim.scenario.workload.online_periods import OnlinePeriods


@dataclass(frozen=True, slots=True)
class PlannedConversation:
    """A conversation of a plan.

    members: user indexes in ascending order; in a chatroom, its audience.
    name: the name of the group or chatroom; empty in a p2p conversation.
    """

    id: str
    scene: Scene
    name: str
    members: tuple[int, ...]

    def to(self, sender: int) -> str:
        """Return the `to` of a message from this sender: the name of the partner, the group or the chatroom."""
        if self.scene is not Scene.P2P:
            return self.name
        one, other = self.members
        return user_name(other if sender == one else one)


@dataclass(frozen=True, slots=True)
class Extra:
    """A message that was sent during a test and is not in its plan, for example by a task of a custom user.

    intent: its number. It is unique among the extras of a test and not smaller than the length of the plan.
    at: the intended time, ns from the start of the run.
    sender: the user index; it may be beyond the users of the plan.
    device: which of the sender's devices sends.
    name: the name of the group or chatroom; empty in a p2p conversation.
    members: user indexes in ascending order, as at the time of sending, with the sender.
    """

    intent: int
    at: int
    sender: int
    device: int
    scene: Scene
    name: str
    members: tuple[int, ...]
    type: str
    size: int

    def line(self) -> str:
        """Return the extra as a line of JSON, without the line feed. `read` is the inverse."""
        return json.dumps(
            [self.intent, self.at, self.sender, self.device, self.scene, self.name, self.members, self.type, self.size]
        )

    @classmethod
    def read(cls, line: str | bytes) -> Extra:
        """Return the extra of a line. Raises: ValueError if the line is not complete."""
        intent, at, sender, device, scene, name, members, type, size = json.loads(line)
        return cls(intent, at, sender, device, Scene(scene), name, tuple(members), type, size)


class Action(NamedTuple):
    """An action of a user besides sending messages, on the user's first device.

    kind: recall or edit (of the user's message number `intent`), invite (the guest `other` to the user's group
        `conversation`), leave (the group `conversation`, as its guest), friend_request (to user `other`).

    A field that a kind does not need is -1.
    """

    at: int  # ns from the run's start
    kind: str
    user: int
    intent: int = -1
    conversation: int = -1
    other: int = -1


class Entitled(NamedTuple):
    """The expected deliveries: one row for each message and entitled device, sorted by (intent, device)."""

    intent: Int32s
    device: Int32s  # number over all users, see Plan.device_index
    own: Bools  # whether the device is another device of the sender


@dataclass(frozen=True, eq=False)
class Plan:
    """All messages and actions of a run. The columns have one entry for each message; its index is the `intent`.

    The columns are sorted by (at, sender). `conversations` has first all groups, then all chatrooms, then the p2p
    conversations in the order of their first message. So the list of a shorter plan is a prefix. `actions` are sorted.

    A plan that is `extended` has the additional messages after all others, and sorted among themselves. Additional
    conversations, users and types are also at the end of their lists.
    """

    at: Int64s  # intended time, ns from the start of the run
    sender: Int32s  # user index
    device: Int8s  # which of the sender's devices sends
    conversation: Int32s  # index into conversations
    type: Int8s  # index into types
    size: Int32s  # bytes of the content, of custom, or of the attachment's file, depending on the type
    users: list[str]
    devices: list[str]  # names of the devices, the same for each user
    types: list[str]
    conversations: list[PlannedConversation]
    actions: list[Action]
    online_periods: OnlinePeriods | None = None  # None: all devices are always online
    room_patience: int = 0  # ns in which a device can enter its chatrooms again, or a message can arrive
    extras: Int64s | None = None  # the intents that the additional messages had before, in their present order
    opened: frozenset[int] = frozenset()  # the conversations that are groups which tasks have opened

    def __len__(self) -> int:
        return len(self.at)

    def extended(self, extras: Iterable[Extra]) -> Plan:
        """Return the plan with these messages after its own.

        Their intents are len(plan), len(plan) + 1 ... in the order (at, sender, intent of the extra). A group that
        changed its members is a further conversation with the same id. Users beyond the plan's are always online.
        """
        numbers = {_key(one.scene, one.name, one.members): nth for nth, one in enumerate(self.conversations)}
        conversations = list(self.conversations)
        types = {name: nth for nth, name in enumerate(self.types)}
        planned = {one.id for one in self.conversations}
        last_user = len(self.users) - 1
        intent, at, sender, size = array("q"), array("q"), array("i"), array("i")
        device, conversation, type = array("b"), array("i"), array("b")
        for extra in extras:
            key = _key(extra.scene, extra.name, extra.members)
            if key not in numbers:
                numbers[key] = len(conversations)
                conversations.append(conversation_of(extra.scene, extra.name, extra.members))
                last_user = max(last_user, extra.sender, *extra.members)
            intent.append(extra.intent)
            at.append(extra.at)
            sender.append(extra.sender)
            device.append(extra.device)
            conversation.append(numbers[key])
            type.append(types.setdefault(extra.type, len(types)))
            size.append(extra.size)
        order = np.lexsort((np.array(intent), np.array(sender), np.array(at)))
        users = [*self.users, *(user_name(user) for user in range(len(self.users), last_user + 1))]
        online_periods = self.online_periods
        return replace(
            self,
            at=np.concatenate((self.at, np.array(at, np.int64)[order])),
            sender=np.concatenate((self.sender, np.array(sender, np.int32)[order])),
            device=np.concatenate((self.device, np.array(device, np.int8)[order])),
            conversation=np.concatenate((self.conversation, np.array(conversation, np.int32)[order])),
            type=np.concatenate((self.type, np.array(type, np.int8)[order])),
            size=np.concatenate((self.size, np.array(size, np.int32)[order])),
            users=users,
            types=list(types),
            conversations=conversations,
            online_periods=online_periods and online_periods.extended(len(users) * len(self.devices)),
            extras=np.array(intent, np.int64)[order],
            opened=frozenset(
                nth
                for nth, one in enumerate(conversations)
                if nth >= len(self.conversations) and one.scene is Scene.GROUP and one.id not in planned
            ),
        )

    def part(self, start: int, stop: int) -> Plan:
        """Return the plan of the messages from `start` to before `stop`. Its intents count from `start`.

        It shares all columns and lists with this plan. Its actions keep the intents of this plan.
        """
        columns = ("at", "sender", "device", "conversation", "type", "size")
        part = replace(self, **{name: getattr(self, name)[start:stop] for name in columns})
        for name in ("is_room", "memberships", "guests"):  # they depend on the conversations only, and take a while
            vars(part)[name] = getattr(self, name)
        return part

    def device_index(self, user: int, device: int) -> int:
        """Return the number of a user's device among all devices."""
        return user * len(self.devices) + device

    def user_and_device(self, number: int) -> tuple[int, int]:
        """Return the user that has the device with this number, and the place of the device among the user's."""
        return divmod(number, len(self.devices))

    @property
    def sending_devices(self) -> Int64s:
        """The number of the device that sends each message."""
        return self.sender.astype(np.int64) * len(self.devices) + self.device

    @cached_property
    def rooms(self) -> list[PlannedConversation]:
        """The chatrooms of the plan."""
        return [conversation for conversation in self.conversations if conversation.scene is Scene.CHATROOM]

    @cached_property
    def to_room(self) -> Bools:
        """Whether each message goes to a chatroom."""
        return self.is_room[self.conversation]

    @property
    def to_opened(self) -> Bools:
        """Whether each message goes to a group that a task has opened."""
        return np.isin(self.conversation, list(self.opened))

    @cached_property
    def is_room(self) -> Bools:
        """Whether each conversation is a chatroom."""
        return np.array([conversation.scene is Scene.CHATROOM for conversation in self.conversations], bool)

    @cached_property
    def memberships(self) -> tuple[Int64s, Int32s]:
        """The members of all conversations: the number of members of each, and the members, concatenated."""
        sizes = np.array([len(c.members) for c in self.conversations], np.int64)
        return sizes, np.fromiter(chain.from_iterable(c.members for c in self.conversations), np.int32, sizes.sum())

    @cached_property
    def amended(self) -> frozenset[int]:
        """The numbers of the messages that are recalled or edited."""
        return frozenset(action.intent for action in self.actions if action.intent >= 0)

    @cached_property
    def guests(self) -> frozenset[tuple[int, int]]:
        """The guests of groups, as (conversation, user).

        A plan does not know exactly when guests are members. So messages to them are not expected deliveries.
        """
        return frozenset((action.conversation, action.other) for action in self.actions if action.kind == "invite")

    def is_excused(self, intent: Int64s, device: Int64s, is_stored: Bools, *, is_kept: bool = True) -> Bools:
        """Return whether each missing delivery (message and device) is explained by devices that were offline by plan.

        This holds in three cases: the device was offline at the end; the sender's device was offline at the end and
        the message was not stored; or nothing keeps the message, and the device was offline around that time.

        is_kept: whether the server keeps messages for devices that are offline. Chatrooms never keep them.
        """
        if self.online_periods is None:
            return np.zeros(len(intent), bool)
        own = self.sending_devices
        is_kept_back = ~is_stored & ~self.online_periods.is_online_at_end(own)
        at = self.at[intent]
        was_there = self.online_periods.is_online_throughout(device, at - self.room_patience, at + self.room_patience)
        is_gone = self.to_room[intent] & ~was_there if is_kept else ~was_there
        return ~self.online_periods.is_online_at_end(device) | is_kept_back[intent] | is_gone

    def entitled(self) -> Entitled:
        """Return the expected deliveries: all devices of all members, except the sending device."""
        sizes, members = self.memberships
        first = np.cumsum(sizes) - sizes

        per_user = len(self.devices)
        counts = sizes[self.conversation] * per_user
        intent = np.repeat(np.arange(len(self), dtype=np.int32), counts)
        nth = places(counts)
        user = members[first[self.conversation][intent] + nth // per_user]
        device = (user * per_user + nth % per_user).astype(np.int32)

        other = device != self.sending_devices[intent]
        intent, device, user = intent[other], device[other], user[other]
        return Entitled(intent, device, user == self.sender[intent])


def conversation_of(scene: Scene, name: str, members: tuple[int, ...]) -> PlannedConversation:
    """Return the conversation with its id. `name` is empty for p2p; `members` are in ascending order."""
    if scene is Scene.P2P:
        one, other = members
        return PlannedConversation(p2p_id(user_name(one), user_name(other)), scene, "", members)
    return PlannedConversation(f"{scene}:{name}", scene, name, members)


def _key(scene: Scene, name: str, members: tuple[int, ...]) -> tuple[Scene, str, tuple[int, ...]]:
    return scene, "" if scene is Scene.P2P else name, members


def user_name(index: int) -> str:
    return f"u{index}"


def device_name(index: int) -> str:
    return f"d{index}"
