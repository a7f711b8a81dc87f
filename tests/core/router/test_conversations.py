"""The single writer of a log, over a storage that answers late, out of order, badly or never."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core.builders import AB, TEAM, Writer, change, failed, message, open_log, send, session, state

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Code, Scene, p2p_id, same_body
from imsim.core.policies import Policies
from imsim.core.router.conversations import _WAITING
from imsim.core.router.log import _RECENT


@pytest.fixture
def writer():
    return Writer()


@pytest.fixture
def opened(writer):
    """A writer that has stored the message "0" of alice."""
    writer.send("0")
    writer.answer_all()
    writer.take()
    writer.delivered.clear()
    assert writer.opened == []  # a log without a message is nothing to be told of
    return writer


def nothing(request):
    return None


# --- sending --------------------------------------------------------------------------------------------------------


def test_nothing_is_acknowledged_delivered_or_reported_before_it_is_stored(writer):
    writer.send("1")
    writer.answer()
    assert isinstance(writer.asked[0], storage.Append)
    assert (writer.told, writer.delivered, writer.events) == ([], [], [])
    writer.answer()
    assert writer.acks() == [("1", 1)]
    assert [deliver.message.seq for deliver in writer.delivered] == [1]
    assert [type(event) for event in writer.events] == [events.Committed]


def test_a_stored_message_is_what_was_sent_with_a_place_and_a_time(writer):
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


def test_an_opened_log_goes_on_where_it_ended(writer):
    open_log(writer.storage, "alice", "bob")
    writer.send("1")
    writer.answer_all()
    assert writer.acks() == [("1", 3)]


def test_seqs_follow_each_other_without_waiting_for_storage(opened):
    for number in ("1", "2", "3"):
        opened.send(number)
    assert [request.message.seq for request in opened.asked] == [2, 3, 4]


def test_answers_out_of_order_let_nothing_out_before_what_precedes_it(opened):
    for number in ("1", "2", "3"):
        opened.send(number)
    results = [opened.storage.execute(request) for request in opened.asked]
    opened.answer(2, lambda _: results[2])
    opened.answer(1, lambda _: results[1])
    assert (opened.acks(), opened.delivered) == ([], [])
    opened.answer(0, lambda _: results[0])
    assert opened.acks() == [("1", 2), ("2", 3), ("3", 4)]
    assert [deliver.message.seq for deliver in opened.delivered] == [2, 3, 4]
    opened.advance(100)  # no timer is left that would fence the conversation off
    opened.send("4")
    opened.answer_all()
    assert opened.acks() == [("4", 5)]


def test_shown_goes_to_storage_and_the_places_that_it_moves_to_the_users(opened):
    opened.send("1", shown=1)
    assert opened.asked[0].shown == 1
    opened.answer_all()
    moved = state(1, peer_read_seq=1, peer_delivered_seq=1)
    assert opened.delivered[0].states == (("alice", state(1, 1)), ("bob", moved))
    opened.send("2", shown=1)
    opened.answer_all()
    assert opened.delivered[1].states == ()


def test_each_conversation_is_a_log_of_its_own(opened):
    opened.receive(internal_frames.Up(session(), send("1", to="carol"), "p2p:alice:carol"))
    opened.answer_all()
    assert opened.acks() == [("1", 1)]
    assert opened.delivered[0].users == ("alice", "carol")


def test_who_is_no_member_is_rejected(opened):
    opened.send("1", by=session("mallory"))
    assert opened.refusals() == [("1", Code.NOT_MEMBER)]
    assert not opened.asked


def test_members_of_a_large_group_are_known(writer):
    writer.change("0", "create", *(f"u{number}" for number in range(20)))
    writer.answer_all()
    writer.take()
    writer.say("1", by="u19")
    writer.say("2", by="u20")
    writer.answer_all()
    assert [type(frame) for _, frame in writer.take()] == [frames.Rejected, frames.Stored]
    assert [len(deliver.users) for deliver in writer.delivered] == [21, 21]


def test_received_comes_first_under_after_receive():
    writer = Writer(policies=Policies(ack="after_receive"))
    writer.send("1")
    writer.answer()
    assert [frame for _, frame in writer.take()] == [frames.Received("1")]
    assert writer.delivered == []  # pushes follow storage all the same
    writer.answer()
    assert writer.acks() == [("1", 1)]


# --- idempotency ----------------------------------------------------------------------------------------------------


def test_the_same_send_again_gets_the_original_answer(opened):
    opened.clock.now = 50.0
    opened.send("0", resend=True)
    ((_, ack),) = opened.take()
    assert (ack.seq, ack.time) == (1, 1_000_000)
    assert not opened.asked
    assert opened.log() == ["0"]


def test_a_retry_that_races_the_original_shares_its_answer(opened):
    first, second = session(epoch=1, connection=1), session(epoch=2, connection=2)
    opened.send("1", by=first)
    opened.send("1", by=second, resend=True)
    assert len(opened.asked) == 1
    opened.answer()
    assert [(to, frame.seq) for to, frame in opened.take()] == [(first, 2), (second, 2)]
    assert len(opened.delivered) == 1


def test_who_has_asked_once_is_told_by_the_answer_and_who_has_asked_again_by_a_push_as_well(opened):
    """Whoever repeats may have given up by the time of the answer, and takes the message from a push only."""
    opened.send("1")
    opened.send("2")
    opened.send("2", by=session(epoch=2, connection=2), resend=True)
    opened.send("3", by=session(epoch=2, connection=2), resend=True)
    opened.answer_all()
    origins = {deliver.message.id_client: deliver.origin for deliver in opened.delivered}
    assert origins == {"1": session(), "2": None, "3": None}


def test_another_body_under_the_same_key_is_a_conflict_once_storage_has_answered(opened):
    opened.send("1", "text")
    opened.send("1", "other")  # storage may know that this one was first
    assert opened.refusals() == []
    opened.answer_all()
    assert [type(frame) for _, frame in opened.take()] == [frames.Stored, frames.Rejected]
    opened.send("1", "other")
    assert opened.refusals() == [("1", Code.CONFLICT)]
    opened.send("1", "text")
    assert opened.acks() == [("1", 2)]


def test_a_retry_that_memory_does_not_know_is_looked_up(opened):
    again = Writer(opened.storage)
    again.send("0", resend=True)
    again.answer()
    assert isinstance(again.asked[0], storage.Find)
    again.answer()
    assert again.acks() == [("0", 1)]
    assert again.log() == ["0"]
    assert not again.asked


def test_what_is_found_again_is_answered_only(opened):
    """The members are told of it by the opening, with whatever else the writer before this one did not let out."""
    again = Writer(opened.storage)
    again.send("0", resend=True, shown=1)
    again.answer_all()
    assert again.acks() == [("0", 1)]
    assert (again.delivered, again.events) == ([], [])
    assert again.opened == [internal_frames.Opened(("alice", "bob"), AB, 1)]


def test_what_was_found_once_is_known(opened):
    again = Writer(opened.storage)
    again.send("0", resend=True)
    again.answer_all()
    again.send("0", resend=True)
    assert not again.asked
    assert again.acks() == [("0", 1), ("0", 1)]


def test_a_retry_found_with_another_body_is_a_conflict(opened):
    again = Writer(opened.storage)
    again.send("0", "other", resend=True)
    again.answer_all()
    assert again.refusals() == [("0", Code.CONFLICT)]


def test_a_retry_that_was_never_stored_is_stored_now(opened):
    opened.send("1", resend=True)
    opened.answer_all()
    assert opened.acks() == [("1", 2)]


def test_keys_out_of_memory_are_looked_up_and_sends_go_on(opened):
    for number in range(1, _RECENT + 2):
        opened.send(f"n{number}")
        opened.answer_all()
    opened.take()
    opened.send("0", resend=True)
    assert isinstance(opened.asked[0], storage.Find)
    opened.answer_all()
    assert opened.acks() == [("0", 1)]


def test_what_is_in_flight_is_never_forgotten(opened):
    """However many: a retry of the first must still find the original."""
    for number in range(3 * _RECENT):
        opened.send(f"n{number}")
    opened.send("n0", resend=True)
    assert not any(isinstance(request, storage.Find) for request in opened.asked)
    opened.answer_all()
    acks = opened.acks()
    assert acks.count(("n0", 2)) == 2
    assert len(acks) == 3 * _RECENT + 1


def test_memory_shrinks_again_after_a_burst(opened):
    for number in range(3 * _RECENT):
        opened.send(f"n{number}")
    opened.answer_all()
    opened.send("one more")
    assert len(opened.machine._open[AB].recent) == _RECENT


def test_a_duplicate_that_only_storage_knew_frees_its_seq(opened):
    """A first attempt (no resend, so no look-up) with a key that another device used long ago."""
    again = Writer(opened.storage)
    again.send("0", by=session("alice", "d1"))
    again.answer_all()
    assert again.acks() == [("0", 1)]
    again.send("1")
    again.answer_all()
    assert again.acks() == [("1", 2)]
    assert again.log() == ["0", "1"]


def test_a_duplicate_with_another_body_is_a_conflict(opened):
    again = Writer(opened.storage)
    again.send("0", "other")
    again.answer_all()
    assert again.refusals() == [("0", Code.CONFLICT)]
    again.send("1")
    again.answer_all()
    assert again.acks() == [("1", 2)]


def test_a_duplicate_among_others_in_flight_makes_those_move_up(opened):
    again = Writer(opened.storage)
    again.send("9")
    again.answer_all()
    again.take()
    again.send("0")
    again.send("1")
    again.answer_all()
    told = again.take()
    assert [(f.id_client, f.seq) for _, f in told if isinstance(f, frames.Stored)] == [("0", 1), ("1", 3)]
    assert [frame for _, frame in told if isinstance(frame, frames.Rejected)] == []
    assert again.log() == ["0", "9", "1"]


# --- a sender's order -----------------------------------------------------------------------------------------------


def test_a_message_whose_predecessor_is_unknown_is_refused_as_a_gap(opened):
    opened.send("2", after="1")
    assert isinstance(opened.asked[0], storage.Find)
    opened.answer()
    assert opened.refusals() == [("2", Code.GAP)]
    assert opened.log() == ["0"]


def test_a_predecessor_in_flight_is_good_enough(opened):
    opened.send("1")
    opened.send("2", after="1")
    opened.answer_all()
    assert opened.acks() == [("1", 2), ("2", 3)]


def test_a_retry_whose_predecessor_is_missing_too_is_refused_after_two_look_ups(opened):
    opened.send("2", after="1", resend=True)
    assert opened.answer().id_client == "2"
    assert opened.answer().id_client == "1"
    assert opened.refusals() == [("2", Code.GAP)]


def test_a_predecessor_that_memory_has_forgotten_is_looked_up(opened):
    again = Writer(opened.storage)
    again.send("1", after="0")
    again.answer_all()
    assert again.acks() == [("1", 2)]
    assert [deliver.message.id_client for deliver in again.delivered] == ["1"]


def test_another_users_message_is_no_predecessor(opened):
    opened.send("1", by=session("bob"), after="0")
    opened.answer_all()
    assert opened.refusals() == [("1", Code.GAP)]


def test_what_comes_during_a_look_up_waits_its_turn(opened):
    opened.send("1", resend=True)
    opened.send("2", after="1")
    opened.send("3", by=session("bob"))
    assert len(opened.asked) == 1
    opened.answer_all()
    assert opened.acks() == [("1", 2), ("2", 3), ("3", 4)]


def test_a_look_up_after_an_opening_keeps_the_order_of_what_waits(writer):
    writer.send("1", resend=True)
    writer.send("2", after="1")
    writer.send("3", by=session("bob"))
    writer.answer_all()
    assert writer.acks() == [("1", 1), ("2", 2), ("3", 3)]


# --- storage that fails, is silent, or has another master -----------------------------------------------------------


def test_a_failed_append_is_retryable_and_the_next_request_opens_anew(opened):
    opened.send("1")
    opened.answer(result=failed)
    assert opened.refusals() == [("1", Code.UNAVAILABLE)]
    opened.send("1", resend=True)
    assert isinstance(opened.asked[0], storage.OpenConversation)
    opened.answer_all()
    assert opened.acks() == [("1", 2)]
    assert opened.log() == ["0", "1"]


def test_an_append_that_failed_but_happened_is_found_by_the_retry(opened):
    opened.send("1")
    opened.storage.execute(opened.asked[0])
    opened.answer(result=failed)
    opened.send("1", resend=True)
    opened.answer_all()
    assert opened.acks() == [("1", 2)]
    assert opened.delivered == []
    assert opened.opened == [internal_frames.Opened(("alice", "bob"), AB, 2)]  # who misses it looks for it
    assert opened.log() == ["0", "1"]


def test_all_that_is_in_flight_or_waits_becomes_retryable(opened):
    opened.send("1")
    opened.send("2")
    opened.send("3", resend=True)  # waits for a look-up
    opened.send("4")  # waits for that
    opened.answer(result=failed)
    assert opened.refusals() == [(number, Code.UNAVAILABLE) for number in ("1", "2", "3", "4")]
    assert opened.delivered == []


def test_answers_that_come_after_the_fence_change_nothing(opened):
    opened.send("1")
    opened.send("2")
    opened.answer(result=failed)
    opened.take()
    opened.answer(result=lambda _: storage.Appended())
    opened.send("3")
    assert (opened.told, opened.delivered) == ([], [])
    opened.answer_all()
    assert opened.acks() == [("3", 2)]


def test_an_append_still_on_its_way_is_fenced_off_by_the_next_opening(opened):
    opened.send("1")
    late = opened.asked.popleft()
    opened.advance(opened.policies.storage_timeout)
    assert opened.refusals() == [("1", Code.UNAVAILABLE)]
    opened.send("1", resend=True)
    opened.answer_all()
    assert opened.storage.execute(late) == storage.Fenced()
    opened.machine.stored(late, storage.Appended(), opened.clock.now)  # a storage that lies could not hurt either
    assert opened.acks() == [("1", 2)]
    assert opened.log() == ["0", "1"]


def test_a_late_refusal_of_an_earlier_epoch_does_not_harm_the_retry(opened):
    opened.send("1")
    late = opened.asked.popleft()
    opened.advance(opened.policies.storage_timeout)
    opened.take()
    opened.send("1", resend=True)
    opened.answer()
    opened.answer()  # opened anew and looked up: the retry is in flight
    opened.machine.stored(late, storage.Fenced(), opened.clock.now)
    opened.answer()
    assert opened.acks() == [("1", 2)]


def test_silence_counts_from_the_first_that_waits(opened):
    opened.send("1")
    opened.advance(9)
    opened.send("2")
    opened.advance(0.9)
    assert opened.told == []
    opened.advance(0.1)
    assert opened.refusals() == [("1", Code.UNAVAILABLE), ("2", Code.UNAVAILABLE)]


@pytest.mark.parametrize("operation", ["open", "find", "append"])
def test_after_silence_a_retry_succeeds(opened, operation):
    writer = Writer(opened.storage) if operation == "open" else opened
    writer.send("1", resend=operation == "find")
    writer.asked.popleft()
    writer.advance(writer.policies.storage_timeout)
    assert writer.refusals() == [("1", Code.UNAVAILABLE)]
    writer.send("1", resend=True)
    writer.answer_all()
    assert writer.acks() == [("1", 2)]
    assert writer.machine.next_deadline() is None


def test_an_opening_that_fails_rejects_all_that_waited_for_it(writer):
    writer.send("1")
    writer.send("2")
    writer.answer(result=failed)
    assert writer.refusals() == [("1", Code.UNAVAILABLE), ("2", Code.UNAVAILABLE)]
    assert writer.machine.next_deadline() is None


def test_an_answer_to_an_opening_that_was_given_up_is_ignored(writer):
    writer.send("1")
    late = writer.asked.popleft()
    writer.advance(10)
    writer.take()
    writer.send("2")
    writer.machine.stored(late, storage.LogState(1, 7, ("alice", "bob")), writer.clock.now)
    writer.answer_all()
    assert writer.acks() == [("2", 1)]


def test_a_look_up_that_fails_rejects_only_what_asked_for_it(opened):
    opened.send("1", resend=True)
    opened.send("2")
    opened.answer(result=failed)
    opened.answer_all()
    told = opened.take()
    assert [(type(frame), getattr(frame, "ref", None)) for _, frame in told] == [
        (frames.Rejected, "1"),
        (frames.Stored, None),
    ]
    assert told[0][1].code == Code.UNAVAILABLE


def test_a_writer_that_was_fenced_off_acknowledges_nothing(opened):
    other = Writer(opened.storage)
    other.send("x", by=session("bob"))
    other.answer_all()
    opened.send("1")
    opened.answer()
    assert opened.refusals() == [("1", Code.UNAVAILABLE)]
    assert opened.delivered == []


def test_two_writers_on_one_storage_keep_one_log():
    """Split brain: both believe that they own the conversation, and take turns at fencing each other off."""
    first = Writer()
    second = Writer(first.storage)
    acked: dict[str, int] = {}
    for round_number in range(6):
        for name, writer in (("a", first), ("b", second)):
            writer.send(f"{name}{round_number}")
            writer.answer_all()
            acked.update(writer.acks())
    log = first.log()
    assert acked
    assert all(log[seq - 1] == id_client for id_client, seq in acked.items())
    assert len(log) == len(set(log)) == len(acked)


def test_a_split_brain_in_mid_flight_acknowledges_what_is_stored_and_no_more(opened):
    opened.send("1")
    opened.send("2")
    opened.answer()
    other = Writer(opened.storage)
    other.send("x", by=session("bob"))
    other.answer_all()
    opened.answer()
    assert [(type(frame), getattr(frame, "seq", None)) for _, frame in opened.take()] == [
        (frames.Stored, 2),
        (frames.Rejected, None),
    ]
    assert opened.log() == ["0", "1", "x"]
    opened.send("2", resend=True)
    opened.answer_all()
    assert opened.acks() == [("2", 4)]


# --- a new writer ---------------------------------------------------------------------------------------------------


def test_a_new_writer_tells_the_members_how_far_the_log_goes(writer):
    open_log(writer.storage, "alice", "bob")
    writer.send("1")
    assert writer.opened == []
    writer.answer()
    assert writer.opened == [internal_frames.Opened(("alice", "bob"), AB, 2)]
    writer.answer_all()
    writer.send("2")
    writer.answer_all()
    assert len(writer.opened) == 1


def test_a_large_group_is_told_by_its_members_not_by_a_set_of_them(writer):
    members = tuple(f"u{number:02}" for number in range(20))
    state = writer.storage.execute(storage.OpenConversation(TEAM, members))
    writer.storage.execute(storage.Append(state.epoch, message(1, conversation_id=TEAM, sender="u03"), 0))
    writer.receive(internal_frames.Up(session("u03"), send("1", to="team"), TEAM))
    writer.answer()
    assert writer.opened == [internal_frames.Opened(members, TEAM, 1)]


def test_a_writer_that_gave_up_with_something_in_flight_opens_again_by_itself(opened):
    """Its senders may be gone; but others wait for what was stored."""
    opened.send("1")
    late = opened.asked.popleft()
    opened.advance(10)  # storage is silent
    assert opened.refusals() == [("1", Code.UNAVAILABLE)]
    opened.storage.execute(late)
    opened.advance(9.9)
    assert not opened.asked
    opened.advance(0.1)
    assert list(opened.asked) == [storage.OpenConversation(AB, ("alice", "bob"))]
    assert opened.opened == []
    opened.answer()
    assert opened.opened == [internal_frames.Opened(("alice", "bob"), AB, 2)]
    assert opened.machine.next_deadline() is None
    opened.advance(100)
    assert not opened.asked


@pytest.mark.parametrize(("how", "every"), [("failed", 10), ("silent", 20)])
def test_it_tries_until_storage_answers(opened, how, every):
    opened.send("1")
    opened.answer(result=failed)
    opened.advance(10)
    for _ in range(5):
        assert [request.op for request in opened.asked] == ["open_conversation"]
        if how == "failed":
            opened.answer(result=failed)
        else:
            opened.asked.clear()
        opened.advance(every - 0.1)
        assert not opened.asked
        opened.advance(0.1)
    opened.answer()
    assert opened.opened == [internal_frames.Opened(("alice", "bob"), AB, 1)]
    opened.advance(100)
    assert not opened.asked
    assert opened.machine.next_deadline() is None


def test_whoever_opens_it_first_settles_it(opened):
    opened.send("1")
    opened.answer(result=failed)
    opened.advance(5)
    opened.send("2")
    opened.answer_all()
    assert len(opened.opened) == 1
    assert opened.machine.next_deadline() is None


def test_what_is_being_opened_already_when_the_time_comes_is_opened_once(opened):
    opened.send("1")
    opened.answer(result=failed)
    opened.advance(9)
    opened.send("2")
    opened.advance(1)
    assert [request.op for request in opened.asked] == ["open_conversation"]
    opened.answer_all()
    assert opened.machine.next_deadline() is None


def test_giving_up_again_does_not_put_the_settling_off(opened):
    """However often its senders try in vain."""
    opened.send("1")
    opened.answer(result=failed)
    opened.advance(6)
    opened.send("1", resend=True)
    opened.answer(result=failed)  # the opening
    opened.advance(3.9)
    assert not opened.asked
    opened.advance(0.1)
    assert [request.op for request in opened.asked] == ["open_conversation"]


def test_a_writer_that_gave_up_with_nothing_in_flight_leaves_it_at_that(opened):
    again = Writer(opened.storage)
    again.send("1")
    again.answer(result=failed)  # the opening
    assert again.machine.next_deadline() is None
    opened.send("1", resend=True)
    opened.asked.clear()
    opened.advance(10)  # a look-up without an answer
    assert opened.machine.next_deadline() is None
    opened.send("2")
    opened.send("3")
    opened.answer_all()
    assert opened.machine.next_deadline() is None


# --- sessions -------------------------------------------------------------------------------------------------------


def test_a_replaced_session_can_no_longer_send(opened):
    opened.send("1", by=session(epoch=5))
    opened.send("2", by=session(epoch=4))
    opened.answer_all()
    assert opened.acks() == [("1", 2)]
    assert opened.log() == ["0", "1"]


def test_epochs_are_compared_device_by_device(opened):
    opened.send("1", by=session(device="d1", epoch=5))
    opened.send("2", by=session(device="d0", epoch=4))
    opened.send("3", by=session("bob", "d1", epoch=1))
    opened.answer_all()
    assert [number for number, _ in opened.acks()] == ["1", "2", "3"]


def test_a_device_that_has_come_back_as_another_kind_is_the_same_device():
    writer = Writer(policies=Policies(sessions="one_per_kind"))
    writer.send("1", by=session(epoch=5)._replace(slot="desktop"))
    writer.send("2", by=session(epoch=4)._replace(slot="phone"))
    writer.send("3", by=session(device="d1", epoch=4)._replace(slot="tablet"))
    writer.answer_all()
    assert [number for number, _ in writer.acks()] == ["1", "3"]


def test_a_stale_session_that_waited_is_ignored_too(writer):
    writer.send("1", by=session(epoch=5))
    writer.send("2", by=session(epoch=4))
    writer.answer_all()
    assert writer.acks() == [("1", 1)]


def test_a_replaced_session_of_who_is_no_member_can_no_longer_act_either(writer):
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


def test_so_many_sessions_are_remembered_the_latest(opened, monkeypatch):
    monkeypatch.setattr("imsim.core.router.log._SESSIONS", 3)
    for number in range(5):
        opened.send(str(number + 1), by=session(device=f"d{number}", epoch=number + 2))
        opened.send(f"again{number}", by=session(device="d0", epoch=9))
    epochs = opened.machine._open[AB].epochs
    assert epochs == {("alice", "d3"): 5, ("alice", "d4"): 6, ("alice", "d0"): 9}


def test_what_is_said_again_while_it_waits_waits_once(writer):
    """A storage that is slower than the clients are patient would have ever more to look up."""
    writer.send("1")
    for _ in range(9):
        writer.send("1", resend=True)
        writer.send("2", after="1", resend=True)
        writer.send("2", "other words", after="1", resend=True)
        writer.send("2", after="1", resend=True, by=session(device="d1"))
    writer.send("2", resend=True, by=session(epoch=2))  # after a new login
    writer.send("2", after="1", resend=True)  # of the old one, late
    waiting = [(up.session.device, up.session.epoch, up.frame.content) for up, _ in writer.machine._open[AB].waiting]
    assert waiting == [
        ("d0", 1, "text"),
        ("d0", 2, "text"),
        ("d0", 1, "other words"),
        ("d1", 1, "text"),
        ("d0", 1, "text"),
    ]


def test_a_system_log_takes_one_at_a_time(writer):
    """It has other writers, too: the first might be overtaken, and the second not."""
    for id_client in ("1", "2"):
        news = frames.Send(id_client, Scene.SYSTEM, "bob", type="custom")
        writer.to("system:bob", news, session("alice"))
    writer.answer()  # it is opened
    writer.look_up()
    (first,) = writer.asked
    assert isinstance(first, storage.Append)
    writer.answer_all()
    assert writer.log("system:bob") == ["1", "2"]


def test_repetitions_and_refusals_that_wait_for_storage_are_bounded(opened, monkeypatch):
    monkeypatch.setattr("imsim.core.router.conversations._WAITING", 3)
    for _ in range(9):
        opened.send("1")
        opened.send("1", "other words")
    entry = opened.machine._open[AB].pending[0]
    assert (len(entry.asked), len(entry.refused)) == (3, 3)
    opened.answer_all()
    assert answers(opened) == [("1", 2)] * 3 + [("1", Code.CONFLICT)] * 3


# --- groups ---------------------------------------------------------------------------------------------------------


def test_a_group_is_made_of_its_members_and_its_maker(writer):
    writer.change("1", "create", "bob", "carol", "bob", "alice")
    assert writer.answer() == storage.OpenConversation(TEAM, None)
    assert writer.answer() == storage.OpenConversation(TEAM, ())
    writer.look_up()
    assert writer.asked[0].effects.joined == ("alice", "bob", "carol")
    writer.answer_all()
    assert writer.acks() == [("1", 1)]
    assert [deliver.users for deliver in writer.delivered] == [("alice", "bob", "carol")]


def test_a_group_made_again_is_the_same_group_unless_its_members_differ(writer):
    writer.change("1", "create", "bob")
    writer.change("1", "create", "bob")
    writer.answer_all()
    writer.change("1", "create", "bob", "carol")
    writer.change("2", "create", "bob")
    writer.change("1", "create", "alice", by="bob")
    writer.answer_all()
    told = writer.take()
    assert [(f.id_client, f.seq) for _, f in told if isinstance(f, frames.Stored)] == [("1", 1)] * 2
    assert [(f.ref, f.code) for _, f in told if isinstance(f, frames.Rejected)] == [
        (ref, Code.CONFLICT) for ref in ("1", "2", "1")
    ]


def test_a_group_that_exists_cannot_be_joined_by_making_it(writer):
    writer.change("1", "create", "bob")
    writer.change("2", "create", "alice", "bob", by="mallory")
    writer.answer_all()
    assert writer.refusals() == [("2", Code.CONFLICT)]
    assert writer.storage.execute(storage.OpenConversation(TEAM)).members == ("alice", "bob")


def test_a_group_that_nobody_made_rejects(writer):
    writer.say("1")
    writer.answer_all()
    assert writer.refusals() == [("1", Code.NO_CONVERSATION)]
    assert writer.machine.next_deadline() is None


def test_a_group_made_while_a_send_to_it_waits_is_made(writer):
    writer.say("1")
    writer.change("2", "create", "bob")
    writer.say("3")
    writer.answer_all()
    kinds = [(type(frame), getattr(frame, "ref", None)) for _, frame in writer.take()]
    assert kinds == [(frames.Rejected, "1"), (frames.Stored, None), (frames.Stored, None)]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_making_a_group_fails_with_storage_and_may_be_repeated(writer, at):
    writer.change("1", "create", "bob")
    for _ in range(at):
        writer.answer()
    writer.answer(result=failed)
    assert writer.refusals() == [("1", Code.UNAVAILABLE)]
    writer.change("1", "create", "bob")
    writer.answer_all()
    assert writer.acks() == [("1", 1)]


# --- changes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def team(writer):
    """A writer of an open group of alice's with bob."""
    writer.change("0", "create", "bob", join="open")
    writer.answer_all()
    writer.take()
    writer.delivered.clear()
    writer.events.clear()
    return writer


