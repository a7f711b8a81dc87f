"""Faults of a scenario: their effect on the rows of runs."""

from __future__ import annotations

import numpy as np
import pytest

import imsim
from imsim.core import events, frames
from imsim.core.client.connection import State
from imsim.core.model import Code
from imsim.scenario import Scenario, plan
from imsim.sim import Experiment
from imsim.sim.nodes import DeviceNode

OFFICE = Scenario.load(
    "office",
    {
        "topology.routers": 3,
        "topology.gateways": 3,
        "topology.storages": 2,
        "duration": "12s",
        "warmup": 0,
        "drain": "60s",
    },
)

CASES = {
    "one gateway": {"kind": "node_crash", "target": "gateway0", "duration": "3s"},
    "all gateways": {"kind": "node_crash", "target": "gateway", "duration": "3s"},
    "one router": {"kind": "node_crash", "target": "router1", "duration": "3s"},
    "all routers": {"kind": "node_crash", "target": "router", "duration": "3s"},
    "a router, noticed when it is back": {"kind": "node_crash", "target": "router0", "duration": "1s", "detect": "9s"},
    "a storage": {"kind": "node_crash", "target": "storage0", "duration": "3s"},
    "a storage, noticed late": {"kind": "node_crash", "target": "storage", "duration": "3s", "detect": "2s"},
    "a gateway, noticed late": {"kind": "node_crash", "target": "gateway0", "duration": "4s", "detect": "2s"},
    "all gateways, noticed when they are back": {
        "kind": "node_crash",
        "target": "gateway",
        "duration": "3s",
        "detect": "9s",
    },
    "a gateway from a router": {"kind": "partition", "target": "gateway0", "other": "router1"},
    "a router from the others": {"kind": "partition", "target": "router0", "other": "router"},
    "a router from storage": {"kind": "partition", "target": "router0", "other": "storage"},
    "storage, noticed when it is over": {"kind": "partition", "target": "router", "other": "storage", "detect": "9s"},
    "bad networks": {"kind": "loss_burst", "share": 0.5, "loss": 0.6},
    "storage is stalled": {"kind": "storage_stall", "duration": "2s"},
    "slow readers": {"kind": "slow_reader", "share": 0.3, "duration": "6s"},
    "connections break": {"kind": "mass_reconnect", "share": 0.8},
}


def with_fault(scenario: Scenario = OFFICE, **fault) -> Scenario:
    return scenario.replace({"faults": [{"at": "5s", **fault}]})


def joined(run: imsim.Run):
    rows = run.deliveries.merge(run.messages[["intent", "intended_at", "conversation"]], on="intent")
    return rows.assign(seconds=(rows.delivered_at - rows.intended_at).astype(float) / 1e9)


@pytest.fixture(scope="module")
def calm() -> imsim.Run:
    return imsim.simulate(OFFICE)


@pytest.mark.parametrize("case", CASES)
def test_no_message_is_lost_after_fault(case, calm):
    scenario = with_fault(**CASES[case])
    run = imsim.simulate(scenario)
    assert (run.messages.outcome == "stored").all()
    assert (run.deliveries.outcome == "delivered").all()
    assert run.manifest["stray"] == 0
    # The workload is the same, and so are the deliveries that ended before the fault.
    rows, usual = joined(run), joined(calm)
    before = (rows.intended_at < 4.5e9) & (usual.delivered_at < 5e9)
    assert before.sum() > 100
    assert rows[before].equals(usual[before])
    assert rows.seconds.max() > usual.seconds.max()


