"""Sweeps: neither the number of workers nor interruptions change their rows."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import imsim
from imsim.analysis.run_length import Behind
from imsim.experiments import Replications, Sample, Sweep, fingerprint, variants
from imsim.scenario import Scenario
from imsim.scenario.files import choices

BASE = imsim.Scenario(name="base", seed=7, duration=1.0, drain=1.0).replace(
    {"population.users": 20, "workload.rate": 1.0}
)
OVER = {"topology.routers": [1, 2], "workload.rate": [1.0, 3.0]}


@pytest.fixture(scope="module")
def whole():
    return imsim.sweep(BASE, OVER, replications=2, jobs=1)


def lines(folder):
    return (folder / "finished.jsonl").read_text().splitlines()


def test_number_of_workers_does_not_change_rows_of_sweep(whole):
    with joblib.parallel_config("threading"):
        again = imsim.sweep(BASE, OVER, replications=2, jobs=2)
    assert again.frame.equals(whole.frame)
    assert again.samples.equals(whole.samples)
    assert whole.samples.digest.is_unique


def test_each_row_of_sweep_equals_its_scenario(whole):
    alone = imsim.replicate(BASE.replace({"topology.routers": 2, "workload.rate": 3.0}), replications=2, jobs=1)
    assert whole[3]["delivery.p99"] == alone["delivery.p99"]
    assert whole.samples.digest[6:].tolist() == alone.frame.digest.tolist()


def test_designs_have_same_seeds(whole):
    seeds = whole.samples.groupby("topology.routers").seed.unique()
    assert list(seeds[1]) == list(seeds[2])


def test_killed_sweep_continues(whole, tmp_path):
    arguments = [
        "--vary",
        "topology.routers=1,2",
        "--vary",
        "workload.rate=1.0,3.0",
        "--replications",
        "2",
        "--jobs",
        "1",
    ]
    (tmp_path / "base.toml").write_text(BASE.to_toml())
    command = [sys.executable, "-m", "imsim", "sweep", "base.toml", *arguments, "--out", "kept"]
    kept = tmp_path / "kept"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        while not (kept / "finished.jsonl").exists() or len(lines(kept)) < 3:
            with pytest.raises(subprocess.TimeoutExpired):  # the process is still running
                process.wait(timeout=0.01)
        process.kill()
    before = len(lines(kept))
    assert 3 <= before < 8
    with (kept / "finished.jsonl").open("a") as file:
        file.write('{"key": "torn in the midd')
    again = imsim.sweep(BASE, OVER, replications=2, jobs=1, out=kept)
    assert again.frame.equals(whole.frame)
    assert again.samples.equals(whole.samples)
    entries = [json.loads(line) for line in lines(kept) if not line.endswith("midd")]
    assert len(entries) == len({entry["key"] for entry in entries}) == 8, "nothing is run twice"
    pd.testing.assert_frame_equal(pd.read_csv(kept / "sweep.csv"), whole.frame)


def test_sweep_runs_only_missing_replications(whole, tmp_path, monkeypatch):
    def count(**options):
        before = len(lines(tmp_path)) if (tmp_path / "finished.jsonl").exists() else 0
        options = {"over": OVER, "replications": 2, "jobs": 1, "out": tmp_path, **options}
        assert len(imsim.sweep(BASE, **options))
        return len(lines(tmp_path)) - before

    assert count(over={"topology.routers": [1]}) == 2
    assert count(over={"topology.routers": [1]}) == 0
    assert count() == 6  # at rate 1, one router is the design from before
    assert count(over={"topology.routers": [2]}, replications=3) == 1
    assert count(over={"topology.routers": [1]}, seed=9) == 2
    assert count(over={"topology.routers": [1]}, metrics=["delivery.p99.9"]) == 2
    assert count(over={"topology.routers": [1]}) == 0
    assert count(over={"topology.routers": [1]}, metrics={"mine": lambda run: 1}) == 2
    assert count(over={"topology.routers": [1]}, metrics={"mine": lambda run: 2}) == 2
    monkeypatch.setattr(fingerprint, "program", lambda: "another program")
    assert count(over={"topology.routers": [1]}) == 2


def test_metric_that_cannot_be_compared_is_run_again(tmp_path):
    numbers = (number for number in range(100))

    def drawn(run):
        return next(numbers)

    for expected in ([0.0, 1.0], [2.0, 3.0]):
        with pytest.warns(UserWarning, match="out: metric drawn refers to a generator .* neither read nor written"):
            found = imsim.sweep(BASE, [{}], replications=2, jobs=1, metrics=[drawn], out=tmp_path)
        assert found[0].values("drawn") == expected
    assert (tmp_path / "finished.jsonl").read_text() == ""


def test_names_and_titles_do_not_change_design():
    assert fingerprint.design(BASE) == fingerprint.design(BASE.replace({"title": "other", "seed": 5}))
    assert fingerprint.design(BASE) != fingerprint.design(BASE.replace({"workload.rate": 2.0}))
    office = imsim.Scenario.load("office")
    assert fingerprint.design(office) == fingerprint.design(imsim.Scenario.from_toml(office.to_toml()))


def test_functions_with_equal_closures_are_equal():
    def make(bound):
        return lambda run: run.messages.size > bound

    assert fingerprint.function(make(1)) == fingerprint.function(make(1))
    assert fingerprint.function(make(1)) != fingerprint.function(make(2))
    assert fingerprint.function(imsim.simulate) != fingerprint.function(imsim.sweep)


def test_fingerprints_are_equal_in_another_process():
    program = (
        "import imsim; from imsim.experiments import fingerprint as f; "
        "print(f.design(imsim.Scenario.load('office')), f.program())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [fingerprint.design(imsim.Scenario.load("office")), fingerprint.program()]


def test_precision_is_reached_for_each_design():
    def sent(run):
        return len(run.messages) + 100_000 * (run.scenario.topology.routers == 2)

    options = {"replications": 3, "max_replications": 7, "metrics": [sent], "jobs": 1}
    found = imsim.sweep(BASE, {"topology.routers": [1, 2]}, precision={"sent": 0.05}, **options)
    assert [len(found[0]), len(found[1])] == [7, 3]


def test_bad_folder_is_refused_before_any_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(imsim.UsageError, match="out"):
        imsim.sweep(BASE, OVER, out=tmp_path / "file")


def test_mapping_gives_every_combination():
    found = variants(BASE, {"topology.routers": [1, 2], "workload.rate": np.array([0.5, 1.0])})
    assert [tuple(one.labels.values()) for one in found] == [(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)]
    assert [one.scenario.topology.routers for one in found] == [1, 1, 2, 2]
    assert {one.scenario.seed for one in found} == {7}


def test_values_may_be_named():
    slow = {"kind": "exponential", "mean": "5ms"}
    found = variants(BASE, {"topology.storage.service.append": {"fast": "1ms", "slow": slow}})
    assert [one.labels["topology.storage.service.append"] for one in found] == ["fast", "slow"]
    assert found[1].scenario.topology.storage.service["append"].mean == 0.005


def test_values_without_names_have_distinct_labels():
    path = "topology.storage.service.append"
    found = variants(BASE, {path: ["1ms", {"kind": "exponential", "mean": "5ms"}]})
    assert [one.labels[path] for one in found] == ["1ms", "exponential mean=5ms"]


def test_list_of_designs_takes_values_scenarios_and_functions():
    def busier(scenario):
        return scenario.replace({"workload.rate": 9.0, "seed": 1})

    found = variants(BASE, [{"topology.routers": 3}, Scenario(name="other"), "office", busier])
    assert [one.labels for one in found] == [
        {"topology.routers": 3},
        {"design": "other"},
        {"design": "office"},
        {"design": "busier"},
    ]
    assert {one.scenario.seed for one in found} == {7}, "all under the same luck"
    assert found[3].scenario.workload.rate == 9.0


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({}, "nothing to vary"),
        ([], "nothing to vary"),
        ({"topology.routers": []}, "nothing to vary"),
        ("topology.routers", "a mapping of paths"),
        ({"topology.routers": 4}, "topology.routers: expected a list of values \\(got 4"),
        ({"topology.routers": "124"}, "expected a list"),
        ({"topology.router": [1]}, "topology.router"),
        ({"topology.routers": [0]}, "topology.routers: expected at least 1"),
        ({"seed": [1, 2]}, "set their own seeds"),
        ([7], "expected a mapping"),
        ([lambda scenario: 7], "must return a Scenario"),
    ],
)
def test_bad_design_is_refused(over, words):
    with pytest.raises(imsim.UsageError, match=words):
        variants(BASE, over)


def test_choices_are_read_from_command_line():
    assert choices(["a.b=1,2,4", "c=5ms,10ms"], "x") == {"a.b": [1, 2, 4], "c": ["5ms", "10ms"]}
    assert choices(["a={kind='exponential', mean='5ms'},3"], "x") == {"a": [{"kind": "exponential", "mean": "5ms"}, 3]}
    for text in ("a", "a=", "=1"):
        with pytest.raises(imsim.UsageError, match=r"topology\.routers=1,2,4"):
            choices([text], "x")


def test_designs_of_same_name_are_labelled_by_differing_fields():
    found = variants(BASE, [BASE, BASE.replace({"topology.routers": 4}), "office"])
    assert [one.labels["design"] for one in found] == ["routers = 1", "routers = 4", "office"]
    found = variants(BASE, [lambda base: base, lambda base: base.replace({"workload.rate": 9.0})])
    assert [one.labels["design"] for one in found] == ["rate = 1", "rate = 9"]
    path = "topology.placement"
    found = variants(BASE, {path: ["hash", lambda name, nodes: 0, lambda name, nodes: 1]})
    assert [one.labels[path] for one in found] == ["hash", "<lambda>", "<lambda> #2"]


def make(*points, columns=("topology.routers", "workload.rate")):
    """Make a sweep. Each point has its values, the p99 of its two replications, and its cost."""
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


def test_frame_has_row_for_each_design():
    frame = SWEEP.frame
    assert list(frame.columns[:5]) == [
        "topology.routers", "workload.rate", "delivery.p99", "delivery.p99.low", "delivery.p99.high",
    ]  # fmt: skip
    assert list(frame.columns[-2:]) == ["replications", "null"]
    assert frame["topology.routers"].tolist() == [1, 1, 2, 2, 4, 4]
    assert frame.loc[0, ["delivery.p99", "delivery.p99.low"]].tolist() == pytest.approx([101, 101 - 12.706], abs=0.001)
    assert frame.loc[1, ["delivery.p99", "delivery.p99.low"]].isna().all()
    assert frame["null"].tolist() == [0, 1, 0, 0, 0, 0]


def test_samples_have_row_for_each_replication():
    samples = SWEEP.samples
    assert len(samples) == 12
    assert list(samples.columns[:4]) == ["topology.routers", "workload.rate", "replication", "seed"]
    assert samples["topology.routers"].tolist() == [1] * 4 + [2] * 4 + [4] * 4


def test_pareto_front_has_unbeaten_designs():
    assert SWEEP.pareto().index.tolist() == [0, 2, 5]
    with pytest.raises(imsim.UsageError, match=r"unknown column 'lost'; known: delivery\.p99"):
        SWEEP.pareto(y="lost")


NOISE = make(
    ((1,), (100.0, 110.0), 1.0),
    ((2,), (99.0, 109.5), 2.0),  # less, but not beyond the interval of the paired difference
    ((3,), (101.0, 111.0), 3.0),  # more in each replication, by the same
    ((4,), (90.0, 100.0), 4.0),  # less in each replication, though the intervals side by side overlap
    ((5,), (90.0, 100.0), 5.0),  # the same, for more money
    columns=("topology.routers",),
)


def test_pareto_front_leaves_out_chance():
    assert NOISE.pareto().index.tolist() == [0, 3]
    assert NOISE.ties().index.tolist() == [1, 4]
    alone = Sweep(NOISE.base, NOISE.labels, [Replications(one.scenario, one.samples[:1]) for one in NOISE.replications])
    assert alone.pareto().index.tolist() == [0, 1, 3], "without intervals, by the numbers"


def test_ties_are_drawn_hollow():
    ax = NOISE.plot(x="cost.per_hour", ax=Figure().subplots())
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white" and line.get_marker() == "o"]
    assert sorted(float(x) for line in hollow for x in line.get_xdata()) == [2, 5]
    assert "may be as good as the front" in ax.get_legend_handles_labels()[1]
    assert {text.get_text(): text.xy for text in ax.texts} == {"A": (1, 105), "B": (4, 95)}


def test_runs_too_short_for_a_percentile_are_not_told_apart_on_the_front():
    def design(p99, cost):
        behind = {"delivery.p99": Behind(300, p99)}
        return Replications(
            Scenario(),
            [Sample(r, r, "", {"delivery.p99": p99 + r / 100, "cost.per_hour": cost}, behind) for r in range(3)],
        )

    short = Sweep(Scenario(), [{"n": 1}, {"n": 2}], [design(100.0, 1.0), design(50.0, 2.0)])
    assert short.pareto().index.tolist() == [0]
    assert short.ties().index.tolist() == [1]


def test_sweep_draws_the_whiskers_of_rows_that_have_an_interval():
    """The second of three designs has one replication, and so no interval."""
    found = make(((1,), (100.0, 110.0), 1.0), ((2,), (99.0,), 2.0), ((3,), (90.0, 100.0), 3.0), columns=("n",))
    (container,) = found.plot(x="n", ax=Figure().subplots()).containers
    whiskers = container.lines[2][-1].get_segments()
    assert [bool(len(one)) and bool(np.isfinite(one).all()) for one in whiskers] == [True, False, True]


def test_sweep_draws_the_highest_point_inside_the_axes_without_whiskers():
    found = make(((1,), (300.0,), 1.0), ((2,), (305.0,), 2.0), columns=("n",))
    assert found.plot(x="n", ax=Figure().subplots()).get_ylim()[1] > 1.05 * 305


def test_sweep_draws_utilisation_in_percent():
    found = [
        Replications(Scenario(), [Sample(r, r, "", {"utilisation.router": 0.4 + r / 10}) for r in range(2)])
        for _ in range(2)
    ]
    ax = Sweep(Scenario(), [{"n": 1}, {"n": 2}], found).plot(y="utilisation.router", ax=Figure().subplots())
    ax.figure.draw_without_rendering()
    assert all(label.get_text().endswith("%") for label in ax.get_yticklabels())


def test_sweep_prints_when_senders_see_success_if_a_design_acknowledges_early():
    values = {"delivery.p99": 5.0, "confirmed.p99": 2.0, "ack.p99": 4.0, "received_lost": 0.0}

    def columns(ack, asked=()):
        scenario = Scenario(policies={"ack": ack})
        one = Replications(scenario, [Sample(0, 0, "", values)], asked=asked)
        return list(Sweep(scenario, [{"n": 1}], [one], asked).summary().columns)

    assert columns("after_receive") == ["n", *values, "replications"]
    assert columns("after_store") == ["n", "delivery.p99", "ack.p99", "replications"]
    assert columns("after_store", ["confirmed.p99"]) == ["n", *list(values)[:3], "replications"]


def test_plot_over_cost_draws_front():
    ax = SWEEP.plot(ax=Figure().subplots())
    labels = ax.get_legend_handles_labels()[1]
    assert labels[:4] == [
        "Pareto front",
        "A: routers = 1, rate = 0.5",
        "B: routers = 2, rate = 0.5",
        "C: routers = 4, rate = 2",
    ]
    assert labels[4:] == ["routers = 1", "routers = 2", "routers = 4"]
    assert ax.get_xlabel() == "cost per hour (USD)"
    assert "1 of 6 designs are not drawn" in ax.get_title(loc="left")


def test_plot_over_varied_field_draws_lines():
    ax = SWEEP.plot(x="workload.rate", ax=Figure().subplots())
    assert ax.get_legend_handles_labels()[1] == ["routers = 1", "routers = 2", "routers = 4"]
    assert ax.get_xlabel() == "workload.rate"
    assert ax.get_ylabel() == "delivery.p99 (ms)"


def test_design_without_varied_field_is_drawn_as_base():
    sweep = make(((1, None), (1.0, 2.0), 1.0), ((1, 2.0), (3.0, 4.0), 2.0))
    labels = sweep.plot(x="topology.routers", ax=Figure().subplots()).get_legend_handles_labels()[1]
    assert labels == ["rate as in the base", "rate = 2"]


def test_negative_metric_is_drawn():
    base = Scenario(name="tiny")
    found = [Replications(base, [Sample(r, r, "", {"gain": gain + r}) for r in range(2)]) for gain in (-5.0, 5.0)]
    ax = Sweep(base, [{"topology.routers": 1}, {"topology.routers": 2}], found).plot(y="gain", ax=Figure().subplots())
    assert ax.get_ylim()[0] < -5
    assert SWEEP.plot(x="workload.rate", ax=Figure().subplots()).get_ylim()[0] == 0


def test_picture_has_title_of_scenario():
    named = Sweep(SWEEP.base.replace({"title": "How many routers?"}), SWEEP.labels, SWEEP.replications)
    for x, text in (
        (None, "delivery.p99 against cost.per_hour"),
        ("workload.rate", "delivery.p99 against workload.rate"),
    ):
        title = named.plot(x=x, ax=Figure().subplots()).get_title(loc="left").splitlines()
        assert title[:2] == ["How many routers?", text]
    assert "<b>tiny: How many routers?</b> · 6 designs" in named._repr_html_()


def test_text_values_are_drawn_at_equal_distances():
    sweep = make((("fast",), (1.0, 2.0), 1.0), (("slow",), (3.0, 4.0), 1.0), columns=("design",))
    ax = sweep.plot(x="design", ax=Figure().subplots())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["fast", "slow"]


def test_picture_is_saved_or_refused(tmp_path):
    assert SWEEP.save_plot(tmp_path / "one.svg").stat().st_size > 1000
    with pytest.raises(imsim.UsageError, match="plot"):
        SWEEP.save_plot(tmp_path / "one.tiff2")
    with pytest.raises(imsim.UsageError, match="unknown column 'hue'"):
        SWEEP.plot(hue="hue")


def test_texts_are_short():
    assert "101 [88.29, 113.7]" in str(SWEEP)
    assert "null in 1 of 2" in str(SWEEP)
    assert "(in row 1)" in "".join(SWEEP.notes)
    assert "<b>tiny</b> · 6 designs" in SWEEP._repr_html_()
    assert repr(SWEEP) == "<Sweep of tiny over topology.routers, workload.rate: 6 designs>"
    point = SWEEP.to_json_dict()["points"][1]
    assert point["values"] == {"topology.routers": 1, "workload.rate": 2.0}
    assert point["metrics"]["delivery.p99"] == {"mean": None, "low": None, "high": None, "null": 1}
