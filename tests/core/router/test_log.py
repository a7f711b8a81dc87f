"""The log in a writer's memory: its keys and sessions, requests that wait, and requests that are decided again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core.builders import AB, TEAM, Writer, change, session

from imsim.core import frames, storage
from imsim.core.model import Code, Scene
from imsim.core.policies import Policies, Sessions
from imsim.core.router.conversations import _WAITING
from imsim.core.router.log import _RECENT

# --- idempotency keys -------------------------------------------------------------------------------------------------


def test_retry_that_races_the_original_shares_its_answer(opened):
    first, second = session(epoch=1, connection=1), session(epoch=2, connection=2)
    opened.send("1", by=first)
    opened.send("1", by=second, resend=True)
    assert len(opened.asked) == 1
    opened.answer()
    assert [(to, frame.seq) for to, frame in opened.take()] == [(first, 2), (second, 2)]
    assert len(opened.delivered) == 1


def test_sender_that_retried_gets_a_push_and_the_answer(opened):
    """A client that retries may stop waiting before the answer arrives. Then it gets the message from the push."""
    opened.send("1")
    opened.send("2")
    opened.send("2", by=session(epoch=2, connection=2), resend=True)
    opened.send("3", by=session(epoch=2, connection=2), resend=True)
    opened.answer_all()
    origins = {deliver.message.id_client: deliver.origin for deliver in opened.delivered}
    assert origins == {"1": session(), "2": None, "3": None}


def test_other_body_under_the_same_key_is_a_conflict_after_storage_has_answered(opened):
    opened.send("1", "text")
    opened.send("1", "other")  # storage may have this one as the original
    assert opened.refusals() == []
    opened.answer_all()
    assert [type(frame) for _, frame in opened.take()] == [frames.Stored, frames.Rejected]
    opened.send("1", "other")
    assert opened.refusals() == [("1", Code.CONFLICT)]
    opened.send("1", "text")
    assert opened.acks() == [("1", 2)]


def test_send_found_in_storage_is_remembered(opened):
    again = Writer(opened.storage)
    again.send("0", resend=True)
    again.answer_all()
    again.send("0", resend=True)
    assert not again.asked
    assert again.acks() == [("0", 1), ("0", 1)]


def test_messages_in_flight_are_never_forgotten(opened):
    """A retry of the first one must find the original, even if many are in flight."""
    for number in range(3 * _RECENT):
        opened.send(f"n{number}")
    opened.send("n0", resend=True)
    assert not any(isinstance(request, storage.Find) for request in opened.asked)
    opened.answer_all()
    acks = opened.acks()
    assert acks.count(("n0", 2)) == 2
    assert len(acks) == 3 * _RECENT + 1


def test_duplicate_frees_its_seq_for_the_messages_after_it(opened):
    again = Writer(opened.storage)
    again.send("9")
    again.answer_all()
    again.take()
    again.send("0")
    again.send("1")
    again.answer_all()
    sent = again.take()
    assert [(f.id_client, f.seq) for _, f in sent if isinstance(f, frames.Stored)] == [("0", 1), ("1", 3)]
    assert [frame for _, frame in sent if isinstance(frame, frames.Rejected)] == []
    assert again.log() == ["0", "9", "1"]


# --- the order of a sender's messages ---------------------------------------------------------------------------------


def test_message_after_an_unknown_one_is_refused_as_a_gap(opened):
    opened.send("2", after="1")
    assert isinstance(opened.asked[0], storage.Find)
    opened.answer()
    assert opened.refusals() == [("2", Code.GAP)]
    assert opened.log() == ["0"]


def test_retry_after_an_unknown_message_is_refused_after_two_lookups(opened):
    opened.send("2", after="1", resend=True)
    assert opened.answer().id_client == "2"
    assert opened.answer().id_client == "1"
    assert opened.refusals() == [("2", Code.GAP)]


def test_message_after_one_of_another_user_is_refused_as_a_gap(opened):
    opened.send("1", by=session("bob"), after="0")
    opened.answer_all()
    assert opened.refusals() == [("1", Code.GAP)]


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_replaced_session_cannot_send(opened):
    opened.send("1", by=session(epoch=5))
    opened.send("2", by=session(epoch=4))
    opened.answer_all()
    assert opened.acks() == [("1", 2)]
    assert opened.log() == ["0", "1"]


def test_replaced_session_of_a_non_member_cannot_send_either(writer):
    writer.change("0", "create", "bob", join="approval")
    writer.answer_all()
    writer.take()
    writer.to(TEAM, change("1", "leave", by="carol"), session("carol", epoch=5))
    writer.to(TEAM, change("2", "apply", by="carol"), session("carol", epoch=4))
    news = frames.Send("3", Scene.SYSTEM, "bob", type="custom")
    writer.to("system:bob", news, session("carol", epoch=5))
    writer.to("system:bob", replace(news, id_client="4"), session("carol", epoch=4))
    writer.answer_all()
    assert [(answer.ref, answer.code) for _, answer in writer.take(frames.Rejected)] == [("1", Code.NOT_MEMBER)]
    assert writer.log("system:bob") == ["3"]
    assert writer.machine._open[TEAM].next_seq == 2


def test_sessions_of_different_devices_are_independent(opened):
    opened.send("1", by=session(device="d1", epoch=5))
    opened.send("2", by=session(device="d0", epoch=4))
    opened.send("3", by=session("bob", "d1", epoch=1))
    opened.answer_all()
    assert [number for number, _ in opened.acks()] == ["1", "2", "3"]


def test_replaced_session_of_a_shared_slot_cannot_send():
    writer = Writer(policies=Policies(sessions=Sessions.ONE_PER_KIND))
    writer.send("1", by=session(epoch=5)._replace(slot="desktop"))
    writer.send("2", by=session(epoch=4)._replace(slot="phone"))  # the same device, earlier with another kind
    writer.send("3", by=session(device="d1", epoch=4)._replace(slot="desktop"))
    writer.send("4", by=session(device="d1", epoch=4)._replace(slot="tablet"))
    writer.answer_all()
    assert [number for number, _ in writer.acks()] == ["1", "4"]


def test_only_the_latest_sessions_are_remembered(opened, monkeypatch):
    monkeypatch.setattr("imsim.core.router.log._SESSIONS", 3)
    for number in range(5):
        opened.send(str(number + 1), by=session(device=f"d{number}", epoch=number + 2))
        opened.send(f"again{number}", by=session(device="d0", epoch=9))
    epochs = opened.machine._open[AB].epochs
    assert epochs == {("alice", "d3"): 5, ("alice", "d4"): 6, ("alice", "d0"): 9}


# --- requests that wait -----------------------------------------------------------------------------------------------


def test_retry_replaces_the_waiting_send(writer):
    """Otherwise a storage that is slower than the clients' timeouts would get more and more lookups."""
    writer.send("1")
    for _ in range(9):
        writer.send("1", resend=True)
        writer.send("2", after="1", resend=True)
        writer.send("2", "other words", after="1", resend=True)
        writer.send("2", after="1", resend=True, by=session(device="d1"))
    writer.send("2", resend=True, by=session(epoch=2))  # after a new login
    writer.send("2", after="1", resend=True)  # a late frame of the old session
    waiting = [(up.session.device, up.session.epoch, up.frame.content) for up, _ in writer.machine._open[AB].waiting]
    assert waiting == [
        ("d0", 1, "text"),
        ("d0", 2, "text"),
        ("d0", 1, "other words"),
        ("d1", 1, "text"),
        ("d0", 1, "text"),
    ]


