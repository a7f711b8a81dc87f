"""Benchmarks of rows: their assembly, and the memory of a load test of 5 million deliveries from 4 workers.

Run them with `pytest tests/bench --benchmark-enable`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from bench.race import note

from imsim.core.model import Scene
from imsim.load.collect import spool_name, write_status
from imsim.results import Kind, Recorder, assemble
from imsim.scenario import Plan, Scenario
from imsim.scenario import plan as plan_of
from imsim.scenario.workload.planned import conversation_of


def test_assemble_a_million_facts(benchmark):
    count, users = (250_000, 10_000) if benchmark.enabled else (5_000, 500)
    rng = np.random.default_rng(1)
    sender = rng.integers(0, users, count).astype(np.int32)
    receiver = (sender + 1) % users
    plan = Plan(
        at=np.arange(count) * 1000,
        sender=sender,
        device=np.zeros(count, np.int8),
        conversation=sender,
        type=np.zeros(count, np.int8),
        size=np.full(count, 100, np.int32),
        users=[f"u{number}" for number in range(users)],
        devices=["d0"],
        types=["text"],
        conversations=[conversation_of(Scene.P2P, "", (user, (user + 1) % users)) for user in range(users)],
        actions=[],
    )
    intents = np.arange(count)
    facts = np.zeros(4 * count, Recorder().facts().dtype)
    for number, (kind, device) in enumerate(((0, -1), (2, -1), (4, receiver), (5, receiver))):
        part = facts[number * count : (number + 1) * count]
        part["kind"], part["intent"], part["device"], part["at"] = kind, intents, device, intents * 1000 + kind
    rng.shuffle(facts)
    tables = benchmark(lambda: assemble(plan, facts))
    assert tables.deliveries.column("outcome").to_pylist().count("delivered") == count


WORKERS = 4

#: Runs argv[2], a program about the folder argv[1], and prints its CPU seconds and the peak of its memory (MiB).
MEASURED = """
import resource, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
exec(sys.argv[2])
print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
COLLECT = """
from imsim.load.collect import collect, write
from imsim.scenario import Scenario
scenario = Scenario.from_toml((folder / "scenario.toml").read_text(), name="large")
write(collect(folder, scenario, rows=folder / "rows"), folder / "out")
"""
READ = {
    "summary of a run": """
import imsim
imsim.read_run(next((folder / "out").iterdir())).summary()
""",
    "frame of messages": """
import imsim
imsim.read_run(next((folder / "out").iterdir())).messages
""",
    "frame of deliveries": """
import imsim
imsim.read_run(next((folder / "out").iterdir())).deliveries
""",
    "imsim runs show": """
from imsim.cli import cli
cli.main(["runs", "show", "latest", "--dir", str(folder / "out")], standalone_mode=False)
""",
}


def measured(program: str, folder: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", MEASURED, str(folder), program]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout
    seconds, peak = map(float, output.splitlines()[-1].split())
    return seconds, peak


def write_spools(scenario: Scenario, folder: Path) -> int:
    """Write the facts of a run without losses, and return the number of deliveries. Devices take turns as workers."""
    planned = plan_of(scenario)
    rows = planned.entitled()
    rng = np.random.default_rng(1)
    for worker in range(WORKERS):
        mine = np.flatnonzero(planned.sender % WORKERS == worker)
        theirs = np.flatnonzero(rows.device % WORKERS == worker)
        facts = np.zeros(2 * len(mine) + len(theirs), Recorder().facts().dtype)
        sent, acked, delivered = np.split(facts, [len(mine), 2 * len(mine)])
        for part, kind in ((sent, Kind.SENT), (acked, Kind.ACKED)):
            part["kind"], part["intent"], part["device"] = kind, mine, -1
            part["at"] = planned.at[mine] + int(kind) * rng.integers(1, 10**6, len(mine))
        intent = rows.intent[theirs]
        delivered["kind"], delivered["intent"], delivered["device"] = Kind.DELIVERED, intent, rows.device[theirs]
        delivered["at"] = planned.at[intent] + rng.exponential(5e6, len(theirs)).astype(np.int64)
        facts[np.argsort(facts["at"])].tofile(folder / spool_name(worker))
    write_status(folder, {"phase": "done", "started": "2026-01-01T00:00:00+00:00", "played": scenario.duration})
    (folder / "scenario.toml").write_text(scenario.to_toml())
    return len(rows.intent)


def test_large_run_is_collected_and_read_in_bounded_memory(benchmark, tmp_path):
    users, seconds = (6100, 500) if benchmark.enabled else (200, 20)
    scenario = Scenario.load(
        "office",
        {
            "population.users": users,
            "duration": seconds,
            "workload.rate": 1,
            "conversations.p2p_share": 0.5,
            "conversations.groups": users // 4,
            "conversations.group_size": 4,
        },
    )
    count = write_spools(scenario, tmp_path)
    cpu, peak = benchmark.pedantic(lambda: measured(COLLECT, tmp_path), rounds=1, iterations=1)
    assert peak < 1000
    detail = f"{count:,} deliveries of {WORKERS} workers in {cpu:.1f} CPU s"
    note(benchmark, "memory: collecting a run", peak, "MiB", most=1000, detail=detail)
    for name, program in READ.items() if benchmark.enabled else list(READ.items())[-1:]:
        cpu, peak = measured(program, tmp_path)
        assert peak < 1000
        note(benchmark, f"memory: {name}", peak, "MiB", most=1000, detail=f"{count:,} deliveries")
        note(benchmark, f"time: {name}", cpu, "CPU s", most=10, detail=f"{count:,} deliveries")
