"""The data model: users, conversations, messages. Attributes are snake_case here and camelCase on the wire."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from imsim.core.exceptions import BadName


class Scene(StrEnum):
    P2P = "p2p"
    GROUP = "group"
    CHATROOM = "chatroom"
    SYSTEM = "system"  # what the service has to say to one user: system:<user>


class MessageType(StrEnum):
    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    FILE = "file"
    GEO = "geo"
    NOTIFICATION = "notification"
    CUSTOM = "custom"


class Flow(StrEnum):
    IN = "in"
    OUT = "out"


class Status(StrEnum):
    """A sent message, as its sender sees it."""

    SENDING = "sending"
    SUCCESS = "success"
    FAIL = "fail"


class Route(StrEnum):
    """How a message reached a device."""

    PUSH = "push"
    SYNC = "sync"


class Code(StrEnum):
    """Why something was refused or a connection ended. `reconnects` says which of them a client may answer by
    connecting again."""

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
    TIMEOUT = "timeout"

    @property
    def reconnects(self) -> bool:
        """Whether a client whose connection ended with this code should connect again by itself."""
        return self in _RECONNECTS

    @property
    def retryable(self) -> bool:
        """Whether the same request, sent again unchanged, may succeed."""
        return self in _RETRYABLE


# Names for what is asked for several times a message: to look up an enum's member takes longer than to compare it.
_P2P, _NOTIFICATION = Scene.P2P, MessageType.NOTIFICATION
_P2P_PREFIX, _GROUP_PREFIX, _CHATROOM_PREFIX = f"{Scene.P2P}:", f"{Scene.GROUP}:", f"{Scene.CHATROOM}:"

_RECONNECTS = {Code.LOGIN_TIMEOUT, Code.HEARTBEAT, Code.SLOW_READER, Code.GOING_AWAY, Code.UNAVAILABLE}
_RETRYABLE = {Code.UNAVAILABLE, Code.GAP, Code.RATE_LIMITED}


class HasBody(Protocol):
    """What makes up the body of a message, or of a request to send one."""

    type: str
    content: str
    file: dict[str, object] | None
    custom: str | None


def same_body(one: HasBody, other: HasBody) -> bool:
    return (
        one.content == other.content
        and one.type == other.type
        and one.file == other.file
        and one.custom == other.custom
    )


@dataclass(slots=True)
class Message:
    """A message as it stands in its conversation's log.

    `flow` and `status` are one user's view and so are no part of it: the same object (and on the wire the same
    bytes) goes to every recipient. The client adds them to each event.

    `time` is wall time in milliseconds since 1970, for display only; order is `seq`, 1, 2, 3 ... in each conversation.
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
    recalled: bool = False  # then only its position is left
    amended: int = 0  # seq of the entry that recalled it, or edited it last

    @property
    def countable(self) -> bool:
        """Whether it counts as unread for those who did not send it."""
        return self.type != _NOTIFICATION and not self.recalled

    def came_from(self, other: HasBody) -> bool:
        """Whether it is what `other` asked to send. What was amended since cannot be compared any more."""
        return bool(self.amended) or same_body(self, other)


@dataclass(slots=True)
class ConversationState:
    """Where a user stands in a conversation: what belongs to the user and not to the conversation, in its latest state.

    Places make up the user's own log: each change of one gets the log's next number, 1, 2, 3 ..., as its `version` (0:
    never changed). Read only, like a frame: a change makes a new one.
    """

    conversation_id: str
    version: int
    read_seq: int  # the read mark
    unread: int  # countable messages of others beyond it; counted by the server's Users machine, 0 in storage
    pinned: bool = False
    muted: bool = False
    hidden_seq: int = 0  # deleted from the list up to this seq; a newer message brings it back
    custom: str = ""  # the user's own, usually JSON
    peer_read_seq: int = 0  # p2p: how far the other user has read
    peer_delivered_seq: int = 0  # p2p: how far some device of the other user has got; never below peer_read_seq
    blocked: bool = False  # p2p: what the other user sends is refused

    def copy(self) -> ConversationState:
        """To be changed before anybody else sees it. (What `dataclasses.replace` does, it does five times as slowly,
        and nearly every message moves a mark.)"""
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
        """Whether all is alike that the user has chosen."""
        return (
            self.pinned == other.pinned
            and self.muted == other.muted
            and self.hidden_seq == other.hidden_seq
            and self.custom == other.custom
            and self.blocked == other.blocked
        )


class Session(NamedTuple):
    """One logged-in device: what every frame between gateway and router carries.

    `epoch` grows with each login of the user. Of the sessions of a user that share a `slot` (see the policy
    `sessions`) only the one with the highest epoch may act; a frame of another is refused. `connection` is the
    gateway's own number for the connection; `instance` and `attempt` are those of the login.
    """

    user: str
    device: str
    epoch: int
    gateway: str
    connection: int
    slot: str = ""
    instance: str = ""
    attempt: int = 0


#: What names users, devices, groups and chatrooms, as a regular expression. The colon is kept for conversation ids.
NAME = r"[A-Za-z0-9_.@+-]{1,64}"
_NAME = re.compile(NAME)

#: Characters of an idClient, and of a message's type; each has one at least.
LONGEST_ID_CLIENT = 128
LONGEST_TYPE = 64

#: Characters of a conversation's id: a p2p one with two names of 64.
LONGEST_CONVERSATION_ID = 133

#: Characters of what names a request to whoever asked: a conversation's id with two seqs, and more.
LONGEST_REF = 256


def check_name(field: str, name: str) -> str:
    """`name` if it may name a user, a device or a group.

    Raises: BadName, naming the field.
    """
    if not _NAME.fullmatch(name):
        raise BadName(f"{field}: {name[:80]!r} is no name; use 1 to 64 of A-Z a-z 0-9 _ . @ + -")
    return name


def p2p_id(one: str, other: str) -> str:
    """The id of the conversation of two users: the same whoever asks."""
    return f"p2p:{one}:{other}" if one <= other else f"p2p:{other}:{one}"


def conversation_id(scene: str, user: str, to: str) -> str:
    """The conversation that `user` means by (`scene`, `to`): `to` is the other user or the group's name."""
    return p2p_id(user, to) if scene == _P2P else f"{scene}:{to}"


def is_chatroom(conversation_id: str) -> bool:
    return conversation_id.startswith(_CHATROOM_PREFIX)


def is_group(conversation_id: str) -> bool:
    return conversation_id.startswith(_GROUP_PREFIX)


def is_p2p(conversation_id: str) -> bool:
    return conversation_id.startswith(_P2P_PREFIX)


def p2p_members(conversation: str) -> tuple[str, ...] | None:
    """The two users of a p2p conversation (one, for notes to oneself); None where the id is of another scene."""
    parts = conversation.split(":")
    if parts[0] != _P2P or len(parts) != 3:
        return None
    return (parts[1], parts[2]) if parts[1] != parts[2] else (parts[1],)


def peer_in(conversation: str, user: str) -> str:
    """With whom `user` has this p2p conversation; "" where the id is none of the user's, or of notes to oneself."""
    members = p2p_members(conversation) or ()
    others = [member for member in members if member != user and _NAME.fullmatch(member)]
    return others[0] if len(others) == 1 and conversation == p2p_id(user, others[0]) else ""
