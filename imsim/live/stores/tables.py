"""The core's storage requests over SQLite tables, with exactly the meaning of `MemoryStorage`."""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from imsim.core import changes, storage
from imsim.core.changes import are_friends
from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import ConversationState, Message, Scene, is_chatroom, p2p_id, p2p_members
from imsim.core.policies import Fanout
from imsim.core.sizes import Room, body_bytes
from imsim.live.stores import schema

_CACHED = 100_000  # conversations whose head is kept in memory


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
        self._fanout = Fanout(fanout)
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
                settings = f"INSERT INTO settings VALUES ('{self._fanout}', '{uuid.uuid4().hex}');"
                db.executescript(f"BEGIN;{schema.SCHEMA}{settings}COMMIT;")
            elif application != schema.APPLICATION_ID:
                raise UsageError(f"{path}: a database of something else; give imsim a file of its own")
            elif version != schema.SCHEMA_VERSION:
                raise UsageError(
                    f"{path}: written by another version of imsim (schema {version}, here {schema.SCHEMA_VERSION});"
                    " use that version, or a new file"
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {synchronous}")
            fanout, self.log = db.execute("SELECT fanout, log FROM settings").fetchone()
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
        if type(request) is storage.SaveState:
            return self._save_state(request)
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
        if type(request) is storage.Between:
            return self._between(request)
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
            f"SELECT user FROM stays WHERE conversation = ? AND last = {schema.OPEN} ORDER BY first, position", (key,)
        )
        return tuple(user for (user,) in rows)

    def _blocked(self, id: str, key: int) -> frozenset[str]:
        if not id.startswith(f"{Scene.P2P}:"):
            return frozenset()
        rows = self._db.execute("SELECT user FROM members WHERE conversation = ? AND blocked", (key,))
        return frozenset(user for (user,) in rows)

    def _open_conversation(self, request: storage.OpenConversation) -> storage.LogState | None:
        head = self._head(request.conversation_id)
        if head is None:
            if request.founders is None:
                return None
            head = self._make(request.conversation_id, request.founders)
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

    def _make(self, id: str, members: tuple[str, ...]) -> _Head:
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
        if not self._insert(head, message):
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
            self._carry_out(head, message.seq, effects, appended)
        sees_it = sender in head.members or (effects is not None and sender in effects.left)
        if request.shown > 0 and sees_it:
            old = self._state_of(head, id, sender)
            if old is not None and request.shown > old.read_seq:
                appended.states = self._change(head, storage.SaveState(sender, id, request.shown), old)
        return appended

    def _is_blocked(self, head: _Head, message: Message) -> bool:
        id, users = storage.may_have_blocked(message, head.members)
        between = head if id == message.conversation_id else self._head(id)
        return between is not None and not between.blocked.isdisjoint(users)

    def _insert(self, head: _Head, message: Message) -> bool:
        """Whether its key was free; else nothing is written."""
        return bool(
            self._db.execute(
                f"INSERT INTO messages (conversation, {schema.MESSAGE}, countable) VALUES ({schema.VALUES})"
                " ON CONFLICT (conversation, sender, id_client) DO NOTHING",
                schema.row_of(head.key, message),
            ).rowcount
        )

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

    def _carry_out(self, head: _Head, seq: int, effects: storage.Effects, appended: storage.Appended) -> None:
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
                f"REPLACE INTO messages (conversation, {schema.MESSAGE}, countable) VALUES ({schema.VALUES})",
                [schema.row_of(key, one) for one in (amended, *(changes.recalled(edit, seq) for edit in edits))],
            )
        if effects.notes:
            notes = (self._note(note, appended) for note in effects.notes)
            appended.notes = tuple(note for note in notes if note is not None)
            (notified,) = db.execute("SELECT notified FROM conversations WHERE key = ?", (key,)).fetchone()
            notified = [*json.loads(notified), *((note.to, note.seq) for note in appended.notes)][-storage.NOTIFIED :]
            db.execute("UPDATE conversations SET notified = ? WHERE key = ?", (json.dumps(notified), key))

    def _catch_up(self, head: _Head, id: str, users: tuple[str, ...], appended: storage.Appended) -> None:
        """Who comes back sees what became meanwhile of what was there before."""
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
        """The entries of the log that have edited it."""
        rows = self._db.execute(
            f"SELECT {schema.MESSAGE} FROM messages WHERE conversation = ?1 AND type = 'notification'"
            " AND seq > ?2 AND seq <= (SELECT amended FROM messages WHERE conversation = ?1 AND seq = ?2)",
            (key, message.seq),
        )
        entries = (schema.message(message.conversation_id, row) for row in rows.fetchall())
        return [entry for entry in entries if changes.edits(entry, message.seq)]

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
            f"SELECT {schema.MESSAGE} FROM messages WHERE conversation = ? AND sender = ? AND id_client = ?",
            (head.key, sender, id_client),
        ).fetchone()
        return schema.message(conversation_id, row) if row else None

    def _get(self, request: storage.Get) -> Message | None:
        head = self._head(request.conversation_id)
        if head is None or not 1 <= request.seq <= head.max_seq:
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
            f"SELECT key, id, {schema.END}, {schema.ENDED}, delivered_seq, state, {schema.PLACE}"
            " FROM members JOIN conversations ON key = conversation WHERE user = ? ORDER BY id",
            (user,),
        ):
            state = schema.json_or_none(state) if id.startswith(f"{Scene.P2P}:") else None
            states[key] = storage.StateRecord(schema.state(id, row), [], end, delivered_seq, state, ended)
        for key, seq in db.execute(schema.UNREAD, (user,)):
            states[key].unread_seqs.append(seq)
        return storage.UserState(epoch, list(states.values()), revoked, self.log)

    def _revoke_tokens(self, request: storage.RevokeTokens) -> storage.Saved:
        self._db.execute(
            "INSERT INTO users (id, revoked_before) VALUES (?, ?) ON CONFLICT (id)"
            " DO UPDATE SET revoked_before = max(revoked_before, excluded.revoked_before)",
            (request.user, request.before),
        )
        return storage.Saved()

    def _save_state(self, request: storage.SaveState) -> storage.StatesSaved:
        head, id, user = self._head(request.conversation_id), request.conversation_id, request.user
        if head is None and request.blocked is not None and user in (members := p2p_members(id) or ()):
            head = self._make(id, members)  # one may block whom one has never heard of
        old = self._state_of(head, id, user) if head else None
        if head is None or old is None:
            return storage.StatesSaved()
        changed = dict(self._change(head, request, old))
        saved = [(user, changed.get(user, old))]
        for peer in storage.peers(id, head.members, user) if request.concerns_peer else ():
            state = changed.get(peer) or self._state_of(head, id, peer)
            assert state is not None
            saved.append((peer, state))
        return storage.StatesSaved(tuple(saved))

    def _change(self, head: _Head, change: storage.SaveState, old: ConversationState) -> storage.States:
        """`old`: the place as it stands. Returns the places that are other than before."""
        user, id = change.user, change.conversation_id
        new = change.applied_to(old, head.max_seq)
        changed = [(user, new)] if new != old else []
        if new.blocked != old.blocked and id.startswith(f"{Scene.P2P}:"):
            head.blocked = head.blocked | {user} if new.blocked else head.blocked - {user}
        if change.concerns_peer:
            for peer in storage.peers(id, head.members, user):
                before = self._state_of(head, id, peer)
                assert before is not None
                after = change.shown_to_peer(before, new, head.max_seq)
                if after != before:
                    changed.append((peer, after))
                    self._db.execute(
                        "UPDATE members SET delivered_seq = ? WHERE user = ? AND conversation = ?",
                        (after.peer_delivered_seq, user, head.key),
                    )
        for one, state in changed:
            (state.version,) = self._db.execute(
                "INSERT INTO users (id, version) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET version = version + 1"
                " RETURNING version",
                (one,),
            ).fetchone()
            self._db.execute(
                f"UPDATE members SET ({schema.PLACE}) = (?,?,?,?,?,?,?,?,?) WHERE user = ? AND conversation = ?",
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
                    one,
                    head.key,
                ),
            )
        return tuple(changed)

    def _state_of(self, head: _Head, conversation_id: str, user: str) -> ConversationState | None:
        """None for who never was a member."""
        row = self._db.execute(
            f"SELECT {schema.PLACE} FROM members WHERE user = ? AND conversation = ?", (user, head.key)
        ).fetchone()
        return schema.state(conversation_id, row) if row else None

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
        return storage.ReadCount(*self._db.execute(schema.COUNT_READ, (head.key, request.seq)).fetchone())

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

    def _as_seen_by(self, user: str, key: int, message: Message) -> Message:
        """Who has left sees it as it was then, or that it was recalled."""
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
        stands = self._db.execute("SELECT version FROM users WHERE id = ?", (user,)).fetchone()
        user_version = stands[0] if stands else 0
        if max(request.version, request.state_version) > user_version or self._is_ahead(request):
            return storage.Ahead()
        room = Room(request.page_bytes)
        page = (self._missed_in_inbox if self._fanout.keeps_inboxes else self._missed_in_logs)(request, room)
        if not page.more:
            version = schema.integer(request.version)
            states = self._db.execute(
                f"SELECT id, {schema.PLACE} FROM members JOIN conversations ON key = conversation"
                " WHERE user = ? AND version >= ?",
                (user, version + 1 if version else 0),
            )
            storage.add_states(page, request, (schema.state(id, row) for id, *row in states), user_version, room)
        return page

    def _is_ahead(self, request: storage.Missed) -> bool:
        """Whether the asker has more of the inbox, or where it is `doubted` of a conversation, than there is."""
        user = request.session.user
        if request.inbox > 0:
            (end,) = self._db.execute("SELECT max(position) FROM inboxes WHERE user = ?", (user,)).fetchone()
            if request.inbox > (end or 0):
                return True
        if not request.doubted:
            return False
        ends = dict(
            self._db.execute(
                f"SELECT id, {schema.END} FROM members JOIN conversations ON key = conversation WHERE user = ?", (user,)
            )
        )
        return any(
            seq > ends.get(id, 0) and seq > self._end_of(id)
            for id, seq in request.cursors.items()
            if not is_chatroom(id)
        )

    def _end_of(self, id: str) -> int:
        """Where a conversation ends, whoever is in it; 0 where there is none. A user may have been told a later seq
        than where it ends for them, of what was sent from outside."""
        row = self._db.execute(
            "SELECT coalesce(max(seq), 0) FROM messages JOIN conversations ON key = conversation"
            " WHERE conversations.id = ?",
            (id,),
        ).fetchone()
        return int(row[0])

    def _missed_in_inbox(self, request: storage.Missed, room: Room) -> storage.MissedPage:
        user = request.session.user
        page = storage.MissedPage([], {}, more=False, inbox=max(0, request.inbox))
        rows = self._db.execute(
            "SELECT position, inboxes.conversation, id, seq FROM inboxes JOIN conversations ON key = conversation"
            " WHERE user = ? AND position > ? ORDER BY position",
            (user, page.inbox),
        )
        for position, key, id, seq in rows:
            if seq > request.cursors.get(id, 0):  # else the device got it by a push
                row = self._db.execute(
                    f"SELECT {schema.MESSAGE} FROM messages WHERE conversation = ? AND seq = ?", (key, seq)
                ).fetchone()
                message = self._as_seen_by(user, key, schema.message(id, row))
                if len(page.messages) == request.limit or not room.takes(body_bytes(message)):
                    page.more = True
                    break
                page.messages.append(message)
            page.inbox = position
            page.cursors[id] = max(seq, request.cursors.get(id, 0))
        return page

    def _missed_in_logs(self, request: storage.Missed, room: Room) -> storage.MissedPage:
        page = storage.MissedPage([], {}, more=False, reads=0)
        messages, cursors, user = page.messages, page.cursors, request.session.user
        conversations = self._db.execute(
            f"SELECT key, id, {schema.END} FROM members JOIN conversations ON key = conversation"
            " WHERE user = ? ORDER BY id",
            (user,),
        ).fetchall()
        for key, id, end in conversations:
            page.reads += 1
            cursor = max(0, request.cursors.get(id, 0))
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
