"""Fields that contradict each other are refused, with both of them and the remedy; what is only odd is said."""

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
            "topology.router.queue: expected at least workers (4), as what is in service counts, too, got 3; raise it,"
            " or have fewer workers",
        ),
        (
            {"topology.storage.commit": {"linger": "20s"}},
            "topology.storage.commit.linger: expected less than policies.storage_timeout (10 s), which would always be"
            " over first, got 20 s; lower the one or raise the other",
        ),
        (
            {"topology.gateway.batch_interval": 1, "policies.push_timeout": 1},
            "topology.gateway.batch_interval: expected less than policies.push_timeout (1 s), which would always be"
            " over first, got 1 s; lower the one or raise the other",
        ),
        (
            {"faults": [STALL, STALL | {"at": "1h"}]},
            "faults.1.at: expected less than duration (10 s), after which nobody sends, got 3600 s; raise duration, or"
            " leave the fault out",
        ),
        (
            {"faults": [CRASH | {"at": 4, "target": "router1"}, CRASH | {"at": 2}]},
            "faults.0.at: expected more than 4 s, until when faults.1 has router1 away, got 4 s; make it one crash, or"
            " have it come back in between",
        ),
        (
            {"workload.arrivals": [1, 10, 12.5]},
            "workload.arrivals: expected moments before duration (10 s), got 2 of 3 from then on, the last at 12.5 s;"
            " raise duration, or leave them out",
        ),
    ],
)
def test_a_contradiction_is_refused(changes, problem):
    with pytest.raises(imsim.UsageError, match=re.escape(f"scenario office: {problem}") + "$"):
        OFFICE.replace(changes)


def test_what_is_just_within_is_a_scenario():
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
def test_no_preset_is_odd(preset):
    assert Scenario.load(preset).oddities() == []


def test_a_timeout_shorter_than_the_network_is_said():
    slow = OFFICE.replace({"network.clients": {"wifi": 1, "3g": 1, "4g": 0}, "policies.send_timeout": "200ms"})
    (line,) = slow.oddities()
    assert line.startswith("policies.send_timeout (200ms) is shorter than the usual way there and back over network.cl")
    assert "network.clients.3g (301ms): most is sent again" in line
    own = OFFICE.replace({"network.client.latency": "30ms", "policies.push_timeout": "50ms"})
    (line,) = own.oddities()
    assert line.startswith(
        "policies.push_timeout (50ms) is shorter than the usual way there and back over network.client"
    )
    run = imsim.simulate(own, duration=1)
    assert run.warnings == [line]
    assert run.to_json_dict()["warnings"] == [line]


@pytest.mark.parametrize(
    ("drain", "problem"), [("5s", "is over at 12 s, when nobody"), ("1s", "is over at 12 s, after")]
)
def test_a_fault_that_outlasts_the_messages_is_said(drain, problem):
    scenario = OFFICE.replace({"faults": [STALL, STALL | {"at": "9s", "duration": "3s"}], "drain": drain})
    (line,) = scenario.oddities()
    assert line.startswith(f"faults.1 {problem}")


class Steady(CustomDistribution):
    seconds: float

    def quantile(self, u):
        return self.seconds


def test_a_run_that_was_read_back_says_what_can_be_known_without_the_custom_part(tmp_path):
    scenario = OFFICE.replace({"network.client.latency": Steady(seconds=9.0), "duration": 2, "drain": "60s"})
    run = imsim.simulate(scenario)
    assert len(run.warnings) == 2
    assert imsim.read_run(run.write(tmp_path)).warnings == []


# --- another duration ------------------------------------------------------------------------------------------------


def test_a_shorter_duration_leaves_out_what_comes_after_it_and_says_so():
    whole = OFFICE.replace(
        {"faults": [STALL, STALL | {"at": "1s"}], "workload.arrivals": [0.5, 1.5, 2.5], "warmup": "2s"}
    )
    run = imsim.simulate(whole, duration="2s")
    short = run.scenario
    assert (short.duration, short.warmup, len(short.faults), short.faults[0].at) == (2.0, 0.0, 1, 1.0)
    assert run.messages.intended_at.tolist() == [500_000_000, 1_500_000_000]
    until = "are left out: only the others come before the end of the duration that was asked for (2 s)"
    assert run.warnings[:2] == [f"1 of 2 faults {until}", f"1 of 3 moments of the replay {until}"]
    assert whole.left_out(short, live=True) == run.warnings[1:2]
    assert OFFICE.left_out(OFFICE.lasting("5s")) == []
    with (
        pytest.warns(UserWarning, match="1 of 2 faults are left out"),
        pytest.warns(UserWarning, match="1 of 3 moments"),
    ):
        imsim.replicate(whole, duration="2s", replications=2, jobs=1)


def test_a_longer_duration_has_all_that_there_was():
    whole = OFFICE.replace({"faults": [STALL], "workload.arrivals": [0.5, 1.5], "warmup": "2s"})
    assert whole.lasting(60) == whole.replace({"duration": 60})


def test_a_duration_without_any_message_is_refused():
    with pytest.raises(
        imsim.UsageError, match=r"workload.arrivals: expected a moment before duration \(1 s\), got the f"
    ):
        OFFICE.replace({"workload.arrivals": [1.5]}).lasting(1)
