"""Logging in, being replaced, falling silent."""

from __future__ import annotations

from imsim.core import events
from imsim.core.client import State
from imsim.core.model import Code


def test_a_login_makes_the_device_ready(world):
    alice = world.device("alice").start()
    assert alice.machine.state == State.ONLINE
    assert len(alice.of(events.Ready)) == 1


def test_a_refused_token_ends_it_for_good(world):
    stranger = world.device("alice", token="not a token").start()
    world.advance(100)
    (ended,) = stranger.of(events.Ended)
    assert ended.code == Code.BAD_TOKEN
    assert stranger.machine.state == State.ENDED


def test_a_device_that_logs_in_elsewhere_replaces_itself_and_does_not_come_back(world):
    old = world.device("alice", "d0").start()
    bob = world.device("bob").start()
    new = world.device("alice", "d0").start()
    assert [event.code for event in old.of(events.Ended)] == [Code.REPLACED]
    world.advance(100)
    assert old.machine.state == State.ENDED
    bob.send("alice", "which of you?", "1")
    assert (old.shown, new.shown) == ([], ["which of you?"])
    assert new.of(events.Ended) == []


def test_other_devices_of_a_user_stay(world):
    one, other = world.device("alice", "d0").start(), world.device("alice", "d1").start()
    world.advance(10)
    assert (one.machine.state, other.machine.state) == (State.ONLINE, State.ONLINE)


def test_heartbeats_keep_an_idle_connection(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    world.advance(400)
    assert alice.of(events.Disconnected) == []
    alice.send("bob", "still there?", "1")
    assert bob.shown == ["still there?"]


def test_a_dead_connection_is_noticed_and_replaced(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose(lambda frame: True)
    alice.send("bob", "hello?", "1")
    world.advance(200)
    assert bob.of(events.Disconnected)
    bob.lose_nothing()
    world.advance(120)
    assert bob.machine.state == State.ONLINE
    assert bob.shown == ["hello?"]


def test_leaving_and_coming_back(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.stop()
    alice.send("bob", "one", "1")
    world.advance(100)
    assert bob.shown == []
    assert bob.machine.state == State.ENDED
    bob.start()
    assert bob.shown == ["one"]
