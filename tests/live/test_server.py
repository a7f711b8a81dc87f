"""Tests of the server with peers other than imsim's client: correct, invalid, silent and slow ones."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import json
import os
import socket
import struct
from contextlib import suppress

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request
from websockets.sync.client import ClientConnection, connect

from imsim.core import events
from imsim.core.exceptions import RunError, UsageError
from imsim.core.policies import Policies
from imsim.keys import DEFAULT_KEY
from imsim.live import MemoryStore, Server
from imsim.live.listener import is_loopback


class Foreign:
    """A blocking client that is written only from the description of the protocol. It uses no code of imsim."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def put(self, **frame) -> None:
        self.socket.send(json.dumps(frame))

    def get(self) -> dict:
        return json.loads(self.socket.recv(timeout=5))

    def login(self, token: str, device: str = "foreign") -> dict:
        self.put(op="login", token=token, device=device)
        return self.get()

    def until(self, op: str) -> dict:
        while (frame := self.get())["op"] != op:
            pass
        return frame

    def end(self) -> int:
        """Read to the end of the connection, and return its close code."""
        try:
            while True:
                self.socket.recv(timeout=5)
        except ConnectionClosed:
            return self.socket.close_code


async def with_foreign(w, conversation) -> None:
    """Run `conversation(foreign)` in a thread."""

    def talk() -> None:
        with connect(w.url, compression=None, proxy=None, open_timeout=5) as socket:
            conversation(Foreign(socket))

    await asyncio.to_thread(talk)


async def test_foreign_client_exchanges_acknowledged_messages(world, shown):
    async with world() as w:
        bob = await w.online("bob")

        def conversation(foreign: Foreign) -> None:
            welcome = foreign.login(w.token("alice"))
            assert welcome == {
                "op": "logged_in",
                "user": "alice",
                "device": "foreign",
                "time": 1_700_000_000_000,
                "heartbeat": 75.0,
                "log": welcome["log"],
            }
            foreign.put(op="sync")
            assert foreign.get() == {"op": "sync_done", "messages": [], "cursors": {}, "states": [], "version": 0}
            foreign.put(op="ping")
            assert foreign.get() == {"op": "pong"}
            foreign.put(op="send", idClient="f-1", scene="p2p", to="bob", content="grüß dich", aFieldOfTomorrow=1)
            stored = foreign.get()
            assert (stored["op"], stored["idClient"], stored["seq"]) == ("stored", "f-1", 1)
            by_reply = foreign.until("state")["state"]  # bob's reply advances his read mark
            assert (by_reply["version"], by_reply["peerReadSeq"]) == (1, 1)
            foreign.put(op="state_ack", conversationId="p2p:alice:bob", version=1)
            push = foreign.until("push")["message"]
            assert (push["from"], push["content"], push["seq"]) == ("bob", "re: grüß dich", 2)
            foreign.put(op="delivered", conversationId=push["conversationId"], seq=2)
            foreign.put(op="read", conversationId=push["conversationId"], seq=2)
            state = foreign.until("state")["state"]
            assert state == {
                "conversationId": "p2p:alice:bob",
                "version": 2,
                "readSeq": 2,
                "unread": 0,
                "peerReadSeq": 1,
                "peerDeliveredSeq": 1,
            }
            foreign.put(op="state_ack", conversationId="p2p:alice:bob", version=2)
            assert foreign.get() == {"op": "done", "request": "read", "ref": "p2p:alice:bob"}

        async def answer() -> None:
            got = await bob.wait_for(lambda event: isinstance(event, events.Shown))
            bob.send("p2p", "alice", f"re: {got.message.content}")

        answering = asyncio.ensure_future(answer())
        await with_foreign(w, conversation)
        await answering
        assert shown(bob) == ["grüß dich"]


