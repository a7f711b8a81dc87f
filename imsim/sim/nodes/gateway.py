"""A gateway's node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imsim.core import events, frames, internal_frames
from imsim.core.gateway.gateway import Gateway
from imsim.core.model import Code
from imsim.scenario.actor import intent_of
from imsim.sim.nodes.connection import Connection
from imsim.sim.nodes.machines import Machines

if TYPE_CHECKING:
    from imsim.sim.nodes.router import RouterNode
    from imsim.sim.world import World


class GatewayNode(Machines):
    __slots__ = ("_connections", "_links", "_untold", "machine", "name", "work")

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world)
        self.name = f"g{index}"
        self.work = world.new_work(world.scenario.topology.gateway, "gateway", index)
        self._links = world.backend_links(("gateway", index), "router", world.scenario.topology.routers)
        self._connections: dict[int, Connection] = {}
        self._untold: list[Connection] | None = None  # after a crash, while nobody knows: those who are to be told
        self.machine: Gateway | None = None
        self.start()

    def start(self) -> None:
        self.machine = Gateway(self, self.world.policies, self.name, self.world.epoch)
        self._timers = (self.machine.timers,)

    def crash(self) -> None:
        """Everything in memory is gone, of which the clients hear by `crash_noticed`."""
        self.machine = None
        self._timers = ()
        self.work.forget(self.clock.now)
        self._untold = list(self._connections.values())
        self._connections = {}
        for connection in self._untold:
            connection.gateway_crashed()

    def crash_noticed(self) -> None:
        untold, self._untold = self._untold or [], None
        for connection in untold:
            connection.crash_noticed()

    @property
    def seems_up(self) -> bool:
        """Whether it is, as far as anybody knows."""
        return self.machine is not None or self._untold is not None

    def not_there_for(self, connection: Connection) -> None:
        """Somebody wants to connect, but it has crashed."""
        connection.gateway_crashed()
        if self._untold is None:
            connection.crash_noticed()
        else:
            self._untold.append(connection)

    def forget(self) -> None:
        if self.machine is not None:
            self.machine.timers.clear()
        self.machine = self._untold = None
        self._connections.clear()

    def start_anew(self) -> None:
        self.start()

    def router_lost(self, router: RouterNode) -> None:
        """The link to it broke."""
        if self.machine is not None:
            self.now = self.clock.now
            self.machine.router_lost(f"r{router.index}", lambda name: self.world.router_of(name) is router)
            self.arm()

    def router_back(self, router: RouterNode) -> None:
        """It is there again."""
        if self.machine is not None:
            self.now = self.clock.now
            self.machine.router_back(f"r{router.index}")
            self.arm()

    def handle_timer(self, now: float) -> None:
        if self.machine:
            self.machine.handle_timer(now)

    def accepted(self, connection: Connection) -> None:
        assert self.machine is not None
        self._connections[connection.id] = connection
        self.now = self.clock.now
        self.machine.connected(connection.id, self.now)
        self.arm()

    def hung_up(self, connection: Connection) -> None:
        if self.machine is not None and self._connections.pop(connection.id, None) is not None:
            self.now = self.clock.now
            self.machine.disconnected(connection.id, self.now)
            self.arm()

    def from_client(self, connection: Connection, frame: frames.FromClient) -> None:
        assert self.machine is not None
        intent = intent_of(frame.id_client) if type(frame) is frames.Send else None
        now = self.clock.now
        done = self.work.done(now, frame.op, connection.id, intent, connection.client.number, frame)
        if done is None:
            return  # no room: the frame vanishes, and the client repeats what matters
        self.now = done
        self.machine.receive(connection.id, frame, self.now)
        self.arm()

    def from_router(self, frame: internal_frames.ToGateway) -> None:
        if self.machine is not None:
            self.now = self.clock.now
            self.machine.receive_from_router(frame, self.now)
            self.arm()

    # --- the gateway's port ---

    def send(self, connection: int, frame: frames.ToClient) -> None:
        target = self._connections.get(connection)
        if target is None:
            return
        if type(frame) is frames.Push:
            intent = intent_of(frame.message.id_client)
        else:
            intent = intent_of(frame.id_client) if type(frame) is frames.Stored else None
        leaves = self.work.done(self.now, frame.op, connection, intent, target.client.number, frame)
        if leaves is not None:
            target.down(leaves, target.to_client, frame)

    def close(self, connection: int) -> None:
        target = self._connections.pop(connection, None)
        if target is not None:
            target.gateway_open = False
            target.down(self.now, target.lost_by_client, None)

    def authenticate(self, connection: int, token: str) -> None:
        # In the simulation a token is the user's name and when it was issued; its check costs what `login` costs.
        self.clock.call_at(self.now, self._authenticated, (connection, token))

    def _authenticated(self, asked: tuple[int, str]) -> None:
        connection, token = asked
        if self.machine is not None:
            self.now = self.clock.now
            user, _, issued_at = token.partition(" ")
            if self.world.has_user(user):
                self.machine.authenticated(connection, user, None, self.now, float(issued_at))
            else:
                self.machine.authenticated(connection, None, Code.BAD_TOKEN, self.now)
            self.arm()

    def to_conversation(self, frame: internal_frames.Up) -> None:
        router = self.world.router_of(frame.conversation_id)
        self._links[router.index].carry(self.now, router.receive, frame)

    def to_user(self, user: str, frame: internal_frames.ToUsers) -> None:
        router = self.world.router_of(user)
        self._links[router.index].carry(self.now, router.receive, frame)

    def emit(self, event: events.Pushed | events.Shed) -> None:
        self.world.observer.pushed(event, self._connections[event.session.connection].client.number, self.now)


class BatchingGatewayNode(GatewayNode):
    """One where pushes to a connection wait for each other, and go as one operation."""

    __slots__ = ("_interval", "_waiting")

    def __init__(self, world: World, index: int) -> None:
        self._interval = world.scenario.topology.gateway.batch_interval
        self._waiting: dict[int, list[tuple[frames.Push, Any]]] = {}  # by connection
        super().__init__(world, index)

    def crash(self) -> None:
        super().crash()
        self._waiting.clear()

    def send(self, connection: int, frame: frames.ToClient) -> None:
        if type(frame) is not frames.Push:
            super().send(connection, frame)
        elif connection in self._connections:
            waiting = self._waiting.get(connection)
            if waiting is None:
                waiting = self._waiting[connection] = []
                self.clock.call_at(self.now + self._interval, self._flush, connection)
            waiting.append((frame, self._context()))

    def _context(self) -> Any:
        """What is to be remembered of a push that waits; for those who follow it."""

    def _flush(self, connection: int) -> None:
        waiting, target = self._waiting.pop(connection, []), self._connections.get(connection)
        if waiting and target is not None:
            intent = intent_of(waiting[0][0].message.id_client)
            pushes = [frame for frame, _ in waiting]
            leaves = self.work.done(self.clock.now, frames.Push.op, connection, intent, target.client.number, pushes)
            if leaves is not None:
                for frame, context in waiting:
                    self._leave(target, leaves, frame, context)

    def _leave(self, target: Connection, leaves: float, frame: frames.Push, context: Any) -> None:
        target.down(leaves, target.to_client, frame)