@pytest.mark.parametrize("devices", [1, 2])
def test_no_message_is_lost_with_overlapping_faults(devices):
    faults = [
        {"kind": "node_crash", "at": "3s", "target": "router0", "duration": "4s"},
        {"kind": "partition", "at": "4s", "target": "router", "other": "gateway", "duration": "2s"},
        {"kind": "node_crash", "at": "5s", "target": "router1", "duration": "1s"},
        {"kind": "node_crash", "at": "5s", "target": "gateway", "duration": "1s"},
        {"kind": "loss_burst", "at": "2s", "loss": 0.3, "duration": "4s"},
        {"kind": "loss_burst", "at": "4s", "loss": 0.5, "duration": "4s"},
        {"kind": "storage_stall", "at": "4s", "duration": "2s"},
    ]
    scenario = OFFICE.replace({"faults": faults, "population.devices": devices, "drain": "120s"})
    run = imsim.simulate(scenario)
    assert (run.deliveries.outcome == "delivered").all()
    assert run.digest == imsim.simulate(scenario).digest


def test_stalled_storage_stores_nothing():
    run = imsim.simulate(with_fault(kind="storage_stall", duration="2s"))
    stored = run.messages.stored_at.to_numpy(float) / 1e9
    assert not ((stored > 5.1) & (stored < 7.0)).any()
    assert ((stored > 7.0) & (stored < 7.1)).sum() > 30, "the waiting messages are stored after the stall"


def test_crash_removes_requests_that_wait_at_stalled_storage():
    """The router has learned that its requests failed, so storage must not execute them later."""
    stall = {"kind": "storage_stall", "at": "5s", "duration": "4s"}
    crash = {"kind": "node_crash", "target": "storage", "at": "6s", "duration": "1s"}
    run = imsim.simulate(OFFICE.replace({"faults": [stall, crash]}))
    intended, stored = run.messages.intended_at / 1e9, run.messages.stored_at.to_numpy(float) / 1e9
    waiting = (intended > 5.1) & (intended < 5.9)
    assert waiting.sum() > 10
    assert (stored[waiting] > 9.5).all(), "stored at 9 s, at the end of the stall, instead of after a resend"


def test_stall_of_one_storage_delays_only_its_messages():
    run = imsim.simulate(with_fault(kind="storage_stall", target="storage1", duration="2s"))
    stored = run.messages.stored_at.to_numpy(float) / 1e9
    usual = imsim.simulate(OFFICE).messages.stored_at.to_numpy(float) / 1e9
    held = (usual > 5.1) & (usual < 6.9)
    assert 0.2 < (stored[held] > 7.0).mean() < 0.8


def test_crashed_router_stores_nothing():
    run = imsim.simulate(with_fault(kind="node_crash", target="router", duration="3s"))
    stored = run.messages.stored_at.to_numpy(float) / 1e9
    assert not ((stored > 5.1) & (stored < 8.0)).any()


def test_devices_of_crashed_gateway_move_to_next_gateway():
    run = imsim.simulate(with_fault(kind="node_crash", target="gateway0", duration="6s"))
    rows = joined(run)
    number = rows.recipient.str[1:].astype(int)
    hit = (number % 3 == 0) & (rows.intended_at > 6e9) & (rows.intended_at < 10e9)
    assert hit.sum() > 30
    assert rows[hit].seconds.median() < 0.2, "the devices waited for their gateway"


def run_with(scenario: Scenario) -> tuple[Experiment, list[tuple[float, int, events.ClientEvent]]]:
    """Return an experiment that has run, and its clients' events since the fault began: (time, device, event)."""
    experiment = Experiment(scenario, plan(scenario))
    seen: list[tuple[float, int, events.ClientEvent]] = []
    experiment.listeners.append(lambda client, event: seen.append((client.now, client.number, event)))
    experiment.run(scenario.duration)
    return experiment, [one for one in seen if one[0] >= 5.0]


def disconnected(seen) -> list[tuple[float, Code | None]]:
    return [(at, event.code) for at, _, event in seen if type(event) is events.Disconnected]


@pytest.mark.parametrize(
    ("kind", "target", "other"),
    [
        ("node_crash", "gateway", None),
        ("node_crash", "router", None),
        ("partition", "gateway", "router"),
    ],
)
def test_detection_time_changes_rows_only_until_fault_ends(kind, target, other):
    fault = {"kind": kind, "target": target, "duration": "2s", **({"other": other} if other else {})}
    digests = [imsim.simulate(with_fault(**fault, detect=detect)).digest for detect in ("0s", "1s", "2s", "9s")]
    assert len(set(digests[:3])) == 3
    assert digests[2] == digests[3]


