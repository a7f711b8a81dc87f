"""The SDK's brain: its connection, its sends, its screen."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, message, place

from imsim.core import events, frames, outbox
from imsim.core.client import Client
from imsim.core.model import Code, Flow, Route, Scene, Status
from imsim.core.policies import Policies
from imsim.core.uplink import State
from imsim.testing import ManualClock, RecordingPort


class Phone:
    """Bob's client, with what it did."""

    def __init__(self, draw=lambda: 0.5, **policies):
        self.port = RecordingPort()
        self.machine = Client(self.port, "bob", "d0", "token", Policies(**policies), draw)
        self.clock = ManualClock()
        self.log = []  # every call of the port

    def collect(self):
        calls = self.port.take()
        self.log += calls
        return calls

    def online(self, places=(), version=0):
        """Connect, log in, sync; then forget what was done for it."""
        self.machine.start(self.clock.now)
        self.log_in()
        self.get(frames.Page([], {}, False))
        self.get(frames.SyncDone(list(places), version))
        assert self.machine.state == State.ONLINE
        self.collect()
        return self

    def log_in(self):
        self.machine.connected(self.clock.now)
        self.get(frames.LoggedIn("bob", "d0", 0, 75.0))

    def get(self, frame):
        self.machine.receive(frame, self.clock.now)

    def push(self, *seqs, **fields):
        for seq in seqs:
            self.get(frames.Push(message(seq, **fields)))

    def send(self, id_client, content="text", to="alice"):
        self.machine.send(Scene.P2P, to, content, id_client, self.clock.now)

    def stored(self, id_client, seq, conversation=AB):
        self.get(frames.Stored(id_client, conversation, f"{conversation}:{seq}", seq, 1_000 * seq))

    def rejected(self, ref, code, request="send"):
        self.get(frames.Rejected(request, ref, code, "why"))

    def advance(self, seconds):
        end = self.clock.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.clock.now = max(due, self.clock.now)
            self.machine.handle_timer(self.clock.now)
        self.clock.now = end

    def methods(self):
        return [method for method, _ in self.collect()]

    def sent(self, kind=None):
        found = [arguments[0] for method, arguments in self.collect() if method == "send"]
        return found if kind is None else [frame for frame in found if isinstance(frame, kind)]

    def sends(self):
        """(idClient, resend, after) of the sends since."""
        return [(frame.id_client, frame.resend, frame.after) for frame in self.sent(frames.Send)]

    def of(self, kind):
        """Every event of this kind, ever."""
        self.collect()
        return [arguments[0] for method, arguments in self.log if method == "emit" and type(arguments[0]) is kind]

    @property
    def shown(self):
        return [event.message.seq for event in self.of(events.Shown)]

    def line(self, id=AB):
        return {line.id: line for line in self.machine.conversations()}[id]


@pytest.fixture
def phone():
    return Phone().online()


# --- the connection -------------------------------------------------------------------------------------------------


def test_the_way_to_online():
    phone = Phone()
    assert phone.machine.state == State.OFFLINE
    phone.machine.start(0.0)
    assert (phone.machine.state, phone.methods()) == (State.CONNECTING, ["connect"])
    phone.machine.connected(0.0)
    assert (phone.machine.state, phone.sent()) == (State.LOGGING_IN, [frames.Login("token", "d0")])
    phone.get(frames.LoggedIn("bob", "d0", 0, 75.0))
    assert (phone.machine.state, phone.sent()) == (State.SYNCING, [frames.Sync({})])
    phone.get(frames.Page([], {}, False))
    phone.get(frames.SyncDone([], 0))
    assert phone.machine.state == State.ONLINE
    assert phone.of(events.Ready) == [events.Ready()]


def test_to_start_twice_is_to_start_once():
    phone = Phone()
    phone.machine.start(0.0)
    phone.machine.start(0.0)
    assert phone.methods() == ["connect"]


def test_a_connection_that_opens_when_it_is_not_awaited_is_ignored(phone):
    phone.machine.connected(0.0)
    assert (phone.machine.state, phone.methods()) == (State.ONLINE, [])


@pytest.mark.parametrize("stage", ["connecting", "logging_in"])
def test_a_login_that_takes_too_long_is_given_up_and_tried_again(stage):
    phone = Phone()
    phone.machine.start(0.0)
    if stage == "logging_in":
        phone.machine.connected(0.0)
    phone.collect()
    phone.advance(10)
    assert phone.machine.state == State.OFFLINE
    assert phone.methods()[0] == "close"
    assert phone.of(events.Disconnected) == [events.Disconnected(Code.LOGIN_TIMEOUT)]
    phone.advance(0.25)
    assert phone.machine.state == State.CONNECTING


