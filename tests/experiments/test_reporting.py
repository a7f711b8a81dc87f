"""Tests of the reports of experiments, and of the commands that write reports."""

from __future__ import annotations

import json
import re

import pytest

import imsim
from imsim.analysis.budgets import Budget
from imsim.experiments import LiveRun, live_capacity
from imsim.experiments.reporting import part_of

MANY = {"replications": 3, "jobs": 1, "duration": "1s", "progress": False}


@pytest.fixture(scope="module")
def office() -> imsim.Scenario:
    return imsim.Scenario.load("office", {"population.users": 20, "warmup": 0})


def text_of(part) -> str:
    """Return the texts of a part, and the cells of its tables."""
    texts = [part.kind, part.title, part.headline, *part.status, *part.tiles.values(), *part.notes]
    for section in part.sections:
        texts += [section.title, *section.texts]
        for table in section.tables:
            texts += [table.caption, *table.columns, *(cell.text for row in table.rows for cell in row), *table.notes]
    return " ".join(texts)


def test_replications_show_means_with_intervals(office):
    found = imsim.replicate(office, **MANY)
    text = text_of(part_of(found))
    assert f"delivery.p99 (ms) is {found['delivery.p99']}: the mean over 3 replications." in text
    assert f"ack.mean (ms) {found['ack.mean']}" in text
    assert found.samples[2].digest[:16] in text


def test_comparison_shows_the_answer_and_the_fields(office, tmp_path):
    found = imsim.compare(office, office.replace({"topology.storage.service.append": "80ms"}), **MANY)
    part = part_of(found)
    assert part.headline == f"{found['delivery.p99']}."
    text = text_of(part)
    assert re.search(r"ack.mean \(ms\) \S+ \+\d+\.\d% \[", text)
    assert "topology.storage.service.append lognormal median=1ms p99=5ms 80ms" in text
    assert imsim.report(found, tmp_path / "a.html").stat().st_size < 200_000


def test_sweep_shows_every_design(office, tmp_path):
    found = imsim.sweep(office, {"topology.routers": [1, 2]}, **MANY)
    text = text_of(part_of(found))
    assert "2 designs" in text
    assert all(str(one["delivery.p99"]) in text for one in found.replications)
    assert "svg" in imsim.report([found, found[0]], tmp_path / "a.html").read_text()


def test_capacity_shows_the_knee(office, tmp_path):
    found = imsim.capacity(office, "delivery.mean < 1s", high=0.3, duration="1s", jobs=1, progress=False)
    part = part_of(found)
    assert part.headline == f"{found.verdict}."
    assert part.tiles == {"budget": "delivery.mean < 1s", "keeps": "0.3", "breaks": "none known"}
    assert "The knee" in imsim.report(found, tmp_path / "a.html").read_text()


def test_capacity_of_a_server_shows_each_run_and_its_generator(office, tmp_path):
    def measure(design: imsim.Scenario) -> LiveRun:
        rate = design.workload.rate
        generator = {"p50": 0.1, "p95": 1.0, "p99": 2.5, "cpu": 0.4}
        values = {"delivery.p99": 100.0 * rate, "messages": 100.0}
        return LiveRun(values, spoilt="<b>no CPU" if rate > 3 else "", generator=generator)

    measures = imsim.api.Sampling.of(["delivery.p99", "messages"], replications=2, most=2).measures
    found = live_capacity(
        office, Budget("delivery.p99 < 900ms"), "workload.rate", measure, lambda: None, measures,
        url="ws://127.0.0.1:1", tolerance=0.5,
    )  # fmt: skip
    part = part_of(found)
    assert "the load generator or its computer gives way" in part.headline
    text = text_of(part)
    assert "2.5 0.4 yes" in text
    assert "NO <b>no CPU" in text
    assert "server ws://127.0.0.1:1" in text
    source = imsim.report(found, tmp_path / "a.html").read_text()
    assert "<b>no" not in source
    assert "&lt;b&gt;no CPU" in source


def test_commands_write_reports(command, tmp_path):
    quick = ("--set", "population.users=10", "--duration", "1s")
    many = (*quick, "--replications", "2", "--jobs", "1")
    for arguments in (
        ("simulate", "office", *quick, "--report", "a.html"),
        ("replicate", "office", *many, "--report", "b.html"),
        ("compare", "office", "--set-b", "topology.routers=4", *many, "--report", "c.html"),
        ("sweep", "office", "--vary", "topology.routers=1,2", *many, "--report", "d.html"),
        ("capacity", "office", "--budget", "lost <= 0", "--high", "0.3", *quick, "--jobs", "1", "--report", "e.html"),
    ):
        result = command(*arguments)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / arguments[-1]).read_text().startswith("<!doctype html>")
    (run,) = (tmp_path / "results").glob("*-sim-office-*")
    result = command("report", str(run), "--title", "A & B", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"file": "report.html", "bytes": (tmp_path / "report.html").stat().st_size}
    assert "<h1>A &amp; B</h1>" in (tmp_path / "report.html").read_text()
    assert command("compare", str(run), str(run), "--report", "f.html").returncode == 0
    assert "the same digest" in (tmp_path / "f.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("report", "no"), "no is not a run folder: it does not exist"),
        (("report", "no", "-o", "a.pdf"), "-o a.pdf: expected a name that ends in .html"),
        (("report",), "Missing argument"),
        (("simulate", "--report", "a.png"), "--report a.png: expected a name that ends in .html"),
        (("simulate", "--report", "no/a.html"), "--report no/a.html: the folder does not exist; make it first"),
    ],
)
def test_command_refuses_wrong_names_before_it_runs(command, tmp_path, arguments, error):
    result = command(*arguments)
    assert (result.returncode, error in result.stderr) == (2, True), result.stderr
    assert not list(tmp_path.iterdir())
