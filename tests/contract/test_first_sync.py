"""Tests of a first sync that fetches only the newest messages of each conversation."""

from __future__ import annotations

import pytest

from imsim.core import events
from imsim.core.model import Scene

AB = "p2p:alice:bob"
TEAM = "group:team"


@pytest.fixture
def world(make_world):
    return make_world(first_sync=2)


def say(world, count, to="bob", user="alice"):
    """Let a user send messages whose contents are numbers, and go offline."""
    device = world.device(user).start()
    for number in range(1, count + 1):
        device.send(to, str(number), f"{to} {number}")
    return device


def skipped(device):
    return {event.conversation_id: event.seq for event in device.of(events.Skipped)}


def contents(event):
    return [message.content for message in event.messages]


def test_first_sync_fetches_the_newest_messages_and_counts_all_unread_ones(world):
    say(world, 5)
    bob = world.device("bob").start()
    assert bob.shown == ["4", "5"]
    assert bob.unread(AB) == 5
    assert skipped(bob) == {AB: 3}
    assert bob.lines[AB].last_msg.content == "5"
    bob.history(AB, 1, 3)
    assert contents(bob.of(events.History)[0]) == ["1", "2", "3"]
    assert (bob.shown, bob.unread(AB)) == (["4", "5"], 5)
    bob.read(AB)
    assert bob.unread(AB) == 0
    assert bob.of(events.ReadMoved)[-1] == events.ReadMoved(AB, 5, 0)


def test_conversation_with_few_messages_is_complete(world):
    say(world, 2)
    bob = world.device("bob").start()
    assert (bob.shown, skipped(bob), bob.unread(AB)) == (["1", "2"], {}, 2)


def test_later_messages_and_later_syncs_are_complete(world):
    alice = say(world, 5)
    bob = world.device("bob").start()
    alice.send("bob", "6", "6")
    assert bob.shown == ["4", "5", "6"]
    bob.break_connection()
    for number in range(7, 12):
        alice.send("bob", str(number), str(number))
    world.advance(40)
    assert bob.shown == [str(number) for number in range(4, 12)]
    assert (bob.unread(AB), skipped(bob)) == (11, {AB: 3})


def test_conversation_that_begins_during_an_absence_begins_with_its_newest_messages(world):
    bob = world.device("bob").start()
    bob.send("carol", "hello", "1")  # so the inbox of bob is not empty
    bob.break_connection()
    say(world, 5)
    world.advance(40)
    assert (bob.shown, bob.unread(AB), skipped(bob)) == (["4", "5"], 5, {AB: 3})


def test_pages_of_one_message_bring_the_same(make_world):
    seen = []
    for limits in ({}, {"page_bytes": 1}):
        world = make_world(first_sync=2, **limits)
        say(world, 5)
        say(world, 3, "bob", "carol")
        alice = world.device("alice").start()
        alice.change("#team", "create", "create", "bob")
        for number in range(1, 5):
            alice.send("#team", str(number), str(number))
        bob = world.device("bob").start()
        lines = [(line.id, line.unread, line.last_msg.content) for line in bob.lines.values()]
        seen.append((bob.shown, lines, skipped(bob)))
    assert seen[0] == seen[1]
    assert seen[0][2] == {AB: 3, "p2p:bob:carol": 1, TEAM: 3}


def test_recalls_and_edits_of_older_messages_take_effect(world):
    alice = say(world, 5)
    alice.change("bob", "recall", "r1", seq=2)
    alice.change("bob", "edit", "r2", seq=1, content="one")
    bob = world.device("bob").start()
    assert bob.shown == ["4", "5"]  # a recall or an edit is not one of the newest messages
    assert bob.unread(AB) == 4
    alice.change("bob", "recall", "r3", seq=3)  # the message is unread, and not on the device
    alice.change("bob", "recall", "r4", seq=5)
    assert bob.unread(AB) == 2
    assert bob.lines[AB].last_msg.content == "4"
    alice.change("bob", "recall", "r5", seq=4)
    assert bob.lines[AB].last_msg.content == "one"
    assert bob.unread(AB) == 1
    bob.history(AB, 1, 5)
    assert contents(bob.of(events.History)[-1]) == ["one", "", "", "", ""]


def test_recalled_message_is_not_one_of_the_newest(world):
    alice = say(world, 4)
    alice.change("bob", "recall", "r1", seq=4)
    bob = world.device("bob").start()
    assert bob.shown == ["2", "3"]
    assert bob.lines[AB].last_msg.content == "3"


def test_read_mark_of_another_device_is_kept(world):
    alice = say(world, 3)
    bob = world.device("bob").start()
    bob.read(AB)
    for number in range(4, 9):
        alice.send("bob", str(number), str(number))
    late = world.device("bob", "d1").start()
    assert late.shown == ["7", "8"]
    assert late.unread(AB) == bob.unread(AB) == 5
    bob.read(AB)
    assert late.unread(AB) == 0
    assert late.lines[AB].read_seq == 8


def test_own_messages_and_notices_do_not_count_as_unread(world):
    alice = world.device("alice").start()
    alice.change("#team", "create", "create", "bob")
    alice.send("#team", "1", "1")
    world.device("bob").start().send("#team", "2", "2")
    alice.change("#team", "configure", "3", title="new")
    for number in range(4, 8):
        alice.send("#team", str(number), str(number))
    late = world.device("bob", "d1").start()
    assert late.shown == ["6", "7"]
    assert (late.unread(TEAM), skipped(late)) == (4, {TEAM: 6})


def test_member_sees_nothing_from_before_the_membership(world):
    alice = world.device("alice").start()
    alice.change("#team", "create", "create", "bob")
    for number in range(1, 4):
        alice.send("#team", str(number), str(number))
    alice.change("#team", "invite", "i", "carol")
    for number in range(5, 9):
        alice.send("#team", str(number), str(number))
    alice.change("#team", "kick", "k", "carol")
    alice.send("#team", "later", "9")
    carol = world.device("carol").start()
    assert [event.message.seq for event in carol.of(events.Shown) if event.message.scene == Scene.GROUP] == [9, 10]
    assert carol.unread(TEAM) == 0
    carol.history(TEAM, 1, skipped(carol)[TEAM])
    assert contents(carol.of(events.History)[0]) == ["", "5", "6", "7"]


def test_device_does_not_fetch_what_was_left_out(world):
    """Pushes that arrive before the sync are shown in order, and the device makes no attempt to fill the hole."""
    alice = say(world, 9)
    bob = world.device("bob")
    requests = []
    bob.lose(lambda frame: frame.op in ("history", "sync") and bool(requests.append(frame)))
    bob.start()
    alice.send("bob", "10", "10")
    world.advance(60)
    assert bob.shown == ["8", "9", "10"]
    assert [frame.first for frame in requests if frame.op == "history"] in ([], [10])  # a notice is followed by a fetch
    assert len([frame for frame in requests if frame.op == "sync"]) == 1


def test_restart_with_an_emptied_storage_begins_again_with_the_newest_messages(world):
    alice = say(world, 5)
    bob = world.device("bob").start()
    world.stop_server()
    world.lose_storage()
    world.start_server()
    world.advance(60)
    assert bob.of(events.Reset)
    for number in range(1, 4):
        alice.send("bob", f"again {number}", f"again {number}")
    assert bob.shown[2:] == ["again 1", "again 2", "again 3"]
    assert bob.unread(AB) == 3
