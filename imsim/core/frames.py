"""The protocol: the frames between a client and its gateway. (The frames behind the gateways: `internal_frames`.)

Each class has an `op`: its name on the wire, in scenarios (service times) and in documents. Frames are plain slotted
dataclasses. Do not change a frame after its creation: machines in one process may share the object.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, get_args

from imsim.core.model import Code, ConversationState, Message, Role, Scene, Skipped
from imsim.core.policies import Policies
from imsim.core.sizes import largest_from_client

# --- client -> gateway ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Login:
    """The first frame of a connection. The server answers with `logged_in` or `refused`.

    `kind` is the kind of the device (phone, desktop, web ...), for policies that allow one session of each kind.
    `instance` is a text that identifies this running copy of the client. `attempt` grows with each login of this copy:
    so a login that was delayed on its way cannot end the session of a later login.
    """

    op: ClassVar[str] = "login"
    token: str
    device: str
    kind: str = ""
    instance: str = ""
    attempt: int = 0


@dataclass(slots=True)
class Ping:
    """A heartbeat: the client is still there. The server answers with `pong`."""

    op: ClassVar[str] = "ping"


@dataclass(slots=True)
class Send:
    """A message to store and deliver. The server answers with `stored` or `rejected`. Under the policy
    `ack = after_receive`, it sends `received` before that.

    `id_client` identifies the message among those of its sender in the conversation: a send that is repeated unchanged
    gets the original answer. `after` is the id_client of this device's previous message in the conversation, if that
    one has no answer yet: the server rejects a message whose predecessor it does not know, and so keeps a sender's
    messages in order. `shown` is the highest seq of the conversation that the device has shown: the send moves the read
    mark to it.
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
    """An acknowledgement: the device holds every message of the conversation up to and including `seq`."""

    op: ClassVar[str] = "delivered"
    number: ClassVar[int] = 0
    conversation_id: str
    seq: int

    @property
    def ref(self) -> str:
        return self.conversation_id


@dataclass(slots=True)
class Typing:
    """A hint that the user is writing to the other user of a p2p conversation. It may get lost and has no answer."""

    op: ClassVar[str] = "typing"
    number: ClassVar[int] = 0
    conversation_id: str

    @property
    def ref(self) -> str:
        return self.conversation_id


@dataclass(slots=True)
class StateAck:
    """An acknowledgement: the device has received the conversation state with this `version` in a `state` frame."""

    op: ClassVar[str] = "state_ack"
    conversation_id: str
    version: int


@dataclass(slots=True)
class Sync:
    """A request for everything that the device misses. The server answers with `page` or `sync_done`. After a `page`
    there is more: the client sends the next `sync`, with its new cursors. The last page is `sync_done`. If the server
    rejects the request with the code `ahead`, the client has more than the server: it must discard all of its messages
    and states, and sync again from the beginning.

    `cursors` maps each conversation to the seq up to which the device holds everything (absent: 0). `version` is that
    of the latest `sync_done`, or of a later `page` that has one (0: none). `inbox` is that of the latest `page` or
    `sync_done` (0: none). `state_version` is that of the newest conversation state that the device has, from any frame.
    `number` is repeated in the answer: the client goes on only from the answer to its latest `sync`. `resync` is the
    number of the latest `resync` on this connection (0: none). `newest` is for conversations that are not in `cursors`:
    if it is not 0, the server sends only this many of their newest visible messages, at most a page of each, and the
    entries after the first of them.
    """

    op: ClassVar[str] = "sync"
    cursors: dict[str, int] = field(default_factory=dict)
    version: int = 0
    inbox: int = 0
    number: int = 0
    resync: int = 0
    state_version: int = 0
    newest: int = 0

    @property
    def ref(self) -> str:
        return ""


# Requests. A client that receives no answer sends the request again. The answer names the op and the `ref` of the
# request. The `number` distinguishes the answer to the latest request from a late answer to an earlier one.


@dataclass(slots=True)
class Read:
    """A read mark: the user has read the conversation up to and including `seq`. The server answers with `done`."""

    op: ClassVar[str] = "read"
    conversation_id: str
    seq: int
    number: int = 0

    @property
    def ref(self) -> str:
        return self.conversation_id


