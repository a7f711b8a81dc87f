"""Tests of the rate limit of log lines."""

from __future__ import annotations

import logging

import pytest

from imsim.live.log import REPEAT_AFTER, RateLimit
from imsim.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def lines(clock):
    """A logger with a RateLimit, and the list of the lines that it has written."""
    written = []

    class Handler(logging.Handler):
        def emit(self, record):
            written.append(self.format(record))

    logger = logging.Logger("of a test")
    logger.addFilter(RateLimit(clock))
    logger.addHandler(Handler())
    return logger, written


def test_line_is_repeated_only_after_a_while_with_the_count_of_dropped_lines(clock, lines):
    logger, written = lines
    for number in range(100):
        logger.error("cannot accept: %s", number)
        logger.error("another line")
    assert written == ["cannot accept: 0", "another line"]
    clock.now += REPEAT_AFTER
    logger.error("cannot accept: %s", 100)
    assert written[2:] == ["cannot accept: 100 (99 more in the last 10 s)"]


def test_traceback_becomes_one_line(lines):
    logger, written = lines
    try:
        raise ValueError("two\nlines, 100 %")
    except ValueError:
        logger.exception("failed")
    (line,) = written
    assert line.startswith("failed: ValueError: two lines, 100 % at ")
    assert "test_log.py:" in line
