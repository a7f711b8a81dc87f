"""Tests of load tests on several processes: real Locust processes against a real server."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import psutil
import pytest

from imsim.core.exceptions import UsageError
from imsim.load.launch import loadtest
from imsim.results import RunData
from imsim.scenario import Scenario, plan

from .conftest import ROOT, TINY

#: A locustfile whose process has a clock that is SHIFT seconds ahead.
SHIFTED = """
import os, time
if shift := float(os.environ.get("SHIFT", "0")):
    real = time.perf_counter
    time.perf_counter = lambda: real() + shift
from imsim.load.users import IMUser
class Device(IMUser):
    pass
"""


class Session:
    """Locust processes that a test starts. Their output is collected in the background."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.out = folder / "out"
        self._arguments = arguments
        self._changed = threading.Condition()
        self._readers: list[threading.Thread] = []
        self.processes: list[subprocess.Popen[str]] = []
        self.texts: list[str] = []

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "locust", *self._arguments, "--imsim-out", str(self.out), *options]
        variables = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        self.texts.append("")
        self._readers.append(threading.Thread(target=self._read, args=(len(self.texts) - 1,)))
        self._readers[-1].start()
        return process

    def close(self) -> None:
        for process in self.processes:
            children = psutil.Process(process.pid).children() if process.poll() is None else []
            for each in (process, *children):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    each.kill()
            process.wait()
        for reader in self._readers:
            reader.join()  # it ends with the last process that has the pipe

    def _read(self, number: int) -> None:
        with self.processes[number].stdout as output:
            for line in output:
                with self._changed:
                    self.texts[number] += line
                    self._changed.notify_all()

    def wait(self, text: str, count: int = 1) -> None:
        """Wait until the outputs contain this text `count` times."""
        self.wait_until(lambda: "".join(self.texts).count(text) >= count)

    def wait_until(self, done: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        with self._changed:
            while not done():
                left = deadline - time.monotonic()
                assert left > 0, "\n".join(self.texts)
                self._changed.wait(min(left, 0.05))

    def workers(self) -> list[int]:
        """Return the pids of the workers that --processes has forked."""
        return [child.pid for child in psutil.Process(self.processes[0].pid).children()]

    def recorded(self, number: int) -> int:
        """Return how many bytes of a worker's facts have arrived."""
        return sum(path.stat().st_size for path in self.temporary.glob(f"imsim-load-*/facts-{number}.spool"))

    def phase(self) -> str:
        """Return the phase of the run, of the status on the disk."""
        for status in self.temporary.glob("imsim-load-*/status.json"):
            with contextlib.suppress(OSError):
                return status.read_text().partition('"phase": "')[2].partition('"')[0]
        return ""

    def runs(self) -> list[RunData]:
        return [RunData.open(path, verify=True) for path in sorted(self.out.iterdir())]


@pytest.fixture
def session(tmp_path, url, free_port) -> Iterator[Callable[..., Session]]:
    """A function that makes a session of a scenario (TOML) with further arguments."""
    sessions: list[Session] = []

    def make(scenario: str, *arguments: str) -> Session:
        file = tmp_path / "scenario.toml"
        file.write_text(scenario)
        (tmp_path / "shifted.py").write_text(SHIFTED)
        ports = ["--master-bind-host", "127.0.0.1", "--master-bind-port", str(free_port)]
        ports += ["--master-host", "127.0.0.1", "--master-port", str(free_port)]
        given = ["-f", str(tmp_path / "shifted.py"), "-H", url, "--only-summary", "--imsim-scenario", str(file)]
        sessions.append(Session(tmp_path, [*given, *ports, *arguments]))
        return sessions[-1]

    yield make
    for one in sessions:
        one.close()


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def latencies(run: RunData) -> list[float]:
    """Return the latencies of all deliveries in ms, ascending."""
    intended = run.messages["intended_at"].to_numpy()
    deliveries = run.deliveries
    return sorted((deliveries["delivered_at"].to_numpy() - intended[deliveries["intent"].to_numpy()]) / 1e6)


@pytest.mark.usefixtures("forked_child")
def test_two_processes_make_one_run_of_one_plan(url, tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    scenario = Scenario.from_toml(TINY, name="tiny").replace({"seed": 5})
    run = loadtest(scenario, url, processes=2, out=tmp_path / "out")
    whole = plan(scenario)
    assert run.messages["intended_at"].tolist() == whole.at.tolist()
    assert (run.messages.outcome == "stored").all()
    assert (run.deliveries.outcome == "delivered").all()
    workers = run.manifest["workers"]
    assert [(worker["index"], worker["devices"], worker["died_at"]) for worker in workers] == [
        (0, 12, None),
        (1, 12, None),
    ]
    assert sum(worker["health"]["lateness"]["count"] for worker in workers) == len(whole)
    assert all(worker["health"]["receiving"]["count"] > 0 for worker in workers)
    assert set(run.manifest["receiving_ms"]) == set(run.manifest["lateness_ms"]) == {"p50", "p99", "max"}
    # One computer has one clock.
    assert all(abs(worker["offset_ms"]) <= worker["offset_error_ms"] for worker in workers)
    assert not any(worker["offset_applied"] for worker in workers)
    assert not run.manifest["partial"]
    assert not [warning for warning in run.manifest["warnings"] if "worker" in warning or "clock" in warning]
    assert names(temporary) == []
    assert "imsim_key" not in (run.path / "locust.log").read_text()


def test_count_of_processes_must_fit_the_population(url, tiny):
    with pytest.raises(UsageError, match=r"processes: expected 1 to \d+, the devices of the population \(got 0\)"):
        loadtest(tiny, url, processes=0)


def test_share_of_a_worker_that_leaves_or_dies_counts_apart(session):
    """One worker is terminated, one is killed, and the third goes on."""
    locust = session(TINY.replace('"1s"', '"5s"').replace('drain = "5s"', 'drain = "1s"'), "--headless")
    master = locust.start("--processes", "3")
    locust.wait_until(lambda: locust.phase() == "play")
    locust.wait_until(lambda: all(locust.recorded(number) > 1000 for number in range(3)))
    terminated, killed, _ = locust.workers()
    os.kill(terminated, signal.SIGTERM)
    os.kill(killed, signal.SIGKILL)
    assert master.wait(60) == 1, locust.texts
    (run,) = locust.runs()
    died = {worker["pid"] for worker in run.manifest["workers"] if worker["died_at"] is not None}
    assert died == {terminated, killed}
    assert run.manifest["partial"]
    assert run.manifest["ended"]["phase"] == "play"
    lost = [warning for warning in run.manifest["warnings"] if "was lost during play" in warning]
    assert len(lost) == 2
    assert [f"pid {terminated})" in warning for warning in lost if "it was terminated" in warning] == [True]
    assert run.manifest["withdrawn"]["devices"] == 16
    outcomes = run.messages.outcome.value_counts()
    assert outcomes["unsent"] == run.manifest["withdrawn"]["messages"] > 0
    assert outcomes["stored"] > 0.3 * len(run.messages)  # the third worker sent all of its third
    assert set(run.deliveries.outcome) <= {"delivered", "absent"}
    assert names(locust.temporary) == []


def test_workers_end_and_remove_their_folders_if_the_master_is_killed(session):
    locust = session(TINY.replace('"1s"', '"60s"'), "--headless")
    locust.start("--processes", "2")
    locust.wait_until(lambda: locust.phase() == "play")
    workers = locust.workers()
    assert len(list(locust.temporary.glob("imsim-worker-*"))) == 2
    locust.processes[0].kill()
    gone, _ = psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=20)
    assert not [pid for pid in workers if psutil.pid_exists(pid)], gone
    assert list(locust.temporary.glob("imsim-worker-*")) == []


def test_worker_that_comes_late_takes_part(session):
    """Locust moves users to it: their devices are offline for a moment, which counts as the tester's change."""
    locust = session(TINY.replace('"1s"', '"60s"'), "--headless")
    master = locust.start("--master", "--expect-workers", "1")
    locust.start("--worker")
    locust.wait_until(lambda: locust.phase() == "play")
    locust.start("--worker")
    locust.wait_until(lambda: locust.recorded(2) > 1000)  # number 1 is that of the coordinator's own facts
    master.send_signal(signal.SIGINT)
    assert master.wait(60) == 1, locust.texts
    (run,) = locust.runs()
    first, late = run.manifest["workers"]
    assert (first["index"], late["index"]) == (0, 2)
    assert (first["devices"], late["devices"]) == (12, 12)
    assert set(run.deliveries.outcome) <= {"delivered", "absent"}
    assert run.manifest["ended"]["reason"] == "the test was interrupted"
    assert names(locust.temporary) == []


def test_web_page_makes_a_run_of_each_test_with_the_same_workers(session, url):
    """The clock of one worker is 50 ms ahead. With another correction, deliveries of one direction would arrive before
    they were sent.
    """
    locust, port = session(TINY), unused_port()
    page = f"http://127.0.0.1:{port}"
    locust.start("--master", "--web-host", "127.0.0.1", "--web-port", str(port))
    locust.start("--worker")
    locust.start("--worker", SHIFT="0.05")
    locust.wait("workers connected", 2)
    locust.wait_until(lambda: is_listening(port))
    for number in (1, 2):
        form = {"user_count": 24, "spawn_rate": 100, "host": url, "imsim_seed": str(number)}
        with urlopen(f"{page}/swarm", urlencode(form).encode(), timeout=10) as answer:
            assert b'"success":true' in answer.read().replace(b" ", b"")
        locust.wait_until(lambda: "".join(locust.texts).count("\nrun: ") == number)  # noqa: B023
        locust.wait("workers connected", 2 + 2 * number)  # Locust's workers are ready for the next test
    runs = locust.runs()
    assert sorted(run.seed for run in runs) == [1, 2]
    assert all((run.deliveries.outcome == "delivered").all() for run in runs)
    assert all(run.manifest["foreign"] == 0 for run in runs)
    for run in runs:
        offsets = sorted(run.manifest["workers"], key=lambda worker: worker["offset_ms"])
        error = offsets[1]["offset_error_ms"]
        assert [worker["offset_applied"] for worker in offsets] == [False, True]
        assert offsets[1]["offset_ms"] == pytest.approx(50, abs=error)
        found = latencies(run)
        assert found[0] > -error
        assert found[len(found) // 2] < 30


def test_worker_that_cannot_take_part_says_why(session, tmp_path):
    """The master has an adapter that the worker's computer lacks."""
    adapter = tmp_path / "adapter.py"
    adapter.write_text("import os\nfrom imsim.load.adapters.imsim import ImsimAdapter\nos.environ['PRESENT']\n")
    locust = session(TINY, "--headless", "--imsim-adapter", f"{adapter}:ImsimAdapter")
    master = locust.start("--master", "--expect-workers", "1", PRESENT="yes")
    locust.start("--worker")
    assert master.wait(60) == 1, locust.texts
    assert re.search(r"worker 0 \(\S+, pid \d+\) cannot take part: adapter: .*'PRESENT'", locust.texts[0])
    assert not locust.out.exists()
    assert names(locust.temporary) == []
