"""The simulated world: the core's machines on SimPy's clock, with links between them and stations that take time."""

from imsim.sim.clock import Clock
from imsim.sim.link import Link
from imsim.sim.station import Station
from imsim.sim.world import World, simulate

__all__ = ["Clock", "Link", "Station", "World", "simulate"]
