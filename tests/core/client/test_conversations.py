"""The local view of conversations: the list, unread counts, settings, and messages that were recalled or edited."""

from __future__ import annotations

from itertools import pairwise

import pytest
from core.builders import AB, TEAM, Phone, entry, message, state

from imsim.core import events, frames
from imsim.core.client.conversations import _AMENDED
from imsim.core.model import Code, Scene


def last(phone, id=AB):
    lines = {line.id: line for line in phone.machine.conversations()}
    return (lines[id].last_msg.seq, lines[id].last_msg.content) if id in lines else None


def own(phone, id_client, at, event, **data):
    phone.machine.change(Scene.P2P, "alice", event, id_client, phone.clock.now, data=data)
    phone.stored(id_client, at)


# --- the list ---------------------------------------------------------------------------------------------------------


def test_a_conversation_without_messages_is_not_listed():
    phone = Phone().online([state(0, conversation=TEAM)])
    phone.send("1")
    assert phone.machine.conversations() == []


def test_a_late_answer_does_not_become_the_last_message(phone):
    phone.send("1", "mine")
    phone.send("2", "later")
    phone.stored("2", 2)
    phone.stored("1", 1)
    assert (phone.line().last_msg.seq, phone.line().last_msg.content) == (2, "later")


def test_unread_counts_what_others_sent_and_reading_clears_it(phone):
    phone.push(1, 2)
    phone.push(3, type="notification")
    phone.push(4, sender="bob")
    phone.collect()
    assert phone.line().unread == 2
    phone.machine.read(AB, 0.0)
    assert phone.line().unread == 0
    assert phone.sent() == [frames.Read(AB, 4, 1)]
    assert phone.of(events.ReadMoved) == [events.ReadMoved(AB, 4, 0)]
    phone.machine.read(AB, 0.0)
    assert phone.sent() == []


def test_reading_an_unknown_conversation_does_nothing(phone):
    phone.machine.read(TEAM, 0.0)
    assert phone.methods() == []


def test_a_read_mark_from_another_device_counts_and_never_moves_back(phone):
    phone.push(1, 2, 3)
    phone.get(frames.State(state(2, 2, 1)))
    phone.get(frames.State(state(1, 1, 2)))
    assert (phone.line().read_seq, phone.line().unread) == (2, 1)
    assert phone.of(events.ReadMoved) == [events.ReadMoved(AB, 2, 1)]


def test_a_read_mark_set_offline_waits_for_the_next_login(phone):
    phone.push(1)
    phone.machine.disconnected(0.0)
    phone.collect()
    phone.machine.read(AB, 0.0)
    assert phone.sent() == []
    assert phone.line().unread == 0


def test_a_state_is_acknowledged_whether_it_is_new_or_not(phone):
    phone.push(1)
    phone.collect()
    for version in (3, 3, 2):
        phone.get(frames.State(state(version, pinned=version == 3)))
    assert phone.sent() == [frames.StateAck(AB, 3), frames.StateAck(AB, 3), frames.StateAck(AB, 2)]
    assert phone.line().pinned
    assert phone.of(events.StateChanged) == [events.StateChanged(AB, True, False, 0, "")]


def test_list_has_pinned_conversations_first_and_the_latest_first_in_each_part(phone):
    for number, user in enumerate(("p", "q", "r", "s"), 1):
        phone.push(1, conversation_id=f"p2p:bob:{user}", sender=user, time=number)
    for version, user in enumerate(("p", "r"), 1):
        phone.get(frames.State(state(version, conversation=f"p2p:bob:{user}", pinned=True)))
    assert [line.to for line in phone.machine.conversations()] == ["r", "p", "s", "q"]


def test_a_setting_shows_at_once_and_is_taken_back_after_a_rejection(phone):
    phone.push(1)
    phone.collect()
    phone.machine.set_conversation(AB, 0.0, pinned=True, custom="x")
    assert phone.sent() == [frames.SetConversation(AB, True, None, None, "x", 1)]
    assert (phone.line().pinned, phone.line().custom) == (True, "x")
    phone.get(frames.State(state(1, muted=True)))  # a change by another device
    assert (phone.line().pinned, phone.line().muted, phone.line().custom) == (True, True, "x")
    phone.get(frames.Rejected("set_conversation", AB, Code.TOO_LARGE, "why", number=1))
    assert (phone.line().pinned, phone.line().muted, phone.line().custom) == (False, True, "")
    assert [(event.pinned, event.muted) for event in phone.of(events.StateChanged)] == [
        (True, False),
        (True, True),
        (False, True),
    ]
    assert phone.of(events.RequestFailed) == [events.RequestFailed("set_conversation", AB, Code.TOO_LARGE, "why")]


