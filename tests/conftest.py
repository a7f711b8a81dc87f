"""The shared fixtures of all tests, and the order of the tests."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# A hundred tests start a process. Without stored bytecode, each process would compile all of imsim.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

from hypothesis import settings  # noqa: E402

# Hypothesis has no deadline, because a busy machine must not fail a test.
settings.register_profile("imsim", deadline=None)
settings.load_profile("imsim")

#: Files and folders in which single tests take seconds. They run first, so that all workers have work until the end.
#: The first worker begins with them, most of which wait for other processes. The last one begins with short tests.
LONG = (
    "tests/test_docs.py", "tests/test_quality.py", "tests/test_notebooks.py", "tests/test_cli.py", "tests/test_api.py",
    "tests/load/", "tests/experiments/", "tests/faultsearch/", "tests/bench/", "tests/live/test_web.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests of LONG to the front. Otherwise, the random order of pytest-randomly stays."""
    items.sort(key=lambda item: next((n for n, start in enumerate(LONG) if item.nodeid.startswith(start)), len(LONG)))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run each `async def` test in a new event loop, within 20 s."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    test = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    asyncio.run(asyncio.wait_for(test, 20))
    return True


@pytest.fixture
def file_sizes():
    """Return a context manager that limits the size of files in bytes, so that larger writes fail as on a full disk."""
    resource = pytest.importorskip("resource", reason="sets a limit of POSIX")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Return a function that runs `imsim ...` in an empty folder.

    The command runs in this process, which has already loaded the modules.
    """
    monkeypatch.chdir(tmp_path)

    from imsim.cli import main

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code, handler = 0, signal.getsignal(signal.SIGTERM)
        capfd.readouterr()
        try:
            main(list(arguments))
        except SystemExit as exit:
            code = exit.code or 0
        finally:
            signal.signal(signal.SIGTERM, handler)
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return run
