"""Tests of sending: each message gets one seq and one answer, even if frames are lost."""

from __future__ import annotations

import pytest

from imsim.core import events
from imsim.core.client.connection import State
from imsim.core.model import Code, Flow, Route, Status


@pytest.mark.design("push")
def test_message_is_stored_acknowledged_and_delivered(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "hello", "1")
    assert alice.seqs == {"1": 1}
    assert alice.machine.status("1") == Status.SUCCESS
    (shown,) = bob.of(events.Shown)
    assert (shown.message.content, shown.message.sender, shown.message.to) == ("hello", "alice", "bob")
    assert (shown.message.seq, shown.flow, shown.route) == (1, Flow.IN, Route.PUSH)
    assert alice.shown == []


def test_seqs_start_at_one_in_each_conversation(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    world.device("carol").start()
    alice.send("bob", "a", "1")
    bob.send("alice", "b", "2")
    alice.send("carol", "c", "3")
    alice.send("bob", "d", "4")
    assert alice.seqs == {"1": 1, "3": 1, "4": 3}
    assert bob.seqs == {"2": 2}
    assert bob.shown == ["a", "d"]


def test_status_is_sending_until_the_ack_arrives(world):
    alice = world.device("alice").start()
    alice.lose_next("stored")
    alice.send("bob", "hello", "1")
    assert alice.machine.status("1") == Status.SENDING


def test_lost_ack_causes_a_resend_and_no_second_message(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.lose_next("stored")
    alice.send("bob", "hello", "1")
    world.advance(6)
    assert alice.seqs == {"1": 1}
    assert [event.attempt for event in alice.of(events.Sent)] == [1, 2]
    assert bob.shown == ["hello"]
    alice.send("bob", "next", "2")
    assert alice.seqs["2"] == 2


def test_client_resends_a_lost_send(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.lose_next("send")
    alice.send("bob", "hello", "1")
    assert bob.shown == []
    world.advance(6)
    assert bob.shown == ["hello"]
    assert alice.seqs == {"1": 1}


def test_messages_of_a_sender_keep_their_order_if_the_first_is_lost(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.lose_next("send")
    for number in (1, 2, 3):
        alice.send("bob", f"text {number}", str(number))
    world.advance(6)
    assert bob.shown == ["text 1", "text 2", "text 3"]
    assert alice.seqs == {"1": 1, "2": 2, "3": 3}


def test_client_receives_lost_acks_after_a_reconnect(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.lose_next("stored", times=3)
    for number in (1, 2, 3):
        alice.send("bob", f"text {number}", str(number))
    alice.break_connection()
    world.advance(40)
    assert alice.machine.state == State.ONLINE
    assert alice.seqs == {"1": 1, "2": 2, "3": 3}
    assert bob.shown == ["text 1", "text 2", "text 3"]


def test_idempotency_survives_a_restart_of_the_server(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.lose_next("stored")
    alice.send("bob", "hello", "1")
    world.restart_server()
    world.advance(40)
    assert alice.seqs == {"1": 1}
    assert bob.shown == ["hello"]
    bob.send("alice", "back", "2")
    assert bob.seqs == {"2": 2}


def test_same_key_from_another_device_gets_the_original_ack(world):
    one, other = world.device("alice", "d0").start(), world.device("alice", "d1").start()
    one.send("bob", "hello", "7")
    other.send("bob", "hello", "7")
    assert other.seqs == {"7": 1}


def test_same_key_with_another_body_is_a_conflict(world):
    one, other = world.device("alice", "d0").start(), world.device("alice", "d1").start()
    one.send("bob", "hello", "7")
    other.send("bob", "something else", "7")
    (failed,) = other.of(events.SendFailed)
    assert failed.code == Code.CONFLICT
    assert other.machine.status("7") == Status.FAIL
    one.send("bob", "next", "8")
    assert one.seqs["8"] == 2


def test_exhausted_retries_fail_a_send_and_a_later_ack_corrects_it(make_world):
    world = make_world(send_attempts=3)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.lose(lambda frame: frame.op in ("stored", "sync_done"))
    alice.send("bob", "hello", "1")
    world.advance(36)
    assert alice.machine.status("1") == Status.FAIL
    assert [event.code for event in alice.of(events.SendFailed)] == [Code.TIMEOUT]
    assert bob.shown == ["hello"]
    alice.lose_nothing()
    alice.send("bob", "hello", "1")  # the application retries the failed send
    assert alice.machine.status("1") == Status.SUCCESS
    assert alice.seqs == {"1": 1}
    assert bob.shown == ["hello"]


def test_client_syncs_after_the_last_attempt_to_check_whether_its_send_is_stored(make_world):
    world = make_world(send_attempts=2)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.lose(lambda frame: frame.op == "stored")
    alice.send("bob", "hello", "1")
    world.advance(16)
    assert [event.code for event in alice.of(events.SendFailed)] == [Code.TIMEOUT]
    assert alice.machine.status("1") == Status.SUCCESS
    assert (alice.seqs, bob.shown) == ({"1": 1}, ["hello"])
    assert len(alice.of(events.Ready)) == 1  # the application sees no second login


def test_messages_sent_offline_are_sent_after_the_login(world):
    alice, bob = world.device("alice"), world.device("bob").start()
    alice.send("bob", "early", "1")
    assert alice.machine.status("1") == Status.SENDING
    alice.start()
    assert alice.seqs == {"1": 1}
    assert bob.shown == ["early"]


def test_too_large_message_is_rejected_and_the_next_arrives(make_world):
    world = make_world(content_bytes=10)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "12345678901", "1")
    alice.send("bob", "äöüßé", "2")  # ten bytes
    alice.send("bob", "äöüßéx", "3")
    assert [(event.id_client, event.code) for event in alice.of(events.SendFailed)] == [
        ("1", Code.TOO_LARGE),
        ("3", Code.TOO_LARGE),
    ]
    assert alice.seqs == {"2": 1}
    assert bob.shown == ["äöüßé"]


def test_policy_after_receive_sends_received_before_stored(make_world):
    world = make_world(ack="after_receive")
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "hello", "1")
    kinds = [type(event) for event in alice.events]
    assert kinds.index(events.Received) < kinds.index(events.Acked)
    assert bob.shown == ["hello"]


@pytest.mark.design("push")
def test_policy_after_store_sends_only_stored(world):
    alice = world.device("alice").start()
    alice.send("bob", "hello", "1")
    assert alice.of(events.Received) == []
    assert alice.seqs == {"1": 1}
