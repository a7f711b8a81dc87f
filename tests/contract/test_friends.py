"""Tests of friendships, blocking, and system messages between users."""

from __future__ import annotations

import pytest

from imsim.core import events
from imsim.core.model import Code, Scene

AB = "p2p:alice:bob"

#: Marks tests of users who are not friends at the start.
strangers = pytest.mark.design("push", "notify", "single")


@strangers
def test_client_cannot_use_the_id_of_a_future_friend_request(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    for number in (1, 2):
        id = f"p2p:alice:bob:{number}"
        alice.act(lambda now, id=id: alice.machine.send(Scene.SYSTEM, "bob", "", type="custom", id_client=id, now=now))
    world.run_until_idle()
    assert [event.code for event in alice.of(events.SendFailed)] == [Code.BAD_REQUEST] * 2
    alice.change("bob", "friend_request", "1")
    shown = [event.message.type for event in bob.of(events.Shown) if event.message.scene == Scene.SYSTEM]
    assert shown == ["friend_request"]


def system(device):
    shown = [event.message for event in device.of(events.Shown) if event.message.scene == "system"]
    return [(message.type, message.sender) for message in shown]


def failures(device):
    return [event.code for event in device.of(events.SendFailed)]


def changed(device):
    return [event.message.file["event"] for event in device.of(events.Changed)]


@strangers
def test_accepted_friend_request_is_resolved_and_notifies_both_users(world):
    alice, bob, other = (world.device(*names).start() for names in (("alice",), ("bob",), ("bob", "d1")))
    alice.change("bob", "friend_request", "1")
    assert system(bob) == system(other) == [("friend_request", "alice")]
    request = bob.of(events.Shown)[0].message
    assert request.file["state"] == "init"
    bob.change("alice", "friend_accept", "2")
    assert system(alice) == [("friend_accepted", "bob")]
    for device in (bob, other):
        assert device.of(events.Resolved) == [events.Resolved(request.id_client, "passed")]
    assert changed(other) == changed(alice) == ["friend_request", "friend_accept"]
    assert bob.machine.conversations() == []  # there is no message


@strangers
def test_rejected_or_repeated_friend_request_cannot_be_accepted(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.change("bob", "friend_request", "1")
    bob.change("alice", "friend_reject", "2")
    assert system(alice) == [("friend_rejected", "bob")]
    bob.change("alice", "friend_accept", "3")
    assert failures(bob) == [Code.CONFLICT]
    alice.change("bob", "friend_request", "4")
    alice.change("bob", "friend_request", "5")
    assert [event.state for event in bob.of(events.Resolved)] == ["rejected", "expired"]
    alice.change("bob", "friend_accept", "6")
    assert failures(alice) == [Code.CONFLICT]  # users cannot accept their own request


@strangers
def test_only_one_of_two_simultaneous_answers_counts(world):
    alice, one, other = (world.device(*names).start() for names in (("alice",), ("bob",), ("bob", "d1")))
    alice.change("bob", "friend_request", "1")
    one.change("alice", "friend_accept", "2", run_until_idle=False)
    other.change("alice", "friend_reject", "3", run_until_idle=False)
    world.run_until_idle()
    assert sorted(failures(one) + failures(other)) == [Code.CONFLICT]
    states = {event.state for device in (one, other) for event in device.of(events.Resolved)}
    assert len(states) == 1
    assert len(system(alice)) == 1


@strangers
def test_only_one_of_two_simultaneous_friend_requests_counts(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.change("bob", "friend_request", "1", run_until_idle=False)
    bob.change("alice", "friend_request", "2", run_until_idle=False)
    world.run_until_idle()
    assert sorted(failures(alice) + failures(bob)) == [Code.CONFLICT]
    (recipient,) = [device for device in (alice, bob) if system(device)]
    recipient.change("alice" if recipient is bob else "bob", "friend_accept", "3")
    assert failures(recipient)[1:] == []


@strangers
def test_friend_request_waits_for_an_offline_user(world):
    alice, bob = world.device("alice").start(), world.device("bob")
    alice.change("bob", "friend_request", "1")
    bob.start()
    assert system(bob) == [("friend_request", "alice")]
    bob.break_connection()
    world.advance(40)
    assert system(bob) == [("friend_request", "alice")]
    world.restart_server()
    world.advance(60)
    assert system(bob) == [("friend_request", "alice")]
    assert world.device("bob", "d1").start().of(events.Shown)[0].message.type == "friend_request"


def test_policy_refuse_strangers_rejects_messages_of_users_who_are_not_friends(make_world):
    world = make_world(strangers="refuse")
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.send("bob", "hello", "1")
    alice.send("alice", "note", "2")
    assert failures(alice) == [Code.NOT_FRIENDS]
    assert alice.seqs == {"2": 1}
    alice.change("bob", "friend_request", "3")
    bob.change("alice", "friend_accept", "4")
    alice.send("bob", "hello", "5")
    assert bob.shown == ["hello"]
    bob.change("alice", "friend_delete", "6")
    assert system(alice)[-1] == ("friend_deleted", "bob")
    alice.send("bob", "still there?", "7")
    assert failures(alice) == [Code.NOT_FRIENDS] * 2


def test_blocked_sender_is_rejected_and_receives_no_state(world):
    alice, bob, other = (world.device(*names).start() for names in (("alice",), ("bob",), ("bob", "d1")))
    bob.set_conversation(AB, blocked=True)  # before there is a conversation
    alice.send("bob", "hello", "1")
    assert failures(alice) == [Code.BLOCKED]
    assert alice.of(events.StateChanged) == []
    assert [event.blocked for event in other.of(events.StateChanged)] == [True]
    bob.send("alice", "but I may", "2")
    assert alice.shown == ["but I may"]
    alice.change("bob", "friend_request", "3")
    assert failures(alice) == [Code.BLOCKED] * 2
    assert system(bob) == []
    world.restart_server()
    world.advance(60)
    alice.send("bob", "and now?", "4")
    assert failures(alice) == [Code.BLOCKED] * 3
    other.set_conversation(AB, blocked=False)
    alice.send("bob", "thanks", "5")
    assert bob.shown == other.shown[-1:] == ["thanks"]


def test_rejected_message_leaves_no_gap(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.set_conversation(AB, blocked=True)
    for number in range(3):
        alice.send("bob", "hello", str(number), run_until_idle=False)
    bob.send("alice", "one", "10", run_until_idle=False)
    bob.send("alice", "two", "11", run_until_idle=False)
    world.advance(30)
    assert alice.shown == ["one", "two"]
    assert failures(alice) == [Code.BLOCKED] * 3


def test_users_may_send_each_other_system_messages(world):
    alice, bob = world.device("alice").start(), world.device("bob")
    alice.notify("bob", "1", custom='{"order": 5}')
    bob.start()
    (event,) = bob.of(events.Shown)
    message = event.message
    assert (message.scene, message.type, message.sender, message.custom) == (
        "system",
        "custom",
        "alice",
        '{"order": 5}',
    )
    assert bob.machine.system_unread() == 1
    bob.read("system:bob")
    assert bob.machine.system_unread() == 0
    assert bob.machine.conversations() == []
    assert alice.seqs == {"1": 0}  # the position would show how many system messages bob has


def test_blocked_user_cannot_send_system_messages(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.set_conversation(AB, blocked=True)
    alice.notify("bob", "1", custom="{}")
    assert failures(alice) == [Code.BLOCKED]
    assert bob.of(events.Shown) == []
    bob.set_conversation(AB, blocked=False)
    alice.notify("bob", "2", custom="{}")
    assert len(bob.of(events.Shown)) == 1


def test_policy_refuse_strangers_rejects_system_messages_of_users_who_are_not_friends(make_world):
    world = make_world(strangers="refuse")
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.notify("bob", "1", custom="{}")
    assert failures(alice) == [Code.NOT_FRIENDS]
    alice.notify("alice", "2", custom="{}")  # a user may send system messages to themselves
    alice.change("bob", "friend_request", "3")
    bob.change("alice", "friend_accept", "4")
    alice.notify("bob", "5", custom="{}")
    assert failures(alice) == [Code.NOT_FRIENDS]
    assert [event.message.id_client for event in bob.of(events.Shown) if event.message.type == "custom"] == ["5"]


@strangers
def test_blocked_user_may_recall_a_message_and_end_the_friendship(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.change("bob", "friend_request", "1")
    bob.change("alice", "friend_accept", "2")
    alice.send("bob", "oops", "3")
    bob.set_conversation(AB, blocked=True)
    alice.change("bob", "edit", "4", seq=3, content="listen")
    assert failures(alice) == [Code.BLOCKED]
    alice.change("bob", "recall", "5", seq=3)
    alice.change("bob", "friend_delete", "6")
    assert failures(alice) == [Code.BLOCKED]
    assert bob.of(events.Recalled) == [events.Recalled(AB, 3)]
    alice.change("bob", "friend_request", "7")
    assert failures(alice) == [Code.BLOCKED] * 2
