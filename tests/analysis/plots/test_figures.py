from __future__ import annotations

import pytest
from matplotlib.figure import Figure

import imsim
from imsim.analysis import plots

SHORT = {"duration": "1s", "warmup": "0s"}


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_pictures_of_run_are_one_file(delivered, tmp_path, suffix):
    path = delivered(1, 2, 3, None).save_plot(tmp_path / f"run{suffix}")
    assert path.stat().st_size > 5000


def test_spans_add_breakdown_and_nodes_to_file(tmp_path):
    office = imsim.Scenario.load("office", SHORT)
    saved = [
        imsim.simulate(office, spans=spans).save_plot(tmp_path / f"{spans}.svg").read_text() for spans in (False, True)
    ]
    assert ["Where the time of a delivery goes" in text for text in saved] == [False, True]
    assert ["How busy the nodes are" in text for text in saved] == [False, True]
    assert all("Latency and load over time" in text for text in saved)


def test_picture_that_cannot_be_written_says_why(delivered, tmp_path):
    for path in (tmp_path / "no" / "x.png", tmp_path / "x.xyz"):
        with pytest.raises(imsim.UsageError, match=r"^plot: cannot write .*x\."):
            delivered(1).save_plot(path)
        with pytest.raises(imsim.UsageError, match=r"^plot: cannot write"):
            imsim.save_cdf([delivered(1)], path)


@pytest.mark.parametrize(("worlds", "rows"), [(["sim"], 1), (["sim", "live"], 2)])
def test_legend_has_columns_that_fit(delivered, worlds, rows):
    """Wider than its figure it would squeeze the axes."""
    runs = [delivered(1, 2, world=world) for world in worlds]
    ax = imsim.plot_cdf(runs, ax=Figure(figsize=plots.SIZE, layout="constrained").subplots())
    ax.figure.draw_without_rendering()
    legend = ax.get_legend()
    assert len({round(text.get_window_extent().y0) for text in legend.get_texts()}) == rows
    assert legend.get_window_extent().width < ax.figure.bbox.width
