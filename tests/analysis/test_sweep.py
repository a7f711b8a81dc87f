import math

import pytest
from matplotlib.figure import Figure

import imsim
from imsim.analysis.replications import Replications, Sample
from imsim.analysis.sweep import Sweep
from imsim.scenario import Scenario


def make(*points, columns=("topology.routers", "workload.rate")):
    """Each point: its values, then what its two replications gave as p99 and as cost."""
    base = Scenario(name="tiny")
    found = [
        Replications(
            base,
            [Sample(r, r, f"{r}", {"delivery.p99": p99, "cost.per_hour": cost}) for r, p99 in enumerate(values)],
        )
        for _, values, cost in points
    ]
    return Sweep(base, [dict(zip(columns, labels, strict=True)) for labels, _, _ in points], found)


SWEEP = make(
    ((1, 0.5), (100.0, 102.0), 1.0),
    ((1, 2.0), (300.0, math.inf), 1.0),
    ((2, 0.5), (50.0, 52.0), 2.0),
    ((2, 2.0), (120.0, 122.0), 2.0),
    ((4, 0.5), (50.0, 52.0), 4.0),
    ((4, 2.0), (49.0, 51.0), 4.0),
)


def test_the_frame_has_a_row_for_each_design():
    frame = SWEEP.frame
    assert list(frame.columns[:5]) == [
        "topology.routers", "workload.rate", "delivery.p99", "delivery.p99.low", "delivery.p99.high",
    ]  # fmt: skip
    assert list(frame.columns[-2:]) == ["replications", "null"]
    assert frame["topology.routers"].tolist() == [1, 1, 2, 2, 4, 4]
    assert frame.loc[0, ["delivery.p99", "delivery.p99.low"]].tolist() == pytest.approx([101, 101 - 12.706], abs=0.001)
    assert frame.loc[1, ["delivery.p99", "delivery.p99.low"]].isna().all()
    assert frame["null"].tolist() == [0, 1, 0, 0, 0, 0]


def test_samples_have_a_row_for_each_replication():
    samples = SWEEP.samples
    assert len(samples) == 12
    assert list(samples.columns[:4]) == ["topology.routers", "workload.rate", "replication", "seed"]
    assert samples["topology.routers"].tolist() == [1] * 4 + [2] * 4 + [4] * 4


def test_the_front_is_of_those_that_no_other_beats():
    assert SWEEP.pareto().index.tolist() == [0, 2, 5]
    with pytest.raises(imsim.UsageError, match=r"no 'lost' here; known: delivery\.p99"):
        SWEEP.pareto(y="lost")


NOISE = make(
    ((1,), (100.0, 110.0), 1.0),
    ((2,), (99.0, 109.5), 2.0),  # less, but not beyond the interval of the paired difference
    ((3,), (101.0, 111.0), 3.0),  # more in each replication, by the same
    ((4,), (90.0, 100.0), 4.0),  # less in each replication, though the intervals side by side overlap
    ((5,), (90.0, 100.0), 5.0),  # the same, for more money
    columns=("topology.routers",),
)


def test_what_is_better_by_luck_only_is_not_on_the_front():
    assert NOISE.pareto().index.tolist() == [0, 3]
    assert NOISE.ties().index.tolist() == [1, 4]
    alone = Sweep(NOISE.base, NOISE.labels, [Replications(one.scenario, one.samples[:1]) for one in NOISE.replications])
    assert alone.pareto().index.tolist() == [0, 1, 3], "without intervals, by the numbers"


def test_ties_are_hollow_and_letters_stand_in_their_own_points():
    ax = NOISE.plot(x="cost.per_hour", ax=Figure().subplots())
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white" and line.get_marker() == "o"]
    assert sorted(float(x) for line in hollow for x in line.get_xdata()) == [2, 5]
    assert "not told apart from the front" in ax.get_legend_handles_labels()[1]
    assert {text.get_text(): text.xy for text in ax.texts} == {"A": (1, 105), "B": (4, 95)}


def test_against_cost_it_draws_intervals_and_the_front():
    ax = SWEEP.plot(ax=Figure().subplots())
    labels = ax.get_legend_handles_labels()[1]
    assert labels[:4] == [
        "Pareto front",
        "A: routers = 1, rate = 0.5",
        "B: routers = 2, rate = 0.5",
        "C: routers = 4, rate = 2",
    ]
    assert labels[4:] == ["routers = 1", "routers = 2", "routers = 4"]
    assert ax.get_xlabel() == "cost, USD per hour"
    assert "1 of 6 designs are not drawn" in ax.get_title(loc="left")


def test_against_what_was_varied_it_draws_lines():
    ax = SWEEP.plot(x="workload.rate", ax=Figure().subplots())
    assert ax.get_legend_handles_labels()[1] == ["routers = 1", "routers = 2", "routers = 4"]
    assert ax.get_xlabel() == "workload.rate"
    assert ax.get_ylabel() == "delivery.p99 (ms)"


def test_what_is_no_number_stands_side_by_side():
    sweep = make((("fast",), (1.0, 2.0), 1.0), (("slow",), (3.0, 4.0), 1.0), columns=("design",))
    ax = sweep.plot(x="design", ax=Figure().subplots())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["fast", "slow"]


def test_a_picture_is_saved_or_says_why_not(tmp_path):
    assert SWEEP.save_plot(tmp_path / "one.svg").stat().st_size > 1000
    with pytest.raises(imsim.UsageError, match="plot"):
        SWEEP.save_plot(tmp_path / "one.tiff2")
    with pytest.raises(imsim.UsageError, match="no 'hue'"):
        SWEEP.plot(hue="hue")


def test_texts():
    assert "101 [88.29, 113.7]" in str(SWEEP)
    assert "null in 1 of 2" in str(SWEEP)
    assert "(in row 1)" in "".join(SWEEP.notes)
    assert "<b>tiny</b> · 6 designs" in SWEEP._repr_html_()
    assert repr(SWEEP) == "<Sweep of tiny over topology.routers, workload.rate: 6 designs>"
    point = SWEEP.to_json_dict()["points"][1]
    assert point["values"] == {"topology.routers": 1, "workload.rate": 2.0}
    assert point["metrics"]["delivery.p99"] == {"mean": None, "low": None, "high": None, "null": 1}
