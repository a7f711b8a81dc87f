"""The writer of a conversation, with a storage that fails, does not answer or has another writer."""

from __future__ import annotations

import pytest
from core.builders import AB, Writer, failed, same, send, session

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Code, p2p_id
from imsim.core.policies import Policies


def to_carol(id_client):
    return internal_frames.Up(session(), send(id_client, to="carol"), "p2p:alice:carol")


# --- failures, missing answers, another writer ------------------------------------------------------------------------


def test_failed_append_is_retryable_and_the_next_request_opens_the_log_again(opened):
    opened.send("1")
    opened.answer(result=failed)
    assert opened.refusals() == [("1", Code.UNAVAILABLE)]
    opened.send("1", resend=True)
    assert isinstance(opened.asked[0], storage.OpenConversation)
    opened.answer_all()
    assert opened.acks() == [("1", 2)]
    assert opened.log() == ["0", "1"]


def test_failed_append_rejects_all_requests_in_flight_as_retryable(opened):
    opened.send("1")
    opened.send("2")
    opened.send("3", resend=True)  # waits for a lookup
    opened.send("4")  # waits for the one before it
    opened.answer(result=failed)
    assert opened.refusals() == [(number, Code.UNAVAILABLE) for number in ("1", "2", "3", "4")]
    assert opened.delivered == []


def test_answers_after_the_log_was_given_up_are_ignored(opened):
    opened.send("1")
    opened.send("2")
    opened.answer(result=failed)
    opened.take()
    opened.answer(result=lambda _: storage.Appended())
    opened.send("3")
    assert (opened.sent, opened.delivered) == ([], [])
    opened.answer_all()
    assert opened.acks() == [("3", 2)]


def test_append_in_flight_is_fenced_off_by_the_next_opening(opened):
    opened.send("1")
    late = opened.asked.popleft()
    opened.advance(opened.policies.storage_timeout)
    assert opened.refusals() == [("1", Code.UNAVAILABLE)]
    opened.send("1", resend=True)
    opened.answer_all()
    assert opened.storage.execute(late) == storage.Fenced()
    opened.stored(late, storage.Appended())  # even a wrong answer is ignored
    assert opened.acks() == [("1", 2)]
    assert opened.log() == ["0", "1"]


def test_storage_timeout_counts_from_the_first_request_that_waits(opened):
    opened.send("1")
    opened.advance(9)
    opened.send("2")
    opened.advance(0.9)
    assert opened.sent == []
    opened.advance(0.1)
    assert opened.refusals() == [("1", Code.UNAVAILABLE), ("2", Code.UNAVAILABLE)]


@pytest.mark.parametrize("operation", ["open", "find", "append"])
def test_retry_after_a_storage_timeout_succeeds(opened, operation):
    writer = Writer(opened.storage) if operation == "open" else opened
    writer.send("1", resend=operation == "find")
    writer.asked.popleft()
    writer.advance(writer.policies.storage_timeout)
    assert writer.refusals() == [("1", Code.UNAVAILABLE)]
    writer.send("1", resend=True)
    writer.answer_all()
    assert writer.acks() == [("1", 2)]
    assert writer.machine.timers.next_deadline() is None


def test_answer_to_an_abandoned_opening_is_ignored(writer):
    writer.send("1")
    late = writer.asked.popleft()
    writer.advance(10)
    writer.take()
    writer.send("2")
    writer.stored(late, storage.LogState(1, 7, ("alice", "bob")))
    writer.answer_all()
    assert writer.acks() == [("2", 1)]


def test_failed_lookup_rejects_only_the_send_that_needed_it(opened):
    opened.send("1", resend=True)
    opened.send("2")
    opened.answer(result=failed)
    opened.answer_all()
    sent = opened.take()
    assert [(type(frame), getattr(frame, "ref", None)) for _, frame in sent] == [
        (frames.Rejected, "1"),
        (frames.Stored, None),
    ]
    assert sent[0][1].code == Code.UNAVAILABLE


def test_two_writers_on_one_storage_keep_one_log():
    """Split brain: both writers believe that they own the conversation, and fence each other off in turn."""
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


def test_messages_known_to_be_stored_are_released_before_the_writer_gives_up(opened):
    """Found by the fault search: without the release, the sender gets its answer from a retry, but nobody delivers."""
    opened.send("1")
    opened.send("2")
    opened.answer(1, lambda request: storage.Appended())  # the second is stored, and waits for the first
    assert opened.delivered == []
    opened.advance(opened.policies.storage_timeout)  # storage never answers for the first
    assert [deliver.message.id_client for deliver in opened.delivered] == ["2"]
    sent = opened.take()
    assert [frame.id_client for _, frame in sent if isinstance(frame, frames.Stored)] == ["2"]
    refused = [(frame.ref, frame.code) for _, frame in sent if isinstance(frame, frames.Rejected)]
    assert refused == [("1", Code.UNAVAILABLE)]


# --- a new writer -----------------------------------------------------------------------------------------------------


