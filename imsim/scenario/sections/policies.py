"""How client and server behave, and where queues and requests end."""

from __future__ import annotations

from pydantic import Field, model_validator

from imsim.core.policies import Ack, Delivery, Fanout, Presence, Receipts, Sessions, Strangers
from imsim.scenario.errors import FieldError
from imsim.scenario.quantities import PositiveSeconds, Seconds
from imsim.scenario.sections.base import Section


class Policies(Section):
    """How client and server behave. All times are seconds or durations."""

    ack: Ack = Field(
        default=Ack.AFTER_STORE,
        strict=False,
        description="when the sender hears of success: once stored, or (also) once the router has the message",
    )
    sessions: Sessions = Field(
        default=Sessions.ALL,
        strict=False,
        description="which of a user's devices may be logged in together: all, one of each kind, or a single one;"
        " a new login ends the others",
    )
    fanout: Fanout = Field(
        default=Fanout.READ,
        strict=False,
        description="what storage keeps of a message: one row, and a login looks into each of its conversations; or"
        " also a row in the inbox of each member, and a login reads its own inbox",
    )
    delivery: Delivery = Field(
        default=Delivery.PUSH,
        strict=False,
        description="what a device is sent of a new message: the message, or a notice upon which it fetches it",
    )
    receipts: Receipts = Field(
        default=Receipts.READ,
        strict=False,
        description="what the sender of a p2p message hears of: that it was read, or also that a device has got it",
    )
    strangers: Strangers = Field(
        default=Strangers.ALLOW,
        strict=False,
        description="whether users who are no friends may send each other p2p messages",
    )
    presence: Presence = Field(
        default=Presence.OFF,
        strict=False,
        description="whether friends hear of each other when they come online and go offline",
    )
    recall_window: Seconds = Field(
        default=120.0, description="for so long a sender may recall a message; a group's admins may at any time"
    )
    edit_window: Seconds = Field(default=900.0, description="for so long a sender may edit a message")
    request_lifetime: PositiveSeconds = Field(
        default=604_800.0, description="friend requests, applications and invitations can be answered for so long"
    )
    send_timeout: PositiveSeconds = Field(default=5.0, description="a send not answered for this long is sent again")
    send_attempts: int = Field(default=4, ge=1, description="sendings of one message before it fails")
    push_timeout: PositiveSeconds = Field(
        default=2.0, description="a push not acknowledged for this long is pushed again"
    )
    push_backoff: float = Field(default=2.0, ge=1, description="factor from one push's timeout to the next's")
    gap_wait: Seconds = Field(
        default=3.0,
        description="a device that holds a message back because one before it is missing waits for so long, then"
        " fetches what is missing (with a drain shorter than this, some are held back at the end, and count as lost)",
    )
    heartbeat: PositiveSeconds = Field(default=30.0, description="a client silent for this long pings")
    heartbeat_timeout: PositiveSeconds = Field(
        default=75.0, description="a connection silent for this long is taken for lost; must exceed heartbeat"
    )
    reconnect_min: PositiveSeconds = Field(default=0.5, description="the first reconnect's backoff, at most")
    reconnect_max: PositiveSeconds = Field(default=30.0, description="no reconnect backs off for longer")
    storage_timeout: PositiveSeconds = Field(
        default=10.0, description="a storage request not answered for this long has failed"
    )
    login_timeout: PositiveSeconds = Field(
        default=10.0, description="a connection not logged in after this long is closed"
    )
    token_lifetime: PositiveSeconds = Field(default=86400.0, description="a token is valid for this long")

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
    """Every queue and every request has an end."""

    content_bytes: int = Field(
        default=16384,
        ge=1,
        le=2**31 - 1,
        description="bytes of a message's content, of its custom and of its file, each",
    )
    send_queue: int = Field(
        default=1024, ge=1, description="unacknowledged pushes of one connection; beyond it a slow reader is closed"
    )
    page: int = Field(default=100, ge=1, description="messages in one page of a sync")
    page_bytes: int = Field(
        default=262_144,
        ge=1,
        le=2**31 - 1,
        description="bytes of content, custom and file in one page, which has one message at least, however large",
    )
    open_conversations: int = Field(default=100_000, ge=1, description="conversations that a router keeps in memory")
    group_size: int = Field(default=5000, ge=1, description="members of a group")
    user_rate: float = Field(
        default=0.0,
        ge=0,
        description="messages per second that a user may send through one gateway, and syncs, and other requests, each;"
        " 0: any number",
    )
    user_burst: int = Field(default=20, ge=1, description="of them at once, after a pause, under user_rate")
    group_rate: float = Field(default=0.0, ge=0, description="messages per second of a group's members; 0: any number")
    group_burst: int = Field(default=100, ge=1, description="messages at once, after a pause, under group_rate")
    rooms: int = Field(default=100, ge=1, description="chatrooms that a connection may be in")
    room_size: int = Field(default=100_000, ge=1, description="users in a chatroom")
    room_recent: int = Field(default=20, ge=0, description="messages that a chatroom remembers for who enters")
    room_rate: float = Field(
        default=0.0,
        ge=0,
        description="messages per second of chatrooms that a connection is sent; more are shed, and counted; 0: any"
        " number",
    )
    room_burst: int = Field(default=50, ge=1, description="of them at once, after a pause, under room_rate")
    typing_rate: float = Field(
        default=0.0, ge=0, description="typing hints per second that a user may give; the rest is dropped; 0: none"
    )
    typing_burst: int = Field(default=5, ge=1, description="of them at once, after a pause, under typing_rate")
    presence_rate: float = Field(
        default=1.0,
        ge=0,
        description="times per second that friends are told whether a user is there; more wait, and of those only the"
        " last is told; 0: any number",
    )
    presence_burst: int = Field(default=5, ge=1, description="of them at once, after a pause, under presence_rate")
