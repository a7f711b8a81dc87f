"""A user who is online: unread counts, and messages that the devices did not receive."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Registry, entry, message, open_log, session

from imsim.core import frames, internal_frames
from imsim.core.model import MessageType

BOTH = [("bob", "d0"), ("bob", "d1")]


@pytest.fixture
def two(registry):
    """Bob on two devices, alice on one; the log has one message."""
    for number, (user, device) in enumerate((("bob", "d0"), ("bob", "d1"), ("alice", "d0"))):
        registry.login(user, device, connection=number)
    registry.take()
    return registry


# --- unread and marks -------------------------------------------------------------------------------------------------


def test_unread_count_starts_from_the_stored_state(registry):
    one = registry.login("bob")
    registry.deliver(message(2))
    registry.deliver(message(3, sender="bob"), session("bob"))
    registry.deliver(message(4, type=MessageType.NOTIFICATION))
    assert registry.unread(one) == (0, 2)


def test_message_from_a_sync_counts_as_unread_and_can_be_read():
    """The message is stored, but no writer released it: the append was never answered, and the sender gave up."""
    registry = Registry()
    open_log(registry.storage)
    registry.login("bob", "d0")  # keeps bob open
    open_log(registry.storage, "alice")  # stored, and never delivered
    one = registry.login("bob", "d1", connection=2)
    registry.take()
    assert registry.unread(one) == (0, 1)
    registry.ask(one, frames.Read(AB, 1))
    registry.answer_all()
    assert registry.unread(one) == (1, 0)


def test_message_from_a_range_counts_as_unread(registry):
    """The message is stored, but no writer released it."""
    one = registry.login("bob")
    open_log(registry.storage, "alice")
    registry.ask(one, frames.History(AB, 2, 2))
    registry.answer()
    assert registry.machine._users["bob"].states[AB].view().unread == 2


# --- recalls ----------------------------------------------------------------------------------------------------------


def test_recalled_message_does_not_count_in_any_order_of_arrival(registry):
    bob = registry.login("bob")
    registry.deliver(message(2))
    registry.deliver(entry(3, "recall", seq=2))
    assert registry.unread(bob) == (0, 1)
    registry.deliver(message(2))  # again, or late
    assert registry.unread(bob) == (0, 1)
    registry.deliver(entry(4, "recall", seq=5))  # its message arrives later
    registry.deliver(message(5))
    assert registry.unread(bob) == (0, 1)


def test_page_from_before_a_recall_does_not_count_the_message_again(registry):
    bob = registry.login("bob")
    registry.ask(bob, frames.History(AB, 1, 1))
    request = registry.asked.popleft()
    result = registry.storage.execute(request)
    registry.deliver(entry(2, "recall", seq=1))
    registry.stored(request, result)
    assert registry.machine._users["bob"].states[AB].unread.count == 0


# --- messages that did not arrive -------------------------------------------------------------------------------------


def test_gap_in_the_delivered_seqs_makes_every_device_sync(two):
    two.deliver(message(2), users=("bob",))
    assert two.resynced() == []
    two.deliver(message(4), users=("bob",))
    assert [(type(frame), to.device) for to, frame in two.take()] == [
        *((frames.Resync, device) for device in ("d0", "d1")),
        *((frames.Push, device) for device in ("d0", "d1")),
    ]
    for seq in (3, 4, 5):  # late, again, the next
        two.deliver(message(seq), users=("bob",))
    assert two.resynced() == []
    two.deliver(message(7), users=("bob",))
    assert two.resynced() == BOTH


def test_first_message_of_a_new_conversation_causes_no_sync(two):
    """Its seq may be higher than 1, because a new member of a group does not see the earlier messages."""
    two.deliver(message(1, conversation_id=TEAM), users=("bob",))
    two.deliver(message(7, conversation_id="group:other"), users=("bob",))
    assert two.resynced() == []
    two.deliver(message(9, conversation_id="group:other"), users=("bob",))
    assert two.resynced() == BOTH


@pytest.mark.parametrize(("seq", "resynced"), [(1, []), (0, []), (2, BOTH), (9, BOTH)])
def test_writer_that_opens_a_longer_log_makes_every_device_sync(two, seq, resynced):
    two.receive(internal_frames.Opened(("bob", "carol"), AB, seq))
    assert two.resynced() == resynced
    two.receive(internal_frames.Opened(("bob", "carol"), AB, seq))
    assert two.resynced() == []
    two.deliver(message(max(seq, 1) + 1), users=("bob",))
    assert two.resynced() == []  # no gap, because the user knows the seqs before it
    assert set(two.machine._users) == {"alice", "bob"}


def test_user_who_is_being_opened_needs_no_resync(registry):
    registry.attach("bob")
    registry.receive(internal_frames.Opened(("bob",), AB, 5))
    assert registry.machine._users["bob"].states == {}
    registry.answer()
    assert [type(frame) for _, frame in registry.sent] == [internal_frames.Attached]
