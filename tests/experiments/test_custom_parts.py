"""Custom parts of a cell or a script: they are in `__main__`, which other processes do not have."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CELL = """
import json

import imsim

SLOW = 0.1


class Bimodal(imsim.CustomDistribution):
    fast: float
    slow: float

    def quantile(self, u):
        return self.fast if u < 0.9 else self.slow


class WithPauses:
    def __init__(self, tier):
        self.free = float("-inf")

    def submit(self, now, demand, flow):
        start = max(now, self.free)
        self.free = max(start, start // 1 + 0.05) + demand
        return self.free


def by_length(name, nodes):
    return len(name) % nodes


def late(run):
    rows = run.deliveries.merge(run.messages[["intent", "intended_at"]], on="intent")
    return (rows.delivered_at - rows.intended_at > SLOW * 1e9).mean()


office = imsim.Scenario.load("office").replace(
    {"duration": 1, "warmup": 0, "drain": 1, "population.users": 30, "workload.rate": 2, "topology.storages": 2}
)
designs = [
    {"topology.storage.service.append": Bimodal(fast=0.002, slow=0.2)},
    {"topology.storage.station": WithPauses},
    {"topology.placement": by_length},
    {},
]
options = {
    "replications": 1,
    "metrics": {"late": late, "quick": lambda run: 1 - late(run)},
    "progress": False,
}


def swept(**more):
    return imsim.sweep(office, designs, **options, **more).samples[["digest", "late", "quick"]].to_json()


parallel = swept(jobs=2, out="kept")
with open("kept/finished.jsonl") as file:
    kept = len(file.readlines())
again = swept(jobs=1, out="kept")
with open("kept/finished.jsonl") as file:
    kept_still = len(file.readlines())
print(json.dumps([parallel, swept(jobs=1), again, kept, kept_still]))
"""


def test_parallel_sweep_uses_custom_parts_of_main(tmp_path):
    (tmp_path / "cell.py").write_text(CELL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "cell.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    parallel, sequential, again, kept, kept_still = json.loads(done.stdout)
    assert parallel == sequential == again
    assert kept == kept_still == 4, "known again, though in no module"
    samples = json.loads(parallel)
    assert len(set(samples["digest"].values())) == 4, "each part changes something"
    late, quick = (list(samples[name].values()) for name in ("late", "quick"))
    assert [1 - share for share in late] == pytest.approx(quick)
    assert max(late) > 0


def test_kept_runs_are_ignored_after_change_in_referred_code(tmp_path):
    """A bound, a class's list and a helper of a script change between two sweeps into one folder."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec(
        """
import imsim

BOUND = 1.0

def helped(u): return 0.001

class Own(imsim.CustomDistribution):
    def quantile(self, u): return helped(u)

class Pauses:
    pauses = [0.001]
    def __init__(self, tier): self.free = 0.0
    def submit(self, now, demand, flow):
        self.free = max(self.free, now) + demand + self.pauses[0]
        return self.free

def quick(run): return float(((run.deliveries.delivered_at - run.messages.intended_at.iloc[0]) < BOUND * 1e9).mean())

small = imsim.Scenario(name="small").replace({"duration": 1, "drain": 1, "population.users": 5, "workload.rate": 2})
designs = [{"topology.storage": {"station": Pauses, "service": {"append": Own()}}}]

def swept(**out):
    return imsim.sweep(small, designs, replications=1, jobs=1, metrics=[quick], progress=False, **out).samples
""",
        names,
    )
    swept, out = names["swept"], {"out": tmp_path}
    seen = [swept(**out)]
    assert swept(**out).equals(seen[0])
    for change in ("BOUND = 0.2", "def helped(u): return 0.05", "Pauses.pauses = [0.3]"):
        exec(change, names)
        seen.append(swept(**out))
        assert seen[-1].equals(swept())
        assert not seen[-1].equals(seen[-2]), change
