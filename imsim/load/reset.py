"""The reset of a server between two runs: a command of the user, and a wait until the server is ready and idle."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import subprocess
import time
from urllib.parse import urlsplit

from imsim.core.exceptions import RunError

_READY_SECONDS = 60.0  # until the server answers
_IDLE_SECONDS = 10.0  # until imsim's own server is idle; others may use it, too
_PAUSE = 1.0  # seconds that another server gets to become idle
_POLL = 0.2  # seconds
_COMMAND_SECONDS = 300.0
_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}

_NUMBER = re.compile(
    rb'^(imsim_connections(?=\{state="logged_in")|imsim_queue_length|imsim_frames_total)\{[^}]*\} (\S+)$', re.MULTILINE
)


def reset(url: str, command: str | None = None) -> str | None:
    """Run the command, if there is one, and wait until the server at `url` is ready and idle.

    imsim's own server is idle if it has no connection, nothing waits in it, and no frame has passed. Any other server
    is ready if it accepts a connection; it gets a second to become idle. Return a note if the server did not become
    idle.

    Raises: RunError if the command fails, or the server is not ready in time.
    """
    if command is not None:
        _run(command)
    _wait_until_ready(url)
    deadline = time.monotonic() + _IDLE_SECONDS
    before = None
    while True:
        numbers = _numbers(url)
        if numbers is None:
            time.sleep(_PAUSE)
            return None
        busy, frames = numbers
        if not busy and frames == before:
            return None
        if time.monotonic() > deadline:
            return f"the server at {url} was not idle before each run ({busy:g} connections and waiting elements)"
        before = frames
        time.sleep(_POLL)


def _run(command: str) -> None:
    try:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise RunError(f"--reset: {command!r} did not end within {_COMMAND_SECONDS:g} s") from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        last = lines[-1].strip() if lines else "it printed nothing"
        raise RunError(f"--reset: {command!r} failed with exit code {done.returncode}: {last}")


def _wait_until_ready(url: str) -> None:
    host, port = _address(url)
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            with socket.create_connection((host, port), timeout=5.0):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or error
                raise RunError(
                    f"no server at {url} within {_READY_SECONDS:g} s after the last run ({reason})"
                ) from None
        time.sleep(_POLL)


def _numbers(url: str) -> tuple[float, float] | None:
    """Return how many connections and waiting elements imsim's server has, and how many frames have passed.

    None if it is not imsim's server, or does not answer.
    """
    host, port = _address(url)
    kind = http.client.HTTPSConnection if urlsplit(url).scheme in ("wss", "https") else http.client.HTTPConnection
    connection = kind(host, port, timeout=5.0)
    with contextlib.closing(connection):
        try:
            connection.request("GET", urlsplit(url).path.rstrip("/") + "/metrics")
            text = connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return None
    if b"imsim_ready" not in text:
        return None
    sums = {b"imsim_frames_total": 0.0, b"imsim_connections": 0.0, b"imsim_queue_length": 0.0}
    for name, number in _NUMBER.findall(text):
        sums[name] += float(number)
    return sums[b"imsim_connections"] + sums[b"imsim_queue_length"], sums[b"imsim_frames_total"]


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80)
