"""The gateway: the frames expected in each state of a connection, their effects, and the ends of connections."""

from __future__ import annotations

from typing import get_args

import pytest
from core.builders import AB, LETTERS, TEAM, Access, message, refused, send, session, summary

from imsim.core import frames, internal_frames
from imsim.core.model import Code, Scene

EVERY_CLIENT_FRAME = [
    frames.Login("token", "d0"),
    frames.Ping(),
    send("1"),
    frames.Delivered(AB, 1),
    frames.Read(AB, 1),
    frames.Sync({}),
    frames.Enter("lounge"),
    frames.Leave("lounge"),
    frames.Typing(AB),
    frames.StateAck(AB, 1),
    frames.SetConversation(AB, pinned=True),
    frames.History(AB, 1, 2),
    frames.ReadCount(AB, 1),
    frames.EndSession("d1"),
]


# --- the state machine ----------------------------------------------------------------------------------------------


BAD = "bad"  # the connection ends with bad_request


EXPECTED = {
    # op: (before the login, while it is being checked, while a session is being made, live)
    "login": ("authenticate", BAD, BAD, BAD),
    "ping": ("pong", "pong", "pong", "pong"),
    "send": (BAD, BAD, BAD, "to_router"),
    "delivered": (BAD, BAD, BAD, None),
    "read": (BAD, BAD, BAD, "to_router"),
    "sync": (BAD, BAD, BAD, "to_router"),
    "enter": (BAD, BAD, BAD, "to_router"),
    "leave": (BAD, BAD, BAD, "to_router"),
    "typing": (BAD, BAD, BAD, None),
    "state_ack": (BAD, BAD, BAD, None),
    "set_conversation": (BAD, BAD, BAD, "to_router"),
    "history": (BAD, BAD, BAD, "to_router"),
    "read_count": (BAD, BAD, BAD, "to_router"),
    "end_session": (BAD, BAD, BAD, "to_router"),
}


def test_table_has_a_row_for_every_frame_of_a_client():
    assert {type(frame) for frame in EVERY_CLIENT_FRAME} == set(get_args(frames.FromClient))
    assert {frame.op for frame in EVERY_CLIENT_FRAME} == set(EXPECTED)


@pytest.mark.parametrize("state", range(4))
@pytest.mark.parametrize("frame", EVERY_CLIENT_FRAME, ids=lambda frame: frame.op)
def test_gateway_handles_every_frame_in_every_state_as_the_table_says(access, frame, state):
    access.connect()
    if state >= 1:
        access.receive(frames.Login("token", "d0"))
    if state >= 2:
        access.machine.authenticated(1, "bob", None, 0.0)
    if state >= 3:
        access.from_router(internal_frames.Attached(1, session("bob", gateway="g7")))
    access.port.take()
    access.receive(frame)
    calls = access.port.take()
    expected = EXPECTED[frame.op][state]
    if expected is BAD:
        detach = [("to_router", "bob", internal_frames.Detach(session("bob", gateway="g7")))] if state == 3 else []
        assert summary(calls) == refused(Code.BAD_REQUEST) + detach
        access.receive(frames.Ping())
        assert access.port.take() == []  # the connection has ended
    elif expected == "pong":
        assert calls == [("send", (1, frames.Pong()))]
    else:
        assert [method for method, _ in calls] == ([expected] if expected else [])


@pytest.mark.parametrize("frame", EVERY_CLIENT_FRAME, ids=lambda frame: frame.op)
def test_frames_of_an_ended_connection_are_ignored(access, frame):
    access.live()
    access.machine.disconnected(1, 0.0)
    access.port.take()
    access.receive(frame)
    access.receive(frame, connection=99)
    assert access.port.take() == []


# --- login ----------------------------------------------------------------------------------------------------------


