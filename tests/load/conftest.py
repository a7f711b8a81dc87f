"""Fixtures for load tests: a real server in a thread, and subprocesses for everything that imports gevent or Locust.

This process imports neither of the two.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from imsim.core.policies import Policies
from imsim.live import MemoryStore, Server
from imsim.live.stores import Store
from imsim.load import launch
from imsim.scenario import Scenario

ROOT = Path(__file__).parents[2]

TINY = """
seed = 7
duration = "1s"
drain = "5s"
[population]
users = 12
devices = 2
[conversations]
p2p_share = 0.5
partners = 2
groups = 3
group_size = 4
[workload]
rate = 6.0
size = { kind = "uniform", low = 1, high = 2000 }
"""


@pytest.fixture(scope="session")
def tiny() -> Scenario:
    """A scenario of about 70 messages, to partners and groups, from 24 devices."""
    return Scenario.from_toml(TINY, name="tiny")


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scenarios") / "tiny.toml"
    path.write_text(TINY)
    return path


@contextmanager
def serving(
    on_event: Callable[[Server, object], None] = lambda server, event: None,
    policies: Policies | None = None,
    store: Store | None = None,
    on_start: Callable[[asyncio.AbstractEventLoop], None] = lambda loop: None,
) -> Iterator[Server]:
    """Run a server in another thread. `on_event` receives each Committed, Pushed and Shed event in that thread.

    `on_start` receives the event loop of the server.
    """
    started: Future[tuple[Server, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        kept = store or MemoryStore()
        server = Server(policies or Policies(), kept, key="imsim", on_event=lambda event: on_event(server, event))
        await server.start()
        over = asyncio.Event()
        started.set_result((server, asyncio.get_running_loop(), over))
        await over.wait()
        await server.stop()
        kept.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    server, loop, over = started.result(timeout=10)
    on_start(loop)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@pytest.fixture(scope="session")
def server_with():
    """A function that runs a server for one test: `with server_with(on_event, policies, store) as server`."""
    return serving


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The url of a server that the tests share."""
    with serving() as server:
        yield server.url


@pytest.fixture
def free_port() -> int:
    """A port on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


#: A program that forks for each line of its input. It imports Locust only once, because the import takes most of the
#: time of a process with Locust.
FORKING = """
import gc, json, os, signal, sys, traceback
import locust.main, imsim.load.coordinator, imsim.load.player
# Not imsim.load.users: the locustfile imports it, as without the fork.

