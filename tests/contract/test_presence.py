"""Tests of typing and presence: both are off by default, rate-limited, and without effect on unread counts."""

from __future__ import annotations

import pytest

from imsim.core import events

AB = "p2p:alice:bob"

pytestmark = pytest.mark.design("push", "notify", "single")  # the tests themselves make the users friends


def befriend(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.change("bob", "friend_request", "f1")
    bob.change("alice", "friend_accept", "f2")
    return alice, bob


@pytest.mark.design("push")
def test_typing_and_presence_are_off_by_default(world):
    alice, bob = befriend(world)
    alice.typing(AB)
    bob.break_connection()
    world.advance(40)
    assert bob.of(events.Typing) == alice.of(events.Presence) == []


def test_typing_reaches_the_other_user_up_to_its_rate_limit(make_world):
    world = make_world(typing_rate=1.0, typing_burst=2)
    alice, bob = befriend(world)
    other = world.device("bob", "d1").start()
    for _ in range(5):
        alice.typing(AB)
    assert len(bob.of(events.Typing)) == len(other.of(events.Typing)) == 2
    world.advance(3)
    alice.typing(AB)
    assert bob.of(events.Typing)[2:] == [events.Typing(AB)]
    assert alice.of(events.Typing) == []


def test_typing_in_a_foreign_conversation_has_no_effect(make_world):
    world = make_world(typing_rate=1.0)
    _, bob = befriend(world)
    carol = world.device("carol").start()
    carol.typing(AB)
    carol.typing("p2p:bob:carol")
    carol.typing("group:none")
    assert bob.of(events.Typing) == []


def test_friends_receive_logins_and_logouts(make_world):
    world = make_world(presence="friends")
    alice, bob = befriend(world)
    carol = world.device("carol").start()
    bob.stop()
    assert alice.of(events.Presence)[-1] == events.Presence("bob", False)
    bob.start()
    assert alice.of(events.Presence)[-1] == events.Presence("bob", True)
    assert bob.of(events.Presence)[-1] == events.Presence("alice", True)  # presence at login
    other = world.device("bob", "d1").start()
    before = len(alice.of(events.Presence))
    other.stop()
    assert len(alice.of(events.Presence)) == before  # another device is still online
    assert carol.of(events.Presence) == []
    alice.change("bob", "friend_delete", "f3")
    bob.stop()
    assert len(alice.of(events.Presence)) == before


def test_blocked_user_and_blocker_are_offline_for_each_other(make_world):
    world = make_world(presence="friends", typing_rate=100.0)
    alice, bob = befriend(world)
    tablet = world.device("bob", "d1").start()
    before = [list(device.of(events.Presence)) for device in (alice, bob, tablet)]
    bob.set_conversation(AB, blocked=True)
    for device, seen, other in zip((alice, bob, tablet), before, ("bob", "alice", "alice"), strict=True):
        assert device.of(events.Presence) == [*seen, events.Presence(other, False)]
    del alice.events[:], bob.events[:], tablet.events[:]
    alice.typing(AB)
    bob.typing(AB)
    for device in (alice, bob, tablet):
        device.stop()
        device.start()
    assert alice.of(events.Presence) == bob.of(events.Presence) == tablet.of(events.Presence) == []
    assert alice.of(events.Typing) == bob.of(events.Typing) == []
    tablet.set_conversation(AB, blocked=False)
    assert alice.of(events.Presence) == [events.Presence("bob", True)]
    assert bob.of(events.Presence) == tablet.of(events.Presence) == [events.Presence("alice", True)]
    alice.typing(AB)
    assert bob.of(events.Typing) == [events.Typing(AB)]


def test_blocking_a_stranger_reveals_no_presence(make_world):
    world = make_world(presence="friends")
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "hello", "1")
    bob.set_conversation(AB, blocked=True)
    bob.set_conversation(AB, blocked=False)
    assert alice.of(events.Presence) == bob.of(events.Presence) == []


def test_user_with_revoked_tokens_is_offline_for_friends(make_world):
    world = make_world(presence="friends")
    alice, bob = befriend(world)
    world.device("bob", "d1").start()
    del alice.events[:]
    world.revoke("bob")
    assert alice.of(events.Presence) == [events.Presence("bob", False)]
    assert bob.machine.state == "ended"
    alice.send("bob", "anybody?", "1")  # no device receives it
    world.advance(1)
    world.device("bob", "d2").start()
    assert alice.of(events.Presence)[1:] == [events.Presence("bob", True)]


def test_new_friends_receive_the_presence_of_each_other_at_once(make_world):
    world = make_world(presence="friends")
    alice, bob = befriend(world)
    assert alice.of(events.Presence) == [events.Presence("bob", True)]
    assert bob.of(events.Presence) == [events.Presence("alice", True)]


def test_presence_of_a_flapping_user_is_rate_limited_and_ends_correct(make_world):
    world = make_world(presence="friends", presence_rate=1.0, presence_burst=3, reconnect_min=0.01)
    alice, bob = befriend(world)
    del alice.events[:]
    for _ in range(20):
        bob.stop()
        bob.start()
    bob.stop()
    assert len(alice.of(events.Presence)) <= 3
    world.advance(3)
    assert alice.of(events.Presence)[-1] == events.Presence("bob", False)
    assert len(alice.of(events.Presence)) <= 4
    bob.start()
    assert alice.of(events.Presence)[-1] == events.Presence("bob", True)
