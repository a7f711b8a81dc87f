"""Benchmarks of adapters: CPU time of a generator process, against a minimal client that is written by hand.

    python -m pytest tests/bench/test_adapters.py --benchmark-enable -n0 -p no:randomly

Both generators load the same server: pairs of users, each with one message under way. They take turns, on one CPU core;
the server has another one. In the ordinary suite each measure is short, and nothing about its value is asserted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from bench.race import note
from load.adapters.described_examples import example, example_server, write
from load.servers import Server, mosquitto, prosody

ROUNDS = 9
SECONDS = 1.5  # of a round
USERS = 100
SHORT = {"ROUNDS": 1, "SECONDS": 0.05, "USERS": 4}

#: By the name of the adapter: a context manager that runs the server in a folder, and the server's path.
SERVERS: dict[str, tuple[Callable[[Path], AbstractContextManager[Server]], str]] = {
    "mqtt": (lambda folder: mosquitto(folder, "persistence false"), "/"),
    "xmpp": (lambda folder: prosody('storage = "memory"'), "/xmpp-websocket"),
    "websocket": (lambda folder: example_server(folder, "chat_server.py"), ""),
    "socketio": (lambda folder: example_server(folder, "socketio_server.py"), ""),
}


@pytest.fixture(autouse=True)
def _short(request, monkeypatch) -> None:
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs Linux and two CPU cores: one for the server, one for the generator")
    if not request.config.getoption("benchmark_enable"):
        for name, value in SHORT.items():
            monkeypatch.setattr(sys.modules[__name__], name, value)


class Generator:
    """A generator of adapter_load.py, in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        core = max(os.sched_getaffinity(0))
        script = Path(__file__).with_name("adapter_load.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(core), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "online\n"

    def cost(self) -> float:
        """Chat for a while, and return the CPU seconds of a message."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{SECONDS}\n")
        self._process.stdin.flush()
        count, cpu = self._process.stdout.readline().split()
        return float(cpu) / int(count)

    def close(self) -> None:
        self._process.communicate("")


@contextmanager
def generator(*arguments: str) -> Iterator[Generator]:
    one = Generator(*arguments)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize("adapter", SERVERS)
def test_cpu_of_adapter(benchmark, tmp_path, adapter):
    """A message is sent, acknowledged and delivered."""
    serve, path = SERVERS[adapter]
    ours: list[float] = []
    theirs: list[float] = []
    with ExitStack() as stack:
        server = stack.enter_context(serve(tmp_path))
        os.sched_setaffinity(server.pid, {min(os.sched_getaffinity(0))})
        url = f"ws://127.0.0.1:{server.port}{path}"
        file = write(tmp_path, example("chat.toml")).values() if adapter == "websocket" else ()
        imsim, bare = (
            stack.enter_context(generator(kind, adapter, url, str(USERS), *file)) for kind in ("imsim", "bare")
        )

        def turn() -> None:
            ours.append(imsim.cost())
            theirs.append(bare.cost())

        turn()  # a warm-up
        ours.clear()
        theirs.clear()
        benchmark.pedantic(turn, rounds=ROUNDS, iterations=1)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    detail = f"{statistics.median(ours) * 1e6:.0f} against {statistics.median(theirs) * 1e6:.0f} us a message"
    note(benchmark, f"CPU of the adapter {adapter}, against a minimal client", ratio, "x", most=1.3, detail=detail)
