from __future__ import annotations

import pytest

import imsim
from imsim.analysis.breakdown import counted_spans
from imsim.analysis.latency import counted_deliveries, delivery_latencies


@pytest.fixture(scope="module")
def run() -> imsim.Run:
    scenario = imsim.Scenario.load("office", {"duration": "6s", "faults": [{"kind": "storage_stall", "at": "2s"}]})
    return imsim.simulate(scenario, spans=True)


@pytest.mark.parametrize("by", ["where", "node", "op", "policy"])
def test_means_of_spans_add_up_to_mean_latency(run, by):
    table = run.breakdown(by)
    assert table["mean"].sum() == pytest.approx(delivery_latencies(run).mean(), rel=1e-12)
    assert table["share"].sum() == pytest.approx(1)
    assert (table["mean"].diff().dropna() <= 0).all()
    assert (table.p50 <= table.p99).all()
    assert (table.p99 <= table["max"]).all()
    names = {"op": ["kind", "where", "op"], "policy": ["kind", "policy"]}
    assert table.index.names == names.get(by, ["kind", "where"])


@pytest.mark.parametrize(("preset", "duration", "users"), [("mobile", "15s", 200), ("night-sync", "33s", 80)])
def test_breakdown_adds_up_to_summary_when_devices_go_offline(preset, duration, users):
    run = imsim.simulate(imsim.Scenario.load(preset, {"duration": duration, "population.users": users}), spans=True)
    summary = run.summary().loc["delivery"]
    assert summary["lost"] == 0
    assert round(run.breakdown()["mean"].sum(), 6) == summary["mean"]
    spans, count = counted_spans(run)
    rows = counted_deliveries(run)
    summed = (spans["end"] - spans["start"]).groupby(spans["delivery"]).sum().reindex(range(count), fill_value=0)
    assert summed.tolist() == (rows["delivered_at"] - rows["since"])[rows["delivered_at"].notna()].tolist()
    assert run.breakdown()["share"].get(("disconnected", "client"), 0) < 0.1


def test_breakdown_separates_broken_connection_from_device_that_left():
    storm = {"duration": "4s", "faults": [{"kind": "mass_reconnect", "at": "2s"}]}
    kinds = imsim.simulate(imsim.Scenario.load("office", storm), spans=True).breakdown().index.get_level_values("kind")
    assert "disconnected" in kinds
    assert "left" not in kinds
    leaving = {"duration": "8s", "population.sessions": {"online": "2s", "offline": "2s"}, "workload.rate": 1}
    gone = imsim.simulate(imsim.Scenario.load("office", leaving), spans=True)
    assert gone.breakdown().loc[("left", "client"), "max"] > 1900


def test_breakdown_shows_wait_of_storage_stall(run):
    table = run.breakdown()
    assert table.loc[("hold", "storage"), "p99"] > 500
    assert table.loc[("hold", "storage"), "p50"] == 0


def longest(policy, fault=None, **changes):
    """Return the longest wait (ms) of each kind that this policy sets."""
    faults = [] if fault is None else [{"at": "2s", "duration": "2s", **fault}]
    scenario = imsim.Scenario.load("office", {"duration": "6s", "drain": "40s", "faults": faults, **changes})
    table = imsim.simulate(scenario, spans=True).breakdown("policy").reset_index()
    rows = table[table["policy"] == f"policies.{policy}"]
    return dict(zip(rows["kind"], rows["max"].round(6), strict=True))


def test_breakdown_by_policy_names_policy_that_sets_wait():
    storage = {"kind": "node_crash", "target": "storage0"}
    assert longest("send_timeout", storage, **{"policies.send_timeout": "2500ms"})["retry"] % 2500 == 0
    gateway = {"kind": "node_crash", "target": "gateway"}
    assert longest("reconnect_min", gateway)["disconnected"] > 1000
    silent = {"kind": "node_crash", "target": "gateway", "detect": "1s"}
    found = longest("reconnect_min", silent, **{"policies.send_timeout": "20s"})
    assert 1000 < found["retry"] < 20_000, "sent again by the next connection"
    full = {"topology.gateway": {"workers": 1, "queue": 1, "service": {"push": "5ms"}}, "workload.rate": 2.0}
    pushed = longest("push_timeout", **full, **{"policies.push_timeout": "500ms"})["retry"]
    assert pushed in [500 * (2**times - 1) for times in range(1, 10)], "each push waits twice as long as the one before"
    patient = {"policies.push_timeout": "20s", "policies.gap_wait": "1s"}
    assert 1000 <= longest("gap_wait", **full, **patient)["hold"] < 2000, "and the answer takes its time"
    assert longest("send_timeout") == {}


def test_spans_are_kept_in_run_folder(run, tmp_path):
    again = imsim.read_run(run.write(tmp_path), verify=True)
    assert again.breakdown().equals(run.breakdown())
    assert again.nodes.equals(run.nodes)


def test_run_without_spans_says_how_to_record_them():
    run = imsim.simulate("office", duration=1)
    for ask in (run.breakdown, run.plot.breakdown, run.plot.nodes, lambda: run.nodes):
        with pytest.raises(imsim.UsageError, match=r"has no spans: record them with simulate\(..., spans=True\)"):
            ask()


def test_breakdown_refuses_unknown_grouping(run):
    with pytest.raises(imsim.UsageError, match="by: expected"):
        run.breakdown("colour")
