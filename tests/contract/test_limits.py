"""Tests of size and rate limits: each has an error code, and loses no message."""

from __future__ import annotations

import pytest

from imsim.core import events
from imsim.core.model import Code, Scene, Status


def test_rate_limited_sender_waits_and_every_message_arrives_in_order(make_world):
    world = make_world(user_rate=2.0, user_burst=3, send_attempts=2)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    for number in range(1, 8):
        alice.send("bob", str(number), str(number))
    assert bob.shown == ["1", "2", "3"]
    assert alice.machine.status("4") == Status.SENDING
    world.advance(0.6)
    assert bob.shown == ["1", "2", "3", "4"]
    world.advance(20)
    assert bob.shown == [str(number) for number in range(1, 8)]
    assert alice.of(events.SendFailed) == []


def test_rate_limit_of_a_user_does_not_affect_another_user(make_world):
    world = make_world(user_rate=1.0, user_burst=1)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "a", "1")
    bob.send("alice", "b", "2")
    assert (alice.shown, bob.shown) == (["b"], ["a"])


def test_reconnect_does_not_reset_the_rate_limit(make_world):
    world = make_world(user_rate=0.01, user_burst=1)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "a", "1")
    alice.break_connection()
    world.advance(5)
    alice.send("bob", "b", "2")
    assert bob.shown == ["a"]
    world.advance(120)
    assert bob.shown == ["a", "b"]


def test_group_has_its_own_rate_limit(make_world):
    world = make_world(group_rate=1.0, group_burst=2)
    alice, bob, carol = (world.device(user).start() for user in ("alice", "bob", "carol"))
    alice.create_group("team", "bob", "carol")
    alice.send("#team", "1", "1")
    bob.send("#team", "2", "2")
    bob.send("#team", "3", "3")
    alice.send("bob", "aside", "4")
    assert carol.shown == ["1", "2"]
    assert bob.shown == ["1", "aside"]
    world.advance(1.1)
    assert carol.shown == ["1", "2", "3"]


def test_users_outside_a_group_do_not_use_its_rate_limit(make_world):
    world = make_world(group_rate=0.1, group_burst=1)
    alice, bob, carol, dave = (world.device(user).start() for user in ("alice", "bob", "carol", "dave"))
    alice.change("#team", "create", "create", "bob", join="approval")
    for number in range(5):
        carol.change("#team", "apply", f"apply {number}")
    bob.send("#team", "for us", "1")
    assert alice.shown == ["for us"]
    for number in range(5):
        send_system(carol, "bob", f"note {number}")
    send_system(dave, "bob", "mine")
    assert list(dave.seqs) == ["mine"]
    assert len(carol.seqs) == 10


def send_system(device, to, id):
    device.act(lambda now: device.machine.send(Scene.SYSTEM, to, "", type="custom", custom="{}", id_client=id, now=now))
    device.world.run_until_idle()


def test_rate_limited_sync_waits_for_each_page_and_misses_nothing(make_world):
    world = make_world(user_rate=2.0, user_burst=1, page=2)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.stop()
    for number in range(1, 8):
        alice.send("bob", str(number), str(number))
        world.advance(1)
    bob.start()
    assert bob.shown == ["1", "2"]
    world.advance(0.6)
    assert bob.shown == ["1", "2", "3", "4"]
    world.advance(1.5)
    assert bob.shown == [str(number) for number in range(1, 8)]
    assert len(bob.of(events.Ready)) == 2


@pytest.mark.design("notify")
def test_receipts_beyond_the_rate_limit_arrive_late(make_world):
    world = make_world(user_rate=1.0, user_burst=1)
    alice, _, carol = (world.device(user).start() for user in ("alice", "bob", "carol"))
    for number in range(1, 4):
        alice.send("bob", str(number), f"1{number}", run_until_idle=False)
        carol.send("bob", str(number), f"2{number}", run_until_idle=False)
        world.advance(1)
    world.advance(20)
    assert alice.of(events.PeerDelivered)[-1] == events.PeerDelivered("p2p:alice:bob", 3)
    assert carol.of(events.PeerDelivered)[-1] == events.PeerDelivered("p2p:bob:carol", 3)


def test_busy_server_stores_each_send_once_and_in_order_when_it_has_time(make_world):
    world = make_world(longest_wait=0.5)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    world.slow_down(0.6)
    for number in range(1, 5):
        alice.send("bob", str(number), str(number))
    alice.send("carol", "aside", "5")
    world.advance(3)
    assert bob.shown == []
    assert alice.machine.status("1") == Status.SENDING
    world.slow_down(0.4)
    world.advance(3)
    assert bob.shown == ["1", "2", "3", "4"]
    assert list(alice.seqs.values()) == [1, 2, 3, 4, 1]
    assert alice.of(events.SendFailed) == []


def test_send_that_a_busy_server_refuses_for_too_long_fails_and_is_not_stored(make_world):
    world = make_world(longest_wait=0.5, send_attempts=2, send_timeout=2.0, reconnect_max=10.0)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    world.slow_down(10.0)
    alice.send("bob", "hello", "1")
    world.advance(7)
    assert alice.of(events.SendFailed) == []
    world.advance(5)
    assert [event.code for event in alice.of(events.SendFailed)] == [Code.TIMEOUT]
    assert alice.machine.status("1") == Status.FAIL
    world.slow_down(0.0)
    world.advance(5)
    assert bob.shown == []
    alice.send("bob", "hello", "1")
    assert bob.shown == ["hello"]


def test_busy_server_still_answers_reads_and_syncs(make_world):
    world = make_world(longest_wait=0.5)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "hello", "1")
    world.slow_down(5.0)
    bob.read("p2p:alice:bob")
    assert bob.unread("p2p:alice:bob") == 0
    assert alice.of(events.PeerRead) == [events.PeerRead("p2p:alice:bob", 1)]
    bob.break_connection()
    world.advance(2)
    assert len(bob.of(events.Ready)) == 2


def test_invalid_name_is_rejected(world):
    alice = world.device("alice").start()
    alice.send("no such:name", "hello", "1")
    assert [event.code for event in alice.of(events.SendFailed)] == [Code.BAD_REQUEST]


@pytest.mark.parametrize("fields", [{"content": "\ud800"}, {"custom": "{\udfff}"}], ids=["content", "custom"])
def test_lone_surrogate_is_rejected_and_the_next_message_arrives(world, fields):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    given = {"content": "hello", **fields}
    alice.act(lambda now: alice.machine.send(Scene.P2P, "bob", id_client="1", now=now, **given))
    world.run_until_idle()
    (failed,) = alice.of(events.SendFailed)
    assert failed.code == Code.BAD_REQUEST
    assert failed.text.startswith(f"{next(iter(fields))}: ")
    alice.send("bob", "hello", "2")
    assert bob.shown == ["hello"]
    assert alice.of(events.Disconnected) == []


def test_group_of_the_largest_size_can_be_created(make_world):
    world = make_world(content_bytes=80, group_size=3)
    alice = world.device("alice").start()
    alice.create_group("team", "bob", "carol", "carol")
    alice.create_group("crowd", "bob", "carol", "dave")
    alice.create_group("horde", *["bob"] * 4)
    assert list(alice.seqs) == ["create:team"]
    assert [event.code for event in alice.of(events.SendFailed)] == [Code.TOO_LARGE] * 2
