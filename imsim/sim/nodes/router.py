"""A router's node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from imsim.core import events, frames, internal_frames, storage
from imsim.core.placement import Placement
from imsim.core.policies import Policies
from imsim.core.router.router import Router
from imsim.scenario.actor import intent_of
from imsim.sim.clock import NodeClock
from imsim.sim.link import Hop
from imsim.sim.nodes.node import ServerNode
from imsim.sim.nodes.work import Work

#: Called with what was stored, and when.
Report = Callable[[events.Committed, float], None]

_Asked = tuple[Router, storage.Request]
_LOST = storage.Failed("the storage is lost")


class RouterNode(ServerNode):
    """Holds the conversations and the users that it owns."""

    __slots__ = (
        "_asked_at_once",
        "_epoch",
        "_gateways",
        "_local",
        "_lost_storages",
        "_placement",
        "_policies",
        "_report",
        "_routers",
        "_storage_placement",
        "_storages",
        "_tracks_requests",
        "_unanswered",
        "_users",
        "machine",
    )

    tier = "router"

    def __init__(
        self,
        index: int,
        clock: NodeClock,
        work: Work,
        policies: Policies,
        epoch: float,
        users: Mapping[str, int],
        placement: Placement,
        storage_placement: Placement,
        report: Report,
        *,
        tracks_requests: bool,
    ) -> None:
        """`epoch`: wall time at which the clock was 0. `users`: the number of each. `placement` and `storage_placement`
        decide which router, and which storage, owns a conversation or a user. `tracks_requests`: where links can break,
        so that requests to a storage that is lost fail."""
        super().__init__(index, clock, work)
        self._policies = policies
        self._epoch = epoch
        self._users = users
        self._placement = placement
        self._storage_placement = storage_placement
        self._report = report
        self._tracks_requests = tracks_requests
        self._local: deque[tuple[internal_frames.ToRouter, Any]] = deque()  # with what `work` keeps of each
        self._asked_at_once: list[storage.Request] | None = None
        #: What each storage was asked and has not answered, by the request's identity.
        self._unanswered: dict[str, dict[int, _Asked]] | None = None
        self._lost_storages: set[str] = set()
        self.machine: Router | None = None
        self.wire({}, {}, {})
        self.start()

    def wire(self, gateways: Mapping[str, Hop], routers: Mapping[str, Hop], storages: Mapping[str, Hop]) -> None:
        """The ways to the other nodes, by their names."""
        self._gateways = gateways
        self._routers = routers
        self._storages = storages
        if self._tracks_requests:
            self._unanswered = {name: {} for name in storages}

    def start(self) -> None:
        super().start()
        self.machine = Router(self, self._policies, self._placement, self._epoch)
        self._timers = self.machine.timers

    def warm_up(
        self, conversation_id: str, founders: tuple[str, ...], execute: Callable[[storage.Request], storage.Result]
    ) -> None:
        """Have a conversation open, as it would be had the service run for a while; `execute`: storage's answers, at no
        cost."""
        assert self.machine is not None
        self._asked_at_once = []
        self.machine.open(conversation_id, self.now, founders)
        asked, self._asked_at_once = self._asked_at_once, None
        for request in asked:
            self.machine.stored(request, execute(request), self.now)

    def crash(self) -> None:
        super().crash()
        self.machine = None
        self._timers = ()
        self._local.clear()
        if self._unanswered is not None:
            for unanswered in self._unanswered.values():
                unanswered.clear()

    def forget(self) -> None:
        for timers in self._timers:
            timers.clear()
        self.crash()
        self.wire({}, {}, {})

    def restart(self) -> None:
        super().restart()
        assert self.machine is not None
        self.now = self.clock.now
        self.machine.restarted(self.now)
        self._drain()
        self.arm()

    def peer_lost(self, peer: ServerNode) -> None:
        if peer.tier == "storage":
            self._storage_lost(peer.name)
        elif peer.tier == "gateway" and self.machine is not None:
            self.now = self.clock.now
            self.machine.gateway_lost(peer.name, self.now)
            self._drain()
            self.arm()

    def peer_back(self, peer: ServerNode) -> None:
        if peer.tier == "storage":
            self._lost_storages.discard(peer.name)
        elif peer.tier == "router" and self.machine is not None:
            self.now = self.clock.now
            self.machine.router_back(self.now)
            self._drain()
            self.arm()

    def _storage_lost(self, name: str) -> None:
        """What it has not answered has failed, and all else fails at once until it is back."""
        assert self._unanswered is not None
        self._lost_storages.add(name)
        unanswered, self._unanswered[name] = self._unanswered[name], {}
        for machine, request in unanswered.values():
            self._answered(machine, request, _LOST)

    def handle_timer(self, now: float) -> None:
        if self.machine is not None:
            self.machine.handle_timer(now)
            self._drain()

    def receive(self, frame: internal_frames.ToRouter) -> None:
        if self.machine is not None:
            self._work_on(frame, self.clock.now)
            if self._local:
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
            numbers = [self._users[user] for user in frame.users]
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
            frame, kept = self._local.popleft()
            self.work.resume(kept)
            self._work_on(frame, self.now)

    def stored(self, answer: tuple[Router, storage.Request, storage.Result]) -> None:
        machine, request, result = answer
        if self._unanswered is not None:
            unanswered = self._unanswered[self._storage_placement.owner(storage.owner_of(request))]
            if unanswered.pop(id(request), None) is None:
                return  # an answer to what has failed since, or was asked before a crash
        self._answered(machine, request, result)

    def _answered(self, machine: Router, request: storage.Request, result: storage.Result) -> None:
        if machine is self.machine:  # else it has died since it asked
            self.now = self.clock.now
            machine.stored(request, result, self.now)
            if self._local:
                self._drain()
            self.arm()

    def _fail(self, asked: _Asked) -> None:
        self._answered(*asked, _LOST)

    # --- the router's port ---

    def store(self, request: storage.Request) -> None:
        if self._asked_at_once is not None:
            self._asked_at_once.append(request)
            return
        name, machine = self._storage_placement.owner(storage.owner_of(request)), self.machine
        assert machine is not None
        if self._unanswered is not None:
            if name in self._lost_storages:
                self.clock.call_at(self.now, self._fail, (machine, request))  # a machine is never re-entered
                return
            self._unanswered[name][id(request)] = (machine, request)
        carry, receive = self._storages[name]
        carry(self.now, receive, (self.name, machine, request))

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        carry, receive = self._gateways[gateway]
        carry(self.now, receive, frame)

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        if router == self.name:
            self._local.append((frame, self.work.keep(self.now, frame)))
        else:
            carry, receive = self._routers[router]
            carry(self.now, receive, frame)

    def emit(self, event: events.Committed) -> None:
        self._report(event, self.now)