def answers(writer):
    """(idClient, seq or code) of the answers to sends since, in their order."""
    told = [frame for _, frame in writer.take((frames.Stored, frames.Rejected))]
    return [(f.id_client, f.seq) if isinstance(f, frames.Stored) else (f.ref, f.code) for f in told]


def audiences(writer):
    """(seq, users) of what was let out of the group's log since."""
    found = [(deliver.message.seq, deliver.users) for deliver in writer.delivered if deliver.message.scene == "group"]
    writer.delivered.clear()
    return found


def test_each_entry_goes_to_those_who_are_members_when_it_is_committed(team):
    """However many are under way."""
    team.say("1")
    team.change("2", "join", by="carol")
    team.say("3", by="carol")
    team.change("4", "kick", "bob")
    team.say("5", by="bob")
    team.say("6")
    team.change("7", "leave", by="carol")
    team.say("8")
    assert (answers(team), audiences(team)) == ([], [])
    team.answer_all()
    assert audiences(team) == [
        (2, ("alice", "bob")),
        *((seq, ("alice", "bob", "carol")) for seq in (3, 4, 5)),
        *((seq, ("alice", "carol")) for seq in (6, 7)),
        (8, ("alice",)),
    ]
    assert [number for number, _ in answers(team)] == ["1", "2", "3", "4", "5", "6", "7", "8"]


