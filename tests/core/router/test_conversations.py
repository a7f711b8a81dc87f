"""The writer of a conversation, with a storage that answers late, out of order, with failures or never."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Writer, change, failed, same, session, state

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Code, Scene
from imsim.core.policies import Policies

# --- sending --------------------------------------------------------------------------------------------------------


def test_message_is_acknowledged_delivered_and_reported_only_after_it_is_stored(writer):
    writer.send("1")
    writer.answer()
    assert isinstance(writer.asked[0], storage.Append)
    assert (writer.sent, writer.delivered, writer.events) == ([], [], [])
    writer.answer()
    assert writer.acks() == [("1", 1)]
    assert [deliver.message.seq for deliver in writer.delivered] == [1]
    assert [type(event) for event in writer.events] == [events.Committed]


def test_stored_message_is_the_send_with_a_seq_and_a_time(writer):
    writer.clock.now = 2.5
    sender = session("alice", "d7", epoch=3)
    writer.send("1", "hello", by=sender, type="custom", custom="{}", file={"url": "x"}, shown=0)
    writer.answer_all()
    (deliver,) = writer.delivered
    one = deliver.message
    assert (one.conversation_id, one.seq, one.id_client, one.sender, one.to) == (AB, 1, "1", "alice", "bob")
    assert (one.content, one.type, one.custom, one.file) == ("hello", "custom", "{}", {"url": "x"})
    assert one.time == 1_002_500
    assert (deliver.users, deliver.origin) == (("alice", "bob"), sender)
    ((to, ack),) = writer.take()
    assert to == sender
    assert ack == frames.Stored("1", AB, one.id, 1, one.time)


def test_seqs_are_assigned_without_waiting_for_storage(opened):
    for number in ("1", "2", "3"):
        opened.send(number)
    assert [request.message.seq for request in opened.asked] == [2, 3, 4]


def test_answers_out_of_order_release_messages_in_order(opened):
    for number in ("1", "2", "3"):
        opened.send(number)
    results = [opened.storage.execute(request) for request in opened.asked]
    opened.answer(2, lambda _: results[2])
    opened.answer(1, lambda _: results[1])
    assert (opened.acks(), opened.delivered) == ([], [])
    opened.answer(0, lambda _: results[0])
    assert opened.acks() == [("1", 2), ("2", 3), ("3", 4)]
    assert [deliver.message.seq for deliver in opened.delivered] == [2, 3, 4]
    opened.advance(100)  # no timer is left that would give the conversation up
    opened.send("4")
    opened.answer_all()
    assert opened.acks() == [("4", 5)]


def test_shown_is_stored_and_the_changed_states_are_delivered(opened):
    opened.send("1", shown=1)
    assert opened.asked[0].shown == 1
    opened.answer_all()
    moved = state(1, peer_read_seq=1, peer_delivered_seq=1)
    assert opened.delivered[0].states == (("alice", state(1, 1)), ("bob", moved))
    opened.send("2", shown=1)
    opened.answer_all()
    assert opened.delivered[1].states == ()


def test_members_of_a_large_group_are_known(writer):
    writer.change("0", "create", *(f"u{number}" for number in range(20)))
    writer.answer_all()
    writer.take()
    writer.say("1", by="u19")
    writer.say("2", by="u20")
    writer.answer_all()
    assert [type(frame) for _, frame in writer.take()] == [frames.Rejected, frames.Stored]
    assert [len(deliver.users) for deliver in writer.delivered] == [21, 21]


# --- groups ---------------------------------------------------------------------------------------------------------


def test_created_group_has_its_creator_and_the_named_members(writer):
    writer.change("1", "create", "bob", "carol", "bob", "alice")
    assert same([writer.answer()], storage.OpenConversation(TEAM, None))
    assert same([writer.answer()], storage.OpenConversation(TEAM, ()))
    writer.look_up()
    assert writer.asked[0].effects.joined == ("alice", "bob", "carol")
    writer.answer_all()
    assert writer.acks() == [("1", 1)]
    assert [deliver.users for deliver in writer.delivered] == [("alice", "bob", "carol")]


def test_group_is_created_while_a_send_to_it_waits(writer):
    writer.say("1")
    writer.change("2", "create", "bob")
    writer.say("3")
    writer.answer_all()
    kinds = [(type(frame), getattr(frame, "ref", None)) for _, frame in writer.take()]
    assert kinds == [(frames.Rejected, "1"), (frames.Stored, None), (frames.Stored, None)]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_create_fails_with_storage_and_can_be_retried(writer, at):
    writer.change("1", "create", "bob")
    for _ in range(at):
        writer.answer()
    writer.answer(result=failed)
    assert writer.refusals() == [("1", Code.UNAVAILABLE)]
    writer.change("1", "create", "bob")
    writer.answer_all()
    assert writer.acks() == [("1", 1)]


# --- changes --------------------------------------------------------------------------------------------------------


def test_each_entry_is_delivered_to_the_members_at_its_seq(team):
    """Even if many entries are in flight."""
    team.say("1")
    team.change("2", "join", by="carol")
    team.say("3", by="carol")
    team.change("4", "kick", "bob")
    team.say("5", by="bob")
    team.say("6")
    team.change("7", "leave", by="carol")
    team.say("8")
    assert (team.answers(), team.audiences()) == ([], [])
    team.answer_all()
    assert team.audiences() == [
        (2, ("alice", "bob")),
        *((seq, ("alice", "bob", "carol")) for seq in (3, 4, 5)),
        *((seq, ("alice", "carol")) for seq in (6, 7)),
        (8, ("alice",)),
    ]
    assert [number for number, _ in team.answers()] == ["1", "2", "3", "4", "5", "6", "7", "8"]


def test_rejection_that_follows_from_a_change_waits_until_the_change_is_stored(team):
    team.change("1", "kick", "bob")
    team.say("2", by="bob")
    team.say("3")
    assert team.answers() == []
    team.answer()
    assert team.answers() == [("1", 2), ("2", Code.NOT_MEMBER)]
    team.say("4", by="bob")
    assert team.answers() == [("4", Code.NOT_MEMBER)]  # it follows from nothing in flight


def test_rejection_waits_for_the_latest_change_and_for_no_other_message(team):
    team.change("1", "mute", "bob")
    team.change("2", "mute")
    team.say("3")
    team.say("4", by="bob")
    team.answer()
    assert team.answers() == [("1", 2)]
    team.answer()
    assert team.answers() == [("2", 3), ("4", Code.MUTED)]


@pytest.mark.parametrize("how", ["failed", "fenced", "silent"])
def test_change_that_was_not_stored_causes_no_rejection(team, how):
    team.change("1", "kick", "bob")
    team.say("2", by="bob")
    if how == "silent":
        team.asked.clear()
        team.advance(10)
    else:
        team.answer(result=failed if how == "failed" else lambda _: storage.Fenced())
    assert team.answers() == [("1", Code.UNAVAILABLE), ("2", Code.UNAVAILABLE)]
    team.say("2", by="bob", resend=True)
    team.answer_all()
    assert team.answers() == [("2", 2)]


def test_change_that_was_stored_despite_a_failure_is_found(team):
    team.change("1", "kick", "bob")
    team.say("2", by="bob")
    team.storage.execute(team.asked[0])
    team.answer(result=failed)
    team.take()
    team.opened.clear()
    team.change("1", "kick", "bob")  # no resend, so it is from another device
    team.say("2", by="bob")
    team.answer_all()
    assert team.answers() == [("1", 2), ("2", Code.NOT_MEMBER)]
    assert team.opened == [
        internal_frames.Opened(("alice",), TEAM, 2),
        internal_frames.Opened(("bob",), TEAM, 2),  # the last entry that bob sees
        internal_frames.Opened(("bob",), "system:bob", 1),
    ]


def test_change_beyond_the_group_rate_is_refused_and_has_no_effect():
    writer = Writer(policies=Policies(group_rate=1.0, group_burst=1))
    writer.change("1", "create", "bob")
    writer.answer_all()
    writer.change("2", "configure", title="taken")
    writer.answer_all()
    writer.change("3", "mute")
    writer.say("4", by="bob")
    assert writer.answers() == [("1", 1), ("2", 2), ("3", Code.RATE_LIMITED), ("4", Code.RATE_LIMITED)]
    writer.advance(1)
    writer.say("4", by="bob")
    writer.answer_all()
    assert writer.answers() == [("4", 3)]


def test_sends_to_a_missing_group_are_decided_in_order_with_its_creation(writer):
    for number in (1, 2):
        writer.to(TEAM, frames.Send(str(number), Scene.GROUP, "team", "hello", after="0" if number == 2 else None))
    writer.to(TEAM, change("3", "create"))
    writer.to(TEAM, frames.Send("4", Scene.GROUP, "team", "hello", after="3"))
    writer.answer_all()
    assert writer.answers() == [("1", Code.NOT_MEMBER), ("2", Code.GAP), ("3", 1), ("4", 2)]


def test_missing_group_is_not_kept_in_memory(writer):
    writer.to(TEAM, frames.Send("1", Scene.GROUP, "team", "hello", resend=True))
    writer.answer_all()
    assert writer.answers() == [("1", Code.NOT_MEMBER)]
    writer.to(TEAM, frames.Send("2", Scene.GROUP, "team", "hello"))
    assert [request.op for request in writer.asked] == ["open_conversation"]