def test_reconnects_wait_a_uniform_share_of_an_exponentially_growing_time():
    draws = iter([0.5, 0.5, 0.5, 0.25, 0.0, 1.0, 0.5, 0.5])
    phone = Phone(draw=lambda: next(draws))
    phone.machine.start(0.0)
    waits = []
    for _ in range(8):
        phone.machine.disconnected(phone.clock.now)
        assert phone.machine.state == State.OFFLINE
        wait = phone.machine.next_deadline() - phone.clock.now
        waits.append(wait)
        phone.advance(wait)
        assert phone.machine.state == State.CONNECTING
    # the ceilings: 0.5, 1, 2, 4, 8, 16, then 30 for good
    assert waits == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.0, 16.0, 15.0, 15.0])


def test_the_wait_is_bounded_after_any_number_of_failures():
    phone = Phone(draw=lambda: 1.0)
    phone.machine.start(0.0)
    for _ in range(2_000):
        phone.machine.disconnected(phone.clock.now)
        phone.advance(30)
    assert phone.machine.state == State.CONNECTING


def test_a_login_makes_the_next_wait_short_again():
    phone = Phone(draw=lambda: 1.0)
    phone.machine.start(0.0)
    for _ in range(5):
        phone.machine.disconnected(phone.clock.now)
        phone.advance(30)
    phone.log_in()
    phone.machine.disconnected(phone.clock.now)
    assert phone.machine.next_deadline() - phone.clock.now == 0.5


def test_a_lost_connection_is_told_and_lost_once(phone):
    phone.machine.disconnected(0.0)
    phone.machine.disconnected(0.0)
    assert phone.of(events.Disconnected) == [events.Disconnected(None)]


def test_a_refusal_that_allows_it_leads_to_a_reconnect(phone):
    phone.get(frames.Refused(Code.GOING_AWAY, True))
    assert phone.machine.state == State.OFFLINE
    assert phone.methods()[0] == "close"
    assert phone.of(events.Disconnected) == [events.Disconnected(Code.GOING_AWAY)]
    phone.advance(1)
    assert phone.machine.state == State.CONNECTING


def test_a_refusal_for_good_is_an_end(phone):
    phone.send("1")
    phone.get(frames.Refused(Code.REPLACED, False, "elsewhere"))
    assert phone.methods()[-2:] == ["close", "emit"]
    assert phone.of(events.Ended) == [events.Ended(Code.REPLACED, "elsewhere")]
    phone.machine.disconnected(0.0)
    assert phone.machine.state == State.ENDED
    assert phone.machine.next_deadline() is None


def test_to_stop_is_an_end_until_the_next_start(phone):
    phone.send("1")
    phone.collect()
    phone.machine.stop(0.0)
    phone.machine.disconnected(0.0)
    assert phone.methods() == ["close"]
    assert (phone.machine.state, phone.machine.next_deadline()) == (State.ENDED, None)
    phone.machine.start(0.0)
    phone.log_in()
    assert phone.sends() == [("1", True, None)]


def test_to_stop_while_waiting_to_reconnect_is_an_end(phone):
    phone.machine.disconnected(0.0)
    phone.machine.stop(0.0)
    assert phone.machine.next_deadline() is None


def test_to_start_while_waiting_to_reconnect_does_not_wait(phone):
    phone.machine.disconnected(0.0)
    phone.collect()
    phone.machine.start(0.0)
    assert phone.methods() == ["connect"]
    phone.machine.connected(0.0)
    phone.collect()
    phone.advance(5)
    assert phone.methods() == []  # the wait is not armed any more


# --- heartbeats -----------------------------------------------------------------------------------------------------


def test_an_idle_connection_is_kept_by_pings(phone):
    for _ in range(10):
        phone.advance(30)
        phone.get(frames.Pong())
    pings = phone.sent(frames.Ping)
    assert len(pings) == 10
    assert phone.machine.state == State.ONLINE


def test_who_sends_needs_no_pings(phone):
    for number in range(12):
        phone.advance(10)
        phone.send(str(number))
        phone.stored(str(number), number + 1)
    assert phone.sent(frames.Ping) == []


def test_a_silent_server_is_left(phone):
    phone.advance(89)
    assert phone.machine.state == State.ONLINE
    phone.advance(1.5)  # the first beat after 75 s of silence, and a little of the wait
    assert phone.of(events.Disconnected) == [events.Disconnected(Code.HEARTBEAT)]
    assert "close" in [method for method, _ in phone.log]


# --- the login sync -------------------------------------------------------------------------------------------------


def test_a_sync_starts_from_what_is_known(phone):
    phone.push(1, 2)
    phone.push(1, conversation_id=TEAM)
    phone.machine.disconnected(0.0)
    phone.machine.start(0.0)
    phone.log_in()
    assert phone.sent(frames.Sync) == [frames.Sync({AB: 2, TEAM: 1})]


