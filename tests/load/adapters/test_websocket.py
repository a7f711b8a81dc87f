"""The adapter of JSON-over-WebSocket servers: sessions driven by hand, and on real servers."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load.adapters.described_examples import QUICK, chat_server, example, target, write
from load.chat import running

from imsim.core.exceptions import UsageError
from imsim.core.model import Code, Scene
from imsim.core.policies import Policies
from imsim.live import MemoryStore, Server
from imsim.load import conformance
from imsim.load.adapters import (
    Acked,
    Closed,
    Connect,
    Connected,
    Conversation,
    Delivered,
    Disconnect,
    Disconnected,
    Failed,
    Feature,
    Joined,
    Message,
    NotJoined,
    Offline,
    Read,
    Ready,
    Received,
    Request,
    Response,
    Sent,
    find,
)
from imsim.load.adapters.websocket import WebSocketAdapter
from imsim.load.aio import devices, is_acked, is_delivered
from imsim.scenario.actor import IdClient

BOB = Conversation(Scene.P2P, "bob")
TEAM = Conversation(Scene.GROUP, "team")
LOUNGE = Conversation(Scene.CHATROOM, "lounge")

LEAST = """
send.p2p = { to = "{to}", id = "{id}", text = "{text}" }
acked = { when = { t = "ok" }, id = "id" }
delivered = { when = { t = "msg" }, id = "id" }
"""


def frame(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def fields(out: object) -> dict[str, object]:
    assert type(out) is bytes
    return json.loads(out)


@pytest.fixture
def session(tmp_path):
    """A function that returns the session of alice under a description, before its start."""

    def made(text: str, policies: Policies = QUICK, url: str = "ws://host:1"):
        adapter = WebSocketAdapter(target(url, namespace="ns", policies=policies, options=write(tmp_path, text)))
        return adapter.session(7, "alice", "phone")

    return made


@pytest.fixture
def online(session):
    """A function that returns the session of alice, logged in at 0 s."""

    def made(text: str, policies: Policies = QUICK):
        one = session(text, policies)
        assert one.start(0.0) == [Connect("ws://host:1", timeout=QUICK.login_timeout)]
        assert one.received(Connected(), 0.0)[-1] == Ready()
        return one

    return made


def message(id: str = "ns:1", conversation: Conversation = BOB, text: str = "hello") -> Message:
    return Message(id, conversation, text)


# --- the adapter ------------------------------------------------------------------------------------------------------


def test_adapter_is_found_by_name():
    assert find("websocket") is WebSocketAdapter


@pytest.mark.parametrize(
    ("url", "options", "error"),
    [
        ("ws://host:1", {}, "option file: missing; it names the TOML file that describes the server's protocol"),
        ("ws://host:1", {"file": "none.toml"}, "option file: there is no file none.toml"),
        ("http://host:1", {"file": "none.toml"}, "url: must be ws://host:port or wss://host:port (got 'http://host:1')"),
        ("ws://host:99999", {"file": "none.toml"}, "url: must be ws://host:port"),
        ("ws://", {"file": "none.toml"}, "url: must be ws://host:port"),
    ],
)  # fmt: skip
def test_adapter_refuses_target(tmp_path, monkeypatch, url, options, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as found:
        WebSocketAdapter(target(url, options=options))
    assert str(found.value).startswith(error)


def test_adapter_refuses_description_of_socketio(tmp_path):
    with pytest.raises(UsageError, match=r"socketio: is for Socket\.IO servers; use the adapter 'socketio'"):
        WebSocketAdapter(target("ws://host:1", options=write(tmp_path, LEAST + "[socketio]")))


# --- connection and login ---------------------------------------------------------------------------------------------

LOGIN = (
    LEAST
    + """
[connect]
url = "{url}/ws/{user}?t={token}"
subprotocols = ["chat.v2"]
headers = { Authorization = "Bearer {token}" }

[[connect.request]]
method = "POST"
url = "{http}/users"
body = { name = "{user}", key = "{key}" }
accept = [201, 409]

[[connect.request]]
url = "{http}/token"
headers = { Accept = "{user}", Content-Type = "x" }
keep = { token = "data.token" }

[[login]]
send = { hello = "{device}", n = "{n}", at = "{time}" }
answer = { when = { t = "hi" }, keep = { session = "sid" } }
refused = { when = { t = "no" }, reason = "why" }

[[login]]
answer.when = { t = "welcome" }