def test_a_refusal_that_rests_on_a_change_waits_until_that_is_stored(team):
    team.change("1", "kick", "bob")
    team.say("2", by="bob")
    team.say("3")
    assert answers(team) == []
    team.answer()
    assert answers(team) == [("1", 2), ("2", Code.NOT_MEMBER)]
    team.say("4", by="bob")
    assert answers(team) == [("4", Code.NOT_MEMBER)]  # that rests on nothing that is under way


def test_a_refusal_waits_for_the_latest_change_and_for_no_other_message(team):
    team.change("1", "mute", "bob")
    team.change("2", "mute")
    team.say("3")
    team.say("4", by="bob")
    team.answer()
    assert answers(team) == [("1", 2)]
    team.answer()
    assert answers(team) == [("2", 3), ("4", Code.MUTED)]


@pytest.mark.parametrize("how", ["failed", "fenced", "silent"])
def test_a_change_that_was_not_stored_refuses_nobody(team, how):
    team.change("1", "kick", "bob")
    team.say("2", by="bob")
    if how == "silent":
        team.asked.clear()
        team.advance(10)
    else:
        team.answer(result=failed if how == "failed" else lambda _: storage.Fenced())
    assert answers(team) == [("1", Code.UNAVAILABLE), ("2", Code.UNAVAILABLE)]
    team.say("2", by="bob", resend=True)
    team.answer_all()
    assert answers(team) == [("2", 2)]


