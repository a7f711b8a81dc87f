"""Designs: many simulated runs as one question. Replications of one design, a comparison of two, a sweep over many, a
search for how much load one bears.

All of them go through `replicate`, which runs (design, replication) pairs in parallel; what the numbers then say is
worked out in `imsim.analysis`.
"""

from imsim.designs.replicate import PRECISE, Asked, Precision, replicate, replication_seed

__all__ = ["PRECISE", "Asked", "Precision", "replicate", "replication_seed"]
