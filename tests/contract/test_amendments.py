"""Tests of recalls and edits: afterwards, no device shows the earlier content."""

from __future__ import annotations

import pytest

from imsim.core import events
from imsim.core.model import Code

AB = "p2p:alice:bob"
TEAM = "group:team"


def failures(device):
    return [event.code for event in device.of(events.SendFailed)]


def talk(world, count=3):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    for number in range(1, count + 1):
        alice.send("bob", f"text {number}", str(number))
    return alice, bob


def test_recalled_message_disappears_on_all_devices(world):
    alice, bob = talk(world)
    alice.change("bob", "recall", "9", seq=3)
    for device in (alice, bob):
        assert device.of(events.Recalled) == [events.Recalled(AB, 3)]
        assert device.lines[AB].last_msg.content == "text 2"
    assert bob.unread(AB) == 2
    late = world.device("bob", "d1").start()
    assert late.shown == ["text 1", "text 2"]
    assert late.lines[AB].last_msg.content == "text 2"
    assert late.unread(AB) == 2
    late.history(AB, 3, 3)
    (message,) = late.of(events.History)[-1].messages
    assert (message.recalled, message.content) == (True, "")


def test_conversation_disappears_if_all_its_messages_are_recalled(world):
    alice, bob = talk(world)
    for number in (2, 3, 1):
        alice.change("bob", "recall", f"9{number}", seq=number)
    assert bob.machine.conversations() == alice.machine.conversations() == []
    assert bob.machine.total_unread() == 0
    alice.send("bob", "never mind", "10")
    assert bob.unread(AB) == 1
    assert world.device("bob", "d1").start().shown == ["never mind"]


def test_offline_device_receives_recalls_of_shown_messages_and_no_recalled_message(world):
    alice, bob = talk(world)
    bob.stop()
    alice.send("bob", "oops", "4")
    alice.change("bob", "recall", "5", seq=4)
    alice.change("bob", "recall", "6", seq=1)
    bob.start()
    assert bob.shown == ["text 1", "text 2", "text 3"]
    assert events.Recalled(AB, 1) in bob.of(events.Recalled)
    assert (bob.unread(AB), bob.lines[AB].last_msg.content) == (2, "text 3")


def test_edit_shows_on_all_devices(world):
    alice, bob = talk(world)
    alice.change("bob", "edit", "9", seq=3, content="text three")
    alice.change("bob", "edit", "10", seq=3, content="text III")
    for device in (alice, bob):
        assert [event.content for event in device.of(events.Edited)] == ["text three", "text III"]
        assert device.lines[AB].last_msg.content == "text III"
    assert bob.unread(AB) == 3
    late = world.device("bob", "d1").start()
    assert late.shown == ["text 1", "text 2", "text III"]
    assert late.lines[AB].last_msg.content == "text III"
    world.restart_server()
    world.advance(60)
    alice.change("bob", "recall", "11", seq=3)
    assert bob.lines[AB].last_msg.content == "text 2"


@pytest.mark.parametrize(
    ("who", "event", "data", "code"),
    [
        ("bob", "recall", {"seq": 1}, Code.FORBIDDEN),
        ("alice", "edit", {"seq": 1, "content": ""}, Code.BAD_REQUEST),
        ("alice", "recall", {"seq": 99}, Code.BAD_REQUEST),
    ],
)
def test_forbidden_recall_or_edit_has_no_effect(world, who, event, data, code):
    devices = dict(zip(("alice", "bob"), talk(world), strict=True))
    devices[who].change("bob" if who == "alice" else "alice", event, "9", **data)
    assert failures(devices[who]) == [code]
    assert world.device("bob", "d1").start().shown == ["text 1", "text 2", "text 3"]


def test_edit_has_the_size_limit_of_a_message(make_world):
    world = make_world(content_bytes=300)
    alice, bob = talk(world)
    alice.change("bob", "edit", "9", seq=1, content="x" * 300)
    alice.change("bob", "edit", "10", seq=1, content="x" * 301)
    alice.change("bob", "edit", "11", seq=1, content="short", more="x" * 300)
    assert [len(event.content) for event in bob.of(events.Edited)] == [300]
    assert failures(alice) == [Code.TOO_LARGE] * 2


def test_notice_without_effect_can_be_recalled_by_its_sender(world):
    alice, bob = talk(world, 1)
    alice.change("bob", "theme_changed", "2", colour="red")
    assert bob.lines[AB].last_msg.seq == 2
    bob.change("alice", "recall", "3", seq=2)
    alice.change("bob", "recall", "4", seq=2)
    assert (failures(alice), failures(bob)) == ([], [Code.FORBIDDEN])
    assert bob.lines[AB].last_msg.content == "text 1"
    assert bob.unread(AB) == 1


