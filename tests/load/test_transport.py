"""Tests of the gevent transport in subprocesses, against websockets' own server in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from websockets.asyncio.server import serve
from websockets.utils import accept_key

CERTIFICATE = Path(__file__).with_name("localhost.pem")

PRELUDE = """
import sys
import gevent
from gevent.event import Event
from imsim.load.adapters import Connect
from imsim.load.transport import Transport, TransportError

def open_(url, on_text, timeout=5.0, largest=1 << 20):
    transport = Transport.connect(Connect(url, timeout=timeout), largest, False, on_text)
    ended = Event()
    gevent.spawn(transport.listen, ended.set)
    return transport, ended

url = sys.argv[1]
"""

ECHO = (
    PRELUDE
    + """
SENDERS, EACH = 20, 50
got, everything = [], Event()

def on_text(data):
    got.append(data)
    if len(got) == SENDERS * EACH:
        everything.set()

transport, ended = open_(url, on_text)

def sender(me):
    for number in range(EACH):
        transport.send(b"%d:%d:" % (me, number) + b"x" * (me * 500))
        if number % 7 == 0:
            gevent.sleep(0)

gevent.joinall([gevent.spawn(sender, me) for me in range(SENDERS)], raise_error=True)
assert everything.wait(timeout=20)
latest = {}
for data in got:
    me, number, filling = data.split(b":")
    assert len(filling) == int(me) * 500
    assert int(number) == latest.get(me, -1) + 1
    latest[me] = int(number)
transport.close()
ended.wait(timeout=5)
assert ended.is_set()
print("ok")
"""
)


@contextmanager
def serving(handler, **options):
    """Run websockets' own server, and return its url. Compression is off, as in imsim's server."""
    started, addresses = threading.Event(), []

    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0, compression=None, close_timeout=0.1, **options) as server:
            addresses.append((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), over := asyncio.Event()))
            started.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(timeout=10)
    port, loop, over = addresses[0]
    try:
        yield f"{'wss' if 'ssl' in options else 'ws'}://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


async def echo(connection):
    async for message in connection:
        await connection.send(message)


def test_messages_of_many_greenlets_keep_their_order(python):
    with serving(echo) as url:
        assert python(ECHO, url) == "ok\n"


def test_messages_of_many_greenlets_keep_their_order_over_tls(python):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with serving(echo, ssl=context) as url:
        assert python(ECHO, url, SSL_CERT_FILE=str(CERTIFICATE)) == "ok\n"


def test_transport_refuses_an_untrusted_certificate(python):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    script = PRELUDE + "try: open_(url, print)\nexcept TransportError as error: print(error)"
    with serving(echo, ssl=context) as url:
        output = python(script, url)
    assert "certificate verify failed" in output
    assert output.count("\n") == 1


def test_server_that_does_not_read_blocks_only_its_own_connection(python):
    """Sends of 8 MB to a server that does not read return at once, and another connection still works."""
    script = (
        PRELUDE
        + """
stuck, stuck_ended = open_(sys.argv[2], print)
for _ in range(80):
    stuck.send(b"x" * 100_000)
answered = Event()
transport, ended = open_(url, lambda data: answered.set())
transport.send(b"still here?")
assert answered.wait(timeout=5)
for _ in range(200):
    stuck.send(b"x" * 100_000)  # more than the backlog may hold: this connection ends
stuck_ended.wait(timeout=5)
assert stuck_ended.is_set()
stuck.send(b"dropped")
transport.close()
ended.wait(timeout=5)
print("ok")
"""
    )

    async def deaf(connection):
        await connection.wait_closed()

    with serving(echo) as url, serving(deaf, max_queue=1) as deaf_url:
        assert python(script, url, deaf_url) == "ok\n"


def test_transport_joins_fragments_answers_pings_and_detects_the_end(python):
    async def handler(connection):
        await connection.send(["Gr", "üß", "e"])
        await (await connection.ping())
        await connection.send("bye")

    script = PRELUDE + "_, ended = open_(url, lambda d: print(*d))\nended.wait(timeout=5)\nprint(ended.is_set())"
    with serving(handler) as url:
        *messages, ended = python(script, url).splitlines()
    assert [bytes(map(int, message.split())).decode() for message in messages] == ["Grüße", "bye"]
    assert ended == "True"


def test_transport_accepts_the_largest_message_and_ends_at_a_larger_one(python):
    async def handler(connection):
        for size in (1_000, 1_001):
            await connection.send("x" * size)
        await connection.wait_closed()

    script = (
        PRELUDE
        + """
