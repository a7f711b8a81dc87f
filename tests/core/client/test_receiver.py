"""The receiver: messages are shown once and in order and acknowledged, and gaps are pulled."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Phone, message

from imsim.core import events, frames
from imsim.core.client.connection import State
from imsim.core.model import Code, Flow, Route

# --- pushes ---------------------------------------------------------------------------------------------------------


def test_a_push_is_shown_and_acknowledged(phone):
    phone.push(1)
    assert phone.sent() == [frames.Delivered(AB, 1)]
    assert phone.of(events.Shown) == [events.Shown(message(1), Flow.IN, Route.PUSH)]


def test_a_repeated_push_is_acknowledged_again_and_not_shown(phone):
    phone.push(1, 1)
    assert phone.sent() == [frames.Delivered(AB, 1)] * 2
    assert phone.shown == [1]
    assert len(phone.of(events.Repeated)) == 1


# --- gaps -----------------------------------------------------------------------------------------------------------


def test_a_gap_is_pulled_when_no_push_has_filled_it_in_time(phone):
    phone.push(1, 4)
    phone.collect()
    phone.advance(2.9)
    assert (phone.sent(), phone.shown) == ([], [1])
    phone.advance(0.1)
    assert phone.sent() == [frames.History(AB, 2, 3, 1)]
    assert phone.shown == [1]  # the gap is not skipped
    phone.pulled(2, 3)
    assert phone.shown == [1, 2, 3, 4]
    assert [event.route for event in phone.of(events.Shown)] == [Route.PUSH, Route.SYNC, Route.SYNC, Route.PUSH]
    assert phone.sent() == [frames.Delivered(AB, 4)]
    assert phone.of(events.History) == []  # the application did not request it
    phone.advance(20)
    assert phone.pulls() == []


def test_the_wait_for_a_gap_starts_with_the_message_behind_it(phone):
    phone.push(2)
    phone.advance(2.9)
    phone.push(4)
    phone.push(1)
    phone.collect()
    phone.advance(2.9)
    assert (phone.shown, phone.pulls()) == ([1, 2], [])
    phone.advance(0.2)
    assert phone.pulls() == [(3, 3)]


def test_more_messages_behind_a_gap_do_not_delay_its_pull(phone):
    for seq in (2, 3, 4, 5):
        phone.push(seq)
        phone.advance(1)
    assert phone.pulls() == [(1, 1)]


def test_a_second_gap_is_pulled_as_soon_as_the_first_is_filled_if_its_wait_is_over(phone):
    phone.push(2, 4)
    phone.advance(3)
    assert phone.pulls() == [(1, 1)]
    phone.advance(1)
    phone.pulled(1, 1)
    assert phone.pulls() == []
    phone.advance(0)
    assert (phone.shown, phone.pulls()) == ([1, 2], [(3, 3)])
    phone.pulled(3, 3)
    assert phone.shown == [1, 2, 3, 4]


def test_the_rest_of_a_range_is_requested_from_a_server_with_smaller_pages(phone):
    """The server sends the latest messages of the range. The client requests the earlier ones at once."""
    phone.push(5)
    phone.advance(3)
    assert phone.pulls() == [(1, 4)]
    phone.pulled(1, 4, 3, 4, more=True)
    assert (phone.shown, phone.sent()) == ([], [frames.Delivered(AB, 0), frames.History(AB, 1, 2, 2)])
    phone.pulled(1, 2)
    assert phone.shown == [1, 2, 3, 4, 5]


def test_a_conversation_has_one_pull_at_a_time(phone):
    phone.push(3)
    phone.advance(3)
    assert phone.pulls() == [(1, 2)]
    phone.push(1, 2, 5)
    phone.advance(4)
    assert phone.pulls() == []
    phone.pulled(1, 2)
    phone.advance(0)
    assert phone.pulls() == [(4, 4)]


def test_a_range_refused_to_the_application_is_not_delivered_to_it_later(phone):
    phone.machine.history(AB, 1, 1, 0.0)
    phone.rejected(f"{AB}:1-1", Code.NO_CONVERSATION, "history")
    phone.push(2)
    phone.advance(3)
    phone.pulled(1, 1)
    assert phone.shown == [1, 2]
    assert phone.of(events.History) == []


def test_a_refused_pull_is_not_reported_to_the_application(phone):
    phone.push(2)
    phone.advance(3)
    phone.rejected(f"{AB}:1-1", Code.NO_CONVERSATION, "history")
    assert phone.of(events.RequestFailed) == []
    phone.collect()
    phone.advance(20)
    assert (phone.pulls(), phone.shown) == ([], [])
    phone.push(3)  # the user still receives messages, so the client tries again
    phone.advance(0)
    assert phone.pulls() == [(1, 1)]


def test_a_refused_pull_that_the_application_requested_too_is_reported(phone):
    phone.push(2)
    phone.advance(3)
    phone.machine.history(AB, 1, 1, phone.clock.now)
    phone.rejected(f"{AB}:1-1", Code.NO_CONVERSATION, "history")
    assert len(phone.of(events.RequestFailed)) == 1
    assert phone.machine._receiver.conversations[AB].pull is None


def test_the_refusal_of_another_range_does_not_end_the_pull(phone):
    phone.push(3)
    phone.advance(3)
    phone.machine.history(AB, 1, 1, phone.clock.now)
    phone.rejected(f"{AB}:1-1", Code.NO_CONVERSATION, "history")
    phone.pulled(1, 2)
    assert phone.shown == [1, 2, 3]


# --- gaps and syncs -------------------------------------------------------------------------------------------------


def test_no_gap_is_pulled_while_a_sync_may_fill_it(phone):
    phone.push(2)
    phone.log_in_again()
    phone.push(3)
    phone.collect()
    assert phone.machine.next_deadline() == 5.0  # the repetition of the sync
    phone.advance(4.9)
    assert phone.pulls() == []
    phone.synced(message(1), message(2))
    assert phone.shown == [1, 2, 3]
    phone.advance(20)
    assert phone.pulls() == []


def test_no_gap_is_pulled_while_a_resync_may_fill_it(phone):
    phone.push(2)
    phone.advance(2)
    phone.get(frames.Resync(1))
    phone.collect()
    phone.advance(2)
    assert (phone.machine.state, phone.pulls()) == (State.SYNCING, [])
    phone.synced()
    phone.advance(0)
    assert phone.pulls() == [(1, 1)]


def test_a_gap_that_the_sync_did_not_fill_is_pulled(phone):
    phone.push(2)
    phone.log_in_again()
    phone.advance(1)
    phone.synced()
    phone.advance(1.9)
    assert phone.pulls() == []
    phone.advance(0.1)
    assert phone.pulls() == [(1, 1)]


def test_a_stopped_client_does_not_wait_for_gaps(phone):
    phone.push(2)
    phone.machine.stop(0.0)
    assert phone.machine.next_deadline() is None


# --- notices --------------------------------------------------------------------------------------------------------


@pytest.fixture
def notified():
    return Phone(delivery="notify").online()


def test_a_notice_is_answered_by_a_pull_and_then_acknowledged(notified):
    notified.get(frames.Notify(AB, 3))
    assert notified.sent() == [frames.History(AB, 1, 3, 1)]
    notified.pulled(1, 3)
    assert notified.sent() == [frames.Delivered(AB, 3)]
    assert notified.shown == [1, 2, 3]
    assert {event.route for event in notified.of(events.Shown)} == {Route.SYNC}
    notified.advance(29)
    assert notified.sent() == []


def test_a_notice_of_a_message_that_was_shown_is_only_acknowledged(notified):
    notified.get(frames.Notify(AB, 2))
    notified.pulled(1, 2)
    notified.collect()
    for seq in (2, 1):
        notified.get(frames.Notify(AB, seq))
        assert notified.sent() == [frames.Delivered(AB, 2)]


def test_messages_of_notices_during_a_pull_are_pulled_together_after_it(notified):
    notified.get(frames.Notify(AB, 1))
    notified.collect()
    for seq in (2, 4, 3):  # the notice of 3 arrives late
        notified.get(frames.Notify(AB, seq))
    assert notified.sent() == []
    notified.pulled(1, 1)
    assert notified.sent() == [frames.Delivered(AB, 1), frames.History(AB, 2, 4, 2)]


def test_a_notice_during_a_sync_is_pulled_after_it_if_the_sync_did_not_bring_it(notified):
    notified.log_in_again()
    notified.get(frames.Notify(AB, 2))
    notified.get(frames.Notify(TEAM, 1))
    assert notified.sent() == []
    notified.synced(message(1), message(2))
    assert notified.sent() == [frames.History(TEAM, 1, 1, 1)]


def test_a_notice_does_not_wait_for_the_gap_before_an_own_message(notified):
    """The answer to an own send may arrive before the notice of the message before it."""
    notified.send("1")
    notified.stored("1", 2)
    notified.collect()
    notified.advance(0.1)
    notified.get(frames.Notify(AB, 1))
    assert notified.sent() == [frames.History(AB, 1, 1, 1)]
    notified.pulled(1, 1)
    assert notified.shown == [1]
    notified.collect()
    notified.advance(20)
    assert notified.pulls() == []


def test_a_notice_beyond_an_own_message_is_pulled_in_two_parts(notified):
    notified.send("1")
    notified.stored("1", 2)
    notified.collect()
    notified.get(frames.Notify(AB, 3))
    assert notified.pulls() == [(1, 1)]
    notified.pulled(1, 1)
    assert notified.pulls() == [(3, 3)]


def test_a_notice_whose_pull_is_refused_is_forgotten(notified):
    notified.get(frames.Notify(AB, 3))
    notified.rejected(f"{AB}:1-3", Code.NO_CONVERSATION, "history")
    notified.collect()
    notified.log_in_again()
    notified.synced()
    assert notified.pulls() == []
    assert notified.of(events.RequestFailed) == []
