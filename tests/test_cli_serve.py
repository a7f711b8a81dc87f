"""The log and the status line of `imsim serve`, as an operator sees them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")

SERVE = [sys.executable, "-m", "imsim", "serve", "office", "--port", "0"]


@contextmanager
def serving(*options, stderr):
    """A server as a process. It is stopped at the end of the block."""
    with subprocess.Popen([*SERVE, *options], stdout=subprocess.PIPE, stderr=stderr, text=True) as server:
        try:
            yield server
        finally:
            server.send_signal(signal.SIGTERM)
            server.rest = server.communicate(timeout=20)[0]


def test_json_log_is_on_stderr_and_stdout_has_one_object(tmp_path):
    with (tmp_path / "log").open("w") as log, serving("--json", "--log-format", "json", stderr=log) as server:
        url = json.loads(server.stdout.readline())["url"]
    assert server.rest == ""
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    events = [line["event"] for line in lines if not line["event"].startswith("event_loop_late")]  # on a busy machine
    assert events == ["started", "stopping", "stopped"]
    assert (lines[0]["url"], lines[0]["level"]) == (url, "info")


def test_log_level_selects_lines(tmp_path):
    with (tmp_path / "log").open("w") as log, serving("--log-level", "info", stderr=log) as server:
        while not server.stdout.readline().startswith("listening on "):
            pass
    text = (tmp_path / "log").read_text()
    assert re.findall(r"Z INFO (\w+)", text) == ["listening", "stopping", "stopped"]


def read_all(file: int) -> str:
    text = b""
    with suppress(OSError):  # the end of a pseudo-terminal on Linux
        while data := os.read(file, 4096):
            text += data
    os.close(file)
    return text.decode()


def test_status_line_is_shown_on_a_terminal_and_removed_at_the_end():
    outer, inner = os.openpty()
    with serving(stderr=inner):
        os.close(inner)
        text = ""
        while "0 connections, 0 messages/s" not in text:
            text += os.read(outer, 4096).decode()
    text += read_all(outer)
    assert text.endswith("\r\x1b[K")


@pytest.mark.parametrize("options", [("--json",), ("--log-format", "json", "--log-level", "error")])
def test_json_output_has_no_status_line(options):
    outer, inner = os.openpty()
    with serving(*options, stderr=inner) as server:
        os.close(inner)
        server.stdout.readline()
    assert "messages/s" not in read_all(outer)
