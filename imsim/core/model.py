"""The data model: users, conversations and messages. Names are snake_case here and camelCase on the wire."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from imsim.core.exceptions import BadName


class Scene(StrEnum):
    """The kind of a conversation."""

    P2P = "p2p"
    GROUP = "group"
    CHATROOM = "chatroom"
    SYSTEM = "system"  # messages from the service to one user: system:<user>


class Role(StrEnum):
    """The role of a member of a group."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"


class MessageType(StrEnum):
    """The type of a message."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    FILE = "file"
    GEO = "geo"
    NOTIFICATION = "notification"
    CUSTOM = "custom"


class Flow(StrEnum):
    """The direction of a message from the point of view of a user: received (in) or sent (out)."""

    IN = "in"
    OUT = "out"


class Status(StrEnum):
    """The status of a sent message, as its sender sees it."""

    SENDING = "sending"
    SUCCESS = "success"
    FAIL = "fail"


class Route(StrEnum):
    """The route by which a message reached a device."""

    PUSH = "push"
    SYNC = "sync"


class Code(StrEnum):
    """The reason why the server rejected a request or ended a connection. `reconnects` says after which codes a client
    should connect again."""

    BAD_FRAME = "bad_frame"
    BAD_TOKEN = "bad_token"
    TOKEN_EXPIRED = "token_expired"
    LOGIN_TIMEOUT = "login_timeout"
    TOKEN_REVOKED = "token_revoked"
    REPLACED = "replaced"
    KICKED = "kicked"
    HEARTBEAT = "heartbeat"
    SLOW_READER = "slow_reader"
    GOING_AWAY = "going_away"
    UNAVAILABLE = "unavailable"
    BAD_REQUEST = "bad_request"
    NOT_MEMBER = "not_member"
    NO_CONVERSATION = "no_conversation"
    TOO_LARGE = "too_large"
    CONFLICT = "conflict"
    FORBIDDEN = "forbidden"
    MUTED = "muted"
    BLOCKED = "blocked"
    NOT_FRIENDS = "not_friends"
    EXPIRED = "expired"
    GAP = "gap"
    AHEAD = "ahead"
    RATE_LIMITED = "rate_limited"
    BUSY = "busy"
    TIMEOUT = "timeout"

    @property
    def reconnects(self) -> bool:
        """Whether a client whose connection ended with this code should connect again by itself."""
        return self in _RECONNECTS

    @property
    def retryable(self) -> bool:
        """Whether the same request, sent again unchanged, may succeed."""
        return self in _RETRYABLE


# Constants for checks that run several times for each message: the lookup of a member takes longer than the comparison.
_P2P, _NOTIFICATION = Scene.P2P, MessageType.NOTIFICATION
_P2P_PREFIX, _GROUP_PREFIX, _CHATROOM_PREFIX = f"{Scene.P2P}:", f"{Scene.GROUP}:", f"{Scene.CHATROOM}:"

_RECONNECTS = {Code.LOGIN_TIMEOUT, Code.HEARTBEAT, Code.SLOW_READER, Code.GOING_AWAY, Code.UNAVAILABLE}
_RETRYABLE = {Code.UNAVAILABLE, Code.GAP, Code.RATE_LIMITED, Code.BUSY}


class HasBody(Protocol):
    """The body of a message, or of a request to send one."""

    type: str
    content: str
    file: dict[str, object] | None
    custom: str | None


def same_body(one: HasBody, other: HasBody) -> bool:
    """Return whether both have the same body."""
    return (
        one.content == other.content
        and one.type == other.type
        and one.file == other.file
        and one.custom == other.custom
    )


@dataclass(slots=True)
class Message:
    """A message in the log of its conversation.

    A message has neither flow nor status, because these differ between users. Every recipient gets the same object (and
    on the wire, the same bytes). The client adds flow and status to each event.

    `seq` is the position in the conversation (1, 2, 3 ...) and gives the order. `time` is wall time in milliseconds
    since 1970, for display only.
    """

    conversation_id: str
    seq: int
    id: str
    id_client: str
    scene: Scene
    type: str
    sender: str  # the user who sent it; "from" on the wire
    to: str
    time: int
    content: str = ""
    file: dict[str, object] | None = None
    custom: str | None = None
    resend: bool = False
    recalled: bool = False  # whether it was recalled; then it has no content
    amended: int = 0  # seq of the entry of the log that recalled it or edited it last (0: none)

    @property
    def countable(self) -> bool:
        """Whether it counts as unread for users other than its sender."""
        return self.type != _NOTIFICATION and not self.recalled

    def came_from(self, other: HasBody) -> bool:
        """Return whether the message came from the send `other`, as far as can be known.

        An amended message cannot be compared any longer: the answer is true.
        """
        return bool(self.amended) or same_body(self, other)


@dataclass(slots=True)
class ConversationState:
    """The conversation state of one user: the read mark, the settings, and the progress of the other user (p2p).

    The changes of all states of a user form the user's own log, and each change gets the next number of that log.
    `version` is the number of the latest change of this state (1, 2, 3 ...; 0: never changed). Like a frame, a state is
    read only: a change makes a new object.
    """

    conversation_id: str
    version: int
    read_seq: int  # the read mark: the user has read everything up to this seq
    unread: int  # the count of unread messages (0 in storage: the server's Users machine counts them)
    pinned: bool = False
    muted: bool = False
    hidden_seq: int = 0  # the list hides the conversation until a message with a higher seq arrives
    custom: str = ""  # text for the user's own purposes, usually JSON
    peer_read_seq: int = 0  # p2p: the other user has read everything up to this seq
    peer_delivered_seq: int = 0  # p2p: a device of the other user has everything up to this seq; at least peer_read_seq
    blocked: bool = False  # p2p: whether messages from the other user are refused

    def copy(self) -> ConversationState:
        """Return a copy, which the caller may change before it shares it.

        `dataclasses.replace` takes five times as long, and nearly every message moves a mark.
        """
        return ConversationState(
            self.conversation_id,
            self.version,
            self.read_seq,
            self.unread,
            self.pinned,
            self.muted,
            self.hidden_seq,
            self.custom,
            self.peer_read_seq,
            self.peer_delivered_seq,
            self.blocked,
        )

    def has_settings_of(self, other: ConversationState) -> bool:
        """Return whether both have the same values in the fields that the user can set."""
        return (
            self.pinned == other.pinned
            and self.muted == other.muted
            and self.hidden_seq == other.hidden_seq
            and self.custom == other.custom
            and self.blocked == other.blocked
        )


@dataclass(slots=True)
class Skipped:
    """The part of a conversation that a sync with `newest` leaves to `history`: the entries up to `seq`. `unread` has
    the seqs of the unread messages among them, as ranges [first, last]."""

    conversation_id: str
    seq: int
    unread: list[list[int]] = field(default_factory=list)


class Session(NamedTuple):
    """The session of a logged-in device. Frames between gateway and router carry it.

    `epoch` grows with each login of the user. Among the sessions of a user with the same `slot` (see the policy
    `sessions`), only the one with the highest epoch may act. Frames of the others are refused. `connection` is the
    gateway's number for the connection. `instance` and `attempt` are those of the login.
    """

    user: str
    device: str
    epoch: int
    gateway: str
    connection: int
    slot: str = ""
    instance: str = ""
    attempt: int = 0


#: The names of users, devices, groups and chatrooms, as a regular expression. Only conversation ids contain colons.
NAME = r"[A-Za-z0-9_.@+-]{1,64}"
_NAME = re.compile(NAME)

#: The maximum length of an idClient and of a message type, in characters. The minimum is 1.
LONGEST_ID_CLIENT = 128
LONGEST_TYPE = 64

#: The maximum length of a conversation id, in characters: a p2p conversation with two names of 64.
LONGEST_CONVERSATION_ID = 133

#: The maximum length of the `ref` of a request, in characters. A conversation id with two seqs fits.
LONGEST_REF = 256


def check_name(field: str, name: str) -> str:
    """Return `name` if it is a valid name of a user, a device or a group.

    Raises: BadName, with the name of the field.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadName(f"{field}: expected a name of 1 to 64 characters from A-Z a-z 0-9 _ . @ + -, got {name!r:.82}")
    return name


