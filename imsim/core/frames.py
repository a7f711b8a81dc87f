"""The protocol: what travels between a client and its gateway. (What travels behind the gateways: `internal_frames`.)

Each class has an `op`, its name on the wire, in scenarios (service times) and in documents. Frames are plain slotted
dataclasses, made once and then read only: in one process the same object may be seen by many.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, get_args

from imsim.core.model import Code, ConversationState, Message, Scene

# --- client -> gateway ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Login:
    """The first frame of a connection. `kind` of device (phone, desktop, web ...) matters under a policy that allows
    one session of each.

    `instance` is any text that this running copy of the client does not share with another, and `attempt` grows with
    each of its logins: one that was held up somewhere must not throw out the later one that got ahead of it.
    """

    op: ClassVar[str] = "login"
    token: str
    device: str
    kind: str = ""
    instance: str = ""
    attempt: int = 0


@dataclass(slots=True)
class Ping:
    """I am still here; answered by `pong`."""

    op: ClassVar[str] = "ping"


@dataclass(slots=True)
class Send:
    """Store and deliver this. Answered by `stored` or `rejected` (and first by `received` under that ack policy).

    `id_client` identifies the message among those of its sender in the conversation: sent again unchanged it gets
    the original answer. `after` is the id_client of this device's previous message in the conversation if that one
    is still unanswered: the writer refuses a message whose predecessor it does not know, so that a sender's
    messages keep their order. `shown` is the highest seq of the conversation that the device had shown: sending
    advances the read mark to it.
    """

    op: ClassVar[str] = "send"
    number: ClassVar[int] = 0
    id_client: str
    scene: Scene
    to: str
    content: str = ""
    type: str = "text"
    file: dict[str, object] | None = None
    custom: str | None = None
    resend: bool = False
    after: str | None = None
    shown: int = 0

    @property
    def ref(self) -> str:
        return self.id_client


@dataclass(slots=True)
class Delivered:
    """This device holds every message of the conversation up to and including `seq`."""

    op: ClassVar[str] = "delivered"
    number: ClassVar[int] = 0
    conversation_id: str
    seq: int

    @property
    def ref(self) -> str:
        return self.conversation_id


@dataclass(slots=True)
class Typing:
    """The user is writing to the other user of this p2p conversation. A hint: it may get lost, and has no answer."""

    op: ClassVar[str] = "typing"
    number: ClassVar[int] = 0
    conversation_id: str

    @property
    def ref(self) -> str:
        return self.conversation_id


@dataclass(slots=True)
class StateAck:
    """This device has the conversation state of a `state`, in this version."""

    op: ClassVar[str] = "state_ack"
    conversation_id: str
    version: int


@dataclass(slots=True)
class Sync:
    """Send what this device misses. `cursors`: conversation -> seq up to which it holds everything (absent: 0);
    `version`: that of its last `sync_done`, or `page` that has one, and `inbox` that of its last `page` or `sync_done`
    (0, or absent: none); `state_version`: that of the newest conversation state it has, however it came.

    Answered by `page`, upon which the client asks again, with what it holds by then, or by `sync_done`, the last of
    them; or rejected with `ahead`: the client has more than there is, and is to forget it all and begin anew. `number`
    is repeated in the answer: who asks again goes on from the answer to its latest `sync` only. `resync` is the number
    of the connection's latest `resync`.
    """

    op: ClassVar[str] = "sync"
    cursors: dict[str, int] = field(default_factory=dict)
    version: int = 0
    inbox: int = 0
    number: int = 0
    resync: int = 0
    state_version: int = 0

    @property
    def ref(self) -> str:
        return ""


# Requests: whoever gets no answer asks again. Each has a `ref`, that its answer names together with its op; `number`
# tells the answer to the latest of them from a late one to an earlier one.


@dataclass(slots=True)
class Read:
    """The user has read the conversation up to and including `seq`. Answered by `done`."""

    op: ClassVar[str] = "read"
    conversation_id: str
    seq: int
    number: int = 0

    @property
    def ref(self) -> str:
        return self.conversation_id


@dataclass(slots=True)
class SetConversation:
    """Change what is given of the user's conversation state; answered by `done`.

    `hidden_seq` deletes it from the list up to this seq, which is also read by that, and never moves back. `blocked`,
    p2p only: take no more messages from the other user.
    """

    op: ClassVar[str] = "set_conversation"
    conversation_id: str
    pinned: bool | None = None
    muted: bool | None = None
    hidden_seq: int | None = None
    custom: str | None = None
    number: int = 0
    blocked: bool | None = None

    @property
    def ref(self) -> str:
        return self.conversation_id


@dataclass(slots=True)
class History:
    """The messages from `first` to `last`, both included; answered by `history_page`."""

    op: ClassVar[str] = "history"
    conversation_id: str
    first: int
    last: int
    number: int = 0

    @property
    def ref(self) -> str:
        return f"{self.conversation_id}:{self.first}-{self.last}"


@dataclass(slots=True)
class ReadCount:
    """How many have read the message with this seq? Answered by `read_counted`."""

    op: ClassVar[str] = "read_count"
    conversation_id: str
    seq: int
    number: int = 0

    @property
    def ref(self) -> str:
        return f"{self.conversation_id}:{self.seq}"


@dataclass(slots=True)
class Enter:
    """Enter a chatroom, and get up to `recent` of its latest messages; answered by `entered`. It ends with the
    connection: enter again after a new login."""

    op: ClassVar[str] = "enter"
    name: str
    recent: int = 0
    number: int = 0

    @property
    def ref(self) -> str:
        return self.name


@dataclass(slots=True)
class Leave:
    """Leave a chatroom; answered by `done`."""

    op: ClassVar[str] = "leave"
    name: str
    number: int = 0

    @property
    def ref(self) -> str:
        return self.name


@dataclass(slots=True)
class EndSession:
    """Log out another device of mine; answered by `done`."""

    op: ClassVar[str] = "end_session"
    device: str
    number: int = 0

    @property
    def ref(self) -> str:
        return self.device


# --- gateway -> client ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class LoggedIn:
    """Welcome. `time` is the server's wall time in ms since 1970; `heartbeat` the seconds after which a silent side
    is taken for lost, so ping a few times within it. `log` names all that the server has stored: to a client that has
    known another, whatever it has got by now means nothing any more."""

    op: ClassVar[str] = "logged_in"
    user: str
    device: str
    time: int
    heartbeat: float
    log: str = ""


@dataclass(slots=True)
class Refused:
    """The connection ends now. `reconnect` says whether connecting again may help."""

    op: ClassVar[str] = "refused"
    code: Code
    reconnect: bool
    text: str = ""


@dataclass(slots=True)
class Pong:
    op: ClassVar[str] = "pong"


@dataclass(slots=True)
class Received:
    """The router has the message but it is not stored yet (policy `ack = after_receive` only). In a chatroom: it was
    said, as `seq`."""

    op: ClassVar[str] = "received"
    id_client: str
    seq: int = 0


@dataclass(slots=True)
class Stored:
    """The message is durable: its position is `seq`, its server id `id`, its `time` wall time in ms since 1970."""

    op: ClassVar[str] = "stored"
    id_client: str
    conversation_id: str
    id: str
    seq: int
    time: int


@dataclass(slots=True)
class Rejected:
    """A request failed. `request` is its op, `ref` which one: a send's id_client, a device, a chatroom, the
    conversation of a `read` or `set_conversation`, the message of a `read_count`, the range of a `history`; with its
    `number`. Retryable codes: `unavailable`, `gap`, and `rate_limited`: not before `retry_after` seconds."""

    op: ClassVar[str] = "rejected"
    request: str
    ref: str
    code: Code
    text: str = ""
    retry_after: float = 0.0
    number: int = 0


@dataclass(slots=True)
class Done:
    """A request that has no answer of its own was carried out: its op, and which one, as in `rejected`."""

    op: ClassVar[str] = "done"
    request: str
    ref: str
    number: int = 0


@dataclass(slots=True)
class Push:
    """A new message of one of the user's conversations; answer with `delivered`."""

    op: ClassVar[str] = "push"
    message: Message