_, ended = open_(url, lambda data: print(len(data)), largest=1_000)
ended.wait(timeout=5)
print(ended.is_set())
"""
    )
    with serving(handler) as url:
        assert python(script, url) == "1000\nTrue\n"


def test_close_frame_in_the_segment_of_the_handshake_ends_the_connection(python):
    """One TCP segment contains the answer to the handshake, a message and a close frame."""

    def answer() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as request:
            lines = list(iter(request.readline, b"\r\n"))
            (key,) = (line.split(b": ")[1].strip() for line in lines if line.lower().startswith(b"sec-websocket-key"))
            head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            head += f"Sec-WebSocket-Accept: {accept_key(key.decode())}\r\n\r\n"
            connection.sendall(head.encode() + b"\x81\x02hi" + b"\x88\x02\x03\xe8")
            request.read()  # until the client has closed the connection

    script = (
        PRELUDE + "_, ended = open_(url, lambda d: print(d.decode()))\nended.wait(timeout=5)\nprint(ended.is_set())"
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        assert python(script, f"ws://127.0.0.1:{listening.getsockname()[1]}") == "hi\nTrue\n"
        thread.join()


def test_transport_dispatches_nothing_after_close(python):
    async def handler(connection):
        for number in range(100):
            await connection.send(str(number))
        await connection.wait_closed()

    script = (
        PRELUDE
        + """
def on_text(data):
    print(data.decode())
    if data == b"3":
        transport.close()

transport, ended = open_(url, on_text)
ended.wait(timeout=5)
print(ended.is_set())
"""
    )
    with serving(handler) as url:
        assert python(script, url).split() == ["0", "1", "2", "3", "True"]


def test_failed_connect_raises_one_line_with_the_reason(python, free_port, url):
    script = (
        PRELUDE
        + """
for url, timeout in zip(sys.argv[1:], (5.0, 5.0, 0.3)):
    try:
        open_(url, print, timeout)
    except TransportError as error:
        print(error)
"""
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        output = python(
            script,
            f"ws://127.0.0.1:{free_port}",
            f"{url}/healthz",
            f"ws://127.0.0.1:{silent.getsockname()[1]}",
        )
    refused, wrong_path, no_answer = output.splitlines()
    assert "refused" in refused
    assert "HTTP 200 in answer to the WebSocket handshake" in wrong_path
    assert "no answer within the timeout" in no_answer


def test_refusal_in_several_segments_is_reported(python):
    """The body of the answer comes later than its head, and the server keeps the connection open."""

    def answer() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as request:
            while request.readline() != b"\r\n":
                pass
            for segment in (b"HTTP/1.1 503 Busy\r\nContent-Len", b"gth: 4\r\n\r\n", b"bu", b"sy"):
                connection.sendall(segment)
                time.sleep(0.02)
            request.read()  # until the client has closed the connection

    script = PRELUDE + "try: open_(url, print)\nexcept TransportError as error: print(error)"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        assert "HTTP 503 in answer" in python(script, f"ws://127.0.0.1:{listening.getsockname()[1]}")
        thread.join()


def test_binary_messages_and_subprotocols(python):
    async def handler(connection):
        assert connection.request.headers["X-Test"] == "yes"
        message = await connection.recv()
        assert isinstance(message, bytes)
        await connection.send([message[:2], message[2:]])
        await connection.wait_closed()

    script = (
        PRELUDE
        + """
answered = Event()

def on_message(data):
    print(data)
    answered.set()

to = Connect(url, subprotocols=("mqtt", "other"), headers=(("X-Test", "yes"),))
transport = Transport.connect(to, 1000, True, on_message)
transport.listen(lambda: None)
print(transport.subprotocol)
transport.send(b"\\x00\\xffhello")
assert answered.wait(timeout=5)
transport.close()
transport.join(timeout=5)
"""
    )
    with serving(handler, subprotocols=["mqtt"]) as url:
        assert python(script, url).splitlines() == ["mqtt", repr(b"\x00\xffhello")]
