"""Connections: what is expected in which state, who is told what, and that pushes are repeated until acknowledged."""

from __future__ import annotations

from typing import get_args

import pytest
from core.builders import AB, LETTERS, TEAM, Access, message, refused, send, session, summary

from imsim.core import frames, internal_frames
from imsim.core.gateway.gateway import CHANGES, READS
from imsim.core.limits import CURSORS
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


def test_no_frame_is_forgotten_here():
    assert {type(frame) for frame in EVERY_CLIENT_FRAME} == set(get_args(frames.FromClient))


@pytest.mark.parametrize("state", range(4))
@pytest.mark.parametrize("frame", EVERY_CLIENT_FRAME, ids=lambda frame: frame.op)
def test_every_frame_in_every_state(access, frame, state):
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
        assert access.port.take() == []  # gone
    elif expected == "pong":
        assert calls == [("send", (1, frames.Pong()))]
    else:
        assert [method for method, _ in calls] == ([expected] if expected else [])


def test_every_frame_of_a_client_has_its_row():
    assert {frame.op for frame in EVERY_CLIENT_FRAME} == set(EXPECTED)


@pytest.mark.parametrize("frame", EVERY_CLIENT_FRAME, ids=lambda frame: frame.op)
def test_frames_of_a_connection_that_is_gone_do_nothing(access, frame):
    access.live()
    access.machine.disconnected(1, 0.0)
    access.port.take()
    access.receive(frame)
    access.receive(frame, connection=99)
    assert access.port.take() == []


# --- login ----------------------------------------------------------------------------------------------------------


def test_a_login_from_start_to_end(access):
    access.clock.now = 2.0
    access.connect()
    access.receive(frames.Login("token", "d3", "phone", "x1", 4))
    assert access.port.take() == [("authenticate", (1, "token"))]
    access.machine.authenticated(1, "bob", None, 2.0, 900.0)
    attach = internal_frames.Attach("bob", "d3", "g7", 1, "phone", 900.0, "x1", 4)
    assert access.port.take() == [("to_router", ("bob", attach))]
    access.from_router(internal_frames.Attached(1, session("bob", "d3", 5, "g7", 1)))
    assert access.port.take() == [("send", (1, frames.LoggedIn("bob", "d3", 1_002_000, 75.0)))]


def test_a_login_must_come_in_time(access):
    access.connect()
    access.advance(9.9)
    assert access.port.take() == []
    access.advance(0.1)
    assert summary(access.port.take()) == refused(Code.LOGIN_TIMEOUT)
    assert access.machine.next_deadline() is None


def test_pings_do_not_put_the_login_off(access):
    access.connect()
    for _ in range(4):
        access.receive(frames.Ping())
        access.advance(2.5)
    assert access.port.take()[-1] == ("close", (1,))


@pytest.mark.parametrize("answered", ["authentication", "attach"])
def test_a_login_that_nobody_answers_ends_in_time(access, answered):
    access.connect()
    access.receive(frames.Login("token", "d0"))
    if answered == "attach":
        access.machine.authenticated(1, "bob", None, 0.0)
    access.port.take()
    access.advance(10)
    assert summary(access.port.take()) == refused(Code.LOGIN_TIMEOUT)


@pytest.mark.parametrize("name", ["", "a b", "d:0", "x" * 65])
@pytest.mark.parametrize("field", ["device", "kind", "instance"])
def test_a_bad_name_is_refused_before_the_token_is_looked_at(access, field, name):
    access.connect()
    access.receive(frames.Login(**{"token": "token", "device": "d0", field: name}))
    calls = access.port.take()
    if name or field == "device":
        assert summary(calls) == refused(Code.BAD_REQUEST)
        assert calls[0][1][1].text.startswith(f"{field}: ")
    else:
        assert calls == [("authenticate", (1, "token"))]  # not every client has one


@pytest.mark.parametrize(
    ("code", "told"),
    [(Code.TOKEN_EXPIRED, Code.TOKEN_EXPIRED), (Code.UNAVAILABLE, Code.UNAVAILABLE), (None, Code.BAD_TOKEN)],
)
def test_a_refused_token_ends_the_connection_with_its_code(access, code, told):
    access.connect()
    access.receive(frames.Login("token", "d0"))
    access.port.take()
    access.machine.authenticated(1, None, code, 0.0)
    assert summary(access.port.take()) == refused(told)
    assert access.machine.next_deadline() is None


