"""The chatrooms that a client is in."""

from __future__ import annotations

from core.builders import message

from imsim.core import events, frames
from imsim.core.model import Code, Scene, Status


def in_room(phone, name="lounge"):
    phone.machine.enter(name, phone.clock.now)
    phone.get(frames.Entered(name, 1, [], phone.number("enter", name)))
    phone.collect()


def said(seq, **fields):
    return message(seq, conversation_id="chatroom:lounge", scene=Scene.CHATROOM, to="lounge", **fields)


def test_late_and_repeated_room_messages_are_not_shown_and_none_is_acknowledged(phone):
    in_room(phone)
    phone.pushed(said(5), said(9), said(7), said(9))
    assert phone.shown == [5, 9]
    assert phone.sent() == []
    assert phone.machine.conversations() == []
    phone.machine.leave("lounge", 0.0)
    phone.pushed(said(10))
    assert phone.shown == [5, 9]


def test_the_latest_messages_in_the_answer_to_enter_are_shown_once(phone):
    phone.machine.enter("lounge", 0.0, recent=2)
    assert phone.sent() == [frames.Enter("lounge", 2, 1)]
    phone.pushed(said(3))
    for _ in range(2):
        phone.get(
            frames.Entered("lounge", 4, [said(2), said(3), said(4, sender="bob")], phone.number("enter", "lounge"))
        )
    assert phone.shown == [3, 4]
    assert phone.of(events.Entered) == [events.Entered("lounge", 4)]


def test_messages_of_a_room_that_restarted_with_lower_seqs_are_shown_once(phone):
    in_room(phone)
    phone.pushed(said(5), said(9))
    phone.log_in_again()
    phone.log_in_again()  # without a message in between
    phone.machine.enter("lounge", 0.0, recent=2)
    phone.get(frames.Entered("lounge", 2, [said(8), said(9), said(10)], phone.number("enter", "lounge")))
    assert phone.shown == [5, 9, 10]
    phone.log_in_again()
    phone.pushed(said(3), said(4), said(4))
    assert phone.shown == [5, 9, 10, 3, 4]


def test_the_later_of_enter_and_leave_counts_even_if_an_answer_is_lost(phone):
    in_room(phone)
    phone.machine.leave("lounge", 0.0)
    phone.machine.enter("lounge", 0.0)
    phone.get(frames.Entered("lounge", 1, [], phone.number("enter", "lounge")))
    phone.collect()
    phone.advance(20)
    assert phone.sent((frames.Leave, frames.Enter)) == []
    phone.machine.enter("lounge", 0.0)
    phone.machine.leave("lounge", 0.0)
    phone.get(frames.Done("leave", "lounge", phone.number("leave", "lounge")))
    phone.collect()
    phone.advance(20)
    assert phone.sent((frames.Leave, frames.Enter)) == []
    assert phone.of(events.RequestDone) == [events.RequestDone("leave", "lounge")]


def test_a_refused_enter_is_not_repeated_after_the_next_login(phone):
    phone.machine.enter("lounge", 0.0)
    phone.rejected("lounge", Code.TOO_LARGE, "enter")
    assert [event.code for event in phone.of(events.RequestFailed)] == [Code.TOO_LARGE]
    phone.log_in_again()
    assert not phone.machine._requests.is_waiting("enter", "lounge")


def test_a_send_to_a_room_succeeds_once_it_is_received(phone):
    in_room(phone)
    phone.machine.send(Scene.CHATROOM, "lounge", "hi", "1", 0.0)
    phone.send("2")
    assert phone.machine.status("1") == Status.SENDING
    for id_client in ("1", "2", "3"):
        phone.get(frames.Received(id_client))
    assert [phone.machine.status(id_client) for id_client in ("1", "2")] == [Status.SUCCESS, Status.SENDING]
    phone.collect()
    phone.advance(5)
    assert [id_client for id_client, *_ in phone.sends()] == ["2"]
    assert phone.of(events.Acked) == []


def test_rooms_are_entered_again_before_messages_are_sent_to_them(phone):
    phone.machine.enter("lounge", 0.0)
    phone.get(frames.Entered("lounge", 1, [], 1))
    phone.machine.send(Scene.CHATROOM, "lounge", "hello", "1", 0.0)
    phone.machine.disconnected(0.0)
    phone.collect()
    phone.machine.start(0.0)
    phone.log_in()
    assert [frame.op for frame in phone.sent()] == ["login", "sync", "enter", "send"]