def test_system_log_has_one_entry_in_flight(writer):
    """A system log has other writers, too. With two entries in flight, one could overtake only the first."""
    for id_client in ("1", "2"):
        news = frames.Send(id_client, Scene.SYSTEM, "bob", type="custom")
        writer.to("system:bob", news, session("alice"))
    writer.answer()  # it is opened
    writer.look_up()
    (first,) = writer.asked
    assert isinstance(first, storage.Append)
    writer.answer_all()
    assert writer.log("system:bob") == ["1", "2"]


def test_retries_and_rejections_that_wait_for_storage_are_bounded(opened, monkeypatch):
    monkeypatch.setattr("imsim.core.router.conversations._WAITING", 3)
    for _ in range(9):
        opened.send("1")
        opened.send("1", "other words")
    entry = opened.machine._open[AB].pending[0]
    assert (len(entry.requests), len(entry.rejections)) == (3, 3)
    opened.answer_all()
    assert opened.answers() == [("1", 2)] * 3 + [("1", Code.CONFLICT)] * 3


def test_requests_that_wait_for_an_opening_are_bounded(writer):
    for number in range(_WAITING):
        writer.send(str(number))
    assert writer.sent == []
    writer.send("one too many")
    assert writer.refusals() == [("one too many", Code.UNAVAILABLE)]


