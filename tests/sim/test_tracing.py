"""Spans, which show where the time of deliveries goes: they are exact and do not change the rows."""

from __future__ import annotations

import pandas as pd
import pytest

import imsim
from imsim.results import digest
from imsim.scenario import Scenario, plan
from imsim.sim import Experiment, simulate

OFFICE = Scenario.load(
    "office", {"topology.routers": 3, "topology.storages": 2, "duration": "5s", "warmup": 0, "drain": "45s"}
)
LOSSY = {"latency": "20ms", "loss": 0.3, "retransmit": "200ms", "max_retransmits": 2}
CASES: dict[str, dict] = {
    "plain": {},
    "overload": {"topology.storage.workers": 1, "topology.storage.service.append": "60ms", "drain": "5s"},
    "several devices, several networks": {"population.devices": 2, "network.clients": {"3g": 1, "4g": 1, "wifi": 1}},
    "notify": {"policies.delivery": "notify", "population.devices": 2},
    "connections that break": {"network.client": LOSSY},
    "a late gap": {"network.client": LOSSY, "policies.gap_wait": "100ms", "policies.push_timeout": "300ms"},
    "storage that answers too late": {"policies.storage_timeout": "3ms", "drain": "90s"},
    "sends that are repeated": {"policies.send_timeout": "38ms", "policies.send_attempts": 50},
    "crash of all routers": {"faults": [{"kind": "node_crash", "at": "2s", "target": "router", "duration": "2s"}]},
    "the same, notified": {
        "policies.delivery": "notify",
        "faults": [{"kind": "node_crash", "at": "2s", "target": "router", "duration": "2s"}],
    },
    "crash of a gateway": {"faults": [{"kind": "node_crash", "at": "2s", "target": "gateway0", "duration": "2s"}]},
    "crash of a storage": {"faults": [{"kind": "node_crash", "at": "2s", "target": "storage0", "duration": "2s"}]},
    "partition": {"faults": [{"kind": "partition", "at": "2s", "target": "router0", "other": "router"}]},
    "batches": {"topology.gateway.batch_interval": "100ms", "workload.rate": 2.0},
    "stall": {"faults": [{"kind": "storage_stall", "at": "2s"}]},
    "slow readers": {
        "limits.send_queue": 2,
        "faults": [{"kind": "slow_reader", "at": "1s", "share": 0.5, "duration": "3s"}],
    },
    "reconnects, inboxes": {"policies.fanout": "write", "faults": [{"kind": "mass_reconnect", "at": "2s"}]},
}


def check(tables) -> pd.DataFrame:
    """Check that the spans are consecutive and exact, and return them with the column `ms`."""
    spans, deliveries = tables.spans.to_pandas(), tables.deliveries.to_pandas()
    due = deliveries[deliveries.delivered_at.notna()].merge(tables.messages.to_pandas()[["intent", "intended_at"]])
    key = ["intent", "recipient", "device"]
    ends = spans.groupby(key, observed=True).agg(start=("start", "first"), end=("end", "last"), n=("number", "last"))
    both = due.merge(ends.reset_index(), on=key, how="outer")
    assert (both.start == both.intended_at).all()
    assert (both.end == both.delivered_at).all()
    follows = spans.number > 0
    assert (spans.start[follows].to_numpy() == spans.end[follows.shift(-1, fill_value=False)].to_numpy()).all()
    assert (spans.number.diff()[follows] == 1).all()
    assert (spans.end > spans.start).all()
    spans["ms"] = (spans.end - spans.start) / 1e6
    return spans.astype({"kind": str, "where": str, "op": str})


def seconds(spans: pd.DataFrame, kind: str, where: str = "") -> float:
    return float(spans.ms[(spans.kind == kind) & spans["where"].str.startswith(where)].sum()) / 1000


@pytest.mark.parametrize("case", CASES)
def test_spans_are_exact_and_change_nothing(case):
    scenario = OFFICE.replace({"population.users": 60, "duration": "4s", **CASES[case]})
    plain, tables = simulate(scenario), simulate(scenario, spans=True)
    assert plain.spans is plain.nodes is None
    assert digest(tables) == digest(plain)
    assert len(check(tables)) > 700


@pytest.mark.parametrize(("preset", "seconds"), [("social", 2.0), ("hot-group", 0.3)])
def test_spans_of_presets_are_exact_and_change_nothing(preset, seconds):
    tables = simulate(Scenario.load(preset), duration=seconds, spans=True)
    assert digest(tables) == digest(simulate(Scenario.load(preset), duration=seconds))
    check(tables)


