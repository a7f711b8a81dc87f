"""On a device: what is taken back or edited, what is settled, where a group begins, chatrooms, hints."""

from __future__ import annotations

from itertools import pairwise

import pytest
from core.builders import AB, TEAM, Phone, change, entry, message

from imsim.core import events, frames
from imsim.core.client.conversations import _AMENDED
from imsim.core.model import Code, Scene, Status
from imsim.core.policies import Policies


def pushed(phone, *entries):
    for one in entries:
        phone.get(frames.Push(one))


def page(phone, first, last, *messages, more=False, conversation=AB):
    number = phone.number("history", f"{conversation}:{first}-{last}")
    phone.get(frames.HistoryPage(conversation, first, last, list(messages), more, number))


def last(phone, id=AB):
    lines = {line.id: line for line in phone.machine.conversations()}
    return (lines[id].last_msg.seq, lines[id].last_msg.content) if id in lines else None


# --- recall, edit ---------------------------------------------------------------------------------------------------


def test_a_recall_takes_the_message_away_and_looks_for_the_one_before(phone):
    phone.push(1, 2, 3)
    phone.collect()
    pushed(phone, entry(4, "recall", seq=3))
    assert phone.of(events.Recalled) == [events.Recalled(AB, 3)]
    assert phone.pulls() == [(1, 2)]
    assert last(phone) is None
    page(phone, 1, 2, message(1), message(2))
    assert last(phone) == (2, "text 2")
    assert phone.line().unread == 2
    assert phone.shown == [1, 2, 3]
    assert phone.of(events.History) == []


def test_nothing_is_looked_for_before_the_first(phone):
    phone.push(1)
    phone.collect()
    pushed(phone, entry(2, "recall", seq=1))
    assert phone.pulls() == []
    assert phone.machine.conversations() == []


def test_to_recall_another_than_the_last_changes_its_unread_only(phone):
    phone.push(1, 2)
    phone.collect()
    pushed(phone, entry(3, "recall", seq=1))
    assert phone.pulls() == []
    assert (last(phone), phone.line().unread) == ((2, "text 2"), 1)


def test_a_message_that_comes_recalled_is_not_shown(phone):
    pushed(phone, message(1), message(2, recalled=True, content="", amended=3), entry(3, "recall", seq=2))
    assert phone.shown == [1]
    assert (last(phone), phone.line().unread) == ((1, "text 1"), 1)


def test_an_edit_of_the_last_message_shows(phone):
    phone.push(1)
    pushed(phone, entry(2, "edit", seq=1, content="new"))
    assert phone.of(events.Edited) == [events.Edited(AB, 1, "new")]
    assert (last(phone), phone.line().unread) == ((1, "new"), 1)
    phone.push(3)
    pushed(phone, entry(4, "edit", seq=1, content="newer"))
    assert last(phone) == (3, "text 3")


def test_an_older_edit_does_not_undo_what_the_message_came_with(phone):
    phone.synced(message(1, content="newest", amended=9))
    pushed(phone, message(1, content="newest", amended=9), entry(2, "edit", seq=1, content="older"))
    assert last(phone) == (1, "newest")


def own(phone, id_client, at, event, **data):
    phone.machine.change(Scene.P2P, "alice", event, id_client, phone.clock.now, data=data)
    phone.stored(id_client, at)


def test_an_own_change_happens_when_its_turn_comes(phone):
    phone.push(1)
    own(phone, "1", 4, "edit", seq=1, content="mine")
    assert phone.of(events.Edited) == []
    pushed(phone, entry(2, "edit", by="bob", seq=1, content="my other device's"))
    phone.push(3)
    assert [event.content for event in phone.of(events.Edited)] == ["my other device's", "mine"]
    assert phone.shown == [1, 3]
    assert phone.of(events.Acked) == [events.Acked("1", AB, 4)]
    assert phone.of(events.Repeated) == []