[[login]]
send = { resume = "{session}", n = "{n}" }
"""
)


def test_login_makes_requests_and_steps(session):
    one = session(LOGIN, url="wss://host:1/")
    header = (("Content-Type", "application/json"),)
    body = b'{"name":"alice","key":"secret"}'
    assert one.start(0.0) == [Request("POST", "https://host:1/users", header, body, "login:1", 2.0)]
    (request,) = one.received(Response("login:1", 409), 0.1)
    assert request == Request(
        "GET", "https://host:1/token", (("Accept", "alice"), ("Content-Type", "x")), b"", "login:1", 2.0
    )
    (connect,) = one.received(Response("login:1", 200, b'{"data": {"token": "a/b"}}'), 0.2)
    assert connect == Connect(
        "wss://host:1/ws/alice?t=a%2Fb", ("chat.v2",), (("Authorization", "Bearer a/b"),), QUICK.login_timeout
    )
    (hello,) = one.received(Connected("chat.v2"), 1.5)
    assert fields(hello) == {"hello": "phone", "n": 1, "at": 1500}
    assert one.received(frame(t="welcome"), 1.6) == [], "the answer to a later step"
    assert one.received(frame(t="hi", sid=[5]), 1.7) == []
    resume, ready = one.received(frame(t="welcome"), 1.8)
    assert (fields(resume), ready) == ({"resume": [5], "n": 2}, Ready())
    # A later connection needs no new token.
    assert one.received(Disconnected("lost"), 2.0) == [Offline("lost")]
    assert one.handle_timer(one.next_deadline()) == [connect]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (403, b"no", "HTTP 403 in answer to the request GET of the description: no"),
        (200, b"{}", "HTTP 200 in answer to the request GET of the description: {}: it has no data.token"),
        (200, b"<html>", "HTTP 200 in answer to the request GET of the description: <html>: it is not JSON"),
        (200, b'{"data": {"token": "a\\r\\nb"}}', "it has no data.token without control characters"),
    ],
)
def test_refused_request_closes_session(session, status, body, reason):
    one = session(LOGIN)
    one.start(0.0)
    one.received(Response("login:1", 201), 0.0)
    disconnect, closed = one.received(Response("login:1", status, body), 0.0)
    assert disconnect == Disconnect()
    assert closed.reason.endswith(reason)
    assert one.next_deadline() is None
    assert one.start(1.0) == []


@pytest.mark.parametrize(
    ("status", "what"), [(0, "no answer"), (429, "HTTP 429 in answer"), (503, "HTTP 503 in answer")]
)
def test_temporary_failure_of_request_is_retried(session, status, what):
    one = session(LOGIN)
    (request,) = one.start(0.0)
    _, offline = one.received(Response("login:1", status, b"x"), 0.0)
    assert offline == Offline(f"{what} to the request POST of the description: x")
    assert one.next_deadline() == pytest.approx(QUICK.reconnect_min / 2)
    assert one.handle_timer(0.1) == [request]


def test_answer_to_request_of_earlier_start_is_ignored(session):
    one = session(LOGIN)
    one.start(0.0)
    assert one.stop(0.1) == [Disconnect()]
    assert one.received(Response("login:1", 201), 0.1) == []
    (request,) = one.start(0.2)
    assert request.ref == "login:2"
    assert one.received(Response("login:1", 201), 0.3) == []
    assert one.received(Response("x", 201), 0.3) == []
    assert one.stop(0.3) == [Disconnect()]
    assert one.stop(0.3) == []
    assert one.received(Response("login:2", 201), 0.3) == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (frame(t="no", why="banned"), "the server refused the login: banned"),
        (frame(t="no"), 'the server refused the login: {"t":"no"}'),
        (frame(t="hi"), 'login: the answer has no sid: {"t":"hi"}'),
        (b"hello", "the server sent a frame that is not JSON: hello"),
        (b"\xff", "the server sent a frame that is not JSON: \ufffd"),
        (b"[" * 100_000, "the server sent a frame that is not JSON: " + "[" * 197 + "..."),
    ],
)
def test_refused_or_invalid_login_closes_session(session, answer, reason):
    one = session(LOGIN)
    one.start(0.0)
    one.received(Response("login:1", 201), 0.0)
    one.received(Response("login:1", 200, b'{"data": {"token": "x"}}'), 0.0)
    one.received(Connected(), 0.0)
    one.send(message(), 0.0)
    one.join(TEAM, ["alice"], True, 0.0)
    assert one.received(answer, 0.1) == [
        Disconnect(),
        Failed("ns:1", Code.TIMEOUT, "the session has ended"),
        NotJoined(TEAM, reason),
        Closed(reason),
    ]
    assert one.send(message("ns:2"), 0.2) == [Failed("ns:2", Code.TIMEOUT, "the session has ended")]
    assert one.join(TEAM, [], True, 0.2) == [NotJoined(TEAM, "the session has ended")]
    assert one.stop(0.3) == []


def test_login_without_answer_is_retried_with_longer_pauses(session):
    one = session(LEAST + "login = { send = {}, answer.when = { t = 'hi' } }")
    now = 0.0
    pauses = []
    one.start(now)
    for _ in range(6):
        assert fields(one.received(Connected(), now)[0]) == {}
        now = one.next_deadline()
        assert one.handle_timer(now) == [Disconnect(), Offline("the login was not complete in time")]
        pauses.append(one.next_deadline() - now)
        now = one.next_deadline()
        assert type(one.handle_timer(now)[0]) is Connect
    assert pauses == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.1, 0.1])


def test_missing_connection_is_retried(session):
    one = session(LEAST)
    one.start(0.0)
    assert one.received(Disconnected("refused"), 0.1) == [Offline("refused")]
    assert one.received(Disconnected("refused"), 0.1) == []
    assert one.received(Connected(), 0.1) == []
    one.handle_timer(1.0)
    deadline = one.next_deadline()
    assert one.handle_timer(deadline - 0.01) == []
    assert one.handle_timer(deadline)[1] == Offline("the login was not complete in time")


def test_server_can_end_session(online):
    one = online(LEAST + "closed = { when = { t = 'bye' }, reason = 'why' }")
    assert one.received(frame(t="bye", why="kicked"), 1.0) == [
        Disconnect(),
        Closed("the server ended the session: kicked"),
    ]


# --- messages ---------------------------------------------------------------------------------------------------------


def test_message_is_sent_acked_and_delivered(online):
    one = online(LEAST)
    (sent,) = one.send(message(text='"}\n'), 1.0)
    assert fields(sent) == {"to": "bob", "id": "ns:1", "text": '"}\n'}
    assert one.received(frame(t="ok", id="ns:1"), 1.1) == [Acked("ns:1")]
    assert one.received(frame(t="ok", id="ns:1"), 1.1) == []
    assert one.received(frame(t="msg", id="ns:2"), 1.1) == [Delivered("ns:2")]
    assert one.received(frame(t="msg", id="ns:2"), 1.1) == [Delivered("ns:2")], "a duplicate"


@pytest.mark.parametrize("text", ["5", "null", "[]", '"x"', "{}", '{"t": "msg"}', '{"t": {}}', '{"t": "msg", "id": 5}'])
def test_foreign_frame_is_ignored(online, text):
    assert online(LEAST).received(text.encode(), 1.0) == []


@given(data=st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["ok", "msg", "ns:1"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["t", "id", "n", "list"]), inner),
))  # fmt: skip
def test_no_json_makes_session_raise(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("x")
    text = (
        LEAST.replace("{text}", "{n}")
        + """
        received = [{ when = { t = "ok" }, n = "n" }, { each = "list", id = "id" }, { in_order = true }]
        failed = [{ n = "id", code = "t", text = "list" }]
        join.group = { enter = { n = "{n}" }, entered = [{ n = "n" }, { when = { t = "{name}" } }] }
        read = { send = { n = "{n}" }, answer = [{ n = "n" }, { each = "list.*.t", id = "$" }] }
        reply = { each = "list", where = { t = { not = 5 } }, send = ["{frame.id.t}"] }
    """
    )
    one = WebSocketAdapter(target("ws://x", options=write(folder, text))).session(0, "alice", "phone")
    one.start(0.0)
    one.received(Connected(), 0.0)
    one.send(message(), 0.0)
    one.join(TEAM, [], False, 0.0)
    one.read(BOB, "ns:9", 0.0)
    one.received(json.dumps(data).encode(), 1.0)


def test_message_waits_for_login(session):
    one = session(LEAST)
    assert one.send(message(), 0.0) == []
    one.start(1.0)
    ready, sent, event = one.received(Connected(), 1.0)
    assert (ready, event) == (Ready(), Sent("ns:1"))
    assert fields(sent)["id"] == "ns:1"
    assert one.received(frame(t="ok", id="ns:1"), 2.0) == [Acked("ns:1")]


def test_message_without_answer_fails_after_all_timeouts(online):
    one = online(LEAST, replace(QUICK, send_timeout=1.0, send_attempts=3, reconnect_max=10.0))
    one.send(message(), 10.0)
    assert one.next_deadline() == 10.0 + 1 + 2 + 4
    assert one.handle_timer(16.9) == []
    assert one.handle_timer(17.0) == [Failed("ns:1", Code.TIMEOUT, "no answer")]
    assert one.next_deadline() is None
    assert one.received(frame(t="ok", id="ns:1"), 18.0) == []


def test_message_of_offline_device_fails(session):
    one = session(LEAST, replace(QUICK, send_timeout=1.0, send_attempts=1))
    one.send(message(), 10.0)
    assert one.handle_timer(one.next_deadline()) == [
        Failed("ns:1", Code.TIMEOUT, "the device was offline for too long")
    ]


def test_message_is_sent_again_if_server_recognizes_it(online):
    policies = replace(QUICK, send_timeout=1.0, send_attempts=3, reconnect_max=10.0)
    one = online(LEAST.replace("send.p2p", "send.resend = true\nsend.p2p"), policies)
    (sent,) = one.send(message(), 0.0)
    assert one.handle_timer(1.0) == [sent, Sent("ns:1")]
    one.received(Disconnected("lost"), 1.5)
    one.handle_timer(1.6)
    assert one.received(Connected(), 2.0) == [Ready(), sent, Sent("ns:1")]
    one.received(Disconnected("lost"), 2.5)
    one.handle_timer(6.0)
    assert one.handle_timer(7.0)[-1] == Failed("ns:1", Code.TIMEOUT, "no answer")


def test_message_is_sent_once_by_default(online):
    one = online(LEAST)
    one.send(message(), 0.0)
    failed = Failed("ns:1", Code.TIMEOUT, "the connection ended before the answer")
    assert one.received(Disconnected("lost"), 0.5) == [failed, Offline("lost")]
    one.handle_timer(1.0)
    assert one.received(Connected(), 1.0) == [Ready()]


def test_scene_without_template_fails(online):
    one = online(LEAST)
    assert one.send(message(conversation=TEAM), 0.0) == [
        Failed("ns:1", Code.BAD_REQUEST, "the description has no send.group")
    ]


def test_message_without_acks_is_not_waited_for(online):
    one = online(LEAST.replace("acked", "closed").replace(', id = "id" }\ndel', " }\ndel"))
    assert len(one.send(message(), 0.0)) == 1
    assert one.next_deadline() is None


def test_acks_in_order(online):
    one = online(
        LEAST.replace(', id = "id" }\ndel', ", in_order = true }\ndel")
        + """
        failed = { when = { t = "no" }, in_order = true, code = "code", text = "why" }
    """
    )
    for id in ("ns:1", "ns:2", "ns:3"):
        one.send(message(id), 0.0)
    assert one.received(frame(t="ok", seq=8), 0.1) == [Acked("ns:1")]
    assert one.received(frame(t="no", code="muted", why="x"), 0.1) == [Failed("ns:2", Code.MUTED, "x")]
    assert one.received(frame(t="ok", seq=9), 0.1) == [Acked("ns:3")]
    assert one.received(frame(t="ok", seq=10), 0.1) == []
    # Answers to messages of an earlier connection do not come.
    one.send(message("ns:4"), 1.0)
    one.received(Disconnected("lost"), 1.5)
    one.handle_timer(2.0)
    one.received(Connected(), 2.0)
    one.send(message("ns:5"), 2.0)
    assert one.received(frame(t="ok"), 2.1) == [Acked("ns:5")]


def test_message_that_timed_out_keeps_its_place_in_the_order(online):
    one = online(LEAST.replace(', id = "id" }\ndel', ", in_order = true }\ndel"), replace(QUICK, send_attempts=1))
    one.send(message("ns:1"), 0.0)
    one.send(message("ns:2"), 1.0)
    assert one.handle_timer(5.0) == [Failed("ns:1", Code.TIMEOUT, "no answer")]
    assert one.received(frame(t="ok"), 5.1) == []
    assert one.received(frame(t="ok"), 5.1) == [Acked("ns:2")]


def test_refusal_with_id_leaves_the_order(online):
    one = online(LEAST.replace(', id = "id" }\ndel', ", in_order = true }\ndel") + "failed.id = 'bad'")
    one.send(message("ns:1"), 0.0)
    one.send(message("ns:2"), 0.0)
    assert one.received(frame(t="x", bad="ns:1"), 0.1) == [Failed("ns:1", Code.BAD_REQUEST, "")]
    assert one.received(frame(t="ok"), 0.1) == [Acked("ns:2")]


def test_acks_by_request_number(online):
    one = online("""
        send.p2p = [ "{n}", "{id}" ]
        received = { when = { t = "got" }, n = "n" }
        acked = { when = { t = "ok" }, n = "n" }
        failed = { when = { t = "no" }, n = "n", code = "code", text = "why" }
        delivered.id = "id"
    """)
    assert [json.loads(*one.send(message(f"ns:{k}"), 0.0)) for k in (1, 2)] == [[1, "ns:1"], [2, "ns:2"]]
    assert one.received(frame(t="got", n=2), 0.1) == [Received("ns:2")]
    assert one.received(frame(t="ok", n="2"), 0.1) == [Acked("ns:2")], "a number as a text"
    assert one.received(frame(t="no", n=1, code="E7", why="x"), 0.1) == [Failed("ns:1", Code.BAD_REQUEST, "E7: x")]
    assert one.received(frame(t="ok", n=1), 0.1) == []
    assert one.received(frame(t="ok", n="x"), 0.1) == []


@pytest.mark.parametrize("how", ["in_order = true", "n = 'n'", "id = 'id'"])
def test_ids_of_a_plan_are_texts(online, how):
    one = online(f"""
        send.p2p = {{ id = "{{id}}", more = "<{{id}}>", text = "{{text_with_id}}", n = "{{n}}" }}
        acked = {{ {how} }}
        delivered.id = "m"
    """)
    id = IdClient(5, "ns:")
    (sent,) = one.send(message(id, text="x" * 8), 0.0)
    assert fields(sent) == {"id": "ns:5", "more": "<ns:5>", "text": "ns:5 xxx", "n": 1}
    assert one.received(frame(id="ns:5", n=1), 0.1) == [Acked("ns:5")]


def test_acks_in_batch(online):
    one = online(
        LEAST
        + "\n[[failed]]\neach = 'errors'\nid = 'id'\n"
        + """
        [[received]]
        when = { t = "batch" }
        each = "ok"
        id = "$"
    """
    )
    for k in (1, 2, 3):
        one.send(message(f"ns:{k}"), 0.0)
    found = one.received(frame(t="batch", ok=["ns:1", "ns:2"], errors=[{"id": "ns:3"}]), 0.1)
    assert found == [Failed("ns:3", Code.BAD_REQUEST, ""), Received("ns:1"), Received("ns:2")]


def test_echo_to_sender_is_its_ack(online):
    one = online("""
        send.p2p = { id = "{id}" }
        acked = { when = { from = "{user}" }, id = "id" }
        delivered = { id = "id" }
    """)
    one.send(message("ns:1"), 0.0)
    assert one.received(frame(id="ns:1", **{"from": "alice"}), 0.1) == [Acked("ns:1")]
    assert one.received(frame(id="ns:5", **{"from": "alice"}), 0.1) == [Delivered("ns:5")], "of another device"


def test_id_in_text(online):
    one = online("""
        send.p2p = { text = "{text_with_id}" }
        acked = { when = { t = "ok" }, id = "text.$id" }
        delivered = { when = { t = "msg" }, id = "m.text.$id" }
    """)
    (sent,) = one.send(message(text="x" * 20), 0.0)
    assert fields(sent) == {"text": "ns:1 " + "x" * 15}
    assert one.received(frame(t="ok", text="ns:1 xxx"), 0.1) == [Acked("ns:1")]
    assert one.received(frame(t="msg", m={"text": "ns:2 hello"}), 0.1) == [Delivered("ns:2")]


def test_batches_wrappers_and_nested_json(online):
    one = online("""
        send.p2p = { data = { "$json" = { id = "{id}", text = "{text}" } } }

        [[delivered]]
        when = { t = "history" }
        each = "rooms.*.messages"
        where = { kind = { not = ["join", "leave"] } }
        id = "id"
        synced = true

        [[delivered]]
        when = { t = "batch" }
        each = "list"
        scene = "group"
        to = "$frame.room"
        id = "data.$json.id"
    """)
    (sent,) = one.send(message(text='"'), 0.0)
    assert json.loads(fields(sent)["data"]) == {"id": "ns:1", "text": '"'}
    rooms = [
        {"messages": [{"id": "ns:2"}, {"id": "ns:3", "kind": "join"}]},
        {"messages": [{"id": "ns:4", "kind": "text"}]},
    ]
    assert one.received(frame(t="history", rooms=rooms), 0.1) == [
        Delivered("ns:2", None, True),
        Delivered("ns:4", None, True),
    ]
    batch = frame(t="batch", room="team", list=[{"data": json.dumps({"id": f"ns:{k}"})} for k in (5, 6)])
    assert one.received(batch, 0.1) == [Delivered("ns:5", TEAM), Delivered("ns:6", TEAM)]


def test_elements_without_id_are_skipped(online):
    one = online("""
        send.p2p = { n = "{n}" }
        acked = { each = "acks", n = "n" }
        delivered = { each = "list", id = "id", scene = "group", to = "to", keep = { k = "k" }, last = { since = "k" } }
        initial.since = 3
        reply = { each = "list", send = ["{frame.id}", "{since}"] }
        read = { send = ["{k}"], answer.in_order = true }
    """)
    one.send(message(), 0.0)
    outs = one.received(frame(list=[{}, 5, {"id": 7}, {"id": "ns:9"}], acks=[{}, None, {"n": 1}]), 0.1)
    assert outs[:2] == [Acked("ns:1"), Delivered("ns:9")], "it has no conversation and no `k`"
    assert [json.loads(out) for out in outs[2:]] == [[7, 3], ["ns:9", 3]]
    assert [json.loads(out) for out in one.read(TEAM, "ns:9", 0.2)] == [[None]]


def test_frame_with_lines(online):
    one = online(LEAST + "connect.frames = 'lines'")
    one.send(message(), 0.0)
    lines = frame(t="ok", id="ns:1") + b"\n\n" + frame(t="msg", id="ns:2") + b"\r\n"
    assert one.received(lines, 0.1) == [Acked("ns:1"), Delivered("ns:2")]
    assert one.received(b"{}\nx", 0.1)[-1] == Closed("the server sent a frame that is not JSON: {}\nx")


def test_scenes_of_deliveries(online):
    one = online("""
        send.p2p = {}
        delivered = [
            { when = { k = 1 }, id = "id", scene = "p2p" },
            { when = { k = 2 }, id = "id", scene = "p2p", to = "to" },
            { when = { k = 3 }, id = "id", scene = "chatroom", to = "to" },
        ]
    """)
    assert one.received(frame(k=1, id="ns:1"), 0.1) == [Delivered("ns:1", Conversation(Scene.P2P, "alice"))]
    assert one.received(frame(k=2, id="ns:1", to="bob"), 0.1) == [Delivered("ns:1", BOB)]
    assert one.received(frame(k=3, id="ns:1", to=5), 0.1) == [Delivered("ns:1", Conversation(Scene.CHATROOM, "5"))]
    assert one.received(frame(k=True, id="ns:1"), 0.1) == [], "true is not 1"


def test_sender_and_text_of_deliveries(online):
    """Tasks need them for messages of other processes. Without the paths, or the values, they are null."""
    one = online("""
        send.p2p = {}
        [[delivered]]
        when = { k = 1 }
        each = "all"
        id = "text.$id"
        text = "text.$rest"
        sender = "$frame.from"
        [[delivered]]
        when = { k = 2 }
        id = "id"
        sender = "from"
        text = "text"
    """)

    def said(*frames: bytes) -> list[tuple[str, str | None, str | None]]:
        return [(event.id, event.sender, event.text) for text in frames for event in one.received(text, 0.1)]

    listed = frame(**{"k": 1, "from": "bob", "all": [{"text": "ns:1 hello bob"}, {"text": "ns:2"}]})
    assert said(listed) == [("ns:1", "bob", "hello bob"), ("ns:2", "bob", "")]
    assert said(frame(**{"k": 2, "id": "ns:3", "from": 7, "text": "x"})) == [("ns:3", "7", "x")]
    assert said(frame(k=2, id="ns:4")) == [("ns:4", None, None)]
    assert [(event.sender, event.text) for event in online(LEAST).received(frame(t="msg", id="ns:5"), 0.1)] == [
        (None, None)
    ]


@pytest.mark.parametrize(
    ("when", "matching", "other"),
    [
        ("{ a = 'x', b = ['1', 2] }", [{"a": "x", "b": "1"}, {"a": "x", "b": 2}], [{"a": "x", "b": 1}, {"a": "x"}]),
        ("{ a = { not = 'x' } }", [{"a": "y"}, {}], [{"a": "x"}]),
        ("{ a = { exists = true } }", [{"a": None}], [{}]),
        ("{ a = { exists = false } }", [{}], [{"a": None}]),
        ("{ a = false }", [{"a": False}], [{"a": 0}, {}]),
        ("{ 'a.b.0' = '{user}.{device}' }", [{"a": {"b": ["alice.phone"]}}], [{"a": {"b": ["alice"]}}, {"a": "x"}]),
        ("{ a = '{{user}}' }", [{"a": "{user}"}], [{"a": "alice"}]),
    ],
)
def test_conditions(online, when, matching, other):
    one = online(f"send.p2p = {{}}\ndelivered = {{ id = 'id', when = {when} }}")
    for document in matching:
        assert one.received(frame(id="ns:1", **document), 0.1) == [Delivered("ns:1")], document
    for document in other:
        assert one.received(frame(id="ns:1", **document), 0.1) == [], document


def test_login_contains_position_of_last_message(session):
    one = session("""
        initial.since = 0
        login.send = { since = "{since}" }
        send.p2p = {}
        delivered = { id = "id", last = { since = "seq" } }
    """)
    one.start(0.0)
    assert fields(one.received(Connected(), 0.0)[0]) == {"since": 0}
    one.received(frame(id="ns:1", seq=4), 0.1)
    one.received(Disconnected("lost"), 0.2)
    one.handle_timer(1.0)
    assert fields(one.received(Connected(), 1.0)[0]) == {"since": 4}


# --- replies, pings, receipts -----------------------------------------------------------------------------------------


def test_replies_contain_values_of_frame(online):
    one = online(
        LEAST
        + """
        [[reply]]
        when = { t = "ping" }
        send = { t = "pong", data = "{frame.data}", n = "{n}" }

        [[reply]]
        when = { t = "msgs" }
        each = "list"
        send = { ack = "{frame.seq}", room = "in {frame.$frame.room}" }
    """
    )
    (pong,) = one.received(frame(t="ping", data={"x": 1}), 0.1)
    assert fields(pong) == {"t": "pong", "data": {"x": 1}, "n": 1}
    assert one.received(frame(t="ping"), 0.1) == [], "there is nothing to send back"
    replies = one.received(frame(t="msgs", room="a", list=[{"seq": 1}, {"seq": 2}]), 0.1)
    assert [fields(reply) for reply in replies] == [{"ack": 1, "room": "in a"}, {"ack": 2, "room": "in a"}]


def test_keepalive_sends_pings_and_notices_silence(online):
    one = online(LEAST + "keepalive = { send = { t = 'ping' }, every = '10s', timeout = '25s' }")
    for now in (10.0, 20.0):
        assert one.next_deadline() == now
        assert one.handle_timer(now) == [b'{"t":"ping"}']
    assert one.next_deadline() == 25.0
    one.received(frame(t="pong"), 24.0)
    assert one.next_deadline() == 30.0
    assert one.handle_timer(30.0) == [b'{"t":"ping"}']
    assert one.handle_timer(49.0) == [Disconnect(), Offline("the server was silent for 25 s")]


def test_receipts(online):
    one = online("""
        send.p2p = {}
        delivered = { when = { t = "msg" }, id = "id", keep = { seq = "seq" } }
        read = { send = { read = "{seq}", to = "{to}", n = "{n}" }, answer = { when = { t = "seen" }, n = "n" } }
    """)
    assert one.read(BOB, "ns:1", 0.0) == [], "the device does not know it"
    one.received(frame(t="msg", id="ns:1", seq=5), 0.1)
    (sent,) = one.read(BOB, "ns:1", 0.2)
    assert fields(sent) == {"read": 5, "to": "bob", "n": 1}
    assert one.received(frame(t="seen", n=9), 0.3) == []
    assert one.received(frame(t="seen", n=1), 0.3) == [Read("ns:1")]
    assert one.received(frame(t="seen", n=1), 0.3) == []


def test_receipt_of_message_without_a_kept_value_has_null(online):
    one = online("""
        send.p2p = {}
        delivered = [{ when = { t = 1 }, id = "id", keep = { a = "a" } }, { when = { t = 2 }, id = "id" }]
        read = { send = ["{a}", "{id}"], answer.in_order = true }
    """)
    one.received(frame(t=2, id="ns:1"), 0.1)
    assert one.read(BOB, "ns:1", 0.2) == []
    one.received(frame(t=1, id="ns:2"), 0.1)
    assert one.read(BOB, "ns:2", 0.2) == [b'[null,"ns:2"]']


@pytest.mark.parametrize("answer", ["{ in_order = true }", "{ id = 'id' }", "{ each = 'list', id = '$' }"])
def test_receipts_by_id_or_order(online, answer):
    one = online(f"send.p2p = {{}}\ndelivered.id = 'm'\nread = {{ send = {{ id = '{{id}}' }}, answer = {answer} }}")
    assert len(one.read(BOB, "ns:1", 0.2)) == 1
    assert one.received(frame(id="ns:1", list=["ns:1"]), 0.3) == [Read("ns:1")]


# --- groups and chatrooms ---------------------------------------------------------------------------------------------

JOINS = """
acked = { when = { t = "ok" }, id = "id" }
delivered = { when = { t = "msg" }, id = "id" }

