"""A storage server's node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from imsim.core import storage
from imsim.core.router.router import Router
from imsim.sim.nodes.commits import Answer, GroupCommit

if TYPE_CHECKING:
    from imsim.sim.nodes.router import RouterNode
    from imsim.sim.world import World

Asked = tuple["RouterNode", Router, storage.Request]


class StorageNode:
    """One storage server: requests take their time here, but all servers keep their data in one place, because what a
    request means does not depend on the server that carries it out.

    A request is carried out when it comes (an append under group commit: when its commit starts) and answered when the
    work for it is done; so what reads a message that is still being made durable is answered no earlier than that is.
    One that finds the queue full is not carried out: it fails at once.
    """

    __slots__ = ("_commits", "_drops", "_life", "_links", "index", "is_up", "stalled_until", "work", "world")

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.is_up = True
        self._life = 0
        self.stalled_until = world.clock.now
        tier = world.scenario.topology.storage
        self.work = world.new_work(tier, "storage", index)
        self._drops = tier.queue is not None or tier.station is not None
        self._commits = None
        if tier.commit:
            self._commits = GroupCommit(tier.commit, self.work, world.clock, world.storage.execute)
        self._links = world.backend_links(("storage", index), "router", world.scenario.topology.routers)

    def crash(self) -> None:
        """What it holds, stays; what it was asked and has not answered, it never will."""
        self.is_up = False
        self._life += 1
        self.work.forget(self.world.clock.now)
        if self._commits is not None:
            self._commits = self._commits.forget()

    def start_anew(self) -> None:
        self.is_up = True

    def receive(self, asked: Asked) -> None:
        request, now = asked[2], self.world.clock.now
        if now < self.stalled_until:
            self.world.clock.call_at(self.stalled_until, self._after_stall, (self._life, asked))
            return
        if not self.is_up:
            return
        if self._drops and self._is_full(request, now):
            self.work.turn_away(now)
            self._answer(asked, storage.Failed("the queue is full"), now)
            return
        if self._commits is not None and type(request) is storage.Append:
            self._commits.add(request, self._committed(asked))
        else:
            result = self.world.storage.execute(request)
            self._answer(asked, result, self.work.done_with_storage(now, request, result))

    def _after_stall(self, waiting: tuple[int, Asked]) -> None:
        life, asked = waiting
        if life == self._life:  # else it crashed while it stood still
            self.receive(asked)

    def _is_full(self, request: storage.Request, now: float) -> bool:
        waiting = 0 if self._commits is None else len(self._commits)
        commits = self._commits is not None and type(request) is storage.Append
        return (commits or self.work.takes(request.op)) and self.work.station.full(now, waiting)

    def _committed(self, asked: Asked) -> Answer:
        return lambda result, begins, done: self._answer(asked, result, done)

    def _answer(self, asked: Asked, result: storage.Result, done: float | None) -> None:
        router, asker, request = asked
        if done is None:  # an own station's decision, after all
            result, done = storage.Failed("dropped"), self.world.clock.now
        durable = self.world.durable
        if type(result) is storage.Appended:
            assert type(request) is storage.Append
            durable[request.message.conversation_id] = done
        elif type(result) is not storage.Failed:
            done = max([done, *(durable[id] for id in _read(request, result) if id in durable)])
        self._links[router.index].carry(done, router.stored, (asker, request, result))


def _read(request: storage.Request, result: storage.Result) -> Iterable[str]:
    """The conversations of which the result tells something."""
    if isinstance(result, storage.MissedPage | storage.RangePage):
        return {message.conversation_id for message in result.messages}
    if isinstance(request, storage.OpenConversation | storage.Lookup):
        return (request.conversation_id,)
    return ()
