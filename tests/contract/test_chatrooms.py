"""Tests of chatrooms: a message reaches only the users inside, and the server stores nothing."""

from __future__ import annotations

import pytest

from imsim.core import events
from imsim.core.model import Code, Scene


def failures(device):
    return [event.code for event in device.of(events.SendFailed)]


def inside(world, *users, **names):
    devices = [world.device(user).start() for user in users]
    for device in devices:
        device.enter("lounge")
    return devices


def test_message_reaches_only_users_in_the_room(world):
    alice, bob = inside(world, "alice", "bob")
    carol = world.device("carol").start()
    alice.say("lounge", "hello", "1")
    assert (bob.shown, carol.shown, alice.shown) == (["hello"], [], [])
    assert [event.users for event in (*alice.of(events.Entered), *bob.of(events.Entered))] == [1, 2]
    bob.leave("lounge")
    alice.say("lounge", "gone?", "2")
    assert bob.shown == ["hello"]
    carol.say("lounge", "let me in", "3")
    assert failures(carol) == [Code.NOT_MEMBER]


def test_other_devices_of_the_sender_receive_the_message_and_a_user_counts_once(world):
    alice, bob = inside(world, "alice", "bob")
    other = world.device("alice", "d1").start()
    other.enter("lounge")
    assert other.of(events.Entered) == [events.Entered("lounge", 2)]
    alice.say("lounge", "hello", "1")
    assert (other.shown, bob.shown) == (["hello"], ["hello"])


def test_chatroom_messages_are_not_stored_counted_or_listed(world):
    alice, bob = inside(world, "alice", "bob")
    alice.say("lounge", "hello", "1")
    assert alice.machine.conversations() == bob.machine.conversations() == []
    assert bob.machine.total_unread() == 0
    bob.break_connection()
    alice.say("lounge", "missed", "2")
    world.advance(40)
    alice.say("lounge", "back", "3")
    assert bob.shown == ["hello", "back"]  # the client has entered the room again by itself
    assert len(bob.of(events.Entered)) == 2


def test_user_may_request_recent_messages_on_entry(make_world):
    world = make_world(room_recent=2)
    (alice,) = inside(world, "alice")
    for number in range(1, 5):
        alice.say("lounge", str(number), str(number))
    bob, carol = world.device("bob").start(), world.device("carol").start()
    bob.enter("lounge", recent=10)
    carol.enter("lounge")
    assert (bob.shown, carol.shown) == (["3", "4"], [])
    alice.say("lounge", "5", "5")
    assert (bob.shown, carol.shown) == (["3", "4", "5"], ["5"])


def test_resend_after_a_lost_ack_is_not_shown_twice(world):
    alice, bob = inside(world, "alice", "bob")
    alice.lose_next("received")
    alice.say("lounge", "hello", "1")
    world.advance(20)
    assert bob.shown == ["hello"]
    assert failures(alice) == []
    assert alice.machine.status("1") == "success"


def test_same_id_client_with_another_body_is_a_conflict(world):
    alice, bob = inside(world, "alice", "bob")
    twin = world.device("alice", "d1").start()
    twin.enter("lounge")
    alice.say("lounge", "hello", "1")
    twin.say("lounge", "something else", "1")
    assert failures(twin) == [Code.CONFLICT]
    assert bob.shown == ["hello"]


def test_chatroom_messages_can_be_recalled_and_edited(make_world):
    world = make_world(room_recent=10)
    alice, bob = inside(world, "alice", "bob")
    for number in (1, 2, 3):
        alice.say("lounge", f"text {number}", str(number))
    one, two, _ = (event.seq for event in alice.of(events.Received))
    assert [event.message.seq for event in bob.of(events.Shown)][:2] == [one, two]
    alice.change("*lounge", "edit", "4", seq=one, content="secret")
    alice.change("*lounge", "edit", "5", seq=two, content="text two")
    alice.change("*lounge", "recall", "6", seq=one)
    for device in (alice, bob):
        edited = [events.Edited("chatroom:lounge", one, "secret"), events.Edited("chatroom:lounge", two, "text two")]
        assert device.of(events.Edited) == edited
        assert device.of(events.Recalled) == [events.Recalled("chatroom:lounge", one)]
    assert bob.shown == ["text 1", "text 2", "text 3"]  # `shown` has the contents at arrival
    carol = world.device("carol").start()
    carol.enter("lounge", recent=10)
    assert carol.shown == ["text two", "text 3"]
    assert carol.of(events.Edited) == [events.Edited("chatroom:lounge", two, "text two")]
    assert failures(alice) == []


def test_user_who_enters_again_receives_a_recall(make_world):
    world = make_world(room_recent=10)
    alice, bob = inside(world, "alice", "bob")
    alice.say("lounge", "oops", "1")
    bob.leave("lounge")
    (said,) = alice.of(events.Received)
    alice.change("*lounge", "recall", "2", seq=said.seq)
    bob.enter("lounge", recent=10)
    assert bob.of(events.Recalled) == [events.Recalled("chatroom:lounge", said.seq)]
    assert bob.shown == ["oops"]  # the message is not shown a second time


