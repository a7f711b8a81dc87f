"""Sweeps: the same rows whatever the number of workers, and however often they were interrupted."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest

import imsim
from imsim.experiments import fingerprint

BASE = imsim.Scenario(name="base", duration=1.0, drain=1.0).with_({"population.users": 20, "workload.rate": 1.0})
OVER = {"topology.routers": [1, 2], "workload.rate": [1.0, 3.0]}


@pytest.fixture(scope="module")
def whole():
    return imsim.sweep(BASE, OVER, replications=2, jobs=1)


def lines(folder):
    return (folder / "finished.jsonl").read_text().splitlines()


def test_the_rows_are_the_same_whatever_the_number_of_workers(whole):
    again = imsim.sweep(BASE, OVER, replications=2, jobs=2)
    assert again.frame.equals(whole.frame)
    assert again.samples.equals(whole.samples)
    assert whole.samples.digest.is_unique


def test_every_row_is_that_of_its_scenario(whole):
    alone = imsim.simulate(BASE.with_({"topology.routers": 2, "workload.rate": 3.0}), replications=2, jobs=1)
    assert whole[3]["delivery.p99"] == alone["delivery.p99"]
    assert whole.samples.digest[6:].tolist() == alone.frame.digest.tolist()


def test_designs_meet_the_same_luck(whole):
    seeds = whole.samples.groupby("topology.routers").seed.unique()
    assert list(seeds[1]) == list(seeds[2])


def test_a_sweep_that_is_killed_goes_on_where_it_was(whole, tmp_path):
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
            assert process.poll() is None
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


def test_only_what_is_missing_is_run(whole, tmp_path, monkeypatch):
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


def test_what_cannot_be_told_apart_is_run_again_and_said(tmp_path):
    numbers = (number for number in range(100))

    def drawn(run):
        return next(numbers)

    for expected in ([0.0, 1.0], [2.0, 3.0]):
        with pytest.warns(UserWarning, match="out: metric drawn refers to a generator .* nothing is taken"):
            found = imsim.sweep(BASE, [{}], replications=2, jobs=1, metrics=[drawn], out=tmp_path)
        assert found[0].values("drawn") == expected
    assert (tmp_path / "finished.jsonl").read_text() == ""


def test_names_and_titles_make_no_other_design():
    assert fingerprint.design(BASE) == fingerprint.design(BASE.with_({"title": "other", "seed": 5}))
    assert fingerprint.design(BASE) != fingerprint.design(BASE.with_({"workload.rate": 2.0}))
    office = imsim.Scenario.load("office")
    assert fingerprint.design(office) == fingerprint.design(imsim.Scenario.from_toml(office.to_toml()))


def test_functions_are_the_same_if_their_source_and_what_they_close_over_are():
    def make(bound):
        return lambda run: run.messages.size > bound

    assert fingerprint.function(make(1)) == fingerprint.function(make(1))
    assert fingerprint.function(make(1)) != fingerprint.function(make(2))
    assert fingerprint.function(imsim.simulate) != fingerprint.function(imsim.sweep)


def test_fingerprints_are_the_same_in_another_process():
    program = (
        "import imsim; from imsim.experiments import fingerprint as f; "
        "print(f.design(imsim.Scenario.load('office')), f.program())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [fingerprint.design(imsim.Scenario.load("office")), fingerprint.program()]


def test_a_precision_is_reached_for_each_design():
    def sent(run):
        return len(run.messages) + 100_000 * (run.scenario.topology.routers == 2)

    options = {"replications": 3, "max_replications": 7, "metrics": [sent], "jobs": 1}
    found = imsim.sweep(BASE, {"topology.routers": [1, 2]}, precision={"sent": 0.05}, **options)
    assert [len(found[0]), len(found[1])] == [7, 3]


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(imsim.UsageError, match="out"):
        imsim.sweep(BASE, OVER, out=tmp_path / "file")