def p2p_id(one: str, other: str) -> str:
    """Return the id of the conversation of two users. Their order does not matter."""
    return f"p2p:{one}:{other}" if one <= other else f"p2p:{other}:{one}"


def conversation_id(scene: str, user: str, to: str) -> str:
    """Return the id of the conversation that `user` addresses by `scene` and `to`.

    `to` is the other user, or the name of the group or chatroom.
    """
    return p2p_id(user, to) if scene == _P2P else f"{scene}:{to}"


def is_chatroom(conversation_id: str) -> bool:
    return conversation_id.startswith(_CHATROOM_PREFIX)


def is_group(conversation_id: str) -> bool:
    return conversation_id.startswith(_GROUP_PREFIX)


def is_p2p(conversation_id: str) -> bool:
    return conversation_id.startswith(_P2P_PREFIX)


def p2p_members(conversation: str) -> tuple[str, ...] | None:
    """Return the two users of a p2p conversation, or None if the id belongs to another scene.

    A conversation of a user with oneself has one member.
    """
    parts = conversation.split(":")
    if parts[0] != _P2P or len(parts) != 3:
        return None
    return (parts[1], parts[2]) if parts[1] != parts[2] else (parts[1],)


def peer_in(conversation: str, user: str) -> str:
    """Return the other user of a p2p conversation of `user`.

    Return "" if the conversation is not one of the user's p2p conversations, or has no other user.
    """
    members = p2p_members(conversation) or ()
    others = [member for member in members if member != user and _NAME.fullmatch(member)]
    return others[0] if len(others) == 1 and conversation == p2p_id(user, others[0]) else ""
