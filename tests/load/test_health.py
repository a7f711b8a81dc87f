"""The data of the generator's health, and the judgement of runs by it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from imsim.load.health import (
    FLOORS,
    LARGEST_SHARE,
    Delays,
    Health,
    Judgement,
    judge,
    largest_backlog,
    workers_of,
)


def healthy(**values: object) -> Health:
    """A generator on a quiet computer, as measured: tenths of a millisecond, and a few milliseconds at p99."""
    rng = np.random.default_rng(1)
    quick = Delays.of(rng.exponential(0.0003, 2000))
    return Health(**{"seconds": 10.0, "receiving": quick, "receiving_by_message": quick, "cpu": 0.2, **values})


def constant(ms: float, count: int = 1000) -> Delays:
    return Delays.of(np.full(count, ms / 1e3))


# --- delays ---------------------------------------------------------------------------------------------------------


def test_percentiles_are_near_those_of_the_delays():
    delays = np.random.default_rng(2).lognormal(-6, 1.5, 20_000)
    found = Delays.of(delays)
    for percent in (50, 95, 99):
        assert found.percentile(percent) == pytest.approx(np.percentile(delays, percent) * 1e3, rel=0.03)
    assert found.longest == delays.max()
    assert found.weight == 20_000


def test_adding_one_by_one_gives_the_same_histogram():
    delays = [0.0, -1.0, 1e-6, 0.001, 0.001, 0.25, 90.0]
    one_by_one = Delays()
    for delay in delays:
        one_by_one.add(delay)
    assert one_by_one.counts == Delays.of(delays).counts
    assert one_by_one.longest == 90.0


def test_weights_count_as_often():
    weighted = Delays()
    weighted.add(0.001, 98.0)
    weighted.add(0.5, 2.0)
    assert weighted.percentile(50) == pytest.approx(1, rel=0.03)
    assert weighted.percentile(99) == pytest.approx(500, rel=0.03)


def test_no_delays_are_zero():
    assert (Delays().percentile(99), Delays().plus(Delays(), 99), Delays().weight) == (0, 0, 0)
    assert Delays().plus(constant(5), 50) == constant(5).plus(Delays(), 50) == pytest.approx(5, rel=0.03)


def test_sum_of_two_independent_delays():
    rng = np.random.default_rng(3)
    one, other = rng.exponential(0.01, 50_000), rng.exponential(0.02, 50_000)
    found = Delays.of(one).plus(Delays.of(other), 99)
    assert found == pytest.approx(np.percentile(one + other, 99) * 1e3, rel=0.05)


def test_merged_histograms_equal_the_histogram_of_all():
    rng = np.random.default_rng(4)
    parts = [rng.exponential(scale, 100) for scale in (0.001, 0.1)]
    merged = Delays.merged([Delays.of(part) for part in parts])
    assert merged.counts == Delays.of(np.concatenate(parts)).counts
    assert merged.longest == max(part.max() for part in parts)


def test_health_survives_json():
    health = healthy(waiting=0.01, steal=None, backlog=3, series={"seconds": 1.0, "cpu": [None, 0.2]})
    again = Health.from_json_dict(json.loads(json.dumps(health.to_json_dict())))
    assert again.to_json_dict() == health.to_json_dict()
    assert again.delays == pytest.approx(health.delays, rel=1e-3)


def test_backlog_counts_messages_that_were_due_and_not_sent():
    due = np.array([0.0, 1.0, 1.1, 1.2, 5.0])
    assert largest_backlog(due, np.zeros(5)) == 0
    assert largest_backlog(due, np.array([0.0, 0.3, 0.2, 0.1, 0.0])) == 2  # at 1.3 the first of three was sent
    assert largest_backlog(due, np.array([1.15])) == 2  # the others were never sent
    assert largest_backlog(due, np.array([])) == 0


# --- judgement ------------------------------------------------------------------------------------------------------


def judged(workers: list[Health], latencies: dict[str, float | None]) -> Judgement:
    """Return the judgement of workers with the numbers from 0."""
    return judge(dict(enumerate(workers)), latencies)


FAST, SLOW = {"p50": 2.0, "p95": 4.0, "p99": 6.0}, {"p50": 300.0, "p95": 800.0, "p99": 1200.0}


@pytest.mark.parametrize("latencies", [FAST, SLOW, {"p50": 1.0, "p99": None}, {"p50": math.nan}, {}])
def test_healthy_generator_is_valid_whatever_the_server_does(latencies):
    """A slow server alone, and a server that loses messages, must not make the run invalid."""
    assert judged([healthy()], latencies) == judged([healthy(), healthy()], latencies)
    found = judged([healthy()], latencies)
    assert (found.valid, found.reason, found.warnings) == (True, "", ())


@pytest.mark.parametrize("side", ["lateness", "receiving_by_message"])
@pytest.mark.parametrize("latency", [60.0, 1000.0])
def test_generator_with_a_large_share_of_a_latency_is_invalid(side, latency):
    part = constant(1.1 * LARGEST_SHARE * latency)
    found = judged([healthy(**{side: part})], {"p50": latency, "p95": latency, "p99": latency})
    assert not found.valid
    assert found.reason.startswith("the generator, not the server, explains 2")
    assert "\n" not in found.reason
    part = constant(0.8 * LARGEST_SHARE * latency)
    assert judged([healthy(**{side: part})], {"p50": latency, "p95": latency, "p99": latency}).valid


def test_same_delays_are_harmless_beside_a_slower_server():
    late = healthy(lateness=constant(50.0))
    assert not judged([late], {"p50": 60.0}).valid
    assert judged([late], {"p50": 600.0}).valid


def test_sending_and_receiving_add_up():
    both = healthy(lateness=constant(20), receiving_by_message=constant(20))
    assert not judged([both], {"p50": 120.0}).valid
    assert judged([healthy(lateness=constant(20))], {"p50": 120.0}).valid


def test_pauses_spoil_the_tail_only():
    paused = Delays.merged([constant(0.1, 970), constant(200, 30)])
    found = judged([healthy(receiving_by_message=paused)], {"p50": 5.0, "p95": 20.0, "p99": 210.0})
    assert not found.valid
    assert "of p99 (" in found.reason


@pytest.mark.parametrize("name", ["p50", "p95", "p99"])
def test_delays_below_the_floor_are_valid_but_noted(name):
    quick = constant(0.9 * FLOORS[name])
    found = judged([Health(receiving=quick)], {name: FLOORS[name]})
    assert found.valid
    assert f"of {name} (" in found.warnings[0]
    assert not judged([Health(receiving=constant(1.2 * FLOORS[name]))], {name: FLOORS[name]}).valid


def test_lost_percentile_is_judged_by_pauses_that_can_lose_messages():
    paused = healthy(receiving_by_message=Delays.merged([constant(0.1, 900), constant(4000, 100)]))
    found = judged([paused], {"p50": 900.0, "p99": None})
    assert not found.valid
    assert "which can lose messages" in found.reason
    assert judged([healthy(receiving=constant(20.0))], {"p50": 900.0, "p99": None}).valid


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"waiting": 0.4, "cpu": 0.3}, "it waited for a CPU 40% of the time; stop other programs"),
        ({"steal": 0.2, "waiting": 0.4}, "the hypervisor gave 20% of the CPU time to other machines; run it on"),
        ({"waiting": 0.02, "cpu": 0.97}, "it used 97% of a core; lower the load, or use more workers"),
        ({"waiting": None, "steal": None}, "it paused for up to 500 ms; look for code that blocks"),
    ],
)
def test_reason_names_the_cause_and_the_remedy(values, cause):
    found = judged([healthy(lateness=constant(500), **values)], {"p50": 500.0})
    assert cause in found.reason


def test_one_slow_worker_of_several_is_named():
    slow = healthy(lateness=constant(400), waiting=0.5)
    found = judged([healthy(lateness=constant(0.1)), slow, healthy(lateness=constant(0.1))], {"p50": 2.0, "p99": 450.0})
    assert not found.valid
    assert "worker 1: it waited for a CPU" in found.reason


def test_slow_worker_keeps_its_number_if_another_one_died():
    slow = healthy(lateness=constant(400), waiting=0.5)
    found = judge({0: healthy(), 2: slow}, {"p50": 2.0, "p99": 450.0})
    assert "worker 2: it waited for a CPU" in found.reason


def test_pause_without_messages_spoils_nothing():
    """The probes notice it, but it delays no message."""
    paused = healthy(receiving=Delays.merged([constant(0.1, 900), constant(500, 100)]))
    assert judged([paused], {"p50": 2.0, "p99": 6.0}).valid


def test_receiving_counts_over_time_if_nothing_was_recorded():
    paused = Health(receiving=Delays.merged([constant(0.1, 900), constant(500, 100)]))
    assert not judged([paused], {"p50": 2.0, "p99": 600.0}).valid


def test_worker_that_died_has_no_health():
    manifest = {"workers": [{"index": 0, "died_at": 1.0}, {"index": 1, "health": healthy().to_json_dict()}]}
    assert {number: health.cpu for number, health in workers_of(manifest).items()} == {1: 0.2}
    assert workers_of({}) == {}


def test_run_whose_processes_all_died_is_invalid():
    judgement = judge({}, {"p50": 5.0, "p99": 9.0})
    assert not judgement.valid
    assert judgement.reason.startswith("no Locust process lived to report its delays")