def test_a_session_that_could_not_be_made_ends_the_connection(access):
    access.connect()
    access.receive(frames.Login("token", "d0"))
    access.machine.authenticated(1, "bob", None, 0.0)
    access.port.take()
    access.from_router(internal_frames.Attached(1, None, Code.UNAVAILABLE))
    assert summary(access.port.take()) == refused(Code.UNAVAILABLE)


def test_a_session_for_a_connection_that_is_gone_is_given_back(access):
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


def test_an_answer_for_a_connection_that_is_gone_or_never_asked_does_nothing(access):
    access.machine.authenticated(1, "bob", None, 0.0)
    access.connect()
    access.machine.authenticated(1, "bob", None, 0.0)
    assert access.port.take() == []


def test_a_second_answer_to_a_login_does_nothing(access):
    access.live()
    access.machine.authenticated(1, "mallory", None, 0.0)
    assert access.port.take() == []


# --- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scene", "to", "id"), [(Scene.P2P, "alice", AB), (Scene.GROUP, "team", TEAM)])
def test_a_send_goes_to_the_conversation_that_its_user_means(access, scene, to, id):
    one = access.live()
    frame = frames.Send("1", scene, to, "text")
    access.receive(frame)
    assert access.port.take() == [("to_router", (id, internal_frames.Up(one, frame, id)))]


@pytest.mark.parametrize("frame", [frames.Read(AB, 1), frames.Sync({AB: 1})], ids=lambda frame: frame.op)
def test_what_is_the_users_own_goes_to_its_user(access, frame):
    one = access.live()
    access.receive(frame)
    assert access.port.take() == [("to_router", ("bob", internal_frames.Up(one, frame, "")))]


@pytest.mark.parametrize("field", ["content", "custom"])
def test_the_limit_of_a_text_is_in_bytes(field):
    access = Access(content_bytes=8)
    access.live()
    for text in ("12345678", "äöüß", "😀😀", "", "123456789", "äöüßx", "😀😀x"):
        access.receive(send("1", **{"to": "alice", "content": "", field: text}))
    methods = [method for method, _ in access.port.calls]
    assert methods == ["to_router"] * 4 + ["send"] * 3
    rejected = [frame for _, frame in access.sent()]
    assert {(frame.request, frame.ref, frame.code) for frame in rejected} == {("send", "1", Code.TOO_LARGE)}
    assert {frame.text for frame in rejected} == {f"{field}: more than 8 bytes of UTF-8"}


@pytest.mark.parametrize("fields", [{"content": "\ud800"}, {"custom": "\udfff"}, {"file": {"x": "\ud800"}}])
def test_half_a_surrogate_pair_is_no_text(access, fields):
    access.live()
    access.receive(send("1", **{"to": "alice", "content": "", **fields}))
    ((_, frame),) = access.sent()
    assert (frame.ref, frame.code) == ("1", Code.BAD_REQUEST)
    assert frame.text.startswith(f"{next(iter(fields))}: ")


def nested(levels: int) -> dict[str, object]:
    inner: list[object] = []
    for _ in range(levels - 2):
        inner = [inner]
    return {"a": inner}


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (nested(32), None),
        (nested(33), "file: nested too deep: lists and objects have at most 32 levels"),
        (nested(5_000), "file: nested too deep: lists and objects have at most 32 levels"),
        ({"a": [1e999]}, "file: JSON has neither infinity nor NaN"),
        ({"a": -1e999}, "file: JSON has neither infinity nor NaN"),
        ({"a": float("nan")}, "file: JSON has neither infinity nor NaN"),
        ({"a": {1, 2}}, "file: set is nothing that JSON has"),
        ({5: "a"}, None),  # json.dumps makes a text of it, as any client's library does
    ],
    ids=["fits", "deep", "deeper than Python", "infinite", "minus infinite", "no number", "a set", "a number as key"],
)
def test_what_could_not_be_carried_on_is_refused(access, file, says):
    access.live()
    access.receive(send("1", to="alice", type="other", file=file))
    if says is None:
        assert access.sent() == []
    else:
        assert [(frame.ref, frame.code, frame.text) for _, frame in access.sent()] == [("1", Code.BAD_REQUEST, says)]


