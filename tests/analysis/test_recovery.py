"""Recovery times of hand-written rows, where the answer is known."""

from __future__ import annotations

import math

import pytest

import imsim
from imsim.analysis.metrics import default_metrics, value_of
from imsim.scenario import Scenario

MS, S = 1_000_000, 1_000_000_000
CRASH = {"kind": "node_crash", "target": "router0", "at": 5.0, "duration": 3.0}


@pytest.fixture
def steady(build):
    """Ten messages a second for 20 s, each delivered after 10 ms, except for those that `latency` says otherwise of
    (seconds by intended time; None: never)."""

    def build_it(latency, *faults, world="sim", **scenario):
        at = [number / 10 for number in range(200)]
        waits = [latency.get(time, 0.01) if isinstance(latency, dict) else latency(time) for time in at]
        rows = [
            {"intent": intent} | ({} if wait is None else {"delivered_at": round((time + wait) * S)})
            for intent, (time, wait) in enumerate(zip(at, waits, strict=True))
        ]
        messages = [{"intended_at": round(time * S)} for time in at]
        return build(messages, rows, world=world, **({"duration": 20.0, "faults": list(faults)} | scenario))

    return build_it


def between(since, until, wait):
    return lambda time: wait if since <= time < until else 0.01


def test_recovery_lasts_until_last_slow_delivery_arrives(steady):
    (row,) = steady(between(5, 8, 5.0), CRASH).recovery(window=1).to_dict("records")
    assert row["recovery_seconds"] == pytest.approx(7.9 + 5 - 5)
    assert (row["fault"], row["at_seconds"], row["until_seconds"]) == ("node crash router0", 5.0, 8.0)
    assert (row["before_ms"], row["limit_ms"]) == (pytest.approx(10), pytest.approx(20))
    assert row["slow"] == 30
    assert row["waited_for"] is None


def test_recovery_window_tolerates_five_percent(steady):
    """In 3 s there are 30 messages that come at once, so that one slow delivery among 31 is within it."""
    found = steady(between(5, 8, 5.0), CRASH).recovery(window=3)
    assert found["recovery_seconds"][0] == pytest.approx(7.8 + 5 - 5)


@pytest.mark.parametrize(("factor", "time"), [(2, 0.0), (1.4, 2.9 + 0.015)])
def test_recovery_factor_defines_slow(steady, factor, time):
    found = steady(between(5, 8, 0.015), CRASH).recovery(window=1, factor=factor)
    assert found["recovery_seconds"][0] == pytest.approx(time)
    assert found["slow"][0] == (30 if time else 0)


def test_recovery_counts_lost_message_at_start_of_wait(steady):
    run = steady(between(5, 8, None), CRASH)
    assert run.recovery(window=1)["recovery_seconds"][0] == pytest.approx(2.9)
    assert run.recovery(window=1)["slow"][0] == 0


def test_recovery_is_infinite_if_run_stays_slow(steady):
    run = steady(between(5, 20, 0.1), CRASH)
    assert run.recovery()["recovery_seconds"].tolist() == [math.inf]
    assert value_of(run, "recovery.time") == math.inf
    (found,) = run.to_json_dict()["recovery"]
    assert found["recovery_seconds"] is None
    assert "node crash router0 at 5 s: not recovered" in str(run)


@pytest.mark.parametrize("at", [18.9, 19.6])
def test_recovery_near_end_of_run_is_infinite(steady, at):
    found = steady(between(at, at + 0.1, 0.5), CRASH | {"at": at, "duration": 0.1}).recovery(window=1)
    assert found["recovery_seconds"][0] == (math.inf if at > 19 else pytest.approx(0.5))


