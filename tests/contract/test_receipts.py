"""Tests of receipts: the sender of a p2p message receives a read mark and, by policy, a delivered mark."""

from __future__ import annotations

from imsim.core import events

AB = "p2p:alice:bob"


def marks(device):
    line = device.lines[AB]
    return line.peer_delivered_seq, line.peer_read_seq


def test_sender_receives_delivered_and_read_marks(make_world):
    world = make_world(receipts="delivered")
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "one", "1")
    assert marks(alice) == (1, 0)
    alice.send("bob", "two", "2")
    assert [event.seq for event in alice.of(events.PeerDelivered)] == [1, 2]
    bob.read(AB)
    assert marks(alice) == (2, 2)
    assert [event.seq for event in alice.of(events.PeerRead)] == [2]


def test_sender_receives_no_delivered_mark_before_the_delivery(make_world):
    world = make_world(receipts="delivered")
    alice, bob = world.device("alice").start(), world.device("bob")
    alice.send("bob", "one", "1")
    alice.send("bob", "two", "2")
    assert marks(alice) == (0, 0)
    bob.start()
    assert marks(alice) == (2, 0)


def test_all_devices_of_the_sender_receive_delivered_marks_even_after_being_offline(make_world):
    world = make_world(receipts="delivered")
    alice, other = world.device("alice").start(), world.device("alice", "d1").start()
    world.device("bob").start()
    other.break_connection()
    alice.send("bob", "one", "1")
    world.advance(40)
    assert marks(alice) == marks(other) == (1, 0)
    assert marks(world.device("alice", "d2").start()) == (1, 0)


def test_delivered_marks_survive_a_restart_of_the_server(make_world):
    world = make_world(receipts="delivered")
    alice = world.device("alice").start()
    world.device("bob").start()
    alice.send("bob", "one", "1")
    world.restart_server()
    world.advance(60)
    assert marks(world.device("alice", "d1").start()) == (1, 0)
    alice.send("bob", "two", "2")
    assert marks(alice) == (2, 0)


def test_delivered_mark_is_monotone_and_not_beyond_the_log(make_world):
    world = make_world(receipts="delivered")
    alice, late = world.device("alice").start(), world.device("bob", "d1")
    world.device("bob").start()
    for number in range(1, 4):
        alice.send("bob", str(number), str(number))
    late.start()  # its cursor starts at 0
    seqs = [event.seq for event in alice.of(events.PeerDelivered)]
    assert seqs == sorted(set(seqs))
    assert marks(alice) == (3, 0)


def test_policy_read_sends_no_delivered_marks(make_world):
    world = make_world(receipts="read")
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "one", "1")
    assert marks(alice) == (0, 0)
    bob.read(AB)
    assert marks(alice) == (1, 1)


def test_groups_and_messages_to_oneself_have_no_receipts(make_world):
    world = make_world(receipts="delivered")
    alice, other, bob = world.device("alice").start(), world.device("alice", "d1").start(), world.device("bob").start()
    alice.create_group("team", "bob")
    alice.send("#team", "one", "1")
    alice.send("alice", "note", "2")
    assert other.shown == ["one", "note"]
    for device in (alice, other, bob):
        assert device.of(events.PeerDelivered) == device.of(events.PeerRead) == []