def test_what_the_shell_finds_wrong_with_a_value_is_told_to_who_asked_and_no_more(access):
    access.live()
    access.machine.reject(1, "send", "1" * 1_000, 0, "why", 0.0)
    access.machine.reject(1, "read_count", f"{AB}:1", 5, "why", 0.0)
    answers = [(frame.request, frame.ref, frame.number, frame.code) for _, frame in access.sent()]
    assert answers == [
        ("send", "1" * 256, 0, Code.BAD_REQUEST),
        ("read_count", f"{AB}:1", 5, Code.BAD_REQUEST),
    ]
    access.machine.reject(7, "send", "1", 0, "why", 0.0)  # a connection that is gone
    assert access.port.take() == []
    access.connect(2)
    access.machine.reject(2, "send", "1", 0, "why", 0.0)
    assert [frame.code for _, frame in access.sent()] == [Code.BAD_REQUEST]


def test_the_limit_of_an_attachment_is_that_of_its_json():
    access = Access(content_bytes=15)
    access.live()
    for file in ({"url": "1234"}, {"url": "ää"}, {}, None, {"url": "12345"}, {"url": "ääx"}, {"n": {"m": 1234}}):
        access.receive(send("1", to="alice", type="other", file=file))
    methods = [method for method, _ in access.port.calls]
    assert methods == ["to_router"] * 4 + ["send"] * 3
    assert {frame.text for _, frame in access.sent()} == {"file: more than 15 bytes of UTF-8"}


def test_what_is_not_there_has_no_size():
    access = Access(content_bytes=1)
    access.live()
    access.receive(send("1", "x", to="alice", type="other", file={}))
    assert [method for method, _ in access.port.take()] == ["to_router"]


def test_each_part_of_a_message_has_the_limit_for_itself():
    access = Access(content_bytes=8)
    access.live()
    access.receive(send("1", "12345678", to="alice", custom="12345678", type="other", file={"a": 1}))
    assert [method for method, _ in access.port.take()] == ["to_router"]


def test_what_is_too_large_is_refused_with_a_short_reference():
    access = Access(content_bytes=4)
    access.live()
    access.receive(send("x" * 1_000, "12345", to="alice"))
    ((_, frame),) = access.sent()
    assert (frame.ref, frame.code) == ("x" * 256, Code.TOO_LARGE)


@pytest.mark.parametrize(
    ("frame", "ref", "code"),
    [
        (send("1", to="no name"), "1", Code.BAD_REQUEST),
        (send("1", to=""), "1", Code.BAD_REQUEST),
        (send("", to="alice"), "", Code.BAD_REQUEST),
        (send("x" * 129, to="alice"), "x" * 129, Code.BAD_REQUEST),
        (send("1", to="alice", type="image"), "1", Code.BAD_REQUEST),
        (send("1", to="alice", file={"url": "x"}), "1", Code.BAD_REQUEST),
        (frames.Enter("no name"), "no name", Code.BAD_REQUEST),
        (frames.Leave("x" * 300), "x" * 256, Code.BAD_REQUEST),
    ],
)
def test_what_can_never_succeed_is_rejected_here_and_the_connection_stays(frame, ref, code):
    access = Access()
    access.live()
    access.receive(frame)
    ((_, rejected),) = access.sent()
    assert (rejected.request, rejected.ref, rejected.code) == (frame.op, ref, code)
    access.receive(frames.Ping())
    assert access.sent() == [(1, frames.Pong())]


def test_a_rejected_attachment_is_told_by_its_field():
    access = Access()
    access.live()
    access.receive(send("1", to="alice", type="geo", file={"title": "", "longitude": 181, "latitude": 0}))
    ((_, rejected),) = access.sent()
    assert rejected.text == "file.longitude: expected a number of degrees from -180 to 180, got 181"


def test_the_longest_names_pass():
    access = Access()
    access.live()
    access.receive(send("x" * 128, to="alice"))
    access.receive(frames.Enter("x" * 64))
    assert [method for method, _ in access.port.take()] == ["to_router"] * 2


def test_a_custom_that_is_too_large_is_rejected_with_its_number():
    access = Access(content_bytes=4)
    access.live()
    access.receive(frames.SetConversation(AB, custom="\u00e4\u00e4x", number=3))
    ((_, frame),) = access.sent()
    assert (frame.request, frame.ref, frame.code, frame.number) == ("set_conversation", AB, Code.TOO_LARGE, 3)
    access.receive(frames.SetConversation(AB, custom="\u00e4\u00e4"))
    assert [method for method, _ in access.port.take()] == ["to_router"]


