"""The node of a gateway."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Generic, TypeVar

from imsim.core import events, frames, internal_frames
from imsim.core.gateway.gateway import Gateway
from imsim.core.model import Code
from imsim.core.placement import Placement
from imsim.core.policies import Policies
from imsim.scenario.actor import intent_of
from imsim.sim.clock import NodeClock
from imsim.sim.connection import ConnectionState
from imsim.sim.link import Hop
from imsim.sim.nodes.node import ServerNode
from imsim.sim.nodes.work import Work

#: Called with a gateway's event about a push, the number of the device and the time.
Report = Callable[[events.Pushed | events.Shed, int, float], None]


C = TypeVar("C", bound=ConnectionState)


class GatewayNode(ServerNode, Generic[C]):
    """A node that holds a gateway and its connections."""

    __slots__ = (
        "_batches", "_epoch", "_logins", "_placement", "_policies", "_report", "_routers", "_unnoticed", "_users",
        "_waited", "connections", "machine",
    )  # fmt: skip

    tier = "gateway"

    def __init__(
        self,
        index: int,
        clock: NodeClock,
        work: Work,
        policies: Policies,
        epoch: float,
        users: Container[str],
        placement: Placement,
        report: Report,
        batch_interval: float = 0.0,
    ) -> None:
        """`epoch`: the wall time at which the clock was 0. `users`: the names of all users. `placement`: decides which
        router owns a conversation or a user."""
        super().__init__(index, clock, work)
        self._policies = policies
        self._epoch = epoch
        self._users = users
        self._placement = placement
        self._report = report
        self._routers: Mapping[str, Hop] = {}
        self.connections: dict[int, C] = {}
        #: The connections that a crash broke, until the crash is detected. None at all other times.
        self._unnoticed: list[C] | None = None
        self._waited = 0.0  # the wait of the send that the machine handles, in seconds
        self._logins: Logins[C] = Logins(clock, work, policies.logins, self._log_in)
        self._batches = Batches(clock, work, batch_interval, self.connections) if batch_interval else None
        self.machine: Gateway | None = None
        self.start()

    def wire(self, routers: Mapping[str, Hop]) -> None:
        self._routers = routers

    def start(self) -> None:
        super().start()
        self.machine = Gateway(self, self._policies, self.name, self._placement, self._epoch, self.new_timers())

    def crash(self) -> None:
        """Stop the gateway. The clients do not know before `crash_noticed`."""
        super().crash()
        self.machine = None
        self._unnoticed = list(self.connections.values())
        self.connections.clear()
        self._logins = self._logins.forget()
        if self._batches is not None:
            self._batches.clear()
        for connection in self._unnoticed:
            connection.gateway_crashed()

    def crash_noticed(self) -> None:
        """Break the clients' connections: the crash is detected."""
        unnoticed, self._unnoticed = self._unnoticed or [], None
        for connection in unnoticed:
            connection.crash_noticed()

    @property
    def seems_up(self) -> bool:
        """Whether the node seems up to others: it is up, or its crash is not detected yet."""
        return self.is_up or self._unnoticed is not None

    def forget(self) -> None:
        if self.machine is not None:
            self.machine.forget()
        self.machine = self._unnoticed = None
        self.connections.clear()
        self.wire({})

    def peer_lost(self, peer: ServerNode) -> None:
        if self.machine is not None:
            self.now = self.clock.now
            self.machine.router_lost(peer.name)

    def peer_back(self, peer: ServerNode) -> None:
        if self.machine is not None:
            self.now = self.clock.now
            self.machine.router_back(peer.name)

    # --- its end of the connections ---------------------------------------------------------------------------------

    def accepted(self, connection: C) -> None:
        assert self.machine is not None
        self.connections[connection.id] = connection
        self.now = self.clock.now
        self.machine.connected(connection.id, self.now)

    def refused(self, connection: C) -> None:
        connection.gateway_crashed()
        if self._unnoticed is None:
            connection.crash_noticed()
        else:
            self._unnoticed.append(connection)

    def hung_up(self, connection: C) -> None:
        if self.machine is not None and self.connections.pop(connection.id, None) is not None:
            self._logins.drop(connection)
            self.now = self.clock.now
            self.machine.disconnected(connection.id, self.now)

    def from_client(self, connection: C, frame: frames.FromClient) -> None:
        assert self.machine is not None
        id, now, intent = connection.id, self.clock.now, None
        if type(frame) is frames.Login:
            self._logins.add(connection, frame)
            return
        if type(frame) is frames.Send:
            intent = intent_of(frame.id_client)
            self._waited = self.work.wait(now, frame.op)
            if self.machine.is_busy(id, self._waited, now):  # then it refuses the send: only the answer takes work
                self.now = now
                self.machine.receive(id, frame, now)
                return
        done = self.work.done(now, frame.op, id, intent, connection.client.number, frame)
        if done is None:
            return  # the queue is full: the frame is lost, and the client repeats those that need an answer
        self.now = done
        self.machine.receive(id, frame, done)

    def _log_in(self, connection: C, frame: frames.Login, done: float) -> None:
        assert self.machine is not None
        self.now = done
        self.machine.receive(connection.id, frame, done)

    def from_router(self, frame: internal_frames.ToGateway) -> None:
        if self.machine is not None:
            self.now = now = self.clock.now
            self.machine.receive_from_router(frame, now)

    # --- the gateway's port -----------------------------------------------------------------------------------------

    def send(self, connection: int, frame: frames.ToClient) -> None:
        target = self.connections.get(connection)
        if target is None:
            return
        if type(frame) is frames.Push:
            if self._batches is not None:
                self._batches.add(self.now, target, frame)
                return
            intent = intent_of(frame.message.id_client)
        else:
            intent = intent_of(frame.id_client) if type(frame) is frames.Stored else None
        leaves = self.work.done(self.now, frame.op, connection, intent, target.client.number, frame)
        if leaves is not None:
            target.down.carry(leaves, target.to_client, frame)

    def close(self, connection: int) -> None:
        target = self.connections.pop(connection, None)
        if target is not None:
            self._logins.drop(target)
            target.gateway_open = False
            target.down.carry(self.now, target.lost_by_client, None)

    def authenticate(self, connection: int, token: str) -> None:
        # In the simulation, a token is the user's name and its time of issue. The cost of `login` includes its check.
        self.clock.call_at(self.now, self._authenticated, (connection, token))

    def _authenticated(self, asked: tuple[int, str]) -> None:
        connection, token = asked
        if self.machine is not None:
            self.now = self.clock.now
            user, _, issued_at = token.partition(" ")
            if user in self._users:
                self.machine.authenticated(connection, user, None, self.now, float(issued_at))
            else:
                self.machine.authenticated(connection, None, Code.BAD_TOKEN, self.now)

    def waited(self) -> float:
        return self._waited

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        carry, receive = self._routers[router]
        carry(self.now, receive, frame)

    def emit(self, event: events.Pushed | events.Shed) -> None:
        self._report(event, self.connections[event.session.connection].client.number, self.now)


