"""The events that the machines report through `port.emit`. Rows are made from them, and applications show them."""

from __future__ import annotations

from dataclasses import dataclass, field

from imsim.core.frames import FriendsPage, GroupPage
from imsim.core.model import Code, Flow, Message, Route, Session

# --- from the client ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sent:
    """The client sent a message to the gateway. `attempt` counts from 1."""

    id_client: str
    attempt: int


@dataclass(slots=True)
class Received:
    """The router has the message, but storage does not yet (policy `ack = after_receive`).

    In a chatroom, this is the final answer, and the message has the position `seq`.
    """

    id_client: str
    seq: int = 0


@dataclass(slots=True)
class Acked:
    """The message is stored: its status is success. This event may correct an earlier `SendFailed`.

    `seq` is 0 if the user may not see the log, as for an application to a group. `time` is the server's wall time in ms
    since 1970.
    """

    id_client: str
    conversation_id: str
    seq: int
    time: int = field(default=0, compare=False)


@dataclass(slots=True)
class SendFailed:
    """The send failed: its status is fail. It was rejected (any code), or no attempt got an answer (`timeout`)."""

    id_client: str
    code: Code
    text: str


@dataclass(slots=True)
class Shown:
    """The device shows a message, for the first and only time."""

    message: Message
    flow: Flow
    route: Route


@dataclass(slots=True)
class Repeated:
    """A message arrived again. The device did not show it again."""

    message: Message


@dataclass(slots=True)
class Ready:
    """The client is logged in and has fetched everything that it missed."""


@dataclass(slots=True)
class Reset:
    """The server has another log than this device knows, or its log was set back to an earlier state.

    All earlier events about conversations are void. The client fetches everything again.
    """


@dataclass(slots=True)
class ReadMoved:
    """The read mark of a conversation changed, and with it the unread count."""

    conversation_id: str
    read_seq: int
    unread: int


@dataclass(slots=True)
class StateChanged:
    """The user's settings of a conversation changed, on this device or on another one.

    A change on this device is reported before the server has answered. The list hides the conversation up to
    `hidden_seq`.
    """

    conversation_id: str
    pinned: bool
    muted: bool
    hidden_seq: int
    custom: str
    blocked: bool = False


@dataclass(slots=True)
class Recalled:
    """The message with this seq was recalled. Stop showing it."""

    conversation_id: str
    seq: int


@dataclass(slots=True)
class Edited:
    """The message with this seq has new content."""

    conversation_id: str
    seq: int
    content: str


@dataclass(slots=True)
class Resolved:
    """A request to the user was answered or expired.

    `id` is the idClient of the system message with the request. `state` is passed, rejected or expired.
    """

    id: str
    state: str


@dataclass(slots=True)
class Changed:
    """A change happened that is not shown as a message, such as a new friendship. Its `file` describes the change."""

    message: Message


@dataclass(slots=True)
class Entered:
    """The device is in a chatroom with `users` users. The client enters again after each login, until `leave`."""

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
    """A device of the other user of a p2p conversation has received everything up to this seq."""

    conversation_id: str
    seq: int


@dataclass(slots=True)
class PeerRead:
    """The other user of a p2p conversation has read everything up to this seq."""

    conversation_id: str
    seq: int


@dataclass(slots=True)
class ReadCounted:
    """The answer to `read_count`: `read` of `members` have read the message. Neither count includes its sender."""

    conversation_id: str
    seq: int
    read: int
    members: int


@dataclass(slots=True)
class History:
    """The messages from `first` to `last` that the application requested.

    If they are more than one answer can hold, these are the latest ones and `more` is true.
    """

    conversation_id: str
    first: int
    last: int
    messages: list[Message]
    more: bool


@dataclass(slots=True)
class Skipped:
    """The device's first sync of a conversation has left the messages up to `seq` to `history`.

    `unread` has the seqs of the unread messages among them, as ranges [first, last]. The unread count includes them.
    """

    conversation_id: str
    seq: int
    unread: list[list[int]]


@dataclass(slots=True)
class Group:
    """A page of the state of a group: the answer to `group`."""

    page: GroupPage


@dataclass(slots=True)
class Friends:
    """A page of the user's friends and open friend requests: the answer to `friends`."""

    page: FriendsPage


@dataclass(slots=True)
class RequestDone:
    """The server carried out a request. `request` is its op, `ref` its subject (a device, a conversation ...)."""

    request: str
    ref: str


@dataclass(slots=True)
class RequestFailed:
    """The server finally rejected a request other than a send.

    `request` is its op, `ref` its subject (a chatroom's name, a conversation ...).
    """

    request: str
    ref: str
    code: Code
    text: str


@dataclass(slots=True)
class Disconnected:
    """The connection ended. The client will connect again by itself."""

    code: Code | None


@dataclass(slots=True)
class Ended:
    """The server ended the session permanently, for example because of a bad token. The client does not reconnect."""

    code: Code
    text: str


# --- from the server's machines -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Committed:
    """Storage has the message.

    `after` is the time in seconds since the router received the send. It is None in a chatroom, which stores nothing.
    """

    message: Message
    after: float | None = field(default=None, compare=False)


@dataclass(slots=True)
class Shed:
    """A chatroom's message was not sent to a device, because the device receives too many."""

    session: Session
    message: Message


@dataclass(slots=True)
class Pushed:
    """The gateway pushed a message to a device. `attempt` counts from 1."""

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
    | Skipped
    | Group
    | Friends
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
