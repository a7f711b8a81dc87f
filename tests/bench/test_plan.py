"""Benchmark of drawing a plan. Run it with `pytest tests/bench --benchmark-enable`."""

from __future__ import annotations

import pytest

from imsim.scenario import Scenario, plan


def test_plan_of_100_000_users(benchmark):
    large = Scenario.load("office").replace(
        {"population.users": 100_000, "workload.rate": 0.01, "conversations.groups": 1000}
    )
    drawn = benchmark(lambda: plan(large))
    assert len(drawn) == pytest.approx(10_000, rel=0.1)
