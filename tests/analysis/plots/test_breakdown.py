from __future__ import annotations

import pytest
from matplotlib.figure import Figure

import imsim
from imsim.analysis.latency import delivery_latencies


@pytest.fixture(scope="module")
def run() -> imsim.Run:
    return imsim.simulate(imsim.Scenario.load("night-sync", {"population.users": 80}), duration=31, spans=True)


def test_breakdown_picture_shows_all_stages(run):
    ax = run.plot.breakdown(Figure().add_subplot())
    widths = {}
    for bar in ax.patches:
        widths[round(bar.get_y(), 3)] = widths.get(round(bar.get_y(), 3), 0.0) + bar.get_width()
    assert list(widths.values()) == pytest.approx([1.0, 1.0, 1.0])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["slowest 1 %", "middle half", "all"]
    mean = delivery_latencies(run).mean()
    assert f"{mean:.3g} ms" in [text.get_text().strip() for text in ax.texts]


def test_slowest_deliveries_match_summary(run):
    """The slowest by latency, not by time offline."""
    ax = run.plot.breakdown(Figure().add_subplot())
    shown = [text.get_text().strip() for text in ax.texts]
    slowest = delivery_latencies(run)
    slowest = slowest[-(len(slowest) // 100) :].mean()
    assert shown[0] == f"{slowest:.3g} ms"
    assert "not connected" not in [text.get_text() for text in ax.get_legend().get_texts()]
