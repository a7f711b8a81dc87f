"""The nodes of the simulated system: each holds core machines, and is the port that they act through.

**One event a hop.** When a frame arrives, its node's station says at once when a worker will be done with it, and the
machine runs right then, given that later time as its `now`: what it sends leaves at that time. So a hop is one event,
its arrival. Operations without a service time do not queue: they pass by those that do.

A node knows its clock, its station (`work`) and its way to each other node, but neither the cluster nor the plan.
"""

from imsim.sim.nodes.client import ClientNode, DeviceNode
from imsim.sim.nodes.gateway import GatewayNode
from imsim.sim.nodes.router import RouterNode
from imsim.sim.nodes.storage import StorageNode

__all__ = ["ClientNode", "DeviceNode", "GatewayNode", "RouterNode", "StorageNode"]
