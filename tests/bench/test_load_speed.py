"""Benchmarks of the load generator's speed: CPU time and memory of a Locust process with imsim's users.

    python -m pytest tests/bench/test_load_speed.py --benchmark-enable -n0 -p no:randomly

prints the measures and their goals (about four minutes). The server runs on one CPU core, and the generators take
turns on another one. The times are CPU times of the whole generator process, so other work on the machine disturbs them
little. Only the time until all users are online is wall time. In the ordinary suite each measure is short, and nothing
about its value is asserted.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.load_workers import work_of_two
from bench.race import cpu, note
from bench.raw_client import CONTENT, user
from bench.test_server_speed import KEY, Served

from imsim.core import events
from imsim.core.model import Flow, Message, Route, Scene
from imsim.live.auth import Tokens
from imsim.load.collect import read_status, spool_name
from imsim.load.extras import Extras
from imsim.load.recording import Recording
from imsim.results.recorder import Kind, read_facts
from imsim.scenario import Scenario, plan

ROUNDS = 5
SECONDS = 6.0  # of a round
USERS = 200  # that write to each other in pairs
RATE = 1_000.0  # messages per second of all users
WORK_RATE = 600.0  # messages per second of each worker
IDLE = 1000  # connected users, besides USERS
ONLINE = 2000  # users that log in
RECORDED = 20_000  # messages
SHORT = {
    "ROUNDS": 1,
    "SECONDS": 1.0,
    "USERS": 4,
    "RATE": 20.0,
    "WORK_RATE": 20.0,
    "IDLE": 4,
    "ONLINE": 8,
    "RECORDED": 50,
}

LOCUSTFILE = Path(importlib.util.find_spec("imsim.load").origin).with_name("locustfile.py")
PLAIN = Path(__file__).with_name("plain_user.py")


@pytest.fixture(autouse=True)
def _cores(request, monkeypatch) -> Iterator[None]:
    """Run this process, and the generators that it starts, on a core of their own if benchmarks are enabled."""
    if not hasattr(os, "sched_setaffinity") or len(cores := sorted(os.sched_getaffinity(0))) < 2:
        pytest.skip("needs Linux and two CPU cores: one for the server, one for the load generator")
    if not request.config.getoption("benchmark_enable"):
        for name, value in SHORT.items():
            monkeypatch.setattr(sys.modules[__name__], name, value)
        yield
        return
    os.sched_setaffinity(0, {cores[1]})
    yield
    os.sched_setaffinity(0, set(cores))


@pytest.fixture
def served() -> Iterator[Served]:
    """A server with its messages in memory."""
    server = Served("memory", "imsim", "")
    try:
        yield server
    finally:
        server.close()


def pairs(users: int, rate: float, seconds: float) -> Scenario:
    """Return a scenario of p2p messages of the same size. `rate` is of all users together."""
    text = f"""
seed = 3
duration = "{seconds}s"
drain = "5s"
[population]
users = {users}
devices = 1
[conversations]
p2p_share = 1.0
partners = 1
groups = 0
[workload]
rate = {rate / users}
size = {len(CONTENT)}
"""
    return Scenario.from_toml(text, name="pairs")


class Generator:
    """A Locust process."""

    def __init__(self, served: Served, folder: Path, file: Path, users: int, *options: str, **settings: Any) -> None:
        command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--only-summary"]
        command += ["--host", f"ws://127.0.0.1:{served.port}", "-u", str(users), "-r", str(users), *options]
        self._log = (folder / "locust.log").open("ab")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=folder,
            text=True,
            env=os.environ | {"IMSIM_KEY": KEY} | {name: str(value) for name, value in settings.items()},
        )

    def cpu(self) -> float:
        """Return the CPU seconds of all threads of the process so far."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text().split()[0]) for file in threads) / 1e9

    def memory(self) -> float:
        """Return the resident memory in KiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1024

    def end(self, *, kill: bool = False) -> str:
        if kill:
            self.process.kill()
        self.process.wait(timeout=120)  # before its standard input ends, which would end it
        output, _ = self.process.communicate()
        self._log.close()
        # 5: a run that the generator spoils, because it is as busy as it can be.
        assert kill or self.process.returncode in (0, 5), Path(self._log.name).read_text()
        return output


class Imsim(Generator):
    """A Locust process that plays a scenario with imsim's users."""

    def __init__(self, served: Served, folder: Path, scenario: Scenario) -> None:
        self.folder = folder
        self.scenario = scenario
        (folder / "scenario.toml").write_text(scenario.to_toml())
        options = ("--imsim-scenario", str(folder / "scenario.toml"), "--imsim-folder", str(folder))
        super().__init__(served, folder, LOCUSTFILE, scenario.population.users, *options)

    def wait_for(self, *phases: str) -> dict[str, Any]:
        """Wait until the run is in one of these phases, and return its status."""
        while (status := read_status(self.folder)).get("phase") not in phases:
            assert self.process.poll() is None, (status, self.end())
            time.sleep(0.01)
        return status

    def wait_until_playing(self) -> float:
        """Wait until the logins are over, and return when the plan starts, by `time.time`."""
        status = self.wait_for("play", "drain", "done")
        return datetime.fromisoformat(status["started"]).timestamp()


def cpu_per_message_of_imsim(served: Served, folder: Path) -> float:
    """Return the CPU seconds of a message in the middle of a run."""
    folder.mkdir()
    edge = SECONDS / 4
    scenario = pairs(USERS, RATE, SECONDS + 2 * edge)
    generator = Imsim(served, folder, scenario)
    started = generator.wait_until_playing()
    times, used = [], []
    for moment in (edge, edge + SECONDS):
        time.sleep(max(0.0, started + moment - time.time()))
        times.append(time.time() - started)
        used.append(generator.cpu())
    status = generator.wait_for("done")
    facts = read_facts([generator.folder / spool_name(0)])
    generator.end()
    assert status["played"] == scenario.duration
    at = facts["at"][facts["kind"] == Kind.DELIVERED] / 1e9
    assert len(at) == len(plan(scenario))
    return (used[1] - used[0]) / max(1, np.count_nonzero((at >= times[0]) & (at < times[1])))


