"""Storage as data: what a machine may ask, what the answers mean, and a reference implementation in memory.

A machine calls `port.store(request)`; its shell carries the request out when and how it likes and answers
`machine.stored(request, result, now)`. Whatever went wrong, also "no idea whether it happened", is `Failed`.

Requests of one conversation are carried out in the order in which they were asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any, ClassVar, NamedTuple, get_args

from imsim.core.model import Message, Place, Scene, Session, p2p_members

# --- requests -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class OpenConversation:
    """Become the conversation's single writer: raises its epoch, so that every earlier writer is fenced off.
    `founders` makes it, with these members, where it does not exist. -> ConversationState or None."""

    op: ClassVar[str] = "open_conversation"
    conversation_id: str
    founders: tuple[str, ...] | None = None


@dataclass(slots=True)
class Effects:
    """What an entry of the log changes. `state`: the conversation's own from now on, a JSON object (None: as before).
    Who `joined` sees the log from this entry on, who `left` sees this one as the last. `amended` takes the place of the
    entry with its seq. `notes` go to the end of the log system:<to> each, where they get their seq and id."""

    state: dict[str, Any] | None = None
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    amended: Message | None = None
    notes: tuple[Message, ...] = ()


@dataclass(slots=True)
class Append:
    """Add `message` at `message.seq`, move its sender's read mark to `shown` as `SavePlace` does, and carry out the
    `effects`: all or nothing. -> Appended, Duplicate, Fenced, or Blocked where the other user of a p2p conversation has
    blocked the sender."""

    op: ClassVar[str] = "append"
    epoch: int
    message: Message
    shown: int
    effects: Effects | None = None


@dataclass(slots=True)
class Find:
    """The message with this idempotency key. -> Message or None."""

    op: ClassVar[str] = "find"
    conversation_id: str
    sender: str
    id_client: str


@dataclass(slots=True)
class Get:
    """The message at `seq`. -> Message or None."""

    op: ClassVar[str] = "get"
    conversation_id: str
    seq: int


@dataclass(slots=True)
class OpenUser:
    """Raises the user's epoch. -> UserState."""

    op: ClassVar[str] = "open_user"
    user: str


@dataclass(slots=True)
class RevokeTokens:
    """Tokens of the user that were issued before this wall time (seconds since 1970) are void from now on. -> Saved."""

    op: ClassVar[str] = "revoke_tokens"
    user: str
    before: float


@dataclass(slots=True)
class SavePlace:
    """Change a user's place in a conversation; None leaves a field as it is. `read_seq` and `hidden_seq` move forward
    only, and not beyond the log; to hide is also to read. -> PlacesSaved.

    A change gets the next version of the user's log, with it or not at all; no change, no version. In a p2p
    conversation the other user's place learns how far was read or `delivered_seq`, and changes likewise. `asked` is the
    asker's own.
    """

    op: ClassVar[str] = "save_place"
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

    def applied_to(self, place: Place, max_seq: int) -> Place:
        """What the user's place becomes, its version aside, in a log that ends at `max_seq`."""
        hidden_seq = self.hidden_seq or 0
        return replace(
            place,
            read_seq=max(place.read_seq, min(max(self.read_seq, hidden_seq), max_seq)),
            hidden_seq=max(place.hidden_seq, min(hidden_seq, max_seq)),
            pinned=place.pinned if self.pinned is None else self.pinned,
            muted=place.muted if self.muted is None else self.muted,
            custom=place.custom if self.custom is None else self.custom,
            blocked=place.blocked if self.blocked is None else self.blocked,
        )

    def shown_to_peer(self, peer: Place, mine: Place, max_seq: int) -> Place:
        """What the other user's place becomes with it, `mine` being what this user's has become."""
        return replace(
            peer,
            peer_read_seq=max(peer.peer_read_seq, mine.read_seq),
            peer_delivered_seq=max(peer.peer_delivered_seq, mine.read_seq, min(self.delivered_seq, max_seq)),
        )