def test_recovery_is_unknown_without_fault_or_level_before(steady):
    calm = steady({})
    assert calm.recovery().empty
    assert math.isnan(value_of(calm, "recovery.time"))
    assert "recovery" not in calm.to_json_dict()
    early = steady(between(5, 8, 5.0), CRASH, warmup=4.0)
    assert math.isnan(value_of(early, "recovery.time"))
    assert early.to_json_dict()["recovery"][0]["before_ms"] is None
    assert "recovery unknown, because too few deliveries arrived before the fault" in str(early)


@pytest.mark.parametrize("messages", [[], [{}], [{"outcome": "rejected"}]])
def test_recovery_of_nearly_empty_run_is_nan(build, messages):
    run = build(messages, duration=10.0, faults=[CRASH | {"at": 0.0}, CRASH])
    assert run.recovery()["recovery_seconds"].isna().all()
    assert run.recovery()["slow"].tolist() == [0, 0]


def test_recovery_waits_for_last_slow_window_during_fault(steady):
    found = steady(between(9, 9.5, 1.0), CRASH | {"duration": 5.0}).recovery(window=1)
    assert found["recovery_seconds"][0] == pytest.approx(9.4 + 1 - 5)


def test_recovery_may_end_before_fault_ends(steady):
    found = steady(between(5, 7, 0.5), CRASH | {"duration": 10.0}).recovery(window=1)
    assert found["recovery_seconds"][0] == pytest.approx(6.9 + 0.5 - 5)


TWO = (CRASH | {"duration": 1.0}, CRASH | {"at": 8.0, "duration": 1.0})


def both(wait):
    return lambda time: wait if 5 <= time < 6 or 8 <= time < 9 else 0.01


def test_each_fault_has_own_recovery_and_metric_is_longest(steady):
    run = steady(lambda time: 0.5 if 5 <= time < 6 else 2.0 if 8 <= time < 9 else 0.01, *TWO)
    found = run.recovery(window=1)
    assert found["recovery_seconds"].tolist() == pytest.approx([1.4, 2.9])
    assert found["before_ms"].nunique() == 1
    assert (
        value_of(run, "recovery.time") == run.recovery()["recovery_seconds"].max() == pytest.approx(2.8)
    )  # windows of 2 s


def test_overlapping_faults_recover_together(steady):
    found = steady(both(4.0), *TWO).recovery(window=1)
    assert found["recovery_seconds"].tolist() == pytest.approx([12.9 - 5, 12.9 - 8])


def test_live_run_has_faults_of_manifest_only(steady):
    run = steady(between(5, 8, 5.0), CRASH, world="live")
    assert run.recovery().empty
    found = run.recovery(window=1, faults=[(5.0, 8.0, "kill -9")])
    assert found["recovery_seconds"][0] == pytest.approx(7.9)
    run.manifest["faults"] = [[5.0, 8.0, "kill -9"]]
    assert run.recovery(window=1).equals(found)
    assert value_of(run, "recovery.time") == pytest.approx(7.8)


def test_recovery_time_is_default_metric_with_faults():
    assert "recovery.time" in default_metrics(Scenario.load("reconnect-storm"))
    assert "recovery.time" not in default_metrics(Scenario.load("reconnect-storm"), Scenario.load("office"))


def test_budget_of_recovery_takes_seconds_or_duration(steady):
    run = steady(between(5, 8, 5.0), CRASH)
    for bound in ("10", "10s"):
        assert imsim.Budget(f"recovery.time < {bound}").fails(run) is None
        assert imsim.Budget(f"recovery.time > {bound}").fails(run).endswith(": measured 7.8 s")
    with pytest.raises(imsim.UsageError, match=r"recovery\.time < soon'.*expected a duration"):
        imsim.Budget("recovery.time < soon")


@pytest.mark.parametrize(
    ("wrong", "words"), [({"factor": 1}, "factor: expected"), ({"window": 0}, "window: expected a number of seconds")]
)
def test_bad_input_is_refused(steady, wrong, words):
    with pytest.raises(imsim.UsageError, match=words):
        steady({}).recovery(**wrong)