def cpu_per_message_of_plain(served: Served, folder: Path) -> float:
    """Return the CPU seconds of a message of Locust users on `websockets.sync`, without any recording."""
    folder.mkdir()
    tokens, now = Tokens(KEY, 86_400), time.time()
    file = folder / "tokens"
    file.write_text("\n".join(tokens.issue(user(number), now)[0] for number in range(USERS)))
    settings = {"BENCH_TOKENS": file, "BENCH_RATE": RATE, "BENCH_SECONDS": SECONDS, "BENCH_CONTENT": CONTENT}
    result = json.loads(Generator(served, folder, PLAIN, USERS, **settings).end())
    return result["cpu"] / max(1, result["messages"])


def cpu_per_message_of_recording(folder: Path) -> float:
    """Return the CPU seconds of the recording of a message, without its reports to Locust's statistics.

    The facts of a message are: requested, sent, stored, delivered.
    """
    folder.mkdir()
    planned = plan(pairs(USERS, RATE, RECORDED / RATE))
    messages = []
    for intent, (sender, conversation) in enumerate(zip(planned.sender, planned.conversation, strict=True)):
        (other,) = set(planned.conversations[conversation].members) - {int(sender)}
        id, at = f"run:{intent}", float(planned.at[intent]) / 1e9
        push = Message("p2p:a:b", 1, f"p2p:a:b:{intent}", id, Scene.P2P, "text", "a", "b", 0, CONTENT)
        steps = [
            (int(sender), events.Sent(id, 1), at),
            (int(sender), events.Acked(id, "p2p:a:b", 1, 0), at),
            (other, events.Shown(push, Flow.IN, Route.PUSH), at),
        ]
        messages.append((intent, steps))

    def record() -> None:
        extras = Extras(len(planned), 0, 1, folder / "extras")
        recording = Recording(planned, "run:", folder / "facts", lambda *report: None, extras, lambda *delivery: None)
        recording.begin(0.0)
        for intent, steps in messages:
            recording.asked(intent, 0.0)
            for step in steps:
                recording.event(*step)
        recording.close()
        assert recording.in_flight == 0

    return cpu(record) / len(messages)


def test_message_against_websockets_sync(benchmark, tmp_path, served):
    """A message is two sends and two receives: a `send`, its `stored`, a `push` and its `delivered`.

    The recording alone is compared with all that a generator does for a message.
    """
    values: list[tuple[float, float]] = []

    def turn() -> None:
        number = len(values)
        one = cpu_per_message_of_imsim(served, tmp_path / f"imsim{number}")
        values.append((one, cpu_per_message_of_plain(served, tmp_path / f"plain{number}")))

    benchmark.pedantic(turn, rounds=ROUNDS, iterations=1)
    ours, theirs = (statistics.median(column) * 1e6 for column in zip(*values, strict=True))
    ratio = statistics.median(one / other for one, other in values)
    detail = f"{ours:.0f} against {theirs:.0f} us of CPU a message"
    note(benchmark, "load generator, against a user on websockets.sync", ratio, "x", most=0.6, detail=detail)
    recording = statistics.median(cpu_per_message_of_recording(tmp_path / f"recording{n}") for n in range(ROUNDS)) * 1e6
    detail = f"{recording:.1f} of {ours:.0f} us of CPU a message"
    note(benchmark, "load generator, share of the recording", 100 * recording / ours, "%", most=5, detail=detail)


def test_memory_of_a_connected_user(benchmark, tmp_path, served):
    used = []

    def measure(users: int) -> float:
        folder = tmp_path / str(users)
        folder.mkdir()
        generator = Imsim(served, folder, pairs(users, 10.0, 2.0))
        generator.wait_until_playing()
        memory = generator.memory()
        generator.end(kill=True)
        return memory

    def turn() -> None:
        used.append((measure(USERS + IDLE) - measure(USERS)) / IDLE)

    benchmark.pedantic(turn, rounds=1, iterations=1)
    note(benchmark, "load generator, memory of a connected user", used[0], "KiB", most=40, detail="")


def test_time_until_all_users_are_online(benchmark, tmp_path, served):
    """Wall time from the start of the process, whose imports take a second or two, to the last login."""
    times, used = [], []

    def turn() -> None:
        served.disconnect()
        before, start = served.cpu(), time.perf_counter()
        generator = Imsim(served, tmp_path, pairs(ONLINE, 10.0, 2.0))
        generator.wait_until_playing()
        times.append(time.perf_counter() - start)
        used.extend([generator.cpu(), served.cpu() - before])
        generator.end(kill=True)

    benchmark.pedantic(turn, rounds=1, iterations=1)
    detail = f"CPU: {used[0]:.1f} s of the generator, {used[1]:.1f} s of the server"
    note(benchmark, f"load generator, {ONLINE} users online", times[0], "s", most=10, detail=detail)


def test_two_workers_against_one(benchmark, served):
    """The work of two workers on two cores, as `bench.load_workers` counts it."""
    found = []
    url = f"ws://127.0.0.1:{served.port}"
    benchmark.pedantic(lambda: found.append(work_of_two(url, KEY, WORK_RATE, SECONDS)), rounds=1, iterations=1)
    detail = "from CPU times, with the coordinator's"
    note(benchmark, "load generator, work of two workers against one", found[0], "x", least=1.7, detail=detail)
