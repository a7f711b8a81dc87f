"""Tests of every end of a load test, in every phase: the rows are kept, or the reason is the last line of an error.

Real Locust processes run against a real server. Each has a folder for temporary files, which must be empty afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

import imsim
from imsim.core import events, frames

PHASES = ("login", "play", "drain")

SCENARIO = """
seed = 3
duration = "{duration}s"
drain = "2s"
[population]
users = {users}
[conversations]
p2p_share = 1
partners = 2
[workload]
rate = {rate}
"""

#: Locust with short time limits for a server that has gone away.
LOCUST = """
import locust.main
import imsim.load.coordinator as coordinator, imsim.load.population as population
population._GONE_SECONDS = 1.0
coordinator.setup_timeout = lambda count: 2.0
locust.main.main()
"""

LOCUSTFILE = """
from locust import LoadTestShape
from imsim.load.director import Director
from imsim.load.users import IMUser

class Device(IMUser):
    pass
"""

#: A shape that ends the test in a phase.
SHAPE = """
class Shape(LoadTestShape):
    def tick(self):
        test = Director.of(self.runner.environment)._test
        if test is not None and test._coordinator.phase == "{phase}" and test.elapsed >= {elapsed}:
            return None
        return 12, {rate}
"""


@pytest.fixture
def chat(server_with, monkeypatch):
    """A server. `stored` has the messages that it has stored; `kill` crashes it. If `withholds`, it pushes nothing."""
    from imsim.live import server as module

    found = SimpleNamespace(stored=[], withholds=False)
    send_all = module._Port.send

    def send(self, connection, frame):
        if not (found.withholds and isinstance(frame, frames.Push)):
            send_all(self, connection, frame)

    def on_event(server, event):
        if isinstance(event, events.Committed):
            found.stored.append(event)

    monkeypatch.setattr(module._Port, "send", send)
    with server_with(on_event, on_start=lambda loop: setattr(found, "loop", loop)) as server:
        found.url = server.url
        found.kill = lambda: found.loop.call_soon_threadsafe(server.abort)
        yield found


class LoadTest:
    """A load test in its own process. Its temporary folder shows its phase."""

    def __init__(self, folder: Path, chat) -> None:
        self.results, self._tmp = folder / "results", folder / "tmp"
        self._tmp.mkdir()
        self._folder = folder
        self._chat = chat
        self.environment = {"TMPDIR": str(self._tmp), "PYTHONPATH": os.pathsep.join(sys.path)}

    def scenario(self, phase: str, users: int = 12) -> Path:
        """Write the scenario of a test that ends in this phase."""
        self._chat.withholds = phase == "drain"
        duration = {"login": 5, "play": 20, "drain": 1}.get(phase, 1)
        file = self._folder / "scenario.toml"
        file.write_text(SCENARIO.format(duration=duration, users=users, rate=48 / users))
        return file

    def wait_for(self, phase: str) -> None:
        """Wait until the test is in this phase, and the server has stored messages in it."""

        def is_reached() -> bool:
            for path in self._tmp.glob("imsim-load-*/status.json"):
                if json.loads(path.read_text())["phase"] == phase:
                    return phase != "play" or len(self._chat.stored) > 10
            return False

        deadline = time.monotonic() + 20
        while not is_reached():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def check(self, phase: str, reason: str, last_line: str, is_partial: bool = True) -> None:
        """Check that there is a run of what was sent until then, or this reason as the last line."""
        assert list(self._tmp.iterdir()) == []
        if phase == "login":
            assert not self.results.exists() or not list(self.results.glob("*live*"))
            assert reason in last_line
            return
        [path] = self.results.glob("*live*")
        run = imsim.read_run(path)
        assert run.partial is is_partial
        assert reason in run.manifest["ended"]["reason"]
        assert run.manifest["ended"]["phase"] == (phase if is_partial or reason.startswith("the load") else "done")
        sent = run.messages.outcome.isin(["stored", "unknown"])
        assert len(run.messages) == sent.sum() + (run.messages.outcome == "unsent").sum() >= 10
        assert (run.messages.outcome == "stored").sum() == pytest.approx(len(self._chat.stored), abs=3)
        if is_partial:
            assert reason in last_line or str(path) in last_line


@pytest.fixture
def load_test(tmp_path, chat):
    return LoadTest(tmp_path, chat)


@pytest.fixture
def locust_with(forked, load_test, chat, tmp_path):
    """A function that starts Locust for a test that ends in a phase."""

    def start(phase: str, *arguments: str, file: str = LOCUSTFILE, rate: int | None = None):
        (tmp_path / "device.py").write_text(file)
        options = ["-f", str(tmp_path / "device.py"), "-H", chat.url, "--only-summary"]
        options += ["--imsim-scenario", str(load_test.scenario(phase)), "--imsim-out", str(load_test.results)]
        options += ["-r", str(rate or (4 if phase == "login" else 100))]
        child = forked.start(LOCUST, "locust", *options, *arguments, **load_test.environment)
        started.append(child)
        return child

    started = []
    yield start
    for child in started:
        child.kill()


def last_line(text: str) -> str:
    """Return the last line of the text. On a busy computer it also says that the run is invalid."""
    return text.splitlines()[-1]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGINT, "the test was interrupted"), (signal.SIGTERM, "the test was terminated by SIGTERM")],
    ids=["ctrl-c", "sigterm"],
)
def test_signal_to_locust(phase, number, reason, locust_with, load_test):
    child = locust_with(phase, "--headless")
    load_test.wait_for(phase)
    os.kill(child.pid, number)
    since = time.monotonic()
    result = child.wait()
    assert time.monotonic() - since < 5  # 2 s on an idle computer, as docs/load-reference.md says
    assert result.returncode == 1, result.stderr
    load_test.check(phase, reason, last_line(result.stderr))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_before_the_server_answers_ends_locust_with_the_reason(number, forked, free_port):
    arguments = ["-f", "locustfiles/office.py", "--headless", "--only-summary", "-H", f"ws://127.0.0.1:{free_port}"]
    with socket.create_server(("127.0.0.1", free_port)) as server:  # it accepts a connection and sends nothing
        child = forked.start("import locust.main\nlocust.main.main()", "locust", *arguments)
        with server.accept()[0]:
            os.kill(child.pid, number)
            result = child.wait()
    assert result.returncode == 1, result.stderr
    assert last_line(result.stderr).startswith("imsim: the test was stopped before the server answered")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may die while it accepts
@pytest.mark.parametrize("phase", PHASES)
def test_server_that_dies_under_locust(phase, locust_with, load_test, chat):
    child = locust_with(phase, "--headless")
    load_test.wait_for(phase)
    chat.kill()
    result = child.wait()
    assert result.returncode == 1, result.stderr
    reason = "of 12 devices were online" if phase == "login" else "the server went away"
    load_test.check(phase, reason, last_line(result.stderr))


@pytest.mark.parametrize("phase", PHASES)
def test_shape_that_ends_the_test(phase, locust_with, load_test, chat):
    shape = SHAPE.format(phase=phase, elapsed=2 if phase == "play" else 0, rate=4 if phase == "login" else 100)
    child = locust_with(phase, "--headless", file=LOCUSTFILE + shape)
    result = child.wait()
    assert result.returncode == (1 if phase == "login" else 0), result.stderr
    reason = {"login": "before sending began", "play": "the load shape ended", "drain": "the plan was played"}[phase]
    load_test.check(phase, reason, last_line(result.stderr), is_partial=phase == "login")


@pytest.mark.parametrize("phase", PHASES)
def test_stop_button(phase, locust_with, load_test, free_port):
    page = f"http://127.0.0.1:{free_port}"

    def get(path, data=None):
        with urllib.request.urlopen(page + path, data, timeout=10) as answer:
            return json.load(answer)

    child = locust_with(phase, "--web-host", "127.0.0.1", "--web-port", str(free_port), "--autostart")
    load_test.wait_for(phase)
    get("/stop", b"")
    exceptions = [one["msg"] for one in get("/exceptions")["exceptions"]]
    logs = json.dumps(get("/logs"))
    os.kill(child.pid, signal.SIGTERM)
    result = child.wait()
    reason = "the test was stopped"
    assert [text for text in exceptions if "the generator" not in text] == [reason], result.stderr
    load_test.check(phase, reason, reason)
    if phase != "login":
        [path] = load_test.results.glob("*live*")
        assert f"run: {path}" in logs


def test_plan_is_played(locust_with, load_test):
    result = locust_with("done", "--headless").wait()
    assert result.returncode == 0, result.stderr
    load_test.check("done", "the plan was played", "", is_partial=False)


def test_run_time(locust_with, load_test):
    result = locust_with("play", "--headless", "-t", "1s").wait()
    assert result.returncode == 0, result.stderr
    load_test.check("play", "the plan was played", "", is_partial=False)
    [path] = load_test.results.glob("*live*")
    assert imsim.read_run(path).scenario.duration == 1


def test_second_ctrl_c_ends_locust_at_once(locust_with, load_test, chat):
    child = locust_with("drain", "--headless")
    load_test.wait_for("drain")
    os.kill(child.pid, signal.SIGINT)
    threading.Event().wait(0.1)  # two signals at once would be one
    os.kill(child.pid, signal.SIGINT)
    result = child.wait()
    assert result.returncode == 130, result.stderr
    assert last_line(result.stderr) == "imsim: interrupted twice; the run is not kept"
    load_test.check("login", "interrupted twice", last_line(result.stderr))


@pytest.fixture
def imsim_load(load_test, chat, tmp_path):
    """A function that starts `imsim load` for a test that ends in a phase."""

    def start(phase: str) -> subprocess.Popen[str]:
        users = 400 if phase == "login" else 12  # the login of a few takes no time
        command = [sys.executable, "-m", "imsim", "load", str(load_test.scenario(phase, users)), "--url", chat.url]
        environment = os.environ | load_test.environment
        return subprocess.Popen(
            [*command, "--out", str(load_test.results)], env=environment, stderr=subprocess.PIPE, stdout=-3, text=True
        )

    return start


@pytest.mark.parametrize(
    ("phase", "number", "code"),
    [("login", signal.SIGINT, 130), ("drain", signal.SIGINT, 130), ("play", signal.SIGTERM, 143)],
)
def test_signal_to_imsim_load(phase, number, code, imsim_load, load_test):
    child = imsim_load(phase)
    load_test.wait_for(phase)
    child.send_signal(number)
    since = time.monotonic()
    _, stderr = child.communicate(timeout=20)
    assert time.monotonic() - since < 5  # 2 s on an idle computer, as docs/load-reference.md says
    assert child.returncode == code, stderr
    reason = "interrupted" if number == signal.SIGINT else "terminated by SIGTERM"
    # A run may have further warnings, such as one about the generator's health.
    load_test.check(phase, reason, last_line(stderr) if phase == "login" else stderr)


def test_server_that_dies_under_imsim_load(imsim_load, load_test, chat):
    child = imsim_load("drain")
    load_test.wait_for("drain")
    chat.kill()
    _, stderr = child.communicate(timeout=20)
    assert child.returncode == 1, stderr
    load_test.check("drain", "the server went away", stderr)


def test_full_folder_for_temporary_files_keeps_the_rows_written_so_far(forked, load_test, chat, tmp_path):
    """The spool has space for about 1,600 facts, those of some 500 messages. The files of the run are smaller."""
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n" + LOCUST
    (tmp_path / "device.py").write_text(LOCUSTFILE)
    load_test.scenario("play")
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO.format(duration=20, users=12, rate=20))
    options = ["-f", str(tmp_path / "device.py"), "-H", chat.url, "--only-summary", "--headless"]
    options += ["--imsim-scenario", str(file), "--imsim-out", str(load_test.results)]
    result = forked(limited, "locust", *options, **load_test.environment)
    assert result.returncode == 1, result.stderr
    [path] = load_test.results.glob("*live*")
    run = imsim.read_run(path)
    assert run.partial
    assert "no space left at " in run.manifest["ended"]["reason"]
    assert "no space left at " in last_line(result.stderr)
    assert (run.messages.outcome == "stored").sum() > 300
    assert list((tmp_path / "tmp").iterdir()) == []