class Logins(Generic[C]):
    """The logins of a gateway that wait for a worker.

    The gateway works on `most` logins at the same time. Among the others, the latest is served first: after a crash,
    the earliest are the next to give up. A login whose client has given up is dropped without work. The live server
    does the same (`imsim.live.admission`).
    """

    __slots__ = ("_at_work", "_clock", "_most", "_serve", "_waiting", "_work")

    def __init__(
        self, clock: NodeClock, work: Work, most: int, serve: Callable[[C, frames.Login, float], None]
    ) -> None:
        """`serve`: called with the time at which the work for a login is done."""
        self._clock = clock
        self._work = work
        self._most = most
        self._serve = serve
        self._waiting: dict[C, tuple[frames.Login, Any]] = {}  # the earliest first, with the result of `Work.keep`
        self._at_work = 0

    def forget(self) -> Logins[C]:
        """Drop the waiting logins, as after a crash. Return a new queue to use instead."""
        self._waiting.clear()
        return Logins(self._clock, self._work, self._most, self._serve)

    def add(self, connection: C, frame: frames.Login) -> None:
        self._waiting[connection] = (frame, self._work.keep(self._clock.now, frame))
        self._serve_some()

    def drop(self, connection: C) -> None:
        """Drop the login of a connection that has ended."""
        self._waiting.pop(connection, None)

    def _serve_some(self) -> None:
        while self._waiting and self._at_work < self._most:
            connection, (frame, kept) = self._waiting.popitem()
            now = self._clock.now
            self._work.resume(kept)
            done = self._work.done(now, frame.op, connection.id, None, connection.client.number, frame)
            if done is None:
                continue  # the queue is full: the frame is lost
            if done > now:
                self._at_work += 1
                self._clock.call_at(done, self._done, None)
            self._serve(connection, frame, done)

    def _done(self, _: None) -> None:
        self._at_work -= 1
        self._serve_some()


class Batches:
    """Batches of pushes: the pushes to one connection within an interval are sent as one operation."""

    __slots__ = ("_clock", "_connections", "_interval", "_waiting", "_work")

    def __init__(
        self, clock: NodeClock, work: Work, interval: float, connections: Mapping[int, ConnectionState]
    ) -> None:
        self._clock = clock
        self._work = work
        self._interval = interval
        self._connections = connections
        self._waiting: dict[int, list[tuple[frames.Push, Any]]] = {}  # by connection

    def clear(self) -> None:
        self._waiting.clear()

    def add(self, now: float, target: ConnectionState, frame: frames.Push) -> None:
        waiting = self._waiting.get(target.id)
        kept = self._work.keep(now, frame, target.client.number)
        if waiting is None:
            waiting = self._waiting[target.id] = []
            self._clock.call_at(now + self._interval, self._flush, target.id)
        waiting.append((frame, kept))

    def _flush(self, connection: int) -> None:
        waiting, target = self._waiting.pop(connection, []), self._connections.get(connection)
        if waiting and target is not None:
            intent = intent_of(waiting[0][0].message.id_client)
            pushes = [frame for frame, _ in waiting]
            leaves = self._work.done(self._clock.now, frames.Push.op, connection, intent, target.client.number, pushes)
            if leaves is not None:
                for frame, kept in waiting:
                    self._work.resume(kept)
                    target.down.carry(leaves, target.to_client, frame)
