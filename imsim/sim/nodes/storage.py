"""A storage server's node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imsim.core import storage
from imsim.core.conversations import Conversations
from imsim.core.users import Users
from imsim.sim.nodes.commits import GroupCommit
from imsim.sim.nodes.work import Work

if TYPE_CHECKING:
    from imsim.sim.nodes.router import RouterNode
    from imsim.sim.world import World

Asked = tuple["RouterNode", Conversations | Users, storage.Request]


class StorageNode:
    """One storage server: requests take their time here, but all servers keep their data in one place, because what a
    request means does not depend on the server that carries it out.

    A request is carried out when it comes and answered when the work for it is done. One that finds the queue full is
    not carried out: it fails at once.
    """

    __slots__ = ("_commits", "_drops", "_links", "index", "work", "world")

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        tier = world.scenario.topology.storage
        self.work = Work(tier, world.seed, "storage", index, world.clock)
        self._drops = tier.queue is not None or tier.station is not None
        self._commits = GroupCommit(tier.commit, self.work, world.clock) if tier.commit else None
        self._links = world.backend_links(("storage", index), "router", world.scenario.topology.routers)

    def receive(self, asked: Asked) -> None:
        request, now = asked[2], self.world.clock.now
        if self._drops and self._is_full(request, now):
            self.work.station.drops += 1
            self._answer(asked, storage.Failed("the queue is full"), now)
            return
        result = self.world.storage.execute(request)
        if self._commits is not None and type(request) is storage.Append:
            demand = self.work.append_demand(request, result)
            self._commits.add(request, demand, lambda done: self._answer(asked, result, done))
        else:
            self._answer(asked, result, self.work.done_with_storage(now, request, result))

    def _is_full(self, request: storage.Request, now: float) -> bool:
        waiting = 0 if self._commits is None else len(self._commits)
        commits = self._commits is not None and type(request) is storage.Append
        return (commits or self.work.takes(request.op)) and self.work.station.full(now, waiting)

    def _answer(self, asked: Asked, result: storage.Result, done: float | None) -> None:
        if done is None:  # an own station's decision, after all
            result, done = storage.Failed("dropped"), self.world.clock.now
        router, asker, request = asked
        self.world.clock.call_at(self._links[router.index].arrival(done), router.stored, (asker, request, result))