# --- from routers ---------------------------------------------------------------------------------------------------


def test_what_is_not_a_push_is_sent_once(access):
    one = access.live()
    access.from_router(internal_frames.Down((one,), frames.Stored("1", AB, "id", 1, 5)))
    assert access.sent() == [(1, frames.Stored("1", AB, "id", 1, 5))]
    access.advance(60)
    assert access.sent() == []


@pytest.mark.parametrize("epoch", [1, 3])
def test_what_comes_down_for_another_session_goes_nowhere(access, epoch):
    one = access.live(epoch=2)
    stale = one._replace(epoch=epoch)
    access.push(stale)
    access.from_router(internal_frames.Down((stale, one._replace(connection=9)), frames.Pong()))
    access.from_router(internal_frames.Kick(stale, Code.REPLACED))
    assert access.port.take() == []


def test_nothing_comes_down_before_the_session_is_known(access):
    access.connect()
    access.receive(frames.Login("token", "d0"))
    access.port.take()
    access.push(session("bob", gateway="g7"))
    assert access.port.take() == []


def test_a_kick_ends_the_connection_with_its_code(access):
    one = access.live()
    access.from_router(internal_frames.Kick(one, Code.REPLACED))
    assert summary(access.port.take()) == [*refused(Code.REPLACED), ("to_router", "bob", internal_frames.Detach(one))]


# --- ends -----------------------------------------------------------------------------------------------------------


def test_silence_ends_a_connection(access):
    one = access.live()
    access.advance(74.9)
    assert access.port.take() == []
    access.advance(0.1)
    assert summary(access.port.take()) == [*refused(Code.HEARTBEAT), ("to_router", "bob", internal_frames.Detach(one))]
    assert access.machine.next_deadline() is None


def test_whatever_is_heard_keeps_a_connection(access):
    access.live()
    for frame in (frames.Ping(), frames.Delivered(AB, 0), frames.Sync({})):
        access.advance(70)
        access.receive(frame)
    access.advance(74.9)
    assert "close" not in [method for method, _ in access.port.take()]
    access.advance(0.2)
    assert "close" in [method for method, _ in access.port.take()]


def test_what_is_sent_down_does_not_keep_a_silent_connection(access):
    one = access.live()
    access.advance(70)
    access.push(one)
    access.advance(5)
    assert "close" in [method for method, _ in access.port.take()]


def test_a_lost_connection_is_reported_once(access):
    one = access.live()
    for _ in range(2):
        access.machine.disconnected(1, 0.0)
    assert access.port.take() == [("to_router", ("bob", internal_frames.Detach(one)))]
    assert access.machine.next_deadline() is None


def test_a_connection_that_ends_before_its_login_concerns_nobody(access):
    access.connect()
    access.machine.disconnected(1, 0.0)
    assert access.port.take() == []
    assert access.machine.next_deadline() is None


def test_the_shell_can_refuse_a_connection(access):
    one = access.live()
    access.machine.refuse(1, Code.BAD_FRAME, "not JSON")
    calls = access.port.take()
    assert calls[0] == ("send", (1, frames.Refused(Code.BAD_FRAME, False, "not JSON")))
    assert summary(calls) == [*refused(Code.BAD_FRAME), ("to_router", "bob", internal_frames.Detach(one))]
    access.machine.refuse(1, Code.BAD_FRAME, "not JSON")
    assert access.port.take() == []


def test_a_shutdown_sends_everybody_away_to_come_back(access):
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
    access.machine.authenticated(3, "anna", None, access.clock.now)  # is waiting for her session
    access.port.take()
    access.machine.router_lost("a")
    assert [(c, f.code, f.reconnect) for c, f in access.sent()] == [(c, Code.UNAVAILABLE, True) for c in (1, 3)]


def log_in(access, connection, user):
    access.connect(connection)
    access.receive(frames.Login("token", "d0"), connection)
    access.machine.authenticated(connection, user, None, access.clock.now)


def attached(access):
    """The users for whom a session was asked for; other calls are forgotten."""
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


