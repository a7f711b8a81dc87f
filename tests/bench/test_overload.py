"""Overload: the messages that a server stores per second of its CPU time, from half its capacity to three times it.

    python -m pytest tests/bench/test_overload.py --benchmark-enable -n0 -p no:randomly

prints the curve (about two minutes). The clients run in this process. On Linux the server shares a processor with busy
loops, so that this process can offer more than the server can take. The goodput counts each stored message once. It is
divided by the server's CPU time, because other programs may take turns with it. In the ordinary suite each phase is
short, and nothing about its times is asserted.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from bench.race import note

import imsim
from imsim.core import events
from imsim.core.model import Scene
from imsim.live import Device, Tokens

KEY = "a key of the benchmark"
LOADS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
HOGS = 2  # busy loops that share the server's processor
NUMBERS = itertools.count()  # of the messages: a server answers an idClient that it knows without storing anything


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Crowd:
    """Clients that are logged in, with the time at which each of their messages was stored."""

    def __init__(self, url: str, users: int) -> None:
        tokens = Tokens(KEY, 1e6)
        self.stored: dict[str, float] = {}
        self.attempts = 0
        self.devices = [
            Device(url, f"u{i}", token=tokens.issue(f"u{i}", time.time())[0], on_event=self._record)
            for i in range(users)
        ]
        self._offline = users
        self._online = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def _record(self, event: events.ClientEvent) -> None:
        if isinstance(event, events.Acked):
            self.stored[event.id_client] = time.monotonic()
            if (waiting := self._waiting.pop(event.id_client, None)) is not None:
                waiting.set_result(None)
        elif isinstance(event, events.Sent):
            self.attempts += 1
        elif isinstance(event, events.Ready):
            self._offline -= 1
            if not self._offline:
                self._online.set()

    async def start(self) -> None:
        for device in self.devices:
            device.start()
        await self._online.wait()

    def send(self, sender: int, receiver: int) -> str:
        device, id_client = self.devices[sender], f"m{next(NUMBERS)}"
        device.perform(lambda now: device.machine.send(Scene.P2P, f"u{receiver}", "x" * 40, id_client, now))
        return id_client

    async def offer(self, rate: float, seconds: float) -> float:
        """Send messages at this rate, whatever the answers are. Return the p99 of their lateness in seconds."""
        draw, late = random.Random(1), []
        due = start = time.monotonic()
        while due < start + seconds:
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            elif len(late) % 20 == 0:
                await asyncio.sleep(0)
            late.append(time.monotonic() - due)
            sender = draw.randrange(len(self.devices))
            self.send(sender, (sender + draw.randrange(1, 6)) % len(self.devices))
            due += draw.expovariate(rate)
        return statistics.quantiles(late, n=100)[-1] if len(late) > 1 else 0.0

    async def offer_in_turn(self, seconds: float) -> None:
        """Keep one message of each client in flight."""
        end = time.monotonic() + seconds

        async def chat(sender: int) -> None:
            while time.monotonic() < end:
                stored = asyncio.get_running_loop().create_future()
                self._waiting[self.send(sender, 0 if sender else 1)] = stored
                await stored

        await asyncio.gather(*map(chat, range(len(self.devices))))


async def goodput(pid: int, url: str, users: int, rate: float, seconds: float) -> tuple[float, float, str]:
    """Return the messages stored per second, the same per CPU second of the server, and a text with details.

    `rate`: messages offered per second; 0: one message of each client in flight. The first third does not count.
    """
    crowd = Crowd(url, users)
    await crowd.start()
    start = time.monotonic()
    offering = asyncio.create_task(crowd.offer(rate, seconds) if rate else crowd.offer_in_turn(seconds))
    await asyncio.sleep(seconds / 3)
    since, cpu = time.monotonic(), cpu_of(pid)
    late = await offering
    until, used = time.monotonic(), cpu_of(pid) - cpu
    stored = sum(since < at <= until for at in crowd.stored.values())
    await asyncio.gather(*(device.stop() for device in crowd.devices))
    text = (
        f"{stored / (until - since):.0f}/s of {rate:.0f}/s, {crowd.attempts / max(1, len(crowd.stored)):.1f} attempts"
    )
    return stored / (until - start) * 1.5, stored / max(used, 0.01), f"{text}, {late or 0:.2f} s late"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the CPU time of the server from /proc")
def test_goodput_above_the_capacity(benchmark, tmp_path):
    seconds, users, rounds = (12.0, 400, 2) if benchmark.enabled else (0.3, 4, 1)
    found: dict[float, list[float]] = {load: [] for load in LOADS}
    lines: list[str] = []

    def measure() -> None:
        for number in range(rounds):
            with ExitStack() as stack:
                server = stack.enter_context(imsim.serve("office", key=KEY, db=tmp_path / f"{number}.db"))
                pid = server._process.pid
                if benchmark.enabled:
                    os.sched_setaffinity(pid, {0})
                    os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - {0} or {0})
                    code = "import os; os.sched_setaffinity(0, {0})\nwhile os.getppid() > 1: pass"
                    for _ in range(HOGS):
                        hog = stack.enter_context(subprocess.Popen([sys.executable, "-c", code]))
                        stack.callback(hog.kill)
                capacity = asyncio.run(goodput(pid, server.url, users, 0.0, seconds))[0]
                for load in LOADS:
                    _, per_cpu, text = asyncio.run(goodput(pid, server.url, users, load * capacity, seconds))
                    found[load].append(per_cpu)
                    lines.append(f"{load:g} x: {text}")

    benchmark.pedantic(measure, rounds=1, iterations=1)
    curve = {load: statistics.median(values) for load, values in found.items()}
    detail = "per CPU second: " + ", ".join(f"{load:g} x {value:.0f}" for load, value in curve.items())
    note(
        benchmark,
        "goodput at 3 x capacity, of its peak",
        curve[3.0] / max(curve.values()),
        "x",
        least=0.8,
        detail=detail,
    )
    if benchmark.enabled:
        print(*lines, sep="\n")
