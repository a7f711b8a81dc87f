"""The values that `imsim.Client` returns: messages and conversations as one user sees them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from html import escape
from typing import Any

from imsim.core import frames
from imsim.core import model as core
from imsim.core.client import conversations as local
from imsim.core.model import Flow, MessageType, Scene, Status

_SHORT = 60  # characters of a text in one line of a table or a repr


class Public:
    """A value whose `dir()` lists its public names only."""

    __slots__ = ()

    def __dir__(self) -> list[str]:
        return sorted(name for name in super().__dir__() if not name.startswith("_"))


@dataclass(frozen=True, slots=True)
class Message(Public):
    """A message, as the user of the client sees it.

    Attributes:
        id: the server's id, `<conversation id>:<seq>`; empty where the user may not see the conversation.
        seq: the position in the conversation: 1, 2, 3 ... It gives the order. 0 where `id` is empty.
        conversation_id: the conversation, such as `p2p:alice:bob` or `group:team`.
        id_client: the id that the sender's client chose.
        scene: `p2p`, `group`, `chatroom` or `system`.
        type: `text`, `image`, `audio`, `video`, `file`, `geo`, `custom` or `notification`.
        sender: the user who sent it.
        to: the recipient: a user, a group or a chatroom.
        time: when the server accepted it, in milliseconds since 1970. For display only.
        flow: `in` if another user sent it, `out` if this user did.
        status: `success`, because the server has the message.
        content: the text.
        file: the attachment, a dictionary.
        custom: the sender's own data, usually JSON.
        resend: whether it was sent again before it was stored.
        recalled: whether it was recalled. Then `content`, `file` and `custom` are empty.
        edited: whether its text was replaced.

    Example:
        >>> message = imsim.Message("p2p:alice:bob:1", 1, "p2p:alice:bob", "c1", "p2p", "text", "alice", "bob", 0,
        ...                         content="hello")
        >>> message
        <Message p2p:alice:bob:1 from alice: 'hello'>
        >>> message.sent_at.year
        1970
    """

    id: str
    seq: int
    conversation_id: str
    id_client: str
    scene: str
    type: str
    sender: str
    to: str
    time: int
    flow: str = "in"
    status: str = "success"
    content: str = ""
    file: dict[str, object] | None = None
    custom: str | None = None
    resend: bool = False
    recalled: bool = False
    edited: bool = False

    @property
    def sent_at(self) -> datetime:
        """The time as a datetime in UTC."""
        return datetime.fromtimestamp(self.time / 1000, UTC)

    @property
    def event(self) -> str:
        """The event of a notification, such as `invite`, or an empty text for other messages."""
        return str((self.file or {}).get("event", "")) if self.type == MessageType.NOTIFICATION else ""

    def __hash__(self) -> int:  # the attachment has no hash
        return hash((self.id, self.id_client))

    def __repr__(self) -> str:
        return f"<Message {self.id or self.id_client} from {self.sender}: {summary(self)}>"


@dataclass(frozen=True, slots=True)
class Conversation(Public):
    """A conversation in the list of the user.

    Attributes:
        id: `p2p:alice:bob` or `group:team`.
        scene: `p2p` or `group`.
        to: the other user, or the name of the group.
        update_time: the time of the last message, in milliseconds since 1970.
        unread: the number of unread messages.
        last_msg: the last visible message.
        custom: the user's own text about the conversation, usually JSON.
        pinned: whether it is listed first.
        muted: whether the user does not want to be alerted.
        blocked: p2p: whether the server refuses messages of the other user.
        read_seq: the user's read mark: everything up to this seq is read.
        peer_read_seq: p2p: the other user has read everything up to this seq.
        peer_delivered_seq: p2p: a device of the other user has everything up to this seq.

    Example:
        >>> message = imsim.Message("group:team:7", 7, "group:team", "c1", "group", "text", "bob", "team", 0)
        >>> imsim.Conversation("group:team", "group", "team", 0, 2, message)
        <Conversation group:team, 2 unread>
    """

    id: str
    scene: str
    to: str
    update_time: int
    unread: int
    last_msg: Message
    custom: str = ""
    pinned: bool = False
    muted: bool = False
    blocked: bool = False
    read_seq: int = 0
    peer_read_seq: int = 0
    peer_delivered_seq: int = 0

    def __repr__(self) -> str:
        return f"<Conversation {self.id}, {self.unread} unread>"


class Conversations(list[Conversation]):
    """The conversation list: pinned conversations first, and the latest first among each. Notebooks show a table."""

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("conversation", "unread", "last message", "time"))
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in _cells(conversation)) + "</tr>"
            for conversation in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


@dataclass(frozen=True, slots=True)
class ConnectionLost(Public):
    """The loss of the connection, or a failed attempt to open one. The client tries again by itself.

    `code` is the code of the server, or None if there is none. `text` is the reason, as far as it is known.
    """

    code: str | None
    text: str


def summary(message: Message) -> str:
    """Return the content of a message on one short line."""
    if message.recalled:
        return "recalled"
    if message.type == MessageType.TEXT or message.content:
        text = message.content
        return repr(text if len(text) <= _SHORT else f"{text[:_SHORT]}...")
    return f"{message.type} {message.event}".strip()


def _cells(conversation: Conversation) -> tuple[str, ...]:
    marks = [name for name in ("pinned", "muted", "blocked") if getattr(conversation, name)]
    named = f"{conversation.to} ({', '.join((conversation.scene, *marks))})"
    last = conversation.last_msg
    time = f"{last.sent_at:%Y-%m-%d %H:%M:%S}"
    return named, str(conversation.unread), f"{last.sender}: {summary(last)}", time


# --- from the core's values -----------------------------------------------------------------------------------------


def received(message: core.Message, user: str) -> Message:
    """Return the message of a log, as `user` sees it."""
    return Message(
        message.id,
        message.seq,
        message.conversation_id,
        message.id_client,
        str(message.scene),
        message.type,
        message.sender,
        message.to,
        message.time,
        str(Flow.OUT if message.sender == user else Flow.IN),
        str(Status.SUCCESS),
        message.content,
        message.file,
        message.custom,
        message.resend,
        message.recalled,
        bool(message.amended) and not message.recalled,
    )


def sent(frame: frames.Send, user: str, seq: int, time: int) -> Message:
    """Return the message that the server made of a send. `seq` is 0 if the sender may not see it."""
    conversation = core.conversation_id(frame.scene, user, frame.to)
    return Message(
        f"{conversation}:{seq}" if seq else "",
        seq,
        conversation,
        frame.id_client,
        str(frame.scene),
        frame.type,
        user,
        frame.to,
        time,
        str(Flow.OUT),
        str(Status.SUCCESS),
        frame.content,
        frame.file,
        frame.custom,
        frame.resend,
    )


_SAME = [field.name for field in fields(Conversation) if field.name not in ("scene", "last_msg")]


def listed(line: local.Conversation, user: str) -> Conversation:
    """Return a line of the conversation list, as `user` sees it."""
    same: dict[str, Any] = {name: getattr(line, name) for name in _SAME}
    return Conversation(scene=str(line.scene), last_msg=received(line.last_msg, user), **same)


def kind_of(message: core.Message, user: str) -> str:
    """Return the name of the event with which the client reports this message to the application."""
    if message.scene == Scene.SYSTEM:
        return "system"
    if message.type == MessageType.NOTIFICATION:
        return "notification"
    return "sent" if message.sender == user else "message"
