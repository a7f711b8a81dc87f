"""Recovery times of hand-written rows, whose answers are known."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd
import pytest

import imsim
from imsim.analysis.metrics import default_metrics, value_of
from imsim.analysis.recovery import _width, recoveries
from imsim.scenario import Scenario

MS, S = 1_000_000, 1_000_000_000
RATE = {"population": {"users": 10}, "workload": {"rate": 1.0}}
CRASH = {"kind": "node_crash", "target": "router0", "at": 5.0, "duration": 3.0}


@pytest.fixture
def steady(build):
    """Build a run of ten messages a second for 20 s. `latency` gives the latencies (s) by intended time (s), None for
    a message that never arrives; 10 ms if it is a dict without the time."""

    def build_it(latency, *faults, world="sim", **scenario):
        at = [number / 10 for number in range(200)]
        waits = [latency.get(time, 0.01) if isinstance(latency, dict) else latency(time) for time in at]
        rows = [
            {"intent": intent} | ({} if wait is None else {"delivered_at": round((time + wait) * S)})
            for intent, (time, wait) in enumerate(zip(at, waits, strict=True))
        ]
        messages = [{"intended_at": round(time * S)} for time in at]
        return build(messages, rows, world=world, **(RATE | {"duration": 20.0, "faults": list(faults)} | scenario))

    return build_it


def between(since, until, wait):
    return lambda time: wait if since <= time < until else 0.01


def test_recovery_lasts_until_the_last_slow_delivery_arrives(steady):
    (row,) = steady(between(5, 8, 5.0), CRASH).recovery(window=1).to_dict("records")
    assert row["recovery_seconds"] == pytest.approx(7.9 + 5 - 5)
    assert (row["fault"], row["at_seconds"], row["until_seconds"]) == ("node crash router0", 5.0, 8.0)
    assert (row["before_ms"], row["limit_ms"]) == (pytest.approx(10), pytest.approx(20))
    assert row["slow"] == 30
    assert row["waited_for"] is None


def test_recovery_window_allows_five_slow_deliveries_in_a_hundred(steady):
    """A window of 3 s has 30 fast messages: one slow delivery among 31 is within the limit."""
    found = steady(between(5, 8, 5.0), CRASH).recovery(window=3)
    assert found["recovery_seconds"][0] == pytest.approx(7.8 + 5 - 5)


@pytest.mark.parametrize(("factor", "time"), [(2, 0.0), (1.4, 2.9 + 0.015)])
def test_recovery_factor_decides_which_deliveries_are_slow(steady, factor, time):
    found = steady(between(5, 8, 0.015), CRASH).recovery(window=1, factor=factor)
    assert found["recovery_seconds"][0] == pytest.approx(time)
    assert found["slow"][0] == (30 if time else 0)


def test_lost_delivery_counts_at_the_start_of_its_wait(steady):
    run = steady(between(5, 8, None), CRASH)
    assert run.recovery(window=1)["recovery_seconds"][0] == pytest.approx(2.9)
    assert run.recovery(window=1)["slow"][0] == 0


def test_recovery_is_infinite_if_deliveries_are_slow_until_the_end(steady):
    run = steady(between(5, 20, 0.1), CRASH)
    assert run.recovery()["recovery_seconds"].tolist() == [math.inf]
    assert value_of(run, "recovery.time") == math.inf
    (found,) = run.to_json_dict()["recovery"]
    assert found["recovery_seconds"] is None
    assert "node crash router0 at 5 s: not recovered" in str(run)


@pytest.mark.parametrize(("at", "time"), [(18.9, 0.5), (19.6, math.nan)])
def test_recovery_is_unknown_if_the_run_ends_too_soon_after_the_fault(steady, at, time):
    run = steady(between(at, at + 0.1, 0.5), CRASH | {"at": at, "duration": 0.1})
    assert run.recovery(window=1)["recovery_seconds"][0] == pytest.approx(time, nan_ok=True)
    if math.isnan(time):
        text = f"node crash router0 at {at} s: recovery unknown: the run ends too soon after the fault"
        assert text in map(str, recoveries(run, window=1))


def test_recovery_is_unknown_if_no_window_begins_after_the_last_slow_delivery(steady):
    """The backlog of the fault ends at 17 s, and a window that counts begins at 16.5 s or before."""
    run = steady(between(5, 17, 0.1), CRASH | {"duration": 1.0})
    assert run.recovery(window=1)["recovery_seconds"][0] == pytest.approx(16.9 + 0.1 - 5, abs=0.1)
    assert math.isnan(run.recovery(window=7)["recovery_seconds"][0])
    still_slow = steady(lambda time: 0.1 if time >= 5 and time % 1 < 0.5 else 0.01, CRASH | {"duration": 1.0})
    assert still_slow.recovery(window=7)["recovery_seconds"][0] == math.inf


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_recovery_near_the_end_of_a_run_does_not_depend_on_the_seed(seed):
    """The stall ends 2 s before the run: a window of 5 s is too long there, and must not be chosen by chance."""
    stall = {"kind": "storage_stall", "at": 27.0, "duration": 1.0}
    run = imsim.simulate(Scenario.load("office", {"duration": "30s", "faults": [stall]}, seed=seed))
    assert run.recovery()["recovery_seconds"][0] == pytest.approx(1.04, abs=0.02)


@pytest.mark.parametrize(
    ("arrivals", "until", "width"),
    [
        ("poisson", 5.0, 5.0),
        ({"kind": "bursts", "factor": 10.0, "every": "20s", "lasting": "2s"}, 5.0, 5.0),
        ({"kind": "ramp", "start": 0.0, "end": 2.0, "over": "10s"}, 5.0, 10.0),
        ([number / 30 for number in range(600)], 5.0, 2.0),
        ("poisson", 0.0, 10.0),
    ],
)
def test_recovery_window_follows_from_the_planned_rate(arrivals, until, width):
    """60 messages, rounded down to 1, 2 or 5 times a power of ten: 6 s at 10 messages a second."""
    scenario = Scenario(duration=100.0, workload={"arrivals": arrivals, "rate": 0.1})
    assert scenario.population.users == 100
    assert _width(scenario, until) == pytest.approx(width)


def test_recovery_is_unknown_without_a_level_before_the_fault(steady):
    calm = steady({})
    assert calm.recovery().empty
    assert math.isnan(value_of(calm, "recovery.time"))
    assert "recovery" not in calm.to_json_dict()
    early = steady(between(5, 8, 5.0), CRASH, warmup=4.0)
    assert math.isnan(value_of(early, "recovery.time"))
    assert early.to_json_dict()["recovery"][0]["before_ms"] is None
    assert "recovery unknown: too few deliveries arrived before the first fault" in str(early)


@pytest.mark.parametrize("messages", [[], [{}], [{"outcome": "rejected"}]])
def test_recovery_of_a_run_without_deliveries_is_unknown(build, messages):
    run = build(messages, duration=10.0, faults=[CRASH | {"at": 0.0}, CRASH])
    assert run.recovery()["recovery_seconds"].isna().all()
    assert run.recovery()["slow"].tolist() == [0, 0]


def test_recovery_follows_the_last_slow_window_while_the_fault_lasts(steady):
    found = steady(between(9, 9.5, 1.0), CRASH | {"duration": 5.0}).recovery(window=1)
    assert found["recovery_seconds"][0] == pytest.approx(9.4 + 1 - 5)


def test_recovery_may_come_before_the_end_of_the_fault(steady):
    found = steady(between(5, 7, 0.5), CRASH | {"duration": 10.0}).recovery(window=1)
    assert found["recovery_seconds"][0] == pytest.approx(6.9 + 0.5 - 5)


TWO = (CRASH | {"duration": 1.0}, CRASH | {"at": 8.0, "duration": 1.0})


def both(wait):
    return lambda time: wait if 5 <= time < 6 or 8 <= time < 9 else 0.01


def test_each_fault_has_a_recovery_and_the_metric_is_the_longest(steady):
    run = steady(lambda time: 0.5 if 5 <= time < 6 else 2.0 if 8 <= time < 9 else 0.01, *TWO)
    found = run.recovery(window=1)
    assert found["recovery_seconds"].tolist() == pytest.approx([1.4, 2.9])
    assert found["before_ms"].nunique() == 1
    assert (
        value_of(run, "recovery.time") == run.recovery()["recovery_seconds"].max() == pytest.approx(2.8)
    )  # windows of 2 s


def test_recovery_spans_a_second_fault_that_begins_before_it(steady):
    found = steady(both(4.0), *TWO).recovery(window=1)
    assert found["recovery_seconds"].tolist() == pytest.approx([12.9 - 5, 12.9 - 8])


def test_live_run_takes_its_faults_from_the_manifest_and_not_from_the_scenario(steady):
    run = steady(between(5, 8, 5.0), CRASH, world="live")
    assert run.recovery().empty
    found = run.recovery(window=1, faults=[(5.0, 8.0, "kill -9")])
    assert found["recovery_seconds"][0] == pytest.approx(7.9)
    run.manifest["faults"] = [[5.0, 8.0, "kill -9"]]
    assert run.recovery(window=1).equals(found)
    assert value_of(run, "recovery.time") == pytest.approx(7.8)


def test_recovery_time_is_a_default_metric_if_all_scenarios_have_faults():
    assert "recovery.time" in default_metrics(Scenario.load("reconnect-storm"))
    assert "recovery.time" not in default_metrics(Scenario.load("reconnect-storm"), Scenario.load("office"))


def test_budget_of_the_recovery_time_takes_seconds_or_a_duration(steady):
    run = steady(between(5, 8, 5.0), CRASH)
    for bound in ("10", "10s"):
        assert imsim.Budget(f"recovery.time < {bound}").fails(run) is None
        assert imsim.Budget(f"recovery.time > {bound}").fails(run).endswith(": it is 7.8 s")
    with pytest.raises(imsim.UsageError, match=r"recovery\.time < soon'.*expected a duration with its unit, as in 10s"):
        imsim.Budget("recovery.time < soon")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"factor": 1}, "factor: expected a number above 1, as in 2, got 1"),
        ({"factor": "3"}, "factor: expected a number above 1, as in 2, got '3'"),
        ({"window": 0}, "window: expected a duration above 0, as in '2s', got 0"),
        ({"window": "soon"}, "window: expected a duration such as .* got 'soon'"),
        ({"faults": "crash"}, r"faults: expected a list of \(since, until, name\), got 'crash'"),
        ({"faults": [(1, 2)]}, r"faults\[0\]: expected \(since, until, name\), .* got \(1, 2\)"),
        ({"faults": [(1, 2, "a"), (3, "x", "b")]}, r"faults\[1\]: expected a duration such as .* got 'x'"),
        ({"faults": [(3, 2, "a")]}, r"faults\[0\]: expected since <= until, got 3 s and 2 s"),
    ],
)
def test_recovery_refuses_bad_arguments(steady, wrong, words):
    with pytest.raises(imsim.UsageError, match=words):
        steady({}).recovery(**wrong)


def test_recovery_refuses_a_manifest_with_bad_faults(steady):
    run = steady({}, world="live")
    run.manifest["faults"] = [[8.0, 5.0, "kill -9"]]
    with pytest.raises(imsim.UsageError, match=r"^faults of the manifest\[0\]: expected since <= until"):
        run.recovery()


def test_recovery_takes_durations(steady):
    run = steady(between(5, 8, 5.0), world="live")
    found = run.recovery(window="1s", faults=[("5s", "8000ms", "kill -9")])
    assert found.equals(run.recovery(window=1, faults=[(5.0, 8.0, "kill -9")]))
    assert found["recovery_seconds"][0] == pytest.approx(7.9)


def test_fault_without_slow_deliveries_has_no_recovery_to_wait_for(steady):
    assert "node crash router0 at 5 s: delivery p95 stayed within 20 ms (before 10 ms)" in str(steady({}, CRASH))


def test_slow_deliveries_wait_for_a_policy_from_the_start_of_the_fault_if_it_outlasts_the_recovery(steady, monkeypatch):
    """The wait of 500 ms begins with the fault, and only the part after the fault's end would count otherwise."""
    run = steady(between(5, 7, 0.5), CRASH | {"duration": 10.0})
    spans = pd.DataFrame(
        {
            "delivery": [50, 50],
            "kind": ["retry", "link"],
            "where": ["router0", "uplink"],
            "op": ["", ""],
            "began": [5 * S, 5 * S + 400 * MS],
            "start": [5 * S, 5 * S + 400 * MS],
            "end": [5 * S + 400 * MS, 5 * S + 500 * MS],
        }
    )
    monkeypatch.setattr("imsim.analysis.recovery.breakdown.counted_spans", lambda run: (spans, 200))
    run = imsim.Run(dataclasses.replace(run.tables, spans=run.tables.messages), run.scenario, run.manifest)
    (found,) = recoveries(run, window=1)
    assert found.waited_for == "policies.push_timeout"
    assert found.waits == {
        "policies.push_timeout": pytest.approx(400 / found.slow),
        "uplink": pytest.approx(100 / found.slow),
    }
