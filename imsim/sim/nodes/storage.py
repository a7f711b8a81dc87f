"""A storage server's node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from imsim.core import storage
from imsim.core.conversations import Conversations
from imsim.core.users import Users

if TYPE_CHECKING:
    from imsim.sim.nodes.router import RouterNode
    from imsim.sim.world import World


class StorageNode:
    """One storage server: requests take their time here, but all servers keep their data in one place, because what a
    request means does not depend on the server that carries it out. It is carried out when it comes; so what reads a
    message that is still being made durable is answered no earlier than that is."""

    __slots__ = ("_links", "index", "is_up", "stalled_until", "work", "world")

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.is_up = True
        self.stalled_until = world.clock.now
        self.work = world.new_work(world.scenario.topology.storage, "storage", index)
        self._links = world.backend_links(("storage", index), "router", world.scenario.topology.routers)

    def crash(self) -> None:
        """What it holds, stays; what it was asked and has not answered, it never will."""
        self.is_up = False
        self.work.station.forget()

    def start_anew(self) -> None:
        self.is_up = True

    def receive(self, asked: tuple[RouterNode, Conversations | Users, storage.Request]) -> None:
        router, asker, request = asked
        now = self.world.clock.now
        if now < self.stalled_until:
            self.world.clock.call_at(self.stalled_until, self.receive, asked)
            return
        if not self.is_up:
            self._links[router.index].carry(now, router.stored, (asker, request, storage.Failed("it is down")))
            return
        result = self.world.storage.execute(request)
        done = self.work.done_with_storage(now, request, result)
        durable = self.world.durable
        if type(result) is storage.Appended:
            assert type(request) is storage.Append
            durable[request.message.conversation_id] = done
        else:
            done = max([done, *(durable[id] for id in _read(request, result) if id in durable)])
        self._links[router.index].carry(done, router.stored, (asker, request, result))


def _read(request: storage.Request, result: storage.Result) -> Iterable[str]:
    """The conversations of which the result tells something."""
    if isinstance(result, storage.MissedPage | storage.RangePage):
        return {message.conversation_id for message in result.messages}
    if isinstance(request, storage.OpenConversation | storage.Find | storage.Get):
        return (request.conversation_id,)
    return ()
