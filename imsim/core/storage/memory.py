"""The reference implementation of storage, in memory. The simulation uses it, and the tests compare others with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice, takewhile
from typing import Any

from imsim.core import changes
from imsim.core.changes import are_friends
from imsim.core.empty import NO_DICT, NO_LIST
from imsim.core.limits import UNREAD_RANGES
from imsim.core.model import ConversationState, Message, Skipped, is_chatroom, is_p2p, p2p_id, p2p_members, peer_in
from imsim.core.policies import Fanout
from imsim.core.sizes import Room, body_bytes
from imsim.core.storage import (
    NOTIFIED,
    Ahead,
    Append,
    Appended,
    Between,
    Blocked,
    CountRead,
    Duplicate,
    Effects,
    Fenced,
    Find,
    FriendsRecord,
    Get,
    GroupRecord,
    LogState,
    Missed,
    MissedPage,
    OpenConversation,
    OpenUser,
    Range,
    RangePage,
    ReadCount,
    ReadFriends,
    ReadGroup,
    Relations,
    Request,
    Result,
    RevokeTokens,
    Saved,
    SaveState,
    StateRecord,
    States,
    StatesSaved,
    UserState,
    add_states,
    beginning,
    friends_record,
    may_have_blocked,
    members_after,
    peers,
)
from imsim.core.unread import Unread

_Stays = tuple[tuple[int, int], ...]

_FROM_THE_START: _Stays = ((1, 0),)  # the stays of a founder who has never left


class _Log:
    """The stored log of one conversation."""

    __slots__ = (
        "_first_state",
        "by_key",
        "delivered",
        "earlier",
        "epoch",
        "founders",
        "id",
        "members",
        "messages",
        "notified",
        "state",
        "states",
        "stays",
    )

    def __init__(self, id: str, members: tuple[str, ...]) -> None:
        self.id = id
        self.epoch = 0
        self.members = members
        self.state: dict[str, Any] | None = None
        self.notified: tuple[tuple[str, int], ...] = ()
        self.founders = members
        #: By user: (first seq, last seq) of each stay as a member; a last seq of 0 means that the stay continues. An
        #: entry between two stays that the user may see is a stay of its own. Founders who never left have no key.
        self.stays: dict[str, _Stays] = NO_DICT
        self.messages: list[Message] = NO_LIST
        self.earlier: dict[int, list[Message]] = NO_DICT  # by seq: the forms before each edit, oldest first
        self.by_key: dict[tuple[str, str], Message] = NO_DICT
        self.states: dict[str, ConversationState] = NO_DICT  # by user; only states that have changed
        self._first_state = ConversationState(id, 0, 0, 0)  # the state of all other users
        self.delivered: dict[str, int] = NO_DICT  # by user, p2p only: the highest seq that a device is known to have

    def add(self, message: Message) -> None:
        self.messages = self.messages or []
        self.messages.append(message)
        self.by_key = self.by_key or {}
        self.by_key[message.sender, message.id_client] = message

    def state_of(self, user: str) -> ConversationState:
        return self.states.get(user, self._first_state)

    # The methods below are for users who are or were members.

    def stays_of(self, user: str) -> _Stays:
        return self.stays.get(user, _FROM_THE_START)

    def seen_by(self, user: str, after: int = 0) -> Iterable[Message]:
        """Return the messages after this seq that the user may see."""
        if after >= len(self.messages):
            return ()  # a shortcut for nearly every login
        return (
            self.as_seen_by(user, message)
            for first, last in self.stays_of(user)
            for message in self.messages[max(first - 1, after) : last or None]
        )

    def is_seen_by(self, user: str, seq: int) -> bool:
        """Return whether the user may see the entry at this seq, which exists."""
        return any(first <= seq <= (last or seq) for first, last in self.stays_of(user))

    def as_seen_by(self, user: str, message: Message) -> Message:
        """Return the message as this user sees it. A user who left sees later recalls, but no later edits."""
        if not message.amended or message.recalled or message.amended <= (end := self.end_for(user)):
            return message
        return [form for form in self.earlier[message.seq] if form.amended <= end][-1]

    def ended_for(self, user: str) -> int:
        """Return the last seq of the user's latest stay that has ended; 0 if there is none."""
        stays = self.stays_of(user)
        return stays[-1][1] or (stays[-2][1] if len(stays) > 1 else 0)

    def missed_by(self, user: str) -> list[int]:
        """Return the seqs of the entries since the user left that recall or edit a message which the user may see."""
        stays = self.stays_of(user)
        return [entry.seq for entry in changes.concerning(self.messages[stays[-1][1] :], stays)]

    def left_lately(self) -> tuple[tuple[str, int], ...]:
        """Return the users who left in one of the latest entries, each with the seq of that entry."""
        ends = sorted((user, stays[-1][1]) for user, stays in self.stays.items())
        return tuple((user, end) for user, end in ends if end > len(self.messages) - NOTIFIED and end)

    def end_for(self, user: str) -> int:
        """Return the last seq of the log that this user may see."""
        return self.stays_of(user)[-1][1] or len(self.messages)


