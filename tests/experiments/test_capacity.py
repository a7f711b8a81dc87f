"""A capacity that is known: where an M/M/1 queue's mean sojourn reaches the budget."""

from __future__ import annotations

import pytest

import imsim

# 1 ms of links and a storage of mean 10 ms: with 50 users, 10 / (1 - rate / 2) ms is 30 at rate 4/3.
QUEUE = imsim.Scenario(name="queue", duration=7.0, warmup=2.0).with_(
    {
        "network.client.latency": "250us",
        "network.backend.latency": "125us",
        "population.users": 50,
        "workload.rate": 0.9,
        "topology.storage.service": {"append": {"kind": "exponential", "mean": "10ms"}},
    }
)


def test_it_is_where_theory_says(tmp_path):
    options = {"tolerance": 1, "replications": 5, "max_replications": 8, "out": tmp_path}
    found = imsim.capacity(QUEUE, "delivery.mean < 31ms", jobs=2, **options)
    assert found.keeps < 4 / 3 < found.breaks
    again = imsim.capacity(QUEUE, imsim.Budget("delivery.mean < 31ms"), jobs=1, **options)
    assert again.frame.equals(found.frame)


def test_the_load_may_be_anything_and_the_budget_ones_own():
    def late(run):
        return run.to_json_dict()["delivery_ms"]["p50"]

    options = {"low": 40, "high": 300, "tolerance": 0.9, "max_replications": 5, "metrics": [late]}
    found = imsim.capacity(QUEUE.with_({"duration": 3.0}), "late < 50", over="population.users", jobs=1, **options)
    assert 40 <= found.keeps < found.breaks <= 300
    assert float(found.keeps).is_integer()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": "delivery.p99"}, "budget"),
        ({"budget": "mine < 3"}, "'mine'"),
        ({"over": "workload.rates"}, "workload.rates"),
        ({"tolerance": 5}, "tolerance"),
        ({"low": -1}, "low"),
        ({"replications": 4}, "replications: a load is judged by the interval of 5 or more, got 4"),
        ({"low": 1e-9, "high": 1e-9}, "nothing to measure"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(imsim.UsageError, match=words):
        imsim.capacity(QUEUE, **{"budget": "delivery.p99 < 50ms", "jobs": 1, **arguments})
