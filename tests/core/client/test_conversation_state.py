"""The conversation list, what is unread in it, and what the user has set there."""

from __future__ import annotations

from core.builders import AB, TEAM, Phone, state

from imsim.core import events, frames
from imsim.core.model import Code, Scene


def test_the_list_has_the_latest_first_and_names_the_other_side(phone):
    phone.push(1, time=5)
    phone.push(1, conversation_id=TEAM, time=9, scene=Scene.GROUP)
    phone.push(1, conversation_id="p2p:bob:carol", time=7, sender="carol")
    lines = phone.machine.conversations()
    assert [(line.scene, line.to, line.update_time) for line in lines] == [
        (Scene.GROUP, "team", 9),
        (Scene.P2P, "carol", 7),
        (Scene.P2P, "alice", 5),
    ]


def test_notes_to_oneself_name_oneself(phone):
    phone.send("1", to="bob")
    phone.stored("1", 1, "p2p:bob:bob")
    assert phone.line("p2p:bob:bob").to == "bob"


def test_a_conversation_in_which_nothing_happened_is_not_listed():
    phone = Phone().online([state(0, conversation=TEAM)])
    phone.send("1")
    assert phone.machine.conversations() == []


def test_the_last_message_is_that_of_the_highest_seq(phone):
    phone.push(1, 2, 3)
    assert phone.line().last_msg.seq == 3
    phone.send("1", "mine")
    assert phone.line().last_msg.seq == 3
    phone.stored("1", 4)
    last = phone.line().last_msg
    assert (last.seq, last.content, last.sender, last.to, last.time) == (4, "mine", "bob", "alice", 4_000)


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


def test_what_waits_behind_a_gap_is_neither_counted_nor_read(phone):
    phone.push(1, 3)
    assert phone.line().unread == 1
    phone.machine.read(AB, 0.0)
    assert phone.line().read_seq == 1
    phone.push(2)
    assert phone.line().unread == 2


def test_to_read_what_is_not_there_does_nothing(phone):
    phone.machine.read(TEAM, 0.0)
    assert phone.methods() == []


def test_reading_elsewhere_clears_here_and_never_backwards(phone):
    phone.push(1, 2, 3)
    phone.get(frames.State(state(2, 2, 1)))
    phone.get(frames.State(state(1, 1, 2)))
    assert (phone.line().read_seq, phone.line().unread) == (2, 1)
    assert phone.of(events.ReadMoved) == [events.ReadMoved(AB, 2, 1)]


def test_a_stored_send_reads_what_had_been_shown_when_it_was_sent(phone):
    phone.push(1)
    phone.send("1")
    phone.push(2)
    assert phone.line().unread == 2
    phone.stored("1", 3)
    assert (phone.line().read_seq, phone.line().unread) == (1, 1)


def test_what_is_read_offline_is_told_by_the_next_login_only(phone):
    phone.push(1)
    phone.machine.disconnected(0.0)
    phone.collect()
    phone.machine.read(AB, 0.0)
    assert phone.sent() == []
    assert phone.line().unread == 0


def test_a_place_is_noted_whether_it_is_news_or_not(phone):
    phone.push(1)
    phone.collect()
    for version in (3, 3, 2):
        phone.get(frames.State(state(version, pinned=version == 3)))
    assert phone.sent() == [frames.StateAck(AB, 3), frames.StateAck(AB, 3), frames.StateAck(AB, 2)]
    assert phone.line().pinned
    assert phone.of(events.StateChanged) == [events.StateChanged(AB, True, False, 0, "")]


def test_the_pinned_come_first_each_kind_by_its_latest(phone):
    for number, user in enumerate(("p", "q", "r", "s"), 1):
        phone.push(1, conversation_id=f"p2p:bob:{user}", sender=user, time=number)
    for version, user in enumerate(("p", "r"), 1):
        phone.get(frames.State(state(version, conversation=f"p2p:bob:{user}", pinned=True)))
    assert [line.to for line in phone.machine.conversations()] == ["r", "p", "s", "q"]


def test_what_the_user_sets_shows_until_the_servers_answer_and_then_what_the_server_says(phone):
    phone.push(1)
    phone.collect()
    phone.machine.set_conversation(AB, 0.0, pinned=True, custom="x")
    assert phone.sent() == [frames.SetConversation(AB, True, None, None, "x", 1)]
    assert (phone.line().pinned, phone.line().custom) == (True, "x")
    phone.get(frames.State(state(1, muted=True)))  # another device's
    assert (phone.line().pinned, phone.line().muted, phone.line().custom) == (True, True, "x")
    phone.get(frames.Rejected("set_conversation", AB, Code.TOO_LARGE, "why", number=1))
    assert (phone.line().pinned, phone.line().muted, phone.line().custom) == (False, True, "")
    assert [(event.pinned, event.muted) for event in phone.of(events.StateChanged)] == [
        (True, False),
        (True, True),
        (False, True),
    ]
    assert phone.of(events.RequestFailed) == [events.RequestFailed("set_conversation", AB, Code.TOO_LARGE, "why")]


def test_to_hide_deletes_from_the_list_and_reads_what_was_shown(phone):
    phone.push(1, 2)
    phone.push(4)
    phone.collect()
    phone.machine.hide(AB, 0.0)
    assert phone.machine.conversations() == []
    assert phone.sent() == [frames.SetConversation(AB, hidden_seq=2, number=1)]
    assert phone.of(events.ReadMoved) == [events.ReadMoved(AB, 2, 0)]
    phone.push(3)
    assert (phone.line().unread, phone.line().last_msg.seq) == (2, 4)


def test_to_hide_what_is_not_there_does_nothing(phone):
    phone.machine.hide(TEAM, 0.0)
    assert phone.methods() == []


def test_the_total_of_unread_messages(phone):
    phone.push(1, 2)
    phone.push(1, conversation_id=TEAM)
    phone.get(frames.State(state(1, conversation=TEAM, muted=True)))
    assert (phone.machine.total_unread(), phone.machine.total_unread(include_muted=False)) == (3, 2)


def test_the_peers_reading_is_told_and_moves_forward(phone):
    phone.push(1, 2)
    for version, seq in ((1, 1), (2, 1), (3, 2)):
        phone.get(frames.State(state(version, peer_read_seq=seq, muted=version == 2)))
    assert phone.of(events.PeerRead) == [events.PeerRead(AB, 1), events.PeerRead(AB, 2)]
    assert (phone.line().peer_read_seq, phone.line().unread) == (2, 2)
    assert phone.of(events.PeerDelivered) == []


def test_what_the_peer_got_is_told_apart_from_what_it_read(phone):
    phone.push(1, 2)
    for version, delivered, read in ((1, 1, 0), (2, 2, 0), (2, 9, 9), (3, 2, 1), (4, 3, 3)):
        phone.get(frames.State(state(version, peer_delivered_seq=delivered, peer_read_seq=read)))
        line = phone.line()
        if version == 2:
            assert (line.peer_delivered_seq, line.peer_read_seq) == (2, 0)
    assert phone.of(events.PeerDelivered) == [events.PeerDelivered(AB, seq) for seq in (1, 2, 3)]
    assert phone.of(events.PeerRead) == [events.PeerRead(AB, seq) for seq in (1, 3)]
    assert (line.peer_delivered_seq, line.peer_read_seq) == (3, 3)
