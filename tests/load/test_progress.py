"""Tests of the progress of a load test."""

from __future__ import annotations

import numpy as np
import pytest

from imsim.core.model import Code, Route
from imsim.load.progress import Meter, Progress, line
from imsim.results import Recorder


@pytest.fixture
def facts():
    return Recorder()


def meter_of(count: int, expected: int = 2) -> Meter:
    """Return a meter of messages that are due every 0.1 s."""
    return Meter(np.arange(count) * 100_000_000, np.full(count, expected))


def test_progress_has_rates_and_latencies_of_the_last_moments(facts):
    meter, progress = meter_of(100), Progress()
    progress.add(0, meter.report(0.0, 0, 0.0), 100.0)
    for intent in range(10):
        facts.sent(intent, intent / 10)
        for device in range(2):
            facts.delivered(intent, device, intent / 10 + (0.5 if intent == 9 else 0.002), Route.PUSH)
    facts.failed(10, 1.0, Code.FORBIDDEN)
    meter.add(facts.facts())
    progress.add(0, meter.report(1.0, 11, 0.004), 101.0)
    found = progress.to_dict()
    assert (found["offered"], found["delivered"], found["errors"], found["overdue"]) == (11.0, 20.0, 1, 0)
    assert found["p50"] == pytest.approx(2, rel=0.03)
    assert found["p99"] == pytest.approx(500, rel=0.03)
    assert found["late"] == 4.0
    assert line(found, 1.0, 30.0).startswith(
        "1 of 30 s: offered 11.0/s, delivered 20.0/s, overdue 0, errors 1, p50 2.0, "
    )
    assert line(found, 1.0, 30.0).endswith("late 4.0 ms")


def test_rates_and_latencies_of_all_processes_are_added_up(facts):
    """The sender is in one process and the recipients are in another."""
    sending, receiving, progress = meter_of(100), meter_of(100), Progress()
    for process, meter in enumerate((sending, receiving)):
        progress.add(process, meter.report(0.0, 0, 0.0), 50.0)
    for intent in range(100):
        facts.sent(intent, intent / 10)
        facts.sent(intent, intent / 10 + 0.01)  # a retry
    sending.add(facts.facts())
    received = Recorder()
    for intent in range(97):
        for device in range(2):
            received.delivered(intent, device, intent / 10 + 0.002, Route.PUSH)
    receiving.add(received.facts())
    progress.add(0, sending.report(10.0, 100, 0.0), 60.0)
    progress.add(1, receiving.report(10.0, 0, 0.0), 60.0)
    found = progress.to_dict()
    assert (found["offered"], found["delivered"], found["overdue"]) == (10.0, 19.4, 0)  # 3 are less than 5 s old
    progress.add(0, sending.report(16.0, 100, 0.0), 66.0)
    progress.add(1, receiving.report(16.0, 0, 0.0), 66.0)
    assert progress.to_dict()["overdue"] == 6


def test_delivery_is_overdue_after_five_seconds_unless_its_message_failed(facts):
    meter = meter_of(20)
    for intent in range(20):
        facts.sent(intent, intent / 10)
    facts.failed(3, 0.5, Code.FORBIDDEN)
    meter.add(facts.facts())
    assert [meter.report(seconds, 0, 0.0)["overdue"] for seconds in (4.0, 6.0, 7.5)] == [0, 18, 38]


def test_progress_without_deliveries_has_no_percentiles():
    progress = Progress()
    assert progress.to_dict()["p50"] is None
    assert "p50 -, p99 -" in line(progress.to_dict(), 0.0, 5.0)
