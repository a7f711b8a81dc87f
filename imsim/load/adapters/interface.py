"""The interface of an adapter: the session of a device, its inputs, and what it returns.

A session is a state machine. The driver calls it with the current time (`now`, seconds of a monotonic clock) and
carries out what the call returns, in order:

- `bytes`: send this frame on the connection.
- `Connect`, `Disconnect`, `Request`: open the connection, close it, make an HTTP request.
- an event (`Ready`, `Acked`, `Delivered` ...): record it.

A device has one connection at most. A session never raises for what a server sends: it returns `Closed` with the
reason.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

from imsim.core.events import ClientEvent
from imsim.core.exceptions import UsageError
from imsim.core.model import Scene
from imsim.core.policies import Policies


class Feature(StrEnum):
    """A feature that a kind of server can offer. The rows have nulls for what it does not offer."""

    ACK = "ack"  # the sender learns that the server has the message
    GROUPS = "groups"  # messages to groups, with `join`
    CHATROOMS = "chatrooms"  # messages to chatrooms, with `join`
    OWN_DEVICES = "own devices"  # a message also reaches the other devices of its sender
    RESUME = "resume"  # a device that was offline receives what it missed
    MEMBERSHIP = "membership"  # so does a device that has never been online, or joins its groups only later
    RECEIPTS = "receipts"  # `read` reaches the server, and `Read` reports it
    TYPES = "types"  # messages other than text; without it, they are sent as text of the same size
    ACTIONS = "actions"  # recalls, edits, friend requests and changes of groups


class Conversation(NamedTuple):
    """A conversation as its sender addresses it.

    name: the other user in a p2p conversation, otherwise the group or the chatroom.
    """

    scene: Scene
    name: str


class Message(NamedTuple):
    """A message to send. `id` must reach the recipients unchanged, in any field or in the text (`text.with_id`)."""

    id: str
    conversation: Conversation
    text: str
    type: str = "text"
    file: dict[str, object] | None = None
    custom: str | None = None


@dataclass(frozen=True)
class Target:
    """The server under test and how to use it: everything that an adapter knows about a run.

    url: the address that the user gave.
    key: the server's secret, in any meaning that the adapter gives to it (a signing key, the password of all users).
    namespace: the prefix of the names of this run's users, groups and messages.
    policies: the timeouts and pauses of clients (`login_timeout`, `reconnect_min` ...).
    options: the adapter's own options, as text.
    draw: makes the source of the random numbers in [0, 1) of the device with this number, for example for pauses.
    """

    url: str
    key: str = ""
    namespace: str = ""
    policies: Policies = field(default_factory=Policies)
    options: Mapping[str, str] = field(default_factory=dict)
    draw: Callable[[int], Callable[[], float]] = lambda number: lambda: 0.5


# --- what a session returns for its driver to do --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connect:
    """Open the WebSocket. The session then receives `Connected` or `Disconnected`."""

    url: str
    subprotocols: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection, or stop to open it. The session receives no `Disconnected` for it."""


@dataclass(frozen=True, slots=True)
class Request:
    """Make an HTTP request. The session then receives a `Response` with the same `ref`."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    ref: str = ""
    timeout: float = 10.0


# --- the inputs of a session, besides frames (bytes) ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection is open. `subprotocol` is the one that the server chose."""

    subprotocol: str | None = None


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection could not be opened, or it ended without a `Disconnect` of the session."""

    reason: str


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a `Request`. If there was no answer, `status` is 0 and `body` is the reason."""

    ref: str
    status: int
    body: bytes = b""


# --- events: what rows are made of ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The device is logged in and receives messages."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The device sent the message, for the first time or again.

    The first time need not be reported if `send` returns the frame of the message: the driver then records it itself.
    """

    id: str


@dataclass(frozen=True, slots=True)
class Received:
    """The server has the message, but does not promise yet that it is stored."""

    id: str


@dataclass(frozen=True, slots=True)
class Acked:
    """The server has the message, with the strongest promise that it makes."""

    id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The server refused the message (`code` from the core's codes if one fits), or the session gave up (timeout)."""

    id: str
    code: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The device received the message. Report repetitions, too: the second one counts as a duplicate.

    conversation: as its sender addressed it, so a p2p conversation has the name of this user; None if the server does
        not say.
    synced: whether it arrived because the device asked for what it missed.
    sender, text: for tasks of custom users; None if the server does not say.
    """

    id: str
    conversation: Conversation | None = None
    synced: bool = False
    sender: str | None = field(default=None, compare=False)
    text: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Read:
    """The server knows that this device's user has read the message."""

    id: str


