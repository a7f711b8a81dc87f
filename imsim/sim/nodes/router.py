"""A router's node."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from imsim.core import events, frames, internal_frames, storage
from imsim.core.router.router import Router
from imsim.sim.nodes.machines import Machines
from imsim.sim.nodes.work import intent_of

if TYPE_CHECKING:
    from imsim.sim.world import World

_Asked = tuple[Router, storage.Request]
_LOST = storage.Failed("the storage is lost")


class RouterNode(Machines):
    """Holds the conversations and the users that hash to it."""

    __slots__ = (
        "_asked_at_once",
        "_gateway_links",
        "_local",
        "_lost_storages",
        "_router_links",
        "_storage_links",
        "_unanswered",
        "index",
        "machine",
        "name",
        "work",
    )

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world)
        topology = world.scenario.topology
        self.index = index
        self.name = f"router{index}"
        self.work = world.new_work(topology.router, "router", index)
        self._gateway_links = world.backend_links(("router", index), "gateway", topology.gateways)
        self._router_links = world.backend_links(("router", index), "router", topology.routers)
        self._storage_links = world.backend_links(("router", index), "storage", topology.storages)
        self._local: deque[internal_frames.ToRouter] = deque()
        self._asked_at_once: list[storage.Request] | None = None
        #: What each storage was asked and has not answered, by the request's identity; only where links can break.
        self._unanswered: list[dict[int, _Asked]] | None = None
        if world.faults.cuts_links:
            self._unanswered = [{} for _ in self._storage_links]
        self._lost_storages: set[int] = set()
        self.machine: Router | None = None
        self.start()

    def start(self) -> None:
        self.machine = Router(self, self.world.policies, self.world.placement, self.world.epoch)
        self._timers = self.machine.timers

    def warm_up(self, conversation_id: str, founders: tuple[str, ...]) -> None:
        """Have a conversation open, as it would be had the service run for a while; free of charge."""
        assert self.machine is not None
        self._asked_at_once = []
        self.machine.open(conversation_id, self.now, founders)
        asked, self._asked_at_once = self._asked_at_once, None
        for request in asked:
            self.machine.stored(request, self.world.storage.execute(request), self.now)

    def crash(self) -> None:
        """Everything in memory is gone, answers from storage included."""
        self.machine = None
        self._timers = ()
        self._local.clear()
        for unanswered in self._unanswered or ():
            unanswered.clear()
        self.work.forget(self.clock.now)

    def forget(self) -> None:
        for timers in self._timers:
            timers.clear()
        self.crash()

    def start_anew(self) -> None:
        self.start()
        assert self.machine is not None
        self.now = self.clock.now
        self.machine.restarted(self.now)
        self.arm()

    def gateway_lost(self, gateway: str) -> None:
        """The link to it broke."""
        if self.machine is not None:
            self.now = self.clock.now
            self.machine.gateway_lost(gateway, self.now)
            self._drain()
            self.arm()

    def router_back(self) -> None:
        """The link to another router is there again."""
        if self.machine is not None:
            self.now = self.clock.now
            self.machine.router_back(self.now)
            self._drain()
            self.arm()

    def storage_lost(self, index: int) -> None:
        """The link to it broke: what it has not answered has failed, and all else fails at once until it is back."""
        assert self._unanswered is not None
        self._lost_storages.add(index)
        unanswered, self._unanswered[index] = self._unanswered[index], {}
        for machine, request in unanswered.values():
            self._answered(machine, request, _LOST)

    def storage_back(self, index: int) -> None:
        self._lost_storages.discard(index)

    def handle_timer(self, now: float) -> None:
        if self.machine is not None:
            self.machine.handle_timer(now)
            self._drain()

    def receive(self, frame: internal_frames.ToRouter) -> None:
        if self.machine is not None:
            self._work_on(frame, self.clock.now)
            self._drain()
            self.arm()

    def _work_on(self, frame: internal_frames.ToRouter, now: float) -> None:
        """Have a worker take the frame; where the queue is full, the frame vanishes."""
        done: float | None
        if type(frame) is internal_frames.Up and frame.conversation_id:
            request = frame.frame
            intent = intent_of(request.id_client) if type(request) is frames.Send else None
            done = self.work.done(now, request.op, frame.conversation_id, intent, 0, request)
        elif type(frame) is internal_frames.Deliver and self.work.takes(frame.op):
            message = frame.message
            numbers = [self.world.user_number(user) for user in frame.users]
            intent = intent_of(message.id_client)
            done = self.work.done_for_each(now, frame.op, message.conversation_id, intent, numbers, frame)
        else:
            done = self.work.done(now, frame.op, None, None, 0, frame)
        if done is not None:
            assert self.machine is not None
            self.now = done
            self.machine.receive(frame, done)

    def _drain(self) -> None:
        """What the router sent to itself."""
        while self._local:
            self._work_on(self._local.popleft(), self.now)

    def stored(self, answer: tuple[Router, storage.Request, storage.Result]) -> None:
        machine, request, result = answer
        if self._unanswered is not None:
            unanswered = self._unanswered[self.world.storage_for(request).index]
            if unanswered.pop(id(request), None) is None:
                return  # an answer to what has failed since, or was asked before a crash
        self._answered(machine, request, result)

    def _answered(self, machine: Router, request: storage.Request, result: storage.Result) -> None:
        if machine is self.machine:  # else it has died since it asked
            self.now = self.clock.now
            machine.stored(request, result, self.now)
            self._drain()
            self.arm()

    def _fail(self, asked: _Asked) -> None:
        self._answered(*asked, _LOST)

    # --- the router's port ---

    def store(self, request: storage.Request) -> None:
        if self._asked_at_once is not None:
            self._asked_at_once.append(request)
            return
        machine = self.machine
        assert machine is not None
        node = self.world.storage_for(request)
        if self._unanswered is not None:
            if node.index in self._lost_storages:
                self.clock.call_at(self.now, self._fail, (machine, request))  # a machine is never re-entered
                return
            self._unanswered[node.index][id(request)] = (machine, request)
        self._storage_links[node.index].carry(self.now, node.receive, (self, machine, request))

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        target = self.world.gateway_named[gateway]
        self._gateway_links[target.index].carry(self.now, target.from_router, frame)

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        if router == self.name:
            self._local.append(frame)
        else:
            target = self.world.router_named[router]
            self._router_links[target.index].carry(self.now, target.receive, frame)

    def emit(self, event: events.Committed) -> None:
        self.world.committed(event, self.now)