@pytest.mark.parametrize(
    ("who", "event", "data", "code"),
    [
        (1, "recall", {}, Code.FORBIDDEN),
        (0, "recall", {"seq": 0}, Code.BAD_REQUEST),
        (0, "kick", {}, Code.BAD_REQUEST),
    ],
)
def test_forbidden_change_in_a_room_has_no_effect(world, who, event, data, code):
    devices = inside(world, "alice", "bob")
    devices[0].say("lounge", "hello", "1")
    (said,) = devices[0].of(events.Received)
    devices[who].change("*lounge", event, "2", **{"seq": said.seq, **data})
    assert failures(devices[who]) == [code]
    assert devices[1].of(events.Recalled) == devices[1].of(events.Edited) == []
    assert devices[1].shown == ["hello"]


def test_recall_and_edit_in_a_room_expire_after_their_windows(make_world):
    world = make_world(recall_window=10.0, edit_window=20.0)
    alice, _ = inside(world, "alice", "bob")
    alice.say("lounge", "hello", "1")
    (said,) = alice.of(events.Received)
    world.advance(15)
    alice.change("*lounge", "recall", "2", seq=said.seq)
    alice.change("*lounge", "edit", "3", seq=said.seq, content="still")
    world.advance(10)
    alice.change("*lounge", "edit", "4", seq=said.seq, content="too late")
    assert failures(alice) == [Code.EXPIRED] * 2


def test_notice_must_name_its_sender_as_the_operator(world):
    """An application may send custom notices. Their operator must be the sender."""
    alice, bob = inside(world, "alice", "bob")
    for number, operator in enumerate(("bob", "alice")):
        file = {"event": "gift", "operator": operator, "targets": [], "data": {}}

        def give(now, id_client=str(number), file=file):
            alice.machine.send(Scene.CHATROOM, "lounge", "", id_client, now, type="notification", file=file)

        alice.act(give)
        world.run_until_idle()
    assert failures(alice) == [Code.BAD_REQUEST]
    assert [event.message.file["operator"] for event in bob.of(events.Shown)] == ["alice"]


def test_server_does_not_repeat_a_lost_chatroom_message(world):
    alice, bob = inside(world, "alice", "bob")
    bob.lose_next("push")
    alice.say("lounge", "one", "1")
    alice.say("lounge", "two", "2")
    world.advance(60)
    assert bob.shown == ["two"]


def test_server_sheds_messages_beyond_the_room_rate(make_world):
    world = make_world(room_rate=1.0, room_burst=2)
    alice, bob = inside(world, "alice", "bob")
    for number in range(1, 6):
        alice.say("lounge", str(number), str(number))
    world.advance(5)
    alice.say("lounge", "later", "9")
    assert bob.shown == ["1", "2", "later"]
    alice.send("bob", "no chatroom", "10")
    assert bob.shown[-1] == "no chatroom"


def test_room_has_a_size_limit_and_a_rate_limit(make_world):
    world = make_world(room_size=2, group_rate=1.0, group_burst=1)
    alice, _ = inside(world, "alice", "bob")
    carol = world.device("carol").start()
    carol.enter("lounge")
    assert [event.code for event in carol.of(events.RequestFailed)] == [Code.TOO_LARGE]
    alice.say("lounge", "1", "1")
    alice.say("lounge", "2", "2")
    assert alice.machine.status("2") == "sending"
    world.advance(2)
    assert alice.machine.status("2") == "success"


def test_devices_enter_their_rooms_again_after_a_restart_of_the_server(world):
    alice, bob = inside(world, "alice", "bob")
    alice.say("lounge", "before", "1")
    world.restart_server()
    world.advance(60)
    alice.say("lounge", "after", "2")
    assert bob.shown == ["before", "after"]


def test_image_reaches_users_in_the_room(world):
    alice, bob = inside(world, "alice", "bob")
    file = {"url": "https://x/y.png", "width": 1, "height": 1, "size": 1}
    alice.act(lambda now: alice.machine.send(Scene.CHATROOM, "lounge", "look", "1", now, type="image", file=file))
    world.run_until_idle()
    (shown,) = bob.of(events.Shown)
    assert (shown.message.type, shown.message.file) == ("image", file)
    assert alice.machine.status("1") == "success"


def test_rooms_per_connection_are_limited(make_world):
    world = make_world(rooms=2)
    alice = world.device("alice").start()
    for room in ("one", "two", "one", "three"):
        alice.enter(room)
    assert [event.name for event in alice.of(events.Entered)] == ["one", "two", "one"]
    assert [(event.ref, event.code) for event in alice.of(events.RequestFailed)] == [("three", Code.TOO_LARGE)]
    alice.leave("one")
    alice.enter("three")
    assert alice.of(events.Entered)[-1].name == "three"
