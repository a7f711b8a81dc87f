"""Tests of a device over real sockets, with lost frames, broken connections, crashes and restarts."""

from __future__ import annotations

import asyncio

import pytest

from imsim.core import events
from imsim.core.client.connection import State
from imsim.core.exceptions import RunError
from imsim.core.model import Code, Flow, Route, Scene
from imsim.core.policies import Policies
from imsim.live import Device, SqliteStore
from imsim.wire.websocket_frames import text_frame


def codes(client) -> list:
    return [e.code for e in client.seen if isinstance(e, events.Disconnected | events.Ended | events.SendFailed)]


async def test_clients_exchange_messages_and_acks(world, shown):
    async with world() as w:
        alice, bob = await w.online("alice"), await w.online("bob")
        acked = await alice.wait_stored(alice.send("p2p", "bob", "hello", "m1"))
        assert (acked.conversation_id, acked.seq) == ("p2p:alice:bob", 1)
        assert await alice.wait_stored("m1") == acked  # a later wait returns the same
        got = await bob.wait_for(lambda event: isinstance(event, events.Shown))
        assert (got.message.content, got.flow, got.route) == ("hello", Flow.IN, Route.PUSH)
        file = {"url": "x", "size": 3, "format": "pdf", "n": [1.5, None]}
        await bob.wait_stored(bob.send("p2p", "alice", "hi", type="file", custom='{"a":1}', file=file))
        answer = (await alice.wait_for(lambda event: isinstance(event, events.Shown))).message
        assert (answer.seq, answer.type, answer.custom, answer.file) == (2, "file", '{"a":1}', file)
        await w.run_until_idle()
        assert [(c.id, c.to, c.unread) for c in bob.machine.conversations()] == [("p2p:alice:bob", "alice", 0)]
        assert [(c.id, c.to, c.unread) for c in alice.machine.conversations()] == [("p2p:alice:bob", "bob", 1)]
        alice.read("p2p:alice:bob")
        await w.run_until_idle()
        assert alice.machine.conversations()[0].unread == 0


async def test_group_message_reaches_every_device_of_every_member(world, shown):
    async with world() as w:
        members = [await w.online(f"u{n}") for n in range(20)]
        second = await w.online("u0", "d1")
        outsider = await w.online("outsider")
        group = await members[0].create_group("g", [f"u{n}" for n in range(20)])
        assert group == "group:g"
        assert await members[0].create_group("g", [f"u{n}" for n in range(20)]) == group
        with pytest.raises(RunError, match="conflict"):
            await members[0].create_group("g", ["u1"])
        await members[0].wait_stored(members[0].send("group", "g", "all of you"))
        await w.run_until_idle()
        for client in [*members[1:], second]:
            assert shown(client) == ["all of you"]
        assert shown(outsider) == shown(members[0]) == []
        with pytest.raises(RunError, match="not_member"):
            await outsider.wait_stored(outsider.send("group", "g", "me too"))


async def test_resend_after_a_lost_ack_is_not_stored_twice(world, shown):
    async with world() as w:
        alice, bob = await w.online("alice"), await w.online("bob")
        alice.lose = lambda frame: frame.op == "stored"
        alice.send("p2p", "bob", "once", "m1")
        await w.run_until_idle()
        alice.lose = lambda frame: False
        await w.advance(w.policies.send_timeout)
        assert (await alice.wait_stored("m1")).seq == 1
        assert [e.attempt for e in alice.seen if isinstance(e, events.Sent)] == [1, 2]
        assert shown(bob) == ["once"]


async def test_server_repeats_a_lost_push(world, shown):
    async with world() as w:
        alice, bob = await w.online("alice"), await w.online("bob")
        bob.lose = lambda frame: frame.op == "push"
        alice.send("p2p", "bob", "again")
        await w.run_until_idle()
        assert shown(bob) == []
        bob.lose = lambda frame: False
        await w.advance(w.policies.push_timeout)
        assert shown(bob) == ["again"]


async def test_send_without_acks_fails_after_the_last_attempt(world):
    async with world() as w:
        alice = await w.online("alice")
        alice.lose = lambda frame: frame.op == "send"
        alice.send("p2p", "bob", "unanswered", "m1")
        await w.advance(w.policies.send_budget)
        with pytest.raises(RunError, match="timeout"):
            await alice.wait_stored("m1")
        alice.lose = lambda frame: False
        assert (await alice.wait_stored(alice.send("p2p", "bob", "unanswered", "m1"))).seq == 1


async def test_client_reconnects_after_a_break_and_misses_no_message(world, shown):
    async with world() as w:
        alice, bob = await w.online("alice"), await w.online("bob")
        bob.break_connection()
        assert not bob.connected
        alice.send("p2p", "bob", "while you were away")
        await w.run_until_idle()
        assert shown(bob) == []
        await w.advance(w.policies.reconnect_max)
        assert bob.state == "online"
        assert shown(bob) == ["while you were away"]
        assert [e.route for e in bob.seen if isinstance(e, events.Shown)] == [Route.SYNC]


async def test_second_login_of_a_device_ends_the_first(world):
    async with world() as w:
        first = await w.online("alice")
        second = await w.online("alice")
        await w.run_until_idle()
        assert (first.state, second.state) == ("ended", "online")
        assert codes(first) == [Code.REPLACED]


