"""Experiments: many runs, simulated or live, that answer one question. Each module has the procedure and its result.

Read in this order: `replicate` (one design under several seeds; the others are built on it), `comparison` (two
designs), `sweep` (many designs), `search` and `capacity` (the highest load of a design), `live_runs` and
`live_capacity` (the highest load of a server), `reporting` (what a report says of each result), `store` (finished
replications in a folder) and `fingerprint` (whether a design is the same as in an earlier process).
"""

from imsim.experiments.capacity import Capacity, capacity
from imsim.experiments.comparison import Comparison, Difference, compare
from imsim.experiments.live_capacity import LiveCapacity, live_capacity
from imsim.experiments.live_runs import LiveRun, RunStore
from imsim.experiments.replicate import (
    PRECISE,
    Precision,
    Replications,
    Sample,
    Sampling,
    replicate,
    replication_seed,
    simulate_once,
)
from imsim.experiments.store import FolderStore
from imsim.experiments.sweep import Over, Sweep, sweep, variants

__all__ = [
    "PRECISE",
    "Capacity",
    "Comparison",
    "Difference",
    "FolderStore",
    "LiveCapacity",
    "LiveRun",
    "Over",
    "Precision",
    "Replications",
    "RunStore",
    "Sample",
    "Sampling",
    "Sweep",
    "capacity",
    "compare",
    "live_capacity",
    "replicate",
    "replication_seed",
    "simulate_once",
    "sweep",
    "variants",
]
