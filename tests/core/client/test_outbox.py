"""The outbox: sends are repeated until answered, keep their order, and a wrong failure is corrected."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Phone, message

from imsim.core import events, frames
from imsim.core.client import outbox
from imsim.core.model import Code, Scene, Status
from imsim.core.policies import Policies
from imsim.testing import Pair


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


def test_an_unanswered_send_is_repeated_with_backoff_and_then_failed(phone):
    phone.send("1")
    assert phone.sends() == [("1", False, None)]
    for timeout in (5, 10, 20):
        phone.advance(timeout - 0.1)
        assert phone.sends() == []
        phone.advance(0.1)
        assert phone.sends() == [("1", True, None)]
    phone.advance(30)
    assert phone.sends() == []
    assert phone.machine.status("1") == Status.FAIL
    assert [(event.id_client, event.code) for event in phone.of(events.SendFailed)] == [("1", Code.TIMEOUT)]
    assert [event.attempt for event in phone.of(events.Sent)] == [1, 2, 3, 4]


def test_a_late_answer_corrects_a_failed_send(phone):
    phone.send("1")
    phone.advance(65)
    phone.stored("1", 1)
    assert phone.machine.status("1") == Status.SUCCESS
    assert phone.of(events.Acked) == [events.Acked("1", AB, 1)]
    phone.push(1, sender="bob", id_client="1")
    assert phone.shown == []


def test_a_sync_corrects_a_failed_send_that_is_stored():
    phone = Phone(send_attempts=2).online()
    phone.push(1)
    phone.send("1")
    phone.advance(15)
    assert phone.machine.status("1") == Status.FAIL
    phone.log_in_again()
    phone.synced(message(2, sender="bob", id_client="1", content="text"))
    assert phone.machine.status("1") == Status.SUCCESS
    assert phone.of(events.Acked) == [events.Acked("1", AB, 2)]
    assert phone.shown == [1]  # the device has shown its own message since the send
    assert phone.line().unread == 0


@pytest.mark.parametrize("code", [Code.NOT_MEMBER, Code.CONFLICT, Code.TOO_LARGE, Code.BAD_REQUEST])
def test_a_final_rejection_fails_the_send_at_once(phone, code):
    phone.send("1")
    phone.collect()
    phone.rejected("1", code)
    assert phone.of(events.SendFailed) == [events.SendFailed("1", code, "why")]
    phone.advance(20)
    assert phone.sends() == []


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


def test_a_send_refused_as_a_gap_waits_for_its_predecessor(phone):
    for number in ("1", "2", "3"):
        phone.send(number)
    phone.rejected("2", Code.GAP)
    phone.rejected("3", Code.GAP)
    phone.collect()
    phone.stored("1", 1)
    assert phone.sends() == [("2", True, None), ("3", True, "2")]
    phone.stored("2", 2)
    assert phone.sends() == []  # send 3 is already on its way


@pytest.mark.parametrize("refused", ["gap", "rate limit"])
def test_a_held_send_does_not_use_the_rate_of_its_predecessor(phone, refused):
    """With its own retries, it would take the tokens, and each time be rejected because its predecessor is missing."""
    phone.send("1")
    phone.send("2")
    if refused == "gap":
        phone.rejected("2", Code.GAP)
    else:
        phone.get(frames.Rejected("send", "2", Code.RATE_LIMITED, "", 1.0))
    for _ in range(10):
        phone.get(frames.Rejected("send", "1", Code.RATE_LIMITED, "", 7.0))
        phone.collect()
        phone.advance(7.1)
        assert phone.sends() == [("1", False, None)]
    phone.stored("1", 1)
    assert [id_client for id_client, _, _ in phone.sends()] == ["2"]


def test_a_held_send_is_sent_when_its_predecessor_arrives_as_a_message(phone):
    """The answer to the predecessor was lost, but a push or a sync brings the message."""
    phone.send("1")
    phone.send("2")
    phone.rejected("2", Code.GAP)
    phone.collect()
    phone.push(1, sender="bob", to="alice", id_client="1", content="text")
    assert phone.machine.status("1") == Status.SUCCESS
    assert phone.sends() == [("2", True, None)]


def test_a_send_refused_as_a_gap_is_sent_at_once_if_its_predecessor_has_failed(phone):
    phone.send("1")
    phone.send("2")
    phone.rejected("1", Code.TOO_LARGE)
    phone.collect()
    phone.rejected("2", Code.GAP)
    assert phone.sends() == [("2", True, None)]


def test_a_held_send_is_sent_when_its_predecessor_has_timed_out():
    phone = Phone(send_attempts=2).online()
    phone.send("1")
    phone.machine.disconnected(0.0)
    phone.advance(0.25)
    phone.log_in()  # sends it for the second and last time
    phone.advance(1)
    phone.send("2")
    phone.rejected("2", Code.GAP)
    phone.collect()
    phone.advance(9)
    assert phone.machine.status("1") == Status.FAIL
    assert phone.sends() == [("2", True, None)]


def test_pending_requests_of_a_stopped_client_are_sent_after_the_next_start(phone):
    phone.send("1")
    phone.machine.read_count(TEAM, 1, 0.0)
    phone.machine.stop(0.0)
    phone.collect()
    assert phone.machine.next_deadline() is None
    phone.machine.start(0.0)
    phone.log_in()
    assert [frame.op for frame in phone.sent()] == ["login", "sync", "read_count", "send"]


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


def test_the_failed_sends_kept_are_bounded(phone, monkeypatch):
    monkeypatch.setattr(outbox, "_FAILED", 2)
    for number in ("1", "2", "3"):
        phone.send(number)
        phone.rejected(number, Code.TOO_LARGE)
    assert len(phone.machine._outbox._failed) == 2


def test_a_second_rejection_of_a_send_is_ignored(phone):
    phone.send("1")
    phone.rejected("1", Code.TOO_LARGE)
    phone.rejected("1", Code.TOO_LARGE)
    assert phone.of(events.RequestFailed) == []
    assert len(phone.of(events.SendFailed)) == 1


def test_a_resent_message_reports_its_read_mark_again(phone):
    """The server that stored the first attempt may have crashed before it sent the mark to other devices."""
    phone.push(1)
    phone.send("1")
    phone.advance(5)
    phone.collect()
    phone.stored("1", 2)
    assert phone.sent() == [frames.Read(AB, 1, 1)]
    phone.send("2")
    phone.stored("2", 3)
    assert phone.sent(frames.Read) == []


def test_another_devices_message_with_the_same_id_does_not_acknowledge_mine(phone):
    """Found by the fault search, seed 9. The server will reject the send of this device as a conflict."""
    phone.send("1", "mine")
    phone.push(1, sender="bob", id_client="1", content="of another device")
    assert phone.machine.status("1") == Status.SENDING
    assert phone.shown == [1]
    phone.rejected("1", Code.CONFLICT)
    assert phone.machine.status("1") == Status.FAIL


def test_a_message_recalled_under_the_same_idclient_is_not_the_last_message(phone):
    """Another device used this idClient for a different text. After its recall, the bodies cannot be compared."""
    phone.send("1", "other words")
    phone.get(frames.Push(message(1, sender="bob", to="alice", id_client="1")))
    recall = {"event": "recall", "operator": "bob", "targets": [], "data": {"seq": 1}}
    phone.get(frames.Push(message(2, sender="bob", to="alice", type="notification", content="", file=recall)))
    phone.stored("1", 1)
    assert phone.machine.conversations() == []


def test_a_system_message_to_oneself_leaves_no_gap(phone):
    phone.machine.send(Scene.SYSTEM, "bob", "", "1", 0.0, type="custom", custom="{}")
    phone.stored("1", 1, "system:bob")
    news = message(2, conversation_id="system:bob", scene=Scene.SYSTEM, type="custom", to="bob", custom="{}")
    phone.get(frames.Push(news))
    assert [event.message for event in phone.of(events.Shown)] == [news]


def test_a_second_call_for_an_unanswered_send_is_ignored(phone):
    """For example, the user taps the button twice."""
    phone.send("1")
    phone.send("1")
    assert phone.sends() == [("1", False, None)]
    phone.stored("1", 1)
    assert len(phone.of(events.Acked)) == 1
    phone.advance(60)
    assert phone.sends() == []


@pytest.mark.parametrize("id_client", ["", "x" * 129])
def test_an_idclient_of_invalid_length_fails_at_once(phone, id_client):
    phone.send(id_client)
    ((failed),) = phone.of(events.SendFailed)
    assert (failed.id_client, failed.code) == (id_client, Code.BAD_REQUEST)
    assert phone.sends() == []


def test_under_a_rate_limit_a_backlog_is_sent_one_by_one():
    """If all were sent at once, all except one would be rejected: n messages would cost n * n / 2 sends."""
    pair = Pair(Policies(user_rate=5.0, user_burst=1))
    alice = pair.client("alice")
    alice.start()
    pair.run_until_idle()
    for at in range(50):
        alice.machine.send(Scene.P2P, "bob", "text", f"{at}", pair.clock.now)
    pair.advance(20)
    assert [event.id_client for event in alice.events if isinstance(event, events.Acked)] == [f"{n}" for n in range(50)]
    assert sum(isinstance(event, events.Sent) for event in alice.events) < 50 * 4


def test_a_repeated_send_moves_the_read_mark_on_all_devices():
    pair = Pair()
    phone, tablet, bob = pair.client("alice", "phone"), pair.client("alice", "tablet"), pair.client("bob")
    for one in (phone, tablet, bob):
        one.start()
    phone.machine.create_group("team", ["bob"], 0.0)
    pair.run_until_idle()
    bob.machine.send(Scene.GROUP, "team", "hello", "1", 0.0)
    pair.run_until_idle()
    assert tablet.machine.total_unread() == 1
    phone.machine.create_group("team", ["bob"], 1.0)  # its `shown` includes bob's message
    pair.advance(1)
    assert (phone.machine.total_unread(), tablet.machine.total_unread()) == (0, 0)


# --- a busy server ----------------------------------------------------------------------------------------------------


def busy(phone: Phone, id_client: str, retry_after: float = 2.0) -> None:
    phone.get(frames.Rejected("send", id_client, Code.BUSY, "busy", retry_after))


def send_to(phone: Phone, user: str, id_client: str) -> None:
    phone.machine.send(Scene.P2P, user, "text", id_client, phone.clock.now)


def test_busy_pauses_the_whole_outbox_and_then_one_send_is_in_flight(phone):
    send_to(phone, "alice", "1")
    phone.collect()
    busy(phone, "1")
    for user, id_client in (("carol", "2"), ("dave", "3"), ("erin", "4")):
        send_to(phone, user, id_client)
    phone.advance(1.9)
    assert phone.sends() == []
    phone.advance(0.1)
    assert phone.sends() == [("1", False, None)]
    phone.advance(1)
    assert phone.sends() == []
    phone.get(frames.Stored("1", AB, f"{AB}:1", 1, 0))
    assert [id for id, _, _ in phone.sends()] == ["2", "3"]  # the window grows with each answer
    assert phone.of(events.SendFailed) == []


def test_sends_of_one_conversation_keep_their_order_behind_a_busy_refusal(phone):
    for id_client in ("1", "2", "3"):
        phone.send(id_client)
    phone.collect()
    busy(phone, "1")
    phone.rejected("2", Code.GAP)
    phone.rejected("3", Code.GAP)
    assert phone.sends() == []
    phone.advance(2)
    assert phone.sends() == [("1", False, None)]
    phone.stored("1", 1)
    assert phone.sends() == [("2", True, None), ("3", True, "2")]


def test_busy_refusals_are_not_attempts_but_end_after_the_budget():
    phone = Phone(send_attempts=2, send_timeout=5.0, reconnect_max=30.0).online()
    phone.send("1")
    for _ in range(10):
        busy(phone, "1")
        phone.advance(2)
    assert phone.machine.status("1") == Status.SENDING
    busy(phone, "1")
    phone.advance(2)  # 22 s, more than twice the timeout of the second attempt
    assert [(event.id_client, event.code) for event in phone.of(events.SendFailed)] == [("1", Code.TIMEOUT)]


def test_a_new_connection_of_a_client_with_a_busy_server_sends_one_message_first(phone):
    phone.send("1")
    busy(phone, "1")
    send_to(phone, "carol", "2")
    phone.collect()
    phone.log_in_again()
    assert [event.id_client for event in phone.of(events.Sent)] == ["1", "1"]


def test_an_outbox_without_held_sends_is_no_longer_limited(phone):
    phone.send("1")
    busy(phone, "1")
    phone.advance(2)
    phone.stored("1", 1)
    phone.collect()
    for number in range(2, 9):
        send_to(phone, "carol", str(number))
    assert len(phone.sends()) == 7


def test_gaps_do_not_stall_an_outbox_with_a_window(phone):
    phone.send("1")
    phone.send("2")
    send_to(phone, "carol", "3")
    busy(phone, "3")
    phone.advance(2)
    phone.rejected("1", Code.GAP)  # one message is in flight, which is as many as the window allows
    phone.collect()
    phone.rejected("2", Code.GAP)
    assert phone.sends() == [("1", True, None)]
