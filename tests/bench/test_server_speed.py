"""Benchmarks of the server's speed: CPU time of imsim's server against that of bare relays (`bare`).

    python -m pytest tests/bench/test_server_speed.py --benchmark-enable -n0 -p no:randomly

prints the measures and their goals (about three minutes). Each server runs on one CPU core, and the load client on
another. The rounds of all servers take turns; a measure is the median of the ratios of the rounds. The times are CPU
times of the whole server process, so other work on the machine disturbs them little. In the ordinary suite each measure
is short, and nothing about its value is asserted.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench.race import note
from bench.raw_client import HANDSHAKE, PUSH, STORED, UPGRADED, WELCOME, Chat, Connection, frame, group, pairs, user

from imsim.live.auth import Tokens

KEY = "a key of the benchmark"  # the same as in bare.py
ROUNDS = 7
SECONDS = 1.5  # of a round
TOGETHER = 50  # clients that log in at the same time
USERS = 200  # that write to each other in pairs
MEMBERS = 501  # of a group
LOGINS = 300  # of a round
IDLE = 1000  # connections
SHORT = {"ROUNDS": 1, "SECONDS": 0.05, "USERS": 4, "MEMBERS": 4, "LOGINS": 5, "IDLE": 5}

HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None
UVLOOP = ("uvloop",) if HAS_UVLOOP else ()


@pytest.fixture(autouse=True)
def _cores(request, monkeypatch) -> Iterator[None]:
    """Run this process on a core of its own if benchmarks are enabled."""
    if not hasattr(os, "sched_setaffinity") or len(cores := sorted(os.sched_getaffinity(0))) < 2:
        pytest.skip("needs Linux and two CPU cores: one for the server, one for the client")
    if not request.config.getoption("benchmark_enable"):
        for name, value in SHORT.items():
            monkeypatch.setattr(sys.modules[__name__], name, value)
        yield
        return
    os.sched_setaffinity(0, {cores[1]})
    yield
    os.sched_setaffinity(0, set(cores))


class Served:
    """A server of bare.py in a process of its own."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.name = name
        self.is_imsim = arguments[0] == "imsim"
        self._connections: list[Connection] = []
        core = min(os.sched_getaffinity(os.getppid()) | {0})
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("bare.py")), str(core), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def cpu(self) -> float:
        """Return the CPU seconds of all threads of the process so far."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text().split()[0]) for file in threads) / 1e9

    def memory(self) -> float:
        """Return the resident memory in KiB."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1024

    def login(self, number: int) -> bytes:
        """Return the first message of a client."""
        if not self.is_imsim:
            return b"%d" % number
        token, _ = Tokens(KEY, 86_400).issue(user(number), time.time())
        return f'{{"op":"login","device":"d0","token":"{token}"}}'.encode()

    def connect(self, count: int, first: int = 0) -> list[Connection]:
        """Open connections for the users `first`, `first` + 1 ... and log them in, some at a time."""
        connections: list[Connection] = []
        for start in range(0, count, TOGETHER):
            numbers = range(first + start, first + min(start + TOGETHER, count))
            some = [Connection(self.port, number) for number in numbers]
            self._connections += some
            connections += some
            for connection in some:
                connection.socket.sendall(HANDSHAKE)
            for connection in some:
                connection.wait_for(UPGRADED)
                connection.socket.sendall(frame(self.login(connection.number)))
            for connection in some:
                connection.wait_for(WELCOME)
        return connections

    def close(self) -> None:
        self.disconnect()
        self._process.communicate("")

    def disconnect(self) -> None:
        """Close all connections to the server."""
        for connection in self._connections:
            connection.socket.close()
        self._connections.clear()


@contextmanager
def serving(path: Path, *names: str) -> Iterator[list[Served]]:
    """Start the servers with these names."""
    arguments = {
        "stock": ("stock",),
        "sans_io": ("sans_io", *UVLOOP),
        "imsim": ("imsim", str(path / "chat.sqlite"), *UVLOOP),
        "asyncio": ("imsim", str(path / "asyncio.sqlite")),
        "memory": ("imsim", "", *UVLOOP),
    }
    servers = [Served(name, *arguments[name]) for name in names]
    try:
        yield servers
    finally:
        for server in servers:
            server.close()


def take_turns(benchmark, servers: list[Served], measure: Callable[[Served], float]) -> dict[str, list[float]]:
    """Measure each server in each round, and return the values by the name of the server."""
    values: dict[str, list[float]] = {server.name: [] for server in servers}

    def turn() -> None:
        order = servers if len(values[servers[0].name]) % 2 else servers[::-1]
        for server in order:
            values[server.name].append(measure(server))

    turn()  # a warm-up
    for column in values.values():
        column.clear()
    benchmark.pedantic(turn, rounds=ROUNDS, iterations=1)
    return values


def ratio(values: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(values[one], values[other], strict=True))


def rates(values: dict[str, list[float]], one: str, other: str) -> str:
    of = statistics.median(values[one]), statistics.median(values[other])
    return f"{of[0]:,.0f} against {of[1]:,.0f} per CPU second"


