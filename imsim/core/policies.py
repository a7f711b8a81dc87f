"""The choices that a designer makes, as one value that every machine is built with. Times are seconds.

The scenario's [policies] and [limits] have the same names; what a field means is said there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import get_type_hints

from imsim.core.model import is_p2p


class Ack(StrEnum):
    """When the sender of a message hears of success: once it is stored, or also once the router has it."""

    AFTER_STORE = "after_store"
    AFTER_RECEIVE = "after_receive"


class Sessions(StrEnum):
    """Which devices of a user may be logged in together: all, one of each kind, or a single one."""

    ALL = "all"
    ONE_PER_KIND = "one_per_kind"
    SINGLE = "single"

    def slot(self, device: str, kind: str) -> str:
        """Of the devices with the same slot only the one that logged in last may act."""
        if self is Sessions.ALL:
            return device
        return kind if self is Sessions.ONE_PER_KIND else ""

    @property
    def has_shared_slots(self) -> bool:
        """Whether devices can share a slot."""
        return self is not Sessions.ALL


class Fanout(StrEnum):
    """What storage keeps of a message: one row, or also one in the inbox of each member."""

    READ = "read"
    WRITE = "write"

    @property
    def keeps_inboxes(self) -> bool:
        """Whether each message costs a row of each member as well, from which a login reads what was missed."""
        return self is Fanout.WRITE


class Delivery(StrEnum):
    """What a device is sent of a new message: the message, or a notice upon which it fetches it."""

    PUSH = "push"
    NOTIFY = "notify"


class Receipts(StrEnum):
    """What the sender of a p2p message hears of: that it was read, or also that a device has got it."""

    READ = "read"
    DELIVERED = "delivered"

    def concern(self, conversation_id: str) -> bool:
        """Whether a delivered mark of this conversation goes on to the device's router, and ends at its gateway
        otherwise."""
        return self is Receipts.DELIVERED and is_p2p(conversation_id)

    def marks(self, cursors: Mapping[str, int]) -> Iterable[tuple[str, int]]:
        """The delivered marks (conversation, seq) that lie in what a device says it has, by the cursors of its sync."""
        return cursors.items() if self is Receipts.DELIVERED else ()

    @property
    def acknowledge_syncs(self) -> bool:
        """Whether a device acknowledges what a sync has brought, as it does each push."""
        return self is Receipts.DELIVERED


class Strangers(StrEnum):
    """Whether users who are not friends may write to each other and bring each other into groups."""

    ALLOW = "allow"
    REFUSE = "refuse"

    def may_write(self, *, are_friends: bool) -> bool:
        return self is Strangers.ALLOW or are_friends


class Presence(StrEnum):
    """Which users hear that a user comes online or goes offline."""

    OFF = "off"
    FRIENDS = "friends"

    @property
    def reaches_friends(self) -> bool:
        """Whether devices hear of other users at all."""
        return self is Presence.FRIENDS


@dataclass(frozen=True, slots=True)
class Policies:
    """A choice can be given by its name as well. Raises: ValueError for a name that is not one of its values."""

    ack: Ack = Ack.AFTER_STORE
    sessions: Sessions = Sessions.ALL
    fanout: Fanout = Fanout.READ
    delivery: Delivery = Delivery.PUSH
    receipts: Receipts = Receipts.READ
    strangers: Strangers = Strangers.ALLOW
    presence: Presence = Presence.OFF
    send_timeout: float = 5.0
    send_attempts: int = 4
    push_timeout: float = 2.0
    push_backoff: float = 2.0
    gap_wait: float = 3.0
    heartbeat: float = 30.0
    heartbeat_timeout: float = 75.0
    reconnect_min: float = 0.5
    reconnect_max: float = 30.0
    storage_timeout: float = 10.0
    login_timeout: float = 10.0
    recall_window: float = 120.0
    edit_window: float = 900.0
    request_lifetime: float = 604_800.0
    # limits
    content_bytes: int = 16_384
    send_queue: int = 1_024
    page: int = 100
    page_bytes: int = 262_144
    open_conversations: int = 100_000
    group_size: int = 5_000
    user_rate: float = 0.0
    user_burst: int = 20
    group_rate: float = 0.0
    group_burst: int = 100
    rooms: int = 100
    room_size: int = 100_000
    room_recent: int = 20
    room_rate: float = 0.0
    room_burst: int = 50
    typing_rate: float = 0.0
    typing_burst: int = 5
    presence_rate: float = 1.0
    presence_burst: int = 5

    def __post_init__(self) -> None:
        for name, choice in _CHOICES.items():
            object.__setattr__(self, name, choice(getattr(self, name)))


_CHOICES = {
    name: kind
    for name, kind in get_type_hints(Policies).items()
    if isinstance(kind, type) and issubclass(kind, StrEnum)
}
