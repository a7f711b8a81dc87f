"""Storage as data: what a machine may ask, what the answers mean, and a reference implementation in memory.

A machine calls `port.store(request)`; its shell carries the request out when and how it likes and answers
`machine.stored(request, result, now)`. Whatever went wrong, also "no idea whether it happened", is `Failed`.

Requests of one conversation are carried out in the order in which they were asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, get_args

from imsim.core.model import Message, Place, Scene, Session

# --- requests -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class OpenConversation:
    """Become the conversation's single writer: raises its epoch, so that every earlier writer is fenced off.
    `founders` makes it, with these members, where it does not exist. -> ConversationState or None."""

    op: ClassVar[str] = "open_conversation"
    conversation_id: str
    founders: tuple[str, ...] | None = None


@dataclass(slots=True)
class Append:
    """Add `message` at `message.seq`, and move its sender's read mark to `shown` as `SavePlace` does, both or neither.
    -> Appended, Duplicate or Fenced."""

    op: ClassVar[str] = "append"
    epoch: int
    message: Message
    shown: int


@dataclass(slots=True)
class Find:
    """The message with this idempotency key. -> Message or None."""

    op: ClassVar[str] = "find"
    conversation_id: str
    sender: str
    id_client: str


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
    conversation the other user's place learns how far was read, and changes likewise. `asked` is the asker's own.
    """

    op: ClassVar[str] = "save_place"
    user: str
    conversation_id: str
    read_seq: int = 0
    pinned: bool | None = None
    muted: bool | None = None
    hidden_seq: int | None = None
    custom: str | None = None
    asked: object = None

    @property
    def reads(self) -> bool:
        return self.read_seq > 0 or (self.hidden_seq or 0) > 0

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
    """At most `limit` messages of the session's user's conversations after `cursors` (absent: 0), conversation by
    conversation, in seq order; and with the last of them the user's places that changed after `version` (after 0: all
    places, changed or not). -> MissedPage."""

    op: ClassVar[str] = "missed"
    session: Session
    cursors: dict[str, int]
    limit: int
    version: int = 0


Request = OpenConversation | Append | Find | OpenUser | RevokeTokens | SavePlace | CountRead | Missed

#: Which requests are the Users machine's; the others are the Conversations machine's.
USERS_REQUESTS = (OpenUser, RevokeTokens, SavePlace, CountRead, Missed)

STORAGE_OPS = frozenset(request.op for request in get_args(Request))

# --- results --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ConversationState:
    epoch: int
    max_seq: int
    members: tuple[str, ...]


Places = tuple[tuple[str, Place], ...]  # (user, place)


@dataclass(slots=True)
class Appended:
    """`places` are those that changed: the sender's, and with it the other user's, in their new state."""

    places: Places = ()


@dataclass(slots=True)
class Duplicate:
    """The idempotency key is taken: nothing was written; this is what stands under it."""

    original: Message


@dataclass(slots=True)
class Fenced:
    """Another writer opened the conversation since, or `seq` is not the next one: nothing was written."""


@dataclass(slots=True)
class UserState:
    """`places` has all conversations of the user, each with the seqs beyond the read mark that count, ascending."""

    epoch: int
    places: list[tuple[Place, list[int]]]
    revoked_before: float = 0.0


@dataclass(slots=True)
class Saved:
    pass


@dataclass(slots=True)
class PlacesSaved:
    """The user's place as it stands now, changed or not, and if it was read the other user's; nothing for who is no
    member. The whole state, so that answers may be lost, repeated or late: the higher version is the newer one."""

    places: Places = ()


@dataclass(slots=True)
class ReadCount:
    read: int
    members: int


@dataclass(slots=True)
class MissedPage:
    """`places` and `version`, where the user's log stands, belong to the last page."""

    messages: list[Message]
    cursors: dict[str, int]
    more: bool
    places: tuple[Place, ...] = ()
    version: int = 0


@dataclass(slots=True)
class Failed:
    """It may have happened or not."""

    text: str


Result = (
    ConversationState
    | Appended
    | Duplicate
    | Fenced
    | Message
    | UserState
    | Saved
    | PlacesSaved
    | ReadCount
    | MissedPage
    | Failed
    | None
)

# --- the meaning ----------------------------------------------------------------------------------------------------


class _Log:
    __slots__ = ("by_key", "epoch", "id", "members", "messages", "places")

    def __init__(self, id: str, members: tuple[str, ...]) -> None:
        self.id = id
        self.epoch = 0
        self.members = members
        self.messages: list[Message] = []
        self.by_key: dict[tuple[str, str], Message] = {}
        self.places: dict[str, Place] = {}  # by user; only those that ever changed

    def place(self, user: str) -> Place:
        return self.places.get(user) or Place(self.id, 0, 0, 0)