[send]
group = { to = "{to}" }
chatroom = { to = "{to}" }

[join.group]
create = { create = "{name}", members = "{members}", n = "{n}" }
created = { when = { t = "created" }, n = "n" }
enter = { enter = "{name}" }
entered = { when = { t = "in", name = "{name}" } }
refused = { when = { t = "no", name = "{name}" }, reason = "why" }
again = false

[join.chatroom]
enter = { room = "{name}" }
entered = { when = { t = "inside" } }
"""


def test_creator_creates_and_enters(online):
    one = online(JOINS)
    (create,) = one.join(TEAM, ["alice", "bob"], True, 0.0)
    assert fields(create) == {"create": "team", "members": ["alice", "bob"], "n": 1}
    assert one.received(frame(t="created", n=2), 0.1) == []
    (enter,) = one.received(frame(t="created", n=1), 0.1)
    assert fields(enter) == {"enter": "team"}
    assert one.received(frame(t="in", name="x"), 0.1) == []
    assert one.received(frame(t="in", name="team"), 0.1) == [Joined(TEAM)]
    assert one.received(frame(t="in", name="team"), 0.1) == []


def test_other_device_only_enters(online):
    one = online(JOINS)
    (enter,) = one.join(TEAM, ["alice", "bob"], False, 0.0)
    assert fields(enter) == {"enter": "team"}
    assert one.received(frame(t="no", name="team", why="full"), 0.1) == [NotJoined(TEAM, "full")]
    assert one.next_deadline() is not None
    assert one.handle_timer(10.0) == []
    assert one.next_deadline() is None


def test_join_without_answer_fails(online):
    one = online(JOINS)
    one.join(TEAM, [], True, 1.0)
    assert one.next_deadline() == 3.0
    assert one.handle_timer(3.0) == [NotJoined(TEAM, "no answer within 2 s")]


def test_answers_without_name_come_in_order(online):
    one = online(JOINS)
    rooms = [Conversation(Scene.CHATROOM, name) for name in ("a", "b", "c")]
    for room in rooms:
        one.join(room, [], False, 0.0)
    assert [one.received(frame(t="inside"), 0.1) for _ in range(4)] == [*([Joined(room)] for room in rooms), []]


def test_device_enters_again_after_login(online):
    one = online(JOINS)
    one.join(LOUNGE, [], False, 0.0)
    one.received(frame(t="inside"), 0.1)
    one.join(TEAM, [], False, 0.0)
    one.received(frame(t="in", name="team"), 0.1)
    one.join(Conversation(Scene.GROUP, "late"), [], False, 0.0)
    one.received(Disconnected("lost"), 0.2)
    one.handle_timer(1.0)
    ready, room, late = one.received(Connected(), 1.0)
    assert (ready, fields(room), fields(late)) == (Ready(), {"room": "lounge"}, {"enter": "late"})
    assert one.received(frame(t="inside"), 1.1) == [], "it was reported before"


def test_groups_need_no_join(online):
    one = online(LEAST)
    assert one.join(TEAM, [], True, 0.0) == [Joined(TEAM)]
    assert one.next_deadline() == 2.0
    assert one.handle_timer(2.0) == []
    assert one.next_deadline() is None
    assert one.join(BOB, [], True, 0.0) == [NotJoined(BOB, "not a group or chatroom")]


def test_frames_without_answers_join_at_once(online):
    one = online(LEAST + "join.group = { create = { c = '{name}' }, enter = { e = '{name}' } }")
    create, enter, joined = one.join(TEAM, [], True, 0.0)
    assert (fields(create), fields(enter), joined) == ({"c": "team"}, {"e": "team"}, Joined(TEAM))


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (200, Joined(TEAM)),
        (400, NotJoined(TEAM, "HTTP 400 in answer to the request POST of the description: x")),
        (0, NotJoined(TEAM, "no answer to the request POST of the description: x")),
    ],
)
def test_group_is_created_over_http(online, status, event):
    one = online(
        LEAST
        + """
        [join.group.request]
        method = "POST"
        url = "{http}/groups/{name}"
        body = { members = "{members}" }
    """
    )
    (request,) = one.join(TEAM, ["a"], True, 0.0)
    assert (request.url, request.body, request.ref) == ("http://host:1/groups/team", b'{"members":["a"]}', "group:team")
    one.received(Disconnected("lost"), 0.2)
    one.handle_timer(0.5)
    assert one.received(Connected(), 0.5) == [Ready()], "the request is still pending"
    assert one.received(Response("group:team", status, b"x"), 0.6) == [event]
    assert one.received(Response("group:team", status, b"x"), 0.6) == []


# --- real servers -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def imsim_server():
    store = MemoryStore()
    server = Server(Policies(), store, key="secret")
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        store.close()


async def talk(adapter) -> None:
    """Exchange messages of each scene."""
    async with devices(adapter, "alice", "bob") as (alice, bob):
        for number, scene in enumerate((Scene.P2P, Scene.GROUP, Scene.CHATROOM)):
            conversation = bob.conversation
            if scene is not Scene.P2P:
                conversation = Conversation(scene, f"{adapter.target.namespace}.together")
                for one in (alice, bob):
                    one.join(conversation, [alice.user, bob.user], one is alice)
                    await one.wait(lambda event, wanted=Joined(conversation): event == wanted)
            ids = [alice.send(conversation, f'{number} "\\ \u2028 {{id}} 汉字') for _ in range(20)]
            for id in ids:
                await alice.wait(is_acked(id))
                delivered = await bob.wait(is_delivered(id))
                assert delivered.conversation in (None, conversation)
        for one in (alice, bob):
            kinds = {type(event) for event in one.events}
            assert kinds <= {Ready, Acked, Delivered, Joined}
        assert len([event for event in bob.events if isinstance(event, Delivered)]) == 60


async def test_documented_chat_server(tmp_path):
    options = write(tmp_path, example("chat.toml"))
    async with chat_server() as (url, _):
        await talk(WebSocketAdapter(target(url, namespace="ns", options=options)))
        wrong = WebSocketAdapter(target(url, options=options, key="wrong"))
        async with devices(wrong, "alice", online=False) as (alice,):
            alice.start()
            closed = await alice.wait(Closed)
            assert closed.reason == "the server refused the login: wrong password"


async def test_imsim_server(tmp_path):
    options = write(tmp_path, example("imsim.toml"))
    async with imsim_server() as server:
        adapter = WebSocketAdapter(target(server.url, namespace="ns", options=options))
        await talk(adapter)
        async with devices(adapter, "carol", ("carol", "tablet"), "dave") as (carol, tablet, dave):
            id = carol.send(dave.conversation, "hello")
            await tablet.wait(is_delivered(id))
            delivered = await dave.wait(is_delivered(id))
            dave.read(delivered.conversation, id)
            assert await dave.wait(Read) == Read(id)
            id = carol.send(Conversation(Scene.GROUP, "ns.none"), "hello")
            failed = await carol.wait(Failed)
            assert (failed.id, failed.code) == (id, Code.NOT_MEMBER)
        wrong = WebSocketAdapter(target(server.url, options=options, key="wrong"))
        async with devices(wrong, "alice", online=False) as (alice,):
            alice.start()
            closed = await alice.wait(Closed)
            assert closed.reason.startswith("HTTP 401 in answer to the request GET of the description")


#: A description of the server in tests/load/chat.py, which has every feature.
ALL = """
features = ["own devices", "resume", "membership"]
initial.since = 0