def test_a_change_that_was_done_though_storage_said_otherwise_is_found(team):
    team.change("1", "kick", "bob")
    team.say("2", by="bob")
    team.storage.execute(team.asked[0])
    team.answer(result=failed)
    team.take()
    team.opened.clear()
    team.change("1", "kick", "bob")  # no resend: another device of hers
    team.say("2", by="bob")
    team.answer_all()
    assert answers(team) == [("1", 2), ("2", Code.NOT_MEMBER)]
    assert team.opened == [
        internal_frames.Opened(("alice",), TEAM, 2),
        internal_frames.Opened(("bob",), TEAM, 2),  # who saw this as the last
        internal_frames.Opened(("bob",), "system:bob", 1),
    ]


def test_a_change_that_proves_a_duplicate_is_undone_in_memory(team):
    """Another device did the same long ago, and it was undone since."""
    for number, event in (("1", "leave"), ("2", "join")):
        team.change(number, event, by="bob")
    team.answer_all()
    again = Writer(team.storage)
    again.change("3", "join", by="carol")
    again.answer_all()
    again.take()
    again.change("1", "leave", by="bob")  # looked up, though no resend
    again.say("4", by="bob")
    again.answer_all()
    assert answers(again) == [("1", 2), ("4", 5)]
    assert set(audiences(again)[-1][1]) == {"alice", "bob", "carol"}


