"""Tests of the log lines and the status line on standard error."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta

import pytest

from imsim.live import console as module
from imsim.live.console import Console, Status
from imsim.live.metrics import Metrics
from imsim.live.problems import report
from imsim.testing import ManualClock

LOG = logging.getLogger("imsim.live.test")


@pytest.fixture
def stderr():
    return io.StringIO()


def written(stream, format="text", level="info", log=lambda: LOG.warning("50 %% of %s", "x")) -> list[str]:
    console = Console(stream, format, level)
    console.open()
    try:
        log()
    finally:
        console.close()
    return stream.getvalue().splitlines()


def test_text_line_has_time_level_and_message(stderr):
    (line,) = written(stderr)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING 50 % of x", line)


def test_json_line_has_time_level_event_and_fields(stderr):
    lines = written(
        stderr, "json", log=lambda: report(logging.WARNING, "disk_full", "the disk is full\nnow", path="x", count=3)
    )
    (line,) = map(json.loads, lines)
    time = datetime.fromisoformat(line.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert line == {
        "level": "warning",
        "event": "disk_full",
        "message": "the disk is full\nnow",
        "path": "x",
        "count": 3,
    }


def test_lines_of_other_libraries_are_json_too(stderr):
    def log() -> None:
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("asyncio").exception("a callback failed")

    (line,) = map(json.loads, written(stderr, "json", log=log))
    assert (line["event"], line["message"], line["level"]) == ("asyncio", "a callback failed", "error")
    assert "ValueError: why" in line["traceback"]


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_level_is_the_lowest_that_is_written(stderr, level, count):
    def log() -> None:
        LOG.debug("a")
        LOG.info("b")
        LOG.warning("c")

    assert len(written(stderr, level=level, log=log)) == count


def test_close_restores_the_root_logger(stderr):
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    written(stderr, level="debug")
    assert (root.handlers, root.level) == before


def test_full_pipe_does_not_stop_the_server(monkeypatch):
    """Nobody reads the pipe, so its writer blocks. The lines beyond the bound are dropped."""
    monkeypatch.setattr(module, "_MOST_LINES", 10)
    monkeypatch.setattr(module, "_END_TIMEOUT", 0.01)
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        console = Console(stream)
        console.open()
        for _ in range(100):
            LOG.warning("x" * 30_000)
        console.close()
        assert console._thread.is_alive()
        reading = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 1 << 20), b"")])
        reading.start()
        console._lines.put(None)
        console._thread.join(5)
    reading.join(5)
    os.close(reader)


def test_full_pipe_that_does_not_block_drops_lines_until_somebody_reads():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    received = b""
    with os.fdopen(writer, "w") as stream:
        console = Console(stream)
        console.open()
        LOG.warning("x" * 1_000_000)
        for _ in range(500):
            LOG.warning("a later line")
            time.sleep(0.01)
            with suppress(BlockingIOError):
                received = os.read(reader, 1 << 20)
            if received.endswith(b"a later line\n"):
                break
        console.close()
    os.close(reader)
    assert received.endswith(b"a later line\n")


def test_gone_terminal_does_not_stop_the_server():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        console = Console(stream)
        console.open()
        LOG.warning("nobody reads this")
        console.close()
        assert not console._thread.is_alive()


# --- the status line --------------------------------------------------------------------------------------------------


@pytest.fixture
def metrics():
    return Metrics()


def test_status_shows_the_rates_since_the_status_before(metrics):
    clock = ManualClock()
    status = Status(metrics, lambda: 1_234, clock)
    assert status() == "1,234 connections, 0 messages/s"
    metrics.store.recent.extend([0.0008] * 98 + [0.02] * 2)
    metrics.store.sort()
    metrics.chatroom_messages = 100
    clock.now += 2.0
    assert status() == "1,234 connections, 100 messages/s, stored within 17.5 ms (p99)"
    clock.now += 0.5  # too short for a rate
    assert status() == "1,234 connections, 100 messages/s, stored within 17.5 ms (p99)"
    clock.now += 0.5
    assert status() == "1,234 connections, 0 messages/s"


class Screen:
    """The lines that a terminal shows after it has received some text."""

    def __init__(self) -> None:
        self.lines = [""]

    def receive(self, text: str) -> Screen:
        for part in re.findall(r"\x1b\[K|\r|\n|[^\x1b\r\n]+", text):
            if part == "\n":
                self.lines.append("")
            elif part == "\r":
                self.column = 0
            elif part == "\x1b[K":
                self.lines[-1] = self.lines[-1][: self.column]
            else:
                self.lines[-1] = self.lines[-1][: getattr(self, "column", 0)] + part
                self.column = len(self.lines[-1])
                continue
            if part == "\n":
                self.column = 0
        return self


def test_status_line_is_below_the_log_lines_and_disappears_at_the_end(monkeypatch):
    monkeypatch.setattr(module, "REFRESH", 0.001)
    outer, inner = os.openpty()
    shown = threading.Semaphore(0)
    texts = iter(["3 connections", "4 connections"])

    def status() -> str:
        shown.release()
        return next(texts, "5 connections" + "!" * 500)

    with os.fdopen(inner, "w") as stream:
        console = Console(stream)
        console.open()
        console.show_status(status)
        for _ in range(3):
            assert shown.acquire(timeout=5)
        LOG.warning("one line")
        LOG.warning("another line")
        assert shown.acquire(timeout=5)
        while console._lines.qsize():
            shown.acquire(timeout=5)
        console.close()
    text = b""
    try:
        while data := os.read(outer, 1 << 16):
            text += data
    except OSError:  # the end of a pseudo-terminal on Linux
        pass
    os.close(outer)
    text = text.decode()
    assert "\r\x1b[K3 connections\r\x1b[K4 connections" in text
    assert max(map(len, re.findall("5 connections!*", text))) < 80  # a longer line would wrap
    lines = Screen().receive(text).lines
    assert [line[25:] for line in lines] == ["WARNING one line", "WARNING another line", ""]
