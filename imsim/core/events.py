"""What the machines report through `port.emit`: the raw material of rows, and of what an application shows."""

from __future__ import annotations

from dataclasses import dataclass

from imsim.core.model import Code, Flow, Message, Route, Session

# --- from the client ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sent:
    """A send left for the gateway; `attempt` counts from 1."""

    id_client: str
    attempt: int


@dataclass(slots=True)
class Received:
    """The router has the message, storage not yet (policy `ack = after_receive`). Or it was said in a chatroom, as
    `seq`."""

    id_client: str
    seq: int = 0


@dataclass(slots=True)
class Acked:
    """The message is stored: status success. May correct an earlier `SendFailed`."""

    id_client: str
    conversation_id: str
    seq: int


@dataclass(slots=True)
class SendFailed:
    """Status fail: rejected (any code), or the retry budget is spent (`timeout`)."""

    id_client: str
    code: Code
    text: str


@dataclass(slots=True)
class Shown:
    """The device shows a message, the first and only time."""

    message: Message
    flow: Flow
    route: Route


@dataclass(slots=True)
class Repeated:
    """A message came again, and was not shown again."""

    message: Message


@dataclass(slots=True)
class Ready:
    """Logged in, and everything missed has been fetched."""


@dataclass(slots=True)
class Reset:
    """The server's log is not the one that this device has known, or was set back: whatever was said of conversations
    before this is void, and what there is comes anew."""


@dataclass(slots=True)
class ReadMoved:
    """The read mark of a conversation, and with it the unread count, changed."""

    conversation_id: str
    read_seq: int
    unread: int


@dataclass(slots=True)
class StateChanged:
    """A conversation was pinned, muted, hidden (up to this seq), given another custom, or blocked, or the reverse: on
    this device, where it shows before the server has answered, or on another."""

    conversation_id: str
    pinned: bool
    muted: bool
    hidden_seq: int
    custom: str
    blocked: bool = False


@dataclass(slots=True)
class Recalled:
    """The message with this seq was taken back: it is not to be shown any more."""

    conversation_id: str
    seq: int


@dataclass(slots=True)
class Edited:
    """The message with this seq says something else now."""

    conversation_id: str
    seq: int
    content: str


@dataclass(slots=True)
class Resolved:
    """The request in the system message with this idClient has its answer: passed, rejected or expired."""

    id: str
    state: str


@dataclass(slots=True)
class Changed:
    """A change that is not shown as a message came about, as its `file` says: two users became friends ..."""

    message: Message


@dataclass(slots=True)
class Entered:
    """In a chatroom, again after each login until `leave`; `users` are there."""

    name: str
    users: int


@dataclass(slots=True)
class Typing:
    """The other user of a p2p conversation is writing."""

    conversation_id: str


@dataclass(slots=True)
class Presence:
    """A friend came online or went offline."""

    user: str
    online: bool


@dataclass(slots=True)
class PeerDelivered:
    """Some device of the other user of a p2p conversation has got it up to this seq."""

    conversation_id: str
    seq: int


@dataclass(slots=True)
class PeerRead:
    """The other user of a p2p conversation has read it up to this seq."""

    conversation_id: str
    seq: int


@dataclass(slots=True)
class ReadCounted:
    """`read` of `members` have read the message with this seq; its sender is not counted in either."""

    conversation_id: str
    seq: int
    read: int
    members: int


@dataclass(slots=True)
class History:
    """The messages from `first` to `last`, as asked for; only the latest of them if there are `more` than the server
    gives at a time."""

    conversation_id: str
    first: int
    last: int
    messages: list[Message]
    more: bool


@dataclass(slots=True)
class RequestDone:
    """A request was carried out: its op, and which one (a device or a conversation)."""

    request: str
    ref: str


@dataclass(slots=True)
class RequestFailed:
    """A request other than a send was rejected for good: its op, and which one (a group's name, a conversation ...)."""

    request: str
    ref: str
    code: Code
    text: str


@dataclass(slots=True)
class Disconnected:
    """The connection is gone, and the client will connect again by itself."""

    code: Code | None


@dataclass(slots=True)
class Ended:
    """The server ended the session for good (a refused token, another login of this device): no reconnect."""

    code: Code
    text: str


# --- from the server's machines -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Committed:
    """Storage holds the message."""

    message: Message


@dataclass(slots=True)
class Shed:
    """A chatroom's message was not sent to a device, which gets too many."""

    session: Session
    message: Message


@dataclass(slots=True)
class Pushed:
    """A push left for a device; `attempt` counts from 1."""

    session: Session
    message: Message
    attempt: int


ServerEvent = Committed | Pushed | Shed

ClientEvent = (
    Sent
    | Received
    | Acked
    | SendFailed
    | Shown
    | Repeated
    | Ready
    | Reset
    | ReadMoved
    | StateChanged
    | PeerDelivered
    | PeerRead
    | History
    | ReadCounted
    | Recalled
    | Edited
    | Resolved
    | Changed
    | Entered
    | Typing
    | Presence
    | RequestDone
    | RequestFailed
    | Disconnected
    | Ended
)