def test_a_login_is_authenticated_then_attached_then_answered(access):
    access.clock.now = 2.0
    access.connect()
    access.receive(frames.Login("token", "d3", "phone", "x1", 4))
    assert access.port.take() == [("authenticate", (1, "token"))]
    access.machine.authenticated(1, "bob", None, 2.0, 900.0)
    attach = internal_frames.Attach("bob", "d3", "g7", 1, "phone", 900.0, "x1", 4)
    assert access.port.take() == [("to_router", ("bob", attach))]
    access.from_router(internal_frames.Attached(1, session("bob", "d3", 5, "g7", 1)))
    assert access.port.take() == [("send", (1, frames.LoggedIn("bob", "d3", 1_002_000, 75.0)))]


def test_gateway_closes_a_connection_without_login_after_the_login_timeout(access):
    access.connect()
    access.advance(9.9)
    assert access.port.take() == []
    access.advance(0.1)
    assert summary(access.port.take()) == refused(Code.LOGIN_TIMEOUT)
    assert access.machine.next_deadline() is None


@pytest.mark.parametrize(
    ("code", "sent"),
    [(Code.TOKEN_EXPIRED, Code.TOKEN_EXPIRED), (Code.UNAVAILABLE, Code.UNAVAILABLE), (None, Code.BAD_TOKEN)],
)
def test_a_refused_token_ends_the_connection_with_its_code(access, code, sent):
    access.connect()
    access.receive(frames.Login("token", "d0"))
    access.port.take()
    access.machine.authenticated(1, None, code, 0.0)
    assert summary(access.port.take()) == refused(sent)
    assert access.machine.next_deadline() is None


def test_a_session_for_an_ended_connection_is_detached(access):
    access.connect()
    access.receive(frames.Login("token", "d0"))
    access.machine.authenticated(1, "bob", None, 0.0)
    access.machine.disconnected(1, 0.0)
    access.port.take()
    one = session("bob", gateway="g7")
    access.from_router(internal_frames.Attached(1, one))
    assert access.port.take() == [("to_router", ("bob", internal_frames.Detach(one)))]
    access.from_router(internal_frames.Attached(1, None, Code.UNAVAILABLE))
    assert access.port.take() == []


def test_an_authentication_that_no_connection_waits_for_is_ignored(access):
    access.machine.authenticated(1, "bob", None, 0.0)
    access.connect()
    access.machine.authenticated(1, "bob", None, 0.0)
    assert access.port.take() == []


def test_a_second_authentication_of_a_connection_is_ignored(access):
    access.live()
    access.machine.authenticated(1, "mallory", None, 0.0)
    assert access.port.take() == []


# --- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scene", "to", "id"), [(Scene.P2P, "alice", AB), (Scene.GROUP, "team", TEAM)])
def test_a_send_goes_to_the_router_of_its_conversation(access, scene, to, id):
    one = access.live()
    frame = frames.Send("1", scene, to, "text")
    access.receive(frame)
    assert access.port.take() == [("to_router", (id, internal_frames.Up(one, frame, id)))]


def test_the_shell_can_reject_a_request_of_a_connection(access):
    access.live()
    access.machine.reject(1, "send", "1" * 1_000, 0, "why", 0.0)
    access.machine.reject(1, "read_count", f"{AB}:1", 5, "why", 0.0)
    answers = [(frame.request, frame.ref, frame.number, frame.code) for _, frame in access.sent()]
    assert answers == [
        ("send", "1" * 256, 0, Code.BAD_REQUEST),
        ("read_count", f"{AB}:1", 5, Code.BAD_REQUEST),
    ]
    access.machine.reject(7, "send", "1", 0, "why", 0.0)  # a connection that has ended
    assert access.port.take() == []
    access.connect(2)
    access.machine.reject(2, "send", "1", 0, "why", 0.0)
    assert [frame.code for _, frame in access.sent()] == [Code.BAD_REQUEST]


# --- from routers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_frame_for_another_session_is_dropped(access, epoch):
    one = access.live(epoch=2)
    stale = one._replace(epoch=epoch)
    access.push(stale)
    access.from_router(internal_frames.Down((stale, one._replace(connection=9)), frames.Pong()))
    access.from_router(internal_frames.Kick(stale, Code.REPLACED))
    assert access.port.take() == []


# --- ends -----------------------------------------------------------------------------------------------------------


