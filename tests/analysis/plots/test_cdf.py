import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import imsim
from imsim.analysis import plots


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def curve(ax: Axes, number: int = 0):
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    return lines[number].get_xdata(), lines[number].get_ydata()


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_cdf_steps_up_at_each_latency(ax):
    plots.cdf({"sim": {"delivery": np.array([1.0, 2.0, 2.0, 4.0])}}, ax, title="Latency")
    x, y = curve(ax)
    assert x[:-1].tolist() == [1, 1, 2, 2, 4]
    assert x[-1] > 4
    assert y.tolist() == [0, 0.25, 0.5, 0.75, 1, 1]


def test_lost_messages_keep_cdf_below_one(ax):
    plots.cdf({"sim": {"delivery": np.array([1.0, 2.0, 3.0, np.inf])}}, ax, title="Latency")
    assert curve(ax)[1].tolist() == [0, 0.25, 0.5, 0.75, 0.75]
    assert legend(ax) == ["sim delivery: p50 2.5 ms, p99 never (1 of 4 never)"]


def test_cdf_has_two_curves_for_each_run(delivered, ax):
    worlds = [delivered(1, 1, 2000), delivered(3, 3, 4, world="live")]
    assert imsim.plot_cdf(worlds, ax=ax) is ax
    assert legend(ax) == [
        "sim delivery: p50 1 ms, p99 2 s",
        "sim ack: p50 1 ms, p99 2 s",
        "live delivery: p50 3 ms, p99 4 ms",
        "live ack: p50 3 ms, p99 4 ms",
    ]
    other = Figure().add_subplot()
    imsim.plot_cdf(worlds[0], ax=other)
    assert len(legend(other)) == 2
    assert ax.get_xscale() == "log"


def test_cdf_of_one_run_has_curve_for_each_kind(build, ax):
    rows = [
        {"intent": 0, "delivered_at": 1_000_000, "route": "push"},
        {"intent": 0, "recipient": "cyd", "delivered_at": 4_000_000, "route": "sync"},
    ]
    run = build([{"scene": "group", "acked_at": 2_000_000}], rows)
    imsim.plot_cdf(run, ax=ax)
    assert legend(ax) == [
        "sim delivery: p50 2.5 ms, p99 4 ms",
        "sim delivery by push: p50 1 ms, p99 1 ms",
        "sim delivery by sync: p50 4 ms, p99 4 ms",
        "sim last recipient: p50 4 ms, p99 4 ms",
        "sim ack: p50 2 ms, p99 2 ms",
    ]
    assert list(run.summary().index) == ["delivery", "delivery_push", "delivery_sync", "last", "ack"]
    assert len({line.get_color() for line in ax.lines if not line.get_label().startswith("_")}) == 5


@pytest.mark.parametrize("latencies", [[], [None], [None, None], [0], [-0.001], [3.3] * 5])
def test_cdf_of_unusual_samples_can_be_drawn(delivered, tmp_path, latencies):
    path = imsim.save_cdf([delivered(*latencies)], tmp_path / "odd.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_cdf_of_long_run_is_small_and_keeps_slowest(delivered, ax, tmp_path):
    latencies = np.random.default_rng(1).lognormal(size=20_000)
    run = delivered(*latencies)
    imsim.plot_cdf(run, ax=ax)
    x, _ = curve(ax)
    assert len(x) < 1200
    slowest = np.sort(np.round(latencies * 1e6) / 1e6)[-100:]
    assert np.isin(slowest.round(6), x.round(6)).all()
    assert imsim.save_cdf([run], tmp_path / "run.svg").stat().st_size < 300_000


def test_saving_picture_does_not_import_pyplot(delivered, tmp_path, monkeypatch):
    monkeypatch.delattr(mpl, "pyplot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # cannot be imported
    assert imsim.save_cdf([delivered(1)], tmp_path / "x.png").exists()


def test_notebook_gets_pyplot_figure(delivered):
    mpl.use("agg")
    from matplotlib import pyplot as plt

    try:
        ax = delivered(1).plot.cdf()
        assert plt.fignum_exists(ax.figure.number)
    finally:
        plt.close("all")
    own = Figure().add_subplot()
    assert delivered(1).plot.cdf(own) is own


def test_confirmed_is_drawn_for_several_runs_if_one_of_them_acknowledges_early(build, ax):
    rows = ([{"intent": 0, "delivered_at": 3_000_000}],) * 2
    late = build([{"acked_at": 4_000_000}], rows[0])
    early = build([{"received_at": 1_000_000, "acked_at": 4_000_000}], rows[1], policies={"ack": "after_receive"})
    imsim.plot_cdf([late, early], ax=ax)
    assert [text.split(":")[0].split(", ")[-1] for text in legend(ax)] == ["delivery", "confirmed", "ack"] * 2
    assert legend(ax)[1] == "ack = after_store, confirmed: p50 4 ms, p99 4 ms"
    assert legend(ax)[4] == "ack = after_receive, confirmed: p50 1 ms, p99 1 ms"


def test_title_and_legend_are_inside_the_picture_and_leave_the_axes_their_width(delivered):
    title = "How long does a message take in an office of a hundred people on an unhurried service?"
    runs = [delivered(1, 2, 3, title=title, policies={"ack": ack}) for ack in ("after_store", "after_receive")]
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    ax = imsim.plot_cdf(runs, ax=figure.add_subplot())
    figure.draw_without_rendering()
    for one in (ax.get_legend(), ax._left_title):
        box = one.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert ax.get_position().width > 0.8