def test_pages_are_asked_for_until_there_are_no_more():
    phone = Phone()
    phone.machine.start(0.0)
    phone.log_in()
    phone.get(frames.Page([message(1), message(2)], {AB: 2}, True))
    assert phone.sent(frames.Sync) == [frames.Sync({}), frames.Sync({AB: 2})]
    phone.get(frames.Page([message(3)], {AB: 3}, False))
    assert phone.machine.state == State.SYNCING
    phone.get(frames.SyncDone([], 0))
    assert phone.machine.state == State.ONLINE
    assert phone.shown == [1, 2, 3]
    assert {event.route for event in phone.of(events.Shown)} == {Route.SYNC}
    assert phone.sent(frames.Delivered) == []


def test_a_sync_without_an_answer_is_repeated():
    phone = Phone()
    phone.machine.start(0.0)
    phone.log_in()
    phone.collect()
    phone.advance(11)
    assert phone.sent(frames.Sync) == [frames.Sync({}), frames.Sync({})]


def test_the_answer_to_a_repeated_sync_changes_nothing():
    phone = Phone().online()
    phone.get(frames.Page([message(1)], {AB: 1}, False))
    phone.get(frames.SyncDone([place(1, 1)], 1))
    assert len(phone.of(events.Ready)) == 1
    assert phone.line().read_seq == 0


def test_a_late_page_of_an_old_sync_does_not_start_another(phone):
    """It used to take the heartbeat's place, and to repeat itself for ever."""
    phone.get(frames.Page([message(1)], {AB: 1}, True))
    assert phone.shown == [1]
    phone.advance(89)
    assert phone.sent(frames.Sync) == []
    phone.advance(1.5)
    assert phone.of(events.Disconnected) == [events.Disconnected(Code.HEARTBEAT)]


def test_a_silent_server_is_left_during_the_sync_as_well():
    phone = Phone()
    phone.machine.start(0.0)
    phone.log_in()
    phone.advance(74.9)
    assert phone.machine.state == State.SYNCING
    phone.advance(0.2)
    assert phone.of(events.Disconnected) == [events.Disconnected(Code.HEARTBEAT)]


def test_a_server_that_answers_pings_is_given_time_for_the_sync():
    phone = Phone()
    phone.machine.start(0.0)
    phone.log_in()
    for _ in range(30):
        phone.advance(5)
        if phone.sent(frames.Ping):
            phone.get(frames.Pong())
    assert phone.machine.state == State.SYNCING


def test_a_push_during_the_sync_is_shown_once_and_in_order():
    phone = Phone()
    phone.machine.start(0.0)
    phone.log_in()
    phone.push(3)
    phone.get(frames.Page([message(1), message(2), message(3)], {AB: 3}, False))
    phone.get(frames.SyncDone([], 0))
    assert phone.shown == [1, 2, 3]


def test_places_of_the_server_are_taken_over_and_own_reading_told():
    phone = Phone().online()
    phone.push(1, 2)
    phone.push(1, 2, conversation_id=TEAM)
    phone.machine.disconnected(0.0)
    phone.machine.read(AB, 0.0)
    phone.machine.start(0.0)
    phone.collect()
    phone.log_in()
    assert phone.sent(frames.Read) == [frames.Read(AB, 2, 1)]
    phone.get(frames.Page([], {}, False))
    phone.get(frames.SyncDone([place(1, 1, 1), place(2, 1, 1, TEAM)], 2))
    assert phone.sent(frames.Read) == []
    assert (phone.line(AB).unread, phone.line(TEAM).unread) == (0, 1)


# --- sending --------------------------------------------------------------------------------------------------------


def test_a_send_is_answered_once(phone):
    phone.send("1", "hello")
    (frame,) = phone.sent(frames.Send)
    assert frame == frames.Send("1", Scene.P2P, "alice", "hello")
    assert phone.machine.status("1") == Status.SENDING
    for _ in range(2):
        phone.stored("1", 1)
    assert phone.of(events.Acked) == [events.Acked("1", AB, 1)]
    assert phone.machine.status("1") == Status.SUCCESS
    phone.advance(29)
    assert phone.sent() == []


def test_a_send_carries_what_its_device_had_shown(phone):
    phone.push(1, 2)
    phone.push(4)
    phone.collect()
    phone.send("1")
    assert phone.sent(frames.Send)[0].shown == 2


def test_an_unanswered_send_is_repeated_and_then_failed(phone):
    phone.send("1")
    assert phone.sends() == [("1", False, None)]
    for _ in range(3):
        phone.advance(4.9)
        assert phone.sends() == []
        phone.advance(0.1)
        assert phone.sends() == [("1", True, None)]
    phone.advance(5)
    assert phone.sends() == []
    assert phone.machine.status("1") == Status.FAIL
    assert [(event.id_client, event.code) for event in phone.of(events.SendFailed)] == [("1", Code.TIMEOUT)]
    assert [event.attempt for event in phone.of(events.Sent)] == [1, 2, 3, 4]