def test_messages_that_wait_for_storage_are_bounded(opened):
    for number in range(1, _WAITING + 1):
        opened.send(str(number))
    assert opened.sent == []
    opened.send("one too many")
    assert opened.refusals() == [("one too many", Code.UNAVAILABLE)]
    opened.answer_all()
    assert len(opened.acks()) == _WAITING


# --- requests that are decided again ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [storage.Blocked, storage.Duplicate])
@pytest.mark.parametrize("event", ["leave", "invite"])
def test_membership_is_restored_if_a_change_was_not_stored(team, event, how):
    """Requests after the change are decided by the restored membership, too."""
    by, targets, other = ("bob", [], "bob") if event == "leave" else ("alice", ["carol"], "carol")
    team.change("1", event, *targets, by=by)
    team.say("2", by=other)
    earlier = replace(team.storage.execute(storage.Get(TEAM, 1)), sender=by, id_client="1")
    team.answer(result=lambda request: how() if how is storage.Blocked else how(earlier))
    team.answer_all()
    second = ("2", 2) if event == "leave" else ("2", Code.NOT_MEMBER)
    assert [answer for answer in team.answers() if answer[0] == "2"] == [second]
    team.say("3")
    team.answer_all()
    assert set(team.audiences()[-1][1]) == {"alice", "bob"}


def test_fenced_entry_waits_for_the_entries_before_it(opened):
    """Answers may overtake each other. The answer that frees the seq before it may arrive later."""
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    opened.send("1")
    opened.send("2", by=session("bob"))
    first, second = (opened.storage.execute(request) for request in opened.asked)
    assert (first, second) == (storage.Blocked(), storage.Fenced())
    opened.answer(1, lambda request: second)
    assert opened.answers() == []
    opened.answer(0, lambda request: first)
    opened.answer_all()
    assert opened.answers() == [("1", Code.BLOCKED), ("2", 2)]


def test_fenced_entry_is_rejected_after_the_entries_before_it_are_stored(opened):
    opened.send("1")
    opened.send("2")
    opened.answer(1, lambda request: storage.Fenced())
    opened.answer()
    assert opened.answers() == [("1", 2), ("2", Code.UNAVAILABLE)]


def test_entries_after_a_blocked_message_are_decided_again(opened):
    """This includes a change, whose effects contain its seq, and a rejection that followed from it."""
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    opened.send("1")
    opened.ask("2", "friend_request", "bob", "alice")
    opened.ask("3", "friend_request", "bob", "alice", late=1)
    opened.answer_all()
    assert opened.answers() == [("1", Code.BLOCKED), ("2", 2), ("3", 3)]
    assert opened.delivered[1].message.id_client == f"{AB}:2"
    state = opened.machine._open[AB].state
    assert state["request"]["id"] == f"{AB}:3"


def test_blocked_message_frees_its_seq(opened):
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    opened.send("1")
    opened.answer()
    assert opened.answers() == [("1", Code.BLOCKED)]
    opened.send("2", by=session("bob"))
    opened.answer()
    assert opened.answers() == [("2", 2)]
    opened.storage.execute(storage.SaveState("bob", AB, blocked=False))
    opened.send("1")  # not treated as a retry
    opened.answer()
    assert opened.answers() == [("1", 3)]


def test_writer_of_a_system_log_continues_after_a_note_that_overtook_it(writer):
    said = frames.Send("1", Scene.SYSTEM, "bob", "", "custom", custom="{}")
    writer.to("system:bob", said)
    writer.answer()
    writer.ask("2", "friend_request")
    writer.answer(-1)
    writer.look_up()
    writer.answer(-1)
    writer.answer_all()
    assert writer.answers() == [("2", 1), ("1", 0)]
    assert writer.storage.execute(storage.Get("system:bob", 2)).id_client == "1"
