"""Storage as data: what a machine may ask, what the answers mean, and a reference implementation in memory.

A machine calls `port.store(request)`; its shell carries the request out when and how it likes and answers
`machine.stored(request, result, now)`. Whatever went wrong, also "no idea whether it happened", is `Failed`.

Requests of one conversation are carried out in the order in which they were asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from imsim.core.model import Message, Session

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
    """Add `message` at `message.seq`, and move its sender's read mark to `shown`, both or neither.
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
class SaveMark:
    """Move a read mark forward (never back). -> Saved."""

    op: ClassVar[str] = "save_mark"
    user: str
    conversation_id: str
    read_seq: int


@dataclass(slots=True)
class Missed:
    """At most `limit` messages of the session's user's conversations after `cursors` (absent: 0), conversation by
    conversation, in seq order. -> MissedPage."""

    op: ClassVar[str] = "missed"
    session: Session
    cursors: dict[str, int]
    limit: int


Request = OpenConversation | Append | Find | OpenUser | RevokeTokens | SaveMark | Missed

#: Which requests are the Users machine's; the others are the Conversations machine's.
USERS_REQUESTS = (OpenUser, RevokeTokens, SaveMark, Missed)

STORAGE_OPS = frozenset(request.op for request in get_args(Request))

# --- results --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ConversationState:
    epoch: int
    max_seq: int
    members: tuple[str, ...]


@dataclass(slots=True)
class Appended:
    pass


@dataclass(slots=True)
class Duplicate:
    """The idempotency key is taken: nothing was written; this is what stands under it."""

    original: Message


@dataclass(slots=True)
class Fenced:
    """Another writer opened the conversation since, or `seq` is not the next one: nothing was written."""


@dataclass(slots=True)
class StoredMark:
    """A user's place in one conversation: `unread_seqs` are those beyond `read_seq` that count, ascending."""

    conversation_id: str
    read_seq: int
    max_seq: int
    unread_seqs: list[int]


@dataclass(slots=True)
class UserState:
    epoch: int
    marks: list[StoredMark]
    revoked_before: float = 0.0


@dataclass(slots=True)
class Saved:
    pass


@dataclass(slots=True)
class MissedPage:
    messages: list[Message]
    cursors: dict[str, int]
    more: bool


@dataclass(slots=True)
class Failed:
    """It may have happened or not."""

    text: str


Result = ConversationState | Appended | Duplicate | Fenced | Message | UserState | Saved | MissedPage | Failed | None

# --- the meaning ----------------------------------------------------------------------------------------------------


class _Log:
    __slots__ = ("by_key", "epoch", "marks", "members", "messages")

    def __init__(self, members: tuple[str, ...]) -> None:
        self.epoch = 0
        self.members = members
        self.messages: list[Message] = []
        self.by_key: dict[tuple[str, str], Message] = {}
        self.marks: dict[str, int] = {}


class MemoryStorage:
    """What the requests mean, in the fewest words: the simulation's storage and the yardstick for every other."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}
        self._conversations_of: dict[str, list[str]] = {}
        self._user_epochs: dict[str, int] = {}
        self._revoked_before: dict[str, float] = {}

    def execute(self, request: Request) -> Result:
        # One chain of type tests, the most frequent first: in a simulation this runs once for each message.
        kind = type(request)
        if kind is Append:
            return self._append(request)  # type: ignore[arg-type]
        if kind is SaveMark:
            return self._save_mark(request)  # type: ignore[arg-type]
        if kind is OpenConversation:
            return self._open_conversation(request)  # type: ignore[arg-type]
        if kind is OpenUser:
            return self._open_user(request)  # type: ignore[arg-type]
        if kind is RevokeTokens:
            return self._revoke_tokens(request)  # type: ignore[arg-type]
        if kind is Missed:
            return self._missed(request)  # type: ignore[arg-type]
        return self._find(request)  # type: ignore[arg-type]

    def _open_conversation(self, request: OpenConversation) -> ConversationState | None:
        log = self._logs.get(request.conversation_id)
        if log is None:
            if request.founders is None:
                return None
            log = self._logs[request.conversation_id] = _Log(request.founders)
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
        if request.shown > log.marks.get(message.sender, 0):
            log.marks[message.sender] = min(request.shown, message.seq)
        return Appended()

    def _find(self, request: Find) -> Message | None:
        log = self._logs.get(request.conversation_id)
        return log.by_key.get((request.sender, request.id_client)) if log else None

    def _open_user(self, request: OpenUser) -> UserState:
        epoch = self._user_epochs[request.user] = self._user_epochs.get(request.user, 0) + 1
        marks = []
        for conversation in self._conversations_of.get(request.user, ()):
            log = self._logs[conversation]
            read = log.marks.get(request.user, 0)
            unread = [m.seq for m in log.messages[read:] if m.countable and m.sender != request.user]
            marks.append(StoredMark(conversation, read, len(log.messages), unread))
        return UserState(epoch, marks, self._revoked_before.get(request.user, 0.0))

    def _revoke_tokens(self, request: RevokeTokens) -> Saved:
        self._revoked_before[request.user] = max(request.before, self._revoked_before.get(request.user, 0.0))
        return Saved()

    def _save_mark(self, request: SaveMark) -> Saved:
        log = self._logs.get(request.conversation_id)
        if log is not None and request.user in log.members:
            read = min(request.read_seq, len(log.messages))
            log.marks[request.user] = max(read, log.marks.get(request.user, 0))
        return Saved()

    def _missed(self, request: Missed) -> MissedPage:
        messages: list[Message] = []
        cursors: dict[str, int] = {}
        for conversation in sorted(self._conversations_of.get(request.session.user, ())):
            log = self._logs[conversation].messages
            cursor = max(0, request.cursors.get(conversation, 0))
            found = log[cursor : cursor + request.limit - len(messages)]
            messages += found
            cursors[conversation] = cursor = max(cursor, found[-1].seq if found else 0)
            if cursor < len(log):
                return MissedPage(messages, cursors, more=True)
        return MissedPage(messages, cursors, more=False)
