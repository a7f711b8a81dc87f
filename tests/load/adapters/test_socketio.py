"""The adapter of Socket.IO servers: packets compared with python-socketio's, sessions by hand, and its real server."""

from __future__ import annotations

import json
import tomllib
from contextlib import asynccontextmanager
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load.adapters.described_examples import QUICK, example, names_of, target, write
from socketio.packet import Packet

from imsim.core.exceptions import UsageError
from imsim.core.model import Code, Scene
from imsim.load import conformance
from imsim.load.adapters import (
    Acked,
    Closed,
    Connect,
    Connected,
    Conversation,
    Delivered,
    Disconnect,
    Failed,
    Joined,
    Message,
    Offline,
    Ready,
    find,
)
from imsim.load.adapters.socketio import SocketIOAdapter
from imsim.load.aio import devices, is_acked, is_delivered

TEAM = Conversation(Scene.GROUP, "team")
OPEN = b'0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000}'

EVENTS = """
send.p2p = { event = "msg", args = ["{id}", "{to}", { text = "{text}" }] }
delivered = { when = { event = "msg" }, id = "args.0" }
"""


@pytest.fixture
def session(tmp_path):
    """A function that returns the session of alice under a description, before its start."""

    def made(text: str = ""):
        options = write(tmp_path, text) if text else {}
        return SocketIOAdapter(target("ws://host:1", namespace="ns", options=options)).session(7, "alice", "phone")

    return made


@pytest.fixture
def online(session):
    """A function that returns the session of alice, logged in at 0 s."""

    def made(text: str = "", namespace: str = ""):
        one = session(text)
        one.start(0.0)
        one.received(Connected(), 0.0)
        one.received(OPEN, 0.0)
        assert one.received(f'40{namespace}{{"sid":"y"}}'.encode(), 0.0)[-1] == Ready()
        return one

    return made


def message(id: str = "ns:1", to: str = "bob", text: str = "hello") -> Message:
    return Message(id, Conversation(Scene.P2P, to), text)


def packet(*arguments: object, **more: object) -> bytes:
    """Return a packet of python-socketio, in a packet of Engine.IO."""
    return b"4" + Packet(*arguments, **more).encode().encode()


# --- packets ----------------------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text(), st.text(), st.text(), st.sampled_from(["/", "/chat"]), st.booleans())
def test_packets_are_those_that_python_socketio_reads(tmp_path_factory, id, to, text, namespace, ack):
    description = f"""
        send.p2p = {{ event = "msg", args = ["{{id}}", "{{to}}", {{ text = "{{text}}" }}], ack = {str(ack).lower()} }}
        delivered = {{ when = {{ event = "msg" }}, id = "args.0" }}
        socketio.namespace = "{namespace}"
        acked.n = "ack"
    """
    if not ack:
        description = description.replace('acked.n = "ack"', "")
    options = write(tmp_path_factory.mktemp("x"), description)
    one = SocketIOAdapter(target("ws://host:1", options=options)).session(0, "alice", "phone")
    one.start(0.0)
    one.received(Connected(), 0.0)
    (connect,) = one.received(OPEN, 0.0)
    assert connect == packet(0, namespace=namespace)
    one.received(packet(0, {"sid": "x"}, namespace=namespace), 0.0)
    (sent,) = one.send(message(id, to, text), 0.0)
    assert sent[:1] == b"4"
    read = Packet(encoded_packet=sent[1:].decode())
    assert (read.packet_type, read.data, read.id) == (2, ["msg", id, to, {"text": text}], 1 if ack else None)
    assert read.namespace in (namespace, None)
    if ack:
        assert one.received(packet(3, [], namespace=namespace, id=1), 0.0) == [Acked(id)]


@given(_JSON, st.text(), st.none() | st.integers(0, 2**40), st.sampled_from(["/", "/chat"]))
def test_packets_of_python_socketio_are_read(tmp_path_factory, value, id, number, namespace):
    options = write(tmp_path_factory.mktemp("x"), EVENTS + f'socketio.namespace = "{namespace}"')
    one = SocketIOAdapter(target("ws://host:1", options=options)).session(0, "alice", "phone")
    for other in {"/", "/chat", "/chat/b"} - {namespace}:
        assert one.received(packet(2, ["msg", id, value], namespace=other, id=number), 0.0) == []
    assert one.received(packet(2, ["msg", id, value], namespace=namespace, id=number), 0.0) == [Delivered(id)]


