"""The public API, and the behaviour that simulated and live runs must share."""

from __future__ import annotations

import io
import sys

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mixed_workload import SCENARIO

import imsim
from imsim.analysis.kinds import UTILISATIONS, WAITS
from imsim.api import ProgressBar

#: A busy machine delays the load generator, and a warning then says how much.
pytestmark = pytest.mark.filterwarnings("ignore:.*the generator:UserWarning")

#: A scenario with a ramp, skews, sizes, chatrooms, and devices that go offline.
BUSY = SCENARIO.replace(
    {
        "population.sessions": {"online": {"kind": "exponential", "mean": "1s"}, "offline": "600ms"},
        "duration": 4.0,
        "conversations.partner_skew": 1.0,
        "conversations.group_skew": 1.0,
        "workload.rate": 5.0,
        "workload.recalls": 0.0,
        "workload.edits": 0.0,
        "workload.sizes.image": 200_000,
        "workload.activity": {"kind": "pareto", "minimum": 1, "alpha": 1.5},
        "workload.arrivals": {"kind": "ramp", "start": 0, "end": 1, "over": "2s"},
    }
)


@pytest.fixture(scope="module")
def live():
    with imsim.serve(BUSY) as server:
        return imsim.loadtest(BUSY, server.url)


@pytest.fixture(scope="module")
def simulated():
    return imsim.simulate(BUSY)


def test_same_seed_gives_same_messages_in_both_worlds(simulated, live):
    for column in ("intent", "sender", "device", "conversation", "scene", "type", "size", "intended_at"):
        assert simulated.messages[column].equals(live.messages[column]), column
    for column in ("intent", "recipient", "device", "role"):
        assert simulated.deliveries[column].equals(live.deliveries[column]), column
    assert len(live.messages) > 150
    assert not {"locust", "gevent"} & set(sys.modules), "a load test must not patch its caller's process"


def test_both_worlds_carry_out_whole_plan(simulated, live):
    for run in (simulated, live):
        assert set(run.deliveries.outcome) == {"delivered", "absent"}
        assert set(run.deliveries.route.dropna()) == {"push", "sync"}
        assert run.manifest["stray"] == 0
        assert run.summary().loc["delivery", "p50"] > 0
    assert simulated.summary().loc["delivery", "p50"] < 500
    assert not [warning for warning in live.manifest["warnings"] if "offline" in warning]


def test_times_follow_order_of_protocol():
    run = imsim.simulate("office", duration=4)
    messages, deliveries = run.messages, run.deliveries.join(run.messages.stored_at, on="intent")
    assert (messages.intended_at <= messages.sent_at).all()
    assert (messages.sent_at < messages.stored_at).all()
    assert (messages.stored_at < messages.acked_at).all()
    assert (deliveries.stored_at <= deliveries.pushed_at).all()
    assert (deliveries.pushed_at < deliveries.delivered_at).all()


def test_preset_name_equals_its_scenario():
    assert (
        imsim.simulate("office", duration=1).digest == imsim.simulate(imsim.Scenario.load("office"), duration=1).digest
    )


def test_run_holds_scenario_that_was_run():
    run = imsim.simulate("office", seed=9, duration=0.5)
    assert (run.seed, run.scenario.seed, run.scenario.duration, run.scenario.warmup) == (9, 9, 0.5, 0.0)
    assert imsim.simulate(run.scenario).digest == run.digest


def test_all_functions_measure_same_metrics():
    """The default metrics are the same for every function."""
    office = imsim.Scenario.load("office").replace(
        {"warmup": 0.0, "duration": 0.5, "population.users": 20, "cost.router": 0.1}
    )
    many = {"jobs": 1, "metrics": ["delivery.p99.9"]}
    alone = imsim.replicate(office, replications=2, **many)
    assert {"ack.p50", "last.mean", "delivery.max", "messages", "shed", "cost.per_hour"} < set(alone.metrics)
    pair = imsim.compare(office, office.replace({"topology.routers": 4}), replications=2, **many)
    sweep = imsim.sweep(office, {"topology.routers": [2, 4]}, replications=2, **many)
    capacity = imsim.capacity(office, "delivery.p99 < 9s", high=0.3, **many)
    assert set(pair.differences) == set(sweep.metrics) == set(alone.metrics)
    assert {metric for one in capacity.tried.values() for metric in one.metrics} == {
        *alone.metrics,
        *UTILISATIONS,
        *WAITS,
    }
    for frame in (sweep.frame, capacity.frame):
        assert set(alone.metrics) < set(frame.columns)
        assert frame["ack.p50"].notna().all()
    assert sweep.frame["ack.p50"][0] == alone["ack.p50"].value
    assert list(sweep.summary().columns) == [
        "topology.routers",
        "delivery.p50",
        "delivery.p95",
        "delivery.p99",
        "ack.p99",
        "lost",
        "cost.per_hour",
        "cost.per_million",
        "cost.per_month",
        "delivery.p99.9",
        "replications",
    ]


def test_runs_are_summarized_and_drawn(simulated, live, tmp_path):
    table = imsim.summarize([simulated, live])
    assert list(table.index) == ["sim", "live"]
    ax = Figure().subplots()
    assert imsim.plot_cdf([simulated, live], ax=ax) is ax
    assert isinstance(ax, Axes)
    assert imsim.save_cdf([simulated, live], tmp_path / "cdf.png").exists()


def test_out_makes_a_folder(tmp_path):
    run = imsim.simulate("office", duration=0.5, out=tmp_path)
    assert run.path.parent == tmp_path
    assert imsim.read_run(run.path).digest == run.digest


def test_duration_takes_text_or_seconds():
    assert imsim.simulate("office", duration="500ms").digest == imsim.simulate("office", duration=0.5).digest


def test_wrong_value_names_argument():
    wrong = [
        (lambda: imsim.simulate("office", duration=0), "duration"),
        (lambda: imsim.simulate("office", duration=[1]), "duration"),
        (lambda: imsim.simulate("office", seed="one"), "seed"),
        (lambda: imsim.simulate(8765), r"scenario: expected a Scenario, .* \(got 8765\)"),
        (lambda: imsim.simulate("office", out=5), r"out: expected a path \(got 5\)"),
        (lambda: imsim.serve("ofice"), "ofice"),
        (lambda: imsim.serve("office", port="8765"), r"port: expected a whole number .*got '8765'"),
        (lambda: imsim.serve("office", host=None), "host: expected a text"),
        (lambda: imsim.loadtest("office", "127.0.0.1:80"), "url"),
        (lambda: imsim.loadtest("office", 8765), r"url: expected the server's address, .* \(got 8765\)"),
        (lambda: imsim.capacity("office", 200), r"budget: expected a Budget .*got 200"),
        (lambda: imsim.capacity("office", "lost <= 0", over=3), "over: expected a dotted path"),
        (lambda: imsim.capacity("office", "lost <= 0", tolerance="5%"), "tolerance: expected a share"),
        (lambda: imsim.capacity("office", "lost <= 0", low=3, high=1), "low: must not exceed high"),
        (lambda: imsim.sweep("office", 5), "over: expected a mapping"),
        (lambda: imsim.sweep("office", {"topology.routers": {1, 2}}), "topology.routers: expected a list"),
        (lambda: imsim.read_run(5), "read_run: expected the path"),
    ]
    for call, words in wrong:
        with pytest.raises(imsim.UsageError, match=words):
            call()


def test_progress_bar_shows_activity_and_share(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    with ProgressBar(True) as bar:
        bar.show("1 of 6 runs", 0.5)
        assert str(bar._bar).startswith("1 of 6 runs:  50% |")