def test_spans_of_a_message_have_expected_parts():
    """All times are constant, and the messages do not meet."""
    scenario = Scenario().replace(
        {
            "network.client": {"latency": "10ms", "bandwidth": 20_000.0},
            "network.backend.latency": "1ms",
            "workload.rate": 0.01,
            "workload.size": 200,
            "duration": 20.0,
            "topology.gateway.service": {"send": "100us", "push": "200us"},
            "topology.router.service": {"send": "300us", "deliver": "50us"},
            "topology.storage.service": {"append": "2ms"},
        }
    )
    spans = check(simulate(scenario, spans=True))
    found = spans[spans.intent == 3]
    assert [(s.kind, s["where"], s.op, round(s.ms, 3)) for _, s in found.iterrows()] == [
        ("link", "uplink", "", 30.0),
        ("service", "gateway0", "send", 0.1),
        ("link", "gateway-router", "", 1.0),
        ("service", "router0", "send", 0.3),
        ("link", "router-storage", "", 1.0),
        ("service", "storage0", "append", 2.0),
        ("link", "storage-router", "", 1.0),
        ("service", "router0", "deliver", 0.1),
        ("link", "router-gateway", "", 1.0),
        ("service", "gateway0", "push", 0.2),
        ("link", "downlink", "", 30.0),
    ]


def test_each_problem_shows_in_its_kind_of_span():
    """Each problem adds time to one kind of span, compared with the run without problems."""
    usual = check(simulate(OFFICE, spans=True))

    def more(kind: str, where: str, **changes) -> float:
        return seconds(check(simulate(OFFICE.replace(changes), spans=True)), kind, where) - seconds(usual, kind, where)

    assert more("queue", "storage", **CASES["overload"]) > 20
    assert more("retransmit", "uplink", **{"network.client.loss": 0.2}) > 5
    assert more("link_queue", "uplink", **{"network.client.upload": 400.0}) > 5
    assert more("offline", "client", **CASES["crash of all routers"]) > 50
    assert more("retry", "client", **CASES["crash of a storage"]) > 50
    assert more("hold", "storage", **CASES["stall"]) > 5
    assert more("link", "router-storage", **{"network.links": {"router-storage": {"latency": "50ms"}}}) > 5


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_series_of_nodes_adds_up():
    scenario = OFFICE.replace({"topology.storage.workers": 2, "topology.storage.service": {"append": "30ms"}})
    run = imsim.simulate(scenario, spans=True)
    nodes = run.nodes
    assert list(nodes.groupby("node").size().unique()) == [100]
    assert nodes["at"].max() < 50e9
    assert nodes.busy.between(0, 1 + 1e-9).all()
    storage = nodes[nodes.tier == "storage"]
    assert storage.jobs.sum() == len(run.messages), (
        "only appends count, because the conversations were opened before the run"
    )
    assert (storage.busy.sum() * 2 * 0.5) == pytest.approx(0.03 * len(run.messages), rel=1e-6)
    # Little's law: the integral of the queue is the sum of the waits.
    once = run.spans[(run.spans.kind == "queue") & run.spans["where"].str.startswith("storage")]
    once = once.drop_duplicates("intent")
    assert storage.queue.sum() * 0.5 == pytest.approx((once.end - once.start).sum() / 1e9, rel=1e-6)
    table = run.utilisation()
    assert list(table.index) == ["gateway0", "gateway1", "router0", "router1", "router2", "storage0", "storage1"]
    assert (table.peak >= table.busy).all()


@pytest.mark.parametrize(
    ("tier", "fields"),
    [
        ("storage", {"queue": 1, "service": {"append": "40ms"}}),
        ("storage", {"queue": 2, "service": {"append": "1ms", "commit": "40ms"}, "commit": {"batch": 5}}),
        ("router", {"queue": 1, "service": {"send": "30ms"}}),
        ("gateway", {"queue": 1, "service": {"push": "30ms"}}),
    ],
)
def test_series_shows_when_and_where_jobs_were_dropped(tier, fields):
    burst = {"kind": "replay", "at": [3.0 + number / 100 for number in range(100)]}
    scenario = OFFICE.replace({"workload.arrivals": burst, f"topology.{tier}": fields})
    experiment = Experiment(scenario, plan(scenario), spans=True)
    experiment.run(scenario.duration)
    table = experiment.tables().nodes.to_pandas()
    drops = table.groupby("node").drops.sum().to_dict()
    assert drops == {node.name: node.work.station.drops for node in experiment.cluster.nodes.values()}
    assert set(table.tier[table.drops > 0]) == {tier}
    assert table["at"][table.drops > 0].min() == 3e9, "a job was dropped before the first message"


