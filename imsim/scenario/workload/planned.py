"""The parts of a plan: conversations, messages, actions and expected deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from imsim.core.model import Scene
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

    def __len__(self) -> int:
        return len(self.at)

    def device_index(self, user: int, device: int) -> int:
        """Return the number of a user's device among all devices."""
        return user * len(self.devices) + device

    @cached_property
    def rooms(self) -> list[PlannedConversation]:
        """The chatrooms of the plan."""
        return [conversation for conversation in self.conversations if conversation.scene is Scene.CHATROOM]

    @cached_property
    def to_room(self) -> Bools:
        """Whether each message goes to a chatroom."""
        is_room = np.array([conversation.scene is Scene.CHATROOM for conversation in self.conversations], bool)
        return is_room[self.conversation]

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

    def is_excused(self, intent: Int64s, device: Int64s, is_stored: Bools) -> Bools:
        """Return whether each missing delivery (message and device) is explained by devices that were offline.

        This holds in three cases: the device was offline at the end; the sender's device was offline at the end and
        the message was not stored; or the message went to a chatroom, which keeps no messages, and the device was
        offline around that time.
        """
        if self.online_periods is None:
            return np.zeros(len(intent), bool)
        own = self.sender.astype(np.int64) * len(self.devices) + self.device
        is_kept_back = ~is_stored & ~self.online_periods.is_online_at_end(own)
        at = self.at[intent]
        was_there = self.online_periods.is_online_throughout(device, at - self.room_patience, at + self.room_patience)
        return (
            ~self.online_periods.is_online_at_end(device) | is_kept_back[intent] | (self.to_room[intent] & ~was_there)
        )

    def entitled(self) -> Entitled:
        """Return the expected deliveries: all devices of all members, except the sending device."""
        sizes = np.array([len(c.members) for c in self.conversations], np.int64)
        members = np.fromiter(chain.from_iterable(c.members for c in self.conversations), np.int32, sizes.sum())
        first = np.cumsum(sizes) - sizes

        per_user = len(self.devices)
        counts = sizes[self.conversation] * per_user
        intent = np.repeat(np.arange(len(self), dtype=np.int32), counts)
        nth = places(counts)
        user = members[first[self.conversation][intent] + nth // per_user]
        device = (user * per_user + nth % per_user).astype(np.int32)

        other = device != (self.sender * per_user + self.device)[intent]
        intent, device, user = intent[other], device[other], user[other]
        return Entitled(intent, device, user == self.sender[intent])


def user_name(index: int) -> str:
    return f"u{index}"


def device_name(index: int) -> str:
    return f"d{index}"
