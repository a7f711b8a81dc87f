"""Tests of the public SDK over real sockets: sending, receiving, errors, reconnects, and the end of a client."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import socket

import pytest

import imsim
from imsim import ClientEnded, ClientError, SendError, UsageError
from imsim.core.policies import Policies
from imsim.live import SqliteStore

AB = "p2p:alice:bob"


async def take(messages, count: int) -> list:
    return [await anext(messages) for _ in range(count)]


async def told(client, event: str) -> asyncio.Queue:
    """A queue of the values of this event, from now on."""
    values: asyncio.Queue = asyncio.Queue()
    client.on(event, values.put_nowait)
    return values


# --- sending ----------------------------------------------------------------------------------------------------------


async def test_send_returns_the_stored_message(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        sent = await alice.send_text("bob", "hello", custom={"a": [1]})
        assert (sent.id, sent.seq, sent.conversation_id, sent.scene, sent.to) == (f"{AB}:1", 1, AB, "p2p", "bob")
        assert (sent.flow, sent.status, sent.type, sent.content) == ("out", "success", "text", "hello")
        assert (sent.sender, sent.custom, len(sent.id_client)) == ("alice", '{"a": [1]}', 32)
        got = await anext(bob.messages())
        assert (got.id, got.id_client, got.flow, got.time) == (sent.id, sent.id_client, "in", sent.time)
        assert got.custom == '{"a": [1]}'
        assert sent.sent_at.year >= 2001
        assert repr(got) == f"<Message {AB}:1 from alice: 'hello'>"


async def test_each_type_is_sent_with_its_attachment(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        url = "https://example.com/1"
        await alice.send_image("bob", url, width=1, height=2, size=3, text="a cat")
        await alice.send_audio("bob", url, duration=1.5, size=3, format="m4a")
        await alice.send_video("bob", url, duration=1.5, size=3, format="mp4")
        await alice.send_file("bob", url, size=3, format="pdf")
        await alice.send_geo("bob", "here", longitude=1.0, latitude=-2.0)
        await alice.send_custom("bob", {"card": 1}, preview="a card")
        await alice.send("bob", "x", type="of-the-future", file={"n": [1.5, None]})
        got = await take(bob.messages(), 7)
        assert [m.type for m in got] == ["image", "audio", "video", "file", "geo", "custom", "of-the-future"]
        assert len({*got, *got}) == 7
        assert got[0].file == {"url": url, "width": 1, "height": 2, "size": 3}
        assert (got[0].content, got[5].content, got[5].custom) == ("a cat", "a card", '{"card": 1}')
        with pytest.raises(UsageError, match=r"file\.latitude: expected a number of degrees"):
            await alice.send_geo("bob", "nowhere", longitude=0, latitude=91)
        assert [m.seq for m in got] == [1, 2, 3, 4, 5, 6, 7]


async def test_recipients_have_several_forms(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        team = await alice.create_group("team", ["bob"], title="The team")
        room = alice.chatroom("lounge")
        assert await room.enter() == 1
        for to, conversation in (
            ("bob", AB), (AB, AB), ("p2p:alice:alice", "p2p:alice:alice"), ("alice", "p2p:alice:alice"),
            ("group:team", "group:team"), (team, "group:team"), (room, "chatroom:lounge"),
            ("chatroom:lounge", "chatroom:lounge"), ("system:bob", "system:bob"),
        ):  # fmt: skip
            sent = await alice.send_custom(to, "{}")
            assert sent.conversation_id == conversation
        await alice.send_text(alice.conversation(team), "by the line of the list")
        got = await anext(bob.messages())
        assert (await bob.send_text(got, "an answer")).conversation_id == got.conversation_id == AB
        for wrong in ("p2p:bob:carol", "p2p:alice:bob:carol", "group:", "team:x", "a b", "", 7, None, "group:a:b"):
            with pytest.raises(UsageError, match="to: "):
                await alice.send_text(wrong, "x")


async def test_parallel_sends_keep_their_order(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        sent = await asyncio.gather(*(alice.send_text("bob", str(n)) for n in range(100)))
        assert [message.seq for message in sent] == list(range(1, 101))
        assert [m.content for m in await take(bob.messages(), 100)] == [str(n) for n in range(100)]


async def test_rejected_send_raises_an_error_with_code_and_retry(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        await bob.friends.block("alice")
        with pytest.raises(SendError, match=f"message to {AB}: not stored: blocked: ") as found:
            await alice.send_text("bob", "hello", id_client="m1")
        assert (found.value.code, found.value.retry, found.value.id_client) == ("blocked", False, "m1")
        assert isinstance(found.value, imsim.RunError)
        await bob.friends.unblock("alice")
        assert (await alice.send_text("bob", "hello", id_client="m1")).seq == 1
        with pytest.raises(SendError, match="conflict"):
            await alice.send_text("bob", "another text", id_client="m1")


async def test_send_without_answer_can_be_repeated_under_the_same_id(world):
    async with world(Policies(send_attempts=2)) as w, w.sdk("alice") as alice:
        stored = await told(alice, "stored")
        device = alice._session.device
        device.lose = lambda frame: frame.op in ("stored", "page", "sync_done")
        sending = asyncio.create_task(alice.send_text("bob", "once", id_client="m1"))
        await w.run_until_idle()
        with pytest.raises(UsageError, match="belongs to another message"):
            await alice.send_text("bob", "twice", id_client="m1")
        await w.advance(w.policies.send_budget)
        with pytest.raises(SendError, match="message to p2p:alice:bob: perhaps not stored: timeout") as found:
            await sending
        assert found.value.retry
        assert stored.empty()
        device.lose = lambda frame: False
        assert (await alice.send_text("bob", "once", id_client="m1")).seq == 1
        assert (await stored.get()).id_client == "m1"


async def test_late_answer_corrects_a_failed_send(world):
    async with world(Policies(send_attempts=2)) as w, w.sdk("alice") as alice:
        stored, failed = await told(alice, "stored"), await told(alice, "failed")
        device = alice._session.device
        device.lose = lambda frame: frame.op == "stored"
        sending = asyncio.create_task(alice.send_text("bob", "once", id_client="m1"))
        await w.advance(w.policies.send_budget)
        with pytest.raises(SendError, match="timeout"):
            await sending
        await w.run_until_idle()
        assert (await failed.get()).id_client == "m1"
        assert (await stored.get()).seq == 1  # the sync after the last attempt has found it


async def test_too_long_message_is_an_error_and_not_the_end(world):
    async with world() as w, w.sdk("alice") as alice:
        for text in ("x" * 17_000, "x" * 3_000_000):
            with pytest.raises(SendError, match="too_large") as found:
                await alice.send_text("bob", text)
            assert (found.value.code, found.value.retry) == ("too_large", False)
        with pytest.raises(SendError, match="too_large"):
            await alice.group("team").create(*(f"user-{n:050}" for n in range(60_000)))
        assert (await alice.send_text("bob", "short")).seq == 1


async def test_cancelled_send_is_sent_all_the_same(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        sending = asyncio.create_task(alice.send_text("bob", "cancelled"))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert (await anext(bob.messages())).content == "cancelled"
        assert (await alice.send_text("bob", "next")).seq == 2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda me: me.send_text("bob", 7), "content: must be a text"),
        (lambda me: me.send_text("bob", "x", custom=float("nan")), "custom: must be a text, or a value that JSON has"),
        (lambda me: me.send_text("bob", "x", custom={1, 2}), "custom: "),
        (lambda me: me.send("bob", type="image"), "file: missing"),
        (lambda me: me.send("bob", type="x", file={"n": float("inf")}), "file: contains infinity"),
        (lambda me: me.send_text("bob", "x", id_client=""), "id_client: must be a text of 1 to 128"),
        (lambda me: me.send_text("bob", "x", id_client="x" * 129), "id_client: must be a text of 1 to 128"),
        (lambda me: me.recall("p2p:alice:bob:1"), "message: must be a message"),
        (lambda me: me.history("bob", -1), "limit: must be a whole number, 0 or more"),
        (lambda me: me.mark_read("bob", -1), "up_to: "),
        (lambda me: me.create_group("team", "bob"), "members: must be a list"),
        (lambda me: me.group("team").invite("a b"), "user: "),
        (lambda me: me.group("team").mute(["bob"]), r"user: expected a name .*got \['bob'\]"),
        (lambda me: me.group("team").set_role("bob", "admin"), "role: must be admin or member, before the names"),
        (lambda me: me.friends.request(None), "user: expected a name .*got None"),
        (lambda me: me.typing("group:team"), "to: must be a user, because only p2p conversations have typing"),
        (lambda me: me.chatroom("lounge").enter(-1), "recent: "),
        (lambda me: me.end_session("a b"), "device: "),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_is_sent(world, call, says):
    async with world() as w, w.sdk("alice") as alice:
        before = w.server.activity
        with pytest.raises(UsageError, match=says):
            await call(alice)
        assert w.server.activity == before


# --- receiving --------------------------------------------------------------------------------------------------------


async def test_each_loop_over_messages_has_all_messages(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        one, two = bob.messages(), bob.messages()
        await alice.send_text("bob", "a")
        await alice.send_text("bob", "b")
        assert [m.content for m in await take(one, 2)] == [m.content for m in await take(two, 2)] == ["a", "b"]


async def test_next_loop_continues_where_the_last_one_ended(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        for text in "abcd":
            await alice.send_text("bob", text)
        async for message in bob.messages():  # begins with the messages from before the loop
            if message.content == "b":
                break
        gc.collect()
        await alice.send_text("bob", "e")
        assert [m.content for m in await take(bob.messages(), 3)] == ["c", "d", "e"]


async def test_loops_select_the_own_messages_and_notifications(world):
    async with world() as w, w.sdk("alice") as phone, w.sdk("alice", device="laptop") as laptop, w.sdk("bob") as bob:
        plain, everything = phone.messages(), phone.messages(own=True, notifications=True)
        await laptop.create_group("team", ["alice", "bob"])
        await laptop.send_text("bob", "mine")
        await bob.send_text("alice", "yours")
        assert [(m.content, m.flow) for m in await take(plain, 1)] == [("yours", "in")]
        got = await take(everything, 3)
        assert [(m.event, m.content, m.flow) for m in got if m.scene == "p2p"] == [
            ("", "mine", "out"), ("", "yours", "in"),
        ]  # fmt: skip
        assert [(m.event, m.flow) for m in got if m.scene == "group"] == [("create", "out")]


async def test_loop_ends_when_the_application_closes_the_client(world):
    async with world() as w:
        alice, bob = w.sdk("alice"), w.sdk("bob")
        await alice.start()
        await bob.start()

        async def listen() -> list[str]:
            return [message.content async for message in bob.messages()]

        listening = asyncio.create_task(listen())
        await alice.send_text("bob", "one")
        await w.run_until_idle()
        await bob.close()
        assert await listening == ["one"]


async def test_messages_that_nobody_takes_are_bounded(world, caplog):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob", queue=10) as bob:
        late = bob.messages()
        for number in range(25):
            await alice.send_text("bob", str(number))
        await w.run_until_idle()
        assert [m.content for m in await take(late, 10)] == [str(n) for n in range(15, 25)]
        assert (late.dropped, bob.dropped) == (15, 15)
        assert [r.getMessage() for r in caplog.records] == [
            "bob: more than 10 events wait for the application; the oldest are dropped, and history() has them"
        ]
        assert [m.content for m in await bob.history("alice", 3, before=16)] == ["14", "13", "12"]


async def test_client_with_a_handler_keeps_nothing_for_loops(world):
    async with world() as w, w.sdk("alice") as alice:
        bob = w.sdk("bob", queue=5)
        got = []
        bob.on("message", got.append)
        async with bob:
            for number in range(9):
                await alice.send_text("bob", str(number))
            await w.run_until_idle()
            assert (len(got), bob.dropped) == (9, 0)


async def test_message_that_is_changed_before_the_application_takes_it_arrives_as_it_is_now(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        messages = bob.messages()
        sent = [await alice.send_text("bob", text) for text in "abcd"]
        await alice.recall(sent[0])
        await alice.recall(sent[2])
        await alice.edit(sent[3], "D")
        await w.run_until_idle()
        assert [(m.content, m.edited) for m in await take(messages, 2)] == [("b", False), ("D", True)]
        waiting = asyncio.create_task(anext(messages))
        await asyncio.sleep(0)
        await alice.send_text("bob", "e")
        assert (await waiting).content == "e"


@pytest.mark.parametrize("is_async", [False, True])
async def test_first_handler_gets_the_messages_that_arrived_since_the_start(world, is_async):
    async with world() as w, w.sdk("alice") as alice:
        await alice.send_text("bob", "while bob was offline")
        async with w.sdk("bob") as bob:
            got = []

            async def handle(message):
                got.append(message.content)

            bob.on("message", handle if is_async else lambda message: got.append(message.content))
            later = await told(bob, "message")
            await alice.send_text("bob", "now")
            assert (await later.get()).content == "now"
            await w.run_until_idle()
            assert got == ["while bob was offline", "now"]
            assert later.empty()


# --- handlers ---------------------------------------------------------------------------------------------------------


async def test_handlers_receive_every_kind_of_event(world):
    policies = Policies(receipts="delivered", presence="friends", typing_rate=10.0)
    async with world(policies) as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        seen: list[tuple[str, object]] = []
        from imsim.live.client.application import EVENTS

        for name in EVENTS:
            alice.on(name, lambda value, name=name: seen.append((name, value)))

        def values(name: str) -> list:
            return [value for event, value in seen if event == name]

        sent = await alice.send_text("bob", "helo")
        await w.run_until_idle()
        assert values("delivered")[-1].seq == 1
        await bob.mark_read("alice")
        await w.run_until_idle()
        assert (values("read")[-1].conversation_id, values("read")[-1].seq) == (AB, 1)
        await bob.typing("alice")
        answer = await bob.send_text("alice", "tomorow")
        await bob.edit(answer, "tomorrow")
        await w.run_until_idle()
        assert [message.content for message in values("message")] == ["tomorow"]
        assert (values("edited")[-1].seq, values("edited")[-1].content) == (2, "tomorrow")
        await bob.recall(answer)
        await bob.friends.request("alice")
        await w.run_until_idle()
        assert values("recalled")[-1].seq == 2
        assert [message.type for message in values("system")] == ["friend_request"]
        await alice.friends.accept("bob")
        await w.run_until_idle()
        assert values("resolved")[-1].state == "passed"
        assert [(value.user, value.online) for value in values("presence")] == [("bob", True)]
        assert alice.friends.online == ["bob"]
        assert values("typing")[-1].conversation_id == AB
        assert {message.event for message in values("changed")} == {"friend_request", "friend_accept"}
        assert values("stored")[0] == sent
        assert values("conversation")[-1].id == AB
        alice._session.device.break_connection()
        await w.advance(30.0)
        assert [value.code for value in values("disconnected")] == [None]
        assert len(values("connected")) == 1


async def test_async_handler_gets_one_event_at_a_time_in_order(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        log, go = [], asyncio.Semaphore(0)

        @bob.on("message")
        async def slow(message):
            log.append(f"begin {message.content}")
            await go.acquire()
            log.append(f"end {message.content}")

        for number in range(3):
            await alice.send_text("bob", str(number))
        await w.run_until_idle()
        assert log == ["begin 0"]
        for _ in range(3):
            go.release()
        answered = asyncio.Event()
        alice.on("message", lambda message: answered.set())
        bob.off("message", slow)
        await bob.send_text("alice", "the client still works")
        await answered.wait()
        assert log[:2] == ["begin 0", "end 0"]


async def test_error_in_a_handler_is_logged_and_changes_nothing_else(world, caplog):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        got = await told(bob, "message")

        @bob.on("message")
        def wrong(message):
            raise ValueError("a wrong handler")

        @bob.on("message")
        async def also_wrong(message):
            raise KeyError("a wrong async handler")

        bob.on("message", lambda message: bob.send_text("alice", f"re: {message.content}"))  # returns a coroutine
        replies = alice.messages()
        await alice.send_text("bob", "one")
        await alice.send_text("bob", "two")
        assert [m.content for m in await take(replies, 2)] == ["re: one", "re: two"]
        assert [(await got.get()).content for _ in range(2)] == ["one", "two"]
        await w.run_until_idle()
        assert bob.state == "online"
        records = [record for record in caplog.records if record.name == "imsim.client"]
        assert len(records) == 4
        assert all(record.levelno == logging.ERROR and record.exc_info for record in records)


async def test_methods_and_objects_can_be_handlers(world):
    class Log(list):  # not hashable
        def __call__(self, message):
            self.append(message.content)

        async def handle(self, message):
            self.append(f"async {message.content}")

    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        log = Log()
        bob.on("message", log)
        bob.on("message", log.handle)
        bob.on("message", log.handle)  # once is enough
        await alice.send_text("bob", "a")
        await w.run_until_idle()
        assert log == ["a", "async a"]
        bob.off("message", log)
        bob.off("message", log.handle)
        bob.off("message", log.handle)
        await alice.send_text("bob", "b")
        await w.run_until_idle()
        assert len(log) == 2


async def test_unknown_event_name_is_refused_with_the_nearest_ones(world):
    async with world() as w:
        me = w.sdk("alice")
        with pytest.raises(UsageError, match=r"event: did you mean message or reset\? must be one of message, sent"):
            me.on("mesage", print)
        with pytest.raises(UsageError, match="event: must be one of"):
            me.on("x", print)
        with pytest.raises(UsageError, match="function: must be a function"):
            me.on("message", "print")


async def test_handler_may_close_the_client(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:

        @bob.on("message")
        async def stop(message):
            await bob.close()

        await alice.send_text("bob", "stop")
        await bob.wait_closed()
        assert bob.state == "closed"
        await bob.wait_closed()


# --- conversations ----------------------------------------------------------------------------------------------------


async def test_conversations_have_all_fields_of_the_data_model(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        await alice.send_text("bob", "<b>hello</b>")
        await w.run_until_idle()
        await bob.set_conversation("alice", pinned=True, muted=True, custom={"label": "work"})
        (line,) = bob.conversations
        assert (line.id, line.scene, line.to, line.unread, line.custom) == (AB, "p2p", "alice", 1, '{"label": "work"}')
        assert (line.last_msg.content, line.last_msg.flow, line.update_time) == (
            "<b>hello</b>",
            "in",
            line.last_msg.time,
        )
        assert (line.pinned, line.muted, line.read_seq) == (True, True, 0)
        assert (bob.total_unread(), bob.total_unread(include_muted=False)) == (1, 0)
        assert repr(bob.conversations) == f"[<Conversation {AB}, 1 unread>]"
        html = bob.conversations._repr_html_()
        assert "&lt;b&gt;hello" in html
        assert "alice (p2p, pinned, muted)" in html
        await bob.hide("alice")
        assert bob.conversations == []
        assert bob.conversation("alice") is None
        await bob.hide("alice")


async def test_nothing_is_read_before_the_application_says_so(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob, w.sdk("bob", device="laptop") as laptop:
        for text in "abc":
            await alice.send_text("bob", text)
        got = await take(bob.messages(), 3)
        await bob.send_text("alice", "an answer")
        await w.run_until_idle()
        assert [c.unread for c in (*bob.conversations, *laptop.conversations)] == [3, 3]
        assert alice.conversations[0].peer_read_seq == 0
        await bob.mark_read(got[1])
        await w.run_until_idle()
        assert [c.unread for c in (*bob.conversations, *laptop.conversations)] == [1, 1]
        assert alice.conversations[0].peer_read_seq == 2
        await bob.mark_read("alice", got[0])  # the mark does not move back
        assert bob.conversations[0].read_seq == 2
        await asyncio.gather(bob.mark_read("alice"), bob.mark_read("alice"))
        assert bob.conversations[0].unread == 0
        assert alice.conversations[0].unread == 1
        await bob.mark_read("nobody")


async def test_history_returns_the_newest_first_in_pages(world):
    async with world(Policies(page=10)) as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        sent = await asyncio.gather(*(alice.send_text("bob", str(n)) for n in range(1, 36)))
        await alice.recall(sent[4])  # a silent entry, at 36
        assert [m.seq for m in await bob.history("alice")] == list(range(35, 0, -1))
        assert [m.seq for m in await bob.history("alice", 12)] == list(range(35, 23, -1))
        assert [m.seq for m in await bob.history("alice", 3, before=4)] == [3, 2, 1]
        assert [m.seq for m in await bob.history("alice", 2, before=sent[9])] == [9, 8]
        (recalled,) = await bob.history("alice", 1, before=6)
        assert (recalled.recalled, recalled.content, repr(recalled)) == (
            True,
            "",
            f"<Message {AB}:5 from alice: recalled>",
        )
        assert await bob.history("alice", 0) == await bob.history("alice", before=1) == []
        with pytest.raises(ClientError, match="history of group:theirs: no_conversation") as found:
            await bob.history("group:theirs")
        assert (found.value.code, found.value.retry) == ("no_conversation", False)


async def test_groups_have_members_roles_and_requests(world):
    async with (
        world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob, w.sdk("carol") as carol, w.sdk("dave") as dave,
    ):  # fmt: skip
        team = await alice.create_group("team", ["bob"], title="The team", join="approval")
        assert (team.name, team.id, repr(team)) == ("team", "group:team", "<Group team>")
        await carol.group("team").apply()
        await team.accept("carol")
        await team.set_role("admin", "bob")
        await bob.group("team").mute("carol")
        info = await carol.group("team").info()
        assert (info.title, info.owner, info.join, info.consent, info.muted_all) == (
            "The team", "alice", "approval", False, False,
        )  # fmt: skip
        assert info.members == [("alice", "owner", False), ("bob", "admin", False), ("carol", "member", True)]
        with pytest.raises(SendError, match="muted") as found:
            await carol.send_text("group:team", "x")
        assert found.value.code == "muted"
        await team.unmute("carol")
        await team.rename("Us")
        assert (await team.info()).title == "Us"
        sent = await alice.send_text(team, "read this")
        await w.run_until_idle()
        await carol.mark_read("group:team")
        assert await alice.read_count(sent) == (1, 2)
        await team.remove("carol")
        await bob.group("team").leave()
        with pytest.raises(ClientError, match="state of group:team: not_member"):
            await dave.group("team").info()
        with pytest.raises(SendError, match="change dismiss to group:team: not stored: not_member"):
            await dave.group("team").dismiss()
        await team.configure(join="open")
        await dave.group("team").join()
        await team.transfer("dave")
        await dave.group("team").dismiss()
        await carol.create_group("other", ["alice"])
        with pytest.raises(SendError, match="conflict"):
            await alice.create_group("other")
        await dave.create_group("consent", ["alice"], consent=True)
        await alice.group("consent").reject()
        await dave.group("consent").invite("alice")
        await alice.group("consent").accept()


async def test_friends_are_listed_with_their_requests(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob, w.sdk("carol") as carol:
        await alice.friends.request("bob")
        await carol.friends.request("alice")
        assert [(r.user, r.by) for r in await alice.friends.requests()] == [("bob", "alice"), ("carol", "carol")]
        await bob.friends.accept("alice")
        await alice.friends.reject("carol")
        await bob.friends.block("alice")
        assert await bob.friends.list() == [("alice", True)]
        assert await alice.friends.list() == [("bob", False)]
        assert await alice.friends.requests() == []
        await bob.friends.delete("alice")
        assert await bob.friends.list() == []
        assert alice.system_unread == 3
        await alice.mark_read("system:alice")
        assert alice.system_unread == 0


async def test_chatroom_messages_arrive_until_the_client_leaves(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        lounge = alice.chatroom("lounge")
        assert await lounge.enter() == 1
        got = alice.messages()
        with pytest.raises(SendError, match="not_member"):
            await bob.send_text("chatroom:lounge", "x")
        assert await bob.chatroom("lounge").enter(recent=5) == 2
        sent = await bob.send_text("chatroom:lounge", "hello")
        assert (sent.scene, sent.status, sent.seq > 0) == ("chatroom", "success", True)
        assert [(m.content, m.sender) for m in await take(got, 1)] == [("hello", "bob")]
        await lounge.leave()
        assert await bob.chatroom("lounge").enter() == 1


async def test_other_device_can_be_logged_out(world):
    async with world() as w, w.sdk("alice") as phone, w.sdk("alice", device="laptop") as laptop:
        await phone.end_session("laptop")
        await w.run_until_idle()
        assert laptop.state == "ended"
        with pytest.raises(ClientError, match="end of the session of python: bad_request"):
            await phone.end_session("python")


# --- the connection ---------------------------------------------------------------------------------------------------


async def test_client_reconnects_after_a_restart_of_the_server_and_sends_what_waited(world, tmp_path):
    def store() -> SqliteStore:
        return SqliteStore(tmp_path / "im.db")

    async with world(store=store()) as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        lost = await told(alice, "disconnected")
        await alice.send_text("bob", "before")
        await w.restart(store)
        assert alice.state == "offline"
        waiting = asyncio.create_task(alice.send_text("bob", "meanwhile"))
        await asyncio.sleep(0)
        assert not waiting.done()
        await w.advance(w.policies.reconnect_max)
        assert (await waiting).seq == 2
        assert [m.content for m in await take(bob.messages(), 2)] == ["before", "meanwhile"]
        assert (await lost.get()).text


async def test_request_without_answer_fails_with_timeout(world):
    policies = Policies(send_timeout=0.05, send_attempts=1)
    async with world() as w, w.sdk("alice", policies=policies) as alice:
        alice._session.device.lose = lambda frame: frame.op == "history_page"
        await alice.send_text("bob", "x")
        with pytest.raises(ClientError, match=r"history of p2p:alice:bob: no answer within 0\.05 s") as found:
            await alice.history("bob")
        assert (found.value.code, found.value.retry) == ("timeout", True)


async def test_requests_wait_while_the_client_is_offline(world):
    policies = Policies(send_timeout=0.05, send_attempts=1)
    async with world() as w, w.sdk("alice", policies=policies) as alice:
        await alice.send_text("bob", "x")
        before = asyncio.create_task(alice.history("bob"))
        await asyncio.sleep(0)
        await w.restart()
        meanwhile = asyncio.create_task(alice.group("team").info())
        await asyncio.sleep(0.2)
        assert (alice.state, before.done(), meanwhile.done()) == ("offline", False, False)
        await w.advance(policies.reconnect_max)
        assert [message.content for message in await before] == ["x"]
        with pytest.raises(ClientError, match="not_member"):
            await meanwhile
        alice._session.device.lose = lambda frame: frame.op == "history_page"
        with pytest.raises(ClientError, match="no answer within"):
            await alice.history("bob")


async def test_missing_server_gives_a_one_line_error(world, key):
    async with world() as w:
        url = w.url
    for access in ({"key": key}, {"token": "t"}):
        client = imsim.Client(url, "alice", **access)
        with pytest.raises(ClientError, match=f"no server at {url}: Connection refused; start one") as found:
            await client.start()
        assert (found.value.retry, client.state) == (True, "closed")
        with pytest.raises(ClientEnded):
            await client.send_text("bob", "x")


async def test_silent_server_gives_a_one_line_error(key):
    with socket.create_server(("127.0.0.1", 0)) as listening:  # the kernel accepts; nothing answers
        url = f"ws://127.0.0.1:{listening.getsockname()[1]}"
        for access in ({"key": key}, {"token": "t"}):
            client = imsim.Client(url, "alice", policies=Policies(login_timeout=0.2), **access)
            with pytest.raises(ClientError, match=f"no server at {url}: no answer in time; start one") as found:
                await client.start()
            assert found.value.retry


async def test_token_of_another_user_ends_the_client(world):
    async with world() as w:
        alice = w.sdk("alice", token=w.token("bob"))
        with pytest.raises(ClientEnded, match="bad_token: the token belongs to bob; give a token of alice"):
            await alice.start()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "not an imsim server: HTTP 404"),
        (b"", "closed"),
        (b"SSH-2.0-something\r\n", ""),
    ],
)
async def test_foreign_server_at_the_address_gives_a_one_line_error(answer, says):
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listener:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        for access in ({"key": "k"}, {"token": "t"}):
            with pytest.raises(ClientError, match=f"no server at .*{says}"):
                await imsim.Client(url, "alice", **access).start()


async def test_client_knows_the_limits_of_the_server(world):
    async with world(Policies(content_bytes=100, recall_window=7.0)) as w, w.sdk("alice") as alice:
        assert (alice.limits.content_bytes, alice.windows.recall) == (100, 7.0)


async def test_first_sync_can_be_limited(world):
    async with world() as w, w.sdk("alice") as alice:
        for number in range(20):
            await alice.send_text("bob", str(number))
        async with w.sdk("bob", first_sync=3) as bob:
            assert [m.content for m in await take(bob.messages(), 3)] == ["17", "18", "19"]
            assert bob.conversations[0].unread == 20
            assert len(await bob.history("alice", 100)) == 20


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_token_source_is_called_again_when_the_token_expires(world):
    async with world() as w:
        given: list[str] = []

        async def source() -> str:
            given.append(w.token("alice"))
            return given[-1]

        async with w.sdk("alice", token_source=source) as alice:
            alice._session.device.break_connection()
            await w.advance(1.0)
            assert (alice.state, len(given)) == ("online", 1)
            w.wall.now += 1e6
            alice._session.device.break_connection()
            await w.advance(1.0)
            assert (alice.state, len(given)) == ("online", 2)


async def test_token_refused_as_expired_is_replaced(world):
    async with world() as w:
        calls = []

        async def source() -> str:
            calls.append(1)
            return w.token("alice")

        alice = w.sdk("alice", token_source=source)
        alice._session.device._access._wall = lambda: 0.0  # the clock of this computer is late
        lost = await told(alice, "disconnected")
        async with alice:
            w.wall.now += 1e6
            alice._session.device.break_connection()
            await w.advance(5.0)
            assert (alice.state, len(calls)) == ("online", 2)
            assert [lost.get_nowait().code for _ in range(2)] == [None, "token_expired"]
            await alice.send_text("bob", "still here")


async def test_start_tries_a_second_token_if_the_first_one_has_expired(world):
    async with world() as w:
        tokens = [w.token("alice")]
        w.wall.now += 1e6
        tokens.append(w.token("alice"))

        async def source() -> str:
            return tokens.pop(0)

        alice = w.sdk("alice", token_source=source)
        starting = asyncio.create_task(alice.start())
        await asyncio.sleep(0)
        await w.advance(1.0)
        assert (await starting).state == "online"


async def test_error_of_the_token_source_is_reported_and_tried_again(world, caplog):
    async with world() as w:
        problems: list[Exception] = []

        async def source() -> str:
            if problems:
                raise problems[0]
            return w.token("alice")

        async with w.sdk("alice", token_source=source) as alice:
            lost = await told(alice, "disconnected")
            problems.append(OSError("the login service is down"))
            w.wall.now += 1e6
            alice._session.device.break_connection()
            await w.advance(5.0)
            assert alice.state != "online"
            reasons = [lost.get_nowait().text for _ in range(lost.qsize())]
            assert reasons[1:]
            assert set(reasons[1:]) == {"token_source: OSError: the login service is down"}
            assert [(record.name, "login service is down" in record.message) for record in caplog.records] == [
                ("imsim.client", True)
            ]
            problems.clear()
            await w.advance(30.0)
            assert alice.state == "online"
        problems.append(ValueError("no"))
        with pytest.raises(ClientError, match=r"alice could not log in at .*: token_source: ValueError: no"):
            await w.sdk("alice", token_source=source).start()

        async def none() -> None:
            return None

        with pytest.raises(ClientError, match="token_source: must return a token"):
            await w.sdk("alice", token_source=none).start()


async def test_token_source_that_is_slow_or_cancelled_gives_a_one_line_error(world):
    async def slow() -> str:
        await asyncio.sleep(60)
        return ""

    async def cancelled() -> str:
        raise asyncio.CancelledError

    async with world() as w:
        for source, says in ((slow, "returned no token in time"), (cancelled, "was cancelled")):
            client = imsim.Client(w.url, "alice", token_source=source, policies=Policies(login_timeout=0.2))
            with pytest.raises(ClientError, match=f"alice could not log in at {w.url}: token_source: {says}"):
                await client.start()


async def test_key_of_another_server_ends_the_client_only_if_it_is_wrong_now(world, key):
    async with world() as w:
        with pytest.raises(ClientEnded, match="refused alice: bad_token: wrong key") as found:
            await w.sdk("alice", key="wrong").start()
        assert (found.value.code, found.value.retry) == ("bad_token", False)
        async with w.sdk("alice", key=key) as alice:
            alice._session.device._access._token = "from another server"
            alice._session.device.break_connection()
            await w.advance(5.0)
            assert alice.state == "online"


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_everything_that_waits_fails_at_once_when_the_device_is_kicked(world):
    async with world() as w, w.sdk("alice") as alice:
        ended = await told(alice, "ended")
        device = alice._session.device
        device.lose = lambda frame: frame.op in ("stored", "history_page", "done")
        listening = asyncio.create_task(anext(alice.messages()))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(alice.send_text("bob", str(n))) for n in range(50)]
        waiting += [asyncio.create_task(alice.history("bob")), asyncio.create_task(alice.wait_closed())]
        await w.run_until_idle()
        assert not any(task.done() for task in (*waiting, listening))
        async with w.sdk("alice"):  # the same device on another connection
            await w.run_until_idle()
            results = await asyncio.gather(*waiting, listening, return_exceptions=True)
            assert {(type(r), r.code, r.retry) for r in results} == {(ClientEnded, "replaced", False)}
            assert (await ended.get()).code == "replaced"
            assert alice.state == "ended"
            for call in (
                alice.send_text("bob", "x"), alice.history("bob"), alice.mark_read("bob", 1), alice.friends.list(),
                alice.chatroom("c").enter(), alice.create_group("g"), alice.typing("bob"), anext(alice.messages()),
                alice.wait_closed(), alice.hide("bob"), alice.set_conversation("bob", pinned=True),
            ):  # fmt: skip
                with pytest.raises(ClientEnded, match="ended the session of alice: replaced: ") as found:
                    await call
                assert found.value.code == "replaced"


async def test_messages_before_the_end_are_taken_first(world):
    async with world() as w, w.sdk("alice") as alice, w.sdk("bob") as bob:
        messages = bob.messages()
        await alice.send_text("bob", "the last one")
        await w.run_until_idle()
        await w.server.revoke("bob")
        await w.run_until_idle()
        assert (await anext(messages)).content == "the last one"
        with pytest.raises(ClientEnded, match="token_revoked"):
            await anext(messages)


async def test_async_handler_of_the_end_runs(world):
    async with world() as w:
        reasons = []
        async with w.sdk("alice") as alice:

            @alice.on("ended")
            async def report(error):
                await asyncio.sleep(0)
                reasons.append(error.code)

            await w.server.revoke("alice")
            await w.run_until_idle()
            with pytest.raises(ClientEnded):
                await alice.wait_closed()
        assert reasons == ["token_revoked"]


async def test_close_fails_waiting_calls_at_once(world):
    async with world() as w:
        alice = await w.sdk("alice").start()
        alice._session.device.lose = lambda frame: frame.op == "stored"
        waiting = [asyncio.create_task(alice.send_text("bob", str(n))) for n in range(5)]
        await w.run_until_idle()
        await alice.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {r.code for r in results} == {"closed"}
        with pytest.raises(ClientEnded, match="alice: this client is closed; create another"):
            await alice.send_text("bob", "x")
        await alice.close()
        assert [m async for m in alice.messages()] == []
        assert alice.state == "closed"
        assert "closed" in repr(alice)
        with pytest.raises(ClientEnded, match="this client is closed"):
            await alice.start()


async def test_client_that_was_closed_before_its_start_does_not_connect(world):
    async with world() as w:
        alice = w.sdk("alice")
        messages = alice.messages()
        await alice.close()
        with pytest.raises(ClientEnded, match="this client is closed"):
            await alice.start()
        assert [message async for message in messages] == []
        await alice.wait_closed()
        assert (alice.state, alice._session.device.connecting) == ("closed", False)


def calls_of(client) -> dict:
    """Every public coroutine function of a client and its handles, as a call."""
    message = imsim.Message(f"{AB}:1", 1, AB, "c1", "p2p", "text", "alice", "bob", 0)
    arguments = {
        "to": "bob", "conversation": "bob", "user": "bob", "device": "phone", "name": "team", "message": message,
        "url": "https://example.com/1", "role": "admin", "format": "pdf", "text": "x", "title": "x", "custom": {},
        "width": 1, "height": 1, "size": 1, "duration": 1.0, "longitude": 0.0, "latitude": 0.0,
    }  # fmt: skip
    calls = {}
    for owner in (client, client.group("team"), client.chatroom("lounge"), client.friends):
        for name in dir(owner):
            if inspect.iscoroutinefunction(getattr(type(owner), name, None)) and name not in ("close", "start"):
                method = getattr(owner, name)
                needed = [
                    one.name
                    for one in inspect.signature(method).parameters.values()
                    if one.default is one.empty and one.kind is not one.VAR_POSITIONAL
                ]
                given = functools.partial(method, **{name: arguments[name] for name in needed})
                calls[f"{type(owner).__name__}.{name}"] = given
    return calls


async def test_every_call_fails_at_once_after_the_end(world):
    async with world(Policies(sessions="single")) as w:
        alice = await w.sdk("alice").start()
        async with w.sdk("alice", device="phone"):
            await w.run_until_idle()
            assert alice.state == "ended"
            calls = calls_of(alice)
            assert len(calls) > 40
            for name, call in calls.items():
                with pytest.raises(ClientEnded) as found:
                    await asyncio.wait_for(call(), 0.5)
                assert found.value.code == "kicked", name
            for call in (alice.start, lambda: anext(alice.messages())):
                with pytest.raises(ClientEnded):
                    await asyncio.wait_for(call(), 0.5)


async def test_calls_before_the_start_and_from_elsewhere_are_refused(world):
    async with world() as w:
        alice = w.sdk("alice")
        assert (alice.state, alice.conversations, alice.user, alice.device) == ("new", [], "alice", "python")
        calls = calls_of(alice)
        for call in (*calls.values(), lambda: anext(alice.messages())):
            with pytest.raises(UsageError, match="not started; use `async with"):
                await call()
        async with alice:
            with pytest.raises(UsageError, match="can be started once only"):
                await alice.start()

            def elsewhere() -> None:
                asyncio.run(alice.send_text("bob", "x"))

            with pytest.raises(UsageError, match="another event loop"):
                await asyncio.to_thread(elsewhere)


async def test_cancelled_start_closes_the_client(world):
    async with world() as w:
        alice = w.sdk("alice")
        alice._session.device.lose = lambda frame: frame.op == "sync_done"
        starting = asyncio.create_task(alice.start())
        await asyncio.sleep(0)
        await w.run_until_idle()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert (alice.state, alice._session.device.connected) == ("closed", False)


@pytest.mark.parametrize(
    ("url", "user", "arguments", "says"),
    [
        ("http://127.0.0.1:1", "alice", {"key": "k"}, "ws://"),
        ("nonsense", "alice", {"key": "k"}, "ws://"),
        ("ws://127.0.0.1:port", "alice", {"key": "k"}, "ws://"),
        (None, "alice", {"key": "k"}, "ws://"),
        ("ws://127.0.0.1:1", "a b", {"key": "k"}, "user"),
        ("ws://127.0.0.1:1", "alice", {"key": "k", "device": "a b"}, "device"),
        ("ws://127.0.0.1:1", "alice", {}, r"exactly one of token, key and token_source .*got none"),
        ("ws://127.0.0.1:1", "alice", {"key": "k", "token": "t"}, "exactly one of .*got token and key"),
        ("ws://127.0.0.1:1", "alice", {"key": 7}, "key: must be a text"),
        ("ws://127.0.0.1:1", "alice", {"key": "k\n"}, "key: must be printable, .*strip it"),
        ("ws://127.0.0.1:1", "alice", {"key": "\ud800"}, "key: must be printable"),
        ("ws://127.0.0.1:1", "alice", {"token_source": "t"}, "token_source: must be an async function"),
        ("ws://127.0.0.1:1", "alice", {"key": "k", "state": 5}, "state: must be the path of a file"),
        ("ws://127.0.0.1:1", "alice", {"key": "k", "state": ""}, "state: must be the path of a file"),
        ("ws://127.0.0.1:1", "alice", {"key": "k", "policies": {}}, "policies: must be an imsim.core"),
        ("ws://127.0.0.1:1", None, {"key": "k"}, "user: expected a name"),
        ("ws://127.0.0.1:1", "alice", {"key": "k", "queue": 0}, "queue: "),
        ("ws://127.0.0.1:1", "alice", {"key": "k", "first_sync": -1}, "first_sync: "),
    ],
)
def test_client_refuses_invalid_arguments(url, user, arguments, says):
    with pytest.raises(UsageError, match=says):
        imsim.Client(url, user, **arguments)