def test_a_failed_send_that_proves_stored_is_corrected(phone):
    phone.send("1")
    phone.advance(20)
    phone.stored("1", 1)
    assert phone.machine.status("1") == Status.SUCCESS
    assert phone.of(events.Acked) == [events.Acked("1", AB, 1)]
    phone.push(1, sender="bob", id_client="1")
    assert phone.shown == []


def test_a_failed_send_that_is_corrected_counts_like_any_other(phone):
    phone.push(1)
    phone.send("1", "mine")
    phone.advance(20)
    phone.stored("1", 2)
    assert (phone.line().last_msg.seq, phone.line().last_msg.content) == (2, "mine")
    assert (phone.line().read_seq, phone.line().unread) == (1, 0)


def test_a_failed_send_that_comes_with_a_sync_is_corrected(phone):
    phone.push(1)
    phone.send("1")
    phone.advance(20)
    assert phone.machine.status("1") == Status.FAIL
    phone.get(frames.Page([message(2, sender="bob", id_client="1", content="text")], {AB: 2}, False))
    assert phone.machine.status("1") == Status.SUCCESS
    assert phone.of(events.Acked) == [events.Acked("1", AB, 2)]
    assert phone.shown == [1]  # the other has been on this screen all the time
    assert phone.line().unread == 0


@pytest.mark.parametrize("state", ["unanswered", "failed"])
def test_the_same_id_client_in_another_conversation_is_another_message(phone, state):
    """Another device of this user may count its messages in the same way."""
    phone.send("1")
    if state == "failed":
        phone.advance(20)
    status = phone.machine.status("1")
    phone.push(1, conversation_id="p2p:bob:carol", sender="bob", to="carol", id_client="1")
    assert phone.machine.status("1") == status != Status.SUCCESS
    assert phone.shown == [1]


def test_a_failed_send_may_be_sent_again_by_hand(phone):
    phone.send("1")
    phone.advance(20)
    phone.collect()
    phone.send("1")
    assert phone.machine.status("1") == Status.SENDING
    assert phone.sends() == [("1", True, None)]


@pytest.mark.parametrize("code", [Code.NOT_MEMBER, Code.CONFLICT, Code.TOO_LARGE, Code.BAD_REQUEST])
def test_a_rejection_for_good_fails_at_once(phone, code):
    phone.send("1")
    phone.collect()
    phone.rejected("1", code)
    assert phone.of(events.SendFailed) == [events.SendFailed("1", code, "why")]
    phone.advance(20)
    assert phone.sends() == []


def test_an_overloaded_server_is_asked_again_a_little_later(phone):
    phone.send("1")
    phone.collect()
    phone.rejected("1", Code.UNAVAILABLE)
    assert phone.machine.status("1") == Status.SENDING
    assert phone.sends() == []
    phone.advance(5)
    assert phone.sends() == [("1", True, None)]


def test_each_send_names_its_unanswered_predecessor_of_the_conversation(phone):
    phone.send("1")
    phone.send("x", to="carol")
    phone.send("2")
    phone.send("3")
    phone.stored("2", 1)
    phone.send("4")
    assert phone.sends() == [
        ("1", False, None),
        ("x", False, None),
        ("2", False, "1"),
        ("3", False, "2"),
        ("4", False, "3"),
    ]


def test_what_was_refused_as_a_gap_waits_for_its_predecessor(phone):
    for number in ("1", "2", "3"):
        phone.send(number)
    phone.rejected("2", Code.GAP)
    phone.rejected("3", Code.GAP)
    phone.collect()
    phone.stored("1", 1)
    assert phone.sends() == [("2", True, None), ("3", True, "2")]
    phone.stored("2", 2)
    assert phone.sends() == []  # the third is on its way already


def test_what_waited_for_a_predecessor_goes_when_that_has_failed(phone):
    phone.send("1")
    phone.send("2")
    phone.rejected("2", Code.GAP)
    phone.collect()
    phone.rejected("1", Code.TOO_LARGE)
    assert phone.sends() == [("2", True, None)]


def test_a_gap_whose_predecessor_is_gone_already_goes_again_at_once(phone):
    phone.send("1")
    phone.send("2")
    phone.rejected("1", Code.TOO_LARGE)
    phone.collect()
    phone.rejected("2", Code.GAP)
    assert phone.sends() == [("2", True, None)]


def test_what_waited_for_a_predecessor_goes_when_that_has_timed_out():
    phone = Phone(send_attempts=2).online()
    phone.send("1")
    phone.machine.disconnected(0.0)
    phone.advance(0.25)
    phone.log_in()  # its second and last attempt
    phone.advance(1)
    phone.send("2")
    phone.rejected("2", Code.GAP)
    phone.collect()
    phone.advance(4)
    assert phone.machine.status("1") == Status.FAIL
    assert phone.sends() == [("2", True, None)]


def test_sends_in_other_states_wait_for_the_login(phone):
    phone.machine.disconnected(0.0)
    phone.send("1")
    phone.send("2")
    phone.advance(0.25)
    assert phone.sends() == []
    phone.log_in()
    assert phone.sends() == [("1", False, None), ("2", False, "1")]


