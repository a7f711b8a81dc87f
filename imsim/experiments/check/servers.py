"""The servers of a live check: started by their command for each block of load, or running at a url already."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from imsim.core.exceptions import RunError, UsageError
from imsim.experiments.check.file import ServerEntry

_STOP_TIMEOUT = 10.0  # seconds that a server gets to end by itself
_POLL = 0.05  # seconds between two looks at a starting server
_LINES = 5  # of a server's output that an error shows
_PORT = "{port}"


@dataclass(frozen=True)
class Running:
    """A server that is ready. `url` is its address; `process` is None if the check did not start it."""

    url: str
    process: subprocess.Popen[bytes] | None

    def cpu(self) -> float | None:
        """Return the CPU seconds of the server's processes so far; None if the check did not start it."""
        if self.process is None:
            return None
        import psutil

        with suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            times = [one.cpu_times() for one in (parent, *parent.children(recursive=True))]
            return float(sum(one.user + one.system for one in times))
        return None


@contextmanager
def running(entry: ServerEntry, folder: Path, *, command: str | None = None) -> Iterator[Running]:
    """Start a server, wait until it is ready, and stop it at the end.

    Args:
        entry: the server.
        folder: the folder in which its command runs.
        command: replaces the entry's command.

    Raises:
        RunError: the server ended, or was not ready in time; with the end of its output.
        UsageError: the command does not exist.
    """
    command = command or entry.command
    if command is None:
        yield Running(entry.url, None)
        return
    port = str(_free_port())
    url = entry.url.replace(_PORT, port)
    with tempfile.TemporaryFile() as output:
        process = _start(command.replace(_PORT, port), folder, output.fileno())
        try:
            _wait(process, url, (entry.ready or "").replace(_PORT, port), entry.start_timeout)
        except RunError as error:
            _stop(process)
            raise RunError(f"{error}{_end_of(output)}") from None
        try:
            yield Running(url, process)
        finally:
            _stop(process)


def build(entry: ServerEntry, folder: Path) -> None:
    """Run the build command of a server. Raises: RunError with the end of its output."""
    if entry.build is None:
        return
    done = subprocess.run(
        entry.build, shell=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines()[-_LINES:]
        raise RunError("\n".join([f"server: the build ended with exit code {done.returncode}: {entry.build}", *lines]))


@contextmanager
def worktree(ref: str, folder: Path) -> Iterator[Path]:
    """Check out a commit in a git worktree of its own, and yield the folder in it that corresponds to `folder`.

    Raises:
        UsageError: `folder` is not in a git repository, or it has no such commit.
    """
    top = Path(_git(folder, "rev-parse", "--show-toplevel"))
    commit = _git(folder, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", error=f"--base: no commit {ref!r}")
    with tempfile.TemporaryDirectory(prefix="imsim-base-") as parent:
        tree = Path(parent) / "base"
        _git(top, "worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            yield tree / folder.resolve().relative_to(top.resolve())
        finally:
            _git(top, "worktree", "remove", "--force", str(tree))


def _git(folder: Path, *arguments: str, error: str = "") -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise UsageError("--base: git is not installed; use --base-command") from None
    if done.returncode:
        raise UsageError(error or f"--base: git {arguments[0]}: {done.stderr.strip() or 'failed'}")
    return done.stdout.strip()


def _start(command: str, folder: Path, output: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            shlex.split(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that its child processes end with it
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"server.command: {command!r} cannot be run: {error}") from None


def _wait(process: subprocess.Popen[bytes], url: str, ready: str, timeout: float) -> None:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RunError(f"server: it ended with exit code {process.returncode} before it was ready")
        if _answers(ready) if ready else _accepts(url):
            return
        time.sleep(_POLL)
    what = f"{ready} did not answer with 200" if ready else f"nothing accepted connections at {url}"
    raise RunError(f"server: {what} within {timeout:g} s")


def _answers(ready: str) -> bool:
    try:
        with urllib.request.urlopen(ready, timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _accepts(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port or 80), timeout=1).close()
    except OSError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, timeout in ((signal.SIGTERM, _STOP_TIMEOUT), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
            break


def _end_of(output: IO[bytes]) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()[-_LINES:]
    return "".join(f"\n{line}" for line in lines)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
