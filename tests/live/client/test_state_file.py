"""Tests of the state that a client keeps across restarts: no history as new, and no message missed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil

import pytest

from imsim import UsageError
from imsim.core.policies import Policies
from imsim.live import SqliteStore

AB = "p2p:alice:bob"


async def rest(client) -> list[str]:
    """The texts of the messages that a client has ready, without waiting."""
    texts, messages = [], client.messages()
    while True:
        messages._consumer.finish()
        if messages._consumer.position == client._session.application.feed.end:
            return texts
        texts.append((await anext(messages)).content)


async def save(client) -> None:
    await client._session._keeper.save()


@pytest.mark.parametrize("fanout", ["read", "write"])
async def test_restarted_client_receives_only_what_it_missed(world, tmp_path, fanout):
    state = tmp_path / "bob.json"
    async with world(Policies(fanout=fanout), SqliteStore(":memory:", fanout=fanout)) as w, w.sdk("alice") as alice:
        await alice.create_group("team", ["bob"])
        await alice.send_text("bob", "old")
        await alice.send_text("group:team", "old in the group")
        async with w.sdk("bob", state=state) as bob:
            assert sorted(await rest(bob)) == ["old", "old in the group"]
            await bob.mark_read("group:team")
            await bob.set_conversation("alice", pinned=True)
            before = bob.conversations
        await alice.send_text("bob", "new")
        async with w.sdk("bob", state=state) as bob:
            assert await rest(bob) == ["new"]
            assert [(c.id, c.unread, c.pinned, c.last_msg.content) for c in bob.conversations] == [
                (AB, 2, True, "new"), ("group:team", 0, False, "old in the group"),
            ]  # fmt: skip
            assert bob.conversations[1] == before[1]
            assert [m.content for m in await bob.history("alice")] == ["new", "old"]
        async with w.sdk("bob", state=state) as bob:
            assert await rest(bob) == []
            assert [c.unread for c in bob.conversations] == [2, 0]


@pytest.mark.parametrize("fanout", ["read", "write"])
async def test_messages_that_the_application_has_not_taken_arrive_again(world, tmp_path, fanout):
    state = tmp_path / "bob.json"
    async with world(Policies(fanout=fanout), SqliteStore(":memory:", fanout=fanout)) as w, w.sdk("alice") as alice:
        for number in range(5):
            await alice.send_text("bob", str(number))
        async with w.sdk("bob", state=state) as bob:
            async for message in bob.messages():
                if message.content == "0":
                    break
        async with w.sdk("bob", state=state) as bob:
            messages = bob.messages()
            async for message in messages:  # the variable keeps the iterator
                assert message.content == "1"
                break
        for _ in range(2):
            with pytest.raises(ValueError, match="cannot handle it"):
                await fail_at("3", w.sdk("bob", state=state))
        async with w.sdk("bob", state=state) as bob:
            assert await rest(bob) == ["3", "4"]
            assert bob.conversations[0].unread == 5


async def fail_at(text: str, client) -> None:
    async with client:
        async for message in client.messages():
            if message.content == text:
                raise ValueError("cannot handle it")


async def test_message_is_taken_once_its_handler_has_returned(world, tmp_path):
    state, copy = tmp_path / "bob.json", tmp_path / "copy.json"
    async with world() as w, w.sdk("alice") as alice:
        bob = w.sdk("bob", state=state)
        begun, go = [], asyncio.Semaphore(0)

        @bob.on("message")
        async def handle(message):
            begun.append(message.content)
            await go.acquire()

        async with bob:
            for number in range(4):
                await alice.send_text("bob", str(number))
            go.release()
            await w.run_until_idle()
            assert begun == ["0", "1"]
            await save(bob)
            shutil.copy(state, copy)  # the file that a killed program leaves
            for _ in range(3):
                go.release()
            await w.run_until_idle()
        async with w.sdk("bob", state=copy, device="other") as bob:
            assert await rest(bob) == ["1", "2", "3"]
        async with w.sdk("bob", state=state) as bob:
            assert await rest(bob) == []


async def test_dropped_messages_arrive_again(world, tmp_path):
    state = tmp_path / "bob.json"
    async with world() as w, w.sdk("alice") as alice:
        async with w.sdk("bob", state=state, queue=2) as bob:
            for number in range(5):
                await alice.send_text("bob", str(number))
            await w.run_until_idle()
            assert await rest(bob) == ["3", "4"]
        async with w.sdk("bob", state=state) as bob:
            assert await rest(bob) == ["0", "1", "2", "3", "4"]


async def test_client_without_loop_and_handler_takes_nothing(world, tmp_path):
    state = tmp_path / "bob.json"
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob", state=state) as bob:
        await alice.send_text("bob", "hello")
        await w.run_until_idle()
        await bob.close()
        async with w.sdk("bob", state=state) as bob:
            assert await rest(bob) == ["hello"]


async def test_recall_while_offline_reaches_the_restarted_client(world, tmp_path):
    state = tmp_path / "bob.json"
    async with world() as w, w.sdk("alice") as alice:
        sent = [await alice.send_text("bob", text) for text in "abc"]
        async with w.sdk("bob", state=state) as bob:
            assert await rest(bob) == ["a", "b", "c"]
        await alice.recall(sent[2])
        bob = w.sdk("bob", state=state)
        recalled = []
        bob.on("recalled", recalled.append)
        async with bob:
            assert [event.seq for event in recalled] == [3]
            await w.run_until_idle()
            assert [(c.unread, c.last_msg.content) for c in bob.conversations] == [(2, "b")]


async def test_first_sync_limits_only_the_start_without_state(world, tmp_path):
    state = tmp_path / "bob.json"
    async with world() as w, w.sdk("alice") as alice, w.sdk("carol") as carol:
        for number in range(5):
            await alice.send_text("bob", str(number))
        async with w.sdk("bob", state=state, first_sync=1) as bob:
            assert await rest(bob) == ["4"]
        for number in range(5, 8):
            await alice.send_text("bob", str(number))
            await carol.send_text("bob", f"carol {number}")
        async with w.sdk("bob", state=state, first_sync=1) as bob:
            assert sorted(await rest(bob)) == ["5", "6", "7", "carol 5", "carol 6", "carol 7"]
            assert {c.to: c.unread for c in bob.conversations} == {"alice": 8, "carol": 3}


async def test_data_of_another_server_are_forgotten(world, tmp_path):
    state = tmp_path / "bob.json"
    async with world() as w, w.sdk("alice") as alice:
        await alice.send_text("bob", "on the first server")
        async with w.sdk("bob", state=state) as bob:
            assert await rest(bob) == ["on the first server"]
    async with world() as w, w.sdk("alice") as alice:
        await alice.send_text("bob", "on the second server")
        reset = []
        bob = w.sdk("bob", state=state)
        bob.on("reset", reset.append)
        async with bob:
            assert await rest(bob) == ["on the second server"]
            assert [c.unread for c in bob.conversations] == [1]
        assert len(reset) == 1
        async with w.sdk("bob", state=state) as bob:
            assert await rest(bob) == []


async def test_state_file_has_one_user_and_one_client(world, tmp_path):
    state = tmp_path / "bob.json"
    async with world() as w, w.sdk("bob", state=state) as bob:
        with pytest.raises(UsageError, match=r"state: another client uses .*bob\.json; end it first"):
            await w.sdk("bob", state=state, device="other").start()
        await bob.close()
        with pytest.raises(UsageError, match=r"state: .*bob\.json belongs to bob, not to carol"):
            await w.sdk("carol", state=state).start()
        async with w.sdk("bob", state=state):
            pass
        assert sorted(os.listdir(tmp_path)) == ["bob.json", "bob.json.lock"]
        assert os.stat(state).st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "file: "),
        ("{", "file: "),
        ("[]", "file: "),
        ('{"format": 1, "user": "bob"}', "saved: Field required"),
        ('{"format": 1, "user": "bob", "saved": {"log": "", "version": 0, "inbox": 0, "conversations": 7}}', "saved"),
        ('{"format": 2, "user": "bob", "saved": {"log": "", "version": 0, "inbox": 0, "conversations": []}}', "format"),
    ],
)
async def test_file_that_is_not_a_state_is_refused_by_name(world, tmp_path, text, says):
    state = tmp_path / "bob.json"
    state.write_text(text)
    async with world() as w:
        for _ in range(2):  # the lock is free again
            with pytest.raises(UsageError, match=rf"state: .*bob\.json.*{says}.*delete"):
                await w.sdk("bob", state=state).start()
    assert state.read_text() == text


async def test_path_that_cannot_be_used_is_refused(world, tmp_path):
    async with world() as w:
        with pytest.raises(UsageError, match=r"state: there is no folder .*missing; create it first"):
            await w.sdk("bob", state=tmp_path / "missing" / "bob.json").start()
        with pytest.raises(UsageError, match=r"state: cannot use .*: Is a directory"):
            await w.sdk("bob", state=tmp_path).start()


async def test_full_disk_is_reported_once_and_the_client_goes_on(world, tmp_path, monkeypatch, caplog):
    state = tmp_path / "bob.json"
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob", state=state) as bob:
        got = bob.messages()
        await save(bob)
        before = json.loads(state.read_text())
        full = monkeypatch.context()
        with full as patch:

            def fail(file: int) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr("imsim.live.client.state_file.os.fsync", fail)
            for text in "ab":
                await alice.send_text("bob", text)
                await anext(got)
                await save(bob)
        assert json.loads(state.read_text()) == before
        await alice.send_text("bob", "c")
        await anext(got)
        await save(bob)
        await save(bob)  # nothing has changed
        lines = [record.getMessage() for record in caplog.records]
        assert lines == [
            f"cannot write the state to {state}: No space left on device; the client tries again",
            f"the state is written to {state} again",
        ]
        assert json.loads(state.read_text())["saved"]["conversations"][0]["cursor"] == 2  # c is not taken yet