@pytest.mark.parametrize(("detect", "when"), [("0s", 5.0), ("2s", 7.0), ("9s", 8.0)])
def test_clients_disconnect_when_crash_of_gateway_is_noticed_or_over(detect, when):
    fault = {"kind": "node_crash", "target": "gateway0", "duration": "3s", "detect": detect}
    experiment, seen = run_with(with_fault(**fault))
    lost = disconnected(seen)
    assert len(lost) == sum(client.number % 3 == 0 for client in experiment.clients.values())
    assert all(when < at < when + 0.3 for at, _ in lost)


@pytest.mark.parametrize("fault", ["one router", "a gateway from a router"])
def test_earlier_detection_does_not_delay_recovery(fault):
    latest = [
        joined(imsim.simulate(with_fault(**CASES[fault] | {"duration": "5s", "detect": detect}))).seconds.max()
        for detect in ("0s", "1s", "5s")
    ]
    assert max(latest) < 6
    assert max(latest[:2]) < latest[2] + 0.2


def test_new_connections_go_to_crashed_gateway_until_crash_is_noticed():
    fault = {"kind": "node_crash", "target": "gateway0", "duration": "4s", "detect": "2s"}
    scenario = with_fault(**fault)
    experiment = Experiment(scenario, plan(scenario))
    experiment.log_in()
    experiment.faults.schedule()
    client = experiment.clients[0]
    experiment.clock.run(until=5.5)
    client.break_connection()
    experiment.clock.run(until=6.9)
    assert client.connection.gateway is experiment.cluster.gateways[0]
    assert client.machine.state == State.CONNECTING
    experiment.clock.run(until=8.9)
    assert client.connection.gateway is experiment.cluster.gateways[1]
    assert client.machine.state == State.ONLINE


def test_heartbeat_detects_silent_host():
    policies = {"policies.heartbeat": "1s", "policies.heartbeat_timeout": "3s"}
    fault = {"kind": "node_crash", "target": "gateway0", "duration": "30s", "detect": "20s"}
    experiment, seen = run_with(with_fault(OFFICE.replace(policies), **fault))
    first = {}
    for at, device, event in seen:
        if type(event) is events.Disconnected:
            first.setdefault(device, (at, event.code))
    assert first.keys() == {number for number in experiment.clients if number % 3 == 0}
    assert {code for _, code in first.values()} == {Code.HEARTBEAT}
    assert all(7.0 < at < 9.1 for at, _ in first.values())
    attempts = experiment.tables().messages.column("attempts").to_numpy()
    assert attempts.max() > 1, "no message was sent again"


def test_storage_requests_wait_until_crash_is_noticed_and_then_fail(monkeypatch):
    rejected = []
    from_gateway = DeviceNode.from_gateway

    def watch(self, frame):
        if isinstance(frame, frames.Rejected):
            rejected.append((self.clock.now, frame.code))
        from_gateway(self, frame)

    monkeypatch.setattr(DeviceNode, "from_gateway", watch)
    for fault in (
        {"kind": "node_crash", "target": "storage"},
        {"kind": "partition", "target": "router", "other": "storage"},
    ):
        rejected.clear()
        run = imsim.simulate(with_fault(**fault, duration="3s", detect="1s"))
        times = np.array([at for at, code in rejected if code == Code.UNAVAILABLE])
        assert times.min() > 6.0
        assert (times < 6.2).sum() > 20, "the waiting requests did not fail when the crash was noticed"
        assert ((times > 6.2) & (times < 8.0)).sum() > 20, "requests after that did not fail"
        assert times.max() < 8.2, "requests failed after storage was back"
        assert (run.deliveries.outcome == "delivered").all()
        assert joined(run).seconds.max() < 1 + OFFICE.policies.send_timeout + 3