@pytest.mark.parametrize("how", [storage.Blocked, storage.Duplicate])
@pytest.mark.parametrize("event", ["leave", "invite"])
def test_who_came_or_left_by_a_change_that_was_not_stored_is_what_they_were(team, event, how):
    """Also for those behind it, which had been decided by it."""
    by, targets, other = ("bob", [], "bob") if event == "leave" else ("alice", ["carol"], "carol")
    team.change("1", event, *targets, by=by)
    team.say("2", by=other)
    earlier = replace(team.storage.execute(storage.Get(TEAM, 1)), sender=by, id_client="1")
    team.answer(result=lambda request: how() if how is storage.Blocked else how(earlier))
    team.answer_all()
    second = ("2", 2) if event == "leave" else ("2", Code.NOT_MEMBER)
    assert [answer for answer in answers(team) if answer[0] == "2"] == [second]
    team.say("3")
    team.answer_all()
    assert set(audiences(team)[-1][1]) == {"alice", "bob"}


def ask(writer, id_client, event, by="alice", to="bob", **data):
    writer.to(AB, change(id_client, event, by=by, scene=Scene.P2P, to=to, **data), session(by))
    writer.look_up()


def test_a_request_of_who_is_blocked_was_never_made(opened):
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    ask(opened, "1", "friend_request")
    ask(opened, "2", "friend_accept", "bob", "alice")
    opened.answer_all()
    assert answers(opened) == [("1", Code.BLOCKED), ("2", Code.CONFLICT)]
    assert opened.delivered == []


