"""Contradictions between fields are refused, with both fields and the remedy. Odd values only lead to a warning."""

from __future__ import annotations

import re

import pytest

import imsim
from imsim.scenario import CustomDistribution, Scenario

OFFICE = Scenario.load("office")
STALL = {"kind": "storage_stall", "at": "3s", "duration": "2s"}
CRASH = {"kind": "node_crash", "target": "router", "duration": 2}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"topology.router": {"workers": 4, "queue": 3}},
            "topology.router.queue: expected at least workers (4), because operations in service count, too, got 3;"
            " raise queue or lower workers",
        ),
        (
            {"topology.storage.commit": {"linger": "20s"}},
            "topology.storage.commit.linger: expected less than policies.storage_timeout (10 s), which would always"
            " expire first, got 20 s; lower this value or raise policies.storage_timeout",
        ),
        (
            {"topology.gateway.batch_interval": 1, "policies.push_timeout": 1},
            "topology.gateway.batch_interval: expected less than policies.push_timeout (1 s), which would always"
            " expire first, got 1 s; lower this value or raise policies.push_timeout",
        ),
        (
            {"faults": [STALL, STALL | {"at": "1h"}]},
            "faults.1.at: expected less than duration (10 s), because no messages are sent after it, got 3600 s; raise"
            " duration or remove the fault",
        ),
        (
            {"faults": [CRASH | {"at": 4, "target": "router1"}, CRASH | {"at": 2}]},
            "faults.0.at: expected more than 4 s, because router1 is down until then (faults.1), got 4 s; let it"
            " restart before it crashes again, or use a single, longer crash",
        ),
        (
            {"workload.arrivals": [1, 10, 12.5]},
            "workload.arrivals: expected moments before duration (10 s), but 2 of 3 are not (the last is at 12.5 s);"
            " raise duration or remove them",
        ),
    ],
)
def test_contradiction_between_fields_is_refused(changes, problem):
    with pytest.raises(imsim.UsageError, match=re.escape(f"scenario office: {problem}") + "$"):
        OFFICE.replace(changes)


def test_values_just_within_their_bounds_are_accepted():
    OFFICE.replace(
        {
            "topology.router": {"workers": 4, "queue": 4},
            "topology.storage.commit": {"linger": "9.9s"},
            "topology.gateway.batch_interval": "1.9s",
            "faults": [STALL | {"at": "9.9s"}],
            "workload.arrivals": [9.9],
        }
    )


@pytest.mark.parametrize("preset", Scenario.presets())
def test_presets_have_no_oddities(preset):
    assert Scenario.load(preset).oddities() == []


def test_timeout_shorter_than_round_trip_is_reported():
    slow = OFFICE.replace({"network.clients": {"wifi": 1, "3g": 1, "4g": 0}, "policies.send_timeout": "200ms"})
    (line,) = slow.oddities()
    assert line.startswith("policies.send_timeout (200ms) is shorter than the median round trip over network.clients.")
    assert "network.clients.3g (301ms): most sends are repeated" in line
    own = OFFICE.replace({"network.client.latency": "30ms", "policies.push_timeout": "50ms"})
    (line,) = own.oddities()
    assert line.startswith(
        "policies.push_timeout (50ms) is shorter than the median round trip over network.client (60ms)"
    )
    run = imsim.simulate(own, duration=1)
    assert run.warnings == [line]
    assert run.to_json_dict()["warnings"] == [line]


@pytest.mark.parametrize(
    ("drain", "problem"), [("5s", "ends at 12 s, when no messages"), ("1s", "ends at 12 s, after")]
)
def test_fault_that_ends_after_last_message_is_reported(drain, problem):
    scenario = OFFICE.replace({"faults": [STALL, STALL | {"at": "9s", "duration": "3s"}], "drain": drain})
    (line,) = scenario.oddities()
    assert line.startswith(f"faults.1 {problem}")


class Steady(CustomDistribution):
    seconds: float

    def quantile(self, u):
        return self.seconds


def test_opened_run_reports_only_oddities_that_need_no_custom_part(tmp_path):
    scenario = OFFICE.replace({"network.client.latency": Steady(seconds=9.0), "duration": 2, "drain": "60s"})
    run = imsim.simulate(scenario)
    assert len(run.warnings) == 2
    assert imsim.read_run(run.write(tmp_path)).warnings == []


# --- another duration ------------------------------------------------------------------------------------------------


def test_shorter_duration_removes_later_faults_and_moments_and_warns():
    whole = OFFICE.replace(
        {"faults": [STALL, STALL | {"at": "1s"}], "workload.arrivals": [0.5, 1.5, 2.5], "warmup": "2s"}
    )
    run = imsim.simulate(whole, duration="2s")
    short = run.scenario
    assert (short.duration, short.warmup, len(short.faults), short.faults[0].at) == (2.0, 0.0, 1, 1.0)
    assert run.messages.intended_at.tolist() == [500_000_000, 1_500_000_000]
    why = "they would come after the end of the requested duration (2 s)"
    assert run.warnings[:2] == [
        f"1 of 2 faults are left out: {why}",
        f"1 of 3 moments of the replay are left out: {why}",
    ]
    assert whole.left_out(short, live=True) == run.warnings[1:2]
    assert OFFICE.left_out(OFFICE.lasting("5s")) == []
    with (
        pytest.warns(UserWarning, match="1 of 2 faults are left out"),
        pytest.warns(UserWarning, match="1 of 3 moments"),
    ):
        imsim.replicate(whole, duration="2s", replications=2, jobs=1)


def test_longer_duration_keeps_faults_moments_and_warmup():
    whole = OFFICE.replace({"faults": [STALL], "workload.arrivals": [0.5, 1.5], "warmup": "2s"})
    assert whole.lasting(60) == whole.replace({"duration": 60})


def test_duration_before_first_replayed_moment_is_refused():
    with pytest.raises(
        imsim.UsageError,
        match=r"workload.arrivals: expected a moment before duration \(1 s\), but the first is at 1.5 s",
    ):
        OFFICE.replace({"workload.arrivals": [1.5]}).lasting(1)
