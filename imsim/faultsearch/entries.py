"""The kinds of trace entries: everything that a run records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Generic, TypeVar

from imsim.core import storage
from imsim.core.client.conversations import Conversation
from imsim.core.model import Message, Session

T = TypeVar("T", covariant=True)  # the type of an entry's subject


@dataclass(slots=True, eq=False)
class Entry:
    """One line of a trace.

    `at`: seconds of the world's own time. `node`: the client instance, gateway, router, user or device of the entry.
    `word`: the name of the kind in a line of text.
    """

    at: float
    node: str

    word: ClassVar[str] = ""
    #: the frame, event, request or message of the entry; None if it has none
    subject: ClassVar[Any] = None

    def __init_subclass__(cls, word: str = "", about: str = "") -> None:
        super(Entry, cls).__init_subclass__()  # a dataclass with slots is another class than the one around this method
        cls.word = word or cls.word
        if about:
            cls.subject = property(attrgetter(about))

    @property
    def is_global(self) -> bool:
        """Whether the entry concerns the whole world rather than one frame."""
        return isinstance(self, Crashed | Repaired)

    def __str__(self) -> str:
        values = {name: getattr(self, name) for name in details_of(type(self))}
        peer = values.pop("peer", "")
        details = " ".join([value if type(value) is str else describe(value) for value in values.values()])
        return f"{self.at:12.6f} {self.node:<10} {self.word:<6} {peer:<10} {details}".rstrip()


# --- frames ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Carried(Entry, Generic[T], about="frame"):
    """A frame at one end of its link. `peer`: the node at the other end, "" where it is unknown."""

    peer: str
    frame: T


class ClientSent(_Carried[T], word="->"):
    """An instance of a client has sent a frame to its gateway."""


class GatewayReceived(_Carried[T], word="<-"):
    """A gateway has received a frame from an instance of a client."""


class GatewayForwarded(_Carried[T], word="->"):
    """A gateway has sent a frame to a router."""


class RouterReceived(_Carried[T], word="<-"):
    """A router has received a frame from a gateway or from another router."""


class RouterSent(_Carried[T], word="->"):
    """A router has sent a frame to a gateway, to another router, or to itself."""


class GatewayNotified(_Carried[T], word="<-"):
    """A gateway has received a frame from a router."""


class GatewaySent(_Carried[T], word="->"):
    """A gateway has sent a frame to an instance of a client."""


class ClientReceived(_Carried[T], word="<-"):
    """An instance of a client has received a frame from its gateway."""


class Adrift(_Carried[T], word="adrift"):
    """A gateway had a frame for a connection of `peer`, but the connection had ended."""


class FrameLost(_Carried[T], word="lost"):
    """A frame between two nodes was lost, because their connection was broken."""


# --- machines --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Event(Entry, Generic[T], word="event", about="event"):
    """A client has reported an event to its application."""

    event: T


@dataclass(slots=True, eq=False)
class Asked(Entry, Generic[T], word="asked", about="request"):
    """A router has sent a request to storage."""

    request: T


@dataclass(slots=True, eq=False)
class Stored(Entry, Generic[T], word="stored", about="request"):
    """Storage has executed a request of a router, or of the audit at the end of the run."""

    peer: str
    request: T
    result: storage.Result


@dataclass(slots=True, eq=False)
class _About(Entry, about="message"):
    message: Message


class Said(_About, word="accept"):
    """A router has accepted a message into a chatroom."""


@dataclass(slots=True, eq=False)
class Shed(_About, word="shed"):
    """A gateway has not sent a chatroom message to a device, because of its rate limit."""

    device: str


@dataclass(slots=True, eq=False)
class Repeated(_About, word="repeated"):
    """A gateway has pushed a message again that the device had already acknowledged."""

    device: str


@dataclass(slots=True, eq=False)
class GatewayLost(Entry, word="lost"):
    """A router was notified that it has lost a gateway."""

    peer: str


# --- users and their applications ------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Stepped(Entry, word="step"):
    """A user has taken a step, after a look at the conversation list."""

    action: str
    arguments: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Wished(Entry, Generic[T], word="asks", about="request"):
    """A user has made a request to the client."""

    request: T


@dataclass(slots=True, eq=False)
class Rested(Entry, word="idle"):
    """The state of an online instance at quiescence.

    `rooms`: the chatrooms in which its user wants to be. `failed`: the idClients of failed sends.
    """

    connection: int
    rooms: tuple[str, ...]
    conversations: list[Conversation]
    system_unread: int
    failed: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Present(Entry, word="online"):
    """The instances that are online at a time when presence no longer changes."""

    instances: tuple[str, ...]


# --- starts, crashes and faults --------------------------------------------------------------------------------------


class Started(Entry, word="start"):
    """A node, or an instance of a client, has started."""


class Crashed(Entry, word="crash"):
    """A node, or an instance of a client, has crashed."""


class Repaired(Entry, word="repair"):
    """The faults have ended, and all nodes are up."""


@dataclass(slots=True, eq=False)
class Planned(Entry, word="plan"):
    """The time of a planned fault has come."""

    fault: str


@dataclass(slots=True, eq=False)
class Struck(Entry, word="fault"):
    """A fault has hit something: `hit`, or the node as a whole."""

    kind: str
    hit: Any = None

    @property
    def is_global(self) -> bool:
        return self.hit is None


@dataclass(slots=True, eq=False)
class Revoked(Entry, word="revoke"):
    """A router was asked to revoke the tokens of a user that were issued before a time."""

    peer: str
    before: float


# --- as text ---------------------------------------------------------------------------------------------------------

_SHORT = 24
_UNCUT = ("conversation_id", "id", "id_client", "ref")  # names that identify a message, never shortened


@cache
def names_of(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass; () for any other type."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def details_of(kind: type) -> tuple[str, ...]:
    """Return the names of the fields that a kind of entry has beyond `at` and `node`."""
    return names_of(kind)[2:]


def describe(subject: Any) -> str:
    """Return a frame, an event or a request as one line: its type and its non-empty fields, with long texts
    shortened."""
    kind = type(subject)
    if kind is str:
        return subject if len(subject) <= _SHORT else f"{subject[:_SHORT]}...({len(subject)})"
    if subject is None or kind in (int, bool, float):
        return str(subject)
    if kind is Message:
        return _message(subject)
    if kind is Session:
        return f"{subject.user}/{subject.device}@{subject.epoch}:{subject.gateway}:{subject.connection}"
    if kind in (list, tuple):
        return f"({', '.join([describe(part) for part in subject])})"
    if kind is frozenset:  # of names; sorted, as the order differs between processes
        return f"{{{', '.join(sorted(subject))}}}"
    if kind is dict:
        return f"{{{', '.join([f'{key}: {describe(value)}' for key, value in subject.items()])}}}"
    if not is_dataclass(kind):
        return str(subject)
    parts = [
        f"{name}={value if name in _UNCUT else describe(value)}"
        for name in names_of(kind)
        if (value := getattr(subject, name)) is not None and value != "" and value is not False
    ]
    return f"{kind.__name__}({', '.join(parts)})"


def _message(message: Message) -> str:
    """Return the seq, the idClient and the present content of a message as text."""
    words = [f"{message.conversation_id}#{message.seq}[{message.id_client}]"]
    if message.content:
        words.append(repr(describe(message.content)))
    if message.file is not None:
        words.append(describe(message.file))
    if message.custom is not None:
        words.append(f"custom {describe(message.custom)!r}")
    if message.recalled:
        words.append("recalled")
    if message.amended:
        words.append(f"amended by #{message.amended}")
    return " ".join(words)