async def test_restart_on_the_same_file_keeps_messages_read_marks_and_idempotency(world, shown, tmp_path):
    def store() -> SqliteStore:
        return SqliteStore(tmp_path / "im.db")

    async with world(store=store()) as w:
        alice, bob = await w.online("alice"), await w.online("bob")
        await alice.create_group("g", ["bob"])
        first = await alice.wait_stored(alice.send("p2p", "bob", "one", "m1"))
        await alice.wait_stored(alice.send("group", "g", "in the group"))
        await w.run_until_idle()
        bob.read("p2p:alice:bob")
        await w.run_until_idle()
        alice.lose = lambda frame: frame.op == "stored"
        alice.send("p2p", "bob", "two", "m2")
        await w.run_until_idle()
        await w.restart(store)
        assert not alice.connected
        alice.lose = lambda frame: False
        await w.advance(w.policies.reconnect_max)
        assert (await alice.wait_stored("m2")).seq == 2
        again = await alice.wait_stored(alice.send("p2p", "bob", "one", "m1"))  # the same send, after the restart
        assert again == first
        with pytest.raises(RunError, match="conflict"):
            await alice.wait_stored(alice.send("p2p", "bob", "another", "m1"))
        await alice.wait_stored(alice.send("p2p", "bob", "three"))
        await w.run_until_idle()
        assert shown(bob) == ["one", "in the group", "two", "three"]
        newcomer = await w.online("bob", "d1")
        assert sorted(shown(newcomer)) == ["in the group", "one", "three", "two"]
        assert {c.id: c.unread for c in newcomer.machine.conversations()} == {"p2p:alice:bob": 2, "group:g": 1}


async def test_crash_under_load_loses_no_acknowledged_message_and_duplicates_none(world, shown, tmp_path):
    def store() -> SqliteStore:
        return SqliteStore(tmp_path / "im.db", synchronous="NORMAL")

    async with world(store=store()) as w:
        users = [await w.online(f"u{n}") for n in range(6)]
        await users[0].create_group("g", [f"u{n}" for n in range(6)])
        sent = []
        for crash in range(3):
            for n in range(20):
                for client in users:
                    content = f"{client.user} {crash} {n}"
                    sent.append((client, client.send("group", "g", content), content))
                if n == 10:  # at the crash some messages are stored, some in flight, some not yet sent
                    await asyncio.sleep(0)
            await w.restart(store)
            await w.advance(w.policies.reconnect_max)
        await w.advance(60.0)
        seqs = sorted([(await client.wait_stored(id_client)).seq for client, id_client, _ in sent])
        assert seqs == list(range(2, len(sent) + 2))  # seq 1 created the group
        for client in users:
            others = [content for sender, _, content in sent if sender is not client]
            assert sorted(shown(client)) == sorted(others)
            for other in users:
                if other is not client:  # each sender's messages in the order of sending
                    mine = [content for sender, _, content in sent if sender is other]
                    assert [content for content in shown(client) if content in set(mine)] == mine


async def test_stop_of_the_server_makes_clients_reconnect_later(world):
    async with world() as w:
        alice = await w.online("alice")
        id_client = alice.send("p2p", "bob", "just in time")
        await alice.connector.barrier()
        await w.server.stop()
        assert (await alice.wait_stored(id_client)).seq == 1
        await alice.connector.attempted()
        assert codes(alice) == [Code.GOING_AWAY]
        await w.restart()
        await w.advance(w.policies.reconnect_max)
        assert alice.state == "online"


async def test_stop_cancels_an_attempt_to_connect(world):
    async with world() as w:
        client = w.client("alice")
        client.start_nowait()
        assert client.connecting
        await client.stop()
        assert not client.connecting
        await client.start()
        assert client.state == "online"


async def test_event_handler_may_send_messages(world, shown):
    async with world(Policies(gap_wait=1.0)) as w:
        alice = await w.online("alice")

        def echo(event: events.ClientEvent) -> None:
            if isinstance(event, events.Shown) and not event.message.content.startswith("re: "):
                to, content = event.message.sender, f"re: {event.message.content}"
                bot.perform(lambda now: bot.machine.send(Scene.P2P, to, content, f"re-{to}-{content}", now))

        bot = Device(w.url, "bot", token=w.token("bot"), clock=w.clock, on_event=echo)
        w.clients.append(bot)
        bot.start()
        await w.run_until_idle()
        for n in range(5):
            alice.send("p2p", "bot", str(n))
        await w.run_until_idle()
        assert shown(alice) == [f"re: {n}" for n in range(5)]


async def test_error_in_the_event_handler_does_not_end_the_connection(world):
    def fail(event: events.ClientEvent) -> None:
        raise ValueError("an error of the application")

    problems = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context["exception"]))
    async with world() as w:
        client = Device(w.url, "alice", token=w.token("alice"), clock=w.clock, on_event=fail)
        w.clients.append(client)
        client.start()
        await w.run_until_idle()
        assert client.state == "online"
        assert len(problems) == 1


async def test_unreadable_frame_ends_the_client_and_reports_the_reason(world):
    async with world() as w:
        alice = await w.online("alice")
        (connection,) = w.server._transports
        connection.send(text_frame(b'{"op":"of_the_future","x":1}', mask=False))
        await w.run_until_idle()
        assert alice.state == State.ONLINE
        connection.send(text_frame(b'{"op":"page","messages":[{"seq":1}],"cursors":{}}', mask=False))
        await w.run_until_idle()
        assert alice.state == State.ENDED
        (ended,) = (event for event in alice.seen if isinstance(event, events.Ended))
        assert ended.code == Code.BAD_FRAME
        assert "cannot read: page.messages.0.conversationId: " in ended.text
        await alice.start()  # the application may start the client again
        assert alice.state == State.ONLINE
