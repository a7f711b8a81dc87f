"""The single writer of a log, over a storage that answers late, out of order, badly or never."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Writer, failed, message, open_log, place, send, session

from imsim.core import events, frames, storage
from imsim.core.conversations import _RECENT, _WAITING
from imsim.core.model import Code
from imsim.core.policies import Policies


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
    assert opened.delivered[0].places == (("alice", place(1, 1)), ("bob", place(1, peer_read_seq=1)))
    opened.send("2", shown=1)
    opened.answer_all()
    assert opened.delivered[1].places == ()


def test_each_conversation_is_a_log_of_its_own(opened):
    opened.receive(frames.Up(session(), send("1", to="carol"), "p2p:alice:carol"))
    opened.answer_all()
    assert opened.acks() == [("1", 1)]
    assert opened.delivered[0].users == ("alice", "carol")


def test_who_is_no_member_is_rejected(opened):
    opened.send("1", by=session("mallory"))
    assert opened.refusals() == [("1", Code.NOT_MEMBER)]
    assert not opened.asked


def test_members_of_a_large_group_are_known(writer):
    writer.create("team", *(f"u{number}" for number in range(20)))
    writer.answer_all()
    writer.receive(frames.Up(session("u19"), send("1", to="team"), TEAM))
    writer.receive(frames.Up(session("u20"), send("2", to="team"), TEAM))
    writer.answer_all()
    answers = [frame for _, frame in writer.take() if not isinstance(frame, frames.GroupCreated)]
    assert [type(frame) for frame in answers] == [frames.Rejected, frames.Stored]
    assert len(writer.delivered[0].users) == 21


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


def test_another_body_under_the_same_key_is_a_conflict_once_it_is_stored(opened):
    """Until then storage may refuse the first, because it holds the second: then that one is right."""
    opened.send("1", "text")
    opened.send("1", "other")
    assert opened.refusals() == [("1", Code.UNAVAILABLE)]
    opened.answer_all()
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


def test_what_is_found_again_is_delivered_again_and_moves_no_mark(opened):
    """The writer that stored it may have died before it let it out."""
    again = Writer(opened.storage)
    again.send("0", resend=True, shown=1)
    again.answer_all()
    assert [(deliver.message.seq, deliver.places) for deliver in again.delivered] == [(1, ())]
    assert again.events == []  # but it was committed once


def test_what_was_found_once_is_known(opened):
    again = Writer(opened.storage)
    for _ in range(2):
        again.send("0", resend=True)
        again.answer_all()
    assert again.acks() == [("0", 1), ("0", 1)]
    assert len(again.delivered) == 1


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


def test_a_duplicate_among_others_in_flight_makes_those_retry(opened):
    again = Writer(opened.storage)
    again.send("9")
    again.answer_all()
    again.take()
    again.send("0")
    again.send("1")
    again.answer_all()
    told = again.take()
    assert [(frame.id_client, frame.seq) for _, frame in told if isinstance(frame, frames.Stored)] == [("0", 1)]
    assert [(f.ref, f.code) for _, f in told if isinstance(f, frames.Rejected)] == [("1", Code.UNAVAILABLE)]
    again.send("1", resend=True)
    again.answer_all()
    assert again.acks() == [("1", 3)]
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
    # The predecessor was no retry, nobody waits for it: it is not delivered again.
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
    assert [deliver.message.id_client for deliver in opened.delivered] == ["1"]
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
    writer.machine.stored(late, storage.ConversationState(1, 7, ("alice", "bob")), writer.clock.now)
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


def test_a_stale_session_that_waited_is_ignored_too(writer):
    writer.send("1", by=session(epoch=5))
    writer.send("2", by=session(epoch=4))
    writer.answer_all()
    assert writer.acks() == [("1", 1)]


def test_who_is_rejected_as_no_member_leaves_no_trace(opened):
    """Otherwise strangers could fill the memory of the writer."""
    for number in range(5):
        opened.send("1", by=session(f"mallory{number}"))
    assert set(opened.machine._open[AB].epochs) == {("alice", "d0")}


# --- groups ---------------------------------------------------------------------------------------------------------


def test_a_group_is_made_of_its_members_and_its_maker(writer):
    writer.create("team", "bob", "carol", "bob")
    assert writer.asked[0] == storage.OpenConversation(TEAM, ("alice", "bob", "carol"))
    writer.answer_all()
    assert [frame for _, frame in writer.take()] == [frames.GroupCreated("team", TEAM)]


def test_a_group_made_again_is_the_same_group_unless_its_members_differ(writer):
    writer.create("team", "bob")
    writer.create("team", "alice", "bob", by=session("bob"))
    writer.create("team", "bob", "carol")
    writer.answer_all()
    answers = [frame for _, frame in writer.take()]
    assert answers[:2] == [frames.GroupCreated("team", TEAM)] * 2
    assert (answers[2].ref, answers[2].code) == ("team", Code.CONFLICT)


def test_a_group_that_exists_cannot_be_joined_by_making_it(writer):
    writer.create("team", "bob")
    writer.create("team", "alice", "bob", by=session("mallory"))
    writer.answer_all()
    assert isinstance(writer.take()[-1][1], frames.Rejected)
    assert writer.storage.execute(storage.OpenConversation(TEAM)).members == ("alice", "bob")


def test_a_group_that_nobody_made_rejects(writer):
    writer.receive(frames.Up(session(), send("1", to="team"), TEAM))
    writer.answer_all()
    assert writer.refusals() == [("1", Code.NO_CONVERSATION)]
    assert writer.machine.next_deadline() is None


def test_a_group_made_while_a_send_to_it_waits_is_made(writer):
    writer.receive(frames.Up(session(), send("1", to="team"), TEAM))
    writer.create("team", "bob")
    writer.receive(frames.Up(session(), send("2", to="team"), TEAM))
    writer.answer_all()
    kinds = [(type(frame), getattr(frame, "ref", None)) for _, frame in writer.take()]
    assert kinds == [(frames.Rejected, "1"), (frames.GroupCreated, None), (frames.Stored, None)]


def test_making_a_group_fails_with_storage_and_may_be_repeated(writer):
    writer.create("team", "bob")
    writer.answer(result=failed)
    assert writer.refusals() == [("team", Code.UNAVAILABLE)]
    writer.create("team", "bob")
    writer.answer_all()
    assert [type(frame) for _, frame in writer.take()] == [frames.GroupCreated]


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
            writer.receive(frames.Up(session(), send(f"{_}", to=id.split(":")[2]), id))
            writer.answer_all()
            assert len(writer.machine._open) <= 2
    assert [seq for _, seq in writer.acks()] == [1, 1, 1, 2, 2, 2]


def test_a_conversation_with_something_in_flight_is_not_evicted():
    writer = Writer(policies=Policies(open_conversations=2))
    for user in ("bob", "carol"):
        writer.receive(frames.Up(session(), send("1", to=user), f"p2p:alice:{user}"))
        writer.answer(-1)  # both are open then, with an append each in flight
    writer.answer(-1)
    writer.receive(frames.Up(session(), send("1", to="dave"), "p2p:alice:dave"))
    assert set(writer.machine._open) == {"p2p:alice:bob", "p2p:alice:dave"}
    writer.answer_all()
    assert len(writer.acks()) == 3


def test_a_conversation_that_is_being_opened_does_not_evict_itself():
    writer = Writer(policies=Policies(open_conversations=1))
    writer.send("1")
    writer.receive(frames.Up(session(), send("1", to="carol"), "p2p:alice:carol"))
    writer.answer_all()
    assert len(writer.acks()) == 2
    writer.advance(100)
    assert writer.told == []


def test_idempotency_survives_eviction():
    writer = Writer(policies=Policies(open_conversations=1))
    writer.send("1")
    writer.answer_all()
    writer.receive(frames.Up(session(), send("1", to="carol"), "p2p:alice:carol"))
    writer.answer_all()
    writer.take()
    writer.send("1", resend=True)
    writer.answer_all()
    assert writer.acks() == [("1", 1)]
    assert writer.log() == ["1"]


def test_nothing_is_left_to_do_once_all_is_answered(opened):
    assert opened.machine.next_deadline() is None
    assert opened.log() == ["0"]
    assert opened.storage.execute(storage.Find(AB, "alice", "0")).same_body(message(content="text"))


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
