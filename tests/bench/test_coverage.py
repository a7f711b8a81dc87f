"""The coverage of 95 % confidence intervals over replications, computed from the rows of ordinary runs.

    python -m pytest tests/bench/test_coverage.py --benchmark-enable -n0 -s

This takes hours for both loads. The ordinary suite runs one experiment for each load, to check that the code works.

Results so far:

- Load .5, 5 runs of 1,000 messages: of 350 intervals, .969 cover the mean and .909 cover p99. With Lindley's recursion
  and 1,500 intervals: .948 and .932.
- Load .7, 20 runs of 8,000 messages: of 400 intervals, .963 cover the mean and .943 cover p99. Here the plan and the
  service times were drawn, and Lindley's recursion computed the numbers of the rows.
"""

from __future__ import annotations

import pytest

import imsim
from imsim import theory
from imsim.analysis import Measures
from imsim.experiments import Replications, Sample

MEASURES = Measures.of(["delivery.mean", "delivery.p99"])
REPLICATIONS = 5
RATE = 60  # messages a second


def queue(load: float, messages: int) -> imsim.Scenario:
    """Return an M/M/1 scenario: a storage with one worker, and no other delays.

    With 200 users, two messages of one conversation are hardly ever in flight together. The warm-up cuts off the first
    200 messages; after them the queue is stationary.
    """
    return imsim.Scenario().replace(
        {
            "population.users": 200,
            "conversations.partners": 199,
            "workload.rate": RATE / 200,
            "duration": (messages + 200) / RATE,
            "warmup": 200 / RATE,
            "network.client.latency": 0,
            "network.backend.latency": 0,
            "topology.storage.service": {"append": {"kind": "exponential", "mean": load / RATE}},
        }
    )


def covered(load: float, messages: int, experiments: int) -> dict[str, float]:
    """Return the share of intervals that cover the true mean, and the share that cover the true p99."""
    scenario, mean = queue(load, messages), load / RATE
    truths = {
        "delivery.mean": 1000 * theory.mm1_sojourn(RATE, mean),
        "delivery.p99": 1000 * theory.mm1_sojourn_quantile(RATE, mean, 0.99),
    }
    found = dict.fromkeys(truths, 0)
    for experiment in range(experiments):
        runs = [imsim.simulate(scenario, seed=experiment * REPLICATIONS + number) for number in range(REPLICATIONS)]
        estimates = Replications(scenario, [Sample(0, run.seed, "", MEASURES(run)) for run in runs])
        for metric, truth in truths.items():
            found[metric] += estimates[metric].low <= truth <= estimates[metric].high
    return {name: count / experiments for name, count in found.items()}


@pytest.mark.parametrize(("load", "messages"), [(0.5, 2000), (0.7, 8000)])
def test_intervals_have_their_nominal_coverage(benchmark, load, messages):
    """With Lindley's recursion, .94 of the intervals cover p99 with these runs, and .94 cover the mean."""
    experiments = 400 if benchmark.enabled else 1
    messages = messages if benchmark.enabled else 300
    found = benchmark.pedantic(covered, (load, messages, experiments), rounds=1)
    print(f"load {load}, {REPLICATIONS} runs of {messages} messages, {experiments} experiments: {found}")
    if benchmark.enabled:
        assert all(0.92 <= share <= 0.98 for share in found.values())
    else:
        assert found["delivery.mean"] >= 0.5
