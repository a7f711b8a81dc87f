"""The policies of clients and servers, and the limits of queues and requests."""

from __future__ import annotations

from pydantic import Field, model_validator

from imsim.core.policies import Ack, Delivery, Fanout, Presence, Receipts, Sessions, Strangers
from imsim.scenario.errors import FieldError
from imsim.scenario.quantities import PositiveSeconds, Seconds
from imsim.scenario.sections.base import Section


class Policies(Section):
    """The behaviour of clients and servers. All times are seconds or durations."""

    ack: Ack = Field(
        default=Ack.AFTER_STORE,
        strict=False,
        description="when the sender learns of success: once the message is stored (after_store), or also once the"
        " router has it (after_receive)",
    )
    sessions: Sessions = Field(
        default=Sessions.ALL,
        strict=False,
        description="which of a user's devices can be logged in together: all, one of each kind (one_per_kind) or one"
        " (single). A new login closes the sessions that are no longer allowed",
    )
    fanout: Fanout = Field(
        default=Fanout.READ,
        strict=False,
        description="the rows that storage writes for a message: one, and a login reads each of the user's"
        " conversations (read); or also one in the inbox of each member, and a login reads only the user's inbox"
        " (write)",
    )
    delivery: Delivery = Field(
        default=Delivery.PUSH,
        strict=False,
        description="how a device receives a new message: as a push (push), or as a notice, after which the device"
        " fetches the message (notify)",
    )
    receipts: Receipts = Field(
        default=Receipts.READ,
        strict=False,
        description="what the sender of a p2p message learns: that the message was read (read), or also that a device"
        " has received it (delivered)",
    )
    strangers: Strangers = Field(
        default=Strangers.ALLOW,
        strict=False,
        description="whether users who are not friends can write to each other and add each other to groups: allow or"
        " refuse",
    )
    presence: Presence = Field(
        default=Presence.OFF,
        strict=False,
        description="whether friends are notified when a user comes online or goes offline (friends) or not (off)",
    )
    recall_window: Seconds = Field(
        default=120.0, description="how long a sender can recall a message; admins of a group can do so at any time"
    )
    edit_window: Seconds = Field(default=900.0, description="how long a sender can edit a message")
    request_lifetime: PositiveSeconds = Field(
        default=604_800.0, description="how long friend requests, applications and invitations can be answered"
    )
    first_sync: int = Field(
        default=0,
        ge=0,
        description="most messages of each conversation that a device fetches in its first sync: the newest ones; 0:"
        " all messages",
    )
    send_timeout: PositiveSeconds = Field(
        default=5.0, description="a send without an answer is repeated after this time"
    )
    send_attempts: int = Field(default=4, ge=1, description="most attempts to send a message")
    send_backoff: float = Field(
        default=2.0,
        ge=1,
        description="growth factor of a send's timeout, which grows up to reconnect_max. A send that a busy server"
        " keeps waiting fails after send_attempts times the last timeout",
    )
    push_timeout: PositiveSeconds = Field(
        default=2.0, description="a push without an acknowledgement is repeated after this time"
    )
    push_backoff: float = Field(default=2.0, ge=1, description="growth factor of a push's timeout")
    gap_wait: Seconds = Field(
        default=3.0,
        description="a device holds a message back while an earlier one is missing; after this time it fetches the"
        " missing one. (If drain is shorter, messages that are held back at the end count as lost)",
    )
    heartbeat: PositiveSeconds = Field(
        default=30.0, description="a client pings if one side sent nothing for this long"
    )
    heartbeat_timeout: PositiveSeconds = Field(
        default=75.0, description="a connection without traffic for this long is lost; must exceed heartbeat"
    )
    reconnect_min: PositiveSeconds = Field(default=0.5, description="longest backoff of the first reconnect")
    reconnect_max: PositiveSeconds = Field(default=30.0, description="longest backoff of any reconnect")
    storage_timeout: PositiveSeconds = Field(
        default=10.0, description="a storage request without an answer fails after this time"
    )
    login_timeout: PositiveSeconds = Field(
        default=10.0, description="a connection without a login is closed after this time"
    )
    token_lifetime: PositiveSeconds = Field(default=86400.0, description="how long a token is valid")

    @model_validator(mode="after")
    def _ordered(self) -> Policies:
        if self.heartbeat_timeout <= self.heartbeat:
            raise FieldError(
                "heartbeat_timeout",
                f"expected more than heartbeat ({self.heartbeat:g} s), got {self.heartbeat_timeout:g} s",
            )
        if self.reconnect_max < self.reconnect_min:
            raise FieldError(
                "reconnect_max",
                f"expected at least reconnect_min ({self.reconnect_min:g} s), got {self.reconnect_max:g} s",
            )
        return self


class Limits(Section):
    """The limits of queues, requests and rates."""

    longest_wait: PositiveSeconds = Field(
        default=1.0,
        description="a gateway or router refuses a message with the code busy if it would wait for longer than this,"
        " for a worker or for storage",
    )
    logins: int = Field(
        default=4,
        ge=1,
        description="most logins that a gateway works on at the same time; the others wait: the latest is served first,"
        " and a login is dropped without work once its client has given up",
    )
    content_bytes: int = Field(
        default=16384,
        ge=1,
        le=2**31 - 1,
        description="largest content of a message in bytes; the same limit applies to its custom field and to its file",
    )
    send_queue: int = Field(
        default=1024,
        ge=1,
        description="most unacknowledged pushes of one connection; with more, the connection is closed",
    )
    page: int = Field(default=100, ge=1, description="most messages in one page of a sync")
    page_bytes: int = Field(
        default=262_144,
        ge=1,
        le=2**31 - 1,
        description="most bytes of content, custom and file in one page; a page always has at least one message",
    )
    open_conversations: int = Field(default=100_000, ge=1, description="most conversations in a router's memory")
    group_size: int = Field(default=5000, ge=1, description="most members of a group")
    user_rate: float = Field(
        default=0.0,
        ge=0,
        description="messages per second that a user can send through one gateway. The same limit applies to syncs,"
        " and to other requests; 0: no limit",
    )
    user_burst: int = Field(default=20, ge=1, description="messages that user_rate allows at once, after a pause")
    group_rate: float = Field(default=0.0, ge=0, description="messages per second in one group; 0: no limit")
    group_burst: int = Field(default=100, ge=1, description="messages that group_rate allows at once, after a pause")
    rooms: int = Field(default=100, ge=1, description="most chatrooms that a connection can be in")
    room_size: int = Field(default=100_000, ge=1, description="most users in a chatroom")
    room_recent: int = Field(default=20, ge=0, description="latest messages that a chatroom keeps for users who enter")
    room_rate: float = Field(
        default=0.0,
        ge=0,
        description="messages of chatrooms per second that a connection is sent; the rest is shed and counted; 0: no"
        " limit",
    )
    room_burst: int = Field(default=50, ge=1, description="messages that room_rate allows at once, after a pause")
    typing_rate: float = Field(
        default=0.0, ge=0, description="typing notices per second that a user can send; the rest is dropped; 0: none"
    )
    typing_burst: int = Field(default=5, ge=1, description="notices that typing_rate allows at once, after a pause")
    presence_rate: float = Field(
        default=1.0,
        ge=0,
        description="presence changes per second that a user's friends are sent; later changes wait, and only the last"
        " of them is sent; 0: no limit",
    )
    presence_burst: int = Field(default=5, ge=1, description="changes that presence_rate allows at once, after a pause")