@pytest.mark.parametrize(
    ("sent", "code", "says", "close_code"),
    [
        ("{", "bad_frame", "not JSON", 1000),
        ("[]", "bad_frame", "object", 1000),
        ('{"op":"fly"}', "bad_frame", "'fly'", 1000),
        ('{"op":"push","message":{}}', "bad_frame", "must be an op that a client sends", 1000),
        ('{"op":"login","token":"t"}', "bad_frame", "login.device", 1000),
        ('{"op":"login","token":"t","device":7}', "bad_frame", "login.device", 1000),
        ('{"op":"login","token":"t","device":"a b"}', "bad_request", "device", 1000),
        ('{"op":"sync"}', "bad_request", "before the login", 1000),
        (b'{"op":"ping"}', "bad_frame", "binary", 1003),
        (b"\xff", "bad_frame", "binary", 1003),
    ],
)
async def test_server_refuses_an_invalid_first_frame_with_a_code(world, sent, code, says, close_code):
    def conversation(foreign: Foreign) -> None:
        foreign.socket.send(sent)
        refused = foreign.get()
        assert (refused["op"], refused["code"], refused["reconnect"]) == ("refused", code, False)
        assert says in refused["text"]
        assert foreign.end() == close_code

    async with world() as w:
        await with_foreign(w, conversation)


async def test_server_refuses_invalid_frames_after_the_login(world):
    async with world() as w:

        def login_again(foreign: Foreign) -> None:
            foreign.login(w.token("alice"))
            foreign.put(op="login", token=w.token("alice"), device="foreign")
            assert foreign.get()["code"] == "bad_request"

        def invalid_utf8(foreign: Foreign) -> None:
            foreign.login(w.token("alice"))
            foreign.socket.send(b'{"op":"\xff"}', text=True)
            assert foreign.get()["code"] == "bad_frame"
            assert foreign.end() == 1007

        def oversized(foreign: Foreign) -> None:
            foreign.login(w.token("alice"))
            foreign.put(op="send", idClient="m", scene="p2p", to="bob", content="x" * (w.server.max_size + 1))
            refused = foreign.get()
            assert (refused["op"], refused["code"], refused["reconnect"]) == ("refused", "too_large", False)
            assert foreign.end() == 1009

        def too_long_a_content(foreign: Foreign) -> None:
            foreign.login(w.token("alice"))
            foreign.put(op="send", idClient="m", scene="p2p", to="bob", content="x" * 20_000)
            rejected = foreign.get()
            assert (rejected["op"], rejected["ref"], rejected["code"]) == ("rejected", "m", "too_large")
            foreign.put(op="ping")
            assert foreign.get() == {"op": "pong"}  # the connection remains open

        def fragmented(foreign: Foreign) -> None:
            foreign.socket.send(['{"op":"login",', '"device":"foreign",', f'"token":"{w.token("alice")}"}}'])
            assert foreign.get()["op"] == "logged_in"

        for conversation in (login_again, invalid_utf8, oversized, too_long_a_content, fragmented):
            await with_foreign(w, conversation)


async def raw(w) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket on which the test reads and writes raw bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", w.server.port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def masked(text: bytes) -> bytes:
    """Return a client's text frame, with the mask 0."""
    assert len(text) < 65_536
    return struct.pack("!BBH4x", 0x81, 0x80 | 126, len(text)) + text


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def test_violation_of_the_websocket_protocol_is_refused_with_a_code(world):
    async with world() as w:
        reader, writer = await raw(w)
        writer.write(b"\x81\x04ping")  # unmasked
        assert b'"code":"bad_frame"' in await reader.readuntil(b"incorrect masking")
        await end(writer)


async def test_server_ignores_frames_after_a_refusal(world, shown):
    async with world() as w:
        bob = await w.online("bob")
        reader, writer = await raw(w)
        login = masked(json.dumps({"op": "login", "token": w.token("alice"), "device": "d0"}).encode())
        send = masked(b'{"op":"send","idClient":"m","scene":"p2p","to":"bob","content":"too late"}')
        writer.write(login + masked(b"nonsense") + send)
        await reader.readuntil(b"bad_frame")
        await end(writer)
        await w.run_until_idle()
        assert shown(bob) == []