@dataclass(slots=True)
class Notify:
    """The conversation has messages up to `seq` (in place of pushes, under policy `delivery = notify`): fetch by
    `history` what you lack, then answer with `delivered`."""

    op: ClassVar[str] = "notify"
    conversation_id: str
    seq: int


@dataclass(slots=True)
class Page:
    """Messages that the device missed, in seq order within each conversation: having applied it, the device holds
    everything up to `cursors`. There is more: `sync` again. `states` and `version` are as in `sync_done`, where there
    are more states than fit into one frame; else there are none, and it is 0."""

    op: ClassVar[str] = "page"
    messages: list[Message]
    cursors: dict[str, int]
    inbox: int = 0
    number: int = 0
    states: list[ConversationState] = field(default_factory=list)
    version: int = 0


@dataclass(slots=True)
class SyncDone:
    """The last page: having applied it, the device holds everything. `states`: those that changed after the version of
    its `sync`; `version`: where the user's log stood when they were looked up, to be given with the next `sync`."""

    op: ClassVar[str] = "sync_done"
    messages: list[Message]
    cursors: dict[str, int]
    states: list[ConversationState]
    version: int
    inbox: int = 0
    number: int = 0


@dataclass(slots=True)
class HistoryPage:
    """The messages that were asked for by `history`, in seq order; where they do not fit into one page, the latest of
    them, and `more`: ask for those before them."""

    op: ClassVar[str] = "history_page"
    conversation_id: str
    first: int
    last: int
    messages: list[Message]
    more: bool = False
    number: int = 0


