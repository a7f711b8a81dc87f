"""All commands side by side: the length of their help, their examples, and their JSON."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import imsim
from imsim.cli import cli


def _leaves(group: click.Group, name: str = "") -> dict[str, click.Command]:
    """All commands that do something, by name: "load", or "adapter check" for a command in a group."""
    found: dict[str, click.Command] = {}
    for one, command in group.commands.items():
        inside = isinstance(command, click.Group)
        found |= _leaves(command, f"{name}{one} ") if inside else {f"{name}{one}": command}
    return found


LEAVES = _leaves(cli)
COMMANDS = sorted(LEAVES)
GROUPS = sorted({name.split()[0] for name in COMMANDS} - set(COMMANDS))

#: The options that several commands share.
SHARED = {
    "--set": ("simulate", "replicate", "compare", "sweep", "capacity", "serve", "load", "faultsearch"),
    "--seed": ("simulate", "replicate", "compare", "sweep", "capacity", "load"),
    "--duration": ("simulate", "replicate", "compare", "sweep", "capacity", "load"),
    "--replications": ("replicate", "compare", "sweep", "capacity", "baseline save"),
    "--precision": ("replicate", "compare", "sweep"),
    "--max-replications": ("replicate", "compare", "sweep", "capacity"),
    "--metric": ("replicate", "compare", "sweep", "capacity"),
    "--jobs": (
        "replicate",
        "compare",
        "sweep",
        "capacity",
        "faultsearch",
        "check",
        "baseline save",
        "baseline diff",
    ),
    "--plot": ("simulate", "compare", "sweep", "capacity", "runs compare"),
    "--report": ("simulate", "replicate", "compare", "sweep", "capacity", "load", "runs compare"),
    "--json": COMMANDS,
}


def help_of(*command: str) -> list[str]:
    result = CliRunner().invoke(cli, [*command, "--help"], prog_name="imsim", terminal_width=100)
    assert result.exit_code == 0
    return result.output.splitlines()


def examples_of(*command: str) -> list[str]:
    lines = help_of(*command)
    return [line.strip() for line in lines[lines.index("  Examples:") + 1 :]]


@pytest.mark.parametrize("command", [(), *(tuple(name.split()) for name in [*COMMANDS, *GROUPS])], ids=" ".join)
def test_help_fits_one_screen_and_ends_with_two_examples(command):
    lines = help_of(*command)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    examples = examples_of(*command)
    assert len(examples) == 2
    assert all(example.startswith(" ".join(("imsim", *command))) for example in examples)


@pytest.mark.parametrize("line", [line for name in [*COMMANDS, *GROUPS] for line in examples_of(*name.split())])
def test_examples_are_valid_command_lines(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, name, *arguments = shlex.split(line.partition(" > ")[0])
    if name in GROUPS:
        name, *arguments = f"{name} {arguments[0]}", *arguments[1:]
    command = LEAVES[name]
    parameters = command.make_context(name, arguments, parent=click.Context(cli)).params
    if scenario := parameters.get("scenario"):
        imsim.Scenario.load(scenario, parameters.get("overrides", ()))
    if budget := parameters.get("budget"):
        imsim.Budget(budget)


@pytest.mark.parametrize("option", SHARED)
def test_commands_share_options(option):
    have = {name: next((one for one in LEAVES[name].params if option in one.opts), None) for name in COMMANDS}
    assert {name for name, found in have.items() if found} == set(SHARED[option])
    assert len({found.help for found in have.values() if found and option != "--out"}) == 1, "the same words"


def test_version_is_printed(command):
    result = command("--version")
    assert (result.returncode, result.stdout.split()[0]) == (0, "imsim")


@pytest.fixture
def runs(tmp_path):
    return [str(imsim.simulate("office", duration="1s", seed=seed, out=tmp_path / "runs").path) for seed in (1, 2)]


FEW = ("--duration", "1s", "--set", "population.users=20", "--jobs", "1", "--replications")
JSON = {
    "simulate": ("simulate", "--duration", "1s"),
    "replicate": ("replicate", "office", *FEW, "2"),
    "compare": ("compare", "office", "--set-b", "topology.routers=4", *FEW, "2"),
    "sweep": ("sweep", "office", "--vary", "topology.routers=1,2", *FEW, "2"),
    "capacity": ("capacity", "office", "--budget", "lost <= 0", "--high", "0.3", *FEW, "5"),
    "faultsearch": ("faultsearch", "--seeds", "2", "--jobs", "1"),
    "faultsearch --replay": ("faultsearch", "--replay", "1"),
    "schema": ("schema",),
    "schema --out": ("schema", "--out", "wire.json"),
    "adapter list": ("adapter", "list"),
    "adapter check": ("adapter", "check", "load.chat:ChatAdapter", "--url=ws://127.0.0.1:1", "--patience=0.1"),
    "scenarios": ("scenarios",),
    "scenarios NAME": ("scenarios", "office"),
}


@pytest.mark.parametrize("name", JSON)
def test_json_is_one_object(command, name):
    result = command(*JSON[name], "--json")
    assert result.returncode in (0, 1), result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert isinstance(json.loads(result.stdout), dict)


def test_json_of_runs_is_one_object(command, runs):
    printed = json.loads(command("compare", *runs, "--json").stdout)
    assert [run["seed"] for run in printed["runs"]] == [1, 2]
    assert set(json.loads(command("report", *runs, "--json").stdout)) == {"file", "bytes"}


RUNS = {
    "runs list": ("runs", "list", "runs"),
    "runs show": ("runs", "show", "latest", "--dir", "runs"),
    "runs compare": ("runs", "compare", "latest", "latest", "--dir", "runs"),
    "runs delete": ("runs", "delete", "latest", "--dir", "runs"),
}


@pytest.mark.parametrize("name", RUNS)
def test_json_of_commands_for_runs_is_one_object(name, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, [*RUNS[name], "--json"])
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)
    assert isinstance(json.loads(result.stdout), dict)


def test_json_of_server_load_and_demo_is_one_object(command, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "imsim", "serve", "--port", "0", "--json"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            first = json.loads(server.stdout.readline())
            assert set(first) == {"url", "db", "scenario", "ignored"}
            loaded = command("load", "office", "--url", first["url"], "--duration", "1s", "--report=a.html", "--json")
            assert json.loads(loaded.stdout)["world"] == "live"
            assert "Load generator" in (tmp_path / "a.html").read_text()
        finally:
            server.terminate()
        assert server.stdout.read() == ""


def test_every_command_with_json_is_tried():
    tried = {name for name in COMMANDS for one in (*JSON, *RUNS) if f"{one} ".startswith(f"{name} ")}
    tried |= {"serve", "load", "demo", "report"}
    tried |= {name for name in COMMANDS if name.startswith(("check", "baseline"))}  # in test_cli_check.py
    assert tried == set(COMMANDS)


def test_scenarios_json_has_titles(command):
    assert json.loads(command("scenarios", "--json").stdout) == {"scenarios": imsim.Scenario.presets()}
    printed = json.loads(command("scenarios", "office", "--json").stdout)
    assert imsim.Scenario.from_toml(printed["toml"], name="office") == imsim.Scenario.load("office")
