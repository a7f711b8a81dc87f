"""Tests of receiving: every device shows every message of the user's conversations, once and in order."""

from __future__ import annotations

import pytest

from imsim.core import events
from imsim.core.client.connection import State
from imsim.core.model import Code, Flow, Route

push = pytest.mark.design("push")


def test_other_devices_of_the_sender_show_the_message_as_outgoing(world):
    one, other = world.device("alice", "d0").start(), world.device("alice", "d1").start()
    bob = world.device("bob").start()
    one.send("bob", "hello", "1")
    (shown,) = other.of(events.Shown)
    assert (shown.flow, shown.message.content) == (Flow.OUT, "hello")
    assert one.shown == []
    assert bob.shown == ["hello"]


def test_every_device_of_the_recipient_receives_a_message(world):
    alice = world.device("alice").start()
    bobs = [world.device("bob", "d0").start(), world.device("bob", "d1").start()]
    alice.send("bob", "hello", "1")
    assert [bob.shown for bob in bobs] == [["hello"], ["hello"]]


@push
def test_server_repeats_a_lost_push(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose_next("push")
    alice.send("bob", "hello", "1")
    assert bob.shown == []
    world.advance(2.5)
    assert bob.shown == ["hello"]


@push
def test_push_repeated_after_a_lost_ack_is_not_shown_again(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose_next("delivered")
    alice.send("bob", "hello", "1")
    world.advance(30)
    assert bob.shown == ["hello"]
    assert len(bob.of(events.Repeated)) == 1


def test_server_does_not_repeat_an_acknowledged_push(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "hello", "1")
    world.advance(60)
    assert bob.of(events.Repeated) == []


@push
def test_message_after_a_gap_waits_until_the_gap_is_filled(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose_next("push")
    alice.send("bob", "one", "1")
    alice.send("bob", "two", "2")
    assert bob.shown == []
    world.advance(2.5)
    assert bob.shown == ["one", "two"]


@push
def test_client_fetches_a_gap_that_no_push_fills(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose(lambda frame: frame.op == "push" and frame.message.content in ("one", "two"))
    for number, content in enumerate(("one", "two", "three"), 1):
        alice.send("bob", content, str(number))
    world.advance(1)
    assert bob.shown == []
    world.advance(3)
    assert bob.shown == ["one", "two", "three"]
    assert [event.route for event in bob.of(events.Shown)] == [Route.SYNC, Route.SYNC, Route.PUSH]
    alice.send("bob", "four", "4")
    assert bob.shown == ["one", "two", "three", "four"]


@push
def test_client_fetches_a_large_gap_page_by_page(make_world):
    world = make_world(page=2)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose(lambda frame: frame.op == "push" and frame.message.seq < 8)
    for number in range(1, 9):
        alice.send("bob", str(number), str(number))
    world.advance(4)
    assert bob.shown == [str(number) for number in range(1, 9)]


@push
def test_client_fetches_a_gap_before_its_own_message(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose(lambda frame: frame.op == "push")
    alice.send("bob", "one", "1")
    bob.send("alice", "two", "2")
    assert bob.shown == []
    world.advance(4)
    assert bob.shown == ["one"]


@push
def test_client_repeats_the_request_for_a_gap_until_a_page_arrives(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    lost = []

    def predicate(frame):
        if frame.op == "history_page":
            lost.append(frame)
        return (frame.op == "push" and frame.message.content == "one") or (frame.op == "history_page" and len(lost) < 3)

    bob.lose(predicate)
    alice.send("bob", "one", "1")
    alice.send("bob", "two", "2")
    world.advance(20)
    assert bob.shown == ["one", "two"]
    assert len(lost) == 3


@pytest.mark.design("notify")
def test_server_repeats_a_lost_notify(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose_next("notify", 2)
    alice.send("bob", "one", "1")
    alice.send("bob", "two", "2")
    assert bob.shown == []
    world.advance(2.5)
    assert bob.shown == ["one", "two"]
    alice.send("bob", "three", "3")
    assert bob.shown == ["one", "two", "three"]
    assert {event.route for event in bob.of(events.Shown)} == {Route.SYNC}
    world.advance(200)
    assert bob.of(events.Repeated) == []


@pytest.mark.design("notify")
def test_client_fetches_the_message_after_a_notify_and_receives_no_push(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    ops = []
    bob.lose(lambda frame: ops.append(frame.op) or False)
    alice.send("bob", "one", "1")
    assert bob.shown == ["one"]
    assert ops == ["notify", "history", "history_page", "delivered"]


def test_offline_device_receives_messages_at_login_page_by_page(make_world):
    world = make_world(page=2)
    alice, bob = world.device("alice").start(), world.device("bob")
    carol = world.device("carol").start()
    for number in range(1, 6):
        alice.send("bob", f"text {number}", str(number))
    carol.send("bob", "from carol", "9")
    bob.start()
    assert bob.machine.state == State.ONLINE
    assert sorted(bob.shown) == sorted([f"text {number}" for number in range(1, 6)] + ["from carol"])
    assert [text for text in bob.shown if text != "from carol"] == [f"text {number}" for number in range(1, 6)]
    assert {event.route for event in bob.of(events.Shown)} == {Route.SYNC}


@push
def test_reconnect_delivers_missed_messages_once(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "before", "1")
    bob.break_connection()
    alice.send("bob", "meanwhile", "2")
    assert bob.shown == ["before"]
    world.advance(40)
    alice.send("bob", "after", "3")
    assert bob.shown == ["before", "meanwhile", "after"]
    assert [event.route for event in bob.of(events.Shown)] == [Route.PUSH, Route.SYNC, Route.PUSH]


def test_push_during_the_login_sync_is_shown_once(world):
    alice, bob = world.device("alice").start(), world.device("bob")
    alice.send("bob", "one", "1")
    bob.lose_next("sync_done")
    bob.start()
    assert bob.machine.state == State.SYNCING
    alice.send("bob", "two", "2")
    world.advance(10)
    assert bob.machine.state == State.ONLINE
    assert bob.shown == ["one", "two"]


def test_log_survives_a_restart_of_the_server(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "one", "1")
    world.stop_server()
    world.advance(5)
    assert alice.machine.state != State.ONLINE
    world.start_server()
    world.advance(40)
    alice.send("bob", "two", "2")
    assert bob.shown == ["one", "two"]
    late = world.device("bob", "d1").start()
    assert late.shown == ["one", "two"]


def test_group_message_reaches_only_members(world):
    alice, bob, carol, dave = (world.device(user).start() for user in ("alice", "bob", "carol", "dave"))
    alice.create_group("team", "bob", "carol")
    assert [event.conversation_id for event in alice.of(events.Acked)] == ["group:team"]
    bob.send("#team", "hello all", "1")
    assert (alice.shown, carol.shown, dave.shown, bob.shown) == (["hello all"], ["hello all"], [], [])
    dave.send("#team", "let me in", "2")
    assert [event.code for event in dave.of(events.SendFailed)] == [Code.NOT_MEMBER]


def test_creating_a_group_again_is_a_conflict_only_if_its_members_differ(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.create_group("team", "bob")
    again = world.device("alice", "d1").start()
    again.create_group("team", "bob")
    assert again.seqs == {"create:team": 1}
    other = world.device("alice", "d2").start()
    other.create_group("team", "bob", "carol")
    bob.create_group("team", "alice")
    assert [event.code for event in (*other.of(events.SendFailed), *bob.of(events.SendFailed))] == [Code.CONFLICT] * 2


def test_send_to_an_unknown_group_is_rejected(world):
    alice = world.device("alice").start()
    alice.send("#nobody", "hello?", "1")
    assert [event.code for event in alice.of(events.SendFailed)] == [Code.NOT_MEMBER]


@push
def test_device_that_acknowledges_no_push_is_disconnected_and_syncs_later(make_world):
    world = make_world(send_queue=3, push_timeout=1000.0)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose(lambda frame: frame.op in ("push", "delivered"))
    for number in range(1, 6):
        alice.send("bob", f"text {number}", str(number))
    assert [event.code for event in bob.of(events.Disconnected)] == [Code.SLOW_READER]
    bob.lose_nothing()
    world.advance(40)
    assert bob.shown == [f"text {number}" for number in range(1, 6)]
