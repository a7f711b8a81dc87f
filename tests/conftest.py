"""For all tests: what they share, and in which order they come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

# A hundred tests start a process; each would compile all of imsim where the environment forbids to keep bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

from hypothesis import settings  # noqa: E402

# Hypothesis does not measure time, because a busy machine is no bug.
settings.register_profile("imsim", deadline=None)
settings.load_profile("imsim")

#: Where single tests take seconds: first, so that none is left to one worker while the other has nothing to do.
LONG = (
    "tests/faultsearch/test_search.py", "tests/test_notebooks.py", "tests/test_cli.py", "tests/test_docs.py",
    "tests/test_quality.py", "tests/test_api.py", "tests/load/test_launch.py", "tests/load/test_locustfiles.py",
    "tests/faultsearch/test_planted_bugs.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """After pytest-randomly, whose order stays within each of them and among the rest."""
    rank = {file: number for number, file in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(LONG)))


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Runs `imsim ...` in a folder of its own, but in this process: it has loaded what another would load anew."""
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
