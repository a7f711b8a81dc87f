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


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Changes no result, and saves the start of the others."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")


#: Seconds of the ten that an office is.
SHORT = {'load("office")': 'load("office", {"duration": 3})', 'load("office", {': 'load("office", {"duration": 3, '}


def test_the_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict[str, object] = {"__name__": "__main__"}  # as in a notebook
    text = "".join(blocks("python"))
    text = re.sub(r"load\(\"office\"(?:\)|, {)", lambda call: SHORT[call[0]], text)
    exec(compile(text, "README.md", "exec"), names)
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


RUN = ("simulate", "replicate", "compare", "sweep", "capacity", "faultsearch")
SMALLER = {
    "--seeds 60": "--seeds 5",
    "--duration 10": "--duration 2",
    " office": " office --set population.users=30",
    "rate=3": "rate=3 --set duration=3",
}


def smaller(line: str) -> list[str]:
    for told, tried in SMALLER.items():
        line = line.replace(told, tried)
    return shlex.split(line)[1:]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith(tuple(f"imsim {name}" for name in RUN))])
def test_the_commands_run(line, command):
    result = command(*smaller(line))
    assert result.returncode == 0, result.stderr


def test_the_server_command_serves_the_load_command(command, tmp_path):
    (serve,) = [line for line in COMMANDS if line.startswith("imsim serve")]
    (load,) = [line for line in COMMANDS if line.startswith("imsim load")]
    server = [sys.executable, "-u", "-m", *shlex.split(serve.replace("8765", "0"))]
    with subprocess.Popen(server, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        url = next(line.split()[2] for line in process.stdout if line.startswith("listening on "))
        result = command(*smaller(load.replace("ws://127.0.0.1:8765", url)))
        process.terminate()
    assert result.returncode == 0, result.stderr
    assert process.returncode == 0
