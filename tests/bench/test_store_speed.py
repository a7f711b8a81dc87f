"""Benchmarks of storage, logins and idle connections: ratios of the server's CPU times, latencies and memory.

    python -m pytest tests/bench/test_store_speed.py --benchmark-enable -n0 -p no:randomly

takes about three minutes. The ordinary suite runs only the benchmark of memory, with a small size. The server runs in a
process of its own, and on a CPU core of its own if there are two. This process is its client, with raw sockets and
prepared frames. Both sides of a ratio take turns. A latency on a busy machine means little, so repeat it when the
machine is idle.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
import resource
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench.race import note, race

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads CPU times and memory from /proc")

KEY = "a key of the benchmark"

PROGRAM = """
import asyncio, os, sys

async def imsim(kind, path):
    from imsim.core.policies import Policies
    from imsim.live import MemoryStore, Server, SqliteStore
    server = Server(Policies(), SqliteStore(path) if kind == "sqlite" else MemoryStore(), key=sys.argv[3])
    await server.start()
    return server.port

async def stock():
    from websockets.asyncio.server import serve
    async def drain(client):
        async for _ in client:
            pass
    server = await serve(drain, "127.0.0.1", 0, backlog=4096, ping_interval=None)
    return server.sockets[0].getsockname()[1]

