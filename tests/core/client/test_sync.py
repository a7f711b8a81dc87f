"""The sync: after a login, on request of the server, page by page, and with another log of the server."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Phone, message, state

from imsim.core import events, frames
from imsim.core.client.connection import State
from imsim.core.model import Code, Route, Skipped


def syncing(**policies):
    """Return a client that has just logged in."""
    phone = Phone(**policies)
    phone.machine.start(0.0)
    phone.log_in()
    phone.collect()
    return phone


# --- the login sync ---------------------------------------------------------------------------------------------------


def test_client_answers_each_page_except_the_last_with_the_next_sync():
    phone = syncing()
    phone.page(message(1), message(2), inbox=7)
    assert phone.machine.state == State.SYNCING
    assert phone.sent() == [frames.Sync({AB: 2}, inbox=7, number=2)]
    phone.synced(message(3), version=4, inbox=9)
    assert phone.machine.state == State.ONLINE
    assert phone.shown == [1, 2, 3]
    assert {event.route for event in phone.of(events.Shown)} == {Route.SYNC}
    assert phone.sent() == []
    phone.machine.disconnected(0.0)
    phone.machine.start(0.0)
    phone.log_in()
    assert phone.sent(frames.Sync) == [frames.Sync({AB: 3}, 4, 9, 3)]


def test_an_unanswered_sync_is_repeated_with_the_same_number():
    phone = syncing()
    phone.advance(4.9)
    assert phone.sent() == []
    phone.advance(0.1)
    assert phone.sent() == [frames.Sync({}, number=1)]
    phone.advance(5)
    assert phone.sent() == [frames.Sync({}, number=1)]
    phone.synced()
    phone.advance(29)
    assert phone.sent(frames.Sync) == []


def test_a_lost_connection_ends_the_repetition_of_the_sync():
    phone = syncing(reconnect_min=20.0)
    phone.machine.disconnected(0.0)
    assert phone.machine.next_deadline() == 10.0
    phone.machine.stop(0.0)
    assert phone.machine.next_deadline() is None


@pytest.mark.parametrize("number", [1, 3], ids=["an older sync", "an unknown sync"])
@pytest.mark.parametrize("last", [False, True], ids=["page", "sync_done"])
def test_an_answer_to_another_sync_only_delivers_its_messages(number, last):
    """Otherwise, copies and late answers would multiply the pages, or end a sync before it has brought everything."""
    phone = syncing()
    phone.page()  # the client goes on with number 2
    phone.sent()
    if last:
        frame = frames.SyncDone([message(1)], {AB: 1}, [state(1, pinned=True)], 1, 50, number)
    else:
        frame = frames.Page([message(1)], {AB: 1}, 50, number)
    phone.get(frame)
    assert (phone.shown, phone.machine.state, phone.sent()) == ([1], State.SYNCING, [])
    phone.advance(5)
    assert phone.sent() == [
        frames.Sync({AB: 1}, 0, 0, 2, state_version=int(last))
    ]  # the inbox and the version of that answer do not count
    phone.synced(version=2)
    assert (phone.machine.state, phone.line().pinned) == (State.ONLINE, last)


@pytest.mark.parametrize("last", [False, True], ids=["page", "sync_done"])
def test_a_copy_of_the_last_page_does_not_start_another_sync(last):
    phone = syncing()
    phone.synced()
    number = phone.sync.number
    if last:
        phone.get(frames.SyncDone([message(1)], {AB: 1}, [], 9, 9, number))
    else:
        phone.get(frames.Page([message(1)], {AB: 1}, 9, number))
    assert (phone.shown, phone.machine.state) == ([1], State.ONLINE)
    assert phone.sent(frames.Sync) == []
    assert len(phone.of(events.Ready)) == 1
    phone.machine.disconnected(0.0)
    phone.machine.start(0.0)
    phone.log_in()
    assert phone.sent(frames.Sync) == [frames.Sync({AB: 1}, 0, 0, 2)]


def test_a_page_may_end_beyond_its_last_message(phone):
    """The seqs after the last message are not visible to the device. Messages held back behind them are shown."""
    phone.push(4, 6)
    phone.log_in_again()
    phone.get(frames.SyncDone([message(1)], {AB: 3}, [], 0, 0, phone.sync.number))
    assert phone.shown == [1, 4]
    assert phone.sent() == []


def test_messages_of_a_sync_are_acknowledged_only_under_delivered_receipts():
    for receipts, acknowledged in (("read", []), ("delivered", [frames.Delivered(AB, 2), frames.Delivered(TEAM, 1)])):
        phone = syncing(receipts=receipts)
        phone.page(message(1), message(2), message(1, conversation_id=TEAM))
        assert phone.sent(frames.Delivered) == acknowledged
        phone.synced(message(3))
        assert phone.sent(frames.Delivered) == ([frames.Delivered(AB, 3)] if acknowledged else [])


def test_a_login_sends_own_read_marks_and_takes_the_states_of_the_server():
    phone = Phone().online()
    phone.push(1, 2)
    phone.push(1, 2, conversation_id=TEAM)
    phone.machine.disconnected(0.0)
    phone.machine.read(AB, 0.0)
    phone.machine.start(0.0)
    phone.collect()
    phone.log_in()
    assert phone.sent(frames.Read) == [frames.Read(AB, 2, 1)]
    phone.synced(states=[state(1, 1, 1), state(2, 1, 1, TEAM)], version=2)
    assert phone.sent(frames.Read) == []
    assert (phone.line(AB).unread, phone.line(TEAM).unread) == (0, 1)


def test_a_sync_continues_from_the_version_of_the_last_sync():
    phone = Phone().online([state(3, muted=True), state(4, conversation=TEAM)], version=5)
    phone.get(frames.State(state(7)))  # version 6 may be lost, so the sync must still start from 5
    phone.machine.disconnected(0.0)
    phone.machine.start(0.0)
    phone.log_in()
    assert phone.sent(frames.Sync) == [frames.Sync({AB: 0, TEAM: 0}, 5, number=2, state_version=7)]


def test_a_sync_with_an_older_read_mark_is_answered_by_a_read(phone):
    phone.push(1)
    phone.send("1")
    phone.stored("1", 2)
    phone.log_in_again()
    phone.synced()
    assert phone.sent() == [frames.Read(AB, 1, 1)]


def test_a_rate_limited_sync_is_repeated_after_retry_after():
    phone = syncing()
    phone.get(frames.Rejected("sync", "", Code.RATE_LIMITED, "why", 0.5, phone.sync.number))
    phone.collect()
    phone.advance(0.4)
    assert phone.sent() == []
    phone.advance(0.2)
    assert [frame.number for frame in phone.sent(frames.Sync)] == [2]
    phone.get(frames.Rejected("sync", "", Code.RATE_LIMITED, "why", 0.5, 1))  # a late answer to the first
    phone.advance(1.0)
    assert phone.sent() == []


def test_a_sync_that_storage_cannot_answer_is_repeated():
    phone = syncing()
    phone.get(frames.Rejected("sync", "", Code.UNAVAILABLE, "why", 0.0, phone.sync.number))
    phone.collect()
    phone.advance(5.0)
    assert [frame.number for frame in phone.sent(frames.Sync)] == [1]
    assert phone.of(events.RequestFailed) == []


def test_a_finally_rejected_sync_is_reported_and_not_repeated():
    phone = syncing()
    phone.get(frames.Rejected("sync", "", Code.BAD_REQUEST, "why", 0.0, phone.sync.number))
    assert phone.of(events.RequestFailed) == [events.RequestFailed("sync", "", Code.BAD_REQUEST, "why")]
    phone.collect()
    phone.advance(20.0)
    assert phone.sent(frames.Sync) == []


@pytest.mark.parametrize("how", ["another log", "ahead"])
def test_another_log_resets_everything_except_pending_sends_and_settings(phone, how):
    phone.push(1, 3)  # with a gap
    phone.send("1")
    phone.machine.read(AB, 0.0)
    phone.machine.history(AB, 1, 1, 0.0)
    phone.machine.set_conversation(AB, 0.0, pinned=True)
    phone.machine.hide(AB, 0.0)
    if how == "ahead":
        phone.log_in_again()
        phone.get(frames.Rejected("sync", "", Code.AHEAD, "why", 0.0, phone.sync.number))
    else:
        phone.machine.disconnected(0.0)
        phone.machine.start(0.0)
        phone.machine.connected(0.0)
        phone.collect()
        phone.get(frames.LoggedIn("bob", "d0", 0, 75.0, "another"))
    assert phone.of(events.Reset) == [events.Reset()]
    failed = [(event.request, event.code) for event in phone.of(events.RequestFailed)]
    assert failed == [("read", Code.AHEAD), ("history", Code.AHEAD)]
    sync = phone.sync
    assert (sync.cursors, sync.version, sync.inbox, sync.state_version) == ({}, 0, 0, 0)
    phone.collect()
    phone.advance(10.0)
    again = phone.sent()
    assert [frame.shown for frame in again if isinstance(frame, frames.Send)] == [0]
    wanted = [frame for frame in again if isinstance(frame, frames.SetConversation)]
    assert {(frame.pinned, frame.hidden_seq) for frame in wanted} == {(True, None)}
    phone.synced(message(1, content="of the new log"))
    assert [event.message.content for event in phone.of(events.Shown)] == ["text 1", "of the new log"]


# --- resyncs ----------------------------------------------------------------------------------------------------------


def test_a_repeated_resync_causes_one_sync(phone):
    phone.get(frames.Resync(1))
    phone.get(frames.Resync(1))
    assert len(phone.sent(frames.Sync)) == 1
    phone.synced()
    phone.get(frames.Resync(1))
    assert (phone.machine.state, phone.sent(frames.Sync)) == (State.ONLINE, [])


def test_a_resync_during_a_sync_causes_another_sync_after_it(phone):
    """The sync under way may have read storage before the message was there."""
    phone.get(frames.Resync(1))
    phone.get(frames.Resync(2))
    assert [sync.resync for sync in phone.sent(frames.Sync)] == [1]
    phone.synced()
    assert phone.machine.state == State.SYNCING
    assert phone.sent(frames.Sync) == [frames.Sync({}, number=3, resync=2)]
    assert len(phone.of(events.Ready)) == 1
    phone.synced()
    assert phone.machine.state == State.ONLINE


def test_each_connection_counts_its_resyncs_from_one(phone):
    phone.get(frames.Resync(3))
    phone.get(frames.Resync(4))
    phone.log_in_again()
    assert phone.sync.resync == 0
    phone.synced()
    assert phone.machine.state == State.ONLINE  # the sync of the login is enough for the earlier resyncs
    phone.get(frames.Resync(1))
    assert [sync.resync for sync in phone.sent(frames.Sync)] == [1]


# --- a first sync that begins with the newest messages ----------------------------------------------------------------


def first_page(phone, *seqs, skipped, unread=(), end=0, last=True):
    """Have the client receive a page that leaves out the messages of AB up to `skipped`."""
    found = [Skipped(AB, skipped, [list(part) for part in unread])]
    messages, cursors, number = [message(seq) for seq in seqs], {AB: end or seqs[-1]}, phone.sync.number
    if last:
        phone.get(frames.SyncDone(messages, cursors, [], 0, 0, number, found))
    else:
        phone.get(frames.Page(messages, cursors, 0, number, skipped=found))


def test_first_sync_requests_the_newest_messages_of_conversations_without_a_cursor():
    phone = syncing(first_sync=2)
    assert phone.sync == frames.Sync(number=1, newest=2)
    first_page(phone, 9, skipped=8, last=False)
    assert phone.sync == frames.Sync({AB: 9}, number=2, newest=2)
    phone.synced(message(10))
    assert phone.shown == [9, 10]


def test_messages_that_a_first_sync_leaves_out_count_as_unread():
    phone = syncing(first_sync=2)
    first_page(phone, 8, 9, skipped=7, unread=[(2, 3), (6, 7)])
    assert (phone.shown, phone.line().unread) == ([8, 9], 6)
    assert phone.of(events.Skipped) == [events.Skipped(AB, 7, [[2, 3], [6, 7]])]
    phone.push(10)
    assert (phone.shown, phone.line().unread) == ([8, 9, 10], 7)
    assert phone.sent(frames.History) == []


def test_page_that_later_messages_have_overtaken_leaves_nothing_out():
    """The device has shown the first messages. A recall could be among the entries that the page leaves out."""
    phone = syncing(first_sync=2)
    phone.push(1, 2)
    first_page(phone, 8, 9, skipped=7, unread=[(1, 7)])
    assert (phone.shown, phone.line().unread, phone.of(events.Skipped)) == ([1, 2], 2, [])
    assert phone.sync == frames.Sync({AB: 2}, number=2, newest=2)
    phone.synced(*(message(seq) for seq in range(3, 10)))
    assert (phone.shown, phone.machine.state) == (list(range(1, 10)), State.ONLINE)
    assert phone.sent(frames.History) == []


@pytest.mark.parametrize(("skipped", "first"), [(150, 51), (40, 1)])
def test_page_leaves_out_fewer_messages_if_an_own_message_may_be_among_them(skipped, first):
    phone = syncing(first_sync=2)
    phone.machine.send("p2p", "alice", "hello", "1", 0.0)
    first_page(phone, skipped + 1, skipped + 2, skipped=skipped, unread=[(1, skipped)])
    assert [event.seq for event in phone.of(events.Skipped)] == ([first - 1] if first > 1 else [])
    assert phone.sync == frames.Sync({AB: first - 1}, number=2, newest=2)  # a cursor of 0 requests all messages
    phone.synced(*(message(seq) for seq in range(first, skipped + 3)))
    assert phone.shown == list(range(first, skipped + 3))
    assert phone.line().unread == skipped + 2
