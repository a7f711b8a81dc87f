"""Tests of problems: one line when one begins, and one when it ends."""

from __future__ import annotations

import logging

import pytest

from imsim.live.problems import APART, QUIET, Counted, Problem, Watched


@pytest.fixture
def lines(caplog):
    """A function that returns the (event, text) of the lines since its last call."""
    caplog.set_level(logging.INFO, "imsim.live.server")

    def taken() -> list[tuple[str, str]]:
        found = [(record.event, record.getMessage()) for record in caplog.records]
        caplog.clear()
        return found

    return taken


def test_problem_is_one_line_at_its_beginning_and_one_at_its_end(lines):
    problem = Problem("disk")
    problem.end("never began", 0.0)
    for now in (1.0, 2.0, 3.0):
        problem.begin("the disk is full", now)
        assert problem.is_active
    problem.end("the disk has space after {lasted}; {failed} failed", 4.5, failed=7)
    problem.end("again", 5.0)
    assert not problem.is_active
    assert lines() == [("disk_began", "the disk is full"), ("disk_ended", "the disk has space after 3.5 s; 7 failed")]


def test_problem_that_returns_soon_is_reported_later_if_it_still_exists(lines):
    problem = Problem("disk")
    problem.begin("full", 0.0)
    problem.end("works", 1.0)
    lines()
    problem.begin("full", 2.0)
    problem.end("works", 3.0)
    assert lines() == []  # a flapping problem does not flood the log
    problem.begin("full", 4.0)
    assert lines() == []
    problem.begin("full", APART)
    assert lines() == [("disk_began", "full")]  # the last line is always true after a while
    problem.end("works after {lasted}", APART + 1.0)
    assert lines() == [("disk_ended", f"works after {APART - 3.0:.1f} s")]


def test_counted_problem_ends_after_a_quiet_time(lines):
    count = 5
    counted = Counted(Watched("slow", lambda: count, "slow: {count}", "no longer: {count} in {lasted}"))
    counted.check(0.0, 1.0)
    assert lines() == []
    for now, new in ((1.0, 2), (2.0, 3), (3.0, 0)):
        count += new
        counted.check(now, 1.0)
    assert lines() == [("slow_began", "slow: 2")]
    counted.check(1.9 + QUIET, 1.0)
    assert counted.problem.is_active
    counted.check(2.0 + QUIET, 1.0)
    assert lines() == [("slow_ended", f"no longer: 5 in {1.0 + QUIET:.1f} s")]


def test_few_occurrences_of_what_one_client_can_cause_are_not_a_problem(lines):
    count = 0
    counted = Counted(Watched("tokens", lambda: count, "many: {count}", "few", at_least=10))
    for now in range(1, 20):
        count += 9
        counted.check(float(now), 1.0)
    assert lines() == []
    count += 19
    counted.check(21.0, 2.0)  # fewer than 10 a second
    assert lines() == []
    count += 10
    counted.check(22.0, 1.0)
    assert lines() == [("tokens_began", "many: 10")]


def test_occurrences_that_another_problem_explains_begin_nothing(lines):
    count = 0
    counted = Counted(Watched("unavailable", lambda: count, "failed: {count}", "over: {count}"))
    count = 7
    counted.check(1.0, 1.0, is_explained=True)
    counted.check(2.0, 1.0)
    assert lines() == []
    count = 8
    counted.check(3.0, 1.0)
    assert lines() == [("unavailable_began", "failed: 1")]
