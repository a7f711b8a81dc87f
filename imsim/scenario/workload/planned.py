"""What a plan consists of."""

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
    """`members` are user indexes, ascending (a chatroom's: its audience); `name` is the group's or chatroom's, and ""
    in a p2p conversation."""

    id: str
    scene: Scene
    name: str
    members: tuple[int, ...]

    def to(self, sender: int) -> str:
        """The `to` of a message that user number `sender` sends here: the partner's name, or the group's or room's."""
        if self.scene is not Scene.P2P:
            return self.name
        one, other = self.members
        return user_name(other if sender == one else one)


class Action(NamedTuple):
    """Something that a user does besides writing, on the first device.

    kind: recall or edit (the own message number `intent`), invite (the guest `other` into the own group
    `conversation`), leave (as its guest), friend_request (to user `other`). What a kind does not need is -1.
    """

    at: int  # ns from the run's start
    kind: str
    user: int
    intent: int = -1
    conversation: int = -1
    other: int = -1


class Entitled(NamedTuple):
    """One row per message and device that is to get it, sorted by (intent, device)."""

    intent: Int32s
    device: Int32s  # number over all users, see Plan.device_index
    own: Bools  # whether it is another device of the sender


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be sent. The columns have one entry for each message; its index is the message's `intent`.

    They are sorted by (at, sender). `conversations` starts with all groups, then has all chatrooms; p2p conversations
    follow in the order of their first message, so a shorter plan's list is a prefix too. `actions` are sorted.
    """

    at: Int64s  # intended time, ns from the run's start
    sender: Int32s  # user index
    device: Int8s  # which of the sender's devices sends
    conversation: Int32s  # index into conversations
    type: Int8s  # index into types
    size: Int32s  # bytes: of content, of custom, or of what the attachment tells of, as the type has it
    users: list[str]
    devices: list[str]  # the names that each user's devices have
    types: list[str]
    conversations: list[PlannedConversation]
    actions: list[Action]
    online_periods: OnlinePeriods | None = None  # of the devices; None: all are online all the time
    room_patience: int = 0  # ns that a device may take to be in its chatrooms again, or for a message to come

    def __len__(self) -> int:
        return len(self.at)

    def device_index(self, user: int, device: int) -> int:
        """The number of a user's device among all devices."""
        return user * len(self.devices) + device

    @cached_property
    def rooms(self) -> list[PlannedConversation]:
        """The chatrooms."""
        return [conversation for conversation in self.conversations if conversation.scene is Scene.CHATROOM]

    @cached_property
    def to_room(self) -> Bools:
        """Of each message, whether it goes to a chatroom."""
        is_room = np.array([conversation.scene is Scene.CHATROOM for conversation in self.conversations], bool)
        return is_room[self.conversation]

    @cached_property
    def amended(self) -> frozenset[int]:
        """The messages that will be recalled or edited."""
        return frozenset(action.intent for action in self.actions if action.intent >= 0)

    @cached_property
    def guests(self) -> frozenset[tuple[int, int]]:
        """(conversation, user) of those who come into a group and leave again. When exactly they do, and so what they
        get there, no plan can tell: it is nobody's due."""
        return frozenset((action.conversation, action.other) for action in self.actions if action.kind == "invite")

    def is_excused(self, intent: Int64s, device: Int64s, is_stored: Bools) -> Bools:
        """Of each message and device, whether it is nobody's fault that it did not come: the device was away at the
        end; or its sender's was, and the message still there; or, in a chatroom, which keeps nothing for the absent,
        the device was away around that time."""
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
        """Who is to get what: all devices of all members, but for the one that sends."""
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
