"""Experiments: many simulated runs that answer one question. Each module has the procedure and its result.

Read in this order: `replicate` (one design under several seeds; the others are built on it), `comparison` (two
designs), `sweep` (many designs), `capacity` (the highest load of a design), `store` (finished replications in a folder)
and `fingerprint` (whether a design is the same as in an earlier process).
"""

from imsim.experiments.capacity import Capacity, capacity
from imsim.experiments.comparison import Comparison, Difference, compare
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
    "Over",
    "Precision",
    "Replications",
    "Sample",
    "Sampling",
    "Sweep",
    "capacity",
    "compare",
    "replicate",
    "replication_seed",
    "simulate_once",
    "sweep",
    "variants",
]
