"""Storage as data: what a machine may ask, and what the answers mean. `memory` says the same as code.

A machine calls `port.store(request)`; its shell carries the request out when and how it likes and answers
`machine.stored(request, result, now)`, with the very object: each request is asked once, and equal to itself alone.
Whatever went wrong, also "no idea whether it happened", is `Failed`.

Requests of one conversation are carried out in the order in which they were asked. What was asked by a machine that
has died since is carried out within policies.storage_timeout, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, get_args

from imsim.core.model import ConversationState, Message, Scene, Session, is_p2p, p2p_id
from imsim.core.sizes import Room, utf8_bytes

_ANY = 1 << 62  # bytes: no bound

# --- requests -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class OpenConversation:
    """Become the conversation's single writer: raises its epoch, so that every earlier writer is fenced off.
    `founders` makes it, with these members, where it does not exist. -> LogState or None."""

    op: ClassVar[str] = "open_conversation"
    conversation_id: str
    founders: tuple[str, ...] | None = None


@dataclass(slots=True)
class Effects:
    """What an entry of the log changes. `state`: the conversation's own from now on, a JSON object (None: as before).
    Who `joined` sees the log from this entry on, who `left` sees this one as the last. Who joins again sees of the
    entries since, from now on, those that have recalled or edited what was seen before (see `changes.concerning`).
    `amended` takes the place of the entry with its seq; if it is recalled, so are the entries that have edited it (see
    `changes.edits`). An edit is not for those who have left: they see the entry as it was when they did. `notes` go
    to the end of the log system:<to> each, where they get their seq and id; one whose idempotency key is taken there
    (no user's send can have it, see `gateway.validation`) is left out."""

    state: dict[str, Any] | None = None
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    amended: Message | None = None
    notes: tuple[Message, ...] = ()


@dataclass(slots=True, eq=False)
class Append:
    """Add `message` at `message.seq`, move its sender's read mark to `shown` as `SaveState` does, and carry out the
    `effects`: all or nothing. -> Appended, Duplicate, Fenced, or Blocked where the other user of a p2p conversation, or
    of a system message, has blocked the sender and it has no effects: of those that have, the rules decide."""

    op: ClassVar[str] = "append"
    epoch: int
    message: Message
    shown: int
    effects: Effects | None = None


@dataclass(slots=True, eq=False)
class Find:
    """The message with this idempotency key. -> Message or None."""

    op: ClassVar[str] = "find"
    conversation_id: str
    sender: str
    id_client: str


@dataclass(slots=True, eq=False)
class Get:
    """The message at `seq`. -> Message or None."""

    op: ClassVar[str] = "get"
    conversation_id: str
    seq: int


@dataclass(slots=True, eq=False)
class Between:
    """How `others` stand to `user`, for the sake of something in that conversation. -> Relations."""

    op: ClassVar[str] = "between"
    conversation_id: str
    user: str
    others: tuple[str, ...]


@dataclass(slots=True, eq=False)
class OpenUser:
    """Raises the user's epoch. -> UserState."""

    op: ClassVar[str] = "open_user"
    user: str


@dataclass(slots=True, eq=False)
class RevokeTokens:
    """Tokens of the user that were issued before this wall time (seconds since 1970) are void from now on. -> Saved."""

    op: ClassVar[str] = "revoke_tokens"
    user: str
    before: float


@dataclass(slots=True, eq=False)
class SaveState:
    """Change a user's conversation state; None leaves a field as it is. `read_seq` and `hidden_seq` move forward
    only, and not beyond the log; to hide is also to read. -> StatesSaved.

    A change gets the next version of the user's log, with it or not at all; no change, no version. In a p2p
    conversation the other user's state learns how far was read or `delivered_seq`, and changes likewise. `asked` is the
    asker's own.
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
        """What the user's state becomes, its version aside, in a log that ends at `max_seq`."""
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
        """What the other user's state becomes with it, `mine` being what this user's has become."""
        peer = peer.copy()
        peer.peer_read_seq = max(peer.peer_read_seq, mine.read_seq)
        peer.peer_delivered_seq = max(peer.peer_delivered_seq, mine.read_seq, min(self.delivered_seq, max_seq))
        return peer


@dataclass(slots=True, eq=False)
class CountRead:
    """How many members have read the message at `seq`, its sender aside? `user` must be one of them. `asked` is the
    asker's own. -> ReadCount, or None if there is no such message for this user."""

    op: ClassVar[str] = "count_read"
    user: str
    conversation_id: str
    seq: int
    asked: object = None


@dataclass(slots=True, eq=False)
class Missed:
    """At most `limit` messages of the session's user's conversations after `cursors` (absent: 0), in seq order within
    each conversation; and with the last of them the user's states that changed after `version` (after 0: all states,
    changed or not). What users wrote in both has at most `page_bytes` (see `sizes.Room`); where the states do not fit,
    they come in the order of their changes. `inbox`: up to where the user's inbox was looked through before;
    `state_version`: that of the newest state that is known. -> MissedPage, or Ahead where one of these is beyond what
    there is: of the cursors this is looked up only if `doubted`, as it takes a read for each."""

    op: ClassVar[str] = "missed"
    session: Session
    cursors: dict[str, int]
    limit: int
    version: int = 0
    inbox: int = 0
    number: int = 0  # the asker's own
    state_version: int = 0
    doubted: bool = False
    page_bytes: int = _ANY


@dataclass(slots=True, eq=False)
class Range:
    """The messages from `first` to `last`, at most `limit` of them with at most `page_bytes` of bodies (see
    `sizes.Room`), the latest. `asked` is the asker's own. -> RangePage, or None if the user has no such
    conversation."""

    op: ClassVar[str] = "range"
    user: str
    conversation_id: str
    first: int
    last: int
    limit: int
    asked: object = None
    page_bytes: int = _ANY


Lookup = Find | Get | Between
Request = OpenConversation | Append | Lookup | OpenUser | RevokeTokens | SaveState | CountRead | Missed | Range

#: What work storage may have, for service times: `inbox` is one row of an inbox, written with an `append`.
STORAGE_OPS = frozenset((*(request.op for request in get_args(Request)), "inbox"))

# --- results --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class LogState:
    """Storage's record of a log. `notified`: the users to whose system logs the latest entries with notes
    wrote, and up to which seq. `left`: the users who ceased to be members in one of the latest `NOTIFIED` entries,
    and in which."""

    epoch: int
    max_seq: int
    members: tuple[str, ...]
    state: dict[str, Any] | None = None
    notified: tuple[tuple[str, int], ...] = ()
    left: tuple[tuple[str, int], ...] = ()


States = tuple[tuple[str, ConversationState], ...]  # (user, state)


@dataclass(slots=True)
class Appended:
    """`states` are those that changed: the sender's, and with it the other user's, in their new state. `notes`, as
    they stand in their logs. `inbox_rows`: how many were written."""

    states: States = ()
    notes: tuple[Message, ...] = ()
    inbox_rows: int = 0


@dataclass(slots=True)
class Duplicate:
    """The idempotency key is taken: nothing was written; this is what stands under it."""

    original: Message


@dataclass(slots=True)
class Blocked:
    """Nothing was written."""


@dataclass(slots=True)
class Fenced:
    """Another writer opened the conversation since, or `seq` is not the next one: nothing was written."""


@dataclass(slots=True)
class Relations:
    """Which of those who were asked about have blocked the user, and which are friends, in the order asked."""

    blocking: tuple[str, ...]
    friends: tuple[str, ...]


class StateRecord(NamedTuple):
    """A user's conversation state, and what belongs to it: the seqs beyond the read mark that count, ascending, which
    are those since the user became a member; where the log ends, how far some device of the user is known to have got,
    and the conversation's state if it is p2p; and where the time before the user became a member ended."""

    state: ConversationState
    unread_seqs: list[int]
    max_seq: int
    delivered_seq: int = 0
    log_state: dict[str, Any] | None = None
    ended: int = 0


@dataclass(slots=True)
class UserState:
    """`states` has all conversations that the user is or was a member of, by id. `log` names what is stored here, all
    of it: another storage, or this one after it was emptied, has another."""

    epoch: int
    states: list[StateRecord]
    revoked_before: float = 0.0
    log: str = ""


@dataclass(slots=True)
class Saved:
    pass


@dataclass(slots=True)
class StatesSaved:
    """The user's state as it is now, changed or not, and the other user's where it may have changed; nothing for
    who is no member. The whole state, so that answers may be lost, repeated or late: the higher version is the newer
    one."""

    states: States = ()


@dataclass(slots=True)
class ReadCount:
    read: int
    members: int


@dataclass(slots=True)
class MissedPage:
    """`states` come with the last of the messages, and `version`, up to where the user's log of them has been brought.
    `more`: of messages or of states. `inbox`: up to where the user's inbox was looked through. `reads`: how many places
    storage had to look at for it."""

    messages: list[Message]
    cursors: dict[str, int]
    more: bool
    states: tuple[ConversationState, ...] = ()
    version: int = 0
    inbox: int = 0
    reads: int = 1


@dataclass(slots=True)
class Ahead:
    """Whoever asks knows of more than there is: this storage was set back, to a backup for instance."""


@dataclass(slots=True)
class RangePage:
    """In seq order. `more`: before them there are others in the range."""

    messages: list[Message]
    more: bool = False


@dataclass(slots=True)
class Failed:
    """It may have happened or not."""

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
    | Failed
    | None
)