def test_who_is_blocked_may_take_back_and_end_but_not_ask_or_say_anything(opened):
    ask(opened, "1", "friend_request", "bob", "alice")
    opened.send("2", "hello")
    opened.answer_all()
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    opened.take()
    ask(opened, "3", "friend_accept")
    opened.send("4", "let me")
    opened.answer_all()
    ask(opened, "5", "edit", seq=3, content="let me")
    opened.answer_all()
    assert answers(opened) == [(id_client, Code.BLOCKED) for id_client in ("3", "4", "5")]
    ask(opened, "6", "recall", seq=3)
    ask(opened, "7", "friend_reject")
    opened.answer_all()
    assert answers(opened) == [("6", 4), ("7", 5)]


def test_a_refusal_because_of_its_seq_waits_for_those_before_it(opened):
    """Answers may overtake each other: that the seq before it came free may be heard later."""
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    opened.send("1")
    opened.send("2", by=session("bob"))
    first, second = (opened.storage.execute(request) for request in opened.asked)
    assert (first, second) == (storage.Blocked(), storage.Fenced())
    opened.answer(1, lambda request: second)
    assert answers(opened) == []
    opened.answer(0, lambda request: first)
    opened.answer_all()
    assert answers(opened) == [("1", Code.BLOCKED), ("2", 2)]


def test_who_is_fenced_off_is_so_once_those_before_it_are_stored(opened):
    opened.send("1")
    opened.send("2")
    opened.answer(1, lambda request: storage.Fenced())
    opened.answer()
    assert answers(opened) == [("1", 2), ("2", Code.UNAVAILABLE)]


def test_what_stands_behind_a_message_that_is_blocked_is_decided_anew(opened):
    """Also a change, for which its seq matters, and what was refused because of it."""
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    opened.send("1")
    ask(opened, "2", "friend_request", "bob", "alice")
    ask(opened, "3", "friend_request", "bob", "alice", late=1)
    opened.answer_all()
    assert answers(opened) == [("1", Code.BLOCKED), ("2", 2), ("3", 3)]
    assert opened.delivered[1].message.id_client == f"{AB}:2"
    state = opened.machine._open[AB].state
    assert state["request"]["id"] == f"{AB}:3"


def test_a_message_of_who_is_blocked_gives_its_place_back(opened):
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    opened.send("1")
    opened.answer()
    assert answers(opened) == [("1", Code.BLOCKED)]
    opened.send("2", by=session("bob"))
    opened.answer()
    assert answers(opened) == [("2", 2)]
    opened.storage.execute(storage.SaveState("bob", AB, blocked=False))
    opened.send("1")  # it was not taken for a repetition
    opened.answer()
    assert answers(opened) == [("1", 3)]


def test_what_was_sent_behind_a_blocked_message_takes_its_place(opened):
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    opened.send("1")
    opened.send("2", by=session("bob"))
    opened.answer_all()
    assert answers(opened) == [("1", Code.BLOCKED), ("2", 2)]


def test_a_retry_of_a_change_that_was_undone_since_gets_its_answer(team):
    team.change("1", "leave", by="bob")
    team.change("2", "invite", "bob")
    team.answer_all()
    again = Writer(team.storage)
    for writer in (team, again):
        writer.take()
        frame = change("1", "leave", by="bob")
        frame.resend = True
        writer.to(TEAM, frame, session("bob"))
        writer.answer_all()
        assert answers(writer) == [("1", 2)]
    assert again.machine._open[TEAM].members == ("alice", "bob")


def test_consequences_go_to_those_whom_they_concern_once_they_are_stored(team):
    team.change("1", "kick", "bob")
    team.clock.now = 5.0
    assert team.delivered == []
    team.answer()
    kick, told = team.delivered
    assert (kick.message.seq, kick.origin) == (2, session())
    assert (told.users, told.origin) == (("bob",), None)
    one = told.message
    assert (one.conversation_id, one.seq, one.id, one.id_client) == ("system:bob", 1, "system:bob:1", "group:team:2")
    assert (one.scene, one.type, one.sender, one.to) == ("system", "group_kicked", "alice", "bob")
    assert one.file == {"conversationId": TEAM, "title": ""}
    assert one.time == kick.message.time


def test_news_of_an_answer_name_what_was_answered(opened):
    ask(opened, "1", "friend_request")
    ask(opened, "2", "friend_accept", "bob", "alice")
    opened.answer_all()
    resolution = opened.delivered[-2].message
    assert (resolution.conversation_id, resolution.type, resolution.id_client) == (
        "system:bob",
        "notification",
        f"{AB}:3>{AB}:2",
    )
    assert resolution.file == {
        "event": "resolve",
        "operator": "bob",
        "targets": [f"{AB}:2"],
        "data": {"state": "passed"},
    }
    assert opened.delivered[-1].message.type == "friend_accepted"


def test_a_new_writer_tells_whose_system_logs_were_written_to(opened):
    ask(opened, "1", "friend_request")
    opened.answer_all()
    again = Writer(opened.storage)
    again.send("2")
    again.answer_all()
    assert again.opened == [
        internal_frames.Opened(("alice", "bob"), AB, 2),
        internal_frames.Opened(("bob",), "system:bob", 1),
    ]


@pytest.mark.parametrize("operator", ["bob", "", None])
def test_nobody_acts_in_anothers_name(team, operator):
    frame = change("1", "configure", title="x")
    frame.file["operator"] = operator
    team.to(TEAM, frame)
    team.look_up()
    assert answers(team) == [("1", Code.BAD_REQUEST)]
    frame.file["event"] = "unheard of"
    team.to(TEAM, frame)
    assert answers(team) == [("1", Code.BAD_REQUEST)]


def test_a_notice_that_changes_nothing_is_a_message_like_any_other(team):
    team.change("1", "theme", colour="red")
    assert team.asked[0].effects is None
    team.change("2", "theme", by="mallory")
    team.change("3", "mute", "bob")
    team.change("4", "theme", by="bob")
    team.answer_all()
    assert answers(team) == [("2", Code.NOT_MEMBER), ("1", 2), ("3", 3), ("4", Code.MUTED)]


