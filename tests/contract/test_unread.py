"""Tests of unread counts and read marks. Comments name issues of other IM systems that had these errors."""

from __future__ import annotations

import pytest

AB = "p2p:alice:bob"


def test_unread_count_excludes_own_messages(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    for number in (1, 2, 3):
        alice.send("bob", "text", str(number))
    assert bob.unread(AB) == 3
    assert alice.unread(AB) == 0  # openimsdk/open-im-server#2807 counted own messages


def test_reading_on_one_device_clears_the_others(world):
    alice = world.device("alice").start()
    one, other = world.device("bob", "d0").start(), world.device("bob", "d1").start()
    alice.send("bob", "text", "1")
    assert (one.unread(AB), other.unread(AB)) == (1, 1)
    one.read(AB)
    assert (one.unread(AB), other.unread(AB)) == (0, 0)
    alice.send("bob", "text", "2")
    assert (one.unread(AB), other.unread(AB)) == (1, 1)


def test_read_mark_of_the_peer_does_not_change_the_unread_count(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "to bob", "1")
    bob.read(AB)
    bob.send("alice", "to alice", "2")
    assert alice.unread(AB) == 1  # open-im-server#3068
    bob.read(AB)
    assert alice.unread(AB) == 1


def test_send_marks_the_shown_messages_as_read(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    other = world.device("bob", "d1").start()
    alice.send("bob", "question", "1")
    bob.send("alice", "answer", "2")
    assert (bob.unread(AB), other.unread(AB)) == (0, 0)
    alice.send("bob", "thanks", "3")
    assert (bob.unread(AB), other.unread(AB)) == (1, 1)


@pytest.mark.design("push")
def test_send_does_not_mark_messages_as_read_that_were_not_shown(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose_next("push")
    alice.send("bob", "unseen", "1")
    bob.send("alice", "crossing", "2")
    world.advance(3)
    assert bob.shown == ["unseen"]
    assert bob.unread(AB) == 1


def test_unread_count_survives_reconnects_and_restarts(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    for number in (1, 2):
        alice.send("bob", "text", str(number))
    bob.read(AB)
    alice.send("bob", "text", "3")
    bob.break_connection()
    alice.send("bob", "text", "4")
    world.advance(40)
    assert bob.unread(AB) == 2  # openim-sdk-core#195: wrong after a reconnect
    world.restart_server()
    world.advance(40)
    assert bob.unread(AB) == 2
    fresh = world.device("bob", "d1").start()
    assert fresh.unread(AB) == 2


def test_read_mark_set_offline_is_sent_at_the_next_login(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    other = world.device("bob", "d1").start()
    alice.send("bob", "text", "1")
    world.stop_server()
    bob.read(AB)
    world.start_server()
    world.advance(60)
    assert (bob.unread(AB), other.unread(AB)) == (0, 0)


def test_reading_twice_changes_nothing(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "text", "1")
    bob.read(AB)
    bob.read(AB)
    assert bob.unread(AB) == 0
    alice.send("bob", "text", "2")
    assert bob.unread(AB) == 1


def test_conversation_list_is_ordered_by_the_latest_message(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    carol = world.device("carol").start()
    alice.send("bob", "one", "1")
    world.advance(1)
    carol.send("bob", "two", "2")
    world.advance(1)
    bob.send("alice", "three", "3")
    listed = [(c.to, c.last_msg.content, c.unread) for c in bob.machine.conversations()]
    assert listed == [("alice", "three", 0), ("carol", "two", 1)]
    assert bob.machine.conversations()[0].update_time > bob.machine.conversations()[1].update_time
