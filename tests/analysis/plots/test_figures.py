from __future__ import annotations

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

import imsim
from imsim.analysis import plots

SHORT = {"duration": "1s", "warmup": "0s"}


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_run_is_one_file(delivered, tmp_path, suffix):
    path = delivered(1, 2, 3, None).save_plot(tmp_path / f"run{suffix}")
    assert path.stat().st_size > 5000


def test_spans_add_where_the_time_went_and_the_nodes(tmp_path):
    office = imsim.Scenario.load("office", SHORT)
    saved = [
        imsim.simulate(office, spans=spans).save_plot(tmp_path / f"{spans}.svg").read_text() for spans in (False, True)
    ]
    assert ["<!-- Where the time of a delivery goes" in text for text in saved] == [False, True]
    assert ["<!-- How busy the nodes are" in text for text in saved] == [False, True]
    assert all("<!-- Latency and load over time" in text for text in saved)


def test_what_cannot_be_written_says_why(delivered, tmp_path):
    for path in (tmp_path / "no" / "x.png", tmp_path / "x.xyz"):
        with pytest.raises(imsim.UsageError, match=r"^plot: cannot write .*x\."):
            delivered(1).save_plot(path)
        with pytest.raises(imsim.UsageError, match=r"^plot: cannot write"):
            plots.save_cdf(delivered(1), path)


@pytest.mark.parametrize(("worlds", "rows"), [(["sim"], 1), (["sim", "live"], 2)])
def test_a_legend_has_the_columns_that_there_is_room_for(delivered, worlds, rows):
    """Wider than its figure it would squeeze the axes."""
    runs = [delivered(1, 2, world=world) for world in worlds]
    ax = plots.cdf(runs, Figure(figsize=plots.SIZE, layout="constrained").subplots())
    ax.figure.draw_without_rendering()
    legend = ax.get_legend()
    assert len({round(text.get_window_extent().y0) for text in legend.get_texts()}) == rows
    assert legend.get_window_extent().width < ax.figure.bbox.width


def test_two_designs(tmp_path):
    office = imsim.Scenario.load("office", SHORT)
    slow = office.with_({"topology.storage.service.append": "80ms"})
    found = imsim.compare(office, slow, replications=3, jobs=1)
    values, shares = found.plot(Figure().subplots(1, 2, sharey=True))
    names = [label.get_text() for label in values.get_yticklabels()]
    assert names[:2] == ["delivery.mean", "delivery.p50"]
    assert values.get_legend_handles_labels()[1] == ["A", "B"]
    assert "A is better" in shares.get_legend_handles_labels()[1]
    drawn = [line.get_xdata()[0] for container in shares.containers for line in [container.lines[0]]]
    assert drawn[1] == pytest.approx(found["delivery.p50"].relative.value * 100)
    assert values.get_title(loc="left") == "A: office, B: office; they differ in topology.storage.service.append"
    assert found.save_plot(tmp_path / "two.png").exists()
    mpl.use("agg")
    assert len(found.plot()) == 2


def test_what_is_null_in_a_design_is_said(delivered):
    def replications(name, *latencies):
        sample = imsim.analysis.Sample(0, 1, "", {"delivery.p99": latencies[0], "delivery.p50": 1.0})
        return imsim.Replications(delivered(1, name=name).scenario, [sample])

    found = imsim.compare(replications("a", 5.0), replications("b", float("inf")))
    _, shares = found.plot(Figure().subplots(1, 2, sharey=True))
    assert [text.get_text() for text in shares.texts] == [" null in 1 of 1 pairs"]


def test_a_comparison_without_latencies_has_no_picture():
    office = imsim.Scenario.load("office", SHORT)
    found = imsim.compare(office, office, replications=2, jobs=1)
    found.differences = {"lost": found["lost"]}
    with pytest.raises(imsim.UsageError, match="no latency was measured in both"):
        found.plot()