@dataclass(slots=True)
class SetConversation:
    """A change of the user's conversation state. Only the fields that are given change. The server answers with `done`.

    `hidden_seq` removes the conversation from the list until a message with a higher seq arrives. It also moves the
    read mark to this seq. It never moves back. `blocked` (p2p only) says whether the server refuses messages from the
    other user.
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
    """A request for the messages from seq `first` to seq `last`, both included. The answer is a `history_page`."""

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
    """A request for the count of members who have read the message with this seq. The answer is `read_counted`."""

    op: ClassVar[str] = "read_count"
    conversation_id: str
    seq: int
    number: int = 0

    @property
    def ref(self) -> str:
        return f"{self.conversation_id}:{self.seq}"


@dataclass(slots=True)
class Group:
    """A request for the state of a group: its settings, and its members after the name `after`. The answer is a
    `group_page`. Only members get it."""

    op: ClassVar[str] = "group"
    conversation_id: str
    after: str = ""
    number: int = 0

    @property
    def ref(self) -> str:
        return f"{self.conversation_id}:{self.after}"


@dataclass(slots=True)
class Friends:
    """A request for the user's friends and open friend requests, from users after the name `after`. The answer is a
    `friends_page`."""

    op: ClassVar[str] = "friends"
    after: str = ""
    number: int = 0

    @property
    def ref(self) -> str:
        return self.after


@dataclass(slots=True)
class Enter:
    """A request to enter a chatroom and to receive up to `recent` of its latest messages. The answer is `entered`. The
    device leaves the room when its connection ends, so enter again after a new login."""

    op: ClassVar[str] = "enter"
    name: str
    recent: int = 0
    number: int = 0

    @property
    def ref(self) -> str:
        return self.name


@dataclass(slots=True)
class Leave:
    """A request to leave a chatroom. The server answers with `done`."""

    op: ClassVar[str] = "leave"
    name: str
    number: int = 0

    @property
    def ref(self) -> str:
        return self.name


@dataclass(slots=True)
class EndSession:
    """A request to log out another device of the user. The server answers with `done`."""

    op: ClassVar[str] = "end_session"
    device: str
    number: int = 0

    @property
    def ref(self) -> str:
        return self.device


# --- gateway -> client ----------------------------------------------------------------------------------------------


_DEFAULTS = Policies()


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the server that concern a client. Rates are per second; 0 means no limit, except for
    `typing_rate`."""

    content_bytes: int = _DEFAULTS.content_bytes  # bytes of UTF-8 in the content, custom and file of a message, each
    page: int = _DEFAULTS.page  # entries in a page
    page_bytes: int = _DEFAULTS.page_bytes  # bytes of content, custom and file in a page
    frame_bytes: int = largest_from_client(_DEFAULTS)  # bytes of a frame from a client
    send_queue: int = _DEFAULTS.send_queue  # unacknowledged frames to a device
    group_size: int = _DEFAULTS.group_size  # members and open requests of a group
    user_rate: float = _DEFAULTS.user_rate  # messages of a user; also syncs, and other requests
    user_burst: int = _DEFAULTS.user_burst
    group_rate: float = _DEFAULTS.group_rate  # messages of all members of a group
    group_burst: int = _DEFAULTS.group_burst
    rooms: int = _DEFAULTS.rooms  # chatrooms of a connection
    room_size: int = _DEFAULTS.room_size  # users in a chatroom
    room_recent: int = _DEFAULTS.room_recent  # messages in `entered`
    room_rate: float = _DEFAULTS.room_rate  # chatroom messages to a connection
    room_burst: int = _DEFAULTS.room_burst
    typing_rate: float = _DEFAULTS.typing_rate  # `typing` frames of a user; 0 means that the server drops all of them
    typing_burst: int = _DEFAULTS.typing_burst

    @classmethod
    def of(cls, policies: Policies) -> Limits:
        """Return the limits of a server with these policies."""
        names = (field.name for field in fields(cls) if field.name != "frame_bytes")
        return cls(**{name: getattr(policies, name) for name in names}, frame_bytes=largest_from_client(policies))


@dataclass(frozen=True, slots=True)
class Windows:
    """The times in seconds within which a client must act, or should."""

    recall: float = _DEFAULTS.recall_window  # how long the sender can recall a message
    edit: float = _DEFAULTS.edit_window  # how long the sender can edit a message
    request: float = _DEFAULTS.request_lifetime  # how long a friend request, application or invitation can be answered
    answer: float = _DEFAULTS.send_timeout  # after this time without an answer, a client should repeat a request

    @classmethod
    def of(cls, policies: Policies) -> Windows:
        """Return the windows of a server with these policies."""
        return cls(policies.recall_window, policies.edit_window, policies.request_lifetime, policies.send_timeout)


