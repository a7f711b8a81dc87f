"""Comparisons of two designs: differences, intervals, texts and pictures."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

import imsim
from imsim.analysis.run_length import Behind
from imsim.analysis.warmup import Beginning, Steadiness
from imsim.experiments import Comparison, Replications, Sample
from imsim.experiments.comparison import difference
from imsim.scenario import Scenario


def make(*values, first=0, metric="delivery.p99", name="tiny", **fields):
    samples = [Sample(r, 100 + r, "", {metric: value}) for r, value in enumerate(values, start=first)]
    return Replications(Scenario(name=name).replace(fields), samples)


def test_interval_is_of_paired_differences():
    rng = np.random.default_rng(1)
    luck = rng.normal(100, 20, 30)
    a, b = luck.tolist(), (luck + 3 + rng.normal(0, 1, 30)).tolist()
    found = difference("delivery.p99", a, b)
    paired = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (found.absolute.low, found.absolute.high) == pytest.approx((paired.low, paired.high))
    unpaired = stats.ttest_ind(b, a).confidence_interval(0.95)
    assert unpaired.low < 0 < unpaired.high, "which would have shown nothing"
    assert found.better == "A"
    variances = np.var(a, ddof=1) + np.var(b, ddof=1)
    assert found.saved == pytest.approx(variances / np.var(np.subtract(b, a), ddof=1))
    assert found.saved > 400


def test_difference_that_is_constant_except_for_rounding_has_no_variance_saved():
    a = [0.1, 0.2, 0.7]
    found = difference("cost.per_hour", a, [value + 0.3 for value in a])
    assert np.var(np.subtract([value + 0.3 for value in a], a)) > 0
    assert found.saved is None


def test_intervals_cover_true_differences():
    """The true differences are 3 and 10 %. Both designs share some noise, and each has some of its own."""
    rng = np.random.default_rng(2)
    absolute = relative = 0
    for _ in range(400):
        luck = rng.exponential(10, (20, 5)).mean(axis=1) + 20  # its mean is 30
        found = difference("m", luck.tolist(), (luck * 1.1 + rng.normal(0, 0.5, 20)).tolist())
        absolute += found.absolute.low < 3 < found.absolute.high
        relative += found.relative.low < 0.1 < found.relative.high
    assert 0.92 < absolute / 400 < 0.98
    assert 0.92 < relative / 400 < 0.98


def test_better_design_has_less_of_latency():
    assert difference("delivery.p99", [5.0, 6.0, 7.0], [1.0, 2.1, 3.0]).better == "B"
    assert difference("delivery.p99", [5.0, 6.0, 7.0], [5.0, 6.0, 7.0]).better == "="
    assert difference("delivery.p99", [5.0, 6.0, 7.0], [7.0, 6.0, 5.0]).better == "?"
    assert difference("delivery.p99", [5.0], [7.0]).better == "?"
    assert difference("messages", [5.0, 6.0, 7.0], [1.0, 2.0, 3.0]).better == ""


def test_null_value_has_no_difference():
    found = difference("delivery.p99", [1.0, 2.0, math.inf], [1.0, 2.0, 3.0])
    assert (found.absolute.value, found.relative.value, found.saved, found.better) == (None, None, None, "")
    assert "null in 1 of 3" in str(found)
    found = Comparison(make(1.0, math.inf), make(1.0, 2.0))
    assert "delivery.p99" in found.notes[-1]
    assert found.summary().loc["delivery.p99", "null"] == 1


def test_comparison_text_names_better_design_and_changes():
    found = Comparison(make(10.0, 12.0, 11.0), make(8.0, 9.1, 9.0, **{"topology.routers": 4}))
    text = str(found)
    assert text.splitlines()[:4] == [
        "tiny",
        "A: routers = 1",
        "B: routers = 4",
        "B differs from A in topology.routers: 1 -> 4",
    ]
    assert "delivery.p99: B - A is -2.3 ms [-3.591, -1.009], -20.9% [-28.9%, -12.9%]: B is better" in text
    assert "3 pairs" in found.notes[0]
    assert "<div>tiny<br>A: routers = 1" in found._repr_html_()
    printed = found.to_json_dict()
    assert printed["changes"] == {"topology.routers": ["1", "4"]}
    assert (printed["a"], printed["b"]) == ("routers = 1", "routers = 4")
    assert printed["scenarios"] == {"a": "tiny", "b": "tiny"}
    assert printed["metrics"]["delivery.p99"]["better"] == "B"
    assert repr(found) == "<Comparison of routers = 1 and routers = 4: 3 pairs>"


def test_comparison_counts_replications_without_partner():
    found = Comparison(make(1.0, 2.0, 3.0, 4.0), make(2.0, 4.0))
    assert (found.pairs, found.left_out) == (2, 2)
    assert found["delivery.p99"].absolute.value == 1.5
    assert "2 replications have no partner" in " ".join(found.notes)


def test_policies_of_acknowledgement_can_be_compared_by_what_their_senders_see():
    office = imsim.Scenario.load("office", {"duration": "2s", "warmup": "0s"})
    found = [
        imsim.replicate(
            office.replace({"policies.ack": ack, "topology.storage.service.append": "50ms"}), replications=2
        )
        for ack in ("after_store", "after_receive")
    ]
    compared = imsim.compare(*found)
    assert compared["confirmed.p50"].absolute.value < -40
    assert compared["received_lost"].absolute.value == 0
    assert "confirmed.p99" in str(compared)
    alike = imsim.compare(found[0], found[0])
    assert "confirmed.p99" in alike.summary().index
    assert "confirmed" not in str(alike)
    labels = [label.get_text() for label in alike.plot(Figure().subplots(1, 2, sharey=True))[0].get_yticklabels()]
    assert labels
    assert not [label for label in labels if label.startswith("confirmed")]


def test_percentile_of_short_runs_has_no_interval_in_a_comparison():
    def short(value):
        behind = {"delivery.p99": Behind(300, value)}
        samples = [Sample(r, r, "", {"delivery.p99": value + r}, behind) for r in range(3)]
        return Replications(Scenario(), samples)

    a, b = short(10.0), short(20.0)
    found = Comparison(a, b)["delivery.p99"]
    assert found.a == a["delivery.p99"]
    assert found.b == b["delivery.p99"]
    assert (found.absolute.value, found.absolute.low, found.relative.low, found.better) == (10, None, None, "?")


def test_comparison_notes_for_each_design_whether_its_runs_are_steady():
    rising = Steadiness(Beginning(10.0, (50.0,) * 10))
    full = Steadiness(Beginning(10.0, (50.0,) * 10), drops={"storage0": 4})
    a, b = (
        Replications(Scenario(name=name), [Sample(r, r, "", {"lost": 1.0}, steadiness=one) for r in range(2)])
        for name, one in (("small", rising), ("large", full))
    )
    notes = Comparison(a, b).notes
    (both,) = [note for note in notes if "latency rises" in note]
    assert both.startswith("latency rises"), "true of both"
    (dropped,) = [note for note in notes if "dropped" in note]
    assert dropped.startswith("B: storage0 dropped 4 operations a run on average")


def test_comparison_refuses_other_seeds():
    other = Replications(Scenario(), [Sample(0, 7, "", {"delivery.p99": 1.0})])
    with pytest.raises(imsim.UsageError, match="same seeds"):
        Comparison(make(1.0), other)
    with pytest.raises(imsim.UsageError, match="same seeds"):
        Comparison(make(1.0), make(1.0, first=1))
    with pytest.raises(imsim.UsageError, match=r"'lost'.*delivery\.p99"):
        Comparison(make(1.0), make(1.0))["lost"]


def test_comparison_labels_are_names_of_scenarios():
    fields = {"topology.routers": 4, "topology.gateways": 3, "workload.rate": 2.0, "population.users": 9}
    found = Comparison(make(5.0), make(6.0, name="big", **fields))
    values, _ = found.plot(Figure().subplots(1, 2, sharey=True))
    assert values.get_legend_handles_labels()[1] == ["A: tiny", "B: big"]
    title = " ".join(values.get_title(loc="left").split())
    differ = "population.users, workload.rate, topology.gateways and 1 more"
    assert title == f"B against A, under the same seeds, which differ in {differ}"


def test_legend_leaves_room_for_curves():
    """A long label is wrapped and does not take the width of the picture."""
    path = "topology.storage.service.append"
    slow = {"kind": "empirical", "values": ["1ms", "2ms"]}
    found = Comparison(
        make(5.0, **{path: "4ms", "topology.routers": 2}), make(6.0, **{path: slow, "limits.room_rate": 7})
    )
    values, shares = found.plot(Figure(figsize=(12, 6), layout="constrained").subplots(1, 2, sharey=True))
    values.figure.draw_without_rendering()
    assert min(ax.get_position().width for ax in (values, shares)) > 0.35
    assert "A: routers = 2" in values.get_legend().get_texts()[0].get_text()


def test_intervals_stay_within_bounds_of_metric():
    """A share is never above 1, and its relative difference never below -100 %."""
    found = difference("delivery.p99", [1.0, 50.0, 9.0], [1.0, 2.0, 9.0])
    assert found.a.low == 0
    assert found.relative.low == -1 < found.relative.value
    found = difference("late_share", [0.9, 1.0, 0.98], [0.0, 0.9, 0.1])
    assert (found.a.high, found.b.low) == (1, 0)
    assert found.a.low > 0
    assert found.absolute.low == -1
    free = difference("mine", [1.0, 50.0, 9.0], [1.0, 2.0, 9.0])
    assert free.a.low < 0
    assert free.relative.low < -1


def test_comparison_picture_marks_null_metrics():
    _, shares = Comparison(make(5.0), make(math.inf)).plot(Figure().subplots(1, 2, sharey=True))
    assert [text.get_text() for text in shares.texts] == [" null in 1 of 1 pairs"]


def test_comparison_without_latencies_refuses_plot():
    found = Comparison(make(1.0, metric="lost"), make(2.0, metric="lost"))
    with pytest.raises(imsim.UsageError, match="no latency was measured in both"):
        found.plot()


def test_compare_simulates_two_designs(tmp_path):
    office = imsim.Scenario.load("office", {"duration": "1s", "warmup": "0s"})
    slow = office.replace({"topology.storage.service.append": "80ms"})
    found = imsim.compare(office, slow, replications=3, jobs=1)
    values, shares = found.plot(Figure().subplots(1, 2, sharey=True))
    names = [label.get_text() for label in values.get_yticklabels()]
    assert names[:2] == ["delivery.mean", "delivery.p50"]
    append = "storage.service.append"
    assert values.get_legend_handles_labels()[1] == [
        f"A: {append} = lognormal median=1ms p99=5ms",
        f"B: {append} = 80ms",
    ]
    assert "A is better" in shares.get_legend_handles_labels()[1]
    drawn = [line.get_xdata()[0] for container in shares.containers for line in [container.lines[0]]]
    assert drawn[1] == pytest.approx(found["delivery.p50"].relative.value * 100)
    assert " ".join(values.get_title(loc="left").split()) == f"{office.title} B against A, under the same seeds"
    assert str(found).splitlines()[0] == f"office: {office.title}"
    assert str(found).splitlines()[2] == f"B: {append} = 80ms"
    assert found.save_plot(tmp_path / "two.png").exists()
    mpl.use("agg")
    assert len(found.plot()) == 2


# A storage that is an M/M/1 queue, with 60 messages a second; all else is constant.
BASE = imsim.Scenario(seed=5, duration=7.0, warmup=1.0).replace(
    {
        "network.client.latency": "1ms",
        "network.backend.latency": "2ms",
        "population.users": 60,
        "workload.rate": 1.0,
        "topology.storage.service": {"append": {"kind": "exponential", "mean": "8ms"}},
    }
)
SLOW = BASE.replace({"topology.storage.service": {"append": {"kind": "exponential", "mean": "10ms"}}})


@pytest.fixture(scope="module")
def compared():
    return imsim.compare(BASE, SLOW, replications=8, jobs=1)


def test_difference_matches_theory_with_less_variance(compared):
    expected = 10 / (1 - 0.6) - 8 / (1 - 0.48)  # ms
    found = compared["delivery.mean"]
    assert found.absolute.low < expected < found.absolute.high
    assert found.absolute.half < expected / 2
    links = 10.0
    relative = expected / (8 / (1 - 0.48) + links)
    assert found.relative.low < relative < found.relative.high
    assert found.better == "A"
    assert found.saved > 2


def test_replications_compare_like_their_scenarios(compared):
    designs = [design.replace({"duration": 2.0}) for design in (BASE, SLOW)]
    again = imsim.compare(*(imsim.replicate(design, replications=2, jobs=1) for design in designs))
    assert again["delivery.p99"] == imsim.compare(*designs, replications=2, jobs=1)["delivery.p99"]
    assert again.pairs == 2


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ((BASE, 5), r"scenario: expected a Scenario, the name of a preset or the path of a TOML file \(got 5\)"),
        (([BASE], BASE), r"scenario: expected a Scenario.*got list"),
        ((BASE, BASE.replace({"seed": 6})), r"different seeds \(5, 6\)"),
        (("office", "ofice"), "did you mean 'office'"),
    ],
)
def test_bad_input_is_refused(what, words):
    with pytest.raises(imsim.UsageError, match=words):
        imsim.compare(*what, replications=2)


def test_compare_refuses_runs_and_mixed_arguments():
    run = imsim.simulate(BASE, duration=0.5)
    for pair in ((run, BASE), (run, run), (make(1.0), run)):
        with pytest.raises(imsim.UsageError, match=r"imsim\.summarize\(\[a, b\]\)$"):
            imsim.compare(*pair)
    with pytest.raises(imsim.UsageError, match=r"two scenarios or two Replications \(got one of each\)$"):
        imsim.compare(make(1.0), BASE)
    with pytest.raises(imsim.UsageError, match=r"compare: replications, metrics: for scenarios only"):
        imsim.compare(make(1.0), make(1.0), replications=5, metrics=["lost"])


def test_functions_of_runs_take_one_run_or_several():
    run = imsim.simulate(BASE, duration=0.5)
    assert imsim.summarize(run).equals(imsim.summarize([run]))
    assert imsim.summarize(one for one in (run, run)).index.tolist() == ["run 1", "run 2"]
    kept = imsim.replicate(BASE, replications=2, duration=0.5, keep="runs", jobs=1)
    assert imsim.summarize(kept)["lost"].tolist() == [0, 0]
    for wrong, found in (([], "nothing"), ("office", "str"), ([run, BASE], "Run, Scenario"), (5, "int")):
        for function in (imsim.summarize, imsim.plot_cdf):
            with pytest.raises(imsim.UsageError, match=rf"^{function.__name__}: expected a run .*got {found}"):
                function(wrong)
