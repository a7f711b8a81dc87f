from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import imsim
from imsim.analysis import plots
from imsim.analysis.latency import delivery_latencies
from imsim.analysis.recovery import Recovery
from imsim.analysis.timeline import TimeAxis


@pytest.fixture
def axes():
    return tuple(Figure(figsize=plots.SIZE).subplots(2, sharex=True))


def line(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


def steps(ax, label):
    return next(patch for patch in ax.patches if patch.get_label() == label).get_data()


WINDOWS = pd.DataFrame(
    {
        "since": [0.0, 1.0, 2.0, 3.0],
        "until": [1.0, 2.0, 3.0, 4.0],
        "p50": [10.0, 20.0, np.inf, np.nan],
        "p95": [10.0, 20.0, np.inf, np.nan],
        "max": [10.0, np.inf, np.inf, np.nan],
        "offered": [4.0, 4.0, 4.0, 0.0],
        "delivered": [4.0, 2.0, 0.0, 0.0],
    }
)


def test_timeline_draws_windows_and_marks_losses(axes):
    upper, lower = plots.timeline(WINDOWS, TimeAxis(3.0, 4.0), axes, title="tiny")
    at, largest = line(upper, "max").get_data()
    assert at.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert largest[0] == 10
    assert np.isnan(largest[1:]).all()
    assert line(upper, "some never arrived").get_xdata().tolist() == [1.5, 2.5]
    assert upper.get_yscale() == "log"
    assert steps(lower, "offered (intended)").values.tolist() == [4, 4, 4, 0]
    assert steps(lower, "delivered").edges.tolist() == [0, 1, 2, 3, 4]
    assert lower.get_ylabel() == "messages/s"
    assert lower.get_ylim()[0] == 0


def test_timeline_shades_and_names_faults(axes):
    names = ["warm-up", "mass reconnect", "storage stall", "node crash gateway0"]
    special = ((0.0, 1.0, names[0]), (1.6, 1.6, names[1]), (1.8, 2.0, names[2]), (3.9, 4.0, names[3]))
    upper, _ = plots.timeline(WINDOWS, TimeAxis(3.95, 4.0, special), axes, title="tiny")
    upper.figure.draw_without_rendering()
    drawn = {text.get_text(): text.get_window_extent() for text in upper.texts}
    assert list(drawn) == [*names, "end of sending"]
    boxes = list(drawn.values())
    assert all(box.y0 >= upper.bbox.y1 for box in boxes)
    assert not any(a.overlaps(b) for number, a in enumerate(boxes) for b in boxes[:number])
    assert max(box.x1 for box in boxes) <= upper.bbox.x1 + 2


def test_timeline_marks_recovery(axes):
    def recovery(name, time):
        return Recovery(name, 1.0, 1.5, 10.0, 20.0, time, slow=3)

    time = TimeAxis(3.0, 4.0, ((1.0, 1.5, "a crash"),), (recovery("a crash", 1.25),))
    upper, lower = plots.timeline(WINDOWS, time, axes, title="tiny")
    limit = line(upper, "limit of p95 for recovery")
    assert (limit.get_xdata().tolist(), limit.get_ydata().tolist()) == ([1.0, 2.25], [20.0, 20.0])
    for ax in (upper, lower):
        assert any(list(one.get_xdata()) == [2.25, 2.25] for one in ax.lines)
    assert "recovered after 1.25 s" in [text.get_text() for text in upper.texts]


def test_timeline_names_fault_without_recovery_at_end(axes):
    times = {"a": math.inf, "b": 0.0, "c": math.nan}
    recoveries = tuple(Recovery(name, 1.0, 1.5, 10.0, 20.0, time, slow=3) for name, time in times.items())
    upper, _ = plots.timeline(WINDOWS, TimeAxis(3.0, 4.0, (), recoveries), axes, title="tiny")
    assert line(upper, "limit of p95 for recovery").get_xdata().tolist() == [1.0, 3.0]
    texts = [text.get_text() for text in upper.texts]
    assert sorted(texts) == ["a: not recovered", "end of sending"]


@pytest.mark.parametrize("messages", [[], [{}], [{"outcome": "rejected"}]])
def test_timeline_of_nearly_empty_run_can_be_drawn(build, axes, messages):
    assert build(messages).plot.timeline(axes) == axes


def test_timeline_shows_all_messages_of_run(axes):
    run = imsim.simulate("reconnect-storm", duration=3)
    upper, lower = run.plot.timeline(axes)
    assert np.nanmax(line(upper, "max").get_ydata()) == pytest.approx(delivery_latencies(run)[-1])
    for label in ("offered (intended)", "delivered"):
        found = steps(lower, label)
        assert (found.values * np.diff(found.edges)).sum() == pytest.approx(len(run.messages))
