"""The nodes of the simulated system: each holds core machines, and is the port that they act through.

**One event a hop.** When a frame arrives, its node's station says at once when a worker will be done with it, and the
machine runs right then, told that later time as its `now`: what it sends leaves at that time. So a hop is one event,
its arrival. Operations without a service time do not queue: they pass by those that do.
"""

from imsim.sim.nodes.client import ClientNode
from imsim.sim.nodes.connection import Connection
from imsim.sim.nodes.gateway import BatchingGatewayNode, GatewayNode
from imsim.sim.nodes.router import RouterNode
from imsim.sim.nodes.storage import StorageNode

__all__ = ["BatchingGatewayNode", "ClientNode", "Connection", "GatewayNode", "RouterNode", "StorageNode"]
