"""The tools for tests: clock, recording port, and pair."""

from __future__ import annotations

import pytest

from imsim.core import events, frames
from imsim.core.client.connection import State
from imsim.core.model import Code, Scene
from imsim.core.policies import Policies
from imsim.core.storage import Find
from imsim.testing import ManualClock, Pair, RecordingPort


def hello(client, id_client="1", to="bob"):
    client.machine.send(Scene.P2P, to, "hello", id_client, client._pair.clock.now)


def shown(client):
    return [event.message.content for event in client.events if isinstance(event, events.Shown)]


def kinds(client):
    return [type(event) for event in client.events]


def test_a_manual_clock_moves_only_when_set():
    clock = ManualClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.now += 1.5
    assert clock() == 6.5


def test_a_recording_port_records_every_call_and_returns_none():
    port = RecordingPort()
    assert port.send(1, "frame") is None
    port.close()
    assert port.take() == [("send", (1, "frame")), ("close", ())]
    assert port.take() == []


def test_a_recording_port_returns_the_last_arguments_of_one_method():
    port = RecordingPort()
    port.send(1, "one")
    port.close()
    port.send(1, "two")
    assert port.take("send") == ["one", "two"]
    port.close()
    assert port.take("close") == [None]
    assert port.take() == []


def test_a_recording_port_has_no_private_methods():
    with pytest.raises(AttributeError):
        RecordingPort()._secret  # noqa: B018


def test_a_pair_carries_a_message():
    pair = Pair()
    alice, bob = pair.client("alice"), pair.client("bob")
    alice.start()
    bob.start()
    hello(alice)
    assert shown(bob) == []  # frames move only in run_until_idle
    pair.run_until_idle()
    assert shown(bob) == ["hello"]
    assert [type(event) for event in pair.server_events] == [events.Committed, events.Pushed]


def test_tokens_map_to_users_or_to_codes_of_refusal():
    pair = Pair(tokens={"a": "alice", "old": Code.TOKEN_EXPIRED})
    for token, code in (("a", None), ("old", Code.TOKEN_EXPIRED), ("unknown", Code.BAD_TOKEN)):
        client = pair.client("alice", f"d-{token}", token)
        client.start()
        assert [event.code for event in client.events if isinstance(event, events.Ended)] == ([code] if code else [])


def test_lose_drops_frames_of_both_directions():
    pair = Pair()
    alice, bob = pair.client("alice"), pair.client("bob")
    alice.start()
    bob.start()
    alice.lose = lambda frame: frame.op == "send"
    bob.lose = lambda frame: frame.op == "push"
    hello(alice)
    pair.run_until_idle()
    assert pair.server_events == []
    alice.lose = lambda frame: False
    pair.advance(5)
    assert pair.server_events != []
    assert shown(bob) == []


def test_advance_handles_every_deadline_on_the_way():
    pair = Pair(Policies(send_timeout=1.0, send_backoff=1.0, send_attempts=100))
    alice = pair.client("alice")
    alice.start()
    alice.lose = lambda frame: frame.op == "send"
    hello(alice)
    pair.advance(10.5)
    assert pair.clock.now == 10.5
    assert [event.attempt for event in alice.events if isinstance(event, events.Sent)] == list(range(1, 12))


def test_both_sides_detect_a_broken_connection_and_frames_on_their_way_are_lost():
    pair = Pair()
    alice, bob = pair.client("alice"), pair.client("bob")
    alice.start()
    bob.start()
    hello(alice)
    alice.break_connection()
    assert events.Disconnected in kinds(alice)
    assert pair.server_events == []
    pair.advance(1)
    assert alice.machine.state == State.ONLINE
    assert shown(bob) == ["hello"]


def test_frames_of_an_old_connection_do_not_reach_the_new_one():
    pair = Pair()
    bob = pair.client("bob")
    bob.start()
    old = bob._connection
    bob.break_connection()
    pair.advance(1)
    count = len(bob.events)
    bob.arrive(old, frames.Refused(Code.REPLACED, False))
    assert len(bob.events) == count


def test_a_crash_ends_every_connection_and_keeps_storage_only():
    pair = Pair()
    alice, bob = pair.client("alice"), pair.client("bob")
    alice.start()
    hello(alice)
    pair.run_until_idle()
    server = pair.server
    pair.stop_server()
    assert events.Disconnected in kinds(alice)
    pair.advance(5)
    assert alice.machine.state != State.ONLINE  # there is no server
    pair.start_server()
    assert pair.server is not server
    bob.start()
    assert shown(bob) == ["hello"]
    pair.advance(40)
    assert alice.machine.state == State.ONLINE


def test_frames_on_their_way_to_a_crashed_server_are_lost():
    pair = Pair()
    alice = pair.client("alice")
    alice.start()
    hello(alice)
    pair.stop_server()
    pair.start_server()
    pair.run_until_idle()
    assert pair.server_events == []


def test_frames_of_a_crashed_server_are_lost():
    pair = Pair()
    alice = pair.client("alice")
    alice.start()
    hello(alice)
    while pair.storage.execute(Find("p2p:alice:bob", "alice", "1")) is None:
        pair._queue.popleft()()  # until storage has the message
    pair.stop_server()
    assert events.Acked not in kinds(alice)
    assert pair.server_events == []


def test_a_stopped_client_closes_its_connection():
    pair = Pair()
    alice = pair.client("alice")
    alice.start()
    alice.machine.stop(0.0)
    pair.run_until_idle()
    assert pair._connections == {}
    assert pair.server.next_deadline() is None


def test_a_pair_is_deterministic():
    def run():
        pair = Pair()
        alice, bob = pair.client("alice"), pair.client("bob")
        bob.lose = lambda frame: frame.op == "push"
        alice.start()
        bob.start()
        hello(alice)
        alice.break_connection()
        pair.advance(30)
        return alice.events, bob.events, pair.server_events

    assert run() == run()
