"""The node of a router."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from imsim.core import events, internal_frames, storage
from imsim.core.placement import Placement
from imsim.core.policies import Policies
from imsim.core.router.router import Router
from imsim.scenario.actor import intent_of
from imsim.sim.clock import NodeClock
from imsim.sim.link import Hop
from imsim.sim.nodes.node import ServerNode
from imsim.sim.nodes.work import Work

#: Called with the event of a stored message and its time.
Report = Callable[[events.Committed, float], None]


class RouterNode(ServerNode):
    """A node that holds a router: it carries the router's frames and charges their service times."""

    __slots__ = (
        "_epoch",
        "_gateways",
        "_placement",
        "_policies",
        "_report",
        "_routers",
        "_storage_placement",
        "_storages",
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
    ) -> None:
        """`epoch`: the wall time at which the clock was 0. `users`: the number of each user, by name. `placement` and
        `storage_placement` decide which router and which storage own a conversation or a user."""
        super().__init__(index, clock, work)
        self._policies = policies
        self._epoch = epoch
        self._users = users
        self._placement = placement
        self._storage_placement = storage_placement
        self._report = report
        self.machine: Router | None = None
        self.wire({}, {}, {})
        self.start()

    def wire(self, gateways: Mapping[str, Hop], routers: Mapping[str, Hop], storages: Mapping[str, Hop]) -> None:
        """Set the ways to the other nodes, by their names."""
        self._gateways = gateways
        self._routers = routers
        self._storages = storages

    def start(self) -> None:
        super().start()
        placements = self._placement, self._storage_placement
        self.machine = Router(self, self._policies, self.name, *placements, self._epoch, self.new_timers())

    def open(self, conversation_id: str, founders: tuple[str, ...]) -> None:
        """Open a conversation before its first message. `founders`: its members if it does not exist yet."""
        assert self.machine is not None
        self.now = self.clock.now
        self.machine.open(conversation_id, self.now, founders)

    def crash(self) -> None:
        super().crash()
        self.machine = None

    def forget(self) -> None:
        self.crash()
        self.wire({}, {}, {})

    def restart(self) -> None:
        super().restart()
        assert self.machine is not None
        self.now = self.clock.now
        self.machine.restarted(self.now)

    def peer_lost(self, peer: ServerNode) -> None:
        if self.machine is not None:
            self.now = self.clock.now
            if peer.tier == "storage":
                self.machine.storage_lost(peer.name, self.now)
            elif peer.tier == "gateway":
                self.machine.gateway_lost(peer.name, self.now)

    def peer_back(self, peer: ServerNode) -> None:
        if self.machine is not None:
            self.now = self.clock.now
            if peer.tier == "storage":
                self.machine.storage_back(peer.name)
            elif peer.tier == "router":
                self.machine.router_back(self.now)

    def on_time(self, callback: Callable[[Any, float], None], argument: Any) -> None:
        super().on_time(callback, argument)
        if self.machine is not None:
            self.machine.handle_timer(self.now)  # the router handles the frames that it sent to itself

    def receive(self, frame: internal_frames.ToRouter) -> None:
        if self.machine is not None:
            self.machine.receive(frame, self.clock.now)

    def stored(self, answer: tuple[storage.Request, storage.Result]) -> None:
        if self.machine is not None:
            self.now = self.clock.now
            self.machine.stored(*answer, self.now)

    # --- the router's port ---

    def charge(self, frame: internal_frames.ToRouter, kept: Any, now: float) -> float | None:
        """Submit the work for a frame. Return the time when it is done, or None if the queue is full and the frame is
        lost."""
        work, op = self.work, frame.op
        flow, id_client, recipients = frame.charged
        if kept is not None:
            work.resume(kept)
        if recipients and work.takes(op):
            numbers = [self._users[user] for user in recipients]
            done = work.done_for_each(now, op, flow, intent_of(id_client), numbers, frame)
        else:
            done = work.done(now, op, flow, intent_of(id_client), 0, frame)
        if done is not None:
            self.now = done
        return done

    def wait(self, frame: internal_frames.ToRouter, now: float) -> float:
        self.now = now  # of the refusal, which takes no work
        return self.work.wait(now, frame.op)

    def keep(self, frame: internal_frames.ToRouter) -> Any:
        return self.work.keep(self.now, frame)

    def store(self, name: str, request: storage.Request) -> None:
        carry, receive = self._storages[name]
        carry(self.now, receive, (self.name, request))

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        carry, receive = self._gateways[gateway]
        carry(self.now, receive, frame)

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        carry, receive = self._routers[router]
        carry(self.now, receive, frame)

    def emit(self, event: events.Committed) -> None:
        self._report(event, self.now)
