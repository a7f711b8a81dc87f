"""The client: its start, its requests for the application, and changes."""

from __future__ import annotations

from core.builders import AB, TEAM, Phone, change, entry

from imsim.core import events, frames
from imsim.core.client.connection import State
from imsim.core.model import Code, Scene, Status

# --- the connection -------------------------------------------------------------------------------------------------


def test_a_client_goes_from_start_to_online():
    phone = Phone()
    assert phone.machine.state == State.OFFLINE
    phone.machine.start(0.0)
    assert (phone.machine.state, phone.methods()) == (State.CONNECTING, ["connect"])
    phone.machine.connected(0.0)
    assert phone.machine.state == State.LOGGING_IN
    (login,) = phone.sent()
    assert (login.token, login.device, login.attempt) == ("token", "d0", 1)
    phone.get(frames.LoggedIn("bob", "d0", 0, 75.0))
    assert (phone.machine.state, phone.sent()) == (State.SYNCING, [frames.Sync({}, number=1)])
    phone.synced()
    assert phone.machine.state == State.ONLINE
    assert phone.of(events.Ready) == [events.Ready()]


def test_token_of_the_next_login_can_be_set(phone):
    assert (phone.machine.token, phone.machine.device) == ("token", "d0")
    phone.machine.token = "fresh"
    phone.machine.disconnected(0.0)
    phone.machine.start(0.0)
    phone.machine.connected(0.0)
    assert phone.sent(frames.Login)[0].token == "fresh"


# --- groups, requests -----------------------------------------------------------------------------------------------


def test_creating_a_group_sends_a_change_like_any_other(phone):
    phone.machine.create_group("team", ["alice"], 0.0)
    assert phone.sent(frames.Send) == [change("create:team", "create", "alice", by="bob")]
    phone.stored("create:team", 1, TEAM)
    assert phone.of(events.Acked) == [events.Acked("create:team", TEAM, 1)]
    assert phone.line(TEAM).last_msg.file["event"] == "create"
    phone.machine.create_group("team", ["carol"], 0.0, "again")
    phone.rejected("again", Code.CONFLICT)
    assert [(event.id_client, event.code) for event in phone.of(events.SendFailed)] == [("again", Code.CONFLICT)]


def test_a_rejected_request_does_not_fail_a_send_with_the_same_ref(phone):
    phone.send("team")
    phone.machine.enter("team", 0.0)
    phone.rejected("team", Code.TOO_LARGE, "enter")
    assert phone.machine.status("team") == Status.SENDING


def test_a_retryable_rejection_does_not_fail_a_request(phone):
    phone.push(1)
    phone.machine.read(AB, 0.0)
    phone.get(frames.Rejected("read", AB, Code.UNAVAILABLE, "", number=1))
    phone.collect()
    phone.advance(5)
    assert phone.sent(frames.Read) == [frames.Read(AB, 1, 1)]
    assert phone.of(events.RequestFailed) == []
    phone.get(frames.Done("read", AB, 1))
    phone.get(frames.Rejected("read", AB, Code.NO_CONVERSATION, "", number=1))  # the answer to the repetition
    assert phone.of(events.RequestFailed) == []
    assert len(phone.of(events.RequestDone)) == 1


def test_a_rate_limited_request_is_repeated_after_retry_after(phone):
    phone.machine.history(AB, 1, 2, 0.0)
    phone.get(frames.Rejected("history", f"{AB}:1-2", Code.RATE_LIMITED, "", 7.5, 1))
    phone.collect()
    phone.advance(7.4)
    assert phone.pulls() == []
    phone.advance(0.1)
    assert phone.pulls() == [(1, 2)]
    assert phone.of(events.RequestFailed) == []


def test_a_read_count_is_reported_once(phone):
    phone.machine.read_count(TEAM, 4, 0.0)
    phone.machine.read_count(TEAM, 5, 0.0)
    assert phone.sent() == [frames.ReadCount(TEAM, 4, 1), frames.ReadCount(TEAM, 5, 2)]
    for _ in range(2):
        phone.get(frames.ReadCounted(TEAM, 4, 1, 2, 1))
    phone.rejected(f"{TEAM}:5", Code.NO_CONVERSATION, "read_count")
    assert phone.of(events.ReadCounted) == [events.ReadCounted(TEAM, 4, 1, 2)]
    assert [event.ref for event in phone.of(events.RequestFailed)] == [f"{TEAM}:5"]
    phone.collect()
    phone.advance(20)
    assert phone.sent() == []


# --- history --------------------------------------------------------------------------------------------------------


def test_each_range_of_history_is_a_separate_request(phone):
    for first, last in ((1, 3), (1, 2)):
        phone.machine.history(AB, first, last, 0.0)
    phone.machine.history(TEAM, 1, 3, 0.0)
    phone.pulled(1, 2)
    phone.pulled(1, 4)  # was not requested
    assert [(event.first, event.last) for event in phone.of(events.History)] == [(1, 2)]
    phone.collect()
    phone.advance(5)
    asked = [(frame.conversation_id, frame.first, frame.last) for frame in phone.sent(frames.History)]
    assert asked == [(AB, 1, 3), (TEAM, 1, 3)]


# --- changes ----------------------------------------------------------------------------------------------------------


def test_resolutions_and_silent_changes_are_events_and_not_messages(phone):
    resolution = entry(1, "resolve", "group:team:3", conversation_id="system:bob", scene=Scene.SYSTEM, state="passed")
    phone.pushed(resolution, entry(1, "friend_request"), entry(2, "theme"))
    assert phone.of(events.Resolved) == [events.Resolved("group:team:3", "passed")]
    assert [event.message.file["event"] for event in phone.of(events.Changed)] == ["friend_request"]
    assert [event.message.file["event"] for event in phone.of(events.Shown)] == ["theme"]
    assert phone.line().unread == 0
    assert phone.machine.system_unread() == 0


# --- presence, typing -------------------------------------------------------------------------------------------------


def test_hints_are_reported_and_typing_is_sent_only_while_online(phone):
    phone.get(frames.IsTyping(AB))
    phone.get(frames.Presence("alice", True))
    assert phone.of(events.Typing) == [events.Typing(AB)]
    assert phone.of(events.Presence) == [events.Presence("alice", True)]
    phone.collect()
    phone.machine.typing(AB, 0.0)
    assert phone.sent() == [frames.Typing(AB)]
    phone.machine.disconnected(0.0)
    phone.collect()
    phone.machine.typing(AB, 0.0)
    assert phone.sent() == []
    assert phone.machine.conversations() == []