class MemoryStorage:
    """What the requests mean, in the fewest words: the simulation's storage and the yardstick for every other."""

    def __init__(self) -> None:
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
        if type(request) is CountRead:
            return self._count_read(request)
        assert isinstance(request, Find)
        return self._find(request)

    def _open_conversation(self, request: OpenConversation) -> ConversationState | None:
        log = self._logs.get(request.conversation_id)
        if log is None:
            if request.founders is None:
                return None
            log = self._logs[request.conversation_id] = _Log(request.conversation_id, request.founders)
            for user in request.founders:
                self._conversations_of.setdefault(user, []).append(request.conversation_id)
        log.epoch += 1
        return ConversationState(log.epoch, len(log.messages), log.members)

    def _append(self, request: Append) -> Appended | Duplicate | Fenced:
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
        log.messages.append(message)
        log.by_key[key] = message
        if request.shown > log.place(message.sender).read_seq and message.sender in log.members:
            return Appended(self._change(log, SavePlace(message.sender, log.id, request.shown)))
        return Appended()

    def _find(self, request: Find) -> Message | None:
        log = self._logs.get(request.conversation_id)
        return log.by_key.get((request.sender, request.id_client)) if log else None

    def _open_user(self, request: OpenUser) -> UserState:
        epoch = self._user_epochs[request.user] = self._user_epochs.get(request.user, 0) + 1
        places = []
        for conversation in self._conversations_of.get(request.user, ()):
            log = self._logs[conversation]
            place = log.place(request.user)
            unread = [m.seq for m in log.messages[place.read_seq :] if m.countable and m.sender != request.user]
            places.append((place, unread))
        return UserState(epoch, places, self._revoked_before.get(request.user, 0.0))

    def _revoke_tokens(self, request: RevokeTokens) -> Saved:
        self._revoked_before[request.user] = max(request.before, self._revoked_before.get(request.user, 0.0))
        return Saved()

    def _save_place(self, request: SavePlace) -> PlacesSaved:
        log, user = self._logs.get(request.conversation_id), request.user
        if log is None or user not in log.members:
            return PlacesSaved()
        self._change(log, request)
        others = peers(log.id, log.members, user) if request.reads else ()
        return PlacesSaved(tuple((one, log.place(one)) for one in (user, *others)))

    def _change(self, log: _Log, change: SavePlace) -> Places:
        """Returns the places that are other than before."""
        user = change.user
        old = log.place(user)
        new = change.applied_to(old, len(log.messages))
        if new == old:
            return ()
        changed = [(user, new)]
        if new.read_seq > old.read_seq:
            for peer in peers(log.id, log.members, user):
                changed.append((peer, replace(log.place(peer), peer_read_seq=new.read_seq)))
        for one, place in changed:
            place.version = self._versions[one] = self._versions.get(one, 0) + 1
            log.places[one] = place
        return tuple(changed)

    def _count_read(self, request: CountRead) -> ReadCount | None:
        log = self._logs.get(request.conversation_id)
        if log is None or request.user not in log.members or not 1 <= request.seq <= len(log.messages):
            return None
        sender = log.messages[request.seq - 1].sender
        others = [member for member in log.members if member != sender]
        return ReadCount(sum(log.place(member).read_seq >= request.seq for member in others), len(others))

    def _missed(self, request: Missed) -> MissedPage:
        messages: list[Message] = []
        cursors: dict[str, int] = {}
        user = request.session.user
        conversations = sorted(self._conversations_of.get(user, ()))
        for conversation in conversations:
            log = self._logs[conversation].messages
            cursor = max(0, request.cursors.get(conversation, 0))
            found = log[cursor : cursor + request.limit - len(messages)]
            messages += found
            cursors[conversation] = cursor = max(cursor, found[-1].seq if found else 0)
            if cursor < len(log):
                return MissedPage(messages, cursors, more=True)
        places = (self._logs[conversation].place(user) for conversation in conversations)
        changed = tuple(place for place in places if place.version > request.version or not request.version)
        return MissedPage(messages, cursors, False, changed, self._versions.get(user, 0))


def peers(conversation_id: str, members: tuple[str, ...], user: str) -> tuple[str, ...]:
    """The other user of a p2p conversation; nobody in any other."""
    if not conversation_id.startswith(f"{Scene.P2P}:"):
        return ()
    return tuple(member for member in members if member != user)