@dataclass(slots=True)
class State:
    """A conversation state of the user changed, by this device or another, or because the other user got or read
    something. The device ignores it unless it is newer than what it has; it answers with `state_ack` in any case."""

    op: ClassVar[str] = "state"
    state: ConversationState


@dataclass(slots=True)
class ReadCounted:
    """`read` of `members` have read the message; whoever sent it is not counted in either."""

    op: ClassVar[str] = "read_counted"
    conversation_id: str
    seq: int
    read: int
    members: int
    number: int = 0


@dataclass(slots=True)
class Entered:
    """You are in the chatroom, with so many `users`; `messages` are the latest that were asked for."""

    op: ClassVar[str] = "entered"
    name: str
    users: int
    messages: list[Message]
    number: int = 0


@dataclass(slots=True)
class IsTyping:
    """The other user is writing. A hint that may get lost."""

    op: ClassVar[str] = "is_typing"
    conversation_id: str


@dataclass(slots=True)
class Presence:
    """A friend came online on a first device, or went offline on the last. A hint that may get lost."""

    op: ClassVar[str] = "presence"
    user: str
    online: bool


@dataclass(slots=True)
class Resync:
    """Something may not have reached you, because a server was lost or lost sight of another: sync again. It comes
    again until a `sync` repeats its `number`."""

    op: ClassVar[str] = "resync"
    number: int = 0


Asked = Read | SetConversation | History | ReadCount | Enter | Leave | EndSession
Request = Send | Sync | Asked  # what is answered, by `rejected` at least
Routed = Request | Delivered | Typing  # what a gateway passes on
FromClient = Login | Ping | Send | Delivered | StateAck | Typing | Sync | Asked
ToClient = (
    LoggedIn
    | Refused
    | Pong
    | Received
    | Stored
    | Rejected
    | Done
    | Push
    | Notify
    | Page
    | SyncDone
    | HistoryPage
    | State
    | ReadCounted
    | Entered
    | IsTyping
    | Presence
    | Resync
)

# Where a gateway's service times can be charged, by op: it handles each of these once, whichever way it goes.
GATEWAY_OPS = frozenset(frame.op for frame in (*get_args(FromClient), *get_args(ToClient)))