async def test_server_disconnects_a_silent_peer_in_real_time():
    server = Server(Policies(login_timeout=0.05), MemoryStore(), key="k", clock=lambda: 0.0)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    await end(writer)
    await server.stop()


async def test_server_closes_requests_with_a_body_and_data_that_is_not_http(world):
    async with world() as w:
        for sent in (b"GET /token HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"\x16\x03\x01 not http\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", w.server.port)
            writer.write(sent)
            await reader.read()
            await end(writer)


async def test_slow_reader_is_disconnected_and_syncs_later(world, shown):
    policies = Policies(send_queue=100_000)  # so that the limit is reached in bytes, not in the count of pushes
    async with world(policies, write_limit=200_000) as w:
        alice = await w.online("alice")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", w.server.port))
            reader, writer = await asyncio.open_connection(sock=slow)
            writer.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            login = json.dumps({"op": "login", "token": w.token("bob"), "device": "d0"})
            writer.write(masked(login.encode()))
            assert b"logged_in" in await reader.read(300)
            writer.transport.pause_reading()
            contents = []
            for n in range(2_000):
                contents.append(f"{n} " + "x" * 8_000)
                await alice.wait_stored(alice.send("p2p", "bob", contents[-1]))
                if len(w.server._connections) == 1 or _closing(w.server):
                    break
            assert n < 1_999, "the server never disconnected the slow reader"
            peer = slow.getsockname()
            await asyncio.wait_for(w.server.left(peer), 5)  # the closing handshake has a timeout
            writer.transport.abort()
        await w.run_until_idle()
        assert alice.state == "online"  # only the slow reader is disconnected
        bob = await w.online("bob")
        await w.run_until_idle()
        assert shown(bob) == contents


def _closing(server: Server) -> bool:
    return any(not connection.is_open for connection in server._connections.values())


async def test_connection_ends_after_the_heartbeat_timeout(world):
    policies = Policies(heartbeat=10.0, heartbeat_timeout=25.0)
    async with world(policies) as w:
        alice, mute = await w.online("alice"), await w.online("mute")
        mute.lose = lambda frame: frame.op in ("ping", "pong")
        await w.advance(24.0)
        assert (alice.state, mute.state) == ("online", "online")
        await w.advance(12.0)
        assert alice.state == "online"
        lost = [event.code for event in mute.seen if isinstance(event, events.Disconnected)]
        assert lost == ["heartbeat"]
        assert not any(isinstance(event, events.Disconnected) for event in alice.seen)


async def test_server_disconnects_silent_clients_after_the_login_or_heartbeat_timeout(world):
    policies = Policies(heartbeat=10.0, heartbeat_timeout=25.0, login_timeout=5.0)
    async with world(policies) as w:
        readers = []
        for login in (b"", json.dumps({"op": "login", "token": w.token("alice"), "device": "d0"}).encode()):
            reader, writer = await raw(w)
            if login:
                writer.write(masked(login))
                await reader.readuntil(b"}")
            else:
                writer.write(masked(b'{"op":"ping"}'))  # a frame, but not a login
                await reader.readuntil(b"}")
            readers.append((reader, writer))
        await w.advance(5.0)
        await readers[0][0].readuntil(b'"code":"login_timeout","reconnect":true')
        await w.advance(20.0)
        await readers[1][0].readuntil(b'"code":"heartbeat","reconnect":true')
        for _, writer in readers:
            await end(writer)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ('"type":"zz","file":{"a":' + "[" * 199 + "]" * 199 + "}", "file: "),
        ('"type":"zz","file":{"a":' + "[" * 100 + "]" * 100 + "}", "file: "),
        ('"type":"zz","file":{"a":1e999}', "file: "),
        ('"type":"zz","file":[1]', "file: "),
        ('"custom":{}', "custom: "),
        ('"content":"\\ud800"', "content: "),
        ('"shown":"x"', "shown: "),
    ],
)
async def test_invalid_send_is_rejected_and_the_connection_remains_open(world, fields, says):
    def conversation(foreign: Foreign) -> None:
        foreign.login(token)
        foreign.socket.send('{"op":"send","idClient":"a","scene":"p2p","to":"bob",' + fields + "}")
        rejected = foreign.until("rejected")
        assert (rejected["request"], rejected["ref"], rejected["code"]) == ("send", "a", "bad_request")
        assert rejected["text"].startswith(says)
        foreign.put(op="send", idClient="b", scene="p2p", to="bob", content="hello")
        assert foreign.until("stored")["seq"] == 1

    async with world() as w:
        token = w.token("alice")
        await with_foreign(w, conversation)