async def main():
    print(await stock() if sys.argv[1] == "stock" else await imsim(*sys.argv[1:3]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
asyncio.run(main())
"""


class Server:
    """A running server. `kind` is sqlite (with FULL), memory or stock: `websockets.asyncio`, which accepts only."""

    def __init__(self, kind: str, process: subprocess.Popen[str]) -> None:
        self.kind = kind
        self.port = int(process.stdout.readline())
        self.clients: list[Connection] = []
        self._proc = Path(f"/proc/{process.pid}")

    def cpu(self) -> float:
        """Return the seconds of CPU time that all its threads have used."""
        return sum(int(file.read_text().split()[0]) for file in self._proc.glob("task/*/schedstat")) / 1e9

    def resident(self) -> int:
        """Return the bytes of its memory that are resident."""
        return int((self._proc / "statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Server]:
    path = folder / f"{time.monotonic_ns()}.db"
    command = [sys.executable, "-c", PROGRAM, kind, str(path), KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        server = Server(kind, process)
        try:
            yield server
        finally:
            process.stdin.close()
            for client in server.clients:
                client.socket.close()


@pytest.fixture(autouse=True)
def other_core(request) -> Iterator[None]:
    """Let this process run on another core than the server, and open many files."""
    options = request.config.option
    is_enabled = options.benchmark_enable or not options.benchmark_disable
    if not is_enabled and "memory_of" not in request.node.name:
        pytest.skip("takes seconds and shows nothing without --benchmark-enable")
    before, files = os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)
    resource.setrlimit(resource.RLIMIT_NOFILE, files)


# --- the client -------------------------------------------------------------------------------------------------------

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n"
    b"User-Agent: a client of the benchmark\r\n\r\n"
)
STORED, PUSH, LOGGED_IN, UPGRADED = b'{"op":"stored"', b'{"op":"push"', b'{"op":"logged_in"', b"\r\n\r\n"


def frame(text: str) -> bytes:
    """Return a text frame. Its mask is zero."""
    size = len(text)
    head = bytes([128 + size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + head + bytes(4) + text.encode()


def token(user: str) -> str:
    """Return a session token, as the server issues it. So a login needs no HTTP request."""

    def encoded(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    secret, now = hmac.digest(KEY.encode(), b"imsim session tokens", hashlib.sha256), time.time()
    claims = json.dumps({"sub": user, "iat": now, "exp": now + 86_400}, separators=(",", ":"))
    signed = encoded(b'{"alg":"HS256","typ":"JWT"}') + b"." + encoded(claims.encode())
    return (signed + b"." + encoded(hmac.digest(secret, signed, hashlib.sha256))).decode()


class Connection:
    """A connection that does not block. `read` counts the frames of a kind that have arrived."""

    def __init__(self, port: int, user: str) -> None:
        self.user = user
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.expected = UPGRADED
        self.sent_at: list[float] = []  # when each message without an answer was sent
        self.seq = 0
        self._rest = b""

    def read(self, kind: bytes) -> int:
        got = self.socket.recv(262_144)
        assert got, f"the server has ended the connection of {self.user}"
        data = self._rest + got
        self._rest = data[1 - len(kind) :]
        return data.count(kind)


def connect(server: Server, names: list[str], at_once: int = 50) -> list[Connection]:
    """Open a connection for each user and, unless the server only accepts, log in; `at_once` users at a time."""
    poll, by_file, connections = select.epoll(), {}, []
    waiting, done = iter(names), 0

    def start() -> None:
        if (name := next(waiting, None)) is not None:
            connection = Connection(server.port, name)
            connections.append(connection)
            server.clients.append(connection)
            by_file[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN)
            connection.socket.send(HANDSHAKE)

    for _ in range(at_once):
        start()
    while done < len(names):
        for file, _ in poll.poll(20):
            connection = by_file[file]
            if not connection.read(connection.expected):
                continue
            if connection.expected == UPGRADED and server.kind != "stock":
                login = {"op": "login", "device": "d", "token": token(connection.user)}
                connection.socket.send(frame(json.dumps(login)))
                connection.expected = LOGGED_IN
            else:
                done += 1
                start()
    return connections


def chat(server: Server, seconds: float, rate: float = 0.0, pairs: int = 50) -> tuple[float, float]:
    """Let pairs of users chat. Return the microseconds of CPU time per message, and the median time to `stored` in ms.

    Without a `rate`, each sender keeps 4 messages without an answer: the server is saturated. With one, messages are
    sent at random times, `rate` a second in all. The first quarter of the time does not count.
    """
    names = [f"{side}{pair}" for pair in range(pairs) for side in ("alice", "bob")]
    connections = connect(server, names)
    poll, by_file = select.epoll(), {}
    for connection in connections:
        by_file[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
    senders = [connection for connection in connections if connection.user.startswith("alice")]
    draw, count, taken, stored = random.Random(1), 0, [], 0

    def send(sender: Connection, messages: int) -> None:
        nonlocal count
        out = []
        for _ in range(messages):
            count += 1
            fields = f'"idClient":"{count:012}","scene":"p2p","to":"bob{sender.user[5:]}","content":"{"x" * 60}"'
            out.append(frame(f'{{"op":"send",{fields}}}'))
            sender.sent_at.append(time.perf_counter())
        sender.socket.send(b"".join(out))

    begin = time.perf_counter()
    start, end, due = begin + seconds / 4, begin + seconds, begin
    cpu = 0.0
    for sender in () if rate else senders:
        send(sender, 4)
    while (now := time.perf_counter()) < end:
        if not cpu and now >= start:
            cpu, stored = server.cpu(), 0
            taken.clear()
        while rate and due <= now:
            send(draw.choice(senders), 1)
            due += draw.expovariate(rate)
        for file, _ in poll.poll(max(0.0, (due if rate else end) - time.perf_counter())):
            connection = by_file[file]
            if connection.user.startswith("alice"):
                answers = connection.read(STORED)
                stored += answers
                taken += [time.perf_counter() - at for at in connection.sent_at[:answers]]
                del connection.sent_at[:answers]
                if answers and not rate:
                    send(connection, answers)
            elif pushes := connection.read(PUSH):
                connection.seq += pushes
                id = f"p2p:alice{connection.user[3:]}:{connection.user}"
                text = f'{{"op":"delivered","conversationId":"{id}","seq":{connection.seq}}}'
                connection.socket.send(frame(text))
    return (server.cpu() - cpu) / stored * 1e6, statistics.median(taken) * 1e3


# --- the measures -----------------------------------------------------------------------------------------------------


def test_cpu_time_of_a_message_against_the_memory_store(benchmark, tmp_path):
    seconds = 4.0

    def measure(kind: str) -> float:
        with running(kind, tmp_path) as server:
            return chat(server, seconds)[0]

    ours, theirs = race(benchmark, lambda: measure("sqlite"), lambda: measure("memory"), rounds=7)
    detail = f"{ours:.0f} against {theirs:.0f} us of CPU time"
    note(benchmark, "a message, SQLite FULL against memory", ours / theirs, "x", most=1.15, detail=detail)


def test_latency_at_a_third_of_saturation_against_the_memory_store(benchmark, tmp_path):
    seconds = 4.0
    with running("sqlite", tmp_path) as server:
        rate = 1e6 / chat(server, seconds)[0] / 3

    def measure(kind: str) -> float:
        with running(kind, tmp_path) as server:
            return chat(server, seconds, rate)[1]

    ours, theirs = race(benchmark, lambda: measure("sqlite"), lambda: measure("memory"), rounds=7)
    detail = f"p50 {ours:.2f} against {theirs:.2f} ms to stored, {rate:,.0f} messages/s"
    note(
        benchmark, "p50 at a third of saturation, SQLite FULL against memory", ours / theirs, "x", most=3, detail=detail
    )


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_logins_against_stock_connections_without_login(benchmark, tmp_path, kind):
    count, warm_up = 2_000, 200

    def measure(kind: str) -> float:
        with running(kind, tmp_path) as server:
            connect(server, [f"w{number}" for number in range(warm_up)])
            before = server.cpu()
            connect(server, [f"u{number}" for number in range(count)])
            return (server.cpu() - before) / count * 1e6

    ours, theirs = race(benchmark, lambda: measure(kind), lambda: measure("stock"), rounds=7)
    detail = f"{ours:.0f} against {theirs:.0f} us of CPU time"
    note(benchmark, f"logins/s ({kind}), against stock connects/s", theirs / ours, "x", least=1, detail=detail)


def test_memory_of_an_idle_connection(benchmark, tmp_path):
    count, warm_up = (2_000, 200) if benchmark.enabled else (20, 2)

    def measure(kind: str) -> float:
        with running(kind, tmp_path) as server:
            connect(server, [f"w{number}" for number in range(warm_up)])
            before = server.resident()
            connect(server, [f"u{number}" for number in range(count)])
            time.sleep(0.5)
            return (server.resident() - before) / count / 1024

    ours, theirs = race(benchmark, lambda: measure("sqlite"), lambda: measure("stock"), rounds=3)
    detail = f"stock without login {theirs:.1f} KiB"
    note(benchmark, "memory of an idle connection, logged in", ours, "KiB", most=8, detail=detail)