def play(script, arguments, environment, folder):
    for file, descriptor in ((os.devnull, 0), (folder + "/out", 1), (folder + "/err", 2)):
        os.dup2(os.open(file, os.O_RDWR), descriptor)
    os.environ.update(environment)
    sys.argv = arguments
    try:
        exec(script, {"__name__": "__main__"})
    except SystemExit as exit:
        if not isinstance(exit.code, str):
            return exit.code or 0
        print(exit.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    else:
        return 0
    return 1

gc.freeze()
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        signal.alarm(100)  # ends a child that hangs
        code = play(*json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # at once, because the orderly exit of the interpreter is slow
    print(child, flush=True)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(json.loads(line)[3] + "/over", "w"):
        print(code, flush=True)
"""


INVALID = 5  # the exit code of a load test that the generator spoilt


class Forking:
    """A process that has imported Locust. It runs scripts in forks of itself, one at a time."""

    def __init__(self, parent: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> None:
        self._parent = parent
        self._tmp_path_factory = tmp_path_factory

    def __call__(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script (text) with arguments, and return the result."""
        return self.start(script, *arguments, **environment).wait()

    def start(self, script: str, *arguments: str, **environment: str) -> Fork:
        """Start a script (text) with arguments. Call `wait` of the result before the next start."""
        folder = self._tmp_path_factory.mktemp("forked")
        for name in ("out", "err"):
            (folder / name).touch()
        self._parent.stdin.write(json.dumps((script, arguments, environment, str(folder))) + "\n")
        self._parent.stdin.flush()
        return Fork(self._parent, int(self._parent.stdout.readline()), arguments, folder)


class Fork:
    """A running script of `Forking`, with its pid. `folder` has its output."""

    def __init__(self, parent: subprocess.Popen[str], pid: int, arguments: tuple[str, ...], folder: Path) -> None:
        self.pid = pid
        self._parent = parent
        self._arguments = arguments
        self._folder = folder
        self._result: subprocess.CompletedProcess[str] | None = None

    @property
    def is_over(self) -> bool:
        return (self._folder / "over").exists()

    @property
    def stderr(self) -> str:
        return (self._folder / "err").read_text()

    def wait(self, judged: bool = False) -> subprocess.CompletedProcess[str]:
        """Wait for the end of the script, and return its result.

        The exit code 5 becomes 0 unless `judged`: on a busy machine, the generator of any load test can be too slow.
        """
        if self._result is None:
            code, out = int(self._parent.stdout.readline()), (self._folder / "out").read_text()
            code = 0 if code == INVALID and not judged else code
            self._result = subprocess.CompletedProcess(self._arguments, code, out, self.stderr)
        return self._result

    def kill(self) -> None:
        """End the script if it runs."""
        if self._result is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


@pytest.fixture(scope="session")
def forked(tmp_path_factory) -> Iterator[Forking]:
    """A function that runs a script (text) with arguments in a process with Locust. It returns the result."""
    command = [sys.executable, "-c", FORKING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as parent:
        yield Forking(parent, tmp_path_factory)
        parent.stdin.close()


#: The child of `imsim.load.launch`, in a fork: its standard streams, its folder, and Locust.
CHILD = """
import os, sys
os.chdir(sys.argv.pop(1))
for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
    os.dup2(os.open(sys.argv.pop(1), flags | os.O_APPEND), descriptor)
import locust.main
locust.main.main()
"""


class ForkedPopen:
    """A `subprocess.Popen` for `imsim.load.launch` whose child is a fork. So it need not import Locust."""

    def __init__(self, forked: Forking, folder: Path, command: list[str], **options) -> None:
        pipe = folder / f"pipe-{len(list(folder.iterdir()))}"
        os.mkfifo(pipe)
        self.stdin = pipe.open("r+b", buffering=0)
        self.returncode: int | None = None
        name, log = command[2], options["stdout"].name
        streams = str(options["cwd"]), str(pipe), log, log
        self._fork = forked.start(CHILD, name, *streams, *command[3:], **options["env"])

    def poll(self) -> int | None:
        if self.returncode is None and self._fork.is_over:
            self.returncode = self._fork.wait(judged=True).returncode
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("locust", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._fork.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@contextmanager
def forking_child(forked: Forking, folder: Path) -> Iterator[None]:
    """Let `imsim.loadtest` fork its child from a process that has imported Locust, which saves most of its CPU time."""
    popen = partial(ForkedPopen, forked, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": popen}))
        yield


@pytest.fixture
def forked_child(forked, tmp_path_factory) -> Iterator[None]:
    with forking_child(forked, tmp_path_factory.mktemp("pipes")):
        yield


@pytest.fixture(scope="session")
def python(forked):
    """A function that runs a script (text) with arguments in another process. It returns its standard output."""

    def run(script: str, *arguments: str, **environment: str) -> str:
        result = forked("import warnings\nwarnings.simplefilter('error')\n" + script, "-c", *arguments, **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="session")
def environment() -> dict[str, object]:
    """The arguments for `subprocess` that let a child import this imsim, whether it is installed or not."""
    return {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}}


@pytest.fixture(scope="session")
def locust(forked):
    """A function that runs Locust with these arguments."""

    def run(*arguments: str, judged: bool = False) -> subprocess.CompletedProcess[str]:
        return forked.start("import locust.main\nlocust.main.main()", "locust", *arguments).wait(judged)

    return run
