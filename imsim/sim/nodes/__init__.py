"""The nodes of the simulated system. Each node holds a core machine and is the port that the machine acts through.

**One event per hop.** When a frame arrives, the station of its node computes at once when a worker will be done with
it. The machine also runs at once, with that later time as its `now`, and the frames that it sends leave at that time.
So a hop is one event, its arrival. Operations without a service time do not queue: they overtake those with one.

A node knows its clock, its station (`work`) and its way to each other node. It does not know the cluster or the plan.
"""

from imsim.sim.nodes.client import ClientNode, DeviceNode
from imsim.sim.nodes.gateway import GatewayNode
from imsim.sim.nodes.router import RouterNode
from imsim.sim.nodes.storage import StorageNode

__all__ = ["ClientNode", "DeviceNode", "GatewayNode", "RouterNode", "StorageNode"]
