"""Experiments: many simulated runs as one question. Each module has a search and its result side by side.

Read in this order: `replicate` (one design under several seeds, through which all others run), `comparison` (two
designs), `sweep` (many), `capacity` (how much load one bears), `store` (finished replications, kept in a folder) and
`fingerprint` (whether a design is the same as one that was run before).
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