@pytest.mark.parametrize(
    ("conversation", "frame", "code"),
    [
        (AB, change("1", "kick", "bob", scene=Scene.P2P, to="bob"), Code.BAD_REQUEST),
        (AB, change("1", "resolve", "x", scene=Scene.P2P, to="bob"), Code.BAD_REQUEST),
        (AB, change("1", "friend_accept", scene=Scene.P2P, to="bob"), Code.CONFLICT),
        ("system:bob", change("1", "resolve", "x", scene=Scene.SYSTEM, to="bob"), Code.BAD_REQUEST),
        ("system:bob", change("1", "create", scene=Scene.SYSTEM, to="bob"), Code.BAD_REQUEST),
        ("system:bob", change("1", "theme", scene=Scene.SYSTEM, to="bob"), Code.BAD_REQUEST),
        ("system:bob", change("1", "recall", scene=Scene.SYSTEM, to="bob", seq=1), Code.BAD_REQUEST),
        ("system:bob", frames.Send("1", Scene.SYSTEM, "bob", "hi"), Code.BAD_REQUEST),
        ("p2p:alice:alice", change("1", "friend_request", scene=Scene.P2P, to="alice"), Code.BAD_REQUEST),
    ],
)
def test_what_can_be_changed_nowhere_there(writer, conversation, frame, code):
    writer.to(conversation, frame)
    writer.answer_all()
    assert answers(writer) == [("1", code)]


def test_users_send_each_other_system_messages_of_one_type(writer):
    writer.to("system:bob", frames.Send("1", Scene.SYSTEM, "bob", "", "custom", custom="{}"))
    writer.answer_all()
    assert answers(writer) == [("1", 1)]
    assert [deliver.users for deliver in writer.delivered] == [("bob",)]
    writer.to("system:bob", change("2", "recall", scene=Scene.SYSTEM, to="bob", seq=1))
    writer.answer_all()
    assert answers(writer) == [("2", Code.NOT_MEMBER)]


def test_a_writer_of_a_system_log_that_a_note_overtook_goes_on_behind_it(writer):
    said = frames.Send("1", Scene.SYSTEM, "bob", "", "custom", custom="{}")
    writer.to("system:bob", said)
    writer.answer()
    ask(writer, "2", "friend_request")
    writer.answer(-1)
    writer.look_up()
    writer.answer(-1)
    writer.answer_all()
    assert answers(writer) == [("2", 1), ("1", 2)]


def test_nobody_else_changes_anything_between_two(opened):
    for number, event in enumerate(("friend_request", "friend_accept", "recall", "theme")):
        frame = change(str(number), event, by="mallory", scene=Scene.P2P, to="bob", seq=1)
        opened.to(AB, frame, session("mallory"))
    opened.answer_all()
    assert answers(opened) == [(str(number), Code.NOT_MEMBER) for number in range(4)]


# --- recall, edit ---------------------------------------------------------------------------------------------------


def test_what_is_recalled_is_looked_up_behind_all_that_is_under_way(opened):
    opened.send("1")
    ask(opened, "2", "recall", seq=2)
    assert [request.op for request in opened.asked] == ["append", "get"]
    opened.send("3")
    opened.answer_all()
    assert answers(opened) == [("1", 2), ("2", 3), ("3", 4)]
    gone = opened.storage.execute(storage.Get(AB, 2))
    assert (gone.recalled, gone.content, gone.amended) == (True, "", 3)


def test_one_of_two_amendments_that_race_finds_what_the_other_did(opened):
    ask(opened, "1", "recall", seq=1)
    ask(opened, "2", "edit", seq=1, content="x")
    ask(opened, "3", "recall", seq=1)
    opened.answer_all()
    assert answers(opened) == [("1", 2), ("2", Code.CONFLICT), ("3", Code.CONFLICT)]
    opened.send("4")
    opened.answer_all()
    ask(opened, "5", "edit", seq=3, content="x")
    ask(opened, "6", "edit", seq=3, content="y")
    opened.answer_all()
    assert opened.storage.execute(storage.Get(AB, 3)).content == "y"
    assert opened.storage.execute(storage.Get(AB, 3)).amended == 5


def test_the_rank_in_the_group_counts(team):
    team.say("1", by="bob")
    team.change("2", "recall", by="alice", seq=2)
    team.say("3")
    team.change("4", "recall", by="bob", seq=4)
    team.answer_all()
    assert answers(team) == [("1", 2), ("2", 3), ("3", 4), ("4", Code.FORBIDDEN)]


def test_what_cannot_be_looked_up_is_asked_again(opened):
    ask(opened, "1", "recall", seq=1)
    opened.answer(result=failed)
    assert answers(opened) == [("1", Code.UNAVAILABLE)]
    ask(opened, "1", "recall", seq=1)
    opened.asked.clear()
    opened.advance(10)
    assert answers(opened) == [("1", Code.UNAVAILABLE)]
    ask(opened, "1", "recall", seq=1)
    opened.answer_all()
    assert answers(opened) == [("1", 2)]


def test_who_is_no_member_is_not_even_looked_up(opened):
    opened.to(AB, change("1", "recall", by="mallory", scene=Scene.P2P, to="bob", seq=1), session("mallory"))
    opened.look_up()  # of its idClient
    assert not opened.asked
    assert answers(opened) == [("1", Code.NOT_MEMBER)]


def test_an_edit_says_something_so_who_may_not_speak_may_not_edit(team):
    team.say("1", by="bob")
    team.change("2", "mute", "bob")
    team.answer_all()
    team.take()
    team.change("3", "edit", by="bob", seq=2, content="let me speak")
    assert answers(team) == [("3", Code.MUTED)]
    team.change("4", "recall", by="bob", seq=2)
    team.answer_all()
    assert answers(team) == [("4", 4)]


def test_strangers_edit_nothing_where_they_may_not_speak():
    writer = Writer(policies=Policies(strangers="refuse"))
    ask(writer, "1", "friend_request")
    ask(writer, "2", "friend_accept", "bob", "alice")
    writer.send("3")
    ask(writer, "4", "friend_delete", "bob", "alice")
    ask(writer, "5", "edit", seq=3, content="please")
    writer.answer_all()
    assert answers(writer)[-1] == ("5", Code.NOT_FRIENDS)
    writer.to("p2p:alice:alice", send("1", to="alice"))
    writer.answer_all()
    assert answers(writer) == [("1", 1)]  # nobody is a stranger to oneself


def test_windows_are_measured_from_the_messages_own_time():
    writer = Writer(policies=Policies(recall_window=10.0, edit_window=20.0))
    writer.clock.now = 100.0
    writer.send("0")
    writer.answer_all()
    writer.clock.now = 110.5
    ask(writer, "1", "recall", seq=1)
    ask(writer, "2", "edit", seq=1, content="x")
    writer.answer_all()
    assert answers(writer) == [("0", 1), ("1", Code.EXPIRED), ("2", 2)]