def test_storage_is_back_after_all_overlapping_faults():
    faults = [
        {"kind": "node_crash", "target": "storage", "at": "5s", "duration": "1s"},
        {"kind": "partition", "target": "router", "other": "storage", "at": "5.5s", "duration": "2s", "detect": 0},
        {"kind": "node_crash", "target": "router1", "at": "6s", "duration": "0.5s"},
    ]
    run = imsim.simulate(OFFICE.replace({"faults": faults}))
    stored = run.messages.stored_at.to_numpy(float) / 1e9
    assert not ((stored > 5.01) & (stored < 7.5)).any()
    assert ((stored > 7.5) & (stored < 8)).sum() > 10
    assert (run.deliveries.outcome == "delivered").all()


def test_fault_affects_only_its_share_of_users():
    fault = {"kind": "loss_burst", "share": 0.4, "loss": 0.8, "duration": "3s"}
    scenario = with_fault(**fault)
    experiment = Experiment(scenario, plan(scenario))
    experiment.faults.schedule()
    experiment.clock.run(until=5.5)
    assert np.mean([client.loss == 0.8 for client in experiment.clients.values()]) == pytest.approx(0.4, abs=0.2)
    experiment.clock.run(until=8.5)
    assert all(client.loss == client.network.fields.loss for client in experiment.clients.values())


def test_slow_reader_is_disconnected_and_receives_rest_by_sync(monkeypatch):
    refused = []
    from_gateway = DeviceNode.from_gateway

    def watch(self, frame):
        if isinstance(frame, frames.Refused):
            refused.append(frame.code)
        from_gateway(self, frame)

    monkeypatch.setattr(DeviceNode, "from_gateway", watch)
    busy = OFFICE.replace({"limits.send_queue": 3, "workload.rate": 1.0})
    run = imsim.simulate(with_fault(busy, kind="slow_reader", share=0.3, duration="6s"))
    assert refused.count(Code.SLOW_READER) > 10
    assert (run.deliveries.route == "sync").sum() > 50
    assert (run.deliveries.outcome == "delivered").all()


def test_fault_without_affected_users_changes_nothing(calm):
    fault = {"kind": "mass_reconnect", "at": "2s", "share": 1e-9}
    assert imsim.simulate(OFFICE.replace({"faults": [fault]})).digest == calm.digest


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (
            {"kind": "node_crash", "target": "router9"},
            "faults.0.target: there is no router9 (did you mean 'router'?); known here: gateway, router, storage, ",
        ),
        (
            {"kind": "partition", "target": "gateway", "other": "storage"},
            "faults.0.other: expected a tier or node that",
        ),
        (
            {"kind": "partition", "target": "router0", "other": "router0"},
            "faults.0.other: expected a tier or node that",
        ),
        ({"kind": "storage_stall", "target": "router0"}, "faults.0.target: there is no router0; known here: storage, "),
        ({"kind": "crash"}, "faults.0.kind: expected a kind of node_crash, partition, loss_burst, storage_stall, "),
        ({"target": "router0"}, "faults.0: expected a kind of node_crash, "),
        ({"kind": "loss_burst", "share": 2}, "faults.0.share: expected at most 1, got 2"),
        ({"kind": "node_crash", "tagret": "router0", "target": "router0"}, "faults.0.tagret: unknown field (did you"),
    ],
)
def test_wrong_field_is_reported_in_one_line(fault, problem):
    with pytest.raises(imsim.UsageError) as error:
        with_fault(**fault)
    assert problem in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_faults_are_written_and_can_be_changed_by_number():
    scenario = with_fault(**CASES["one router"])
    assert Scenario.from_toml(scenario.to_toml()).faults == scenario.faults
    assert scenario.replace({"faults.0.duration": "7s"}).faults[0].duration == 7.0
    assert scenario.faults[0].duration == 3.0
    with pytest.raises(imsim.UsageError, match="there is no entry 1; the list has 1"):
        scenario.replace({"faults.1.duration": "7s"})


def test_live_server_lists_faults_as_ignored():
    assert "faults" in OFFICE.ignored_live()
