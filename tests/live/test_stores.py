"""Tests that SqliteStore has exactly the semantics of the core's MemoryStorage, and loses no answered request."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, replace
from itertools import count, cycle
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsim.core import changes, storage
from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Message, Scene, Session
from imsim.core.storage import memory
from imsim.core.storage.memory import MemoryStorage
from imsim.live import MemoryStore, SqliteStore
from imsim.live.stores import schema
from imsim.live.stores.tables import SqliteStorage

USERS = ("ann", "bob", "cy")
CONVERSATIONS = ("p2p:ann:bob", "p2p:bob:cy", "group:g")
users, conversations = st.sampled_from(USERS), st.sampled_from(CONVERSATIONS)
small = st.integers(-1, 6)
ends = small | st.sampled_from((-(2**70), 2**70))  # clients may request any integer


def message(conversation="p2p:ann:bob", seq=1, sender="ann", id_client="m1", **fields) -> Message:
    scene = Scene(conversation.partition(":")[0])
    fields = {"type": "text", "content": "hi", **fields}
    return Message(
        conversation, seq, f"{conversation}:{seq}", id_client, scene, sender=sender, to="x", time=5, **fields
    )


def at(seq: int, message: Message) -> Message:
    return replace(message, seq=seq, id=f"{message.conversation_id}:{seq}")


def session(user: str) -> Session:
    return Session(user, "d0", 1, "g0", 1)


json_values = st.dictionaries(
    st.text(max_size=3), st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers())
)
messages = st.builds(
    message,
    conversations,
    small,
    users,
    st.sampled_from([f"m{n}" for n in range(5)]),
    content=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    type=st.sampled_from(("text", "notification")),
    file=st.none() | json_values,
    custom=st.none() | st.just("{}"),
    resend=st.booleans(),
)
founders = st.none() | st.lists(users, unique=True).map(tuple)
everywhere = st.sampled_from((*CONVERSATIONS, *(f"system:{user}" for user in USERS)))


def note(to: str, id_client: str, file: dict | None) -> Message:
    return Message(f"system:{to}", 0, "", id_client, Scene.SYSTEM, "group_invite", "ann", to, 5, "", file)


@dataclass
class Draft:
    """A draft of an append. `fitting` makes a valid append of it, from the present state of the log."""

    append: storage.Append
    state: dict | None
    joiners: list[str]
    leavers: list[str]
    amends: int
    recalls: bool
    notes: list[Message]

    def fitting(self, model: MemoryStorage) -> storage.Append | None:
        message = self.append.message
        log = model._logs.get(message.conversation_id)
        if log is None:
            return None
        joined = tuple(user for user in self.joiners if user not in log.members)
        left = tuple(user for user in self.leavers if user in (*log.members, *joined))
        amended = None
        if 0 < self.amends <= len(log.messages):
            target, by = log.messages[self.amends - 1], len(log.messages) + 1
            amended = changes.recalled(target, by) if self.recalls else changes.edited(target, "edited", by)
        notes = tuple(replace(note, sender=message.sender) for note in self.notes)
        effects = storage.Effects(self.state, joined, left, amended, notes)
        message = at(len(log.messages) + 1, message)
        return storage.Append(log.epoch, message, self.append.shown, effects)


def saves(**fields):
    return st.builds(storage.SaveState, users, conversations, small, **fields)


appends = st.builds(storage.Append, st.integers(0, 3), messages, small)
page_bytes = st.sampled_from((1, 3, 12, 10**6))
some_users = st.just([]) | st.lists(users, unique=True, max_size=2)
friend_states = st.fixed_dictionaries({"friends": st.booleans(), "request": st.none() | st.just({"by": "ann"})})
drafts = st.builds(
    Draft,
    appends,
    st.none() | json_values | friend_states,
    some_users,
    some_users,
    small,
    st.booleans(),
    st.lists(st.builds(note, users, st.sampled_from(("n1", "n2", "n3", "n4")), st.none() | json_values), max_size=2),
)
requests = st.one_of(
    *[appends] * 4,
    *[drafts] * 4,
    st.builds(storage.OpenConversation, everywhere, founders),
    st.builds(storage.Find, everywhere, users, st.sampled_from(("m1", "m2", "n1"))),
    st.builds(storage.Get, everywhere, small, st.none() | users),
    st.builds(storage.OpenUser, users),
    st.builds(storage.RevokeTokens, users, st.floats(0, 9)),
    saves(
        pinned=st.none() | st.booleans(),
        muted=st.none() | st.booleans(),
        hidden_seq=st.none() | small,
        custom=st.none() | st.sampled_from(("", "{}")),
        delivered_seq=small,
    ),
    saves(blocked=st.booleans()),
    st.builds(storage.CountRead, users, everywhere, small),
    st.builds(storage.ReadGroup, users, everywhere, st.just("") | users, st.integers(1, 4)),
    st.builds(storage.ReadFriends, users, st.just("") | users, st.integers(1, 4)),
    st.builds(storage.Range, users, everywhere, small, small, st.integers(1, 4), page_bytes=page_bytes),
    st.builds(
        storage.Missed,
        users.map(session),
        st.dictionaries(everywhere, small),
        st.integers(1, 4),
        st.integers(0, 6),
        small,
        state_version=small,
        doubted=st.booleans(),
        page_bytes=page_bytes,
        newest=st.integers(0, 3),
    ),
)


@st.composite
def plausible(draw) -> list[storage.Request]:
    """Return requests in which most appends are valid. Without this, storage would refuse nearly every append."""
    model = MemoryStorage()
    absent = draw(st.none() | conversations)  # not created here; a request that blocks a user may create it
    founded = [storage.OpenConversation(id, draw(founders)) for id in CONVERSATIONS if id != absent]
    sequence: list[storage.Request] = []
    for request in [*founded, *draw(st.lists(requests, min_size=10, max_size=30))]:
        if isinstance(request, Draft):
            request = request.fitting(model) or request.append
        elif isinstance(request, storage.Append) and draw(st.integers(0, 4)):
            log = model._logs.get(request.message.conversation_id)
            if log is not None:
                message = at(len(log.messages) + 1, request.message)
                request = storage.Append(log.epoch, message, request.shown)
        model.execute(request)
        sequence.append(request)
    for user in USERS:  # read everything at the end
        sequence += [
            storage.OpenUser(user),
            storage.ReadFriends(user, "", 100),
            *(storage.Missed(session(user), {}, 100, version) for version in range(4)),
        ]
        for id, inbox in zip(model._logs, cycle((0, 1)), strict=False):
            sequence += [storage.Range(user, id, 0, 100, 100), storage.Missed(session(user), {id: 2}, 2, 0, inbox)]
            sequence += [storage.ReadGroup(user, id, "", 100), storage.Missed(session(user), {id: 2}, 100, newest=2)]
            sequence += [storage.CountRead(user, id, seq) for seq in range(4)]
    return [*sequence, *(storage.OpenConversation(id) for id in model._logs)]


@pytest.mark.parametrize("fanout", ["read", "write"])
@given(plausible(), st.lists(st.integers(1, 6), min_size=8, max_size=8), st.sets(st.integers(0, 40), max_size=3))
@settings(deadline=None, max_examples=100)
def test_sqlite_storage_answers_like_memory_storage(tmp_path_factory, fanout, sequence, sizes, restarts):
    path = tmp_path_factory.mktemp("store") / "im.db"
    tables = SqliteStorage(path, synchronous="NORMAL", fanout=fanout)
    model = MemoryStorage(fanout, tables.log)
    waiting, sizes = deque(sequence), cycle(sizes)
    try:
        with patch.object(storage, "NOTIFIED", 3), patch.object(memory, "NOTIFIED", 3):
            for number in count():
                batch = [waiting.popleft() for _ in range(min(next(sizes), len(waiting)))]
                assert tables.execute_all(batch) == [model.execute(request) for request in batch]
                if number in restarts:
                    tables._db.close()  # a crash: `close` would move the latest messages first
                    tables = SqliteStorage(path, synchronous="NORMAL", fanout=fanout)
                if not waiting:
                    break
    finally:
        tables.close()


@pytest.mark.parametrize(
    "query",
    [
        schema.UNREAD,
        schema.AFTER,
        schema.RANGE,
        schema.UNREAD_UP_TO,
        schema.COUNT_READ,
        f"SELECT {schema.END} FROM members JOIN conversations ON key = conversation WHERE user = ?",
        f"SELECT user FROM stays WHERE conversation = ? AND last = {schema.OPEN} ORDER BY first, position",
        "SELECT user FROM members WHERE conversation = ? AND blocked",
        "SELECT max(position) FROM inboxes WHERE user = ?",
    ],
)
def test_queries_neither_scan_a_table_nor_sort(query):
    kept = SqliteStorage(":memory:")
    parameters = max((n for n in range(1, 6) if f"?{n}" in query), default=1)
    rows = kept._db.execute(f"EXPLAIN QUERY PLAN {query}", (1,) * parameters)
    plan = [detail for *_, detail in rows]
    assert plan
    assert not [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step]
    kept.close()


def start(store) -> list:
    answers: list = []
    store.start(answers.extend)
    return answers


@pytest.mark.parametrize("make", [MemoryStore, lambda: SqliteStore(":memory:")])
async def test_store_answers_in_order_and_never_within_submit(make):
    store = make()
    answers = start(store)
    assert store.idle
    submitted = [storage.OpenUser(f"u{n}") for n in range(50)]
    for request in submitted:
        store.submit(request)
    assert not answers
    assert not store.idle
    await store.flush()
    assert store.idle
    assert [request for request, _ in answers] == submitted
    assert all(result == storage.UserState(1, [], log=store.storage.log) for _, result in answers)
    store.close()


@pytest.mark.parametrize("make", [MemoryStore, lambda: SqliteStore(":memory:")])
async def test_second_server_does_not_receive_answers_for_the_first(make):
    store = make()
    first = start(store)
    store.submit(storage.OpenUser("ann"))
    second = start(store)
    store.submit(storage.OpenUser("ann"))
    await store.flush()
    assert first == []
    assert [result.epoch for _, result in second] == [2]  # the store carried out the first request, too
    store.close()


async def test_waiting_requests_share_a_commit(monkeypatch):
    store = SqliteStore(":memory:")
    answers = start(store)
    commits = []
    commit = store.storage._commit
    monkeypatch.setattr(store.storage, "_commit", lambda: commits.append(len(answers)) or commit())
    for n in range(500):
        store.submit(storage.OpenUser(f"u{n}"))
    await store.flush()
    assert len(commits) == 1
    store.close()


async def test_failing_request_does_not_affect_its_batch():
    store = SqliteStore(":memory:")
    answers = start(store)
    store.submit(storage.OpenConversation("p2p:ann:bob", ("ann", "bob")))
    store.submit(storage.Append(1, message(seq=1, id_client="m1"), 0))
    store.submit(storage.Append(1, message(seq=2, id_client="m2", content="\ud800"), 0))
    store.submit(storage.Append(1, message(seq=2, id_client="m3"), 0))
    store.submit(storage.Find("p2p:ann:bob", "ann", "m3"))
    await store.flush()
    results = [result for _, result in answers]
    assert results[0] == storage.LogState(1, 0, ("ann", "bob"))
    assert results[1] == storage.Appended()
    assert isinstance(results[2], storage.Failed)
    assert results[3] == storage.Appended()
    assert results[4] == message(seq=2, id_client="m3")
    store.close()


@pytest.mark.parametrize("is_merged", [False, True])
@pytest.mark.parametrize("make", [MemoryStorage, lambda: SqliteStorage(":memory:")])
def test_append_with_a_known_key_is_a_duplicate_for_any_seq(make, is_merged):
    kept = make()

    def execute(request: storage.Request) -> storage.Result:
        if isinstance(kept, MemoryStorage):
            return kept.execute(request)
        [result] = kept.execute_all([request])
        if is_merged:
            kept.merge_tail(0)
        return result

    execute(storage.OpenConversation("p2p:ann:bob", ("ann", "bob")))
    assert execute(storage.Append(1, message(seq=1), 0)) == storage.Appended()
    for seq in (1, 2, 7):
        assert execute(storage.Append(1, message(seq=seq, content="other"), 0)) == storage.Duplicate(message())
    assert execute(storage.Append(1, message(seq=3, id_client="m2"), 0)) == storage.Fenced()
    assert execute(storage.Append(0, message(), 0)) == storage.Fenced()


async def test_failed_commit_fails_all_its_requests_and_changes_nothing(monkeypatch):
    store = SqliteStore(":memory:")
    answers = start(store)
    store.submit(storage.OpenConversation("p2p:ann:bob", ("ann", "bob")))
    await store.flush()

    def full() -> None:
        raise sqlite3.OperationalError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store.storage, "_commit", full)
        store.submit(storage.Append(1, message(seq=1, id_client="m1"), 0))
        store.submit(storage.Append(1, message(seq=2, id_client="m2"), 0))
        await store.flush()
    assert [result for _, result in answers[1:]] == [storage.Failed("commit: disk is full")] * 2
    store.submit(storage.OpenConversation("p2p:ann:bob"))
    await store.flush()
    assert answers[-1][1] == storage.LogState(2, 0, ("ann", "bob"))
    store.close()


async def test_full_queue_fails_requests_and_counts_them():
    store = SqliteStore(":memory:", limit=3)
    answers = start(store)
    for n in range(5):
        store.submit(storage.OpenUser(f"u{n}"))
    await store.flush()
    failed = [request.user for request, result in answers if isinstance(result, storage.Failed)]
    assert (failed, store.overloads, len(answers)) == (["u3", "u4"], 2, 5)
    store.submit(storage.OpenUser("u5"))
    await store.flush()
    assert answers[-1][1] == storage.UserState(1, [], log=store.storage.log)
    store.close()


async def test_close_carries_out_submitted_requests(tmp_path):
    store = SqliteStore(tmp_path / "im.db")
    start(store)
    for _ in range(7):
        store.submit(storage.OpenUser("ann"))
    store.close()
    store.close()  # harmless
    again = SqliteStore(tmp_path / "im.db")
    answers = start(again)
    again.submit(storage.OpenUser("ann"))
    await again.flush()
    assert answers[0][1].epoch == 8
    again.close()
    assert [file.name for file in tmp_path.iterdir()] == ["im.db"]  # no WAL file remains


def test_second_process_gets_a_one_line_error(tmp_path):
    path = tmp_path / "im.db"
    store = SqliteStore(path)
    with pytest.raises(RunError, match=r"im\.db: in use by another process"):
        SqliteStore(path)
    script = "import sys; from imsim.live import SqliteStore; SqliteStore(sys.argv[1])"
    other = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert "RunError" in other.stderr
    assert "in use by another process" in other.stderr
    store.close()
    SqliteStore(path).close()


def test_store_refuses_foreign_files_and_does_not_change_them(tmp_path):
    text, other, newer = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "newer.db"
    text.write_text("not a database, but as long as the header of one" * 20)
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE t (x)")
    db.close()
    before = other.read_bytes()
    with pytest.raises(UsageError, match="not a database"):
        SqliteStore(text)
    with pytest.raises(UsageError, match="not an imsim database"):
        SqliteStore(other)
    assert other.read_bytes() == before
    SqliteStore(newer).close()
    db = sqlite3.connect(newer)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UsageError, match="schema 99"):
        SqliteStore(newer)
    with pytest.raises(UsageError, match="synchronous"):
        SqliteStore(newer, synchronous="OFF")


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("no/such/folder.db", UsageError, r"db: cannot write to the folder .*/no/such: No such file or directory"),
        ("folder", UsageError, r"db: cannot write folder: Is a directory; give the path of a file"),
        ("folder/", UsageError, r"Is a directory"),
        ("file/new.db", UsageError, r"db: cannot write file/new.db: Not a directory; a part of the path is a file"),
        ("x" * 300, UsageError, r"File name too long"),
        ("", UsageError, r"db: must not be empty"),
    ],
)
def test_file_that_cannot_be_opened_gives_the_reason(tmp_path, monkeypatch, path, kind, says):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=says):
        SqliteStorage(path)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.EROFS, UsageError, "Read-only file system; choose a folder on a file system that is not read-only"),
        (errno.EACCES, UsageError, "Permission denied; check the permissions"),
        (errno.ENOSPC, RunError, "no space left at"),
    ],
)
@pytest.mark.parametrize("call", ["open", "write_bytes"])
def test_system_gives_the_reason_that_sqlite_does_not(tmp_path, monkeypatch, number, kind, says, call):
    """Only root can mount a read-only file system, and root has every permission. So the system's answer is injected.

    `open` is the file itself, `write_bytes` a new file in its folder.
    """

    def refuse(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    def vague(*_: object, **__: object) -> NoReturn:
        raise sqlite3.OperationalError("disk I/O error")

    path = tmp_path / "im.db"
    SqliteStorage(path).close()
    monkeypatch.setattr(*((os, "open", refuse) if call == "open" else (Path, "write_bytes", refuse)))
    monkeypatch.setattr(sqlite3, "connect", vague)
    with pytest.raises(kind, match=f"^db: .*{says}"):
        SqliteStorage(path)


def test_database_that_has_no_space_to_begin_gives_the_reason(tmp_path, file_sizes):
    with file_sizes(1000), pytest.raises(RunError, match=r"^db: no space left at "):
        SqliteStorage(tmp_path / "im.db")


def test_file_keeps_the_time_of_its_latest_revocation(tmp_path):
    for _ in range(2):
        store = SqliteStorage(tmp_path / "im.db")
        revoked = [store.latest_revocation]
        for user, before in (("ann", 5.5), ("ben", 7.25), ("ann", 6.0)):
            store.execute_all([storage.RevokeTokens(user, before)])
            revoked.append(store.latest_revocation)
        store.close()
    assert revoked == [7.25, 7.25, 7.25, 7.25]


def test_store_drops_answers_after_the_end_of_the_event_loop(tmp_path):
    async def main() -> SqliteStore:
        store = SqliteStore(tmp_path / "im.db")
        start(store)
        store.submit(storage.OpenUser("ann"))
        return store

    asyncio.run(main()).close()


def test_file_keeps_its_log_id_and_a_new_file_has_a_new_one(tmp_path):
    logs = []
    for name in ("one", "one", "other"):
        store = SqliteStorage(tmp_path / name)
        logs.append(store.log)
        store.close()
    logs += [MemoryStore().storage.log, MemoryStore().storage.log]
    assert logs[0] == logs[1]
    assert len(set(logs)) == 4


#: Appends messages to several conversations, and prints each message that the store has answered.
WRITER = """
import asyncio, sys
from imsim.core import storage
from imsim.core.model import Message, Scene
from imsim.live import SqliteStore
from imsim.live.stores import sqlite, tables