@dataclass(slots=True)
class LoggedIn:
    """The login succeeded. `time` is the server's wall time in ms since 1970. `heartbeat` is the time in seconds after
    which a silent peer counts as lost, so ping a few times within it. `log` identifies the data in the server's
    storage: a client that knows another `log` must discard everything that it has received. `limits` and `windows`
    contain only the values that differ from the defaults."""

    op: ClassVar[str] = "logged_in"
    user: str
    device: str
    time: int
    heartbeat: float
    log: str = ""
    limits: Limits = Limits()
    windows: Windows = Windows()


@dataclass(slots=True)
class Refused:
    """The server ends the connection. `reconnect` says whether the client should connect again."""

    op: ClassVar[str] = "refused"
    code: Code
    reconnect: bool
    text: str = ""


@dataclass(slots=True)
class Pong:
    """The answer to `ping`."""

    op: ClassVar[str] = "pong"


@dataclass(slots=True)
class Received:
    """The server has the message but has not stored it yet (only under the policy `ack = after_receive`). In a
    chatroom, this is the final answer. `seq` is the position of the message in the chatroom (0 in other
    conversations)."""

    op: ClassVar[str] = "received"
    id_client: str
    seq: int = 0


@dataclass(slots=True)
class Stored:
    """The message is durable. `seq` is its position in the conversation. `id` is the id that the server assigned.
    `time` is wall time in ms since 1970.

    If the sender may not see the log (`changes.is_from_outside`), `seq` is 0 and `id` is empty.
    """

    op: ClassVar[str] = "stored"
    id_client: str
    conversation_id: str
    id: str
    seq: int
    time: int


@dataclass(slots=True)
class Rejected:
    """The server rejects a request. `request` is the op of the request. `ref` identifies the request: the id_client of
    a send, a device, a chatroom, the conversation of a `read` or `set_conversation`, the message of a `read_count`, the
    range of a `history`. `number` is the one that the request has (0: none). The client may repeat the request after
    the codes `unavailable`, `gap`, `rate_limited` and `busy`. `retry_after` is the time in seconds to wait before the
    client repeats the request (0: not given)."""

    op: ClassVar[str] = "rejected"
    request: str
    ref: str
    code: Code
    text: str = ""
    retry_after: float = 0.0
    number: int = 0


@dataclass(slots=True)
class Done:
    """The server carried out a request that has no other answer. `request` and `ref` identify the request, as in
    `rejected`."""

    op: ClassVar[str] = "done"
    request: str
    ref: str
    number: int = 0


@dataclass(slots=True)
class Push:
    """A new message in one of the user's conversations. The device answers with `delivered`."""

    op: ClassVar[str] = "push"
    message: Message


@dataclass(slots=True)
class Notify:
    """A notice that the conversation has messages up to `seq`. It replaces pushes under the policy `delivery = notify`.
    The device fetches the missing messages with `history` and then answers with `delivered`."""

    op: ClassVar[str] = "notify"
    conversation_id: str
    seq: int


@dataclass(slots=True)
class Page:
    """Some of the messages that the device missed, in seq order within each conversation. There are more: send the next
    `sync`. `cursors` gives, for each conversation, the seq up to which the device holds everything after this page.
    `states` and `version` are as in `sync_done`, if the states do not fit into one frame (otherwise empty and 0).
    `skipped` has the conversations that begin in this page, and not with their first message: see `newest`."""

    op: ClassVar[str] = "page"
    messages: list[Message]
    cursors: dict[str, int]
    inbox: int = 0
    number: int = 0
    states: list[ConversationState] = field(default_factory=list)
    version: int = 0
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(slots=True)
class SyncDone:
    """The last page of a sync. After it, the device holds everything. `states` are the conversation states that changed
    after the `version` in the `sync`. `version` is the end of the user's log when the server looked up these states,
    for use in the next `sync`. `skipped` is as in `page`."""

    op: ClassVar[str] = "sync_done"
    messages: list[Message]
    cursors: dict[str, int]
    states: list[ConversationState]
    version: int
    inbox: int = 0
    number: int = 0
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(slots=True)
class HistoryPage:
    """The messages that a `history` requested, in seq order. If they do not fit into one page, these are the latest
    ones and `more` is true: request the earlier ones separately."""

    op: ClassVar[str] = "history_page"
    conversation_id: str
    first: int
    last: int
    messages: list[Message]
    more: bool = False
    number: int = 0


