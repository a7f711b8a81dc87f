"""Tests of the state of storage: a probe decides whether it fails, and when it works again."""

from __future__ import annotations

import logging

import pytest

from imsim.core.storage import Failed, OpenUser, Saved
from imsim.live import storage_health
from imsim.live.metrics import Metrics
from imsim.live.storage_health import PROBE_AFTER, PROBE_AGAIN, SILENT, StorageHealth
from imsim.live.stores import OVERLOADED


class Store:
    """A store whose answers the test gives."""

    def __init__(self) -> None:
        self.submitted = []
        self.answered = 0

    def submit(self, request) -> None:
        self.submitted.append(request)

    @property
    def waiting(self) -> int:
        return len(self.submitted)


class Health:
    def __init__(self, caplog) -> None:
        self.store = Store()
        self.metrics = Metrics()
        self.health = StorageHealth(self.store, self.metrics)
        self._caplog = caplog

    def answer(self, result, now) -> None:
        """Answer the oldest probe."""
        self.store.answered += 1
        probe = self.store.submitted.pop(0)
        if isinstance(result, Failed):
            self.health.failed(probe, result, now)
        self.health.probed(probe, result, now)

    def lines(self) -> list[str]:
        found = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return found


@pytest.fixture
def disk(caplog):
    caplog.set_level(logging.INFO, "imsim.live.server")
    return Health(caplog)


FULL = Failed("disk is full")


def test_storage_fails_when_a_request_and_then_the_probe_fail(disk):
    disk.health.failed(OpenUser("al"), FULL, 1.0)
    assert len(disk.store.submitted) == 1
    disk.metrics.rejected["unavailable"] += 3
    disk.answer(FULL, 1.1)
    assert disk.health.reason == "storage fails: disk is full"
    (line,) = disk.lines()
    assert line == "storage fails: disk is full; clients get `unavailable` until it works again"
    assert disk.metrics.storage_failures == 1  # a probe is not a client's request


def test_storage_works_again_when_a_probe_succeeds_without_any_client(disk):
    disk.health.failed(OpenUser("al"), FULL, 1.0)
    disk.metrics.rejected["unavailable"] += 3
    disk.answer(FULL, 1.0)
    for now in (2.0, 3.0, 4.0):
        disk.health.check(now)
        disk.answer(FULL, now)
    assert disk.health.reason
    disk.health.check(5.0)
    assert len(disk.store.submitted) == 1  # one probe at a time
    disk.answer(Saved(), 5.5)
    assert disk.health.reason == ""
    assert disk.lines()[1:] == ["storage works again after 4.5 s; 3 requests of clients failed"]
    disk.health.check(6.0)
    assert disk.store.submitted == []


def test_other_requests_do_not_count_as_a_recovery(disk):
    disk.health.failed(OpenUser("al"), FULL, 1.0)
    disk.answer(FULL, 1.0)
    disk.store.answered += 5  # reads, and small writes, still succeed
    disk.health.check(2.0)
    assert disk.health.reason


def test_request_that_cannot_be_stored_does_not_make_storage_fail(disk):
    for now in (1.0, 2.0):
        disk.health.failed(OpenUser("al"), Failed("UnicodeEncodeError: ..."), now)
        disk.answer(Saved(), now)
    assert disk.health.reason == ""
    # A client can repeat the request, so the line does not repeat at once.
    assert disk.lines() == ["storage could not carry out a request, but it works: UnicodeEncodeError: ..."]


def test_full_queue_is_counted_apart(disk):
    disk.health.failed(OpenUser("al"), Failed(OVERLOADED), 1.0)
    assert (disk.metrics.storage_overloads, disk.metrics.storage_failures, disk.store.submitted) == (1, 0, [])


def test_probe_that_finds_the_queue_full_does_not_make_storage_fail(disk):
    disk.health.failed(OpenUser("al"), FULL, 1.0)
    disk.answer(Failed(OVERLOADED), 1.0)
    assert (disk.health.reason, disk.lines()) == ("", [])
    disk.health.check(2.0)  # it is not known yet whether storage fails, so another probe follows
    disk.answer(FULL, 2.0)
    assert disk.health.reason == "storage fails: disk is full"


def test_storage_that_does_not_answer_is_a_problem_until_it_answers(disk):
    disk.health.check(10.0)
    disk.store.submit("a request")
    disk.health.check(11.0)
    disk.health.check(10.0 + SILENT)
    assert disk.health.reason == "storage does not answer"
    disk.store.submitted.clear()
    disk.health.check(20.0)
    assert disk.health.reason == ""
    assert disk.lines() == [
        f"storage has not answered for {SILENT:.0f} s; 1 requests wait",
        f"storage answers again after {10.0 - SILENT:.1f} s",
    ]


def test_storage_is_not_silent_when_a_request_waits_at_the_first_check(disk):
    disk.store.submit("a request")
    disk.health.check(16661.0)
    assert disk.lines() == []
    disk.health.check(16661.0 + SILENT)
    assert disk.health.reason == "storage does not answer"


async def test_request_for_the_state_waits_for_a_probe(disk, monkeypatch):
    monkeypatch.setattr(storage_health, "ANSWER_WITHIN", 0.01)
    for _ in range(2):  # the probe is recent, but it has no answer
        assert await disk.health.probed_reason(1.0) == "storage has not answered for 0.01 s"
    disk.store.answered += 1
    disk.answer(FULL, 1.0)
    assert await disk.health.probed_reason(1.0) == "storage fails: disk is full"  # the probe is recent
    assert disk.store.submitted == []
    assert await disk.health.probed_reason(1.0 + PROBE_AGAIN) == "storage fails: disk is full"
    disk.answer(Saved(), 2.0)
    assert await disk.health.probed_reason(2.0) == ""
    assert disk.store.submitted == []
    await disk.health.probed_reason(2.0 + PROBE_AFTER)
    assert len(disk.store.submitted) == 1


async def test_slow_storage_with_a_long_queue_is_ready(disk, monkeypatch):
    monkeypatch.setattr(storage_health, "ANSWER_WITHIN", 0.01)

    def answer_others(request) -> None:
        disk.store.answered += 1

    disk.store.submit = answer_others
    assert await disk.health.probed_reason(1.0) == ""