@dataclass(frozen=True, slots=True)
class Joined:
    """The device is in the group or chatroom, as `join` requested."""

    conversation: Conversation


@dataclass(frozen=True, slots=True)
class NotJoined:
    """The server did not let the device into the group or chatroom, or did not create it."""

    conversation: Conversation
    reason: str


@dataclass(frozen=True, slots=True)
class Offline:
    """The connection ended or could not be opened. The session connects again by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The server refused the device permanently, or sent something invalid. The session does not connect again."""

    reason: str


Event = (
    Ready
    | Sent
    | Received
    | Acked
    | Failed
    | Delivered
    | Read
    | Joined
    | NotJoined
    | Offline
    | Closed
    | ClientEvent  # the events of the core's client, which the adapter of imsim's own server returns
)
Out = bytes | Connect | Disconnect | Request | Event
Item = bytes | Connected | Disconnected | Response


class Session(ABC):
    """The protocol of one device. Each method returns what its driver must do, in order."""

    @abstractmethod
    def start(self, now: float) -> list[Out]:
        """Log in. The session stays logged in, and reconnects, until `stop`. It may be started again after that."""

    @abstractmethod
    def stop(self, now: float) -> list[Out]:
        """Log out and close the connection."""

    @abstractmethod
    def received(self, item: Item, now: float) -> list[Out]:
        """Handle a frame, a change of the connection or the answer to a request."""

    @abstractmethod
    def send(self, message: Message, now: float) -> list[Out]:
        """Send the message, or keep it until the device is online. Several messages may wait for their answers."""

    def join(self, conversation: Conversation, members: Sequence[str], creates: bool, now: float) -> list[Out]:
        """Prepare the use of a group or chatroom, before the clock of the run starts. Repeating it is harmless.

        creates: whether this session creates it; that is one session of the run, and its `Joined` comes before any
            other session is asked.
        members: the names of its users.
        """
        return [Joined(conversation)]

    def read(self, conversation: Conversation, id: str, now: float) -> list[Out]:
        """Mark the conversation as read up to this message (feature `receipts`)."""
        return []

    def next_deadline(self) -> float | None:
        """Return when `handle_timer` must be called; None if nothing is pending."""
        return None

    def handle_timer(self, now: float) -> list[Out]:
        """Handle the deadlines that have passed."""
        return []


class Adapter(ABC):
    """A kind of server. One object makes the sessions of all devices of a process.

    Raises: UsageError, from its constructor, for a url or an option that it cannot use.
    """

    features: frozenset[Feature] = frozenset()
    """The features of the server. An object may have fewer than its class, if that depends on its options."""
    binary: ClassVar[bool] = False
    """Whether frames are binary WebSocket messages; otherwise they are text, in UTF-8."""
    options: ClassVar[Mapping[str, str]] = {}
    """The names of the options that `Target.options` may have, each with a line of help."""
    files: ClassVar[frozenset[str]] = frozenset()
    """The options that are paths of files. Relative ones start from the working directory of the user."""
    largest: int = 1 << 24
    """The largest frame in bytes that the server may send; a larger one ends the connection."""

    def __init__(self, target: Target) -> None:
        self.target = target
        unknown = next((name for name in target.options if name not in self.options), None)
        if unknown is not None:
            known = ", ".join(sorted(self.options)) or "none"
            raise UsageError(f"option {unknown}: unknown name; {type(self).__name__} has these options: {known}")

    @abstractmethod
    def session(self, number: int, user: str, device: str) -> Session:
        """Return the session of a device of a user. `number` counts the devices of the run from 0."""

    def probe(self) -> Request | None:
        """Return a request that tells whether the server can be loaded, to be made before anything else, or None."""
        return None

    def probed(self, response: Response) -> Mapping[str, Any]:
        """Read the answer to `probe`. The manifest has `name` and `version` of the result as `server`.

        Raises: RunError if the server cannot be loaded.
        """
        return {}
