"""Tests of sessions: login, replacement, kick policies, heartbeats and revocation."""

from __future__ import annotations

from imsim.core import events
from imsim.core.client.connection import State
from imsim.core.model import Code


def test_login_makes_the_device_ready(world):
    alice = world.device("alice").start()
    assert alice.machine.state == State.ONLINE
    assert len(alice.of(events.Ready)) == 1


def test_refused_token_ends_the_client_permanently(world):
    stranger = world.device("alice", token="not a token").start()
    world.advance(100)
    (ended,) = stranger.of(events.Ended)
    assert ended.code == Code.BAD_TOKEN
    assert stranger.machine.state == State.ENDED


def test_second_login_of_a_device_ends_the_first_permanently(world):
    old = world.device("alice", "d0").start()
    bob = world.device("bob").start()
    new = world.device("alice", "d0").start()
    assert [event.code for event in old.of(events.Ended)] == [Code.REPLACED]
    world.advance(100)
    assert old.machine.state == State.ENDED
    bob.send("alice", "which of you?", "1")
    assert (old.shown, new.shown) == ([], ["which of you?"])
    assert new.of(events.Ended) == []


def test_two_devices_of_a_user_are_online_together(world):
    one, other = world.device("alice", "d0").start(), world.device("alice", "d1").start()
    world.advance(10)
    assert (one.machine.state, other.machine.state) == (State.ONLINE, State.ONLINE)


def test_heartbeats_keep_an_idle_connection_open(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    world.advance(400)
    assert alice.of(events.Disconnected) == []
    alice.send("bob", "still there?", "1")
    assert bob.shown == ["still there?"]


def test_client_detects_and_replaces_a_dead_connection(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose(lambda frame: True)
    alice.send("bob", "hello?", "1")
    world.advance(200)
    assert bob.of(events.Disconnected)
    bob.lose_nothing()
    world.advance(120)
    assert bob.machine.state == State.ONLINE
    assert bob.shown == ["hello?"]


def test_stopped_device_receives_nothing_until_it_starts_again(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.stop()
    alice.send("bob", "one", "1")
    world.advance(100)
    assert bob.shown == []
    assert bob.machine.state == State.ENDED
    bob.start()
    assert bob.shown == ["one"]


def states(*devices):
    return [device.machine.state for device in devices]


def test_policy_one_per_kind_ends_the_other_session_of_the_kind(make_world):
    world = make_world(sessions="one_per_kind")
    phone = world.device("alice", "d0", kind="phone").start()
    desktop = world.device("alice", "d1", kind="desktop").start()
    assert states(phone, desktop) == [State.ONLINE, State.ONLINE]
    other = world.device("alice", "d2", kind="phone").start()
    assert [event.code for event in phone.of(events.Ended)] == [Code.KICKED]
    world.advance(100)
    assert states(phone, desktop, other) == [State.ENDED, State.ONLINE, State.ONLINE]


def test_policy_single_ends_all_other_sessions(make_world):
    world = make_world(sessions="single")
    phone = world.device("alice", "d0", kind="phone").start()
    bob = world.device("bob").start()
    desktop = world.device("alice", "d1", kind="desktop").start()
    assert [event.code for event in phone.of(events.Ended)] == [Code.KICKED]
    assert states(phone, desktop, bob) == [State.ENDED, State.ONLINE, State.ONLINE]
    bob.send("alice", "where are you?", "1")
    assert (phone.shown, desktop.shown) == ([], ["where are you?"])


def test_kicked_device_gets_ended_and_not_disconnected(make_world):
    world = make_world(sessions="single")
    phone, bob = world.device("alice", "d0").start(), world.device("bob").start()
    bob.break_connection()
    world.device("alice", "d1").start()
    assert (len(phone.of(events.Ended)), len(phone.of(events.Disconnected))) == (1, 0)
    assert (len(bob.of(events.Ended)), len(bob.of(events.Disconnected))) == (0, 1)


def test_kicked_device_sends_its_pending_messages_after_its_next_login(make_world):
    world = make_world(sessions="single")
    phone, bob = world.device("alice", "d0").start(), world.device("bob").start()
    desktop = world.device("alice", "d1").start()
    phone.send("bob", "from the pocket", "1")
    world.advance(60)
    assert bob.shown == []
    phone.start()
    assert bob.shown == ["from the pocket"]
    assert states(phone, desktop) == [State.ONLINE, State.ENDED]


def test_device_can_log_out_another(world):
    one, other = world.device("alice", "d0").start(), world.device("alice", "d1").start()
    one.end_session("d1")
    assert [(event.request, event.ref) for event in one.of(events.RequestDone)] == [("end_session", "d1")]
    assert [event.code for event in other.of(events.Ended)] == [Code.KICKED]
    one.end_session("d9")  # it is not logged in
    assert len(one.of(events.RequestDone)) == 2
    assert states(one, other) == [State.ONLINE, State.ENDED]


def test_revoked_token_ends_its_sessions_and_opens_none(world):
    world.advance(1)
    one, bob = world.device("alice").start(), world.device("bob").start()
    world.advance(1)
    world.revoke("alice")
    assert [event.code for event in one.of(events.Ended)] == [Code.TOKEN_REVOKED]
    one.start()
    assert [event.code for event in one.of(events.Ended)] == [Code.TOKEN_REVOKED] * 2
    world.restart_server()
    world.advance(60)
    one.start()
    assert [event.code for event in one.of(events.Ended)] == [Code.TOKEN_REVOKED] * 3
    assert world.device("alice").start().machine.state == State.ONLINE
    assert bob.of(events.Ended) == []