def test_a_login_sends_the_unanswered_again_in_their_order(phone):
    for number in ("1", "2"):
        phone.send(number)
    phone.machine.disconnected(0.0)
    phone.advance(0.25)
    phone.collect()
    phone.log_in()
    assert phone.sends() == [("1", True, None), ("2", True, "1")]


def test_a_lost_connection_stops_the_clocks_of_its_sends(phone):
    phone.send("1")
    phone.machine.disconnected(0.0)
    phone.collect()
    phone.advance(9)  # within the time that the next connection may take
    assert phone.sends() == []


def test_logins_count_as_attempts():
    phone = Phone(send_attempts=2).online()
    phone.send("1")
    for _ in range(2):
        phone.machine.disconnected(phone.clock.now)
        phone.advance(0.25)
        phone.log_in()
    assert phone.machine.status("1") == Status.FAIL


def test_sends_without_an_answer_are_bounded(phone, monkeypatch):
    monkeypatch.setattr(outbox, "_OUTGOING", 3)
    for number in range(4):
        phone.send(str(number))
    assert [(event.id_client, event.code) for event in phone.of(events.SendFailed)] == [("3", Code.UNAVAILABLE)]
    phone.stored("0", 1)
    phone.send("4")
    assert phone.machine.status("4") == Status.SENDING


def test_failures_remembered_are_bounded(phone, monkeypatch):
    monkeypatch.setattr(outbox, "_FAILED", 2)
    for number in ("1", "2", "3"):
        phone.send(number)
        phone.rejected(number, Code.TOO_LARGE)
    assert len(phone.machine._outbox._failed) == 2


def test_received_is_reported_and_no_answer(phone):
    phone.send("1")
    phone.get(frames.Received("1"))
    assert phone.of(events.Received) == [events.Received("1")]
    assert phone.machine.status("1") == Status.SENDING


def test_an_own_message_whose_answer_was_lost_comes_with_the_sync():
    phone = Phone().online()
    phone.send("1", "hello")
    phone.machine.disconnected(0.0)
    phone.advance(0.25)
    phone.log_in()
    phone.get(frames.Page([message(1, sender="bob", id_client="1", content="hello")], {AB: 1}, False))
    assert phone.of(events.Acked) == [events.Acked("1", AB, 1)]
    assert phone.shown == []
    phone.collect()
    phone.advance(20)
    assert phone.sends() == []


# --- receiving ------------------------------------------------------------------------------------------------------


def test_a_push_is_shown_and_acknowledged(phone):
    phone.push(1)
    assert phone.sent() == [frames.Delivered(AB, 1)]
    assert phone.of(events.Shown) == [events.Shown(message(1), Flow.IN, Route.PUSH)]


def test_a_repeated_push_is_acknowledged_again_and_not_shown(phone):
    phone.push(1, 1)
    assert phone.sent() == [frames.Delivered(AB, 1)] * 2
    assert phone.shown == [1]
    assert len(phone.of(events.Repeated)) == 1


def test_what_is_ahead_is_not_acknowledged_before_it_is_shown(phone):
    phone.push(2)
    assert phone.sent() == [frames.Delivered(AB, 0)]
    assert phone.shown == []
    phone.push(1)
    assert phone.sent() == [frames.Delivered(AB, 2)]
    assert phone.shown == [1, 2]


def test_a_gap_that_nobody_fills_is_passed_and_may_be_filled_later(phone):
    phone.push(3)
    phone.advance(2.9)
    assert phone.shown == []
    phone.collect()
    phone.advance(0.1)
    assert phone.shown == [3]
    phone.push(4)
    phone.push(2)
    assert phone.shown == [3, 4, 2]
    phone.machine.disconnected(phone.clock.now)
    phone.advance(0.25)
    phone.log_in()
    assert phone.sent(frames.Sync) == [frames.Sync({AB: 0})]


def test_a_passed_gap_acknowledges_what_is_shown_behind_it(phone):
    phone.push(3)
    phone.collect()
    phone.advance(3)
    assert phone.sent() == [frames.Delivered(AB, 3)]


def test_no_message_is_held_back_longer_than_the_wait_however_many_gaps_there_are(phone):
    phone.push(2, 4)
    phone.advance(1)
    phone.push(6)
    phone.advance(2)
    assert phone.shown == [2, 4]
    phone.advance(1)
    assert phone.shown == [2, 4, 6]


def test_each_gap_is_waited_for_in_full(phone):
    phone.push(2)
    phone.advance(2.9)
    phone.push(4)
    phone.push(1)
    phone.advance(2.9)
    assert phone.shown == [1, 2]
    phone.advance(0.2)
    assert phone.shown == [1, 2, 4]