@dataclass(slots=True)
class CountRead:
    """How many members have read the message at `seq`, its sender aside? `user` must be one of them. `asked` is the
    asker's own. -> ReadCount, or None if there is no such message for this user."""

    op: ClassVar[str] = "count_read"
    user: str
    conversation_id: str
    seq: int
    asked: object = None


@dataclass(slots=True)
class Missed:
    """At most `limit` messages of the session's user's conversations after `cursors` (absent: 0), in seq order within
    each conversation; and with the last of them the user's places that changed after `version` (after 0: all places,
    changed or not). `inbox`: up to where the user's inbox was looked through before. -> MissedPage."""

    op: ClassVar[str] = "missed"
    session: Session
    cursors: dict[str, int]
    limit: int
    version: int = 0
    inbox: int = 0
    number: int = 0  # the asker's own


@dataclass(slots=True)
class Range:
    """The messages from `first` to `last`, at most `limit` of them, the latest. `asked` is the asker's own.
    -> RangePage, or None if the user has no such conversation."""

    op: ClassVar[str] = "range"
    user: str
    conversation_id: str
    first: int
    last: int
    limit: int
    asked: object = None


Request = OpenConversation | Append | Find | Get | OpenUser | RevokeTokens | SavePlace | CountRead | Missed | Range

#: Which requests are the Users machine's; the others are the Conversations machine's.
USERS_REQUESTS = (OpenUser, RevokeTokens, SavePlace, CountRead, Missed, Range)

#: What work storage may have, for service times: `inbox` is one row of an inbox, written with an `append`.
STORAGE_OPS = frozenset((*(request.op for request in get_args(Request)), "inbox"))

# --- results --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ConversationState:
    """`noted`: whose system logs the latest entries with notes wrote to, and up to which seq. `left`: who is no member
    since one of the latest `NOTED` entries, and which."""

    epoch: int
    max_seq: int
    members: tuple[str, ...]
    state: dict[str, Any] | None = None
    noted: tuple[tuple[str, int], ...] = ()
    left: tuple[tuple[str, int], ...] = ()


Places = tuple[tuple[str, Place], ...]  # (user, place)


@dataclass(slots=True)
class Appended:
    """`places` are those that changed: the sender's, and with it the other user's, in their new state. `notes`, as
    they stand in their logs. `inbox_rows`: how many were written."""

    places: Places = ()
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


class PlaceState(NamedTuple):
    """A user's place with what else is to be known of it: the seqs beyond the read mark that count, ascending, where
    the log ends, how far some device of the user is known to have got, and the conversation's state if it is p2p."""

    place: Place
    unread_seqs: list[int]
    max_seq: int
    delivered_seq: int = 0
    state: dict[str, Any] | None = None


@dataclass(slots=True)
class UserState:
    """`places` has all conversations of the user."""

    epoch: int
    places: list[PlaceState]
    revoked_before: float = 0.0


@dataclass(slots=True)
class Saved:
    pass


@dataclass(slots=True)
class PlacesSaved:
    """The user's place as it stands now, changed or not, and the other user's where it may have changed; nothing for
    who is no member. The whole state, so that answers may be lost, repeated or late: the higher version is the newer
    one."""

    places: Places = ()


@dataclass(slots=True)
class ReadCount:
    read: int
    members: int


@dataclass(slots=True)
class MissedPage:
    """`places` and `version`, where the user's log stands, belong to the last page. `inbox`: up to where the user's
    inbox was looked through. `reads`: how many places storage had to look at for it."""

    messages: list[Message]
    cursors: dict[str, int]
    more: bool
    places: tuple[Place, ...] = ()
    version: int = 0
    inbox: int = 0
    reads: int = 1


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
    ConversationState
    | Appended
    | Duplicate
    | Blocked
    | Fenced
    | Message
    | UserState
    | Saved
    | PlacesSaved
    | ReadCount
    | MissedPage
    | RangePage
    | Failed
    | None
)

