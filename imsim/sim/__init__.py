"""The simulated world: the core's machines on SimPy's clock. Links delay frames, and stations take service time.

Read in this order: `clock`, `link`, `station`; `nodes` (machines and their work) with `connection` and `outages`;
`cluster` (connects the nodes); `experiment` (carries out a plan on a cluster), with `faults`, `tracing` and
`utilisation`.
"""

from imsim.sim.clock import Clock
from imsim.sim.experiment import Experiment, simulate
from imsim.sim.link import Link
from imsim.sim.station import Station

__all__ = ["Clock", "Experiment", "Link", "Station", "simulate"]