[login]
send = { op = "login", user = "{user}", device = "{device}", since = "{since}" }
answer.when = { op = "ready" }
refused = { when = { op = "refused" }, reason = "reason" }

[join.group]
create = { op = "join", scene = "group", name = "{name}", members = "{members}", creates = true }
created.when = { op = "joined", scene = "group", name = "{name}" }
enter = { op = "join", scene = "group", name = "{name}", members = [], creates = false }
entered.when = { op = "joined", scene = "group", name = "{name}" }
refused = { when = { op = "not joined", scene = "group", name = "{name}" }, reason = "reason" }
again = false

[join.chatroom]
enter = { op = "join", scene = "chatroom", name = "{name}" }
entered.when = { op = "joined", scene = "chatroom", name = "{name}" }

[send]
resend = true
p2p = { op = "send", id = "{id}", scene = "{scene}", to = "{to}", text = "{text}" }
group = { op = "send", id = "{id}", scene = "{scene}", to = "{to}", text = "{text}" }
chatroom = { op = "send", id = "{id}", scene = "{scene}", to = "{to}", text = "{text}" }

[acked]
when = { op = "ack" }
id = "id"

[[delivered]]
when = { op = "message", scene = "p2p", synced = { exists = false } }
scene = "p2p"
to = "to"
id = "id"
last = { since = "n" }

