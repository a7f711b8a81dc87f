from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

import imsim
from imsim.analysis import plots
from imsim.analysis.latency import delivery_latencies

MS, S = 1_000_000, 1_000_000_000


@pytest.fixture
def axes():
    return tuple(Figure(figsize=plots.SIZE).subplots(2, sharex=True))


def line(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


def steps(ax, label):
    return next(patch for patch in ax.patches if patch.get_label() == label).get_data()


@pytest.fixture
def steady(build):
    """One each quarter of ten seconds, shown after 10 ms; those of the fifth second wait for it to end."""

    def build_it(**scenario):
        times = [number * S // 4 for number in range(40)]
        rows = [
            {"intent": intent, "delivered_at": (5 * S if at // S == 4 else at) + 10 * MS}
            for intent, at in enumerate(times)
        ]
        return build([{"intended_at": at} for at in times], rows, **({"duration": 10.0} | scenario))

    return build_it


def test_latencies_stand_where_the_wait_began(steady, axes):
    upper, _ = steady().plot.timeline(axes)
    at, largest = line(upper, "max").get_data()
    assert at.tolist()[:10] == [0.5 + window for window in range(10)]
    assert largest[:10].round(6).tolist() == [10, 10, 10, 10, 1010, 10, 10, 10, 10, 10]
    assert line(upper, "p50").get_ydata()[4] == 635
    assert upper.get_yscale() == "log"
    assert "some never came" not in upper.get_legend_handles_labels()[1]


def test_the_load_is_in_messages_a_second_by_when_they_come_and_go(steady, axes):
    _, lower = steady().plot.timeline(axes)
    offered, delivered = steps(lower, "offered: intended"), steps(lower, "delivered")
    assert offered.values[:10].tolist() == [4] * 10
    assert delivered.values[:10].tolist() == [4, 4, 4, 4, 0, 8, 4, 4, 4, 4]
    assert delivered.edges[1] == 1
    assert lower.get_ylabel() == "messages/s"
    assert lower.get_ylim()[0] == 0


def test_a_message_to_many_is_delivered_in_parts(build, axes):
    messages = [{"scene": "group", "intended_at": 0}]
    rows = [
        {"delivered_at": MS},
        {"recipient": "cyd", "delivered_at": 5 * S},
        {"recipient": "dan"},
        {"recipient": "eve"},
    ]
    upper, lower = build(messages, rows, duration=10.0).plot.timeline(axes)
    delivered = steps(lower, "delivered").values
    assert delivered[delivered > 0].tolist() == [0.25, 0.25]
    triangles = line(upper, "some never came").get_xdata()
    assert len(triangles) == 1
    assert np.isnan(line(upper, "max").get_ydata()).all()


def test_what_is_special_is_shaded_and_named_above_the_curves(steady, axes):
    faults = [
        {"kind": "mass_reconnect", "at": 4.0},
        {"kind": "storage_stall", "at": 4.5, "duration": 1.0},
        {"kind": "node_crash", "at": 9.9, "target": "gateway0"},
    ]
    upper, _ = steady(faults=faults, warmup=1.0).plot.timeline(axes)
    upper.figure.draw_without_rendering()
    names = {text.get_text(): text.get_window_extent() for text in upper.texts}
    assert list(names) == [
        "warm-up", "mass reconnect", "storage stall", "node crash gateway0", "nobody sends any more"
    ]  # fmt: skip
    boxes = list(names.values())
    assert all(box.y0 >= upper.bbox.y1 for box in boxes)
    assert not any(a.overlaps(b) for number, a in enumerate(boxes) for b in boxes[:number])
    assert max(box.x1 for box in boxes) <= upper.bbox.x1 + 2


@pytest.mark.parametrize("messages", [[], [{}], [{"outcome": "rejected"}]])
def test_next_to_nothing_can_be_drawn(build, axes, messages):
    assert build(messages).plot.timeline(axes) == axes


def test_all_of_a_run_is_in_it(axes):
    run = imsim.simulate("reconnect-storm", duration=3)
    upper, lower = run.plot.timeline(axes)
    assert np.nanmax(line(upper, "max").get_ydata()) == pytest.approx(delivery_latencies(run)[-1])
    for label in ("offered: intended", "delivered"):
        found = steps(lower, label)
        assert (found.values * np.diff(found.edges)).sum() == pytest.approx(len(run.messages))