async def test_server_serves_many_connections_and_releases_them(world, shown):
    async with world() as w:
        clients = [w.client(f"u{n}") for n in range(300)]
        await asyncio.gather(*(client.start() for client in clients))
        assert len(w.server._connections) == 300
        for client, other in itertools.pairwise(clients):
            client.send("p2p", other.user, f"from {client.user}")
        await w.run_until_idle()
        assert [shown(client) for client in clients[1:]] == [[f"from u{n}"] for n in range(299)]
        await asyncio.gather(*(client.stop() for client in clients))
        await w.run_until_idle()
        assert w.server._connections == {}
        assert w.server._transports == set()


async def test_server_emits_events(world):
    seen: list = []
    async with world(on_event=seen.append) as w:
        alice, _ = await w.online("alice"), await w.online("bob")
        await alice.wait_stored(alice.send("p2p", "bob", "hello"))
        await w.run_until_idle()
    assert [type(event) for event in seen] == [events.Committed, events.Pushed]


async def test_server_counts_shed_messages(world):
    async with world(Policies(room_rate=1.0, room_burst=2)) as w:
        alice, bob = await w.online("alice"), await w.online("bob")
        await alice.enter("lounge")
        await bob.enter("lounge")
        for number in range(5):
            alice.send("chatroom", "lounge", str(number))
        await w.run_until_idle()
        assert w.server.shed == 3
        health = json.loads(w.server.answer(Request("/healthz", Headers())).body)
        assert health == {"status": "ok", "version": importlib.metadata.version("imsim"), "connections": 2, "shed": 3}


async def test_connections_have_tcp_nodelay(world):
    async with world() as w:
        await w.online("alice")
        (connection,) = w.server._transports
        assert connection.address("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_start_on_a_used_port_or_foreign_address_gives_a_one_line_error(world):
    async with world() as w:
        second = Server(Policies(), w.store, key="k" * 16)
        with pytest.raises(RunError, match=f"port {w.server.port} of 127.0.0.1 is in use"):
            await second.start(port=w.server.port)
        with pytest.raises(RunError, match="cannot listen on"):
            await second.start("192.0.2.1")
        alice = await w.online("alice")  # the first server still has its store
        await alice.wait_stored(alice.send("p2p", "bob", "hello"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
async def test_loopback_needs_no_key_of_its_own(host, caplog):
    server = Server(Policies(), MemoryStore(), key=DEFAULT_KEY)
    try:
        await server.start(host)
    except RunError:
        pytest.skip(f"this computer does not have the address {host}")
    await server.stop()
    assert caplog.records == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0"])
async def test_server_beyond_loopback_needs_a_key_of_its_own_and_logs_what_is_exposed(host, caplog):
    for key, says in ((DEFAULT_KEY, "is public"), ("k" * 15, "at least 16 characters")):
        refused = Server(Policies(), MemoryStore(), key=key)
        with pytest.raises(UsageError, match=f"^host: other computers can reach {host}, and .*{says}"):
            await refused.start(host)
        assert refused.url == ""
    assert caplog.records == []
    server = Server(Policies(), MemoryStore(), key="k" * 16)
    try:
        await server.start(host)
    except RunError:
        pytest.skip("this computer has no IPv6")
    await server.stop()
    (record,) = caplog.records
    assert f"other computers can reach {host}, port {server.port}: /healthz, /readyz" in record.getMessage()
    assert "not encrypted" in record.getMessage()


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "192.168.1.2", "0.0.0.0", "::", "fe80::1%eth0", "2001:db8::1", "::ffff:10.0.0.1"]
)
def test_other_addresses_are_not_loopback(address):
    assert not is_loopback((socket.AF_INET6, (address, 1)))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_addresses(address):
    assert is_loopback((socket.AF_INET6, (address, 1)))


@pytest.mark.parametrize(("host", "says"), [("", "host: must not be empty"), (" ", "host: must not be empty")])
async def test_empty_host_is_refused(world, host, says):
    with pytest.raises(UsageError, match=says):
        await Server(Policies(), MemoryStore(), key=DEFAULT_KEY).start(host)


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "nowhere.invalid", "a\0b"])
async def test_name_without_an_address_gives_a_one_line_error(world, host):
    with pytest.raises(RunError, match=r"^cannot listen on .*; give an address of this computer$"):
        await Server(Policies(), MemoryStore(), key=DEFAULT_KEY).start(host)


