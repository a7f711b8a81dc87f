"""The commands that simulate, in this process: their output and their errors."""

from __future__ import annotations

import json
import re

import pytest

import imsim
from imsim.cli import cli

SHORT = ("--set", "duration=1", "--set", "warmup=0", "--set", "drain=1", "--jobs", "1")


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Return a function that runs `imsim ...` in an empty folder and returns its output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        cli.main(args=[*map(str, arguments)], prog_name="imsim", standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_replicate_prints_intervals(command, tmp_path):
    arguments = ("replicate", "office", *SHORT, "--replications", "2", "--metric", "delivery.p99.9")
    table = command(*arguments)
    assert re.search(r"^ +mean +low +high +relative", table)
    assert "note: an interval from 2 replications" in table
    printed = json.loads(command(*arguments, "--json"))
    assert (printed["replications"], len(printed["digests"]), printed["precise"]) == (2, 2, None)
    assert printed["metrics"]["delivery.p99.9"]["low"] is None  # the runs are too short for it
    found = printed["metrics"]["delivery.mean"]
    assert found["low"] < found["mean"] < found["high"]
    assert list(tmp_path.iterdir()) == []


def test_simulate_spans_prints_breakdown(command):
    arguments = ("simulate", *SHORT[:-2], "--spans")
    printed = command(*arguments)
    assert "where the time of deliveries went (ms; the means add up)" in printed
    assert re.search(r"^ *link +uplink( +\d+\.\d+){5}$", printed, re.MULTILINE)
    run = imsim.read_run(json.loads(command(*arguments, "--json"))["run"])
    assert len(run.spans) > len(run.deliveries)
    assert run.digest in printed


def test_capacity_of_missing_server_is_an_error_at_once(command, tmp_path):
    arguments = ("capacity", "office", "--budget", "delivery.p99 < 200ms", "--url", "ws://127.0.0.1:1")
    with pytest.raises(imsim.RunError, match="no server at ws://127"):
        command(*arguments)
    with pytest.raises(imsim.UsageError, match="adapter: unknown name"):
        command(*arguments, "--adapter", "telepathy")
    with pytest.raises(imsim.UsageError, match="--option: must be NAME=VALUE"):
        command(*arguments, "--option", "fast")


def test_plot_option_writes_picture(command, tmp_path):
    short, picture = SHORT[:-2], tmp_path / "x.png"
    for arguments in (
        ("simulate", *short),
        ("compare", "office", *SHORT, "--set-b", "topology.routers=4", "--replications", "2"),
        ("capacity", "office", *SHORT, "--budget", "delivery.p99 < 10s", "--high", "0.3", "--replications", "5"),
    ):
        command(*arguments, "--plot", picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.unlink()
    run = json.loads(command("simulate", *short, "--json"))["run"]
    command("compare", run, run, "--plot", picture)
    assert picture.exists()


def test_bad_picture_is_refused_before_any_run(command, tmp_path):
    for name, problem in (("x.gif", r"ends in one of \.png, \.svg, \.pdf"), ("no/x.png", "the folder does not exist")):
        with pytest.raises(imsim.UsageError, match=rf"^--plot {name}: .*{problem}"):
            command("simulate", *SHORT[:-2], "--plot", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("precision", "reached"), [("lost=0.1", True), ("delivery.max=0.001", False), ("1e-9", False)])
def test_precision_option_takes_share_or_metric(command, precision, reached):
    limits = ("--replications", "2", "--max-replications", "2")
    assert (
        json.loads(command("replicate", "office", *SHORT, *limits, "--precision", precision, "--json"))["precise"]
        is reached
    )


def test_compare_prints_difference(command):
    arguments = ("compare", "office", *SHORT, "--set-b", "topology.routers=4", "--replications", "2")
    printed = command(*arguments)
    assert printed.splitlines()[1:4] == [
        "A: routers = 2",
        "B: routers = 4",
        "B differs from A in topology.routers: 2 -> 4",
    ]
    printed = json.loads(command(*arguments, "--json"))
    assert printed["changes"] == {"topology.routers": ["2", "4"]}
    assert printed["metrics"]["messages"]["difference"]["mean"] == 0


def test_compare_shows_runs_side_by_side(command):
    runs = [imsim.simulate("office", seed=seed, duration=0.5, out="results").path for seed in (1, 2)]
    assert re.search("^ +seed 1 +seed 2$", command("compare", *runs), re.MULTILINE)
    assert [run["seed"] for run in json.loads(command("compare", *runs, "--json"))["runs"]] == [1, 2]
    assert len(command("compare", *runs, runs[0]).splitlines()[0].split("  ")) > 3, "more than two runs"
    with pytest.raises(imsim.UsageError, match="is a run and office is not"):
        command("compare", runs[0], "office")
    with pytest.raises(imsim.UsageError, match="is a run; expected another run"):
        command("compare", runs[0], "--set-b", "topology.routers=4")
    with pytest.raises(imsim.UsageError, match="--set-b, --replications: for scenarios only"):
        command("compare", *runs, "--set-b", "topology.routers=4", "--replications", "2")


def test_compare_shows_runs_of_different_servers(command, capsys, tmp_path):
    """One server sends no acks; the run of the other one is invalid."""
    paths = []
    for server in (
        {"adapter": "mqtt", "features": ["groups"]},
        {
            "adapter": "xmpp",
            "features": ["ack"],
            "server": {"name": "ejabberd"},
            "valid": False,
            "invalid_because": "late",
        },
    ):
        run = imsim.simulate("office", duration=1)
        run.manifest |= server | {"world": "live", "run": server["adapter"]}
        paths.append(run.write("results"))
    shown = command("compare", *paths, "--plot", "both.png")
    lines = [line.split() for line in shown.splitlines()]
    assert lines[0] == ["mqtt", "ejabberd"]
    assert ["valid", "yes", "no"] in lines
    assert next(line for line in lines if line[0] == "ack.p50")[1] == "-"
    assert (tmp_path / "both.png").exists()
    cli.main(args=["compare", *map(str, paths), "--json"], prog_name="imsim", standalone_mode=False)
    printed = capsys.readouterr()
    found = json.loads(printed.out)["runs"]
    assert [run["server"] for run in found] == ["mqtt", "ejabberd"]
    assert [run["valid"] for run in found] == [True, False]
    assert found[0]["ack_ms"]["p50"] is None
    messages = [imsim.read_run(path).messages for path in paths]
    assert messages[0].merge(messages[1], on=["intent", "intended_at", "sender"]).shape[0] == len(messages[0])


def test_sweep_makes_table_picture_and_folder(command, tmp_path):
    arguments = ("sweep", "office", *SHORT, "--vary", "topology.routers=1,2", "--replications", "2")
    printed = command(*arguments, "--plot", "routers.svg")
    assert re.search(r"^1 +2 +[\d.]+ \[", printed, re.MULTILINE)
    assert (tmp_path / "routers.svg").exists()
    kept = (tmp_path / "results" / "sweep-office" / "finished.jsonl").read_text()
    with pytest.raises(imsim.UsageError, match=r"unknown metric 'p99' .*'delivery\.p99'"):
        command(*arguments, "--plot", "other.svg", "-y", "p99", "--out", "other")
    assert not (tmp_path / "other").exists(), "it is refused before anything is run"
    printed = json.loads(command(*arguments, "--json"))
    assert [point["values"] for point in printed["points"]] == [{"topology.routers": 1}, {"topology.routers": 2}]
    assert (tmp_path / "results" / "sweep-office" / "finished.jsonl").read_text() == kept


def test_capacity_prints_bracket(command):
    arguments = ("capacity", "office", *SHORT, "--budget", "delivery.mean < 1s", "--high", "0.5")
    assert "is kept up to workload.rate = 0.5 at least" in command(*arguments)
    printed = json.loads(command(*arguments, "--json"))
    assert (printed["keeps"], printed["breaks"]) == (0.5, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replicate", "office", "--precision", "ack.p95=2"], r"ack\.p95.*0\.05"),
        (["replicate", "office", "--replications", "2", "--metric", "latency"], r"latency.*delivery\.p50"),
        (["sweep", "office", "--vary", "topology.routers"], "topology.routers=1,2,4"),
        (["sweep", "office", "--vary", "topology.router=1"], "topology.router"),
        (["capacity", "office", "--budget", "delivery.p99 < 200"], "200ms"),
        (["capacity", "office", "--budget", "p99 < 200ms"], r"unknown metric 'p99'.*'delivery\.p99'"),
        (["capacity", "office", "--budget", "lost <= 0", "--over", "policies.ack"], r"policies\.ack"),
        (["compare", "office"], "--set-b"),
        (["compare", "office", "ofice"], "ofice.*office"),
        (["compare", "office", "mobile", "social"], "imsim sweep takes many"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_option_value_is_refused(command, arguments, words):
    with pytest.raises(imsim.UsageError, match=words):
        command(*arguments)