class MemoryStorage:
    """A storage in memory.

    With `fanout` "read", a message is one row, and a login reads each of the user's conversations. With "write", each
    message also adds a row to the inbox of each member, and a login reads the user's inbox from its last position.
    Users see the same in both. `log` is the name of the stored data, see `UserState`. `latest_revocation` is the
    highest `before` of all RevokeTokens so far.
    """

    def __init__(self, fanout: str = "read", log: str = "") -> None:
        self.log = log
        self.latest_revocation = 0.0
        self._inboxes: dict[str, list[Message]] | None = {} if Fanout(fanout).keeps_inboxes else None
        self._logs: dict[str, _Log] = {}
        self._conversations_of: dict[str, tuple[str, ...]] = {}  # by user; sorted; past ones included
        self._user_epochs: dict[str, int] = {}
        self._revoked_before: dict[str, float] = {}
        self._versions: dict[str, int] = {}  # by user: the latest version of the user's log

    def execute(self, request: Request) -> Result:
        """Carry out a request."""
        # One chain of type tests, the most frequent first: a simulation runs it once for each message.
        if type(request) is Append:
            return self._append(request)
        if type(request) is SaveState:
            return self._save_state(request)
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
        if type(request) is ReadGroup:
            return self._read_group(request)
        if type(request) is ReadFriends:
            return self._read_friends(request)
        if type(request) is Get:
            return self._get(request)
        if type(request) is Between:
            return self._between(request)
        assert isinstance(request, Find)
        return self._find(request)

    def _open_conversation(self, request: OpenConversation) -> LogState | None:
        log = self._logs.get(request.conversation_id)
        if log is None:
            if request.founders is None:
                return None
            log = self._make(request.conversation_id, request.founders)
        log.epoch += 1
        return LogState(log.epoch, len(log.messages), log.members, log.state, log.notified, log.left_lately())

    def _make(self, id: str, members: tuple[str, ...]) -> _Log:
        log = self._logs[id] = _Log(id, members)
        for user in members:
            self._knows(user, id)
        return log

    def _knows(self, user: str, id: str) -> None:
        """Add the conversation to those of the user."""
        self._conversations_of[user] = tuple(sorted((*self._conversations_of.get(user, ()), id)))

    def _log_of(self, user: str, id: str) -> _Log | None:
        """Return the conversation, or None if it is not one of the user's."""
        return self._logs[id] if id in self._conversations_of.get(user, ()) else None

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
        if request.effects is None and self._is_blocked(log, message):
            return Blocked()
        appended = Appended()
        if request.effects is not None:
            self._change_log(log, message.seq, request.effects, appended)
        log.add(message)
        if self._inboxes is not None:  # tested here too, because a call for each message is slow
            self._into_inboxes(log.members, message, appended)
        if request.effects is not None:
            if request.effects.left:
                left = frozenset(request.effects.left)
                log.members = tuple(member for member in log.members if member not in left)
            notes = (self._note(note, appended) for note in request.effects.notes)
            appended.notes = tuple(note for note in notes if note is not None)
            log.notified = (*log.notified, *((note.to, note.seq) for note in appended.notes))[-NOTIFIED:]
        if request.shown and request.shown > log.state_of(message.sender).read_seq and self._sees_it(log, request):
            appended.states = self._change(log, SaveState(message.sender, log.id, request.shown))
        return appended

    @staticmethod
    def _sees_it(log: _Log, request: Append) -> bool:
        """Return whether the sender of the entry is a member, or leaves with this entry."""
        sender = request.message.sender
        return sender in log.members or (request.effects is not None and sender in request.effects.left)

    def _is_blocked(self, log: _Log, message: Message) -> bool:
        """Return whether the recipient of a p2p or system message has blocked its sender."""
        id, users = may_have_blocked(message, log.members)
        between = log if id == log.id else self._logs.get(id)
        if between is not None and between.states:
            for user in users:
                if between.state_of(user).blocked:
                    return True
        return False

    def _into_inboxes(self, users: tuple[str, ...], message: Message, appended: Appended) -> None:
        if self._inboxes is not None:
            appended.inbox_rows += len(users)
            for user in users:
                self._inboxes.setdefault(user, []).append(message)

    def _change_log(self, log: _Log, seq: int, effects: Effects, appended: Appended) -> None:
        """Apply the effects of the entry at `seq`, except its notes."""
        if effects.state is not None:
            log.state = effects.state
        for user in effects.joined:
            before: _Stays = ()
            if log.id in self._conversations_of.get(user, ()):
                self._catch_up(log, user, appended)
                before = log.stays_of(user)
            else:
                self._knows(user, log.id)
            log.stays = log.stays or {}
            log.stays[user] = (*before, (seq, 0))
        for user in effects.left:
            *earlier, (first, _) = log.stays_of(user)
            log.stays = log.stays or {}
            log.stays[user] = (*earlier, (first, seq))
        log.members += effects.joined
        if (amended := effects.amended) is not None:
            since = log.messages[amended.seq : log.messages[amended.seq - 1].amended] if amended.recalled else []
            edits = (entry for entry in since if changes.edits(entry, amended.seq))
            if amended.recalled:
                log.earlier.pop(amended.seq, None)
            else:
                log.earlier = log.earlier or {}
                log.earlier.setdefault(amended.seq, []).append(log.messages[amended.seq - 1])
            for entry in (amended, *(changes.recalled(edit, seq) for edit in edits)):
                log.messages[entry.seq - 1] = log.by_key[entry.sender, entry.id_client] = entry

    def _catch_up(self, log: _Log, user: str, appended: Appended) -> None:
        """Let a user who joins again see the recalls and edits of earlier messages that the user has missed."""
        for seq in log.missed_by(user):
            log.stays[user] = (*log.stays_of(user), (seq, seq))
            self._into_inboxes((user,), log.messages[seq - 1], appended)

    def _note(self, note: Message, appended: Appended) -> Message | None:
        """Add a note to its user's system log. Returns it with its seq, or None if the log has its key already."""
        log = self._logs.get(note.conversation_id) or self._make(note.conversation_id, (note.to,))
        key = (note.sender, note.id_client)
        if key in log.by_key:
            return None
        seq = len(log.messages) + 1
        note = replace(note, seq=seq, id=f"{log.id}:{seq}")
        log.add(note)
        self._into_inboxes(log.members, note, appended)
        return note

    def _find(self, request: Find) -> Message | None:
        log = self._logs.get(request.conversation_id)
        return log.by_key.get((request.sender, request.id_client)) if log else None

    def _get(self, request: Get) -> Message | None:
        id, seq, user = request.conversation_id, request.seq, request.user
        log = self._logs.get(id) if user is None else self._log_of(user, id)
        if log is None or not 1 <= seq <= len(log.messages):
            return None
        return log.messages[seq - 1] if user is None or log.is_seen_by(user, seq) else None

    def _between(self, request: Between) -> Relations:
        logs = {other: self._logs.get(p2p_id(request.user, other)) for other in request.others}
        return Relations(
            tuple(other for other, log in logs.items() if log and log.state_of(other).blocked),
            tuple(other for other, log in logs.items() if log and are_friends(log.state)),
        )

    def _open_user(self, request: OpenUser) -> UserState:
        epoch = self._user_epochs[request.user] = self._user_epochs.get(request.user, 0) + 1
        states = []
        for conversation in self._conversations_of.get(request.user, ()):
            log = self._logs[conversation]
            state = log.state_of(request.user)
            ended = log.ended_for(request.user)
            seen = log.seen_by(request.user, max(ended, state.read_seq))
            unread = [m.seq for m in seen if m.countable and m.sender != request.user]
            delivered = log.delivered.get(request.user, 0)
            log_state = log.state if is_p2p(conversation) else None
            states.append(StateRecord(state, unread, log.end_for(request.user), delivered, log_state, ended))
        return UserState(epoch, states, self._revoked_before.get(request.user, 0.0), self.log)

    def _revoke_tokens(self, request: RevokeTokens) -> Saved:
        self.latest_revocation = max(request.before, self.latest_revocation)
        self._revoked_before[request.user] = max(request.before, self._revoked_before.get(request.user, 0.0))
        return Saved()

    def _save_state(self, request: SaveState) -> StatesSaved:
        log, user, id = self._logs.get(request.conversation_id), request.user, request.conversation_id
        if log is None and request.blocked is not None and user in (members := p2p_members(id) or ()):
            log = self._make(id, members)  # a user may block another one before their first message
        if log is None or id not in self._conversations_of.get(user, ()):
            return StatesSaved()
        self._change(log, request)
        others = peers(log.id, log.members, user) if request.concerns_peer else ()
        return StatesSaved(tuple((one, log.state_of(one)) for one in (user, *others)))

    def _change(self, log: _Log, change: SaveState) -> States:
        """Apply the change. Returns the states that have changed."""
        user = change.user
        max_seq = log.end_for(user)
        old = log.state_of(user)
        new = change.applied_to(old, max_seq)
        changed = [(user, new)] if new != old else []
        if change.concerns_peer:
            for peer in peers(log.id, log.members, user):
                before = log.state_of(peer)
                after = change.shown_to_peer(before, new, max_seq)
                if after != before:
                    log.delivered = log.delivered or {}
                    log.delivered[user] = after.peer_delivered_seq
                    changed.append((peer, after))
        for one, state in changed:
            state.version = self._versions[one] = self._versions.get(one, 0) + 1
            log.states = log.states or {}
            log.states[one] = state
        return tuple(changed)

    def _count_read(self, request: CountRead) -> ReadCount | None:
        log = self._log_of(request.user, request.conversation_id)
        if log is None or not any(message.seq == request.seq for message in log.seen_by(request.user)):
            return None
        sender = log.messages[request.seq - 1].sender
        others = [user for user in {*log.founders, *log.stays} if user != sender and log.is_seen_by(user, request.seq)]
        return ReadCount(sum(log.state_of(member).read_seq >= request.seq for member in others), len(others))

    def _missed(self, request: Missed) -> MissedPage | Ahead:
        if self._is_ahead(request):
            return Ahead()
        room = Room(request.page_bytes)
        user = request.session.user
        if self._inboxes is None or request.reads_logs:
            page = self._missed_in_logs(request, room)
            if not page.more and self._inboxes is not None:
                page.inbox = len(self._inboxes.get(user, ()))
        else:
            page = self._missed_in_inbox(request, room)
        if not page.more:
            states = [self._logs[conversation].state_of(user) for conversation in self._conversations_of.get(user, ())]
            changed = [state for state in states if state.version > request.version or not request.version]
            add_states(page, request, changed, self._versions.get(user, 0), room)
        return page

    def _is_ahead(self, request: Missed) -> bool:
        user = request.session.user
        inbox = 0 if self._inboxes is None else len(self._inboxes.get(user, ()))
        if request.inbox > inbox or max(request.version, request.state_version) > self._versions.get(user, 0):
            return True
        if not request.doubted:
            return False
        # Only the user's own conversations count. A comparison with others would show how much is written in them.
        ends = {id: self._logs[id].end_for(user) for id in self._conversations_of.get(user, ())}
        return any(seq > ends.get(id, 0) for id, seq in request.cursors.items() if not is_chatroom(id))

    def _missed_in_logs(self, request: Missed, room: Room) -> MissedPage:
        page, ranges = MissedPage([], {}, more=False, reads=0), Room(UNREAD_RANGES)
        for conversation in self._conversations_of.get(request.session.user, ()):
            log, user = self._logs[conversation], request.session.user
            cursor = max(0, request.cursors.get(conversation, 0))
            page.reads += 1
            if request.begins(conversation) and (skipped := self._beginning(log, user, request.newest)):
                if not ranges.takes(len(skipped.unread)):
                    page.more = True
                    return page
                page.skipped.append(skipped)
                cursor = skipped.seq
            for message in log.seen_by(user, cursor):
                if len(page.messages) == request.limit or not room.takes(body_bytes(message)):
                    page.more = True
                    page.cursors[conversation] = cursor
                    return page
                page.messages.append(message)
                cursor = message.seq
            page.cursors[conversation] = max(cursor, log.end_for(user))
        return page

    @staticmethod
    def _beginning(log: _Log, user: str, newest: int) -> Skipped | None:
        """Return the part of the log that a sync leaves out, which begins with the newest messages."""

        def unread(last: int) -> Unread:
            ended, read_seq = log.ended_for(user), log.state_of(user).read_seq
            seen = takewhile(lambda message: message.seq <= last, log.seen_by(user, max(ended, read_seq)))
            seqs = (message.seq for message in seen if message.countable and message.sender != user)
            return Unread(read_seq, seqs, ended)

        return beginning(log.id, reversed(list(log.seen_by(user))), newest, unread)

    def _missed_in_inbox(self, request: Missed, room: Room) -> MissedPage:
        assert self._inboxes is not None
        user = request.session.user
        inbox = self._inboxes.get(user, [])
        page, ranges = MissedPage([], {}, more=False, inbox=max(0, request.inbox)), Room(UNREAD_RANGES)
        for row in islice(inbox, page.inbox, None):
            conversation = row.conversation_id
            log = self._logs[conversation]
            message = log.as_seen_by(user, log.messages[row.seq - 1])  # with its recalls and edits
            cursor = page.cursors.get(conversation, request.cursors.get(conversation, 0))
            is_first = conversation not in page.cursors and request.begins(conversation)
            if is_first and (skipped := self._beginning(log, user, request.newest)):
                if not ranges.takes(len(skipped.unread)):
                    page.more = True
                    break
                page.skipped.append(skipped)
                cursor = page.cursors[conversation] = skipped.seq
            if message.seq > cursor:  # otherwise the device has it from a push, or it is left out
                if len(page.messages) == request.limit or not room.takes(body_bytes(message)):
                    page.more = True
                    break
                page.messages.append(message)
            page.inbox += 1
            page.cursors[conversation] = max(message.seq, cursor)
        return page

    def _read_group(self, request: ReadGroup) -> GroupRecord | None:
        log = self._logs.get(request.conversation_id)
        if log is None or request.user not in log.members:
            return None
        members, more = members_after(request, log.members)
        return GroupRecord(len(log.messages), log.state, log.members[0], len(log.members), members, more)

    def _read_friends(self, request: ReadFriends) -> FriendsRecord:
        user = request.user
        logs = ((other, self._logs[id]) for id in self._conversations_of.get(user, ()) if (other := peer_in(id, user)))
        return friends_record(request, ((other, log.state_of(user).blocked, log.state) for other, log in logs))

    def _range(self, request: Range) -> RangePage | None:
        log = self._log_of(request.user, request.conversation_id)
        if log is None:
            return None
        seen = log.seen_by(request.user, max(0, request.first - 1))
        found = list(takewhile(lambda message: message.seq <= request.last, seen))
        room = Room(request.page_bytes)
        latest = takewhile(lambda message: room.takes(body_bytes(message)), reversed(found[-request.limit :]))
        page = list(latest)[::-1]
        return RangePage(page, more=len(found) > len(page))
