"""A real server in a thread, and subprocesses for everything that imports gevent or Locust: never this process."""

from __future__ import annotations

import asyncio
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
    on_event: Callable[[Server, object], None] = lambda server, event: None, policies: Policies | None = None
) -> Iterator[Server]:
    """A server in a thread of its own; `on_event` sees, in that thread, each Committed, Pushed and Shed."""
    started: Future[tuple[Server, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        server = Server(
            policies or Policies(), MemoryStore(), key="imsim", on_event=lambda event: on_event(server, event)
        )
        await server.start()
        over = asyncio.Event()
        started.set_result((server, asyncio.get_running_loop(), over))
        await over.wait()
        await server.stop()

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
    """`with server_with(on_event, policies) as server`: one that the test may break."""
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


@pytest.fixture(scope="session")
def python():
    """Run a script (text) with arguments in a fresh interpreter; its stdout."""

    def run(script: str, *arguments: str, env: dict[str, str] | None = None) -> str:
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, *arguments],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="session")
def environment() -> dict[str, object]:
    """How to start a process that finds this imsim, installed or not."""
    return {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}}


@pytest.fixture(scope="session")
def locust(environment):
    """Plain Locust, as somebody types it."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "locust", *arguments]
        return subprocess.run(command, **environment, capture_output=True, text=True, timeout=60)

    return run
