"""The core's storage requests on SQLite tables. They have exactly the semantics of `MemoryStorage`."""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from imsim import disk
from imsim.core import changes, storage
from imsim.core.changes import are_friends
from imsim.core.exceptions import ImsimError, RunError, UsageError
from imsim.core.limits import UNREAD_RANGES
from imsim.core.model import (
    ConversationState,
    Message,
    Scene,
    Skipped,
    is_chatroom,
    is_p2p,
    p2p_id,
    p2p_members,
    peer_in,
)
from imsim.core.policies import Fanout
from imsim.core.sizes import Room, body_bytes
from imsim.core.unread import Unread
from imsim.live.stores import schema
from imsim.live.stores.probe import PROBE_BYTES, Probe
from imsim.live.stores.tail import RepeatedKey, Tail

_CACHED = 100_000  # conversations whose head is kept in memory
_LONGEST_TAIL = 2_000  # messages; then a commit moves them to their conversations, also if requests wait
_CACHE_KIB = 16_384  # of pages; SQLite fills it as needed

_INSERT = (
    f"INSERT INTO messages (conversation, {schema.MESSAGE}) VALUES ({schema.VALUES})"
    " ON CONFLICT (conversation, sender, id_client) DO NOTHING"
)


def _cannot_open(path: str, error: sqlite3.Error) -> ImsimError:
    """Return the error for a file that SQLite cannot open or write. SQLite itself does not say why."""
    try:
        if path != ":memory:":
            disk.check_writable(path, name="db")
    except ImsimError as reason:
        return reason
    return UsageError(f"{path}: {error}; check the path and the permissions of the file")


@dataclass(slots=True)
class _Head:
    """The cached facts of a conversation that an append needs."""

    key: int
    epoch: int
    max_seq: int
    members: tuple[str, ...]
    blocked: frozenset[str]  # p2p: the users who have blocked the other one
    states: dict[str, ConversationState] = field(default_factory=dict)  # p2p: by user, as far as they were needed