def test_gateway_closes_a_silent_connection_after_the_heartbeat_timeout(access):
    one = access.live()
    access.advance(74.9)
    assert access.port.take() == []
    access.advance(0.1)
    assert summary(access.port.take()) == [*refused(Code.HEARTBEAT), ("to_router", "bob", internal_frames.Detach(one))]
    assert access.machine.next_deadline() is None


def test_any_frame_keeps_a_connection_alive(access):
    access.live()
    for frame in (frames.Ping(), frames.Delivered(AB, 0), frames.Sync({})):
        access.advance(70)
        access.receive(frame)
    access.advance(74.9)
    assert "close" not in [method for method, _ in access.port.take()]
    access.advance(0.2)
    assert "close" in [method for method, _ in access.port.take()]


def test_a_lost_connection_is_reported_once(access):
    one = access.live()
    for _ in range(2):
        access.machine.disconnected(1, 0.0)
    assert access.port.take() == [("to_router", ("bob", internal_frames.Detach(one)))]
    assert access.machine.next_deadline() is None


def test_the_shell_can_refuse_a_connection(access):
    one = access.live()
    access.machine.refuse(1, Code.BAD_FRAME, "not JSON")
    calls = access.port.take()
    assert calls[0] == ("send", (1, frames.Refused(Code.BAD_FRAME, False, "not JSON")))
    assert summary(calls) == [*refused(Code.BAD_FRAME), ("to_router", "bob", internal_frames.Detach(one))]
    access.machine.refuse(1, Code.BAD_FRAME, "not JSON")
    assert access.port.take() == []


def test_a_shutdown_ends_every_connection_and_allows_reconnects(access):
    access.live(1)
    access.live(2, "carol")
    access.connect(3)
    access.machine.shut_down()
    ended = {(c, f.code, f.reconnect) for c, f in access.sent()}
    assert ended == {(number, Code.GOING_AWAY, True) for number in (1, 2, 3)}
    assert access.machine.next_deadline() is None


def test_a_lost_router_ends_the_connections_of_its_users_only():
    access = Access(LETTERS)
    access.live(1, "alice")
    access.live(2, "bob")
    access.connect(3)
    access.receive(frames.Login("token", "d0"), 3)
    access.machine.authenticated(3, "anna", None, access.clock.now)  # waits for a session
    access.port.take()
    access.machine.router_lost("a")
    assert [(c, f.code, f.reconnect) for c, f in access.sent()] == [(c, Code.UNAVAILABLE, True) for c in (1, 3)]


def log_in(access, connection, user):
    access.connect(connection)
    access.receive(frames.Login("token", "d0"), connection)
    access.machine.authenticated(connection, user, None, access.clock.now)


def attached(access):
    """Return the users for whom the gateway requested a session, and clear the record."""
    return [arguments[1].user for method, arguments in access.port.take() if method == "to_router"]


def test_logins_wait_for_a_router_that_is_lost():
    access = Access(LETTERS)
    access.machine.router_lost("a")
    for connection, user in enumerate(("alice", "bob", "anna"), 1):
        log_in(access, connection, user)
    assert attached(access) == ["bob"]
    access.machine.disconnected(3, access.clock.now)
    access.machine.router_back("b")
    assert attached(access) == []
    access.machine.router_back("a")
    assert attached(access) == ["alice"]
    access.machine.router_back("a")
    assert attached(access) == []
    log_in(access, 4, "anna")
    assert attached(access) == ["anna"]


def test_a_second_report_of_the_same_loss_does_not_end_waiting_logins():
    access = Access(LETTERS)
    for _ in range(2):
        access.machine.router_lost("a")
        if not access.machine._connections:
            log_in(access, 1, "alice")
    assert access.sent() == []
    access.machine.router_back("a")
    assert attached(access) == ["alice"]


def test_a_login_waits_for_a_lost_router_at_most_for_the_login_timeout():
    access = Access(LETTERS)
    access.machine.router_lost("a")
    log_in(access, 1, "alice")
    access.advance(access.policies.login_timeout)
    assert summary(access.port.take())[1:] == refused(Code.LOGIN_TIMEOUT)
    access.machine.router_back("a")
    assert attached(access) == []