[[delivered]]
when = { op = "message", scene = "group", synced = { exists = false } }
scene = "group"
to = "to"
id = "id"
last = { since = "n" }

[[delivered]]
when = { op = "message", scene = "p2p", synced = true }
scene = "p2p"
to = "to"
id = "id"
synced = true
last = { since = "n" }

[[delivered]]
when = { op = "message", scene = "group", synced = true }
scene = "group"
to = "to"
id = "id"
synced = true
last = { since = "n" }

[[delivered]]
when = { op = "message", scene = "chatroom" }
scene = "chatroom"
to = "to"
id = "id"

[read]
send = { op = "read", id = "{id}" }
answer = { when = { op = "read" }, id = "id" }
"""


async def test_device_resumes(tmp_path):
    async with running() as server:
        adapter = WebSocketAdapter(target(server.url, namespace="ns", options=write(tmp_path, ALL)))
        assert adapter.features == frozenset(Feature) - {Feature.TYPES, Feature.ACTIONS}
        async with devices(adapter, "alice", "bob") as (alice, bob):
            first = alice.send(bob.conversation, "one")
            await bob.wait(is_delivered(first))
            bob.stop()
            second = alice.send(bob.conversation, "two")
            await alice.wait(is_acked(second))
            bob.start()
            assert await bob.wait(is_delivered(second)) == Delivered(second, bob.conversation, True)
            assert [event for event in bob.events if isinstance(event, Delivered)].count(Delivered(first)) == 0


@pytest.mark.parametrize("server", ["chat.toml", "imsim.toml", "all"])
async def test_descriptions_pass_all_checks(tmp_path, server):
    async with AsyncExitStack() as stack:
        if server == "chat.toml":
            url, _ = await stack.enter_async_context(chat_server())
        elif server == "imsim.toml":
            url = (await stack.enter_async_context(imsim_server())).url
        else:
            url = (await stack.enter_async_context(running())).url
        options = write(tmp_path, ALL if server == "all" else example(server))
        report = await conformance.checked(WebSocketAdapter, target(url, options=options))
        assert report.passed, report