def per_cpu_second(chats: dict[str, Chat], deliveries: int = 1) -> Callable[[Served], float]:
    def measure(server: Served) -> float:
        before = server.cpu()
        return chats[server.name].run(SECONDS) * deliveries / (server.cpu() - before)

    return measure


def test_messages_between_two_users(benchmark, tmp_path):
    """A message is a `send`, a `stored`, a `push` and a `delivered`. 100 pairs, each with one message under way."""
    with serving(tmp_path, "stock", "sans_io", "imsim", "asyncio", "memory") as servers:
        chats = {server.name: pairs(server.connect(USERS)) for server in servers}
        values = take_turns(benchmark, servers, per_cpu_second(chats))
    for name, other, least in [("imsim", "stock", 0.9), ("asyncio", "stock", 0.9), ("imsim", "sans_io", 0.38)]:
        detail = rates(values, name, other)
        loop = "asyncio" if name == "asyncio" or not HAS_UVLOOP else "uvloop"
        label = f"p2p on {loop}, SQLite FULL, against {other}"
        note(benchmark, label, ratio(values, name, other), "x", least=least, detail=detail)
    detail = rates(values, "memory", "imsim")
    note(
        benchmark, "p2p, CPU of SQLite against memory", ratio(values, "memory", "imsim"), "x", most=1.15, detail=detail
    )


def test_latency_of_sqlite_at_a_third_of_saturation(benchmark, tmp_path):
    """The median time from a send to its `stored`, at the same rate for both stores. It is wall time."""
    with serving(tmp_path, "imsim", "memory") as servers:
        chats = {server.name: pairs(server.connect(USERS)) for server in servers}
        started = time.perf_counter()
        rate = chats["imsim"].run(SECONDS) / (time.perf_counter() - started) / 3

        def p50(server: Served) -> float:
            return statistics.median(chats[server.name].latencies(rate, SECONDS)) * 1e3

        values = take_turns(benchmark, servers, p50)
    of = {name: statistics.median(column) for name, column in values.items()}
    detail = f"{of['imsim']:.2f} against {of['memory']:.2f} ms at {rate:,.0f} messages/s"
    label = "p2p, p50 of SQLite against memory, at a third of saturation"
    note(benchmark, label, ratio(values, "imsim", "memory"), "x", most=3, detail=detail)


def in_group(server: Served, members: int) -> Chat:
    """Log in the members of a group, and let the first one write to it."""
    connections = server.connect(members)
    if server.is_imsim:
        create(connections)
    return group(connections, "g")


def create(connections: list[Connection]) -> None:
    first, *others = (user(connection.number) for connection in connections)
    targets = ",".join(f'"{name}"' for name in others)
    change = f'{{"event":"create","operator":"{first}","targets":[{targets}],"data":{{}}}}'
    text = f'{{"op":"send","idClient":"c","scene":"group","to":"g","type":"notification","file":{change}}}'
    connections[0].send(frame(text.encode()))
    connections[0].wait_for(STORED)
    for connection in connections[1:]:
        connection.wait_for(PUSH)
        connection.seq = 1
        connection.send(frame(b'{"op":"delivered","conversationId":"group:g","seq":1}'))


def test_deliveries_in_a_group_of_500(benchmark, tmp_path):
    """A delivery is a `push` and a `delivered`. The next message is sent when all members have the last one."""
    with serving(tmp_path, "stock", "sans_io", "imsim", "asyncio") as servers:
        chats = {server.name: in_group(server, MEMBERS) for server in servers}
        values = take_turns(benchmark, servers, per_cpu_second(chats, MEMBERS - 1))
    for other, least in [("sans_io", 0.75), ("stock", 1.0)]:
        detail = rates(values, "imsim", other)
        label = f"fan-out 1 to 500, against {other}"
        note(benchmark, label, ratio(values, "imsim", other), "x", least=least, detail=detail)


def test_logins(benchmark, tmp_path):
    """A login is a TCP connection, a handshake and a login. The relay has no login: its clients send a number."""
    number = 0

    def measure(server: Served) -> float:
        nonlocal number
        number += LOGINS
        before = server.cpu()
        server.connect(LOGINS, first=number)
        cpu = server.cpu() - before
        server.disconnect()
        return LOGINS / cpu

    with serving(tmp_path, "stock", "imsim", "asyncio") as servers:
        values = take_turns(benchmark, servers, measure)
    for name in ("imsim", "asyncio"):
        loop = "asyncio" if name == "asyncio" or not HAS_UVLOOP else "uvloop"
        detail = rates(values, name, "stock")
        note(benchmark, f"logins on {loop}, against stock", ratio(values, name, "stock"), "x", least=1.0, detail=detail)


def test_memory_of_idle_connections(benchmark, tmp_path):
    with serving(tmp_path, "stock", "imsim", "asyncio") as servers:
        used = {}

        def measure() -> None:
            for server in servers:
                server.connect(100)  # some memory is allocated once, by the first connections
                before = server.memory()
                server.connect(IDLE, first=100)
                used[server.name] = (server.memory() - before) / IDLE

        benchmark.pedantic(measure, rounds=1, iterations=1)
    detail = f"{used['asyncio']:.1f} on asyncio, stock {used['stock']:.1f}"
    note(benchmark, "memory of an idle connection", used["imsim"], "KiB", most=8, detail=detail)