def test_hiding_removes_from_the_list_and_reads_the_shown_messages(phone):
    phone.push(1, 2)
    phone.push(4)
    phone.collect()
    phone.machine.hide(AB, 0.0)
    assert phone.machine.conversations() == []
    assert phone.sent() == [frames.SetConversation(AB, hidden_seq=2, number=1)]
    assert phone.of(events.ReadMoved) == [events.ReadMoved(AB, 2, 0)]
    phone.push(3)
    assert (phone.line().unread, phone.line().last_msg.seq) == (2, 4)


def test_delivered_and_read_marks_of_the_peer_are_separate_events(phone):
    phone.push(1, 2)
    for version, delivered, read in ((1, 1, 0), (2, 2, 0), (2, 9, 9), (3, 2, 1), (4, 3, 3)):
        phone.get(frames.State(state(version, peer_delivered_seq=delivered, peer_read_seq=read)))
        line = phone.line()
        if version == 2:
            assert (line.peer_delivered_seq, line.peer_read_seq) == (2, 0)
    assert phone.of(events.PeerDelivered) == [events.PeerDelivered(AB, seq) for seq in (1, 2, 3)]
    assert phone.of(events.PeerRead) == [events.PeerRead(AB, seq) for seq in (1, 3)]
    assert (line.peer_delivered_seq, line.peer_read_seq) == (3, 3)


# --- recalls and edits ------------------------------------------------------------------------------------------------


def test_client_moves_marks_without_their_events_if_it_does_not_report_marks():
    phone = Phone(reports_marks=False).online()
    phone.push(1, 2, 3)
    phone.machine.read(AB, 0.0, 1)
    phone.get(frames.State(state(2, 2, 1, peer_delivered_seq=3, peer_read_seq=1)))
    line = phone.line()
    assert (line.read_seq, line.unread, line.peer_delivered_seq, line.peer_read_seq) == (2, 1, 3, 1)
    for kind in (events.ReadMoved, events.PeerDelivered, events.PeerRead):
        assert phone.of(kind) == []


def test_an_older_edit_does_not_undo_a_newer_edit(phone):
    phone.synced(message(1, content="newest", amended=9))
    phone.pushed(message(1, content="newest", amended=9), entry(2, "edit", seq=1, content="older"))
    assert last(phone) == (1, "newest")


def test_an_own_change_takes_effect_in_the_order_of_the_log(phone):
    phone.push(1)
    own(phone, "1", 4, "edit", seq=1, content="mine")
    assert phone.of(events.Edited) == []
    phone.pushed(entry(2, "edit", by="bob", seq=1, content="my other device's"))
    phone.push(3)
    assert [event.content for event in phone.of(events.Edited)] == ["my other device's", "mine"]
    assert phone.shown == [1, 3]
    assert phone.of(events.Acked) == [events.Acked("1", AB, 4)]
    assert phone.of(events.Repeated) == []


@pytest.mark.parametrize(
    "amended", [{"content": "edited", "amended": 2}, {"content": "", "recalled": True, "amended": 2}]
)
def test_an_own_message_that_was_amended_before_its_answer_counts_as_stored(phone, amended):
    phone.send("1", "mine")
    phone.pushed(message(1, sender="bob", id_client="1", **amended))
    assert phone.of(events.Acked) == [events.Acked("1", AB, 1)]
    assert phone.shown == []
    phone.stored("1", 1)
    assert len(phone.of(events.Acked)) == 1


def test_the_amendments_kept_are_bounded(phone):
    phone.push(1)
    for seq in range(2, _AMENDED + 4):
        phone.pushed(entry(seq, "recall", seq=seq - 1))
    known = phone.machine._receiver.conversations[AB]._amending
    assert len(known) == _AMENDED
    assert min(known) == 3
    phone.pushed(entry(_AMENDED + 4, "edit", seq=3, content="x"), entry(_AMENDED + 5, "edit", seq=1, content="x"))
    assert 3 in known
    assert 4 not in known