# --- the meaning ----------------------------------------------------------------------------------------------------


#: How many of the latest notes a conversation remembers, and how far back it tells who left: more than its writer has
#: under way at a time.
NOTED = 64


class _Log:
    __slots__ = ("by_key", "delivered", "epoch", "id", "members", "messages", "noted", "places", "state", "stays")

    def __init__(self, id: str, members: tuple[str, ...]) -> None:
        self.id = id
        self.epoch = 0
        self.members = members
        self.state: dict[str, Any] | None = None
        self.noted: tuple[tuple[str, int], ...] = ()
        #: By user, first and last seq of each time as a member; the last one is 0 for who still is.
        self.stays: dict[str, list[list[int]]] = {member: [[1, 0]] for member in members}
        self.messages: list[Message] = []
        self.by_key: dict[tuple[str, str], Message] = {}
        self.places: dict[str, Place] = {}  # by user; only those that ever changed
        self.delivered: dict[str, int] = {}  # by user, p2p: how far some device of the user is known to have got

    def place(self, user: str) -> Place:
        return self.places.get(user) or Place(self.id, 0, 0, 0)

    def seen_by(self, user: str, after: int = 0) -> Iterator[Message]:
        """What the user may see, beyond this seq."""
        for first, last in self.stays.get(user, ()):
            yield from self.messages[max(first - 1, after) : last or None]

    def end_for(self, user: str) -> int:
        """Where the log ends for this user."""
        stays = self.stays.get(user)
        return (stays[-1][1] or len(self.messages)) if stays else 0

    def left_lately(self) -> tuple[tuple[str, int], ...]:
        ends = ((user, stays[-1][1]) for user, stays in self.stays.items())
        return tuple((user, end) for user, end in ends if end > len(self.messages) - NOTED and end)


