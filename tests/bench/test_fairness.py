"""Fairness: the latency of other users while one client attacks the server, against their latency without it.

    python -m pytest tests/bench/test_fairness.py --benchmark-enable -n0 -p no:randomly

prints the 99th percentile of the time from a send to its push as a ratio (about two minutes). Phases with and without
the attack alternate. In the ordinary suite each phase is short, and nothing about its times is asserted.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
from bench.race import note
from websockets.uri import parse_uri

import imsim
from imsim.live.client.credentials import get_token

KEY = "a key of the benchmark"
RATE = 200.0  # messages per second of the other users

#: The attacker runs in its own process, so that its work is not measured as the delay of the users in this process.
ATTACKER = r"""
import os, socket, sys, time

kind, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASK = b"\0\0\0\0"
LOGIN = sys.argv[4].encode()
LOGIN = b"\x81\xfe" + len(LOGIN).to_bytes(2, "big") + MASK + LOGIN
BURSTS = {
    "continuations": b"\x01\x80" + MASK + (b"\x00\x80" + MASK) * 44_000,
    "pings": (b"\x89\x80" + MASK) * 44_000,
    "pongs": (b"\x8a\x80" + MASK) * 44_000,
    "messages": (b"\x81\x8d" + MASK + b'{"op":"ping"}') * 14_000,
}


def connect():
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    return one


def attack():
    if kind in BURSTS:
        with socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(HANDSHAKE)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += one.recv(4096)
            if logged_in:
                one.sendall(LOGIN)
                while b"logged_in" not in answer:
                    answer += one.recv(4096)
            one.settimeout(0.5)
            try:
                one.sendall(BURSTS[kind])
                while one.recv(1 << 20):
                    pass
            except OSError:
                pass
    else:
        crowd = [connect() for _ in range(400)]
        time.sleep(0.05)
        for one in crowd:
            try:
                one.send(HANDSHAKE)
            except OSError:
                pass
        time.sleep(0.2)
        for one in crowd:
            one.close()


logged_in = sys.argv[5] == "True"
print("ready", flush=True)
end = time.monotonic() + seconds
while time.monotonic() < end:
    attack()
    time.sleep(0.2)
"""


async def latencies(url: str, seconds: float, attack: tuple[str, bool] | None) -> list[float]:
    """The seconds from each send to its push, while the attack runs."""
    alice, bob = [await imsim.Client(url, user, key=KEY).start() for user in ("alice", "bob")]
    sent_at: dict[str, float] = {}
    taken: list[float] = []

    async def receive() -> None:
        async for got in bob.messages():
            if got.content in sent_at:
                taken.append(time.perf_counter() - sent_at[got.content])

    receiving = asyncio.create_task(receive())
    attacker = None
    if attack is not None:
        kind, logged_in = attack
        token = await get_token(parse_uri(url), "mallory", KEY, None)
        login = f'{{"op":"login","device":"m","token":"{token}"}}'
        port = url.rpartition(":")[2]
        attacker = subprocess.Popen(
            [sys.executable, "-c", ATTACKER, kind, port, str(seconds), login, str(logged_in)], stdout=subprocess.PIPE
        )
        await asyncio.to_thread(attacker.stdout.readline)
    draw = random.Random(1)
    end = time.perf_counter() + seconds
    number = 0
    sending = set()
    while (now := time.perf_counter()) < end:
        number += 1
        sent_at[f"{seconds}-{now}-{number}"] = now
        sending.add(asyncio.create_task(alice.send_text("bob", f"{seconds}-{now}-{number}")))
        await asyncio.sleep(draw.expovariate(RATE))
    await asyncio.sleep(0.2)
    await asyncio.gather(*sending)
    for client in (alice, bob):
        await client.close()
    await receiving
    if attacker is not None:
        attacker.stdout.close()
        await asyncio.to_thread(attacker.wait)
    assert len(taken) >= 0.9 * number
    return taken


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


ATTACKS = [(kind, logged_in) for logged_in in (False, True) for kind in ("continuations", "pings", "pongs", "messages")]


@pytest.fixture(scope="module")
def shared():
    """A server for all attacks in the ordinary suite. A benchmark measures each attack on a server of its own."""
    with imsim.serve("office", key=KEY) as server:
        yield server


@pytest.mark.parametrize("attack", [*ATTACKS, ("connects", False)], ids=lambda attack: f"{attack[0]}-{attack[1]}")
def test_latency_of_others_during_an_attack(benchmark, attack, shared):
    seconds, rounds = (3.0, 3) if benchmark.enabled else (0.2, 1)
    calm: list[float] = []
    busy: list[float] = []

    def measure() -> None:
        with imsim.serve("office", key=KEY) if benchmark.enabled else nullcontext(shared) as server:
            for number in range(2 * rounds):
                is_attacked = number % 4 in (1, 2)
                taken = asyncio.run(latencies(server.url, seconds, attack if is_attacked else None))
                (busy if is_attacked else calm).append(percentile(taken, 0.99))

    benchmark.pedantic(measure, rounds=1, iterations=1)
    before, during = statistics.median(calm), statistics.median(busy)
    name = f"p99 of others, {attack[0]} {'after' if attack[1] else 'before'} login"
    note(benchmark, name, during / before, "x", most=3, detail=f"{during * 1e3:.1f} ms against {before * 1e3:.1f} ms")