def test_a_gap_that_is_filled_in_time_needs_no_passing(phone):
    phone.push(2, 1)
    phone.push(4)
    phone.advance(0.1)
    phone.push(3)
    deadline = phone.machine.next_deadline()
    phone.advance(29)
    assert phone.shown == [1, 2, 3, 4]
    assert deadline == 30.0  # the heartbeat's


def test_no_gap_is_passed_while_a_sync_may_fill_it(phone):
    phone.push(2)
    phone.machine.disconnected(0.0)
    phone.advance(5)
    assert phone.shown == []
    phone.log_in()
    phone.get(frames.Page([message(1), message(2)], {AB: 2}, False))
    phone.get(frames.SyncDone([], 0))
    assert phone.shown == [1, 2]


def test_a_gap_that_the_sync_did_not_fill_is_passed_in_the_end(phone):
    phone.push(2)
    phone.machine.disconnected(0.0)
    phone.advance(0.25)
    phone.log_in()
    phone.get(frames.Page([], {AB: 0}, False))
    phone.get(frames.SyncDone([], 0))
    phone.advance(2.7)
    assert phone.shown == []
    phone.advance(0.1)
    assert phone.shown == [2]


def test_a_gap_keeps_no_stopped_client_awake(phone):
    phone.push(2)
    phone.machine.stop(0.0)
    assert phone.machine.next_deadline() is None


def test_an_own_message_of_another_device_flows_out(phone):
    phone.push(1, sender="bob", to="alice")
    assert phone.of(events.Shown)[0].flow == Flow.OUT
    assert phone.line().unread == 0


def test_an_own_send_fills_its_place_among_the_others(phone):
    phone.send("1")
    phone.push(2)
    phone.stored("1", 1)
    assert phone.shown == [2]
    phone.push(3)
    phone.collect()
    assert phone.shown == [2, 3]


# --- the conversation list ------------------------------------------------------------------------------------------


def test_the_list_has_the_latest_first_and_names_the_other_side(phone):
    phone.push(1, time=5)
    phone.push(1, conversation_id=TEAM, time=9, scene=Scene.GROUP)
    phone.push(1, conversation_id="p2p:bob:carol", time=7, sender="carol")
    lines = phone.machine.conversations()
    assert [(line.scene, line.to, line.update_time) for line in lines] == [
        (Scene.GROUP, "team", 9),
        (Scene.P2P, "carol", 7),
        (Scene.P2P, "alice", 5),
    ]


def test_notes_to_oneself_name_oneself(phone):
    phone.send("1", to="bob")
    phone.stored("1", 1, "p2p:bob:bob")
    assert phone.line("p2p:bob:bob").to == "bob"


def test_a_conversation_in_which_nothing_happened_is_not_listed():
    phone = Phone().online([place(0, conversation=TEAM)])
    phone.send("1")
    assert phone.machine.conversations() == []


def test_the_last_message_is_that_of_the_highest_seq(phone):
    phone.push(3)
    phone.advance(3)
    phone.push(1)
    assert phone.line().last_msg.seq == 3
    phone.send("1", "mine")
    assert phone.line().last_msg.seq == 3
    phone.stored("1", 4)
    last = phone.line().last_msg
    assert (last.seq, last.content, last.sender, last.to, last.time) == (4, "mine", "bob", "alice", 4_000)


def test_a_late_answer_does_not_become_the_last_message(phone):
    phone.send("1")
    phone.push(2)
    phone.advance(3)
    phone.stored("1", 1)
    assert phone.line().last_msg.seq == 2


def test_unread_counts_what_others_sent_and_reading_clears_it(phone):
    phone.push(1, 2)
    phone.push(3, type="notification")
    phone.push(4, sender="bob")
    phone.collect()
    assert phone.line().unread == 2
    phone.machine.read(AB, 0.0)
    assert phone.line().unread == 0
    assert phone.sent() == [frames.Read(AB, 4, 1)]
    assert phone.of(events.ReadMoved) == [events.ReadMoved(AB, 4, 0)]
    phone.machine.read(AB, 0.0)
    assert phone.sent() == []


def test_what_waits_behind_a_gap_is_neither_counted_nor_read(phone):
    phone.push(1, 3)
    assert phone.line().unread == 1
    phone.machine.read(AB, 0.0)
    assert phone.line().read_seq == 1
    phone.push(2)
    assert phone.line().unread == 2


def test_to_read_what_is_not_there_does_nothing(phone):
    phone.machine.read(TEAM, 0.0)
    assert phone.methods() == []


def test_reading_elsewhere_clears_here_and_never_backwards(phone):
    phone.push(1, 2, 3)
    phone.get(frames.Placed(place(2, 2, 1)))
    phone.get(frames.Placed(place(1, 1, 2)))
    assert (phone.line().read_seq, phone.line().unread) == (2, 1)
    assert phone.of(events.ReadMoved) == [events.ReadMoved(AB, 2, 1)]