def test_to_be_told_of_the_same_loss_again_ends_no_login_that_waits():
    access = Access(LETTERS)
    for _ in range(2):
        access.machine.router_lost("a")
        if not access.machine._connections:
            log_in(access, 1, "alice")
    assert access.sent() == []
    access.machine.router_back("a")
    assert attached(access) == ["alice"]


def test_a_login_waits_for_a_lost_router_no_longer_than_for_anything():
    access = Access(LETTERS)
    access.machine.router_lost("a")
    log_in(access, 1, "alice")
    access.advance(access.policies.login_timeout)
    assert summary(access.port.take())[1:] == refused(Code.LOGIN_TIMEOUT)
    access.machine.router_back("a")
    assert attached(access) == []


def test_how_often_a_user_may_send_is_kept_across_connections():
    access = Access(user_rate=0.1, user_burst=2)
    access.live(1)
    access.live(2, epoch=2)
    for number, connection in enumerate((1, 2, 1)):
        access.receive(send(str(number)), connection)
    (refused,) = [frame for _, frame in access.sent() if isinstance(frame, frames.Rejected)]
    assert (refused.ref, refused.code, refused.retry_after) == ("2", Code.RATE_LIMITED, pytest.approx(10.0))


def rejections(access):
    return [(f.request, f.ref, f.number) for _, f in access.sent() if isinstance(f, frames.Rejected)]


