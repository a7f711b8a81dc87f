"""`imsim runs` and `imsim.runs`: lists, one run, runs side by side, and deletion with and without a terminal."""

from __future__ import annotations

import importlib
import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

import imsim
from imsim.cli import cli
from imsim.core.exceptions import UsageError


@pytest.fixture(scope="module")
def one():
    return imsim.simulate("office", duration="1s", progress=False)


@pytest.fixture
def results(one, tmp_path, monkeypatch):
    """Write a valid, an invalid and a partial run, which started 10, 5 and 0 days ago. Return their paths."""
    monkeypatch.chdir(tmp_path)
    now = datetime.now(UTC)
    more = (
        {},
        {"world": "live", "valid": False, "invalid_because": "late", "server": {"name": "ejabberd"}, "adapter": "xmpp"},
        {"partial": True, "scenario": "other"},
    )
    paths = []
    for number, (days, entries) in enumerate(zip((10, 5, 0), more, strict=True)):
        changed = {"run": f"run-{number}-aaaaa{number}", "started": (now - timedelta(days=days)).isoformat()}
        paths.append(imsim.Run(one.tables, one.scenario, one.manifest | changed | entries).write("results"))
    return paths


@pytest.fixture
def command():
    """Return a function that runs `imsim runs ...` and returns its output. `error` is the expected error."""

    def run(*arguments: object, error: str | None = None, answer: str | None = None) -> str:
        found = CliRunner().invoke(cli, ["runs", *map(str, arguments)], input=answer)
        if error is None:
            assert found.exception is None, found.exception
        else:
            assert isinstance(found.exception, UsageError)
            assert re.search(error, str(found.exception)), found.exception
        return found.output

    return run


@pytest.fixture
def terminal(monkeypatch):
    class Terminal:
        stdin = stdout = type("Stream", (), {"isatty": staticmethod(lambda: True)})

    monkeypatch.setattr(importlib.import_module("imsim.cli.runs"), "sys", Terminal)


def test_list_shows_a_line_for_each_run(command, results, one):
    lines = [line.split() for line in command().splitlines()]
    assert lines[0][:2] == ["run", "started"]
    assert [line[0] for line in lines[1:]] == ["aaaaa0", "aaaaa1", "aaaaa2"]
    assert [line[-1] for line in lines[1:]] == ["valid", "invalid", "partial"]
    assert "ejabberd" in lines[2]
    summary = one.summary().loc["delivery"]
    assert f"{summary['p50']:,.3f}" in lines[1]
    assert f"{summary['p99']:,.3f}" in lines[1]
    assert command() == command("list") == command("list", "results")


def test_list_shows_runs_without_summary_and_other_folders(command, results):
    manifest = json.loads((results[0] / "manifest.json").read_text())
    del manifest["summary"]
    (results[0] / "manifest.json").write_text(json.dumps(manifest))
    (results[1] / "manifest.json").write_text("[]")
    Path("results/sweep-office").mkdir()
    listed = command()
    assert re.search(r"^aaaaa0 .* - +- +- +- ", listed, re.MULTILINE)
    assert re.search(r"^run-1-aaaaa1: damaged: ", listed, re.MULTILINE)
    assert re.search(r"^sweep-office: foreign: ", listed, re.MULTILINE)
    printed = json.loads(command("--json"))
    assert [run["run"] for run in printed["runs"]] == [results[0].name, results[2].name]
    assert printed["runs"][0]["delivery.p99"] is None
    assert {other["kind"] for other in printed["others"]} == {"damaged", "foreign"}


def test_list_filters(command, results):
    def names(*options):
        return [run["run"] for run in json.loads(command("list", *options, "--json"))["runs"]]

    assert names("--scenario", "other") == [results[2].name]
    assert names("--invalid") == [results[1].name]
    assert names("--invalid", "--scenario", "other") == []
    assert command("list", "--scenario", "nothing") == "no runs in results\n"


def test_show_prints_origin_numbers_and_warnings(command, results):
    shown = command("show", "aaaaa1")
    assert shown.startswith("imsim: warning: INVALID: late\n") or "INVALID: late" in shown
    assert "invalid run of office, live against ejabberd, seed 1" in shown
    assert "ms after warm-up" in shown
    assert json.loads(command("show", "run-0", "--json"))["seed"] == 1
    command("show", "nothing", error="no run in results has this name")


