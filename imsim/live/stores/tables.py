"""The core's storage requests over SQLite tables, with exactly the meaning of `MemoryStorage`."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imsim.core import storage
from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Message, Place, Scene

_APPLICATION_ID = 0x696D736D  # "imsm", in the file's header
_SCHEMA_VERSION = 4
_CACHED = 100_000  # conversations whose head is kept in memory

_SCHEMA = f"""
CREATE TABLE conversations (
    key     INTEGER PRIMARY KEY,    -- in the order of their making
    id      TEXT NOT NULL UNIQUE,
    epoch   INTEGER NOT NULL,       -- of the latest writer
    members TEXT NOT NULL           -- a JSON array
);
CREATE TABLE members (
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
    delivered_seq INTEGER NOT NULL DEFAULT 0,  -- p2p: what stands in the other's peer_delivered_seq
    PRIMARY KEY (user, conversation)
) WITHOUT ROWID;
CREATE INDEX members_of ON members (conversation);
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

_MESSAGE = "seq, id, id_client, type, sender, recipient, time, content, file, custom, resend"
_PLACE = "version, read_seq, pinned, muted, hidden_seq, custom, peer_read_seq, peer_delivered_seq"


@dataclass(slots=True)
class _Head:
    """What appending needs to know of a conversation."""

    key: int
    epoch: int
    max_seq: int
    members: tuple[str, ...]


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
        assert isinstance(request, storage.Find)
        return self._find(request)

    def _head(self, id: str) -> _Head | None:
        head = self._heads.get(id)
        if head is None:
            row = self._db.execute(
                "SELECT key, epoch, (SELECT max(seq) FROM messages WHERE conversation = key), members"
                " FROM conversations WHERE id = ?",
                (id,),
            ).fetchone()
            if row is None:
                return None
            if len(self._heads) >= _CACHED:
                self._heads.clear()
            key, epoch, max_seq, members = row
            head = self._heads[id] = _Head(key, epoch, max_seq or 0, tuple(json.loads(members)))
        return head

    def _open_conversation(self, request: storage.OpenConversation) -> storage.ConversationState | None:
        head = self._head(request.conversation_id)
        if head is None:
            if request.founders is None:
                return None
            key = self._db.execute(
                "INSERT INTO conversations (id, epoch, members) VALUES (?, 0, ?)",
                (request.conversation_id, json.dumps(request.founders)),
            ).lastrowid
            assert key is not None
            self._db.executemany(
                "INSERT INTO members (user, conversation) VALUES (?, ?)", [(user, key) for user in request.founders]
            )
            head = self._heads[request.conversation_id] = _Head(key, 0, 0, request.founders)
        self._db.execute("UPDATE conversations SET epoch = epoch + 1 WHERE key = ?", (head.key,))
        head.epoch += 1
        return storage.ConversationState(head.epoch, head.max_seq, head.members)

    def _append(self, request: storage.Append) -> storage.Appended | storage.Duplicate | storage.Fenced:
        message = request.message
        head = self._head(message.conversation_id)
        if head is None or request.epoch != head.epoch:
            return storage.Fenced()
        if message.seq != head.max_seq + 1:
            original = self._by_key(head, message.conversation_id, message.sender, message.id_client)
            return storage.Duplicate(original) if original else storage.Fenced()
        inserted = self._db.execute(
            f"INSERT INTO messages (conversation, {_MESSAGE}, countable) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
            " ON CONFLICT (conversation, sender, id_client) DO NOTHING",
            (
                head.key,
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
                message.countable,
            ),
        )
        if not inserted.rowcount:
            original = self._by_key(head, message.conversation_id, message.sender, message.id_client)
            assert original is not None
            return storage.Duplicate(original)
        head.max_seq = message.seq
        appended = storage.Appended()
        if self._fanout == "write":
            appended.inbox_rows = len(head.members)
            self._db.executemany(
                "INSERT INTO inboxes VALUES"
                " (?1, 1 + coalesce((SELECT max(position) FROM inboxes WHERE user = ?1), 0), ?2, ?3)",
                [(member, head.key, message.seq) for member in head.members],
            )
        if request.shown > 0:
            change = storage.SavePlace(message.sender, message.conversation_id, request.shown)
            appended.places = self._change(head, change)
        return appended

    def _find(self, request: storage.Find) -> Message | None:
        head = self._head(request.conversation_id)
        return self._by_key(head, request.conversation_id, request.sender, request.id_client) if head else None

    def _by_key(self, head: _Head, conversation_id: str, sender: str, id_client: str) -> Message | None:
        row = self._db.execute(
            f"SELECT {_MESSAGE} FROM messages WHERE conversation = ? AND sender = ? AND id_client = ?",
            (head.key, sender, id_client),
        ).fetchone()
        return _message(conversation_id, row) if row else None

    def _open_user(self, request: storage.OpenUser) -> storage.UserState:
        db, user = self._db, request.user
        db.execute(
            "INSERT INTO users (id, epoch) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1",
            (user,),
        )
        epoch, revoked = db.execute("SELECT epoch, revoked_before FROM users WHERE id = ?", (user,)).fetchone()
        places = {
            key: storage.PlaceState(_place(id, row), [], max_seq or 0, delivered_seq)
            for key, id, max_seq, delivered_seq, *row in db.execute(
                "SELECT key, id, (SELECT max(seq) FROM messages WHERE conversation = key), delivered_seq,"
                f" {_PLACE} FROM members JOIN conversations ON key = conversation WHERE user = ? ORDER BY key",
                (user,),
            )
        }
        for key, seq in db.execute(
            "SELECT conversation, seq FROM members JOIN messages USING (conversation)"
            " WHERE user = ? AND seq > read_seq AND countable AND sender <> user ORDER BY conversation, seq",
            (user,),
        ):
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
        if head is None or user not in head.members:
            return storage.PlacesSaved()
        self._change(head, request)
        others = storage.peers(id, head.members, user) if request.concerns_peer else ()
        return storage.PlacesSaved(tuple((one, self._place_of(head, id, one)) for one in (user, *others)))

    def _change(self, head: _Head, change: storage.SavePlace) -> storage.Places:
        """Returns the places that are other than before."""
        user, id = change.user, change.conversation_id
        if user not in head.members:
            return ()
        old = self._place_of(head, id, user)
        new = change.applied_to(old, head.max_seq)
        changed = [(user, new)] if new != old else []
        if change.concerns_peer:
            for peer in storage.peers(id, head.members, user):
                before = self._place_of(head, id, peer)
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
                f"UPDATE members SET ({_PLACE}) = (?,?,?,?,?,?,?,?) WHERE user = ? AND conversation = ?",
                (
                    place.version,
                    place.read_seq,
                    place.pinned,
                    place.muted,
                    place.hidden_seq,
                    place.custom,
                    place.peer_read_seq,
                    place.peer_delivered_seq,
                    one,
                    head.key,
                ),
            )
        return tuple(changed)

    def _place_of(self, head: _Head, conversation_id: str, member: str) -> Place:
        row = self._db.execute(
            f"SELECT {_PLACE} FROM members WHERE user = ? AND conversation = ?", (member, head.key)
        ).fetchone()
        return _place(conversation_id, row)

    def _count_read(self, request: storage.CountRead) -> storage.ReadCount | None:
        head = self._head(request.conversation_id)
        if head is None or request.user not in head.members or not 1 <= request.seq <= head.max_seq:
            return None
        return storage.ReadCount(
            *self._db.execute(
                "SELECT coalesce(sum(read_seq >= seq), 0), count(*) FROM members JOIN messages USING (conversation)"
                " WHERE conversation = ? AND seq = ? AND user <> sender",
                (head.key, request.seq),
            ).fetchone()
        )

    def _range(self, request: storage.Range) -> storage.RangePage | None:
        head = self._head(request.conversation_id)
        if head is None or request.user not in head.members:
            return None
        found = self._db.execute(
            f"SELECT {_MESSAGE} FROM messages WHERE conversation = ? AND seq BETWEEN ? AND ? ORDER BY seq DESC LIMIT ?",
            (head.key, _integer(request.first), _integer(request.last), request.limit + 1),
        ).fetchall()
        latest = found[: request.limit]
        return storage.RangePage(
            [_message(request.conversation_id, row) for row in reversed(latest)], len(found) > request.limit
        )

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
        user = request.session.user
        (end,) = self._db.execute("SELECT coalesce(max(position), 0) FROM inboxes WHERE user = ?", (user,)).fetchone()
        page = storage.MissedPage([], {}, more=False, inbox=min(max(0, request.inbox), end))
        rows = self._db.execute(
            "SELECT position, inboxes.conversation, id, seq FROM inboxes JOIN conversations ON key = conversation"
            " WHERE user = ? AND position > ? ORDER BY position",
            (user, page.inbox),
        )
        for position, key, id, seq in rows:
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
        return page

    def _missed_in_logs(self, request: storage.Missed) -> storage.MissedPage:
        page = storage.MissedPage([], {}, more=False, reads=0)
        messages, cursors = page.messages, page.cursors
        conversations = self._db.execute(
            "SELECT key, id, (SELECT max(seq) FROM messages WHERE conversation = key)"
            " FROM members JOIN conversations ON key = conversation WHERE user = ? ORDER BY id",
            (request.session.user,),
        ).fetchall()
        for key, id, max_seq in conversations:
            page.reads += 1
            cursor = cursors[id] = max(0, request.cursors.get(id, 0))
            if cursor >= (max_seq or 0):
                continue
            found = self._db.execute(
                f"SELECT {_MESSAGE} FROM messages WHERE conversation = ? AND seq > ? ORDER BY seq LIMIT ?",
                (key, cursor, request.limit - len(messages)),
            ).fetchall()
            messages += [_message(id, row) for row in found]
            if found:
                cursors[id] = found[-1][0]
            if cursors[id] < max_seq:
                page.more = True
                break
        return page


def _integer(number: int) -> int:
    """The nearest that the database can hold: clients may ask for any."""
    return max(-(2**63), min(number, 2**63 - 1))


def _place(conversation_id: str, row: Sequence[Any]) -> Place:
    version, read_seq, pinned, muted, *rest = row
    return Place(conversation_id, version, read_seq, 0, bool(pinned), bool(muted), *rest)


def _message(conversation_id: str, row: tuple[Any, ...]) -> Message:
    seq, id, id_client, type, sender, to, time, content, file, custom, resend = row
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
        None if file is None else json.loads(file),
        custom,
        bool(resend),
    )
