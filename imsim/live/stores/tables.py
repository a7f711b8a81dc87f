"""The core's storage requests over SQLite tables, with exactly the meaning of `MemoryStorage`."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from imsim.core import storage
from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Message, Place, Scene, p2p_members

_APPLICATION_ID = 0x696D736D  # "imsm", in the file's header
_SCHEMA_VERSION = 5
_CACHED = 100_000  # conversations whose head is kept in memory
_OPEN = 2**63 - 1  # the last seq of a stay that has not ended

_SCHEMA = f"""
CREATE TABLE conversations (
    key     INTEGER PRIMARY KEY,    -- in the order of their making
    id      TEXT NOT NULL UNIQUE,
    epoch   INTEGER NOT NULL,       -- of the latest writer
    state   TEXT,                   -- JSON
    noted   TEXT NOT NULL DEFAULT '[]'  -- JSON: user and seq of the latest notes, the last of them last
);
CREATE TABLE members (                      -- whoever is or was one
    user          TEXT NOT NULL,
    conversation  INTEGER NOT NULL REFERENCES conversations,
    version       INTEGER NOT NULL DEFAULT 0,  -- from here on: the user's place
    read_seq      INTEGER NOT NULL DEFAULT 0,
    pinned        INTEGER NOT NULL DEFAULT 0,
    muted         INTEGER NOT NULL DEFAULT 0,
    hidden_seq    INTEGER NOT NULL DEFAULT 0,
    custom        TEXT NOT NULL DEFAULT '',
    peer_read_seq INTEGER NOT NULL DEFAULT 0,
    peer_delivered_seq INTEGER NOT NULL DEFAULT 0,
    blocked       INTEGER NOT NULL DEFAULT 0,
    delivered_seq INTEGER NOT NULL DEFAULT 0,  -- p2p: what stands in the other's peer_delivered_seq
    PRIMARY KEY (user, conversation)
) WITHOUT ROWID;
CREATE INDEX members_of ON members (conversation);
CREATE INDEX blocked_in ON members (conversation) WHERE blocked;
CREATE TABLE stays (                        -- each time as a member
    user         TEXT NOT NULL,
    conversation INTEGER NOT NULL REFERENCES conversations,
    first        INTEGER NOT NULL,  -- seq of the first entry that the user sees
    last         INTEGER NOT NULL DEFAULT {_OPEN},  -- and of the last
    place        INTEGER NOT NULL,  -- among those who joined with this entry
    PRIMARY KEY (user, conversation, first)
) WITHOUT ROWID;
CREATE INDEX present ON stays (conversation, first, place) WHERE last = {_OPEN};
CREATE TABLE messages (
    conversation INTEGER NOT NULL REFERENCES conversations,
    seq          INTEGER NOT NULL,
    id           TEXT NOT NULL,
    id_client    TEXT NOT NULL,
    type         TEXT NOT NULL,
    sender       TEXT NOT NULL,
    recipient    TEXT NOT NULL,     -- Message.to
    time         INTEGER NOT NULL,  -- ms since 1970
    content      TEXT NOT NULL,
    file         TEXT,              -- JSON
    custom       TEXT,
    resend       INTEGER NOT NULL,
    recalled     INTEGER NOT NULL,
    amended      INTEGER NOT NULL,  -- seq of the entry that changed it last
    countable    INTEGER NOT NULL,
    PRIMARY KEY (conversation, seq),
    UNIQUE (conversation, sender, id_client)
) WITHOUT ROWID;
CREATE TABLE users (
    id             TEXT PRIMARY KEY,
    epoch          INTEGER NOT NULL DEFAULT 0,
    version        INTEGER NOT NULL DEFAULT 0,  -- of the latest change of a place
    revoked_before REAL NOT NULL DEFAULT 0  -- wall time, seconds since 1970: older tokens are void
) WITHOUT ROWID;
CREATE TABLE inboxes (                      -- under fanout = write: each member's copy of what was let in, 1, 2, 3 ...
    user         TEXT NOT NULL,
    position     INTEGER NOT NULL,
    conversation INTEGER NOT NULL REFERENCES conversations,
    seq          INTEGER NOT NULL,
    PRIMARY KEY (user, position)
) WITHOUT ROWID;
CREATE TABLE settings (fanout TEXT NOT NULL);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
"""

_MESSAGE = "seq, id, id_client, type, sender, recipient, time, content, file, custom, resend, recalled, amended"
_VALUES = ",".join("?" * 15)  # conversation, _MESSAGE, countable
_PLACE = "version, read_seq, pinned, muted, hidden_seq, custom, peer_read_seq, peer_delivered_seq, blocked"


@dataclass(slots=True)
class _Head:
    """What appending needs to know of a conversation."""

    key: int
    epoch: int
    max_seq: int
    members: tuple[str, ...]
    blocked: frozenset[str]  # p2p: who takes nothing from the other


class SqliteStorage:
    """Opens `path`, making it if it is not there; holds it alone until `close`. Not for several threads at a time.

    `synchronous` FULL: what is answered survives a power cut. NORMAL: it survives the process; after a power cut the
    last moments may be missing. `fanout`: "read" or "write", as of `MemoryStorage`; a file keeps the one that it was
    made with.

    Raises: UsageError if it is no file of imsim's, or of the other fan-out; RunError if another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str], *, synchronous: str = "FULL", fanout: str = "read") -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise UsageError(f"synchronous: {synchronous!r} is neither FULL nor NORMAL")
        if fanout not in ("read", "write"):
            raise UsageError(f"fanout: {fanout!r} is neither read nor write")
        self._fanout = fanout
        self._heads: dict[str, _Head] = {}
        try:
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise UsageError(f"{path}: {error}; is there such a folder?") from None
        try:
            self._prepare(os.fspath(path), synchronous)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: str, synchronous: str) -> None:
        db = self._db
        try:
            # Exclusive: a second writer would know nothing of the heads kept here. Taken before anything is changed.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("BEGIN EXCLUSIVE")
            application, version, tables = (
                db.execute(query).fetchone()[0]
                for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
            )
            db.execute("COMMIT")
            if not tables and not application:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(f"BEGIN;{_SCHEMA}INSERT INTO settings VALUES ('{self._fanout}');COMMIT;")
            elif application != _APPLICATION_ID:
                raise UsageError(f"{path}: a database of something else; give imsim a file of its own")
            elif version != _SCHEMA_VERSION:
                raise UsageError(
                    f"{path}: written by another version of imsim (schema {version}, here {_SCHEMA_VERSION});"
                    " use that version, or a new file"
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {synchronous}")
            (fanout,) = db.execute("SELECT fanout FROM settings").fetchone()
            if fanout != self._fanout:
                raise UsageError(
                    f"{path}: made with fanout = {fanout}, which decides what it holds; use that, or a new file"
                )
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise RunError(f"{path}: in use by another process; stop that one, or use another file") from None
            raise UsageError(f"{path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise UsageError(f"{path}: {error}; give imsim a file of its own") from None

    def close(self) -> None:
        self._db.close()

    # --- transactions -----------------------------------------------------------------------------------------------

    def execute_all(self, requests: Sequence[storage.Request]) -> list[storage.Result]:
        """Carry all out, in order, in one transaction. A request that fails is Failed and leaves no trace; if the
        commit fails, all are."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            results = [self.execute(request) for request in requests]
        except Exception as error:  # whatever it is, the others must not suffer, nor the writer end
            self._roll_back()
            if len(requests) == 1:
                return [storage.Failed(f"{type(error).__name__}: {error}")]
            half = len(requests) // 2  # by halves, so that one bad request costs a few more commits, not one each
            return self.execute_all(requests[:half]) + self.execute_all(requests[half:])
        try:
            self._commit()
        except sqlite3.Error as error:
            self._roll_back()
            return [storage.Failed(f"commit: {error}")] * len(requests)
        return results

    def _commit(self) -> None:
        self._db.execute("COMMIT")

    def _roll_back(self) -> None:
        self._heads.clear()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    # --- requests ---------------------------------------------------------------------------------------------------

    def execute(self, request: storage.Request) -> storage.Result:
        """Carry one out, within the transaction under way.

        Raises: sqlite3.Error and whatever else a value unfit for the database brings.
        """
        if type(request) is storage.Append:
            return self._append(request)
        if type(request) is storage.SavePlace:
            return self._save_place(request)
        if type(request) is storage.OpenConversation:
            return self._open_conversation(request)
        if type(request) is storage.OpenUser:
            return self._open_user(request)
        if type(request) is storage.RevokeTokens:
            return self._revoke_tokens(request)
        if type(request) is storage.Missed:
            return self._missed(request)
        if type(request) is storage.Range:
            return self._range(request)
        if type(request) is storage.CountRead:
            return self._count_read(request)
        if type(request) is storage.Get:
            return self._get(request)
        assert isinstance(request, storage.Find)
        return self._find(request)

    def _head(self, id: str) -> _Head | None:
        head = self._heads.get(id)
        if head is None:
            row = self._db.execute(
                "SELECT key, epoch, (SELECT max(seq) FROM messages WHERE conversation = key)"
                " FROM conversations WHERE id = ?",
                (id,),
            ).fetchone()
            if row is None:
                return None
            key, epoch, max_seq = row
            head = self._keep_head(id, _Head(key, epoch, max_seq or 0, self._members(key), self._blocked(id, key)))
        return head

    def _keep_head(self, id: str, head: _Head) -> _Head:
        if len(self._heads) >= _CACHED:
            self._heads.clear()
        self._heads[id] = head
        return head

    def _members(self, key: int) -> tuple[str, ...]:
        rows = self._db.execute(
            f"SELECT user FROM stays WHERE conversation = ? AND last = {_OPEN} ORDER BY first, place", (key,)
        )
        return tuple(user for (user,) in rows)

    def _blocked(self, id: str, key: int) -> frozenset[str]:
        if not id.startswith(f"{Scene.P2P}:"):
            return frozenset()
        rows = self._db.execute("SELECT user FROM members WHERE conversation = ? AND blocked", (key,))
        return frozenset(user for (user,) in rows)

    def _open_conversation(self, request: storage.OpenConversation) -> storage.ConversationState | None:
        head = self._head(request.conversation_id)
        if head is None:
            if request.founders is None:
                return None
            head = self._make(request.conversation_id, request.founders)
        state, noted = self._db.execute(
            "UPDATE conversations SET epoch = epoch + 1 WHERE key = ? RETURNING state, noted", (head.key,)
        ).fetchone()
        head.epoch += 1
        return storage.ConversationState(
            head.epoch,
            head.max_seq,
            head.members,
            _json(state),
            tuple((user, seq) for user, seq in json.loads(noted)),
        )

    def _make(self, id: str, members: tuple[str, ...]) -> _Head:
        key = self._db.execute("INSERT INTO conversations (id, epoch) VALUES (?, 0)", (id,)).lastrowid
        assert key is not None
        self._join(key, members, 1)
        return self._keep_head(id, _Head(key, 0, 0, members, frozenset()))

    def _join(self, key: int, users: tuple[str, ...], seq: int) -> None:
        self._db.executemany(
            "INSERT INTO members (user, conversation) VALUES (?, ?) ON CONFLICT DO NOTHING",
            [(user, key) for user in users],
        )
        self._db.executemany(
            "INSERT INTO stays (user, conversation, first, place) VALUES (?, ?, ?, ?)",
            [(user, key, seq, place) for place, user in enumerate(users)],
        )

    def _append(
        self, request: storage.Append
    ) -> storage.Appended | storage.Duplicate | storage.Blocked | storage.Fenced:
        message, effects = request.message, request.effects
        id, sender = message.conversation_id, message.sender
        head = self._head(id)
        if head is None or request.epoch != head.epoch:
            return storage.Fenced()
        if message.seq != head.max_seq + 1:
            original = self._by_key(head, id, sender, message.id_client)
            return storage.Duplicate(original) if original else storage.Fenced()
        if head.blocked and not head.blocked.isdisjoint(storage.peers(id, head.members, sender)):
            original = self._by_key(head, id, sender, message.id_client)
            return storage.Duplicate(original) if original else storage.Blocked()
        if not self._insert(head, message):
            original = self._by_key(head, id, sender, message.id_client)
            assert original is not None
            return storage.Duplicate(original)
        appended = storage.Appended()
        if effects is None:
            self._added(head, message.seq, head.members, appended)
        else:
            self._added(head, message.seq, (*head.members, *effects.joined), appended)
            self._carry_out(head, message.seq, effects, appended)
        if request.shown > 0 and sender in head.members:
            old = self._place_of(head, id, sender)
            if old is not None and request.shown > old.read_seq:
                appended.places = self._change(head, storage.SavePlace(sender, id, request.shown), old)
        return appended

    def _insert(self, head: _Head, message: Message) -> bool:
        """Whether its key was free; else nothing is written."""
        return bool(
            self._db.execute(
                f"INSERT INTO messages (conversation, {_MESSAGE}, countable) VALUES ({_VALUES})"
                " ON CONFLICT (conversation, sender, id_client) DO NOTHING",
                _row(head.key, message),
            ).rowcount
        )

    def _added(self, head: _Head, seq: int, members: tuple[str, ...], appended: storage.Appended) -> None:
        head.max_seq = seq
        if self._fanout == "write":
            appended.inbox_rows += len(members)
            self._db.executemany(
                "INSERT INTO inboxes VALUES"
                " (?1, 1 + coalesce((SELECT max(position) FROM inboxes WHERE user = ?1), 0), ?2, ?3)",
                [(member, head.key, seq) for member in members],
            )

    def _carry_out(self, head: _Head, seq: int, effects: storage.Effects, appended: storage.Appended) -> None:
        db, key = self._db, head.key
        if effects.state is not None:
            db.execute("UPDATE conversations SET state = ? WHERE key = ?", (json.dumps(effects.state), key))
        if effects.joined:
            self._join(key, effects.joined, seq)
        if effects.left:
            db.executemany(
                f"UPDATE stays SET last = ? WHERE user = ? AND conversation = ? AND last = {_OPEN}",
                [(seq, user, key) for user in effects.left],
            )
        if effects.joined or effects.left:
            head.members = tuple(user for user in (*head.members, *effects.joined) if user not in effects.left)
        if effects.amended is not None:
            db.execute(
                f"REPLACE INTO messages (conversation, {_MESSAGE}, countable) VALUES ({_VALUES})",
                _row(key, effects.amended),
            )
        if effects.notes:
            notes = (self._note(note, appended) for note in effects.notes)
            appended.notes = tuple(note for note in notes if note is not None)
            (noted,) = db.execute("SELECT noted FROM conversations WHERE key = ?", (key,)).fetchone()
            noted = [*json.loads(noted), *((note.to, note.seq) for note in appended.notes)][-storage.NOTED :]
            db.execute("UPDATE conversations SET noted = ? WHERE key = ?", (json.dumps(noted), key))

    def _note(self, note: Message, appended: storage.Appended) -> Message | None:
        head = self._head(note.conversation_id) or self._make(note.conversation_id, (note.to,))
        seq = head.max_seq + 1
        note = replace(note, seq=seq, id=f"{note.conversation_id}:{seq}")
        if not self._insert(head, note):
            return None
        self._added(head, seq, head.members, appended)
        return note

    def _find(self, request: storage.Find) -> Message | None:
        head = self._head(request.conversation_id)
        return self._by_key(head, request.conversation_id, request.sender, request.id_client) if head else None

    def _by_key(self, head: _Head, conversation_id: str, sender: str, id_client: str) -> Message | None:
        row = self._db.execute(
            f"SELECT {_MESSAGE} FROM messages WHERE conversation = ? AND sender = ? AND id_client = ?",
            (head.key, sender, id_client),
        ).fetchone()
        return _message(conversation_id, row) if row else None

    def _get(self, request: storage.Get) -> Message | None:
        head = self._head(request.conversation_id)
        if head is None or not 1 <= request.seq <= head.max_seq:
            return None
        row = self._db.execute(
            f"SELECT {_MESSAGE} FROM messages WHERE conversation = ? AND seq = ?", (head.key, request.seq)
        ).fetchone()
        return _message(request.conversation_id, row)

    def _open_user(self, request: storage.OpenUser) -> storage.UserState:
        db, user = self._db, request.user
        epoch, revoked = db.execute(
            "INSERT INTO users (id, epoch) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1"
            " RETURNING epoch, revoked_before",
            (user,),
        ).fetchone()
        places = {}
        for key, id, end, delivered_seq, state, *row in db.execute(
            f"SELECT key, id, {_END}, delivered_seq, state, {_PLACE}"
            " FROM members JOIN conversations ON key = conversation WHERE user = ? ORDER BY id",
            (user,),
        ):
            state = _json(state) if id.startswith(f"{Scene.P2P}:") else None
            places[key] = storage.PlaceState(_place(id, row), [], end, delivered_seq, state)
        for key, seq in db.execute(_UNREAD, (user,)):
            places[key].unread_seqs.append(seq)
        return storage.UserState(epoch, list(places.values()), revoked)

    def _revoke_tokens(self, request: storage.RevokeTokens) -> storage.Saved:
        self._db.execute(
            "INSERT INTO users (id, revoked_before) VALUES (?, ?) ON CONFLICT (id)"
            " DO UPDATE SET revoked_before = max(revoked_before, excluded.revoked_before)",
            (request.user, request.before),
        )
        return storage.Saved()

    def _save_place(self, request: storage.SavePlace) -> storage.PlacesSaved:
        head, id, user = self._head(request.conversation_id), request.conversation_id, request.user
        if head is None and request.blocked is not None and user in (members := p2p_members(id) or ()):
            head = self._make(id, members)  # one may block whom one has never heard of
        old = self._place_of(head, id, user) if head else None
        if head is None or old is None:
            return storage.PlacesSaved()
        changed = dict(self._change(head, request, old))
        saved = [(user, changed.get(user, old))]
        for peer in storage.peers(id, head.members, user) if request.concerns_peer else ():
            place = changed.get(peer) or self._place_of(head, id, peer)
            assert place is not None
            saved.append((peer, place))
        return storage.PlacesSaved(tuple(saved))

    def _change(self, head: _Head, change: storage.SavePlace, old: Place) -> storage.Places:
        """`old`: the place as it stands. Returns the places that are other than before."""
        user, id = change.user, change.conversation_id
        new = change.applied_to(old, head.max_seq)
        changed = [(user, new)] if new != old else []
        if new.blocked != old.blocked and id.startswith(f"{Scene.P2P}:"):
            head.blocked = head.blocked | {user} if new.blocked else head.blocked - {user}
        if change.concerns_peer:
            for peer in storage.peers(id, head.members, user):
                before = self._place_of(head, id, peer)
                assert before is not None
                after = change.shown_to_peer(before, new, head.max_seq)
                if after != before:
                    changed.append((peer, after))
                    self._db.execute(
                        "UPDATE members SET delivered_seq = ? WHERE user = ? AND conversation = ?",
                        (after.peer_delivered_seq, user, head.key),
                    )
        for one, place in changed:
            (place.version,) = self._db.execute(
                "INSERT INTO users (id, version) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET version = version + 1"
                " RETURNING version",
                (one,),
            ).fetchone()
            self._db.execute(
                f"UPDATE members SET ({_PLACE}) = (?,?,?,?,?,?,?,?,?) WHERE user = ? AND conversation = ?",
                (
                    place.version,
                    place.read_seq,
                    place.pinned,
                    place.muted,
                    place.hidden_seq,
                    place.custom,
                    place.peer_read_seq,
                    place.peer_delivered_seq,
                    place.blocked,
                    one,
                    head.key,
                ),
            )
        return tuple(changed)

    def _place_of(self, head: _Head, conversation_id: str, user: str) -> Place | None:
        """None for who never was a member."""
        row = self._db.execute(
            f"SELECT {_PLACE} FROM members WHERE user = ? AND conversation = ?", (user, head.key)
        ).fetchone()
        return _place(conversation_id, row) if row else None

    def _count_read(self, request: storage.CountRead) -> storage.ReadCount | None:
        head = self._head(request.conversation_id)
        if head is None or not 1 <= request.seq <= head.max_seq:
            return None
        seen = self._db.execute(
            "SELECT 1 FROM stays WHERE user = ? AND conversation = ? AND ? BETWEEN first AND last",
            (request.user, head.key, request.seq),
        )
        if seen.fetchone() is None:
            return None
        return storage.ReadCount(*self._db.execute(_COUNT_READ, (head.key, request.seq)).fetchone())

    def _range(self, request: storage.Range) -> storage.RangePage | None:
        head, user = self._head(request.conversation_id), request.user
        if head is None or self._place_of(head, request.conversation_id, user) is None:
            return None
        first, last, limit = _integer(request.first), _integer(request.last), request.limit
        found = self._db.execute(_RANGE, (user, head.key, first, last, limit + 1)).fetchall()
        messages = [_message(request.conversation_id, row) for row in reversed(found[:limit])]
        return storage.RangePage(messages, len(found) > limit)

    def _missed(self, request: storage.Missed) -> storage.MissedPage:
        page = self._missed_in_logs(request) if self._fanout == "read" else self._missed_in_inbox(request)
        if not page.more:
            user, version = request.session.user, _integer(request.version)
            places = self._db.execute(
                f"SELECT id, {_PLACE} FROM members JOIN conversations ON key = conversation"
                " WHERE user = ? AND version >= ? ORDER BY id",
                (user, version + 1 if version else 0),
            )
            page.places = tuple(_place(id, row) for id, *row in places)
            stands = self._db.execute("SELECT version FROM users WHERE id = ?", (user,)).fetchone()
            page.version = stands[0] if stands else 0
        return page

    def _missed_in_inbox(self, request: storage.Missed) -> storage.MissedPage:
        user, position = request.session.user, max(0, _integer(request.inbox))
        page = storage.MissedPage([], {}, more=False, inbox=position)
        rows = self._db.execute(
            "SELECT position, inboxes.conversation, id, seq FROM inboxes JOIN conversations ON key = conversation"
            " WHERE user = ? AND position > ? ORDER BY position",
            (user, position),
        )
        empty = True
        for position, key, id, seq in rows:
            empty = False
            if seq > request.cursors.get(id, 0):  # else the device got it by a push
                if len(page.messages) == request.limit:
                    page.more = True
                    break
                row = self._db.execute(
                    f"SELECT {_MESSAGE} FROM messages WHERE conversation = ? AND seq = ?", (key, seq)
                ).fetchone()
                page.messages.append(_message(id, row))
            page.inbox = position
            page.cursors[id] = max(seq, request.cursors.get(id, 0))
        if empty and position:
            (end,) = self._db.execute("SELECT max(position) FROM inboxes WHERE user = ?", (user,)).fetchone()
            page.inbox = min(position, end or 0)
        return page

    def _missed_in_logs(self, request: storage.Missed) -> storage.MissedPage:
        page = storage.MissedPage([], {}, more=False, reads=0)
        messages, cursors, user = page.messages, page.cursors, request.session.user
        conversations = self._db.execute(
            f"SELECT key, id, {_END} FROM members JOIN conversations ON key = conversation WHERE user = ? ORDER BY id",
            (user,),
        ).fetchall()
        for key, id, end in conversations:
            page.reads += 1
            cursor = max(0, request.cursors.get(id, 0))
            if cursor < end:
                room = request.limit - len(messages)
                found = self._db.execute(_AFTER, (user, key, cursor, room + 1)).fetchall()
                messages += [_message(id, row) for row in found[:room]]
                if len(found) > room:
                    page.more = True
                    cursors[id] = found[room - 1][0] if room else cursor
                    break
            cursors[id] = max(cursor, end)
        return page


#: Where the log ends for the member: of the last stay, at its end or at the log's.
_END = (
    "min((SELECT last FROM stays WHERE stays.user = members.user AND stays.conversation = key"
    " ORDER BY first DESC LIMIT 1), coalesce((SELECT max(seq) FROM messages WHERE conversation = key), 0))"
)

_UNREAD = """
SELECT members.conversation, seq FROM members
    JOIN stays ON stays.user = members.user AND stays.conversation = members.conversation
    JOIN messages ON messages.conversation = members.conversation AND seq BETWEEN max(first, read_seq + 1) AND last
WHERE members.user = ? AND countable AND sender <> members.user
ORDER BY members.conversation, seq"""

#: Of a user and a conversation: what is to be seen after a seq, at most so many.
_AFTER = f"""
SELECT {_MESSAGE} FROM stays
    JOIN messages ON messages.conversation = stays.conversation AND seq BETWEEN max(first, ?3 + 1) AND last
WHERE user = ?1 AND stays.conversation = ?2
ORDER BY first, seq LIMIT ?4"""

#: Of a user and a conversation: what is to be seen from one seq to another, the latest first, at most so many.
_RANGE = f"""
SELECT {_MESSAGE} FROM stays
    JOIN messages ON messages.conversation = stays.conversation AND seq BETWEEN max(first, ?3) AND min(last, ?4)
WHERE user = ?1 AND stays.conversation = ?2
ORDER BY first DESC, seq DESC LIMIT ?5"""

_COUNT_READ = """
SELECT coalesce(sum(read_seq >= ?2), 0), count(*) FROM members
WHERE conversation = ?1 AND user <> (SELECT sender FROM messages WHERE conversation = ?1 AND seq = ?2)
    AND EXISTS (
        SELECT 1 FROM stays
        WHERE stays.user = members.user AND stays.conversation = ?1 AND ?2 BETWEEN first AND last
    )"""


def _integer(number: int) -> int:
    """The nearest that the database can hold: clients may ask for any."""
    return max(-(2**63), min(number, 2**63 - 1))


def _place(conversation_id: str, row: Sequence[Any]) -> Place:
    version, read_seq, pinned, muted, *rest, blocked = row
    return Place(conversation_id, version, read_seq, 0, bool(pinned), bool(muted), *rest, bool(blocked))


def _json(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def _row(key: int, message: Message) -> tuple[object, ...]:
    """What stands in `messages`: conversation, _MESSAGE, countable."""
    return (
        key,
        message.seq,
        message.id,
        message.id_client,
        message.type,
        message.sender,
        message.to,
        message.time,
        message.content,
        None if message.file is None else json.dumps(message.file),
        message.custom,
        message.resend,
        message.recalled,
        message.amended,
        message.countable,
    )


def _message(conversation_id: str, row: tuple[Any, ...]) -> Message:
    seq, id, id_client, type, sender, to, time, content, file, custom, resend, recalled, amended = row
    return Message(
        conversation_id,
        seq,
        id,
        id_client,
        Scene(conversation_id.partition(":")[0]),
        type,
        sender,
        to,
        time,
        content,
        _json(file),
        custom,
        bool(resend),
        bool(recalled),
        amended,
    )