REQUESTS = [
    frames.Read(AB, 1, 7),
    frames.SetConversation(AB, pinned=True, number=8),
    frames.History(AB, 1, 2),
    frames.ReadCount(AB, 1),
    frames.Enter("lounge"),
    frames.Leave("lounge"),
    frames.EndSession("d1"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda frame: frame.op)
def test_every_request_counts_for_the_rate_and_is_refused_with_its_number(request_):
    access = Access(user_rate=0.5, user_burst=1)
    access.live()
    access.receive(request_)
    assert [method for method, _ in access.port.take()] == ["to_router"]
    access.receive(request_)
    ((_, frame),) = access.sent()
    assert (frame.request, frame.ref, frame.number) == (request_.op, request_.ref, request_.number)
    assert (frame.code, frame.retry_after, frame.text) == (Code.RATE_LIMITED, 2.0, "more than 0.5 requests a second")


def test_sends_and_other_requests_are_counted_apart():
    access = Access(user_rate=0.5, user_burst=2)
    access.live()
    for frame in (send("1"), frames.EndSession("d1"), send("2"), frames.ReadCount(AB, 1)):
        access.receive(frame)
    assert "send" not in [method for method, _ in access.port.take()]
    access.receive(send("3"))
    access.receive(frames.EndSession("d1"))
    texts = [(frame.ref, frame.text) for _, frame in access.sent()]
    assert texts == [("3", "more than 0.5 messages a second"), ("d1", "more than 0.5 requests a second")]


def test_what_keeps_a_device_going_is_not_limited():
    """Acknowledgements and pings: to refuse them would make more work, not less."""
    access = Access(user_rate=0.1, user_burst=1)
    access.live()
    for _ in range(5):
        for frame in (frames.Ping(), frames.Delivered(AB, 1), frames.StateAck(AB, 1)):
            access.receive(frame)
    assert rejections(access) == []


def test_syncs_have_a_limit_of_their_own_and_acknowledge_all_the_same():
    access = Access(user_rate=0.5, user_burst=1)
    one = access.live()
    access.receive(send("1"))
    access.receive(frames.Sync({}, number=1))
    access.from_router(internal_frames.Down((one,), frames.Resync()))
    access.port.take()
    access.receive(frames.Sync({}, number=2, resync=1))
    ((method, (_, frame)),) = access.port.take()
    assert (method, frame.request, frame.number, frame.code) == ("send", "sync", 2, Code.RATE_LIMITED)
    assert (frame.retry_after, frame.text) == (2.0, "more than 0.5 syncs a second")
    access.advance(10.0)
    assert access.sent() == []  # no resync comes again


def test_a_sync_speaks_of_so_many_conversations_and_no_more(access):
    access.live()
    cursors = {f"p2p:alice:{number}": 1 for number in range(CURSORS)}
    access.receive(frames.Sync(cursors))
    assert [method for method, _ in access.port.take()] == ["to_router"]
    access.receive(frames.Sync({**cursors, "group:one": 1}, number=3))
    ((_, frame),) = access.sent()
    assert (frame.request, frame.number, frame.code) == ("sync", 3, Code.BAD_REQUEST)


def marks(access):
    """What was passed on of `delivered` since: (conversation, seq)."""
    told = [arguments[1].frame for method, arguments in access.port.take() if method == "to_router"]
    return [(frame.conversation_id, frame.seq) for frame in told]


def test_acknowledgements_beyond_the_rate_are_passed_on_later_the_latest_of_each_conversation():
    access = Access(user_rate=0.5, user_burst=1, receipts="delivered")
    access.live()
    for conversation, seq in ((AB, 1), (AB, 2), ("p2p:alice:carol", 7), (AB, 5), (AB, 4)):
        access.receive(frames.Delivered(conversation, seq))
    assert marks(access) == [(AB, 1)]
    access.advance(2.1)
    assert marks(access) == [(AB, 5)]
    access.receive(frames.Delivered(AB, 6))
    access.advance(10.0)
    assert marks(access) == [("p2p:alice:carol", 7), (AB, 6)]
    access.receive(frames.Delivered(AB, 8))
    access.receive(frames.Delivered(AB, 9))
    assert marks(access) == [(AB, 8)]
    access.machine.disconnected(1, access.clock.now)
    access.port.take()
    access.advance(10.0)
    assert marks(access) == []


def test_who_acknowledges_in_more_conversations_than_there_can_be_is_sent_away():
    access = Access(user_rate=0.01, user_burst=1, receipts="delivered")
    access.live()
    for number in range(CURSORS + 1):
        access.receive(frames.Delivered(f"p2p:alice:{number}", 1))
    access.port.take()
    access.receive(frames.Delivered("p2p:alice:one", 1))
    assert [frame.code for _, frame in access.sent()] == [Code.BAD_REQUEST]


def test_what_can_never_succeed_does_not_count_for_the_rate():
    access = Access(user_rate=0.1, user_burst=1, content_bytes=4)
    access.live()
    access.receive(send("1", "12345"))
    access.receive(send("1", "x", to="no name"))
    access.receive(frames.SetConversation(AB, custom="12345"))
    access.receive(frames.Enter("no name"))
    access.port.take()
    access.receive(send("1", "1234"))
    access.receive(frames.Enter("lounge"))
    assert [method for method, _ in access.port.take()] == ["to_router"] * 2


def test_without_a_limit_nobody_is_counted(access):
    access.live()
    for _ in range(100):
        access.receive(frames.EndSession("d1"))
    assert access.sent() == []
    assert len(access.machine._rates) == 0


def test_rate_limits_that_nobody_uses_are_forgotten(monkeypatch):
    monkeypatch.setattr("imsim.core.limits._BUCKETS", 3)
    access = Access(user_rate=1.0, user_burst=1)
    for number in range(10):
        access.live(number, f"user{number}")
        access.receive(send("1"), number)
        access.clock.now += 1.0
    assert len(access.machine._rates) <= 3


# --- delivered receipts ---------------------------------------------------------------------------------------------


def test_what_a_device_has_got_of_a_p2p_conversation_goes_to_its_user_if_somebody_wants_to_know():
    access = Access(receipts="delivered")
    one = access.live()
    access.push(one)
    access.port.take()
    for id in (AB, TEAM, "p2pish:x"):
        access.receive(frames.Delivered(id, 1))
    assert access.port.take() == [("to_router", ("bob", internal_frames.Up(one, frames.Delivered(AB, 1), "")))]
    access.advance(10)
    assert access.pushed() == []  # it is an acknowledgement all the same


# --- chatrooms, hints, whom one blocks ------------------------------------------------------------------------------

LOUNGE = "chatroom:lounge"


def ups(access):
    """(frame, conversation) of what went to routers since; other calls are forgotten."""
    found = []
    for method, arguments in access.port.take():
        if method == "to_router" and isinstance(arguments[1], internal_frames.Up):
            found.append((arguments[1].frame, arguments[0]))
    return found


def test_who_is_gone_leaves_the_rooms_that_are_not_left_yet(access):
    access.live()
    for frame in (frames.Enter("lounge", 3), frames.Enter("bar"), frames.Enter("bar"), frames.Leave("lounge")):
        access.receive(frame)
    assert [conversation for _, conversation in ups(access)] == [LOUNGE, "chatroom:bar", "chatroom:bar", LOUNGE]
    access.machine.disconnected(1, 0.0)
    assert ups(access) == [(frames.Leave("bar"), "chatroom:bar")]


def test_a_room_is_left_that_was_full_at_the_first_attempt_and_not_at_the_second(access):
    one = access.live()
    for _ in range(2):
        access.receive(frames.Enter("lounge"))
    access.from_router(internal_frames.Down((one,), frames.Rejected("enter", "lounge", Code.TOO_LARGE)))
    access.from_router(internal_frames.Down((one,), frames.Entered("lounge", 2, [])))
    access.port.take()
    access.machine.disconnected(1, 0.0)
    assert ups(access) == [(frames.Leave("lounge"), LOUNGE)]


def test_a_room_is_left_when_the_leave_was_too_much_for_the_moment():
    access = Access(user_rate=0.1, user_burst=1)
    access.live()
    access.receive(frames.Enter("lounge"))
    access.receive(frames.Leave("lounge"))  # refused
    access.receive(frames.Enter("bar"))  # refused
    access.port.take()
    access.machine.disconnected(1, 0.0)
    assert ups(access) == [(frames.Leave("lounge"), LOUNGE)]


def test_a_room_with_no_name_is_none(access):
    access.live()
    access.receive(frames.Enter("no name"))
    access.machine.disconnected(1, 0.0)
    assert ups(access) == []


def test_who_was_in_a_room_of_a_lost_router_must_log_in_again():
    access = Access(LETTERS)
    access.live(1)
    access.live(2, "carol")
    access.receive(frames.Enter("lounge"), 1)
    access.port.take()
    access.machine.router_lost("l")
    assert [arguments[0] for method, arguments in access.port.take() if method == "close"] == [1]


def test_hints_pass_within_their_budget_only():
    access = Access(typing_rate=1.0, typing_burst=2)
    access.live(1)
    access.live(2, epoch=2)
    for connection in (1, 2, 1):
        access.receive(frames.Typing(AB), connection)
    assert ups(access) == [(frames.Typing(AB), "bob")] * 2
    assert access.sent() == []  # nobody is told that it was too much
    access.clock.now = 1.0
    access.receive(frames.Typing(AB))
    assert len(ups(access)) == 1


def test_hints_are_off_by_default_and_cost_no_memory(access):
    access.live()
    access.receive(frames.Typing(AB))
    assert access.port.take() == []
    assert len(access.machine._hints) == 0


@pytest.mark.parametrize(
    "id",
    [
        "group:team",
        "system:bob",
        "p2p:bob:bob",
        "p2p:alice:carol",
        "p2p:zoe:bob",
        "p2p::bob",
        "p2p:bob:no name",
        "",
        "p2p:bob",
    ],
)
def test_only_the_other_user_of_a_conversation_can_be_blocked(access, id):
    access.live()
    for blocked in (True, False):
        access.receive(frames.SetConversation(id, blocked=blocked, number=4))
        ((_, rejected),) = access.sent()
        assert (rejected.request, rejected.ref, rejected.code, rejected.number) == (
            *("set_conversation", id, Code.BAD_REQUEST, 4),
        )
    access.receive(frames.SetConversation(id, pinned=True))
    assert len(ups(access)) == 1


def test_blocking_goes_to_ones_own_user(access):
    access.live()
    for id in (AB, "p2p:bob:zoe"):
        frame = frames.SetConversation(id, blocked=True)
        access.receive(frame)
        assert ups(access) == [(frame, "bob")]


# --- reads under way ------------------------------------------------------------------------------------------------

READ = [frames.History(AB, 1, 2, 5), frames.ReadCount(AB, 1, 5), frames.Sync({AB: 1}, number=5)]
ANSWERS = [
    frames.HistoryPage(AB, 1, 2, [], number=5),
    frames.ReadCounted(AB, 1, 0, 1, 5),
    frames.SyncDone([], {}, [], 0, number=5),
    frames.Page([], {}, number=5),
    frames.Rejected("history", f"{AB}:1-2", Code.UNAVAILABLE, number=5),
]


def passed_on(access):
    return sum(method == "to_router" for method, _ in access.port.take())


@pytest.mark.parametrize("frame", READ, ids=lambda frame: frame.op)
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda frame: frame.op)
def test_a_connection_has_only_so_many_reads_under_way(access, frame, answer):
    one = access.live()
    for _ in range(READS):
        access.receive(frame)
    assert passed_on(access) == READS
    access.receive(frame)
    ((to, rejected),) = access.sent()
    assert (to, rejected.request, rejected.ref, rejected.number) == (1, frame.op, frame.ref, 5)
    assert (rejected.code, rejected.retry_after) == (Code.RATE_LIMITED, 1.0)
    access.from_router(internal_frames.Down((one,), answer))
    access.port.take()
    access.receive(frame)
    access.receive(frame)
    assert passed_on(access) == 1


