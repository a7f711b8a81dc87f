"""The policies and limits of a system, as one value for all of its machines. Times are in seconds.

The scenario's [policies] and [limits] have the same names, and describe each field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import get_type_hints

from imsim.core.model import is_p2p


class Ack(StrEnum):
    """When the sender of a message gets an answer: once it is stored, or also once the router has it."""

    AFTER_STORE = "after_store"
    AFTER_RECEIVE = "after_receive"

    @property
    def reports_receipt(self) -> bool:
        """Whether the sender receives `received` as soon as the router has the message."""
        return self is Ack.AFTER_RECEIVE


class Sessions(StrEnum):
    """The devices of a user that may be logged in at the same time: all, one of each kind, or a single one."""

    ALL = "all"
    ONE_PER_KIND = "one_per_kind"
    SINGLE = "single"

    def slot(self, device: str, kind: str) -> str:
        """Return the slot of a device. Among devices with the same slot, only the latest to log in may act."""
        if self is Sessions.ALL:
            return device
        return kind if self is Sessions.ONE_PER_KIND else ""

    @property
    def has_shared_slots(self) -> bool:
        """Whether two devices can have the same slot."""
        return self is not Sessions.ALL


class Fanout(StrEnum):
    """The rows that storage keeps of a message: one (read), or also one in the inbox of each member (write)."""

    READ = "read"
    WRITE = "write"

    @property
    def keeps_inboxes(self) -> bool:
        """Whether storage also keeps a row for each member, from which a login reads the missed messages."""
        return self is Fanout.WRITE


class Delivery(StrEnum):
    """How a device gets a new message: as a push of the message, or as a notice, after which it fetches the message."""

    PUSH = "push"
    NOTIFY = "notify"


class Receipts(StrEnum):
    """The receipts for the sender of a p2p message: that it was read, or also that a device received it."""

    READ = "read"
    DELIVERED = "delivered"

    def concern(self, conversation_id: str) -> bool:
        """Return whether the gateway passes a delivered mark of this conversation on to the router of its user."""
        return self is Receipts.DELIVERED and is_p2p(conversation_id)

    def marks(self, cursors: Mapping[str, int]) -> Iterable[tuple[str, int]]:
        """Return the delivered marks (conversation, seq) that follow from the cursors of a sync."""
        return cursors.items() if self is Receipts.DELIVERED else ()

    @property
    def acknowledge_syncs(self) -> bool:
        """Whether a device acknowledges the messages of a sync, like those of a push."""
        return self is Receipts.DELIVERED


class Strangers(StrEnum):
    """Whether users who are not friends may write to each other and bring each other into groups."""

    ALLOW = "allow"
    REFUSE = "refuse"

    def may_write(self, *, are_friends: bool) -> bool:
        """Return whether one of two users may write to the other."""
        return self is Strangers.ALLOW or are_friends


class Presence(StrEnum):
    """The users who are notified when a user comes online or goes offline: none, or the user's friends."""

    OFF = "off"
    FRIENDS = "friends"

    @property
    def reaches_friends(self) -> bool:
        """Whether friends are notified."""
        return self is Presence.FRIENDS


@dataclass(frozen=True, slots=True)
class Policies:
    """All policies and limits of a system. A policy can also be given by its name, such as `ack="after_store"`.

    Raises: ValueError for a name that is not a value of its policy.
    """

    ack: Ack = Ack.AFTER_STORE
    sessions: Sessions = Sessions.ALL
    fanout: Fanout = Fanout.READ
    delivery: Delivery = Delivery.PUSH
    receipts: Receipts = Receipts.READ
    strangers: Strangers = Strangers.ALLOW
    presence: Presence = Presence.OFF
    send_timeout: float = 5.0
    send_attempts: int = 4
    send_backoff: float = 2.0
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
    first_sync: int = 0
    # limits
    longest_wait: float = 1.0
    logins: int = 4
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

    @property
    def send_budget(self) -> float:
        """The seconds that a send may wait for a busy server: as long as its attempts without an answer may take."""
        return self.send_attempts * self.timeout_of(self.send_attempts)

    def timeout_of(self, attempt: int) -> float:
        """Return the seconds after which this attempt of a send (1, 2, ...) is repeated if it has no answer."""
        if attempt == 1:  # as nearly always
            return self.send_timeout
        longest = max(self.send_timeout, self.reconnect_max)
        return min(longest, self.send_timeout * self.send_backoff ** min(attempt - 1, 30))

    def longest_pause(self, failures: int) -> float:
        """Return the ceiling in seconds of the pause before a client connects again, after this many failures in a row.

        The client waits a uniform share of it (exponential backoff with full jitter).
        """
        return min(self.reconnect_max, self.reconnect_min * 2.0 ** min(failures, 30))


_CHOICES = {
    name: kind
    for name, kind in get_type_hints(Policies).items()
    if isinstance(kind, type) and issubclass(kind, StrEnum)
}