def test_a_stored_send_reads_what_had_been_shown_when_it_was_sent(phone):
    phone.push(1)
    phone.send("1")
    phone.push(2)
    assert phone.line().unread == 2
    phone.stored("1", 3)
    assert (phone.line().read_seq, phone.line().unread) == (1, 1)


def test_what_is_read_offline_is_told_by_the_next_login_only(phone):
    phone.push(1)
    phone.machine.disconnected(0.0)
    phone.collect()
    phone.machine.read(AB, 0.0)
    assert phone.sent() == []
    assert phone.line().unread == 0


# --- groups ---------------------------------------------------------------------------------------------------------


def test_making_a_group_is_answered(phone):
    phone.machine.create_group("team", ["alice"], 0.0)
    assert phone.sent() == [frames.CreateGroup("team", ["alice"])]
    phone.get(frames.GroupCreated("team", TEAM))
    phone.machine.create_group("team", ["carol"], 0.0)
    phone.rejected("team", Code.CONFLICT, "create_group")
    assert phone.of(events.GroupMade) == [events.GroupMade("team", TEAM)]
    assert phone.of(events.RequestFailed) == [events.RequestFailed("create_group", "team", Code.CONFLICT, "why")]


def test_a_rejected_group_is_not_taken_for_a_send_of_the_same_name(phone):
    phone.send("team")
    phone.machine.create_group("team", ["alice"], 0.0)
    phone.rejected("team", Code.CONFLICT, "create_group")
    assert phone.machine.status("team") == Status.SENDING


def test_a_rejection_of_a_send_that_has_failed_already_is_no_request(phone):
    phone.send("1")
    phone.rejected("1", Code.TOO_LARGE)
    phone.rejected("1", Code.TOO_LARGE)
    assert phone.of(events.RequestFailed) == []
    assert len(phone.of(events.SendFailed)) == 1


def test_a_resync_fetches_what_was_missed(phone):
    phone.collect()
    phone.get(frames.Resync())
    assert phone.machine.state == State.SYNCING
    assert len(phone.sent(frames.Sync)) == 1
    phone.get(frames.Page([message(1)], {AB: 1}, False))
    phone.get(frames.SyncDone([], 0))
    assert (phone.machine.state, phone.shown) == (State.ONLINE, [1])


def test_a_resync_during_a_sync_is_done_after_it(phone):
    """The sync under way may have read before the message was there."""
    phone.get(frames.Resync())
    phone.get(frames.Resync())
    phone.collect()
    phone.get(frames.SyncDone([], 0))
    assert (phone.machine.state, len(phone.sent(frames.Sync))) == (State.SYNCING, 1)
    phone.get(frames.SyncDone([], 0))
    assert phone.machine.state == State.ONLINE


def test_a_rate_limit_costs_no_attempt(phone):
    phone.send("1")
    for _ in range(10):
        phone.get(frames.Rejected("send", "1", Code.RATE_LIMITED, "", 1.5))
        phone.advance(1.4)
        assert phone.machine.status("1") == Status.SENDING
        phone.collect()
        phone.advance(0.2)
        assert phone.sends() == [("1", False, None)]  # nobody has it: no resend


# --- places ---------------------------------------------------------------------------------------------------------


def test_a_place_is_noted_whether_it_is_news_or_not(phone):
    phone.push(1)
    phone.collect()
    for version in (3, 3, 2):
        phone.get(frames.Placed(place(version, pinned=version == 3)))
    assert phone.sent() == [frames.Noted(AB, 3), frames.Noted(AB, 3), frames.Noted(AB, 2)]
    assert phone.line().pinned
    assert phone.of(events.PlaceChanged) == [events.PlaceChanged(AB, True, False, 0, "")]


def test_a_sync_goes_on_from_the_version_of_the_last_one(phone):
    phone = Phone().online([place(3, muted=True), place(4, conversation=TEAM)], version=5)
    phone.get(frames.Placed(place(7)))  # the one before may be lost: no safe point
    phone.machine.disconnected(0.0)
    phone.machine.start(0.0)
    phone.log_in()
    assert phone.sent(frames.Sync) == [frames.Sync({AB: 0, TEAM: 0}, 5)]


def test_the_pinned_come_first_each_kind_by_its_latest(phone):
    for number, user in enumerate(("p", "q", "r", "s"), 1):
        phone.push(1, conversation_id=f"p2p:bob:{user}", sender=user, time=number)
    for version, user in enumerate(("p", "r"), 1):
        phone.get(frames.Placed(place(version, conversation=f"p2p:bob:{user}", pinned=True)))
    assert [line.to for line in phone.machine.conversations()] == ["r", "p", "s", "q"]


