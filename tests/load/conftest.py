"""A real server in a thread, and subprocesses for everything that imports gevent or Locust: never this process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from imsim.core.policies import Policies
from imsim.live import MemoryStore, Server
from imsim.live.stores import Store
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
    """About 70 messages, to partners and groups, from 24 devices."""
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
) -> Iterator[Server]:
    """A server in a thread of its own; `on_event` sees, in that thread, each Committed, Pushed and Shed."""
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
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@pytest.fixture(scope="session")
def server_with():
    """`with server_with(on_event, policies, store) as server`: one that the test may break."""
    return serving


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with serving() as server:
        yield server.url


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens (any more)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


#: Forks for each line of its input. What takes most of the time of a process with Locust, loading it, is done once.
FORKING = """
import gc, json, os, signal, sys, traceback
import locust.main, imsim.load.session  # the locustfile imports imsim.load.users, as ever

def play(script, arguments, environment, folder):
    for file, descriptor in ((os.devnull, 0), (folder + "/out", 1), (folder + "/err", 2)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), descriptor)
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
        signal.alarm(100)  # the end of one that hangs
        code = play(*json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # at once: taking all modules down takes as long as loading some
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """Run a script (text) with arguments in a process of its own, which has loaded Locust; what came of it."""
    command = [sys.executable, "-c", FORKING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as parent:

        def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
            folder = tmp_path_factory.mktemp("forked")
            parent.stdin.write(json.dumps((script, arguments, environment, str(folder))) + "\n")
            parent.stdin.flush()
            code = int(parent.stdout.readline())
            return subprocess.CompletedProcess(
                arguments, code, (folder / "out").read_text(), (folder / "err").read_text()
            )

        yield run
        parent.stdin.close()


@pytest.fixture(scope="session")
def python(forked):
    """Run a script (text) with arguments in a process of its own; its stdout."""

    def run(script: str, *arguments: str, **environment: str) -> str:
        result = forked("import warnings\nwarnings.simplefilter('error')\n" + script, "-c", *arguments, **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="session")
def environment() -> dict[str, object]:
    """How to start a process that finds this imsim, installed or not."""
    return {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}}


@pytest.fixture(scope="session")
def locust(forked):
    """Plain Locust with these arguments."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forked("import locust.main\nlocust.main.main()", "locust", *arguments)

    return run
