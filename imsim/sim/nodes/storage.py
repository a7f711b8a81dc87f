"""A storage server's node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imsim.core import storage
from imsim.core.conversations import Conversations
from imsim.core.users import Users
from imsim.sim.nodes.work import Work

if TYPE_CHECKING:
    from imsim.sim.nodes.router import RouterNode
    from imsim.sim.world import World


class StorageNode:
    """One storage server: requests take their time here, but all servers keep their data in one place, because what a
    request means does not depend on the server that carries it out."""

    __slots__ = ("_links", "index", "work", "world")

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.work = Work(world.scenario.topology.storage, world.seed, "storage", index)
        self._links = world.backend_links(("storage", index), "router", world.scenario.topology.routers)

    def receive(self, asked: tuple[RouterNode, Conversations | Users, storage.Request]) -> None:
        router, asker, request = asked
        result = self.world.storage.execute(request)
        done = self.work.done_with_storage(self.world.clock.now, request, result)
        arrival = self._links[router.index].arrival(done)
        self.world.clock.call_at(arrival, router.stored, (asker, request, result))
