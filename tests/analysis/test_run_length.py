"""The rules find runs that are too short for their percentiles, and hardly ever others."""

import math

import numpy as np
import pytest

import imsim
from imsim.analysis.latency import ack_latencies, delivery_latencies
from imsim.analysis.metrics import Measures
from imsim.analysis.run_length import Behind, behind, flaw, is_steady, needed, share_of

P99 = "delivery.p99"


def experiments(load, messages, repetitions, replications=20):
    """The p99 of sojourns in an M/M/1 queue, by Lindley's recursion: of whole runs, and the mean of their halves."""
    rng = np.random.default_rng(messages)
    shape = (replications, 200 + messages)

    def p99(part):
        return np.quantile(part, 0.99, axis=1, method="median_unbiased")

    whole, halves = [], []
    for _ in range(repetitions):
        arrivals = np.cumsum(rng.standard_exponential(shape), axis=1)
        demands = load * rng.standard_exponential(shape)
        work = np.cumsum(demands, axis=1)
        sojourns = (work + np.maximum.accumulate(arrivals - work + demands, axis=1) - arrivals)[:, 200:]
        whole.append(p99(sojourns))
        halves.append((p99(sojourns[:, : messages // 2]) + p99(sojourns[:, messages // 2 :])) / 2)
    return whole, halves


def flaw_of(values, halves, latencies=10**9):
    """`latencies`: enough by default, so that only the second rule applies."""
    return flaw(P99, list(values), [{P99: Behind(latencies, half)} for half in halves])


@pytest.mark.parametrize(
    ("load", "messages", "least", "most"),
    [(0.5, 300, 0.7, 1), (0.8, 1000, 0.85, 1), (0.8, 3000, 0.7, 1), (0.5, 3000, 0, 0.1), (0.8, 30_000, 0, 0.1)],
)
def test_short_runs_are_found(load, messages, least, most):
    """Half an interval's width of 20 replications covers p99 in .69, .22 and .73 of 400 experiments; and in .92."""
    found = [flaw_of(*one) == "short" for one in zip(*experiments(load, messages, 40), strict=True)]
    assert least <= np.mean(found) <= most


def test_more_replications_find_short_runs_more_surely():
    assert all(flaw_of(*one) == "short" for one in zip(*experiments(0.8, 1000, 5, replications=60), strict=True))


def test_percentile_needs_ten_latencies_beyond_it():
    assert [needed(name) for name in ("ack.p50", "delivery.p95", "delivery.p99", "delivery.p99.9")] == [
        20, 200, 1000, 10_000,
    ]  # fmt: skip
    assert flaw_of([1.0, 2.0], [1.0, 2.0], 999) == "few"
    assert flaw_of([1.0, 2.0], [1.0, 2.0], 1000) is None
    assert flaw(P99, [1.0, 2.0], [{P99: Behind(5000, 1.0)}, {P99: Behind(119, 1.0)}]) == "few", "the shortest counts"


def test_metric_that_is_not_a_percentile_has_no_flaw():
    assert [share_of(name) for name in ("delivery.max", "ack.mean", "lost", "p99")] == [None] * 4
    assert flaw("delivery.mean", [1.0, 2.0], [{}, {}]) is None


@pytest.mark.parametrize("halves", [[math.nan, 0.0], [math.inf, 0.0]])
def test_unknown_halves_are_not_a_flaw(halves):
    assert flaw_of([10.0, 10.1], [0.0, 0.0]) == "short"
    assert flaw_of([10.0, 10.1], halves) is None
    assert flaw_of([10.0], [0.0]) is None
    assert flaw_of([10.0, math.inf], [0.0, 0.0]) is None


SCENARIO = imsim.Scenario(duration=6.0, warmup=1.0).replace({"population.users": 20, "workload.rate": 2.0})
NAMES = Measures.of(["delivery.p50", "ack.p99.9", "delivery.max", "lost"]).names


def test_halves_are_those_of_the_time_after_the_warm_up():
    run = imsim.simulate(SCENARIO)
    found = behind(run, NAMES)
    assert list(found) == ["delivery.p50", "ack.p99.9"]
    assert found["delivery.p50"].latencies == len(delivery_latencies(run))
    assert found["ack.p99.9"].latencies == len(ack_latencies(run)) == (run.messages.intended_at >= 1e9).sum()
    meant = run.messages.intended_at
    assert len(ack_latencies(run, until=3_500_000_000)) == ((meant >= 1e9) & (meant < 3.5e9)).sum()
    early, late = delivery_latencies(run, until=3_500_000_000), delivery_latencies(run, since=3_500_000_000)
    assert len(early) + len(late) == len(delivery_latencies(run))
    assert found["delivery.p50"].halves == pytest.approx((np.median(early) + np.median(late)) / 2, rel=0.05)


def test_last_recipient_has_the_same_rules():
    found = behind(imsim.simulate(SCENARIO.replace({"conversations": {"p2p_share": 0.5, "groups": 3}})), ["last.p99"])
    assert 0 < found["last.p99"].latencies < needed("last.p99") == 1000


def test_halves_are_not_compared_if_the_load_is_not_even_or_something_fails():
    ramp = imsim.simulate(SCENARIO.replace({"workload.arrivals": {"kind": "ramp", "start": 0.5, "end": 2, "over": 6}}))
    crash = {"kind": "node_crash", "target": "router0", "at": 2, "duration": 1}
    broken = imsim.simulate(SCENARIO.replace({"faults": [crash], "drain": 30}))
    for run in (ramp, broken):
        assert math.isnan(behind(run, NAMES)["delivery.p50"].halves)


def test_load_is_not_even_if_devices_come_back_together():
    night = imsim.Scenario.load("night-sync", {"workload.arrivals": "poisson"})
    assert not is_steady(night)
    assert is_steady(imsim.Scenario.load("office"))