tables._LONGEST_TAIL, sqlite._LONGEST_TAIL = 60, 40

async def main():
    store, head = SqliteStore(sys.argv[1]), {}

    def append(id):
        head[id][1] += 1
        epoch, seq = head[id]
        message = Message(id, seq, f"{id}:{seq}", f"m{epoch}.{seq}", Scene.GROUP, "text", "ann", id[6:], 5, "hi")
        store.submit(storage.Append(epoch, message, 0))

    def deliver(answers):
        for request, result in answers:
            if isinstance(result, storage.LogState):
                id = request.conversation_id
                head[id] = [result.epoch, result.max_seq]
                for _ in range(3):
                    append(id)
            elif isinstance(result, storage.Appended):
                message = request.message
                print(message.conversation_id, message.seq, message.id_client, flush=True)
                append(message.conversation_id)

    store.start(deliver)
    for number in range(10):
        store.submit(storage.OpenConversation(f"group:g{number}", ("ann", "bob")))
    while True:
        await asyncio.sleep(0.03)
        store.submit(storage.OpenUser("bob"))  # reads messages

asyncio.run(main())
"""


def test_answered_messages_survive_kill_9(tmp_path):
    path = tmp_path / "im.db"
    answered: dict[tuple[str, int], str] = {}
    for lines in (1, 40, 333, 700):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
            printed = [writer.stdout.readline() for _ in range(lines)]
            writer.kill()
            printed += writer.stdout.readlines()
        for line in printed:
            if line.endswith("\n"):
                id, seq, id_client = line.split()
                assert answered.setdefault((id, int(seq)), id_client) == id_client
        kept = SqliteStorage(path)
        for number in range(10):
            id = f"group:g{number}"
            [page] = kept.execute_all([storage.Range("bob", id, 0, 10**6, 10**6)])
            assert [message.seq for message in page.messages] == list(range(1, len(page.messages) + 1))
            stored = {(id, message.seq): message.id_client for message in page.messages}
            assert {key: value for key, value in answered.items() if key[0] == id}.items() <= stored.items()
        kept._db.close()  # without moving the latest messages
    assert len(answered) > 1000