def test_look_back_continues_before_the_previous_page(phone):
    phone.synced(*(message(seq) for seq in range(1, 51)))
    phone.collect()
    phone.pushed(entry(51, "recall", seq=50))
    assert phone.pulls() == [(30, 49)]
    gone = [message(seq, recalled=True) for seq in (47, 48, 49)]
    phone.history_page(30, 49, *gone, more=True)
    assert phone.pulls() == [(27, 46)]
    phone.history_page(27, 46, *(message(seq, recalled=True) for seq in range(27, 47)))
    assert phone.pulls() == [(7, 26)]
    phone.history_page(7, 26, message(7))
    assert phone.pulls() == []
    assert last(phone) == (7, "text 7")


def test_look_back_doubles_its_range_while_pages_are_empty(phone):
    seq = 100_000
    phone.pushed(message(seq, conversation_id=TEAM))
    phone.advance(3)
    ((first, to),) = phone.pulls()
    phone.history_page(first, to, conversation=TEAM)
    phone.pushed(entry(seq + 1, "recall", conversation_id=TEAM, seq=seq))
    asked = []
    while pulls := phone.pulls():
        asked += pulls
        phone.history_page(*pulls[0], conversation=TEAM)
    assert asked[0] == (seq - 20, seq - 1)
    assert asked[-1][0] == 1
    assert len(asked) < 15
    assert all(later[1] == earlier[0] - 1 for earlier, later in pairwise(asked))


def test_a_refused_look_back_is_given_up(phone):
    phone.push(1, 2)
    phone.pushed(entry(3, "recall", seq=2))
    phone.rejected(f"{AB}:1-1", Code.NO_CONVERSATION, "history")
    assert phone.of(events.RequestFailed) == []
    assert phone.machine._receiver.conversations[AB].lookback is None


# --- explicit read marks, and the state that survives a restart -------------------------------------------------------


def test_send_moves_no_read_mark_if_the_application_shows_messages_later():
    phone = Phone(shows_at_once=False).online()
    phone.push(1)
    phone.push(2)
    phone.send("1")
    assert phone.sent(frames.Send)[0].shown == 0
    phone.stored("1", 3)
    assert phone.line(AB).unread == 2
    assert phone.of(events.ReadMoved) == []


def test_application_reads_up_to_a_message(phone):
    for seq in (1, 2, 3):
        phone.push(seq)
    assert phone.machine.read(AB, 0.0, 2)
    assert (phone.line(AB).unread, phone.sent(frames.Read)) == (1, [frames.Read(AB, 2, 1)])
    assert not phone.machine.read(AB, 0.0, 1)
    assert phone.machine.read(AB, 0.0, 99)  # not beyond what the device has
    assert phone.sent(frames.Read) == [frames.Read(AB, 3, 2)]
    assert not phone.machine.read("group:unknown", 0.0)


def test_restored_client_continues_after_its_cursors(phone):
    for seq in (1, 2, 3, 4):
        phone.push(seq)
    phone.get(frames.State(state(7, read_seq=1, unread=3, pinned=True)))
    saved = phone.machine.saved({AB: 2}, 0)
    other = Phone()
    other.machine.restore(saved)
    assert other.machine.cursor(AB) == 2
    assert other.machine.conversation(AB) == phone.machine.conversation(AB)
    other.online()
    sync = other.sync
    assert (sync.cursors, sync.state_version) == ({AB: 2}, 7)
    for seq in (3, 4, 5):
        other.push(seq)
    assert [event.message.seq for event in other.of(events.Shown)] == [3, 4, 5]
    assert other.line(AB).unread == 4
    assert other.machine.conversation("group:unknown") is None
    assert other.machine.cursor("group:unknown") == 0


def test_restored_client_of_another_log_starts_over(phone):
    phone.push(1)
    saved = phone.machine.saved({}, 0)
    saved.log = "another log"
    other = Phone()
    other.machine.restore(saved)
    other.machine.start(0.0)
    other.log_in()
    assert other.of(events.Reset) == [events.Reset()]
    assert other.sync.cursors == {}
    assert other.machine.conversations() == []
