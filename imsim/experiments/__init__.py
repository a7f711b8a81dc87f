"""Designs: many simulated runs as one question. Replications of one design, a comparison of two, a sweep over many, a
search for how much load one bears.

All of them go through `replicate`, which runs (design, replication) pairs in parallel; what the numbers then say is
worked out in `imsim.analysis`.
"""

from imsim.experiments.grid import Over, grid_points
from imsim.experiments.replicate import PRECISE, Asked, Precision, replicate, replication_seed
from imsim.experiments.store import FolderStore

__all__ = ["PRECISE", "Asked", "FolderStore", "Over", "Precision", "grid_points", "replicate", "replication_seed"]