def test_show_in_another_folder(command, results, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert "partial run of" in command("show", "latest", "--dir", tmp_path / "results")
    assert "partial run of" in command("show", tmp_path / results[2])


def test_compare_is_the_same_as_the_command_compare(command, results):
    compared = command("compare", "aaaaa0", "aaaaa1", "latest")
    assert compared == CliRunner().invoke(cli, ["compare", *map(str, results)]).output
    assert len(json.loads(command("compare", "run-0", "run-1", "--json"))["runs"]) == 2
    command("compare", "run-0", error="expected two runs")


def test_delete_without_terminal_is_a_dry_run(command, results):
    printed = command("delete", "run-0")
    assert "aaaaa0" in printed
    assert "nothing is deleted; --yes deletes 1 run, " in printed
    assert json.loads(command("delete", "run-0", "--json"))["to_delete"] == [str(results[0])]
    assert all(path.exists() for path in results)
    assert "deleted 1 run, " in command("delete", "run-0", "aaaaa0", "--yes")
    assert [path.exists() for path in results] == [False, True, True]


def test_delete_asks_on_terminal(command, results, terminal):
    assert "nothing is deleted" in command("delete", "run-0", answer="n\n")
    assert "nothing is deleted" in command("delete", "run-0", answer="\n")
    assert results[0].exists()
    assert "deleted 1 run" in command("delete", "run-0", answer="y\n")
    assert not results[0].exists()


@pytest.mark.parametrize(
    ("options", "deleted"),
    [
        (("--keep", 1), {0, 1}),
        (("--keep", 0), {0, 1, 2}),
        (("--keep", 5), set()),
        (("--older-than", "7d"), {0}),
        (("--older-than", "24h"), {0, 1}),
        (("--older-than", "1d", "--keep", 2), {0}),
        (("--older-than", "11d", "--keep", 0), set()),
    ],
)
def test_delete_by_number_and_age(command, results, options, deleted):
    printed = json.loads(command("delete", *options, "--yes", "--json"))
    assert {results.index(Path(path)) for path in printed["deleted"]} == deleted
    assert {number for number, path in enumerate(results) if not path.exists()} == deleted


def test_delete_keeps_what_is_not_only_a_run(command, results):
    (results[0] / "notes.txt").write_text("mine")
    Path("results/data").mkdir()
    Path("results/.run-9.partial").mkdir()
    printed = command("delete", "--keep", 0, "--yes")
    assert "kept: results/run-0-aaaaa0: it has files that imsim did not write: notes.txt" in printed
    assert {path.name for path in Path("results").iterdir()} == {"run-0-aaaaa0", "data", ".run-9.partial"}
    command("delete", "run-0", "--yes", error="notes.txt")
    command("delete", "data", "--yes", error="data: foreign")


def test_delete_refuses_all_if_one_is_wrong(command, results):
    command("delete", "run-0", "nothing", "--yes", error="nothing: no run")
    command("delete", "--yes", error="expected either runs")
    command("delete", "run-0", "--keep", 1, error="expected either runs")
    for age in ("soon", "d", "-1d", "1e3d"):
        command("delete", "--older-than", age, error="--older-than: .*7d")
    assert all(path.exists() for path in results)


def test_frame_has_a_row_for_each_run(results, one):
    table = imsim.runs()
    assert table.index.tolist() == [path.name for path in results]
    assert table["state"].tolist() == ["valid", "invalid", "partial"]
    assert table.loc[results[0].name, "delivery.p99"] == pytest.approx(one.summary().loc["delivery", "p99"])
    assert (datetime.now(UTC) - table["started"].iloc[-1]) < timedelta(hours=1)
    assert imsim.read_run(table["path"].iloc[0]).digest == one.digest
    (results[1] / "manifest.json").write_text("[]")
    with pytest.warns(UserWarning, match="run-1-aaaaa1: damaged"):
        assert len(imsim.runs("results")) == 2
    Path("empty").mkdir()
    empty = imsim.runs("empty")
    assert (len(empty), empty.columns.tolist()) == (0, table.columns.tolist())
    assert empty.dtypes["messages"] == "Int64"


def test_summary_of_manifest_does_not_change_digest(results, one):
    run = imsim.read_run(results[0], verify=True)
    assert run.digest == one.digest
    assert run.manifest["summary"]["messages"] == len(run.messages)
    assert run.manifest["summary"]["delivery_ms"]["p99"] == run.to_json_dict()["delivery_ms"]["p99"]


def test_a_thousand_runs_are_listed_in_a_moment(command, results):
    text, made = (results[0] / "manifest.json").read_text(), Path("many")
    for number in range(1000):
        folder = made / f"run-{number}"
        folder.mkdir(parents=True)
        for file in results[0].iterdir():
            (folder / file.name).hardlink_to(file)
        (folder / "manifest.json").unlink()
        (folder / "manifest.json").write_text(text.replace("run-0-aaaaa0", folder.name))
    start = time.process_time()
    assert len(json.loads(command("list", made, "--json"))["runs"]) == 1000
    assert time.process_time() - start < 2