class SqliteStorage:
    """A storage in the SQLite file `path`. It creates the file if needed, and locks it until `close`. Not thread-safe.

    With `synchronous` FULL, committed data survives a power failure. With NORMAL, it survives a crash of the process;
    after a power failure, the latest commits may be missing. `fanout` is "read" or "write", as in `MemoryStorage`; a
    file keeps the fan-out that it was created with.

    `log` is the name of the stored data, see `UserState`. `latest_revocation` is the highest `before` of all
    RevokeTokens so far.

    Raises: UsageError if the file cannot be opened and written, is not an imsim database or has the other fan-out;
    RunError if another process has it open, or if no space is left.
    """

    def __init__(self, path: str | os.PathLike[str], *, synchronous: str = "FULL", fanout: str = "read") -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise UsageError(f"synchronous: must be FULL or NORMAL (got {synchronous!r})")
        if fanout not in ("read", "write"):
            raise UsageError(f"fanout: must be read or write (got {fanout!r})")
        if not os.fspath(path):  # SQLite would delete the data at the end
            raise UsageError("db: must not be empty; give the path of a file, or :memory:")
        self._fanout = Fanout(fanout)
        self._heads: dict[str, _Head] = {}
        self.log: str
        self.latest_revocation: float
        self._is_careful = False  # whether each message is inserted by a statement of its own
        self._lost_tail = False  # whether a rollback has made `_tail` wrong
        try:
            self._db = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
            )
        except sqlite3.Error as error:
            raise _cannot_open(os.fspath(path), error) from None
        try:
            self._prepare(os.fspath(path), synchronous)
            self._tail = Tail(self._db)
            self._tail.reload()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: str, synchronous: str) -> None:
        db = self._db
        try:
            # The lock is exclusive, because a second writer would make the cached heads wrong. It is taken before the
            # file is changed.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("BEGIN EXCLUSIVE")
            application, version, tables = (
                db.execute(query).fetchone()[0]
                for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
            )
            db.execute("COMMIT")
            if not tables and not application:
                db.execute("PRAGMA journal_mode = WAL")
                settings = f"INSERT INTO settings VALUES ('{self._fanout}', '{uuid.uuid4().hex}');"
                db.executescript(f"BEGIN;{schema.SCHEMA}{settings}COMMIT;")
            elif application != schema.APPLICATION_ID:
                raise UsageError(f"{path}: not an imsim database; give the path of an imsim database or of a new file")
            elif version != schema.SCHEMA_VERSION:
                raise UsageError(
                    f"{path}: must have schema {schema.SCHEMA_VERSION} (got schema {version}, of another version of"
                    " imsim); use that version, or a new file"
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {synchronous}")
            db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            fanout, self.log = db.execute("SELECT fanout, log FROM settings").fetchone()
            (self.latest_revocation,) = db.execute("SELECT coalesce(max(revoked_before), 0.0) FROM users").fetchone()
            if fanout != self._fanout:
                raise UsageError(
                    f"{path}: was created with fanout = {fanout} (got {self._fanout}); use {fanout}, or a new file"
                )
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise RunError(f"{path}: in use by another process; stop that process, or use another file") from None
            raise _cannot_open(path, error) from None
        except sqlite3.DatabaseError as error:
            raise UsageError(f"{path}: {error}; give the path of an imsim database or of a new file") from None

    def close(self) -> None:
        """Close and unlock the file."""
        with suppress(sqlite3.Error):  # the tail stays in its table
            self.merge_tail(0)
        self._db.close()

    # --- transactions -----------------------------------------------------------------------------------------------

    def execute_all(self, requests: Sequence[storage.Request]) -> list[storage.Result]:
        """Carry out all requests, in order, in one transaction.

        A request that fails has the result Failed and no effect. If the commit fails, this applies to all.
        """
        if Probe in map(type, requests):
            return self._execute_with_probes(requests)
        try:
            self._begin()
            results = [self.execute(request) for request in requests]
            self._tail.write()
        except RepeatedKey:
            self._roll_back()
            self._is_careful = True
            try:
                return self.execute_all(requests)
            finally:
                self._is_careful = False
        except Exception as error:  # no error may affect the other requests or end the writer thread
            self._roll_back()
            if len(requests) == 1:
                return [storage.Failed(f"{type(error).__name__}: {error}")]
            half = len(requests) // 2  # bisect: one bad request then costs a few more commits, not one per request
            return self.execute_all(requests[:half]) + self.execute_all(requests[half:])
        try:
            self._commit()
        except sqlite3.Error as error:
            self._roll_back()
            return [storage.Failed(f"commit: {error}")] * len(requests)
        return results

    def _execute_with_probes(self, requests: Sequence[storage.Request]) -> list[storage.Result]:
        # A probe has its own transaction: if the disk has too little space for it, the other requests may still fit.
        others = [request for request in requests if type(request) is not Probe]
        results = iter(self.execute_all(others) if others else [])
        return [self._probe() if type(request) is Probe else next(results) for request in requests]

    def _probe(self) -> storage.Result:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            # A table of its own, created only when needed, so that the schema of the file stays the same. Random bytes,
            # because SQLite does not write a value that is already there.
            self._db.execute("CREATE TABLE IF NOT EXISTS probe (id INTEGER PRIMARY KEY, value BLOB)")
            self._db.execute(f"REPLACE INTO probe VALUES (1, randomblob({PROBE_BYTES}))")
            self._commit()
        except sqlite3.Error as error:
            self._roll_back()
            return storage.Failed(f"{type(error).__name__}: {error}")
        return storage.Saved()

    def merge_tail(self, longest: int) -> None:
        """Move the latest messages to their conversations if there are more than `longest`.

        Call it while no request waits. The next request that reads messages moves them in any case.

        Raises: sqlite3.Error. Then nothing has changed.
        """
        if len(self._tail) <= longest:
            return
        try:
            self._begin()
            self._tail.merge()
            self._commit()
        except sqlite3.Error:
            self._roll_back()
            raise

    def _begin(self) -> None:
        self._db.execute("BEGIN")
        if self._lost_tail:
            self._tail.reload()
            self._lost_tail = False
        if self._is_careful or len(self._tail) > _LONGEST_TAIL:
            self._tail.merge()

    def _commit(self) -> None:
        self._db.execute("COMMIT")

    def _roll_back(self) -> None:
        self._heads.clear()
        self._lost_tail = True
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    # --- requests ---------------------------------------------------------------------------------------------------

    def execute(self, request: storage.Request) -> storage.Result:
        """Carry out one request, within the current transaction. `execute_all` completes it.

        Raises: sqlite3.Error, or another exception if a value cannot be stored in the database.
        """
        if type(request) is storage.Append:
            return self._append(request)
        if type(request) is storage.SaveState:
            return self._save_state(request)
        if type(request) is storage.OpenConversation:
            return self._open_conversation(request)
        if type(request) is storage.RevokeTokens:
            return self._revoke_tokens(request)
        self._tail.merge()  # because the other requests read messages
        if type(request) is storage.OpenUser:
            return self._open_user(request)
        if type(request) is storage.Missed:
            return self._missed(request)
        if type(request) is storage.Range:
            return self._range(request)
        if type(request) is storage.CountRead:
            return self._count_read(request)
        if type(request) is storage.ReadGroup:
            return self._read_group(request)
        if type(request) is storage.ReadFriends:
            return self._read_friends(request)
        if type(request) is storage.Get:
            return self._get(request)
        if type(request) is storage.Between:
            return self._between(request)
        assert isinstance(request, storage.Find)
        return self._find(request)

    def _head(self, id: str) -> _Head | None:
        head = self._heads.get(id)
        if head is None:
            self._tail.merge()
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
            f"SELECT user FROM stays WHERE conversation = ? AND last = {schema.OPEN} ORDER BY first, position", (key,)
        )
        return tuple(user for (user,) in rows)

    def _blocked(self, id: str, key: int) -> frozenset[str]:
        if not is_p2p(id):
            return frozenset()
        rows = self._db.execute("SELECT user FROM members WHERE conversation = ? AND blocked", (key,))
        return frozenset(user for (user,) in rows)

    def _open_conversation(self, request: storage.OpenConversation) -> storage.LogState | None:
        head = self._head(request.conversation_id)
        if head is None:
            if request.founders is None:
                return None
            head = self._create(request.conversation_id, request.founders)
        state, notified = self._db.execute(
            "UPDATE conversations SET epoch = epoch + 1 WHERE key = ? RETURNING state, notified", (head.key,)
        ).fetchone()
        head.epoch += 1
        return storage.LogState(
            head.epoch,
            head.max_seq,
            head.members,
            schema.json_or_none(state),
            tuple((user, seq) for user, seq in json.loads(notified)),
            tuple(self._db.execute(schema.LEFT_LATELY, (head.key, head.max_seq - storage.NOTIFIED))),
        )

    def _create(self, id: str, members: tuple[str, ...]) -> _Head:
        key = self._db.execute("INSERT INTO conversations (id, epoch) VALUES (?, 0)", (id,)).lastrowid
        assert key is not None
        self._join(key, members, 1, 0)
        return self._keep_head(id, _Head(key, 0, 0, members, frozenset()))

    def _join(self, key: int, users: tuple[str, ...], seq: int, before: int) -> None:
        self._db.executemany(
            "INSERT INTO members (user, conversation) VALUES (?, ?) ON CONFLICT DO NOTHING",
            [(user, key) for user in users],
        )
        self._db.executemany(
            "INSERT INTO stays (user, conversation, first, position) VALUES (?, ?, ?, ?)",
            [(user, key, seq, position) for position, user in enumerate(users, before)],
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
        if effects is None and self._is_blocked(head, message):
            original = self._by_key(head, id, sender, message.id_client)
            return storage.Duplicate(original) if original else storage.Blocked()
        if effects is None and not self._is_careful:
            self._tail.add((head.key, sender, message.id_client), schema.row_of(head.key, message))
        elif not self._insert(head, message):
            original = self._by_key(head, id, sender, message.id_client)
            assert original is not None
            return storage.Duplicate(original)
        appended = storage.Appended()
        if effects is None:
            self._added(head, message.seq, head.members, appended)
        else:
            if effects.joined:
                self._catch_up(head, id, effects.joined, appended)
            self._added(head, message.seq, (*head.members, *effects.joined), appended)
            self._apply(head, message.seq, effects, appended)
        if request.shown > 0 and (sender in head.members or (effects is not None and sender in effects.left)):
            old = self._state_of(head, id, sender)
            if old is not None and request.shown > old.read_seq:
                appended.states = self._change(head, storage.SaveState(sender, id, request.shown), old, head.max_seq)
        return appended

    def _is_blocked(self, head: _Head, message: Message) -> bool:
        if not head.blocked and message.scene != Scene.SYSTEM:
            return False  # saves time for most messages
        id, users = storage.may_have_blocked(message, head.members)
        between = head if id == message.conversation_id else self._head(id)
        return between is not None and not between.blocked.isdisjoint(users)

    def _insert(self, head: _Head, message: Message) -> bool:
        """Insert the message and return True, or return False if its idempotency key exists already."""
        self._tail.merge()
        return bool(self._db.execute(_INSERT, schema.row_of(head.key, message)).rowcount)

    def _added(self, head: _Head, seq: int, members: tuple[str, ...], appended: storage.Appended) -> None:
        head.max_seq = seq
        self._to_inboxes(head, seq, members, appended)

    def _to_inboxes(self, head: _Head, seq: int, members: tuple[str, ...], appended: storage.Appended) -> None:
        if self._fanout.keeps_inboxes:
            appended.inbox_rows += len(members)
            self._db.executemany(
                "INSERT INTO inboxes VALUES"
                " (?1, 1 + coalesce((SELECT max(position) FROM inboxes WHERE user = ?1), 0), ?2, ?3)",
                [(member, head.key, seq) for member in members],
            )

    def _apply(self, head: _Head, seq: int, effects: storage.Effects, appended: storage.Appended) -> None:
        db, key = self._db, head.key
        if effects.state is not None:
            db.execute("UPDATE conversations SET state = ? WHERE key = ?", (json.dumps(effects.state), key))
        if effects.joined:
            self._join(key, effects.joined, seq, len(head.members))
        if effects.left:
            db.executemany(
                f"UPDATE stays SET last = ? WHERE user = ? AND conversation = ? AND last = {schema.OPEN}",
                [(seq, user, key) for user in effects.left],
            )
        if effects.joined or effects.left:
            head.members = tuple(user for user in (*head.members, *effects.joined) if user not in effects.left)
        if (amended := effects.amended) is not None:
            edits = self._edits(key, amended) if amended.recalled else []
            if amended.recalled:
                db.execute("DELETE FROM earlier WHERE conversation = ? AND seq = ?", (key, amended.seq))
            else:
                db.execute(
                    "INSERT INTO earlier SELECT conversation, seq, amended, content FROM messages"
                    " WHERE conversation = ? AND seq = ?",
                    (key, amended.seq),
                )
            db.executemany(
                f"REPLACE INTO messages (conversation, {schema.MESSAGE}) VALUES ({schema.VALUES})",
                [schema.row_of(key, one) for one in (amended, *(changes.recalled(edit, seq) for edit in edits))],
            )
        if effects.notes:
            notes = (self._note(note, appended) for note in effects.notes)
            appended.notes = tuple(note for note in notes if note is not None)
            (notified,) = db.execute("SELECT notified FROM conversations WHERE key = ?", (key,)).fetchone()
            notified = [*json.loads(notified), *((note.to, note.seq) for note in appended.notes)][-storage.NOTIFIED :]
            db.execute("UPDATE conversations SET notified = ? WHERE key = ?", (json.dumps(notified), key))

    def _catch_up(self, head: _Head, id: str, users: tuple[str, ...], appended: storage.Appended) -> None:
        """Show rejoining users the edits and recalls of messages that they had seen, made during their absence."""
        query = "SELECT first, last FROM stays WHERE user = ? AND conversation = ? ORDER BY first"
        stays = {user: self._db.execute(query, (user, head.key)).fetchall() for user in users}
        ends = [before[-1][1] for before in stays.values() if before]
        if not ends:
            return
        rows = self._db.execute(
            f"SELECT {schema.MESSAGE} FROM messages"
            " WHERE conversation = ? AND seq > ? AND type = 'notification' AND NOT recalled",
            (head.key, min(ends)),
        )
        entries = [schema.message(id, row) for row in rows]
        for user, before in stays.items():
            for entry in changes.concerning(entries, before):
                if entry.seq > before[-1][1]:
                    self._db.execute("INSERT INTO stays VALUES (?1, ?2, ?3, ?3, 0)", (user, head.key, entry.seq))
                    self._to_inboxes(head, entry.seq, (user,), appended)

    def _edits(self, key: int, message: Message) -> list[Message]:
        """Return the entries of the log that have edited the message."""
        rows = self._db.execute(
            f"SELECT {schema.MESSAGE} FROM messages WHERE conversation = ?1 AND type = 'notification'"
            " AND seq > ?2 AND seq <= (SELECT amended FROM messages WHERE conversation = ?1 AND seq = ?2)",
            (key, message.seq),
        )
        entries = (schema.message(message.conversation_id, row) for row in rows.fetchall())
        return [entry for entry in entries if changes.edits(entry, message.seq)]

    def _note(self, note: Message, appended: storage.Appended) -> Message | None:
        head = self._head(note.conversation_id) or self._create(note.conversation_id, (note.to,))
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
        self._tail.merge()
        row = self._db.execute(
            f"SELECT {schema.MESSAGE} FROM messages WHERE conversation = ? AND sender = ? AND id_client = ?",
            (head.key, sender, id_client),
        ).fetchone()
        return schema.message(conversation_id, row) if row else None

    def _get(self, request: storage.Get) -> Message | None:
        head, user = self._head(request.conversation_id), request.user
        if head is None or not 1 <= request.seq <= head.max_seq:
            return None
        if user is not None and not self._sees(user, head, request.seq):
            return None
        row = self._db.execute(
            f"SELECT {schema.MESSAGE} FROM messages WHERE conversation = ? AND seq = ?", (head.key, request.seq)
        ).fetchone()
        return schema.message(request.conversation_id, row)

    def _between(self, request: storage.Between) -> storage.Relations:
        blocking: list[str] = []
        friends: list[str] = []
        for other in request.others:
            row = self._db.execute(
                "SELECT state, (SELECT blocked FROM members WHERE user = ? AND conversation = key)"
                " FROM conversations WHERE id = ?",
                (other, p2p_id(request.user, other)),
            ).fetchone()
            if row is not None:
                state, blocked = row
                if blocked:
                    blocking.append(other)
                if are_friends(schema.json_or_none(state)):
                    friends.append(other)
        return storage.Relations(tuple(blocking), tuple(friends))

    def _open_user(self, request: storage.OpenUser) -> storage.UserState:
        db, user = self._db, request.user
        epoch, revoked = db.execute(
            "INSERT INTO users (id, epoch) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1"
            " RETURNING epoch, revoked_before",
            (user,),
        ).fetchone()
        states = {}
        for key, id, end, ended, delivered_seq, state, *row in db.execute(
            f"SELECT key, id, {schema.END}, {schema.ENDED}, delivered_seq, state, {schema.STATE}"
            " FROM members JOIN conversations ON key = conversation WHERE user = ? ORDER BY id",
            (user,),
        ):
            state = schema.json_or_none(state) if is_p2p(id) else None
            states[key] = storage.StateRecord(schema.state(id, row), [], end, delivered_seq, state, ended)
        for key, seq in db.execute(schema.UNREAD, (user,)) if states else ():
            states[key].unread_seqs.append(seq)
        return storage.UserState(epoch, list(states.values()), revoked, self.log)

    def _revoke_tokens(self, request: storage.RevokeTokens) -> storage.Saved:
        self._db.execute(
            "INSERT INTO users (id, revoked_before) VALUES (?, ?) ON CONFLICT (id)"
            " DO UPDATE SET revoked_before = max(revoked_before, excluded.revoked_before)",
            (request.user, request.before),
        )
        # If the transaction fails, the value is too high, which is harmless: the next revocation is later still.
        self.latest_revocation = max(request.before, self.latest_revocation)
        return storage.Saved()

    def _save_state(self, request: storage.SaveState) -> storage.StatesSaved:
        head, id, user = self._head(request.conversation_id), request.conversation_id, request.user
        if head is None and request.blocked is not None and user in (members := p2p_members(id) or ()):
            head = self._create(id, members)  # a user may block another before there is a conversation
        old = self._state_of(head, id, user) if head else None
        if head is None or old is None:
            return storage.StatesSaved()
        changed = dict(self._change(head, request, old, self._end_for(user, head, id)))
        saved = [(user, changed.get(user, old))]
        for peer in storage.peers(id, head.members, user) if request.concerns_peer else ():
            state = changed.get(peer) or self._state_of(head, id, peer)
            assert state is not None
            saved.append((peer, state))
        return storage.StatesSaved(tuple(saved))

    def _end_for(self, user: str, head: _Head, id: str) -> int:
        """Return the last seq of the log that this user, who is or was a member, may see."""
        if is_p2p(id) and user in head.members:
            return head.max_seq  # saves a query for most read marks
        (last,) = self._db.execute(
            "SELECT max(last) FROM stays WHERE user = ? AND conversation = ?", (user, head.key)
        ).fetchone()
        return int(min(last, head.max_seq))

    def _change(self, head: _Head, change: storage.SaveState, old: ConversationState, end: int) -> storage.States:
        """Apply the change to the user's stored state, `old`, and to the peers' states; return the changed states.

        `end` is the last seq of the log that the user may see.
        """
        user, id = change.user, change.conversation_id
        new = change.applied_to(old, end)
        changed = [(user, new)] if new != old else []
        delivered_seq = 0  # of the user, if it grows
        if new.blocked != old.blocked and is_p2p(id):
            head.blocked = head.blocked | {user} if new.blocked else head.blocked - {user}
        if change.concerns_peer:
            for peer in storage.peers(id, head.members, user):
                before = self._state_of(head, id, peer)
                assert before is not None
                after = change.shown_to_peer(before, new, end)
                if after != before:
                    changed.append((peer, after))
                    delivered_seq = after.peer_delivered_seq
        if delivered_seq and new == old:
            self._db.execute(
                "UPDATE members SET delivered_seq = ? WHERE user = ? AND conversation = ?",
                (delivered_seq, user, head.key),
            )
        for one, state in changed:
            (state.version,) = self._db.execute(
                "INSERT INTO users (id, version) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET version = version + 1"
                " RETURNING version",
                (one,),
            ).fetchone()
            self._db.execute(
                f"UPDATE members SET ({schema.STATE}, delivered_seq) = (?,?,?,?,?,?,?,?,?, max(delivered_seq, ?))"
                " WHERE user = ? AND conversation = ?",
                (
                    state.version,
                    state.read_seq,
                    state.pinned,
                    state.muted,
                    state.hidden_seq,
                    state.custom,
                    state.peer_read_seq,
                    state.peer_delivered_seq,
                    state.blocked,
                    delivered_seq if one == user else 0,
                    one,
                    head.key,
                ),
            )
            if is_p2p(id):
                head.states[one] = state
        return tuple(changed)

    def _state_of(self, head: _Head, conversation_id: str, user: str) -> ConversationState | None:
        """Return the user's conversation state, or None if the user was never a member."""
        state = head.states.get(user)
        if state is None:
            row = self._db.execute(
                f"SELECT {schema.STATE} FROM members WHERE user = ? AND conversation = ?", (user, head.key)
            ).fetchone()
            state = schema.state(conversation_id, row) if row else None
            if state is not None and is_p2p(conversation_id):
                head.states[user] = state
        return state

    def _count_read(self, request: storage.CountRead) -> storage.ReadCount | None:
        head = self._head(request.conversation_id)
        if head is None or not 1 <= request.seq <= head.max_seq:
            return None
        if not self._sees(request.user, head, request.seq):
            return None
        return storage.ReadCount(*self._db.execute(schema.COUNT_READ, (head.key, request.seq)).fetchone())

    def _sees(self, user: str, head: _Head, seq: int) -> bool:
        """Return whether the user may see the entry at this seq."""
        seen = self._db.execute(
            "SELECT 1 FROM stays WHERE user = ? AND conversation = ? AND ? BETWEEN first AND last",
            (user, head.key, seq),
        )
        return seen.fetchone() is not None

    def _range(self, request: storage.Range) -> storage.RangePage | None:
        head, user = self._head(request.conversation_id), request.user
        if head is None or self._state_of(head, request.conversation_id, user) is None:
            return None
        first, last, limit = schema.integer(request.first), schema.integer(request.last), request.limit
        page, room = storage.RangePage([]), Room(request.page_bytes)
        for row in self._db.execute(schema.RANGE, (user, head.key, first, last, limit + 1)):
            message = self._as_seen_by(user, head.key, schema.message(request.conversation_id, row))
            if len(page.messages) == limit or not room.takes(body_bytes(message)):
                page.more = True
                break
            page.messages.append(message)
        page.messages.reverse()
        return page

    def _read_group(self, request: storage.ReadGroup) -> storage.GroupRecord | None:
        head = self._head(request.conversation_id)
        if head is None or request.user not in head.members:
            return None
        (state,) = self._db.execute("SELECT state FROM conversations WHERE key = ?", (head.key,)).fetchone()
        members, more = storage.members_after(request, head.members)
        count = len(head.members)
        return storage.GroupRecord(head.max_seq, schema.json_or_none(state), head.members[0], count, members, more)

    def _read_friends(self, request: storage.ReadFriends) -> storage.FriendsRecord:
        rows = self._db.execute(
            "SELECT id, blocked, state FROM members JOIN conversations ON key = conversation"
            " WHERE user = ? AND state IS NOT NULL",
            (request.user,),
        )
        found = ((peer_in(id, request.user), bool(blocked), state) for id, blocked, state in rows)
        return storage.friends_record(
            request, ((other, blocked, schema.json_or_none(state)) for other, blocked, state in found if other)
        )

    def _as_seen_by(self, user: str, key: int, message: Message) -> Message:
        """Return the message as the user may see it.

        A user who has left sees it without later edits, but sees a later recall.
        """
        if not message.amended or message.recalled:
            return message
        (end,) = self._db.execute(
            "SELECT max(last) FROM stays WHERE user = ? AND conversation = ?", (user, key)
        ).fetchone()
        if message.amended <= end:
            return message
        content, amended = self._db.execute(
            "SELECT content, amended FROM earlier WHERE conversation = ? AND seq = ? AND amended <= ?"
            " ORDER BY amended DESC LIMIT 1",
            (key, message.seq, end),
        ).fetchone()
        return replace(message, content=content, amended=amended)

    def _missed(self, request: storage.Missed) -> storage.MissedPage | storage.Ahead:
        user = request.session.user
        row = self._db.execute("SELECT version FROM users WHERE id = ?", (user,)).fetchone()
        user_version = row[0] if row else 0
        if max(request.version, request.state_version) > user_version or self._is_ahead(request):
            return storage.Ahead()
        room = Room(request.page_bytes)
        if self._fanout.keeps_inboxes and not request.reads_logs:
            page = self._missed_in_inbox(request, room)
        else:
            page = self._missed_in_logs(request, room)
            if self._fanout.keeps_inboxes and not page.more:
                page.inbox = self._inbox_end(user)
        if not page.more:
            version = schema.integer(request.version)
            states = self._db.execute(
                f"SELECT id, {schema.STATE} FROM members JOIN conversations ON key = conversation"
                " WHERE user = ? AND version >= ?",
                (user, version + 1 if version else 0),
            )
            storage.add_states(page, request, (schema.state(id, row) for id, *row in states), user_version, room)
        return page

    def _is_ahead(self, request: storage.Missed) -> bool:
        """Whether the client has a cursor beyond the end of the user's inbox.

        If the request is `doubted`, check the cursors of the conversations, too.
        """
        user = request.session.user
        if request.inbox > 0 and request.inbox > self._inbox_end(user):
            return True
        if not request.doubted:
            return False
        # Only the user's own conversations count. A comparison with others would show how much is written in them.
        ends = dict(
            self._db.execute(
                f"SELECT id, {schema.END} FROM members JOIN conversations ON key = conversation WHERE user = ?", (user,)
            )
        )
        return any(seq > ends.get(id, 0) for id, seq in request.cursors.items() if not is_chatroom(id))

    def _inbox_end(self, user: str) -> int:
        """Return the last position of the user's inbox; 0 if it is empty."""
        (end,) = self._db.execute("SELECT max(position) FROM inboxes WHERE user = ?", (user,)).fetchone()
        return end or 0

    def _beginning(self, user: str, key: int, id: str, newest: int) -> Skipped | None:
        """Return the part of the log that a sync leaves out, which begins with the newest messages."""

        def unread(last: int) -> Unread:
            rows = self._db.execute(schema.UNREAD_UP_TO, (user, key, last))
            return Unread(0, (seq for (seq,) in rows))

        rows = self._db.execute(schema.RANGE, (user, key, 0, schema.OPEN, -1))
        return storage.beginning(id, (schema.message(id, row) for row in rows), newest, unread)

    def _missed_in_inbox(self, request: storage.Missed, room: Room) -> storage.MissedPage:
        user = request.session.user
        page, ranges = storage.MissedPage([], {}, more=False, inbox=max(0, request.inbox)), Room(UNREAD_RANGES)
        rows = self._db.execute(
            "SELECT position, inboxes.conversation, id, seq FROM inboxes JOIN conversations ON key = conversation"
            " WHERE user = ? AND position > ? ORDER BY position",
            (user, page.inbox),
        )
        for position, key, id, seq in rows:
            cursor = page.cursors.get(id, request.cursors.get(id, 0))
            is_first = id not in page.cursors and request.begins(id)
            if is_first and (skipped := self._beginning(user, key, id, request.newest)):
                if not ranges.takes(len(skipped.unread)):
                    page.more = True
                    break
                page.skipped.append(skipped)
                cursor = page.cursors[id] = skipped.seq
            if seq > cursor:  # otherwise the device has received it by a push, or it is left out
                row = self._db.execute(
                    f"SELECT {schema.MESSAGE} FROM messages WHERE conversation = ? AND seq = ?", (key, seq)
                ).fetchone()
                message = self._as_seen_by(user, key, schema.message(id, row))
                if len(page.messages) == request.limit or not room.takes(body_bytes(message)):
                    page.more = True
                    break
                page.messages.append(message)
            page.inbox = position
            page.cursors[id] = max(seq, cursor)
        return page

    def _missed_in_logs(self, request: storage.Missed, room: Room) -> storage.MissedPage:
        page, ranges = storage.MissedPage([], {}, more=False, reads=0), Room(UNREAD_RANGES)
        messages, cursors, user = page.messages, page.cursors, request.session.user
        conversations = self._db.execute(
            f"SELECT key, id, {schema.END} FROM members JOIN conversations ON key = conversation"
            " WHERE user = ? ORDER BY id",
            (user,),
        ).fetchall()
        for key, id, end in conversations:
            page.reads += 1
            cursor = max(0, request.cursors.get(id, 0))
            if request.begins(id) and (skipped := self._beginning(user, key, id, request.newest)):
                if not ranges.takes(len(skipped.unread)):
                    page.more = True
                    return page
                page.skipped.append(skipped)
                cursor = skipped.seq
            if cursor < end:
                for row in self._db.execute(schema.AFTER, (user, key, cursor, request.limit - len(messages) + 1)):
                    message = self._as_seen_by(user, key, schema.message(id, row))
                    if len(messages) == request.limit or not room.takes(body_bytes(message)):
                        page.more = True
                        cursors[id] = cursor
                        return page
                    messages.append(message)
                    cursor = message.seq
            cursors[id] = max(cursor, end)
        return page
