"""The `imsim` command as a user types it: output, errors and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import imsim
from imsim.scenario import Constant, Scenario

JSON_KEYS = [
    "run", "world", "server", "valid", "invalid_because", "partial", "scenario", "seed", "digest", "messages",
    "deliveries", "delivered", "lost", "absent", "recalled", "shed", "received_lost", "duplicates", "warnings",
    "delivery_ms", "ack_ms", "confirmed_ms", "last_ms",
]  # fmt: skip


def fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Check the exit code, an empty stdout, and one line on stderr that contains these words."""
    assert (result.returncode, result.stdout) == (code, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


def test_simulate_warns_about_dropped_jobs(command):
    gateway = ("--set=topology.gateway.workers=1", "--set=topology.gateway.queue=1")
    crowded = (*gateway, "--set=topology.gateway.service.send=1s", "--set=duration=5s")
    result = command("simulate", "office", "--json", *crowded)
    found = json.loads(result.stdout)["warnings"]
    assert [line.split()[:2] for line in found] == [["gateway0", "dropped"], ["gateway1", "dropped"]]
    assert result.stderr.splitlines() == [f"imsim: warning: {line}" for line in found]


def test_simulate_writes_a_run_and_prints_a_table(command, tmp_path):
    result = command("simulate", "--set", "duration=2s")
    assert result.returncode == 0, result.stderr
    folder = re.search(r"^run +(\S+)$", result.stdout, re.MULTILINE)[1]
    run = imsim.read_run(tmp_path / folder)
    assert run.digest in result.stdout
    assert str(len(run.messages)) in result.stdout
    assert run.scenario.duration == 2.0
    assert "`imsim replicate` runs it under several seeds" in result.stdout
    behind = (run.messages.intended_at >= run.scenario.warmup * 1e9).sum()
    assert f"ack.p99 is based on {behind} latencies and needs 1,000: lengthen `duration`" in result.stdout


def test_simulate_json_has_documented_keys(command, tmp_path):
    result = command("simulate", "office", "--seed", "7", "--set", "duration=2", "--json", "--out", "here")
    printed = json.loads(result.stdout)
    assert list(printed) == JSON_KEYS
    assert list(printed["delivery_ms"]) == list(printed["ack_ms"]) == ["p50", "p95", "p99", "max", "mean"]
    assert (printed["world"], printed["scenario"], printed["seed"]) == ("sim", "office", 7)
    assert printed["delivered"] + printed["lost"] == printed["deliveries"]
    assert (tmp_path / printed["run"] / "messages.parquet").exists()
    assert Path(printed["run"]).parent == Path("here")


def test_scenario_is_named_after_file(command, tmp_path):
    (tmp_path / "mine.toml").write_text('duration = "2s"\n[population]\nusers = 5\n')
    assert json.loads(command("simulate", "mine.toml", "--json").stdout)["scenario"] == "mine"


def test_scenarios_lists_presets_and_prints_one(command, tmp_path):
    listed = command("scenarios").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(Scenario.presets())
    printed = command("scenarios", "office").stdout
    (tmp_path / "copy.toml").write_text(printed)
    assert Scenario.load(tmp_path / "copy.toml") == Scenario.load("office").model_copy(update={"name": "copy"})


def test_schema_prints_the_protocol_or_writes_it(command, tmp_path):
    printed = command("schema").stdout
    assert json.loads(printed) == imsim.schema()
    assert json.loads(command("schema", "--asyncapi").stdout) == imsim.schema(asyncapi=True)
    result = command("schema", "--out", "wire.json")
    assert (result.returncode, result.stdout) == (0, "")
    assert (tmp_path / "wire.json").read_text() == printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["schema", "--out", "no/such/folder/wire.json"], ["--out", "no/such/folder/wire.json"]),
        (["simulate", "ofice"], ["ofice", "office"]),
        (["simulate", "missing.toml"], ["missing.toml"]),
        (["simulate", "--set", "policies.ack=never"], ["policies.ack", "after_store", "never"]),
        (["simulate", "--set", "topology.router=4"], ["topology.router"]),
        (["simulate", "--set", "nonsense"], ["nonsense"]),
        (["simulate", "--seed", "minus one"], ["--seed"]),
        (["replicate", "office", "--precision", "high"], ["--precision", "high", "0.05"]),
        (["simulate", "--duration", "5 parsecs"], ["duration", "5 parsecs"]),
        (["simulat"], ["simulat", "simulate"]),
        (["load", "office"], ["--url"]),
        (["load", "office", "--url", "http://127.0.0.1:1"], ["ws://"]),
        (["load", "office", "--url", "ws://127.0.0.1:1", "--duration", "-1"], ["duration"]),
        (["scenarios", "nothing"], ["nothing", "office"]),
        (["serve", "--port", "99999"], ["port"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_usage_error_is_one_line_and_exit_code_2(command, arguments, words):
    fails(command(*arguments), 2, *words)


FULL_DISK = {
    "simulate office --duration 3s --out kept": "no space left at kept/",
    "simulate office --duration 1s --plot x.png": "plot: no space left at x.png",
    "schema --out wire.json": "--out: no space left at wire.json",
    "sweep office --vary topology.routers=1,2 --replications 2 --duration 1s --jobs 1 --out kept": (
        "out: no space left at kept/finished.jsonl"
    ),
    "faultsearch --replay 4 --save case.json": "case: no space left at case.json",
}


@pytest.mark.parametrize("line", FULL_DISK)
def test_full_disk_is_one_line_and_exit_code_1(command, tmp_path, file_sizes, line):
    """The finished part remains: the first replications, or the run whose picture cannot be written."""
    limit = 16_000 if "--plot" in line else 3_000 if "sweep" in line else 1_000
    with file_sizes(limit):
        result = command(*line.split())
    assert result.returncode == 1
    (error,) = result.stderr.splitlines()
    assert error.startswith(f"imsim: {FULL_DISK[line]}")
    kept = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    if "--plot" in line:
        assert "delivery" in result.stdout
        assert imsim.read_run(re.search(r"^run +(\S+)$", result.stdout, re.MULTILINE)[1]).scenario.duration == 1.0
    elif "sweep" in line:
        assert kept == ["kept/finished.jsonl"]
        entries = (tmp_path / kept[0]).read_text().splitlines()
        assert 1 <= len([entry for entry in entries if entry.endswith("}")]) < 4
        assert error.endswith("; finished runs are kept, and are not run again")
    else:
        assert kept == []


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device of Linux")
def test_full_standard_output_is_one_line_and_exit_code_1(command, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        result = command("scenarios")
    assert (result.returncode, result.stderr.splitlines()) == (
        1, ["imsim: no space left at the standard output; free some space there, or choose another place"]
    )  # fmt: skip


def test_closed_pipe_ends_the_command_quietly():
    """As in `imsim scenarios | head -1`. It runs in a new process, because Python flushes once more when it exits."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        arguments = [sys.executable, "-m", "imsim", "scenarios"]
        result = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


def test_unreadable_path_is_one_line(command):
    fails(command("compare", "x" * 5000, "office"), 2, "File name too long")


def test_broken_scenario_file_names_line(command, tmp_path):
    (tmp_path / "broken.toml").write_text("[population]\nusers = \n")
    fails(command("simulate", "broken.toml"), 2, "broken", "line 2")


def test_missing_server_is_exit_code_1(command):
    with socket.socket() as taken:  # bound but not listening: no other process gets the port, and no server answers
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}"
        fails(command("load", "office", "--url", url), 1, url, "imsim serve")


def test_used_port_is_exit_code_1(command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = command("serve", "--port", str(taken.getsockname()[1]))
    assert result.returncode == 1
    assert "is in use" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_wrong_database_file_is_exit_code_2(command, tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, " * 100)
    result = command("serve", "--port", "0", "--db", "notes.txt")
    assert result.returncode == 2
    assert "notes.txt" in result.stderr
    assert (tmp_path / "notes.txt").read_text().startswith("not a database")


def test_serve_ignores_workload_that_exceeds_limits(command):
    """The groups of the office exceed this limit, but a server starts without groups."""
    result = command("serve", "--port", "0", "--db", "notes.txt/x", "--set", "limits.group_size=2")
    assert "group_size" not in result.stderr
    assert "notes.txt" in result.stderr  # the error is about the database, not the workload


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (["serve", "--host", ""], "--host"),
        (["serve", "--host="], "--host"),
        (["serve", "--db", ""], "--db"),
        (["serve", "--tls-cert", "", "--tls-key", ""], "--tls-cert"),
        (["serve", "--key-file", ""], "--key-file"),
        (["serve", "--port", ""], "--port"),
        (["sweep", "office", "--vary", "seed=1", "--out", ""], "--out"),
        (["simulate", ""], "argument"),
    ],
)
def test_empty_argument_is_refused(command, line, name):
    """It comes from a variable that is not set, and must not become a default that is unsafe."""
    fails(command(*line), 2, f"imsim: {name}: must not be empty")


@pytest.mark.parametrize(
    ("options", "variable", "words"),
    [
        ([], "", ["IMSIM_KEY: must not be empty"]),
        (["--key-file", "empty"], "x", ["key file empty: must not be empty"]),
        (["--key-file", "gone"], "x", ["key file: cannot read gone"]),
        (["--key-file", "empty", "--key", "x"], "x", ["not both"]),
    ],
)
def test_bad_key_is_refused(command, monkeypatch, tmp_path, options, variable, words):
    monkeypatch.setenv("IMSIM_KEY", variable)
    (tmp_path / "empty").write_text("\n")
    fails(command("serve", "--port", "0", *options), 2, *words)
    fails(command("load", "office", "--url", "ws://127.0.0.1:1", *options), 2, *words)


def test_key_of_serve_comes_from_file_or_variable(command, monkeypatch, tmp_path):
    """The error about the length shows which key is used."""
    (tmp_path / "key").write_text("of file\n")
    monkeypatch.setenv("IMSIM_KEY", "of variable")
    for options, length in (([], 11), (["--key-file", "key"], 7), (["--key", "of option"], 9)):
        result = command("serve", "--host", "0.0.0.0", "--port", "0", *options)
        assert result.returncode == 2
        assert f"at least 16 characters there (got {length})" in result.stderr


def test_tls_from_end_to_end(command, monkeypatch):
    """Tokens go over https and messages over wss. A client that does not trust the certificate is refused."""
    certificate = str(Path(__file__).parent / "load" / "localhost.pem")  # the file also holds its key
    arguments = ["serve", "office", "--port", "0", "--tls-cert", certificate, "--tls-key", certificate]
    with subprocess.Popen([sys.executable, "-m", "imsim", *arguments], stdout=subprocess.PIPE, text=True) as server:
        try:
            url = next(line.split()[2] for line in server.stdout if line.startswith("listening on "))
            assert url.startswith("wss://")
            load = ("load", "office", "--url", url, "--duration=1", "--set=population.users=20", "--json")
            fails(command(*load), 1, url, "certificate")
            monkeypatch.setenv("SSL_CERT_FILE", certificate)
            loaded = command(*load)
            assert loaded.returncode in (0, 5), loaded.stderr  # 5: on a busy machine
            assert json.loads(loaded.stdout)["lost"] == 0
        finally:
            server.terminate()
    assert server.returncode == 0


def test_tls_needs_both_files(command, tmp_path):
    (tmp_path / "empty.pem").touch()
    result = command("serve", "--port", "0", "--tls-cert", "empty.pem")
    assert (result.returncode, "--tls-key" in result.stderr) == (2, True)
    result = command("serve", "--port", "0", "--tls-cert", "empty.pem", "--tls-key", "empty.pem")
    assert (result.returncode, "empty.pem" in result.stderr) == (2, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_load_ends_locust_and_removes_folder(number, tmp_path):
    few = ("--set=population.users=10", "--duration=60", "--key=right")
    with imsim.serve("office", key="right") as server:
        command = [sys.executable, "-m", "imsim", "load", "office", "--url", server.url, *few]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
            while connections(server.url) < 10:
                with pytest.raises(subprocess.TimeoutExpired):  # the process is still running
                    process.wait(timeout=0.05)
            process.send_signal(number)
        assert process.returncode == (143 if number == signal.SIGTERM else -number)
        deadline = time.monotonic() + 30
        while connections(server.url):
            assert time.monotonic() < deadline, "Locust goes on loading the server"
        while list(tmp_path.glob("imsim-load-*")):
            assert time.monotonic() < deadline, "its folder is left"


def connections(url: str) -> int:
    with urllib.request.urlopen(url.replace("ws://", "http://") + "/healthz", timeout=10) as answer:
        return json.load(answer)["connections"]


def test_command_without_arguments_shows_help(command):
    result = command()
    assert (result.returncode, result.stderr) == (0, "")
    assert "simulate" in result.stdout


def test_undefined_latency_is_printed_as_dash(command):
    result = command("simulate", "--set", "workload.rate=1e-6")
    assert re.search(r"^ *delivery +0 +0( +-){5}$", result.stdout, re.MULTILINE)


def test_simulate_prints_summary_of_run(command):
    """The rows are those of `run.summary()`."""
    result = command("simulate", "mobile", "--set", "duration=3s", "--set", "warmup=0")
    for row in ("delivery", "delivery_push", "delivery_sync", "last", "ack"):
        assert re.search(rf"^ *{row} +\d+ +\d+", result.stdout, re.MULTILINE), row
    assert re.search(r"^[\d,]+ messages, [\d,]+ deliveries: .* lost, [\d,]+ absent", result.stdout)


def test_debug_shows_the_traceback(command):
    result = command("simulate", "nothing", "--debug")
    assert result.returncode == 2
    assert "Traceback" in result.stderr


def test_help_imports_no_heavy_module():
    program = "import sys, imsim.cli\ntry: imsim.cli.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not {"pandas", "numpy", "pydantic", "locust", "simpy"} & set(output.split())


@pytest.mark.parametrize(
    ("entries", "code", "line"),
    [
        ({}, 0, ""),
        (
            {"partial": True, "ended": {"reason": "the server went away"}},
            1,
            "partial: ended after 1 s: the server went",
        ),
        ({"valid": False, "invalid_because": "the generator was late"}, 5, "INVALID: the generator was late"),
        ({"valid": False, "invalid_because": "late", "partial": True}, 5, "INVALID: late"),
    ],
)
def test_exit_code_of_load_tells_whether_the_run_can_be_trusted(command, monkeypatch, entries, code, line):
    run = imsim.simulate("office", duration=1)
    run.manifest |= entries
    monkeypatch.setattr("imsim.api.loadtest", lambda *_, **__: run)
    result = command("load", "office", "--url", "ws://127.0.0.1:1")
    assert result.returncode == code
    assert result.stdout.startswith(line)
    assert "delivery" in result.stdout
    if line:
        assert result.stderr.startswith(f"imsim: warning: {line}")


def test_demo_compares_both_worlds(command, monkeypatch, tmp_path):
    office = Scenario.load("office", {"duration": "2s", "population.users": 30})  # instead of 10 s and 100 users
    monkeypatch.setattr(Scenario, "load", lambda name: {"office": office}[name])
    result = command("demo")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^ +sim +live$", result.stdout, re.MULTILINE)
    picture = re.search(r"^picture +(\S+)$", result.stdout, re.MULTILINE)[1]
    assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    simulated, live = (
        imsim.read_run(tmp_path / re.search(rf"^{which} run +(\S+)$", result.stdout, re.MULTILINE)[1])
        for which in ("simulated", "live")
    )
    planned = ["intent", "sender", "device", "conversation", "scene", "type", "size", "intended_at"]
    assert simulated.messages[planned].equals(live.messages[planned])
    network = simulated.scenario.network  # that of the loopback interface
    assert network.client.latency == network.backend.latency == Constant(value=5e-5)
    assert network.client.loss == 0
    for run in (simulated, live):
        assert run.to_json_dict()["lost"] == 0