def test_what_the_user_sets_shows_until_the_servers_answer_and_then_what_the_server_says(phone):
    phone.push(1)
    phone.collect()
    phone.machine.set_conversation(AB, 0.0, pinned=True, custom="x")
    assert phone.sent() == [frames.SetConversation(AB, True, None, None, "x", 1)]
    assert (phone.line().pinned, phone.line().custom) == (True, "x")
    phone.get(frames.Placed(place(1, muted=True)))  # another device's
    assert (phone.line().pinned, phone.line().muted, phone.line().custom) == (True, True, "x")
    phone.get(frames.Rejected("set_conversation", AB, Code.TOO_LARGE, "why", number=1))
    assert (phone.line().pinned, phone.line().muted, phone.line().custom) == (False, True, "")
    assert [(event.pinned, event.muted) for event in phone.of(events.PlaceChanged)] == [
        (True, False),
        (True, True),
        (False, True),
    ]
    assert phone.of(events.RequestFailed) == [events.RequestFailed("set_conversation", AB, Code.TOO_LARGE, "why")]


def test_a_refusal_that_may_pass_is_no_failure(phone):
    phone.push(1)
    phone.machine.read(AB, 0.0)
    phone.get(frames.Rejected("read", AB, Code.UNAVAILABLE, "", number=1))
    phone.collect()
    phone.advance(5)
    assert phone.sent(frames.Read) == [frames.Read(AB, 1, 1)]
    assert phone.of(events.RequestFailed) == []
    phone.get(frames.Done("read", AB, 1))
    phone.get(frames.Rejected("read", AB, Code.NO_CONVERSATION, "", number=1))  # to the repetition
    assert phone.of(events.RequestFailed) == []
    assert len(phone.of(events.RequestDone)) == 1


def test_to_hide_deletes_from_the_list_and_reads_what_was_shown(phone):
    phone.push(1, 2)
    phone.push(4)
    phone.collect()
    phone.machine.hide(AB, 0.0)
    assert phone.machine.conversations() == []
    assert phone.sent() == [frames.SetConversation(AB, hidden_seq=2, number=1)]
    assert phone.of(events.ReadMoved) == [events.ReadMoved(AB, 2, 0)]
    phone.push(3)
    assert (phone.line().unread, phone.line().last_msg.seq) == (2, 4)


def test_to_hide_what_is_not_there_does_nothing(phone):
    phone.machine.hide(TEAM, 0.0)
    assert phone.methods() == []


def test_the_total_of_unread_messages(phone):
    phone.push(1, 2)
    phone.push(1, conversation_id=TEAM)
    phone.get(frames.Placed(place(1, conversation=TEAM, muted=True)))
    assert (phone.machine.total_unread(), phone.machine.total_unread(include_muted=False)) == (3, 2)


def test_the_peers_reading_is_told_and_moves_forward(phone):
    phone.push(1, 2)
    for version, seq in ((1, 1), (2, 1), (3, 2)):
        phone.get(frames.Placed(place(version, peer_read_seq=seq, muted=version == 2)))
    assert phone.of(events.PeerRead) == [events.PeerRead(AB, 1), events.PeerRead(AB, 2)]
    assert (phone.line().peer_read_seq, phone.line().unread) == (2, 2)


def test_a_resent_message_says_again_what_it_has_read(phone):
    """Whoever stored it at the first attempt may have died before telling anybody."""
    phone.push(1)
    phone.send("1")
    phone.advance(5)
    phone.collect()
    phone.stored("1", 2)
    assert phone.sent() == [frames.Read(AB, 1, 1)]
    phone.send("2")
    phone.stored("2", 3)
    assert phone.sent(frames.Read) == []


def test_a_sync_that_knows_less_reading_than_this_device_is_told(phone):
    phone.push(1)
    phone.send("1")
    phone.stored("1", 2)
    phone.machine.disconnected(0.0)
    phone.advance(0.25)
    phone.log_in()
    phone.collect()
    phone.get(frames.SyncDone([], 0))
    assert phone.sent() == [frames.Read(AB, 1, 1)]


def test_how_many_have_read_is_told_once(phone):
    phone.machine.read_count(TEAM, 4, 0.0)
    phone.machine.read_count(TEAM, 5, 0.0)
    assert phone.sent() == [frames.ReadCount(TEAM, 4), frames.ReadCount(TEAM, 5)]
    for _ in range(2):
        phone.get(frames.ReadCounted(TEAM, 4, 1, 2))
    phone.rejected(f"{TEAM}:5", Code.NO_CONVERSATION, "read_count")
    assert phone.of(events.ReadCounted) == [events.ReadCounted(TEAM, 4, 1, 2)]
    assert [event.ref for event in phone.of(events.RequestFailed)] == [f"{TEAM}:5"]
    phone.collect()
    phone.advance(20)
    assert phone.sent() == []


def test_another_devices_message_with_the_same_id_is_no_proof_of_mine(phone):
    """Found by the fault search, seed 9: this one will be refused as a conflict."""
    phone.send("1", "mine")
    phone.push(1, sender="bob", id_client="1", content="of another device")
    assert phone.machine.status("1") == Status.SENDING
    assert phone.shown == [1]
    phone.rejected("1", Code.CONFLICT)
    assert phone.machine.status("1") == Status.FAIL