def test_an_own_change_behind_a_gap_has_it_pulled(phone):
    phone.push(1)
    own(phone, "1", 3, "recall", seq=1)
    phone.collect()
    phone.advance(3)
    assert phone.pulls() == [(2, 2)]
    phone.pulled(2, 2)
    assert phone.of(events.Recalled) == [events.Recalled(AB, 1)]
    assert last(phone) == (2, "text 2")


def test_an_own_change_that_came_by_a_sync_happens_once(phone):
    phone.push(1)
    phone.machine.change(Scene.P2P, "alice", "recall", "9", 0.0, data={"seq": 1})
    pushed(phone, entry(2, "recall", by="bob", seq=1, id_client="9"))
    phone.get(frames.Push(message(3)))
    # builders' entry and the machine's frame say the same, so it is proof
    phone.stored("9", 2)
    assert phone.of(events.Recalled) == [events.Recalled(AB, 1)]
    assert phone.machine.status("9") == Status.SUCCESS


@pytest.mark.parametrize(
    "amended", [{"content": "edited", "amended": 2}, {"content": "", "recalled": True, "amended": 2}]
)
def test_an_own_message_that_was_changed_before_its_answer_came_proves_stored(phone, amended):
    phone.send("1", "mine")
    pushed(phone, message(1, sender="bob", id_client="1", **amended))
    assert phone.of(events.Acked) == [events.Acked("1", AB, 1)]
    assert phone.shown == []
    phone.stored("1", 1)
    assert len(phone.of(events.Acked)) == 1


def test_a_page_from_before_a_change_is_seen_as_it_is_by_now(phone):
    phone.push(1, 2, 3)
    pushed(phone, entry(4, "recall", seq=3))
    pushed(phone, entry(5, "recall", seq=2), entry(6, "edit", seq=1, content="new"))
    page(phone, 1, 2, message(1), message(2))
    assert last(phone) == (1, "new")
    assert phone.line().last_msg.amended == 6


def test_only_some_changes_are_remembered(phone):
    phone.push(1)
    for seq in range(2, _AMENDED + 4):
        pushed(phone, entry(seq, "recall", seq=seq - 1))
    known = phone.machine._receiver.conversations[AB]._amending
    assert len(known) == _AMENDED
    assert min(known) == 3
    pushed(phone, entry(_AMENDED + 4, "edit", seq=3, content="x"), entry(_AMENDED + 5, "edit", seq=1, content="x"))
    assert 3 in known
    assert 4 not in known


def test_looking_back_goes_on_where_a_page_ended(phone):
    phone.synced(*(message(seq) for seq in range(1, 51)))
    phone.collect()
    pushed(phone, entry(51, "recall", seq=50))
    assert phone.pulls() == [(30, 49)]
    gone = [message(seq, recalled=True) for seq in (47, 48, 49)]
    page(phone, 30, 49, *gone, more=True)
    assert phone.pulls() == [(27, 46)]
    page(phone, 27, 46, *(message(seq, recalled=True) for seq in range(27, 47)))
    assert phone.pulls() == [(7, 26)]
    page(phone, 7, 26, message(7))
    assert phone.pulls() == []
    assert last(phone) == (7, "text 7")


def test_looking_back_strides_over_what_was_before_ones_time(phone):
    seq = 100_000
    pushed(phone, message(seq, conversation_id=TEAM))
    phone.advance(3)
    ((first, to),) = phone.pulls()
    page(phone, first, to, conversation=TEAM)
    pushed(phone, entry(seq + 1, "recall", conversation_id=TEAM, seq=seq))
    asked = []
    while pulls := phone.pulls():
        asked += pulls
        page(phone, *pulls[0], conversation=TEAM)
    assert asked[0] == (seq - 20, seq - 1)
    assert asked[-1][0] == 1
    assert len(asked) < 15
    assert all(later[1] == earlier[0] - 1 for earlier, later in pairwise(asked))


