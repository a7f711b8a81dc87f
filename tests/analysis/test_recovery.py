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


def test_it_lasts_until_the_last_slow_delivery_has_come(steady):
    (row,) = steady(between(5, 8, 5.0), CRASH).recovery(window=1).to_dict("records")
    assert row["time"] == pytest.approx(7.9 + 5 - 5)
    assert (row["fault"], row["at"], row["until"]) == ("node crash router0", 5.0, 8.0)
    assert (row["before"], row["limit"]) == (pytest.approx(10), pytest.approx(20))
    assert row["slow"] == 30
    assert row["waited_for"] is None


def test_a_window_bears_five_in_a_hundred(steady):
    """In 3 s there are 30 messages that come at once, so that one slow delivery among 31 is within it."""
    found = steady(between(5, 8, 5.0), CRASH).recovery(window=3)
    assert found["time"][0] == pytest.approx(7.8 + 5 - 5)


@pytest.mark.parametrize(("factor", "time"), [(2, 0.0), (1.4, 2.9 + 0.015)])
def test_the_factor_says_what_is_slow(steady, factor, time):
    found = steady(between(5, 8, 0.015), CRASH).recovery(window=1, factor=factor)
    assert found["time"][0] == pytest.approx(time)
    assert found["slow"][0] == (30 if time else 0)


def test_what_never_comes_counts_where_its_wait_began(steady):
    run = steady(between(5, 8, None), CRASH)
    assert run.recovery(window=1)["time"][0] == pytest.approx(2.9)
    assert run.recovery(window=1)["slow"][0] == 0


def test_it_never_comes_back(steady):
    run = steady(between(5, 20, 0.1), CRASH)
    assert run.recovery()["time"].tolist() == [math.inf]
    assert value_of(run, "recovery.time") == math.inf
    (found,) = run.to_json_dict()["recovery"]
    assert found["time"] is None
    assert "node crash router0 at 5 s: not recovered" in str(run)


@pytest.mark.parametrize("at", [18.9, 19.6])
def test_what_is_too_near_to_the_end_to_be_known_is_not_recovered(steady, at):
    found = steady(between(at, at + 0.1, 0.5), CRASH | {"at": at, "duration": 0.1}).recovery(window=1)
    assert found["time"][0] == (math.inf if at > 19 else pytest.approx(0.5))


def test_without_a_fault_or_a_level_before_it_there_is_none(steady):
    calm = steady({})
    assert calm.recovery().empty
    assert math.isnan(value_of(calm, "recovery.time"))
    assert "recovery" not in calm.to_json_dict()
    early = steady(between(5, 8, 5.0), CRASH, warmup=4.0)
    assert math.isnan(value_of(early, "recovery.time"))
    assert early.to_json_dict()["recovery"][0]["before_ms"] is None
    assert "recovery unknown, as too few deliveries came before it" in str(early)


@pytest.mark.parametrize("messages", [[], [{}], [{"outcome": "rejected"}]])
def test_next_to_nothing_has_no_recovery(build, messages):
    run = build(messages, duration=10.0, faults=[CRASH | {"at": 0.0}, CRASH])
    assert run.recovery()["time"].isna().all()
    assert run.recovery()["slow"].tolist() == [0, 0]


def test_windows_within_the_limit_do_not_count_before_one_that_is_not_while_the_fault_lasts(steady):
    found = steady(between(9, 9.5, 1.0), CRASH | {"duration": 5.0}).recovery(window=1)
    assert found["time"][0] == pytest.approx(9.4 + 1 - 5)


def test_it_may_be_over_before_the_fault_is(steady):
    found = steady(between(5, 7, 0.5), CRASH | {"duration": 10.0}).recovery(window=1)
    assert found["time"][0] == pytest.approx(6.9 + 0.5 - 5)


TWO = (CRASH | {"duration": 1.0}, CRASH | {"at": 8.0, "duration": 1.0})


def both(wait):
    return lambda time: wait if 5 <= time < 6 or 8 <= time < 9 else 0.01


def test_of_several_faults_each_has_its_own_and_the_metric_is_the_longest(steady):
    run = steady(lambda time: 0.5 if 5 <= time < 6 else 2.0 if 8 <= time < 9 else 0.01, *TWO)
    found = run.recovery(window=1)
    assert found["time"].tolist() == pytest.approx([1.4, 2.9])
    assert found["before"].nunique() == 1
    assert value_of(run, "recovery.time") == run.recovery()["time"].max() == pytest.approx(2.8)  # windows of 2 s


def test_a_fault_that_meets_another_one_before_the_recovery_lasts_as_long(steady):
    found = steady(both(4.0), *TWO).recovery(window=1)
    assert found["time"].tolist() == pytest.approx([12.9 - 5, 12.9 - 8])


def test_a_live_run_has_the_faults_of_its_manifest_and_not_those_of_the_scenario(steady):
    run = steady(between(5, 8, 5.0), CRASH, world="live")
    assert run.recovery().empty
    found = run.recovery(window=1, faults=[(5.0, 8.0, "kill -9")])
    assert found["time"][0] == pytest.approx(7.9)
    run.manifest["faults"] = [[5.0, 8.0, "kill -9"]]
    assert run.recovery(window=1).equals(found)
    assert value_of(run, "recovery.time") == pytest.approx(7.8)


def test_it_is_measured_where_there_are_faults():
    assert "recovery.time" in default_metrics(Scenario.load("reconnect-storm"))
    assert "recovery.time" not in default_metrics(Scenario.load("reconnect-storm"), Scenario.load("office"))


def test_a_budget_of_it_is_in_seconds_or_a_duration(steady):
    run = steady(between(5, 8, 5.0), CRASH)
    for bound in ("10", "10s"):
        assert imsim.Budget(f"recovery.time < {bound}").fails(run) is None
        assert imsim.Budget(f"recovery.time > {bound}").fails(run).endswith(": it is 7.8 s")
    with pytest.raises(imsim.UsageError, match=r"recovery\.time < soon'.*expected a duration"):
        imsim.Budget("recovery.time < soon")


@pytest.mark.parametrize(
    ("wrong", "words"), [({"factor": 1}, "factor: expected"), ({"window": 0}, "window: expected a number of seconds")]
)
def test_bad_input(steady, wrong, words):
    with pytest.raises(imsim.UsageError, match=words):
        steady({}).recovery(**wrong)