def busy_by_spans(run: imsim.Run, node: str, workers: int) -> float:
    """Return the share of the window in which the workers of a node served messages, computed from the spans."""
    since, until = run.scenario.warmup * 1e9, run.scenario.duration * 1e9
    in_service = run.spans[(run.spans["where"] == node) & (run.spans.kind == "service")].drop_duplicates("intent")
    inside = in_service.end.clip(since, until) - in_service.start.clip(since, until)
    return float(inside.sum()) / (until - since) / workers


@pytest.mark.parametrize("workers", [1, 2])
def test_utilisation_is_share_of_measured_window_only(workers):
    """The drain and the spans do not change it."""
    changes = {
        "duration": 10, "warmup": 2.5, "topology.storages": 1, "topology.storage.workers": workers,
        "topology.storage.service": {"append": {"kind": "exponential", "mean": "20ms"}},
    }  # fmt: skip
    runs = [
        imsim.simulate(OFFICE.replace(changes | {"drain": drain}), spans=spans)
        for drain in (20, 40)
        for spans in (False, True)
    ]
    tables = [run.utilisation() for run in runs]
    assert list(tables[0].columns) == ["tier", "busy", "waited_seconds", "jobs", "drops"]
    assert set(tables[1].columns) == {"tier", "busy", "waited_seconds", "jobs", "drops", "queue", "peak"}
    for table in tables[1:]:
        assert table.busy.equals(tables[0].busy)
        assert table.loc["storage0", ["jobs", "drops"]].equals(tables[0].loc["storage0", ["jobs", "drops"]])
    assert tables[1][tables[0].columns].equals(tables[0])
    assert tables[1].queue.equals(tables[3].queue)
    storage = tables[0].loc["storage0"]
    assert storage.busy == pytest.approx(busy_by_spans(runs[1], "storage0", workers), abs=1e-6)
    assert 0.1 < storage.busy < 1
    assert (storage.jobs, storage.drops) == (len(runs[0].messages), 0)


def test_queue_is_mean_of_measured_window():
    changes = {"duration": 20, "warmup": 5, "drain": 60, **CASES["overload"]}
    run = imsim.simulate(OFFICE.replace(changes), spans=True)
    waits = run.spans[(run.spans.kind == "queue") & (run.spans["where"] == "storage0")].drop_duplicates("intent")
    waited = (waits.end.clip(5e9, 20e9) - waits.start.clip(5e9, 20e9)).sum() / 15e9
    assert run.utilisation().queue["storage0"] == pytest.approx(waited, abs=1e-6)
    assert waited > 1


@pytest.mark.parametrize("spans", [False, True])
def test_utilisation_never_exceeds_one(spans):
    """After a crash, the accepted work of the node does not count."""
    overload = {"topology.storages": 1, "topology.storage.service": {"append": "400ms"}, "duration": 10, "drain": 50}
    overload["limits.longest_wait"] = "60s"
    full = imsim.simulate(OFFICE.replace({**overload, "warmup": 5}), spans=spans)
    assert full.utilisation().busy["storage0"] == 1.0
    crash = [{"kind": "node_crash", "target": "storage0", "at": 5, "duration": 2.5}]
    half = imsim.simulate(OFFICE.replace({**overload, "faults": crash}), spans=spans)
    assert half.utilisation().busy["storage0"] == pytest.approx(0.75, abs=0.06), "storage was down for 2.5 s of 10 s"
    if spans:
        nodes = half.nodes[half.nodes.node == "storage0"]
        assert nodes.busy.max() <= 1 + 1e-9
        assert nodes.busy[nodes["at"].between(6e9, 7e9)].max() == 0


def test_commit_counts_one_job_for_each_append():
    commit = {"commit": {"batch": 50, "linger": "200ms"}, "service": {"append": "1ms", "commit": "10ms"}}
    run = imsim.simulate(OFFICE.replace({"topology.storages": 1, "topology.storage": commit}), spans=True)
    assert run.utilisation().jobs["storage0"] == run.nodes[run.nodes.tier == "storage"].jobs.sum() == len(run.messages)


def test_live_run_has_no_utilisation():
    run = imsim.simulate(OFFICE)
    del run.manifest["utilisation"]
    with pytest.raises(imsim.UsageError, match="has no data about nodes: only simulated runs have"):
        run.utilisation()