@given(st.binary(min_size=1))
def test_no_packet_makes_session_raise(tmp_path_factory, data):
    one = SocketIOAdapter(target("ws://host:1")).session(0, "alice", "phone")
    one.start(0.0)
    one.received(Connected(), 0.0)
    one.received(b"4" + data, 0.0)
    one.received(data, 0.0)


@pytest.mark.parametrize(
    "data", [b"", b"9", b"0", b"0[]", b"4", b"49", b"42", b"42{}", b"42x[]", b"42[]", b"43[]", b"45-[]"]
)
def test_invalid_packet_closes_session(session, data):
    one = session()
    one.start(0.0)
    one.received(Connected(), 0.0)
    assert one.received(data, 0.0) == [Disconnect(), Closed(f"the server sent an invalid packet: {data.decode()}")]


def test_binary_attachments_are_skipped(online):
    one = online(EVENTS)
    event, *attachments = Packet(data=["msg", "ns:1", b"x", [b"4y"]]).encode()
    assert one.received(b"4" + event.encode(), 0.0) == [Delivered("ns:1")]
    assert [one.received(data, 0.0) for data in attachments] == [[], []]
    assert one.received(packet(2, ["msg", "ns:2"]), 0.0) == [Delivered("ns:2")]


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_adapter_is_found_by_name():
    assert find("socketio") is SocketIOAdapter


def test_session_connects_and_logs_in(session):
    one = session(
        EVENTS
        + """
        socketio = { namespace = "/chat", auth = { user = "{user}" } }
        login = { send = { event = "hello", args = ["{device}"], ack = true }, answer.when = { ack = 1 } }
    """
    )
    assert one.start(0.0) == [Connect("ws://host:1/socket.io/?EIO=4&transport=websocket", timeout=QUICK.login_timeout)]
    assert one.received(Connected(), 0.0) == []
    assert one.received(OPEN, 0.0) == [b'40/chat,{"user":"alice"}']
    assert one.received(b'40/chat,{"sid":"y"}', 0.0) == [b'42/chat,1["hello","phone"]']
    assert one.received(b"43/chat,1[]", 0.0) == [Ready()]


def test_other_address_and_requests_are_possible(session):
    one = session(EVENTS + "connect.url = '{url}/chat/socket.io/?EIO=4&transport=websocket&user={user}'")
    (connect,) = one.start(0.0)
    assert connect.url == "ws://host:1/chat/socket.io/?EIO=4&transport=websocket&user=alice"


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (b'44{"message":"wrong key"}', Closed('the server refused the connection: {"message":"wrong key"}')),
        (b"41", Closed("the server ended the session")),
        (b"1", Offline("the server closed the connection")),
    ],
)
def test_server_ends_session(session, data, event):
    one = session()
    one.start(0.0)
    one.received(Connected(), 0.0)
    one.received(OPEN, 0.0)
    assert one.received(data, 0.0) == [Disconnect(), event]


def test_server_pings(online):
    one = online()
    assert one.received(b"2", 1.0) == [b"3"]
    assert one.received(b"2probe", 1.0) == [b"3probe"]
    assert one.received(b"6", 2.0) == []
    assert one.received(b'40{"sid":"z"}', 2.0) == []
    assert one.next_deadline() == 47.0
    assert one.handle_timer(47.0) == [Disconnect(), Offline("the server was silent for 45 s")]


def test_server_can_want_an_answer(online):
    one = online(
        EVENTS
        + """
        [reply]
        when = { event = "msg" }
        send = { answer_to = "{frame.answer_to}", args = ["{frame.args.0}"] }
    """
    )
    delivered, answer = one.received(packet(2, ["msg", "ns:1"], id=12), 0.0)
    assert delivered == Delivered("ns:1")
    read = Packet(encoded_packet=answer[1:].decode())
    assert (read.packet_type, read.id, read.data) == (3, 12, ["ns:1"])
    assert one.received(packet(2, ["msg", "ns:2"]), 0.0) == [Delivered("ns:2")]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (EVENTS.replace("event =", "even ="), 'send.p2p: expected {"event": name, "args": [...]}'),
        (EVENTS.replace("msg", "{msg}"), "send.p2p: unknown placeholder {msg}"),
        (EVENTS.replace('text = "{text}" }]', 'text = "{text}" }], ack = 1'), "send.p2p: ack: expected true or false"),
        (EVENTS + "acked.n = 'ack'", "send.p2p: needs {n}, because an answer is recognized by 'n'"),
        (EVENTS + "socketio.namespace = 'chat'", "socketio.namespace: "),
        (EVENTS + "socketio.auth = ['{n}']", "socketio.auth: unknown placeholder {n}"),
    ],
)
def test_mistake_is_named(session, text, error):
    with pytest.raises(UsageError) as found:
        session(text)
    assert f"chat.toml: {error}" in str(found.value)