def test_writer_that_gave_up_with_an_append_in_flight_opens_the_log_again(opened):
    """The senders may be gone, but the members have not received what was stored."""
    opened.send("1")
    late = opened.asked.popleft()
    opened.advance(10)  # storage does not answer
    assert opened.refusals() == [("1", Code.UNAVAILABLE)]
    opened.storage.execute(late)
    opened.advance(9.9)
    assert not opened.asked
    opened.advance(0.1)
    assert same(opened.asked, storage.OpenConversation(AB, ("alice", "bob")))
    assert opened.opened == []
    opened.answer()
    assert opened.opened == [internal_frames.Opened(("alice", "bob"), AB, 2)]
    assert opened.machine.timers.next_deadline() is None
    opened.advance(100)
    assert not opened.asked


@pytest.mark.parametrize(("how", "every"), [("failed", 10), ("silent", 20)])
def test_writer_opens_the_log_again_until_storage_answers(opened, how, every):
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
    assert opened.machine.timers.next_deadline() is None


def test_writer_that_gave_up_without_an_append_in_flight_does_not_open_the_log_again(opened):
    again = Writer(opened.storage)
    again.send("1")
    again.answer(result=failed)  # the opening
    assert again.machine.timers.next_deadline() is None
    opened.send("1", resend=True)
    opened.asked.clear()
    opened.advance(10)  # a lookup without an answer
    assert opened.machine.timers.next_deadline() is None
    opened.send("2")
    opened.send("3")
    opened.answer_all()
    assert opened.machine.timers.next_deadline() is None


def test_new_writer_announces_the_system_logs_with_notes(opened):
    opened.ask("1", "friend_request")
    opened.answer_all()
    again = Writer(opened.storage)
    again.send("2")
    again.answer_all()
    assert again.opened == [
        internal_frames.Opened(("alice", "bob"), AB, 2),
        internal_frames.Opened(("bob",), "system:bob", 1),
    ]


# --- open conversations -----------------------------------------------------------------------------------------------


def test_idle_conversations_are_closed_and_opened_again():
    writer = Writer(policies=Policies(open_conversations=2))
    ids = ["p2p:alice:bob", "p2p:alice:carol", "p2p:alice:dave"]
    for _ in range(2):
        for id in ids:
            writer.to(id, send(f"{_}", to=id.split(":")[2]))
            writer.answer_all()
            assert len(writer.machine._open) <= 2
    assert [seq for _, seq in writer.acks()] == [1, 1, 1, 2, 2, 2]


def test_conversation_with_an_append_in_flight_is_not_closed():
    writer = Writer(policies=Policies(open_conversations=2))
    for user in ("bob", "carol"):
        writer.to(f"p2p:alice:{user}", send("1", to=user))
        writer.answer(-1)  # now it is open, with an append in flight
    writer.answer(-1)
    writer.to("p2p:alice:dave", send("1", to="dave"))
    assert set(writer.machine._open) == {"p2p:alice:bob", "p2p:alice:dave"}
    writer.answer_all()
    assert len(writer.acks()) == 3


def test_busy_conversations_may_exceed_the_limit_within_a_bound(monkeypatch):
    monkeypatch.setattr("imsim.core.router.conversations._WAITING", 2)
    writer = Writer(policies=Policies(open_conversations=1))
    users = ("bob", "carol", "dave", "erin")
    for user in users:
        writer.receive(internal_frames.Up(session(), send(user, to=user), p2p_id("alice", user)))
    assert writer.refusals() == [("erin", Code.UNAVAILABLE)]
    writer.answer_all()
    assert len(writer.acks()) == 3
    writer.advance(100)
    assert writer.sent == []
    writer.to("p2p:alice:erin", send("erin", to="erin"))
    assert list(writer.machine._open) == ["p2p:alice:erin"]


def test_conversation_that_is_idle_for_longest_is_closed_first():
    writer = Writer(policies=Policies(open_conversations=2))
    for up in (to_carol("1"), internal_frames.Up(session(), send("2"), AB), to_carol("3")):
        writer.receive(up)
        writer.answer_all()
    writer.take()
    writer.to("p2p:alice:dave", send("4", to="dave"))  # closes the conversation with bob
    writer.answer_all()
    writer.take()
    writer.receive(to_carol("5"))
    assert [type(request) for request in writer.asked] == [storage.Append]
    writer.answer_all()
    writer.to(AB, send("6"))
    assert [type(request) for request in writer.asked] == [storage.OpenConversation]


def test_busy_storage_refuses_new_sends_but_not_repeats_of_those_in_flight():
    writer = Writer()
    writer.send("1")
    writer.answer()
    writer.port.wait_time = 60.0
    writer.send("2", by=session("bob"), to="alice")
    assert writer.answers() == [("2", Code.BUSY)]
    writer.send("1", resend=True)
    assert writer.answers() == []
    writer.answer()
    assert writer.answers() == [("1", 1), ("1", 1)]
    writer.to("p2p:alice:carol", send("3", to="carol"))  # a conversation that is not open
    assert writer.answers() == [("3", Code.BUSY)]
    assert not writer.asked