def test_what_is_no_answer_to_a_read_makes_no_room_and_other_requests_are_not_concerned(access):
    one = access.live()
    for _ in range(READS):
        access.receive(READ[0])
    access.push(one)
    for frame in (frames.Done("read", AB), frames.Rejected("read", AB, Code.UNAVAILABLE)):
        access.from_router(internal_frames.Down((one,), frame))
    access.port.take()
    access.receive(frames.Read(AB, 1))
    access.receive(READ[0])
    assert passed_on(access) == 1


def test_a_read_whose_answer_was_lost_does_not_count_for_ever(access):
    access.live()
    for _ in range(READS):
        access.receive(READ[0])
    access.advance(access.policies.storage_timeout)
    access.port.take()
    access.receive(READ[0])
    assert passed_on(access) == 1


def test_a_read_that_comes_too_fast_is_not_under_way():
    access = Access(user_rate=1.0, user_burst=1)
    access.live()
    for _ in range(3 * READS):
        access.receive(READ[0])
    assert passed_on(access) == 1
    access.advance(1.0)
    access.receive(READ[0])
    assert passed_on(access) == 1


def test_changes_under_way_are_bounded_apart_from_reads(access):
    one = access.live()
    changes = [frames.Read(AB, 1, 5), frames.SetConversation(AB, pinned=True, number=5), frames.EndSession("d1", 5)]
    for at in range(CHANGES):
        access.receive(changes[at % 3])
    assert passed_on(access) == CHANGES
    for frame in changes:
        access.receive(frame)
        ((_, rejected),) = access.sent()
        assert (rejected.request, rejected.code, rejected.number) == (frame.op, Code.RATE_LIMITED, 5)
    access.receive(frames.History(AB, 1, 2))
    assert passed_on(access) == 1
    for answer in (frames.Done("read", AB, 5), frames.Rejected("set_conversation", AB, Code.UNAVAILABLE, number=5)):
        access.from_router(internal_frames.Down((one,), answer))
        access.port.take()
        access.receive(changes[0])
        assert passed_on(access) == 1
    access.advance(access.policies.storage_timeout)
    access.port.take()
    access.receive(changes[0])
    assert passed_on(access) == 1