def test_a_new_last_message_ends_the_looking_back(phone):
    phone.push(1, 2)
    pushed(phone, entry(3, "recall", seq=2))
    phone.push(4)
    page(phone, 1, 1, message(1))
    assert last(phone) == (4, "text 4")
    phone.collect()
    assert phone.machine._receiver.conversations[AB].lookback is None


def test_a_refused_look_back_is_given_up(phone):
    phone.push(1, 2)
    pushed(phone, entry(3, "recall", seq=2))
    phone.rejected(f"{AB}:1-1", Code.NO_CONVERSATION, "history")
    assert phone.of(events.RequestFailed) == []
    assert phone.machine._receiver.conversations[AB].lookback is None


# --- what is told of changes ----------------------------------------------------------------------------------------


def test_what_is_settled_and_what_changed_silently_is_told_and_not_shown(phone):
    resolution = entry(1, "resolve", "group:team:3", conversation_id="system:bob", scene=Scene.SYSTEM, state="passed")
    pushed(phone, resolution, entry(1, "friend_request"), entry(2, "theme"))
    assert phone.of(events.Resolved) == [events.Resolved("group:team:3", "passed")]
    assert [event.message.file["event"] for event in phone.of(events.Changed)] == ["friend_request"]
    assert [event.message.file["event"] for event in phone.of(events.Shown)] == ["theme"]
    assert phone.line().unread == 0
    assert phone.machine.system_unread() == 0


def test_an_application_leaves_no_trace_in_a_log_that_one_may_not_see(phone):
    for id_client, event in (("1", "apply"), ("2", "reject")):
        phone.machine.change(Scene.GROUP, "team", event, id_client, 0.0)
        phone.stored(id_client, 7, TEAM)
    phone.machine.send(Scene.SYSTEM, "alice", "", "3", 0.0, type="custom", custom="{}")
    phone.stored("3", 9, "system:alice")
    assert [event.seq for event in phone.of(events.Acked)] == [7, 7, 9]
    assert phone.of(events.Changed) == []
    assert phone.machine.conversations() == []
    assert phone.machine._receiver.conversations[TEAM].inbox.cursor == 0
    phone.collect()
    phone.advance(10)
    assert phone.pulls() == []


def test_a_change_says_who_and_what(phone):
    phone.machine.change(Scene.GROUP, "team", "role", "1", 0.0, targets=("alice",), data={"role": "admin"})
    assert phone.sent(frames.Send) == [change("1", "role", "alice", by="bob", role="admin")]


# --- where a group begins -------------------------------------------------------------------------------------------


def test_a_late_member_asks_once_for_all_that_was_before(phone):
    pushed(phone, message(5_000, conversation_id=TEAM))
    assert phone.pulls() == [(1, 4_999)]
    page(phone, 1, 4_999, conversation=TEAM)
    assert phone.shown == [5_000]
    phone.collect()
    phone.advance(10)
    assert phone.pulls() == []


def test_if_there_was_more_than_a_page_it_is_pulled_page_by_page():
    phone = Phone(page=3, gap_wait=1.0).online()
    pushed(phone, message(9, conversation_id=TEAM))
    assert phone.pulls() == [(1, 8)]
    page(phone, 1, 8, *(message(seq, conversation_id=TEAM) for seq in (6, 7, 8)), more=True, conversation=TEAM)
    for first, to in ((1, 3), (4, 5)):
        assert phone.pulls() == [(first, to)]
        phone.pulled(first, to, conversation=TEAM)
        phone.advance(1.0)
    assert phone.shown == list(range(1, 10))


def test_nobody_comes_late_to_a_conversation_of_two(phone):
    phone.push(5_000)
    phone.collect()
    phone.advance(3)
    assert phone.pulls() == [(1, Policies().page)]


# --- chatrooms, hints -----------------------------------------------------------------------------------------------


def in_room(phone, name="lounge"):
    phone.machine.enter(name, phone.clock.now)
    phone.get(frames.Entered(name, 1, [], phone.number("enter", name)))
    phone.collect()


