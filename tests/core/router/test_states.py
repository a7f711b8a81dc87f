"""Conversation states: read marks and receipts are saved first, then reported."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Registry, done, failed, message, same, state, up

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Code
from imsim.core.policies import Policies


@pytest.fixture
def receipts(registry):
    """Bob online under `receipts = delivered`; the log has one message."""
    made = Registry(registry.storage, Policies(receipts="delivered"))
    made.bob = made.login("bob")
    made.take()
    return made


def delivered(registry, seq, conversation=AB, one=None):
    registry.ask(one or registry.bob, frames.Delivered(conversation, seq))


# --- unread and marks -------------------------------------------------------------------------------------------------


def test_read_mark_is_saved_and_then_sent_to_every_device(registry):
    one, other = registry.login("bob", "d0"), registry.login("bob", "d1", connection=2)
    registry.take()
    asked = up(one, frames.Read(AB, 1, 7))
    registry.receive(asked)
    assert same(registry.asked, storage.SaveState("bob", AB, 1, asked=asked))
    assert registry.sent == []
    registry.answer()
    sent = frames.State(state(1, 1))
    assert registry.take() == [(one, sent), (other, sent), (one, done(number=7))]


def test_device_gets_the_peers_read_mark(registry):
    one = registry.login("alice")
    registry.take()
    read = internal_frames.PeerMoved("alice", state(1, peer_read_seq=1))
    for _ in range(2):  # the second one reports nothing new
        registry.receive(read)
    registry.receive(internal_frames.PeerMoved("bob", state(1)))  # bob is offline
    assert registry.take() == [(one, frames.State(read.state))]
    assert set(registry.machine._users) == {"alice"}


def test_peers_read_mark_waits_while_the_user_is_being_opened(registry):
    registry.attach("alice")
    registry.receive(internal_frames.PeerMoved("alice", state(1, peer_read_seq=1)))
    registry.answer()
    assert [frame.state.peer_read_seq for _, frame in registry.take(frames.State)] == [1]


def test_repeated_request_reports_the_state_of_the_lost_answer(registry):
    one = registry.login("bob")
    registry.take()
    for asked in (frames.SetConversation(AB, pinned=True), frames.Read(AB, 1)):
        registry.ask(one, asked)
        registry.answer(result=lambda request: (registry.storage.execute(request), failed(request))[1])
        assert [type(frame) for _, frame in registry.take()] == [frames.Rejected]
        assert registry.sent_to_users == []
        registry.ask(one, asked)
        registry.answer()
        assert [type(frame) for _, frame in registry.take()] == [frames.State, frames.Done]
    assert [user for user, _ in registry.sent_to_users] == ["alice"]


def test_state_found_by_a_sync_is_sent_to_the_other_devices_too(registry):
    registry.login("bob", "d0")
    registry.storage.execute(storage.SaveState("bob", AB, 1))
    one = registry.login("bob", "d1", connection=2)
    registry.take()
    registry.ask(one, frames.Sync({AB: 1}, 0))
    registry.answer()
    sent = registry.take()
    assert [to.device for to, frame in sent if isinstance(frame, frames.State)] == ["d0", "d1"]
    assert sent[-1] == (one, frames.SyncDone([], {AB: 1}, [state(1, 1)], 1))


@pytest.mark.parametrize("seq", [0, -1])
def test_read_mark_that_does_not_move_is_not_saved(registry, seq):
    one = registry.login("bob")
    registry.take()
    registry.ask(one, frames.Read(AB, seq))
    assert not registry.asked
    assert registry.take() == [(one, done())]


def test_answers_out_of_order_never_move_a_mark_back(registry):
    one = registry.login("bob")
    registry.deliver(message(2))
    registry.take()
    for seq in (1, 2):
        registry.ask(one, frames.Read(AB, seq))
    registry.answer(1, lambda _: storage.StatesSaved((("bob", state(2, 2)),)))
    registry.answer(0, lambda _: storage.StatesSaved((("bob", state(1, 1)),)))
    assert registry.states() == [("bob", "d0", 2, 0)]


def test_read_of_an_unknown_conversation_is_refused(registry):
    one = registry.login("bob")
    registry.take()
    registry.ask(one, frames.Read(TEAM, 1))
    registry.answer()
    ((to, frame),) = registry.take()
    assert (to, frame.request, frame.ref, frame.code) == (one, "read", TEAM, Code.NO_CONVERSATION)


def test_delivered_mark_is_saved_and_sent_to_the_peer(receipts):
    delivered(receipts, 1)
    assert same(receipts.asked, storage.SaveState("bob", AB, delivered_seq=1))
    receipts.answer()
    assert receipts.sent_to_users == [("alice", internal_frames.PeerMoved("alice", state(1, peer_delivered_seq=1)))]
    assert receipts.sent == []  # nothing changed for bob, and no request waits for an answer


@pytest.mark.parametrize("id", ["group:none", "p2p:bob:carol", "nonsense"])
def test_delivered_mark_of_an_unknown_conversation_is_ignored(receipts, id):
    delivered(receipts, 1, id)
    assert not receipts.asked
    assert set(receipts.machine._users["bob"].states) == {AB}


def test_groups_have_no_delivered_receipts(receipts):
    receipts.deliver(message(1, conversation_id=TEAM))
    delivered(receipts, 1, TEAM)
    assert not receipts.asked


def test_receipt_that_was_not_saved_is_repeated(receipts):
    delivered(receipts, 1)
    receipts.answer(result=failed)
    assert (receipts.sent, receipts.sent_to_users) == ([], [])
    delivered(receipts, 1)
    assert not receipts.asked
    receipts.advance(receipts.policies.storage_timeout)
    receipts.answer()
    assert len(receipts.sent_to_users) == 1
    delivered(receipts, 1)
    assert not receipts.asked


def test_receipt_of_a_conversation_unknown_to_storage_reaches_nobody(receipts):
    delivered(receipts, 1)
    receipts.answer(result=lambda request: storage.StatesSaved())
    assert (receipts.sent, receipts.sent_to_users) == ([], [])


@pytest.mark.parametrize("result", [failed, None], ids=["failed", "saved"])
def test_receipt_of_a_user_who_went_offline_reaches_only_the_peer(receipts, result):
    delivered(receipts, 1)
    receipts.receive(internal_frames.Detach(receipts.bob))
    receipts.answer(result=result)
    assert (receipts.sent, len(receipts.sent_to_users)) == ([], 0 if result else 1)


def test_cursors_of_a_sync_are_receipts_too(receipts):
    receipts.ask(receipts.bob, frames.Sync({AB: 1, "group:none": 3}))
    assert [request.op for request in receipts.asked] == ["missed", "save_state"]
    receipts.answer_all()
    assert [user for user, _ in receipts.sent_to_users] == ["alice"]