async def test_stop_disconnects_peers_that_do_not_close(world):
    async with world() as w:
        _, writer = await raw(w)
        writer.transport.pause_reading()
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
        await w.server.stop()
        assert w.server._transports == set()
        if before is not None:
            assert len(os.listdir("/proc/self/fd")) < before
        writer.transport.abort()


async def test_stop_refuses_and_closes_connections_with_going_away(world):
    async with world() as w:
        codes, ready = [], asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait_for_the_end(foreign: Foreign) -> None:
            foreign.login(w.token("alice"))
            loop.call_soon_threadsafe(ready.set)
            codes.append(foreign.get()["code"])
            codes.append(foreign.end())

        talk = asyncio.create_task(with_foreign(w, wait_for_the_end))
        await ready.wait()
        await w.server.stop()
        await talk
        assert codes == ["going_away", 1001]


async def test_pipelined_reads_beyond_the_limit_are_rejected_and_a_retry_succeeds(world):
    """The limit bounds the pages in the server's memory."""
    async with world(Policies(content_bytes=16_384)) as w:
        alice = await w.online("alice")
        for number in range(20):
            await alice.wait_stored(alice.send("p2p", "bob", f"{number} " + "x" * 16_000))

        def pipelined(foreign: Foreign) -> None:
            foreign.login(w.token("bob"))
            requests = [
                {"op": "history", "conversationId": "p2p:alice:bob", "first": 1, "last": 100, "number": number}
                for number in range(1, 41)
            ]
            foreign.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            for frame in requests:
                foreign.put(**frame)
            pages, refused = 0, 0
            for _ in requests:
                frame = foreign.get()
                if frame["op"] == "rejected":
                    assert (frame["code"], frame["retryAfter"]) == ("rate_limited", 1.0)
                    refused += 1
                else:
                    assert (len(frame["messages"]), frame["more"]) == (16, True)
                    pages += 1
            assert pages >= 16
            assert pages + refused == 40
            foreign.put(**requests[0])
            assert foreign.get()["op"] == "history_page"

        await with_foreign(w, pipelined)


async def test_count_of_reads_that_wait_for_storage_is_limited_per_connection(world):
    class Stuck(MemoryStore):
        def submit(self, request):
            if request.op == "range":
                waiting.append(request)
            else:
                super().submit(request)

    waiting = []
    async with world(store=Stuck()) as w:

        def pipelined(foreign: Foreign) -> None:
            foreign.login(w.token("bob"))
            for number in range(1, 41):
                foreign.put(op="history", conversationId="p2p:alice:bob", first=1, last=100, number=number)
            refused = [foreign.get() for _ in range(24)]
            assert {frame["code"] for frame in refused} == {"rate_limited"}
            assert [frame["number"] for frame in refused] == list(range(17, 41))

        await with_foreign(w, pipelined)
        assert len(waiting) == 16