def test_an_acknowledgement_of_no_conversation_is_not_kept():
    access = Access(receipts="delivered", user_rate=0.001, user_burst=1)
    access.live()
    access.receive(frames.Delivered(AB, 1))
    assert passed_on(access) == 1
    access.receive(frames.Delivered("p2p:" + "x" * 1_000, 1))
    assert access.machine._connections[1].marks == {}


def test_a_room_that_refuses_takes_no_place():
    access = Access(rooms=1)
    one = access.live()
    access.receive(frames.Enter("full"))
    access.from_router(internal_frames.Down((one,), frames.Rejected("enter", "full", Code.TOO_LARGE)))
    access.port.take()
    access.receive(frames.Enter("other"))
    assert [frame.name for frame, _ in ups(access)] == ["other"]


@pytest.mark.parametrize(
    "late",
    [
        frames.Entered("lounge", 1, []),
        frames.Push(message(7, conversation_id=LOUNGE, scene=Scene.CHATROOM, to="lounge")),
    ],
    ids=lambda frame: frame.op,
)
def test_a_room_that_takes_who_is_gone_for_present_is_told_so(access, late):
    """Its `enter` was slower than the `leave` with which its connection ended."""
    one = access.live()
    access.machine.disconnected(1, 0.0)
    access.port.take()
    access.from_router(internal_frames.Down((one,), late))
    assert ups(access) == [(frames.Leave("lounge"), LOUNGE)]
    access.from_router(internal_frames.Down((one,), frames.Push(message(1))))
    assert ups(access) == []
