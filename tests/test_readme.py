"""The README is executed: its Python, its commands and its scenario. (Locust's in tests/load/test_locustfiles.py.)"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

import imsim
from imsim.scenario import Scenario

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for fence, text in fenced if fence == language]


COMMANDS = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def server():
    with imsim.serve("office") as running:
        yield running


def test_the_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict[str, object] = {"__name__": "__main__"}  # as in a notebook
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    matplotlib.pyplot.close("all")
    assert names["live"].path.parent == Path("results")


@pytest.mark.parametrize("text", blocks("toml"))
def test_the_scenarios_are_some(text, tmp_path):
    file = tmp_path / "readme.toml"
    file.write_text(text)
    run = imsim.simulate(Scenario.load(file, {"duration": 6.0}))
    assert len(run.messages)
    assert set(run.deliveries.outcome) - {"absent"} == {"delivered"}


def test_all_commands_are_tried():
    assert {line.split()[0] for line in COMMANDS} == {"pip", "imsim", "curl", "locust"}
    assert {line.split()[1] for line in COMMANDS if line.startswith("imsim ")} >= set(RUN)


RUN = ("simulate", "compare", "sweep", "capacity", "load", "faultsearch")
MANY = ("--replications", "--vary", "--budget", "--seeds")
SHORTER = {"--duration 10": "--duration 2", "--seeds 60": "--seeds 9"}


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith(tuple(f"imsim {name}" for name in RUN))])
def test_the_commands_run(line, server, command):
    for told, tried in {"ws://127.0.0.1:8765": server.url, **SHORTER}.items():
        line = line.replace(told, tried)
    _, *arguments = shlex.split(line)
    if any(option in arguments for option in MANY):
        arguments += ["--jobs", "1"]  # changes no result, and saves the start of the processes
    result = command(*arguments)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("imsim serve")])
def test_the_server_command_serves(line, tmp_path):
    arguments = shlex.split(line.replace("8765", "0"))
    command = [sys.executable, "-u", "-m", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert any(line.startswith("listening on ws://") for line in process.stdout)
        process.terminate()
    assert process.returncode == 0
