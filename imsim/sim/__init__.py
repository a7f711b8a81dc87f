"""The simulated world: the core's machines on SimPy's clock, with links between them and stations that take time.

Read in this order: `clock`, `link`, `station`; `nodes` (machines and their work) with `connection` and `outages`;
`cluster` (the nodes wired up); `experiment` (a plan carried out on it), with `faults`, `tracing` and `utilisation`.
"""

from imsim.sim.clock import Clock
from imsim.sim.experiment import Experiment, simulate
from imsim.sim.link import Link
from imsim.sim.station import Station

__all__ = ["Clock", "Experiment", "Link", "Station", "simulate"]