#: By the type of a request, what its answer leads to: `answered(machine, request, result, now)`.
Answered = dict[type, Callable[[Any, Any, Result, float], None]]

# --- what every implementation shares ---------------------------------------------------------------------------------

#: How many of the latest notes a conversation remembers, and for how many entries it knows who left: more than its
#: writer has under way at a time.
NOTIFIED = 64


_OfConversation = OpenConversation | Lookup  # made once: to make it takes longer than to ask for it


def owner_of(request: Request) -> str:
    """The conversation or user whose storage carries out the request, where there are several."""
    if isinstance(request, Append):
        return request.message.conversation_id
    if isinstance(request, _OfConversation):
        return request.conversation_id
    return request.session.user if isinstance(request, Missed) else request.user


def may_have_blocked(message: Message, members: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The user and the conversation whose state says whether the sender of this is blocked: that of the two, also
    for what one of them sends into the other's system log."""
    sender = message.sender
    if message.scene == Scene.SYSTEM and sender != message.to:
        return p2p_id(sender, message.to), (message.to,)
    return message.conversation_id, peers(message.conversation_id, members, sender)


def peers(conversation_id: str, members: tuple[str, ...], user: str) -> tuple[str, ...]:
    """The other user of a p2p conversation; nobody in any other."""
    if not is_p2p(conversation_id):
        return ()
    return tuple([member for member in members if member != user])


def add_states(page: MissedPage, asked: Missed, states: Iterable[ConversationState], version: int, room: Room) -> None:
    """With the last of the messages: `states` that changed after what was asked for, as far as there is room for what
    the user wrote in them; `version` is where the user's log stands."""
    taken: list[ConversationState] = []
    for state in sorted(states, key=lambda state: state.version):
        if state.custom and not room.takes(utf8_bytes(state.custom)):
            page.more = True
            version = max(asked.version, taken[-1].version if taken else 0)
            break
        taken.append(state)
    page.states = tuple(sorted(taken, key=lambda state: state.conversation_id))
    page.version = version