def test_requests_live_as_long_as_the_policy_says():
    writer = Writer(policies=Policies(request_lifetime=10.0))
    ask(writer, "1", "friend_request")
    writer.answer_all()
    assert writer.delivered[1].message.file["expires"] == 1_010_000
    writer.clock.now = 10.0
    ask(writer, "2", "friend_accept", "bob", "alice")
    assert answers(writer)[-1] == ("2", Code.EXPIRED)


def test_changes_count_for_the_rate_of_the_group():
    writer = Writer(policies=Policies(group_rate=1.0, group_burst=1))
    writer.change("1", "create", "bob")
    writer.answer_all()
    writer.change("2", "configure", title="taken")
    writer.answer_all()
    writer.change("3", "mute")
    assert answers(writer) == [("1", 1), ("2", 2), ("3", Code.RATE_LIMITED)]
    assert writer.machine._open[TEAM].state["muted_all"] is False


def test_a_replaced_session_changes_nothing_even_from_outside(team):
    team.to(TEAM, change("1", "join", by="carol"), session("carol", epoch=5))
    team.to(TEAM, change("2", "leave", by="carol"), session("carol", epoch=4))
    team.answer_all()
    assert answers(team) == [("1", 2)]


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_what_waits_for_an_opening_is_bounded(writer):
    for number in range(_WAITING):
        writer.send(str(number))
    assert writer.told == []
    writer.send("one too many")
    assert writer.refusals() == [("one too many", Code.UNAVAILABLE)]


def test_what_waits_for_storage_is_bounded(opened):
    for number in range(1, _WAITING + 1):
        opened.send(str(number))
    assert opened.told == []
    opened.send("one too many")
    assert opened.refusals() == [("one too many", Code.UNAVAILABLE)]
    opened.answer_all()
    assert len(opened.acks()) == _WAITING


def test_idle_conversations_are_evicted_and_come_back():
    writer = Writer(policies=Policies(open_conversations=2))
    ids = ["p2p:alice:bob", "p2p:alice:carol", "p2p:alice:dave"]
    for _ in range(2):
        for id in ids:
            writer.receive(internal_frames.Up(session(), send(f"{_}", to=id.split(":")[2]), id))
            writer.answer_all()
            assert len(writer.machine._open) <= 2
    assert [seq for _, seq in writer.acks()] == [1, 1, 1, 2, 2, 2]


def test_a_conversation_with_something_in_flight_is_not_evicted():
    writer = Writer(policies=Policies(open_conversations=2))
    for user in ("bob", "carol"):
        writer.receive(internal_frames.Up(session(), send("1", to=user), f"p2p:alice:{user}"))
        writer.answer(-1)  # both are open then, with an append each in flight
    writer.answer(-1)
    writer.receive(internal_frames.Up(session(), send("1", to="dave"), "p2p:alice:dave"))
    assert set(writer.machine._open) == {"p2p:alice:bob", "p2p:alice:dave"}
    writer.answer_all()
    assert len(writer.acks()) == 3


def to_carol(id_client):
    return internal_frames.Up(session(), send(id_client, to="carol"), "p2p:alice:carol")


def test_beyond_the_limit_as_many_are_open_as_have_something_to_do_but_not_without_end(monkeypatch):
    monkeypatch.setattr("imsim.core.router.conversations._WAITING", 2)
    writer = Writer(policies=Policies(open_conversations=1))
    users = ("bob", "carol", "dave", "erin")
    for user in users:
        writer.receive(internal_frames.Up(session(), send(user, to=user), p2p_id("alice", user)))
    assert writer.refusals() == [("erin", Code.UNAVAILABLE)]
    writer.answer_all()
    assert len(writer.acks()) == 3
    writer.advance(100)
    assert writer.told == []
    writer.receive(internal_frames.Up(session(), send("erin", to="erin"), "p2p:alice:erin"))
    assert list(writer.machine._open) == ["p2p:alice:erin"]


def test_the_conversation_that_was_idle_for_longest_makes_room():
    writer = Writer(policies=Policies(open_conversations=2))
    for up in (to_carol("1"), internal_frames.Up(session(), send("2"), AB), to_carol("3")):
        writer.receive(up)
        writer.answer_all()
    writer.take()
    writer.receive(internal_frames.Up(session(), send("4", to="dave"), "p2p:alice:dave"))  # makes room of bob's
    writer.answer_all()
    writer.take()
    writer.receive(to_carol("5"))
    assert [type(request) for request in writer.asked] == [storage.Append]
    writer.answer_all()
    writer.receive(internal_frames.Up(session(), send("6"), AB))
    assert [type(request) for request in writer.asked] == [storage.OpenConversation]


def test_idempotency_survives_eviction():
    writer = Writer(policies=Policies(open_conversations=1))
    writer.send("1")
    writer.answer_all()
    writer.receive(internal_frames.Up(session(), send("1", to="carol"), "p2p:alice:carol"))
    writer.answer_all()
    writer.take()
    writer.send("1", resend=True)
    writer.answer_all()
    assert writer.acks() == [("1", 1)]
    assert writer.log() == ["1"]


def test_nothing_is_left_to_do_once_all_is_answered(opened):
    assert opened.machine.next_deadline() is None
    assert opened.log() == ["0"]
    assert same_body(opened.storage.execute(storage.Find(AB, "alice", "0")), message(content="text"))


def test_what_is_known_to_be_stored_is_let_out_before_the_writer_gives_up(opened):
    """Found by the fault search: its sender gets its answer from a retry at the latest, and nobody would deliver it."""
    opened.send("1")
    opened.send("2")
    opened.answer(1, lambda request: storage.Appended())  # the second is stored, and waits for the first
    assert opened.delivered == []
    opened.advance(opened.policies.storage_timeout)  # storage never answers for the first
    assert [deliver.message.id_client for deliver in opened.delivered] == ["2"]
    told = opened.take()
    assert [frame.id_client for _, frame in told if isinstance(frame, frames.Stored)] == ["2"]
    refused = [(frame.ref, frame.code) for _, frame in told if isinstance(frame, frames.Rejected)]
    assert refused == [("1", Code.UNAVAILABLE)]


def test_an_old_key_among_messages_in_flight_rejects_nobody(opened):
    """Whoever forgets to say that it is a repetition must not stop the others."""
    opened.send("old")
    opened.answer_all()
    opened.machine._open[AB].recent.clear()
    opened.send("1")
    opened.send("old")
    opened.send("2", by=session("bob"))
    opened.send("3")
    opened.send("3")  # a retry that races it
    opened.answer_all()
    told = [frame for _, frame in opened.take()]
    assert [frame for frame in told if isinstance(frame, frames.Rejected)] == []
    log = opened.storage.execute(storage.Range("alice", AB, 1, 100, 100)).messages
    assert [message.id_client for message in log[-4:]] == ["old", "1", "2", "3"]
    assert [frame.id_client for frame in told if isinstance(frame, frames.Stored)] == ["old", "1", "old", "2", "3", "3"]