def test_default_description_is_documented():
    text = (resources.files("imsim.load.adapters") / "socketio.toml").read_text()
    assert tomllib.loads(example("socketio.toml")) == tomllib.loads(text)


def test_acks_and_refusals(online):
    one = online()
    (sent,) = one.send(message(), 0.0)
    assert json.loads(sent[3:]) == ["message", {"id": "ns:1", "to": "bob", "text": "hello"}]
    one.send(message("ns:2"), 0.0)
    assert one.received(b'432[{"ok":false,"error":"muted"}]', 0.1) == [Failed("ns:2", Code.BAD_REQUEST, "muted")]
    assert one.received(b'431[{"ok":true}]', 0.1) == [Acked("ns:1")]


# --- the real server --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def chat_server():
    """Run the server of the documentation. The context is its url and python-socketio's server."""
    names = names_of("socketio_server.py")
    http = names["serve_socketio"]()
    try:
        (listener,) = http._sockets.values()
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}", names["server"]
    finally:
        await names["server"].shutdown()
        http.stop()
        await http.close_all_connections()


async def test_real_server_carries_messages_of_each_scene():
    async with chat_server() as (url, _):
        adapter = SocketIOAdapter(target(url, namespace="ns"))
        async with devices(adapter, "alice", "bob") as (alice, bob):
            for scene in Scene.P2P, Scene.GROUP, Scene.CHATROOM:
                conversation = Conversation(scene, "ns.bob" if scene is Scene.P2P else f"ns.{scene}")
                if scene is not Scene.P2P:
                    for one in (alice, bob):
                        one.join(conversation, [alice.user, bob.user], one is alice)
                        await one.wait(lambda event, wanted=Joined(conversation): event == wanted)
                ids = [alice.send(conversation, '"\\ \u2028 汉字') for _ in range(20)]
                for id in ids:
                    await alice.wait(is_acked(id))
                    await bob.wait(is_delivered(id))
            id = alice.send(bob.conversation, "x" * 60_000)
            failed = await alice.wait(Failed)
            assert (failed.id, failed.text) == (id, "too long")


async def test_real_server_refuses_connection_and_ends_session():
    async with chat_server() as (url, server):
        async with devices(SocketIOAdapter(target(url, key="wrong")), "alice", online=False) as (alice,):
            alice.start()
            closed = await alice.wait(Closed)
            assert "wrong key" in closed.reason
        async with devices(SocketIOAdapter(target(url)), "alice") as (alice,):
            (connection,) = server.manager.rooms["/"]["alice"]
            await server.disconnect(connection)
            assert await alice.wait(Closed) == Closed("the server ended the session")


async def test_real_server_keeps_connection_open_with_pings(monkeypatch):
    async with chat_server() as (url, server):
        monkeypatch.setattr(server.eio, "ping_interval", 0.05)
        monkeypatch.setattr(server.eio, "ping_timeout", 0.2)
        async with devices(SocketIOAdapter(target(url)), "alice", "bob") as (alice, bob):
            pings = 0
            given = alice.session.received

            def counted(item, now):
                nonlocal pings
                pings += item == b"2"
                if pings == 10:
                    alice.send(bob.conversation, "x")
                return given(item, now)

            alice.session.received = counted
            await bob.wait(Delivered)
            assert not [event for event in alice.events if isinstance(event, Offline)]


async def test_device_enters_rooms_again_after_lost_connection():
    async with chat_server() as (url, server), devices(SocketIOAdapter(target(url)), "alice", "bob") as (alice, bob):
        bob.join(TEAM, [], False)
        await bob.wait(Joined)
        (connection,) = server.manager.rooms["/"]["bob"]
        await server.eio.sockets[server.manager.eio_sid_from_sid(connection, "/")].close(wait=False)
        offline = await bob.wait(Offline)
        await bob.wait(Ready, after=bob.events.index(offline))
        await bob.wait(is_acked(bob.send(TEAM, "after the frame that enters the room")))
        await bob.wait(is_delivered(alice.send(TEAM, "again")))


async def test_default_description_passes_all_checks():
    async with chat_server() as (url, _):
        report = await conformance.checked(SocketIOAdapter, target(url))
        assert report.passed, report
