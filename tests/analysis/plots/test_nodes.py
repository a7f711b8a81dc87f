from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

import imsim


@pytest.fixture
def axes():
    return tuple(Figure().subplots(2, sharex=True))


def test_each_node_has_own_line(axes):
    run = imsim.simulate("office", duration=2, spans=True)
    upper, lower = run.plot.nodes(axes)
    lines = {line.get_label(): line for line in upper.lines if line.get_drawstyle() == "steps-post"}
    assert list(lines) == ["gateway0", "gateway1", "router0", "router1", "storage0"]
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines.values()}) == 5
    assert upper.get_ylim() == (0, 1.05)
    assert lower.get_ylim() == (0, 1)
    busy = run.nodes[run.nodes.node == "storage0"].busy
    assert lines["storage0"].get_ydata().tolist() == busy.tolist()
    assert {*lines} <= {text.get_text() for text in lower.get_legend().get_texts()}


def test_waiting_and_dropped_jobs_are_drawn(axes):
    full = {"topology.storage.workers": 1, "topology.storage.queue": 3, "topology.storage.service.append": "100ms"}
    run = imsim.simulate(imsim.Scenario.load("office", full), duration=3, spans=True)
    _, lower = run.plot.nodes(axes)
    waiting = max(np.max(line.get_ydata()) for line in lower.lines if line.get_drawstyle() == "steps-post")
    assert waiting == run.nodes.queue.max() > 1
    crosses = next(line for line in lower.lines if "dropped" in str(line.get_label()))
    assert crosses.get_label() == f"jobs were dropped ({run.nodes.drops.sum():,} in all)"
    assert len(crosses.get_xdata()) == (run.nodes.drops > 0).sum()


def test_many_nodes_are_named_by_tier(axes):
    run = imsim.simulate(imsim.Scenario.load("office", {"topology.gateways": 11}), duration=1, spans=True)
    upper, _ = run.plot.nodes(axes)
    assert upper.get_legend_handles_labels()[1] == ["gateway (each of 11)", "router (each of 2)", "storage (each of 1)"]
