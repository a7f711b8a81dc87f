"""The requests to storage as data, and the meaning of their results. `memory` defines the same meaning as code.

A machine calls `port.store(request)`. Its shell carries out the request and answers with
`machine.stored(request, result, now)`, where `request` is the same object. A machine sends each request object once,
and a request equals only itself. Every failure is `Failed`, including those after which the outcome is unknown.

Storage carries out the requests of one conversation in the order in which they were sent. A request of a machine that
has crashed since is carried out within policies.storage_timeout, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, get_args

from imsim.core.changes import is_visible
from imsim.core.limits import UNREAD_RANGES
from imsim.core.model import ConversationState, Message, Scene, Session, Skipped, is_p2p, p2p_id
from imsim.core.sizes import Room, utf8_bytes
from imsim.core.unread import Unread

_ANY = 1 << 62  # bytes; means that there is no bound

# --- requests -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class OpenConversation:
    """Open the conversation as its single writer. This raises its epoch, which fences off every earlier writer.

    If the conversation does not exist, `founders` creates it with these members. -> LogState, or None if it does not
    exist and `founders` is None.
    """

    op: ClassVar[str] = "open_conversation"
    conversation_id: str
    founders: tuple[str, ...] | None = None


@dataclass(slots=True)
class Effects:
    """The changes that an entry of the log makes.

    - `state` is the new state of the conversation, a JSON object. None leaves it unchanged.
    - A user in `joined` sees the log from this entry on. A user in `left` sees this entry as the last one. A user who
      joins again also sees those missed entries that recalled or edited a message which the user could see before
      (see `changes.concerning`).
    - `amended` replaces the entry with its seq. If it is recalled, the entries that edited it are recalled too (see
      `changes.edits`). An edit is not visible to users who left before it: they see the entry as it was then.
    - Each note of `notes` is appended to the log system:<to>, and gets its seq and id there. A note is left out if that
      log has its idempotency key already. (A user's send cannot have this key, see `gateway.validation`.)
    """

    state: dict[str, Any] | None = None
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    amended: Message | None = None
    notes: tuple[Message, ...] = ()


@dataclass(slots=True, eq=False)
class Append:
    """Add `message` at `message.seq`, move its sender's read mark to `shown` as `SaveState` does, and apply `effects`.

    All of it happens, or nothing. -> Appended, Duplicate, Fenced or Blocked. The result is Blocked if the recipient of
    a p2p or system message has blocked the sender, and there are no effects. If there are effects, the rules have
    checked the block.

    The id of the message is the id of its conversation, a colon, and its seq. Storage need not keep it.
    """

    op: ClassVar[str] = "append"
    epoch: int
    message: Message
    shown: int
    effects: Effects | None = None


@dataclass(slots=True, eq=False)
class Find:
    """Find the message with this idempotency key. -> Message or None."""

    op: ClassVar[str] = "find"
    conversation_id: str
    sender: str
    id_client: str


@dataclass(slots=True, eq=False)
class Get:
    """Get the message at `seq`. -> Message or None.

    The result is None if there is no such message, or if `user` may not see it. Without `user`, it is the message.
    """

    op: ClassVar[str] = "get"
    conversation_id: str
    seq: int
    user: str | None = None


@dataclass(slots=True, eq=False)
class Between:
    """Look up which of `others` have blocked `user` or are friends of `user`, for a send to the conversation.

    -> Relations.
    """

    op: ClassVar[str] = "between"
    conversation_id: str
    user: str
    others: tuple[str, ...]


@dataclass(slots=True, eq=False)
class OpenUser:
    """Raise the user's epoch, and read the user's states. -> UserState."""

    op: ClassVar[str] = "open_user"
    user: str


@dataclass(slots=True, eq=False)
class RevokeTokens:
    """Revoke the user's tokens that were issued before this wall time, in seconds since 1970. -> Saved."""

    op: ClassVar[str] = "revoke_tokens"
    user: str
    before: float


@dataclass(slots=True, eq=False)
class SaveState:
    """Change a user's conversation state. -> StatesSaved.

    None leaves a field unchanged. `read_seq` and `hidden_seq` only move forward, and not beyond the end of the log. For
    a user who has left, the log ends with the last entry that this user may see. Hiding up to a seq also reads up to
    it.

    A change gets the next version of the user's log, in the same transaction. Without a change there is no new version.
    In a p2p conversation, the other user's state gets the new read mark and `delivered_seq` as `peer_read_seq` and
    `peer_delivered_seq`, with a version of its own. Storage does not read `asked`: it belongs to the sender of the
    request.
    """

    op: ClassVar[str] = "save_state"
    user: str
    conversation_id: str
    read_seq: int = 0
    pinned: bool | None = None
    muted: bool | None = None
    hidden_seq: int | None = None
    custom: str | None = None
    delivered_seq: int = 0
    blocked: bool | None = None
    asked: object = None

    @property
    def concerns_peer(self) -> bool:
        return self.read_seq > 0 or (self.hidden_seq or 0) > 0 or self.delivered_seq > 0

    def applied_to(self, state: ConversationState, max_seq: int) -> ConversationState:
        """Return the user's new state in a log that ends for the user at `max_seq`. Its version is the old one."""
        hidden_seq = self.hidden_seq or 0
        state = state.copy()
        state.read_seq = max(state.read_seq, min(max(self.read_seq, hidden_seq), max_seq))
        state.hidden_seq = max(state.hidden_seq, min(hidden_seq, max_seq))
        if self.pinned is not None:
            state.pinned = self.pinned
        if self.muted is not None:
            state.muted = self.muted
        if self.custom is not None:
            state.custom = self.custom
        if self.blocked is not None:
            state.blocked = self.blocked
        return state

    def shown_to_peer(self, peer: ConversationState, mine: ConversationState, max_seq: int) -> ConversationState:
        """Return the other user's new state. `peer` is the old one, and `mine` is this user's new state."""
        peer = peer.copy()
        peer.peer_read_seq = max(peer.peer_read_seq, mine.read_seq)
        peer.peer_delivered_seq = max(peer.peer_delivered_seq, mine.read_seq, min(self.delivered_seq, max_seq))
        return peer


@dataclass(slots=True, eq=False)
class CountRead:
    """Count the members who have read the message at `seq`, without its sender.

    -> ReadCount, or None if `user` cannot see such a message. Storage does not read `asked`.
    """

    op: ClassVar[str] = "count_read"
    user: str
    conversation_id: str
    seq: int
    asked: object = None


@dataclass(slots=True, eq=False)
class Missed:
    """Read one page of the messages and states that a device has missed. -> MissedPage or Ahead.

    The page has at most `limit` messages after `cursors` (0 for a conversation without one), in seq order within each
    conversation. The last page also has the user's states that changed after `version`; after 0, it has all states.
    The texts of users in both have at most `page_bytes` (see `sizes.Room`). If the states do not fit, the page has
    those that changed first.

    `inbox` is the position in the user's inbox up to which earlier pages have read. `state_version` is the version of
    the newest state that the device has. The result is Ahead if one of these values, or a cursor, is beyond the end of
    what the user may see. A conversation that is not one of the user's ends at 0, whether it exists or not. The cursors
    are checked only if `doubted`, because each check takes a read.

    If `newest` is not 0, a conversation that is not in `cursors` begins with its `newest` latest visible messages, see
    `beginning`. The page ends before the ranges of unread messages exceed UNREAD_RANGES. In the first sync, such a page
    is read from the logs also with fanout = write, and only the last page has an `inbox`.
    """

    op: ClassVar[str] = "missed"
    session: Session
    cursors: dict[str, int]
    limit: int
    version: int = 0
    inbox: int = 0
    number: int = 0  # the number of the client's request; storage does not read it
    state_version: int = 0
    doubted: bool = False
    page_bytes: int = _ANY
    newest: int = 0

    def begins(self, conversation_id: str) -> bool:
        """Return whether only the newest messages of the conversation are read."""
        return self.newest > 0 and conversation_id not in self.cursors

    @property
    def reads_logs(self) -> bool:
        """Whether the logs have to be read also with fanout = write."""
        return self.newest > 0 and self.inbox <= 0


@dataclass(slots=True, eq=False)
class Range:
    """Read the latest messages from `first` to `last`. -> RangePage, or None if the user has no such conversation.

    The page has at most `limit` messages, with at most `page_bytes` of bodies (see `sizes.Room`). Storage does not
    read `asked`.
    """

    op: ClassVar[str] = "range"
    user: str
    conversation_id: str
    first: int
    last: int
    limit: int
    asked: object = None
    page_bytes: int = _ANY


@dataclass(slots=True, eq=False)
class ReadGroup:
    """Read the state of a group, and at most `limit` members after the name `after`, in ASCII order.

    -> GroupRecord, or None if `user` is not a member now. Storage does not read `asked`.
    """

    op: ClassVar[str] = "read_group"
    user: str
    conversation_id: str
    after: str
    limit: int
    asked: object = None


@dataclass(slots=True, eq=False)
class ReadFriends:
    """Read the friends and open friend requests of the user: at most `limit`, after the name `after`, in ASCII order.

    -> FriendsRecord. Storage does not read `asked`.
    """

    op: ClassVar[str] = "read_friends"
    user: str
    after: str
    limit: int
    asked: object = None


Lookup = Find | Get | Between
Request = (
    OpenConversation
    | Append
    | Lookup
    | OpenUser
    | RevokeTokens
    | SaveState
    | CountRead
    | Missed
    | Range
    | ReadGroup
    | ReadFriends
)

#: The operations of storage that have a service time. `inbox` is one inbox row, which is written with an `append`.
STORAGE_OPS = frozenset((*(request.op for request in get_args(Request)), "inbox"))

# --- results --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class LogState:
    """Storage's record of a log.

    `notified` has the users whose system logs got the latest notes of this log, each with the seq of the note. `left`
    has the users who left in one of the latest `NOTIFIED` entries, each with the seq of that entry.
    """

    epoch: int
    max_seq: int
    members: tuple[str, ...]
    state: dict[str, Any] | None = None
    notified: tuple[tuple[str, int], ...] = ()
    left: tuple[tuple[str, int], ...] = ()


States = tuple[tuple[str, ConversationState], ...]  # (user, state)


@dataclass(slots=True)
class Appended:
    """The message is stored.

    `states` has the conversation states that changed: the sender's, and in a p2p conversation the other user's.
    `notes` are the notes with their seqs and ids. `inbox_rows` is the number of inbox rows that were written.
    """

    states: States = ()
    notes: tuple[Message, ...] = ()
    inbox_rows: int = 0


@dataclass(slots=True)
class Duplicate:
    """The idempotency key is already used. Nothing was written. `original` is the message with this key."""

    original: Message


@dataclass(slots=True)
class Blocked:
    """The recipient has blocked the sender. Nothing was written."""


@dataclass(slots=True)
class Fenced:
    """Another writer has opened the conversation since, or `seq` is not the next one. Nothing was written."""


@dataclass(slots=True)
class Relations:
    """The users of a `Between` who have blocked the user, and those who are friends, both in the order of `others`."""

    blocking: tuple[str, ...]
    friends: tuple[str, ...]


class StateRecord(NamedTuple):
    """A user's conversation state, with the values that the router needs for it."""

    state: ConversationState
    unread_seqs: list[int]  # ascending; of the unread messages since the user last became a member
    max_seq: int  # where the log ends for this user
    delivered_seq: int = 0  # the highest seq that a device of the user is known to have
    log_state: dict[str, Any] | None = None  # the state of a p2p conversation
    ended: int = 0  # seq at which the user last left; 0 if the user never left


@dataclass(slots=True)
class UserState:
    """A user's stored data.

    `states` has a record for each conversation that the user is or was a member of, ordered by id. `log` names all the
    data of this storage. Another storage has another name, and so has this one after it was emptied.
    """

    epoch: int
    states: list[StateRecord]
    revoked_before: float = 0.0
    log: str = ""


@dataclass(slots=True)
class Saved:
    """The request was carried out."""


@dataclass(slots=True)
class StatesSaved:
    """The user's current state, changed or not, and the other user's state if it may have changed.

    It is empty if the conversation is not one of the user's. Each state is complete, not a difference. So an answer may
    be lost, repeated or late: the state with the higher version is the newer one.
    """

    states: States = ()


@dataclass(slots=True)
class ReadCount:
    """The number of members who have read a message, of all its recipients."""

    read: int
    members: int


@dataclass(slots=True)
class MissedPage:
    """A page of missed messages, and on the last page the changed states.

    `version` is the version of the user's log up to which the states are complete. `more` means that messages or states
    remain. `inbox` is the position in the user's inbox up to which it was read. `reads` is the number of reads that
    the page took. `skipped` has the conversations that begin in this page, and not with their first message.
    """

    messages: list[Message]
    cursors: dict[str, int]
    more: bool
    states: tuple[ConversationState, ...] = ()
    version: int = 0
    inbox: int = 0
    reads: int = 1
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(slots=True)
class Ahead:
    """The device has more than storage has: the storage was set back, for instance to a backup."""


@dataclass(slots=True)
class RangePage:
    """A page of history, in seq order. `more` means that the range has earlier messages."""

    messages: list[Message]
    more: bool = False


@dataclass(slots=True)
class GroupRecord:
    """The state of a group after the entry at `max_seq`.

    `first` is the first of its `count` members in the order in which they joined. `members` are those of the page, in
    ASCII order. `more` means that there are others after them.
    """

    max_seq: int
    state: dict[str, Any] | None
    first: str
    count: int
    members: tuple[str, ...]
    more: bool = False


@dataclass(slots=True)
class FriendsRecord:
    """A page of a user's friends and open friend requests, in ASCII order of their names.

    `users` has for each: the name, whether the user has blocked that one, and the state of their p2p conversation.
    `more` means that there are others after them.
    """

    users: tuple[tuple[str, bool, dict[str, Any]], ...]
    more: bool = False


@dataclass(slots=True)
class Failed:
    """The request failed. It may have been carried out or not."""

    text: str


Result = (
    LogState
    | Appended
    | Duplicate
    | Blocked
    | Fenced
    | Relations
    | Message
    | UserState
    | Saved
    | StatesSaved
    | ReadCount
    | MissedPage
    | Ahead
    | RangePage
    | GroupRecord
    | FriendsRecord
    | Failed
    | None
)

#: The handler of an answer, by type of request: `answered(machine, request, result, now)`.
Answered = dict[type, Callable[[Any, Any, Result, float], None]]

# --- shared by all implementations ------------------------------------------------------------------------------------

#: The number of latest notes that a log keeps in `notified`, and of latest entries that it searches for `left`. It is
#: more than a writer has in flight at a time.
NOTIFIED = 64


_OfConversation = OpenConversation | Lookup  # built once, because building it takes longer than the test


def owner_of(request: Request) -> str:
    """Return the conversation or user that decides which storage carries out the request."""
    if isinstance(request, Append):
        return request.message.conversation_id
    if isinstance(request, _OfConversation):
        return request.conversation_id
    return request.session.user if isinstance(request, Missed) else request.user


def may_have_blocked(message: Message, members: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the conversation, and the users in it, whose states say whether the sender is blocked.

    It is the p2p conversation of the two users, also for a system message of one to the other.
    """
    sender = message.sender
    if message.scene == Scene.SYSTEM and sender != message.to:
        return p2p_id(sender, message.to), (message.to,)
    return message.conversation_id, peers(message.conversation_id, members, sender)


def peers(conversation_id: str, members: tuple[str, ...], user: str) -> tuple[str, ...]:
    """Return the other user of a p2p conversation; empty for any other conversation."""
    if not is_p2p(conversation_id):
        return ()
    return tuple([member for member in members if member != user])


def beginning(
    conversation_id: str, latest: Iterable[Message], newest: int, unread: Callable[[int], Unread]
) -> Skipped | None:
    """Return the part of a conversation that is left out if its `newest` latest visible messages are sent.

    `latest` yields the entries that the user may see, latest first. Every entry after the first message that is sent is
    sent, too. `unread(seq)` returns the unread messages up to this seq; only their latest ranges are used, which are
    hardly ever more than a few. Returns None if nothing is left out.
    """
    first = 0
    for message in latest:
        if newest == 0:
            return Skipped(conversation_id, first - 1, unread(first - 1).ranges[-UNREAD_RANGES:])
        first = message.seq
        newest -= is_visible(message)
    return None


def friends_record(
    request: ReadFriends, conversations: Iterable[tuple[str, bool, dict[str, Any] | None]]
) -> FriendsRecord:
    """Return the page of these p2p conversations of the user.

    Each is given by the name of the other user, whether the user has blocked that one, and the state of its log.
    """
    found = sorted(
        (other, blocked, state)
        for other, blocked, state in conversations
        if other > request.after and state is not None and (state.get("friends") or state.get("request"))
    )
    return FriendsRecord(tuple(found[: request.limit]), len(found) > request.limit)


def members_after(request: ReadGroup, members: Iterable[str]) -> tuple[tuple[str, ...], bool]:
    """Return the members of the page in ASCII order, and whether there are others after them."""
    found = sorted(member for member in members if member > request.after)
    return tuple(found[: request.limit]), len(found) > request.limit


def add_states(page: MissedPage, asked: Missed, states: Iterable[ConversationState], version: int, room: Room) -> None:
    """Add the changed states to the last page of messages, as far as there is room for their `custom` texts.

    `states` are those that changed after `asked.version`. `version` is the latest version of the user's log.
    """
    taken: list[ConversationState] = []
    for state in sorted(states, key=lambda state: state.version):
        if state.custom and not room.takes(utf8_bytes(state.custom)):
            page.more = True
            version = max(asked.version, taken[-1].version if taken else 0)
            break
        taken.append(state)
    page.states = tuple(sorted(taken, key=lambda state: state.conversation_id))
    page.version = version
