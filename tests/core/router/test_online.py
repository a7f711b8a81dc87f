"""A user who is online: unread counts, and messages that the devices have not heard of."""

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


def test_unread_goes_on_from_what_storage_knows(registry):
    one = registry.login("bob")
    registry.deliver(message(2))
    registry.deliver(message(3, sender="bob"), session("bob"))
    registry.deliver(message(4, type=MessageType.NOTIFICATION))
    assert registry.unread(one) == (0, 2)


def test_a_message_that_a_sync_delivered_can_be_read():
    """Stored, but let out by no writer: its append was never answered, and its sender gave up."""
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


def test_a_message_first_delivered_by_a_range_counts_as_unread(registry):
    """Stored, but let out by no writer: whoever pulled it has it unread."""
    one = registry.login("bob")
    open_log(registry.storage, "alice")
    registry.ask(one, frames.History(AB, 2, 2))
    registry.answer()
    assert registry.machine._users["bob"].states[AB].view().unread == 2


# --- recalls ----------------------------------------------------------------------------------------------------------


def test_a_recalled_message_no_longer_counts_in_whatever_order_they_come(registry):
    bob = registry.login("bob")
    registry.deliver(message(2))
    registry.deliver(entry(3, "recall", seq=2))
    assert registry.unread(bob) == (0, 1)
    registry.deliver(message(2))  # again, or late
    assert registry.unread(bob) == (0, 1)
    registry.deliver(entry(4, "recall", seq=5))  # what it is about comes later
    registry.deliver(message(5))
    assert registry.unread(bob) == (0, 1)


def test_a_page_from_before_a_recall_counts_nothing_again(registry):
    bob = registry.login("bob")
    registry.ask(bob, frames.History(AB, 1, 1))
    request = registry.asked.popleft()
    result = registry.storage.execute(request)
    registry.deliver(entry(2, "recall", seq=1))
    registry.stored(request, result)
    assert registry.machine._users["bob"].states[AB].unread.count == 0


# --- messages that were not heard of ----------------------------------------------------------------------------------


def test_a_jump_in_the_delivered_seqs_makes_every_device_sync(two):
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


def test_a_conversation_that_is_new_to_the_user_starts_at_nothing(two):
    """Or wherever: who is new in a group has nothing of what was before."""
    two.deliver(message(1, conversation_id=TEAM), users=("bob",))
    two.deliver(message(7, conversation_id="group:other"), users=("bob",))
    assert two.resynced() == []
    two.deliver(message(9, conversation_id="group:other"), users=("bob",))
    assert two.resynced() == BOTH


@pytest.mark.parametrize(("seq", "resynced"), [(1, []), (0, []), (2, BOTH), (9, BOTH)])
def test_a_writer_that_found_more_messages_makes_every_device_sync(two, seq, resynced):
    two.receive(internal_frames.Opened(("bob", "carol"), AB, seq))
    assert two.resynced() == resynced
    two.receive(internal_frames.Opened(("bob", "carol"), AB, seq))
    assert two.resynced() == []
    two.deliver(message(max(seq, 1) + 1), users=("bob",))
    assert two.resynced() == []  # no jump: it is known to have been there
    assert set(two.machine._users) == {"alice", "bob"}


def test_a_user_being_opened_needs_no_resync(registry):
    registry.attach("bob")
    registry.receive(internal_frames.Opened(("bob",), AB, 5))
    assert registry.machine._users["bob"].states == {}
    registry.answer()
    assert [type(frame) for _, frame in registry.sent] == [internal_frames.Attached]


# --- delivered receipts -----------------------------------------------------------------------------------------------