class MemoryStorage:
    """What the requests mean, in the fewest words: the simulation's storage and the yardstick for every other.

    `fanout`: "read": a message is one row, and a login looks into each of the user's conversations; "write": each
    message puts a row into the inbox of each member as well, and a login reads through the user's own inbox, from
    where it stopped the last time. What users see is the same.
    """

    def __init__(self, fanout: str = "read") -> None:
        self._inboxes: dict[str, list[Message]] | None = {} if fanout == "write" else None
        self._logs: dict[str, _Log] = {}
        self._conversations_of: dict[str, list[str]] = {}
        self._user_epochs: dict[str, int] = {}
        self._revoked_before: dict[str, float] = {}
        self._versions: dict[str, int] = {}  # of each user's log

    def execute(self, request: Request) -> Result:
        # One chain of type tests, the most frequent first: in a simulation this runs once for each message.
        if type(request) is Append:
            return self._append(request)
        if type(request) is SavePlace:
            return self._save_place(request)
        if type(request) is OpenConversation:
            return self._open_conversation(request)
        if type(request) is OpenUser:
            return self._open_user(request)
        if type(request) is RevokeTokens:
            return self._revoke_tokens(request)
        if type(request) is Missed:
            return self._missed(request)
        if type(request) is Range:
            return self._range(request)
        if type(request) is CountRead:
            return self._count_read(request)
        if type(request) is Get:
            return self._get(request)
        assert isinstance(request, Find)
        return self._find(request)

    def _open_conversation(self, request: OpenConversation) -> ConversationState | None:
        log = self._logs.get(request.conversation_id)
        if log is None:
            if request.founders is None:
                return None
            log = self._make(request.conversation_id, request.founders)
        log.epoch += 1
        return ConversationState(log.epoch, len(log.messages), log.members, log.state, log.noted, log.left_lately())

    def _make(self, id: str, members: tuple[str, ...]) -> _Log:
        log = self._logs[id] = _Log(id, members)
        for user in members:
            self._conversations_of.setdefault(user, []).append(id)
        return log

    def _append(self, request: Append) -> Appended | Duplicate | Blocked | Fenced:
        message = request.message
        log = self._logs.get(message.conversation_id)
        if log is None or request.epoch != log.epoch:
            return Fenced()
        key = (message.sender, message.id_client)
        original = log.by_key.get(key)
        if original is not None:
            return Duplicate(original)
        if message.seq != len(log.messages) + 1:
            return Fenced()
        if any(log.place(peer).blocked for peer in peers(log.id, log.members, message.sender)):
            return Blocked()
        appended = Appended()
        if request.effects is not None:
            self._change_log(log, message.seq, request.effects)
        self._add(log, message, appended)
        if request.effects is not None:
            log.members = tuple(member for member in log.members if member not in request.effects.left)
            appended.notes = tuple(self._note(note, appended) for note in request.effects.notes)
            log.noted = (*log.noted, *((note.to, note.seq) for note in appended.notes))[-NOTED:]
        if request.shown > log.place(message.sender).read_seq and message.sender in log.stays:
            appended.places = self._change(log, SavePlace(message.sender, log.id, request.shown))
        return appended

    def _add(self, log: _Log, message: Message, appended: Appended) -> None:
        log.messages.append(message)
        log.by_key[message.sender, message.id_client] = message
        if self._inboxes is not None:
            appended.inbox_rows += len(log.members)
            for member in log.members:
                self._inboxes.setdefault(member, []).append(message)

    def _change_log(self, log: _Log, seq: int, effects: Effects) -> None:
        if effects.state is not None:
            log.state = effects.state
        for user in effects.joined:
            if user not in log.stays:
                self._conversations_of.setdefault(user, []).append(log.id)
            log.stays.setdefault(user, []).append([seq, 0])
        for user in effects.left:
            log.stays[user][-1][1] = seq
        log.members += effects.joined
        if (amended := effects.amended) is not None:
            log.messages[amended.seq - 1] = log.by_key[amended.sender, amended.id_client] = amended

    def _note(self, note: Message, appended: Appended) -> Message:
        log = self._logs.get(note.conversation_id) or self._make(note.conversation_id, (note.to,))
        seq = len(log.messages) + 1
        note = replace(note, seq=seq, id=f"{log.id}:{seq}")
        self._add(log, note, appended)
        return note

    def _find(self, request: Find) -> Message | None:
        log = self._logs.get(request.conversation_id)
        return log.by_key.get((request.sender, request.id_client)) if log else None

    def _get(self, request: Get) -> Message | None:
        log = self._logs.get(request.conversation_id)
        return log.messages[request.seq - 1] if log and 1 <= request.seq <= len(log.messages) else None

    def _open_user(self, request: OpenUser) -> UserState:
        epoch = self._user_epochs[request.user] = self._user_epochs.get(request.user, 0) + 1
        places = []
        for conversation in self._conversations_of.get(request.user, ()):
            log = self._logs[conversation]
            place = log.place(request.user)
            seen = log.seen_by(request.user, place.read_seq)
            unread = [m.seq for m in seen if m.countable and m.sender != request.user]
            delivered = log.delivered.get(request.user, 0)
            state = log.state if log.id.startswith(f"{Scene.P2P}:") else None
            places.append(PlaceState(place, unread, log.end_for(request.user), delivered, state))
        return UserState(epoch, places, self._revoked_before.get(request.user, 0.0))

    def _revoke_tokens(self, request: RevokeTokens) -> Saved:
        self._revoked_before[request.user] = max(request.before, self._revoked_before.get(request.user, 0.0))
        return Saved()

    def _save_place(self, request: SavePlace) -> PlacesSaved:
        log, user, id = self._logs.get(request.conversation_id), request.user, request.conversation_id
        if log is None and request.blocked is not None and user in (members := p2p_members(id) or ()):
            log = self._make(id, members)  # one may block whom one has never heard of
        if log is None or user not in log.stays:
            return PlacesSaved()
        self._change(log, request)
        others = peers(log.id, log.members, user) if request.concerns_peer else ()
        return PlacesSaved(tuple((one, log.place(one)) for one in (user, *others)))

    def _change(self, log: _Log, change: SavePlace) -> Places:
        """Returns the places that are other than before."""
        user, max_seq = change.user, len(log.messages)
        old = log.place(user)
        new = change.applied_to(old, max_seq)
        changed = [(user, new)] if new != old else []
        if change.concerns_peer:
            for peer in peers(log.id, log.members, user):
                before = log.place(peer)
                after = change.shown_to_peer(before, new, max_seq)
                if after != before:
                    log.delivered[user] = after.peer_delivered_seq
                    changed.append((peer, after))
        for one, place in changed:
            place.version = self._versions[one] = self._versions.get(one, 0) + 1
            log.places[one] = place
        return tuple(changed)

    def _count_read(self, request: CountRead) -> ReadCount | None:
        log = self._logs.get(request.conversation_id)
        if log is None or not any(message.seq == request.seq for message in log.seen_by(request.user)):
            return None
        sender = log.messages[request.seq - 1].sender
        others = [
            user
            for user, stays in log.stays.items()
            if user != sender and any(first <= request.seq <= (last or request.seq) for first, last in stays)
        ]
        return ReadCount(sum(log.place(member).read_seq >= request.seq for member in others), len(others))

    def _missed(self, request: Missed) -> MissedPage:
        page = self._missed_in_logs(request) if self._inboxes is None else self._missed_in_inbox(request)
        if not page.more:
            user = request.session.user
            places = (self._logs[conversation].place(user) for conversation in self._sorted_conversations(user))
            page.places = tuple(place for place in places if place.version > request.version or not request.version)
            page.version = self._versions.get(user, 0)
        return page

    def _sorted_conversations(self, user: str) -> list[str]:
        return sorted(self._conversations_of.get(user, ()))

    def _missed_in_logs(self, request: Missed) -> MissedPage:
        page = MissedPage([], {}, more=False, reads=0)
        for conversation in self._sorted_conversations(request.session.user):
            log, user = self._logs[conversation], request.session.user
            cursor = max(0, request.cursors.get(conversation, 0))
            room = request.limit - len(page.messages)
            found = list(islice(log.seen_by(user, cursor), room + 1))
            page.messages += found[:room]
            page.reads += 1
            if len(found) > room:
                page.more = True
                page.cursors[conversation] = found[room - 1].seq if room else cursor
                break
            page.cursors[conversation] = max(cursor, log.end_for(user))
        return page

    def _missed_in_inbox(self, request: Missed) -> MissedPage:
        assert self._inboxes is not None
        inbox = self._inboxes.get(request.session.user, [])
        page = MissedPage([], {}, more=False, inbox=min(max(0, request.inbox), len(inbox)))
        for row in islice(inbox, page.inbox, None):
            conversation = row.conversation_id
            message = self._logs[conversation].messages[row.seq - 1]  # as it is by now
            if message.seq > request.cursors.get(conversation, 0):  # else the device got it by a push
                if len(page.messages) == request.limit:
                    page.more = True
                    break
                page.messages.append(message)
            page.inbox += 1
            page.cursors[conversation] = max(message.seq, request.cursors.get(conversation, 0))
        return page

    def _range(self, request: Range) -> RangePage | None:
        log = self._logs.get(request.conversation_id)
        if log is None or request.user not in log.stays:
            return None
        seen = log.seen_by(request.user, max(0, request.first - 1))
        found = list(takewhile(lambda message: message.seq <= request.last, seen))
        return RangePage(found[-request.limit :], more=len(found) > request.limit)


def peers(conversation_id: str, members: tuple[str, ...], user: str) -> tuple[str, ...]:
    """The other user of a p2p conversation; nobody in any other."""
    if not conversation_id.startswith(f"{Scene.P2P}:"):
        return ()
    return tuple(member for member in members if member != user)