def said(seq, **fields):
    return message(seq, conversation_id="chatroom:lounge", scene=Scene.CHATROOM, to="lounge", **fields)


def test_in_a_room_what_is_late_or_repeated_is_not_shown_and_nothing_is_acknowledged(phone):
    in_room(phone)
    pushed(phone, said(5), said(9), said(7), said(9))
    assert phone.shown == [5, 9]
    assert phone.sent() == []
    assert phone.machine.conversations() == []
    phone.machine.leave("lounge", 0.0)
    pushed(phone, said(10))
    assert phone.shown == [5, 9]


def test_the_latest_of_a_room_come_with_the_answer_once(phone):
    phone.machine.enter("lounge", 0.0, recent=2)
    assert phone.sent() == [frames.Enter("lounge", 2, 1)]
    pushed(phone, said(3))
    for _ in range(2):
        phone.get(
            frames.Entered("lounge", 4, [said(2), said(3), said(4, sender="bob")], phone.number("enter", "lounge"))
        )
    assert phone.shown == [3, 4]
    assert phone.of(events.Entered) == [events.Entered("lounge", 4)]


def test_rooms_are_entered_again_after_each_login_until_they_are_left(phone):
    in_room(phone)
    in_room(phone, "bar")
    phone.machine.leave("bar", 0.0)
    phone.get(frames.Done("leave", "bar", phone.number("leave", "bar")))
    phone.machine.disconnected(0.0)
    phone.machine.start(0.0)
    phone.collect()
    phone.log_in()
    assert phone.sent(frames.Enter) == [frames.Enter("lounge", 0, 4)]
    phone.log_in_again()  # the answer was lost
    assert phone.machine._requests.is_waiting("enter", "lounge")


def test_a_room_that_began_anew_by_an_older_clock_is_heard_and_what_was_shown_is_not_shown_again(phone):
    in_room(phone)
    pushed(phone, said(5), said(9))
    phone.log_in_again()
    phone.log_in_again()  # nothing was said meanwhile
    phone.machine.enter("lounge", 0.0, recent=2)
    phone.get(frames.Entered("lounge", 2, [said(8), said(9), said(10)], phone.number("enter", "lounge")))
    assert phone.shown == [5, 9, 10]
    phone.log_in_again()
    pushed(phone, said(3), said(4), said(4))
    assert phone.shown == [5, 9, 10, 3, 4]


def test_what_was_asked_for_on_entry_is_asked_for_once_logged_in():
    phone = Phone()
    phone.machine.enter("lounge", 0.0, recent=5)
    phone.online()
    assert [a[0] for m, a in phone.log if m == "send" and a[0].op == "enter"] == [frames.Enter("lounge", 5, 1)]


def test_the_later_of_entering_and_leaving_counts_whatever_answer_is_lost(phone):
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


def test_a_room_that_cannot_be_entered_is_not_tried_again(phone):
    phone.machine.enter("lounge", 0.0)
    phone.rejected("lounge", Code.TOO_LARGE, "enter")
    assert [event.code for event in phone.of(events.RequestFailed)] == [Code.TOO_LARGE]
    phone.log_in_again()
    assert not phone.machine._requests.is_waiting("enter", "lounge")


def test_what_is_said_in_a_room_is_done_when_it_was_received(phone):
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


def test_hints_are_passed_on_and_sent_only_while_online(phone):
    phone.get(frames.IsTyping(AB))
    phone.get(frames.Presence("alice", True))
    assert phone.of(events.Typing) == [events.Typing(AB)]
    assert phone.of(events.Presence) == [events.Presence("alice", True)]
    phone.collect()
    phone.machine.typing(AB, 0.0)
    assert phone.sent() == [frames.Typing(AB)]
    phone.machine.disconnected(0.0)
    phone.collect()
    phone.machine.typing(AB, 0.0)
    assert phone.sent() == []
    assert phone.machine.conversations() == []