# --- delivered receipts ---------------------------------------------------------------------------------------------


def test_delivered_marks_of_p2p_conversations_go_to_the_router_under_delivered_receipts():
    access = Access(receipts="delivered")
    one = access.live()
    access.push(one)
    access.port.take()
    for id in (AB, TEAM, "p2pish:x"):
        access.receive(frames.Delivered(id, 1))
    assert access.port.take() == [("to_router", ("bob", internal_frames.Up(one, frames.Delivered(AB, 1), "")))]
    access.advance(10)
    assert access.pushed() == []  # the frame is also an acknowledgement


# --- chatrooms and blocking -------------------------------------------------------------------------------------------


LOUNGE = "chatroom:lounge"


def test_a_lost_connection_leaves_its_remaining_rooms(access):
    access.live()
    for frame in (frames.Enter("lounge", 3), frames.Enter("bar"), frames.Enter("bar"), frames.Leave("lounge")):
        access.receive(frame)
    assert [conversation for _, conversation in access.ups()] == [LOUNGE, "chatroom:bar", "chatroom:bar", LOUNGE]
    access.machine.disconnected(1, 0.0)
    assert access.ups() == [(frames.Leave("bar"), "chatroom:bar")]


def test_a_lost_connection_leaves_a_room_that_it_entered_at_the_second_attempt(access):
    one = access.live()
    for _ in range(2):
        access.receive(frames.Enter("lounge"))
    access.from_router(internal_frames.Down((one,), frames.Rejected("enter", "lounge", Code.TOO_LARGE)))
    access.from_router(internal_frames.Down((one,), frames.Entered("lounge", 2, [])))
    access.port.take()
    access.machine.disconnected(1, 0.0)
    assert access.ups() == [(frames.Leave("lounge"), LOUNGE)]


def test_a_lost_connection_leaves_a_room_after_a_rate_limited_leave():
    access = Access(user_rate=0.1, user_burst=1)
    access.live()
    access.receive(frames.Enter("lounge"))
    access.receive(frames.Leave("lounge"))  # refused
    access.receive(frames.Enter("bar"))  # refused
    access.port.take()
    access.machine.disconnected(1, 0.0)
    assert access.ups() == [(frames.Leave("lounge"), LOUNGE)]


def test_a_room_with_an_invalid_name_is_not_entered(access):
    access.live()
    access.receive(frames.Enter("no name"))
    access.machine.disconnected(1, 0.0)
    assert access.ups() == []


def test_connections_in_rooms_of_a_lost_router_are_closed():
    access = Access(LETTERS)
    access.live(1)
    access.live(2, "carol")
    access.receive(frames.Enter("lounge"), 1)
    access.port.take()
    access.machine.router_lost("l")
    assert [arguments[0] for method, arguments in access.port.take() if method == "close"] == [1]


def test_a_room_that_refused_the_device_does_not_count_for_the_limit():
    access = Access(rooms=1)
    one = access.live()
    access.receive(frames.Enter("full"))
    access.from_router(internal_frames.Down((one,), frames.Rejected("enter", "full", Code.TOO_LARGE)))
    access.port.take()
    access.receive(frames.Enter("other"))
    assert [frame.name for frame, _ in access.ups()] == ["other"]


@pytest.mark.parametrize(
    "late",
    [
        frames.Entered("lounge", 1, []),
        frames.Push(message(7, conversation_id=LOUNGE, scene=Scene.CHATROOM, to="lounge")),
    ],
    ids=lambda frame: frame.op,
)
def test_gateway_sends_a_leave_to_a_room_that_still_has_an_ended_session(access, late):
    """The `enter` reached the room after the `leave` that followed the end of the connection."""
    one = access.live()
    access.machine.disconnected(1, 0.0)
    access.port.take()
    access.from_router(internal_frames.Down((one,), late))
    assert access.ups() == [(frames.Leave("lounge"), LOUNGE)]
    access.from_router(internal_frames.Down((one,), frames.Push(message(1))))
    assert access.ups() == []