def test_recall_and_edit_expire_after_their_windows(make_world):
    world = make_world(recall_window=10.0, edit_window=20.0)
    alice, _ = talk(world)
    world.advance(15)
    alice.change("bob", "recall", "8", seq=1)
    alice.change("bob", "edit", "9", seq=1, content="x")
    world.advance(10)
    alice.change("bob", "edit", "10", seq=1, content="y")
    assert failures(alice) == [Code.EXPIRED] * 2


def test_repeated_recall_has_one_effect(world):
    alice, bob = talk(world)
    alice.lose_next("stored")
    alice.change("bob", "recall", "9", seq=1)
    world.advance(10)
    assert alice.of(events.Recalled) == bob.of(events.Recalled) == [events.Recalled(AB, 1)]
    other = world.device("alice", "d1").start()
    other.change("bob", "recall", "10", seq=1)
    other.change("bob", "edit", "11", seq=1, content="x")
    other.change("bob", "recall", "12", seq=4)  # the entry of the recall
    assert failures(other) == [Code.CONFLICT, Code.CONFLICT, Code.BAD_REQUEST]


def test_resend_of_a_recalled_message_gets_its_ack(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    other = world.device("alice", "d1").start()
    alice.lose_next("stored")
    alice.send("bob", "oops", "1")
    other.change("bob", "recall", "2", seq=1)
    world.restart_server()
    world.advance(60)
    assert failures(alice) == []
    assert alice.seqs["1"] == 1
    assert bob.machine.conversations() == []


def test_admin_of_a_group_may_recall_messages_of_others_at_any_time(make_world):
    world = make_world(recall_window=10.0)
    alice, bob, carol = (world.device(user).start() for user in ("alice", "bob", "carol"))
    alice.create_group("team", "bob", "carol")
    bob.send("#team", "rude", "1")
    carol.send("#team", "ruder", "2")
    world.advance(100)
    bob.change("#team", "recall", "3", seq=3)
    alice.change("#team", "recall", "4", seq=2)
    assert failures(bob) == [Code.FORBIDDEN]
    assert carol.of(events.Recalled) == bob.of(events.Recalled) == [events.Recalled(TEAM, 2)]
    alice.change("#team", "edit", "5", seq=3, content="polite")
    assert failures(alice) == [Code.FORBIDDEN]


def group_that_bob_left(world, join="open"):
    """Create a group of alice and bob with three messages that bob has not read. Then bob leaves it."""
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.change("#team", "create", "create", "bob", join=join)
    for number in range(2, 5):
        alice.send("#team", f"text {number}", str(number))
    bob.change("#team", "leave", "leave")
    return alice, bob


def test_returning_member_receives_recalls_and_edits_of_earlier_messages(world):
    alice, bob = group_that_bob_left(world)
    alice.send("#team", "in the absence", "6")
    alice.change("#team", "recall", "7", seq=4)
    alice.change("#team", "edit", "8", seq=3, content="text III")
    alice.change("#team", "edit", "9", seq=6, content="nothing to bob")
    bob.change("#team", "join", "10")
    late = world.device("bob", "d1").start()
    for device, before in ((bob, ["text 2", "text 3", "text 4"]), (late, ["text 2", "text III"])):
        assert device.shown == before
        assert device.of(events.Recalled) == [events.Recalled(TEAM, 4)]
        assert device.of(events.Edited) == [events.Edited(TEAM, 3, "text III")]
        assert device.unread(TEAM) == 0
        assert device.lines[TEAM].last_msg.seq == 10
        device.history(TEAM, 1, 100)
        assert [message.seq for message in device.of(events.History)[0].messages] == [1, 2, 3, 4, 5, 7, 8, 10]
    alice.send("#team", "welcome", "11")
    assert bob.unread(TEAM) == late.unread(TEAM) == 1
    world.restart_server()
    world.advance(60)
    assert world.device("bob", "d2").start().unread(TEAM) == 1


def test_returning_member_receives_recalls_and_edits_in_the_order_of_the_log(world):
    alice, bob = group_that_bob_left(world)
    bob.stop()
    alice.change("#team", "edit", "6", seq=2, content="one")
    alice.change("#team", "edit", "7", seq=2, content="two")
    alice.change("#team", "configure", "8", consent=False)
    alice.change("#team", "invite", "9", "bob")
    alice.change("#team", "kick", "10", "bob")
    alice.change("#team", "edit", "11", seq=2, content="three")
    alice.change("#team", "recall", "12", seq=3)
    alice.change("#team", "invite", "13", "bob")
    bob.start()
    assert [event.content for event in bob.of(events.Edited)] == ["one", "two", "three"]
    assert bob.of(events.Recalled) == [events.Recalled(TEAM, 3)]
    late = world.device("bob", "d1").start()
    assert late.shown == ["three", "text 4"]
    assert bob.lines[TEAM].last_msg == late.lines[TEAM].last_msg


def test_former_member_sees_no_later_edit_and_no_recalled_message(world):
    alice, bob = group_that_bob_left(world)
    alice.change("#team", "edit", "6", seq=2, content="a secret")
    alice.change("#team", "edit", "7", seq=2, content="a greater secret")
    alice.change("#team", "recall", "8", seq=3)
    late = world.device("bob", "d1").start()
    assert late.shown == ["text 2", "text 4"]
    bob.history(TEAM, 1, 100)
    late.history(TEAM, 2, 2)
    for device, messages in ((bob, 5), (late, 1)):
        page = device.of(events.History)[0].messages
        assert (len(page), "secret" in str(page)) == (messages, False)
        assert "text 2" in str(page)
    assert bob.of(events.Edited) == bob.of(events.Recalled) == []
    bob.change("#team", "join", "9")
    for device in (bob, late):
        assert [event.content for event in device.of(events.Edited)] == ["a secret", "a greater secret"]
        assert device.of(events.Recalled) == [events.Recalled(TEAM, 3)]
    assert world.device("bob", "d2").start().shown == ["a greater secret", "text 4"]


def test_former_member_sees_edits_made_before_leaving(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.create_group("team", "bob")
    alice.send("#team", "text 2", "2")
    alice.change("#team", "edit", "3", seq=2, content="text II")
    alice.change("#team", "kick", "4", "bob")
    alice.change("#team", "edit", "5", seq=2, content="text two")
    late = world.device("bob", "d1").start()
    assert late.shown == ["text II"]
    alice.change("#team", "recall", "6", seq=2)
    assert world.device("bob", "d2").start().shown == []
    bob.history(TEAM, 2, 3)
    assert [message.recalled for message in bob.of(events.History)[0].messages] == [True, True]


def test_kicked_member_has_no_unread_messages(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    offline = world.device("bob", "d1").start()
    offline.stop()
    alice.create_group("team", "bob")
    alice.send("#team", "text 2", "2")
    alice.send("#team", "text 3", "3")
    assert bob.unread(TEAM) == 2
    alice.change("#team", "kick", "4", "bob")
    alice.change("#team", "recall", "5", seq=3)
    bob.history(TEAM, 1, 4)  # the page does not change the unread count
    offline.start()
    devices = [bob, offline, world.device("bob", "d2").start()]
    alice.change("#team", "invite", "6", "bob")
    alice.send("#team", "text 7", "7")
    assert [device.unread(TEAM) for device in devices] == [1, 1, 1]
    assert [device.machine.total_unread() for device in devices] == [1, 1, 1]
    alice.change("#team", "dismiss", "8")
    assert [device.unread(TEAM) for device in devices] == [0, 0, 0]


def test_last_message_is_found_behind_many_recalled_ones(world):
    alice, bob = talk(world, 1)
    for number in range(2, 50):
        alice.send("bob", f"text {number}", str(number))
    for number in range(49, 1, -1):
        alice.change("bob", "recall", str(100 + number), seq=number)
    assert bob.lines[AB].last_msg.content == alice.lines[AB].last_msg.content == "text 1"
    assert bob.unread(AB) == 1


def test_recall_removes_the_edits_of_the_message(world):
    alice, bob = talk(world)
    alice.change("bob", "edit", "9", seq=2, content="secret")
    alice.change("bob", "edit", "10", seq=3, content="not about it")
    alice.change("bob", "edit", "11", seq=2, content="another secret")
    alice.change("bob", "recall", "12", seq=2)
    late = world.device("bob", "d1").start()
    late.history(AB, 1, 100)
    (page,) = late.of(events.History)
    assert "secret" not in str(page.messages)
    assert [message.seq for message in page.messages if message.recalled] == [2, 4, 6]
    assert [event.content for event in late.of(events.Edited)] == ["not about it"]
    for device in (alice, bob, late):
        assert device.lines[AB].last_msg.content == "not about it"
    other = world.device("alice", "d1").start()
    other.change(
        "bob", "edit", "9", seq=2, content="secret"
    )  # the server cannot compare it, because the edit was removed
    assert failures(other) == []