@dataclass(slots=True)
class State:
    """A changed conversation state of the user. This device or another one changed it, or the other user received or
    read something. The device ignores a state that is not newer than its own. It always answers with `state_ack`."""

    op: ClassVar[str] = "state"
    state: ConversationState


@dataclass(slots=True)
class ReadCounted:
    """The answer to `read_count`. `read` is the count of members who have read the message. `members` is the count of
    all members. Neither count includes the sender of the message."""

    op: ClassVar[str] = "read_counted"
    conversation_id: str
    seq: int
    read: int
    members: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """The settings of a group. `join` says how a user becomes a member (open, approval or invite). With `consent`, an
    invited user must accept first. With `muted_all`, only the owner and the admins can write."""

    join: str = "invite"
    consent: bool = False
    muted_all: bool = False


@dataclass(slots=True)
class GroupMember:
    """A member of a group. With `muted`, the owner or an admin has muted this member."""

    user: str
    role: Role = Role.MEMBER
    muted: bool = False


@dataclass(slots=True)
class GroupPage:
    """The state of a group after the entry of its log at `seq`. `count` is the number of its members. `members` are
    those after the name `after`, in ASCII order. If `next` is not empty, there are more: request them with
    `after` = `next`."""

    op: ClassVar[str] = "group_page"
    conversation_id: str
    seq: int
    owner: str
    count: int
    members: list[GroupMember]
    after: str = ""
    title: str = ""
    settings: GroupSettings = GroupSettings()
    next: str = ""
    number: int = 0


@dataclass(slots=True)
class Friend:
    """A friend of the user. `blocked` says whether the user has blocked the friend."""

    user: str
    blocked: bool = False


@dataclass(slots=True)
class FriendRequest:
    """An unanswered friend request between the user and `user`, sent by `by`, which is one of the two. `id` is the id
    of the message that made the request, and the idClient of the system message that reports it. At the time `expires`
    (in ms since 1970), it can no longer be answered."""

    user: str
    by: str
    id: str
    expires: int


@dataclass(slots=True)
class FriendsPage:
    """The user's friends, and the open friend requests that the user has sent or received: those with users after the
    name `after`, in ASCII order. If `next` is not empty, there are more: request them with `after` = `next`."""

    op: ClassVar[str] = "friends_page"
    friends: list[Friend]
    requests: list[FriendRequest] = field(default_factory=list)
    after: str = ""
    next: str = ""
    number: int = 0


@dataclass(slots=True)
class Entered:
    """The device is in the chatroom. `users` is the count of users in the room. `messages` are its latest messages, at
    most as many as the device requested."""

    op: ClassVar[str] = "entered"
    name: str
    users: int
    messages: list[Message]
    number: int = 0


@dataclass(slots=True)
class IsTyping:
    """A hint that the other user is writing. It may get lost."""

    op: ClassVar[str] = "is_typing"
    conversation_id: str


@dataclass(slots=True)
class Presence:
    """A hint that a friend came online with the first device, or went offline with the last one. It may get lost."""

    op: ClassVar[str] = "presence"
    user: str
    online: bool


@dataclass(slots=True)
class Resync:
    """A request to sync again: the device may have missed something, because a server crashed or lost the connection to
    another server. The server repeats the request until a `sync` contains its `number` as `resync`."""

    op: ClassVar[str] = "resync"
    number: int = 0


Asked = Read | SetConversation | History | ReadCount | Group | Friends | Enter | Leave | EndSession
Request = Send | Sync | Asked  # these have an answer, at least `rejected`
Routed = Request | Delivered | Typing  # a gateway passes these on to a router
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
    | GroupPage
    | FriendsPage
    | Entered
    | IsTyping
    | Presence
    | Resync
)

#: The objects within frames, except messages and conversation states.
PARTS = (Limits, Windows, Skipped, GroupSettings, GroupMember, Friend, FriendRequest)

# The ops for which a gateway can have a service time. It handles each frame once, in either direction.
GATEWAY_OPS = frozenset(frame.op for frame in (*get_args(FromClient), *get_args(ToClient)))
