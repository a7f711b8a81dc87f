"""The nodes of the fault search: the core's own machines, each on a clock of its own.

They are leaner than those of `imsim.sim.nodes`, which model time spent; here an operation takes none, but anything can
happen between two of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from imsim.core import events, frames, internal_frames, storage
from imsim.core.client.client import Client
from imsim.core.client.connection import State
from imsim.core.client.conversations import Conversation
from imsim.core.gateway.gateway import Gateway
from imsim.core.model import is_chatroom
from imsim.core.router.router import Router
from imsim.core.storage.memory import MemoryStorage
from imsim.faultsearch.entries import (
    Adrift,
    Asked,
    ClientReceived,
    ClientSent,
    Event,
    GatewayForwarded,
    GatewayLost,
    GatewayNotified,
    GatewayReceived,
    GatewaySent,
    Repeated,
    RouterReceived,
    RouterSent,
    Said,
    Shed,
    Started,
    Stored,
    Struck,
    Wished,
)
from imsim.faultsearch.network import Connection, Pushed
from imsim.scenario import Stream

if TYPE_CHECKING:
    from imsim.faultsearch.world import World


_NEVER = float("inf")


class Node:
    """A clock, and a timer for the machines that it wakes. `now` is the node's own monotonic time in seconds."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_up = True
        self.now = world.clock.now
        self._base, self._at, self._rate = self.now, world.clock.now, 1.0
        self._armed = float("inf")

    def set_clock(self, ahead: float, drift: float) -> None:
        """Jump forward by `ahead` seconds, and be `drift` seconds fast for each second from now on."""
        self._base, self._at, self._rate = self._tick() + ahead, self.world.clock.now, 1.0 + drift
        self._armed = float("inf")
        self.act(lambda now: None)

    def act(self, action: Callable[[float], object]) -> None:
        """Have the machines do something: `action(now)`."""
        action(self._tick())
        self._after()

    def _tick(self) -> float:
        now = self._base + (self.world.clock.now - self._at) * self._rate
        if now > self.now:
            self.now = now
        return self.now

    def _after(self) -> None:
        deadline = self.next_deadline()
        if deadline is not None and deadline < self._armed:
            self._armed = deadline
            at = self._at + (deadline - self._base) / self._rate
            self.world.clock.call_at(max(at, self.world.clock.now), self._wake, deadline)

    def _wake(self, armed: float) -> None:
        if armed != self._armed:
            return  # an earlier one took its place
        self._armed = float("inf")
        self.now = max(self._tick(), armed)  # rounding must not make it too early
        self.handle_timer(self.now)
        self._after()

    def next_deadline(self) -> float | None:
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        raise NotImplementedError


Answer = events.RequestDone | events.RequestFailed | events.Entered | events.ReadCounted | events.History


def _range(of: events.History | frames.HistoryPage) -> str:
    return f"{of.conversation_id}:{of.first}-{of.last}"


def answered(event: Answer) -> tuple[str, str]:
    """The request that this answers, as (op, ref)."""
    if isinstance(event, events.Entered):
        return frames.Enter.op, event.name
    if isinstance(event, events.ReadCounted):
        return frames.ReadCount.op, f"{event.conversation_id}:{event.seq}"
    if isinstance(event, events.History):
        return frames.History.op, _range(event)
    return event.request, event.ref


def _refused(frame: frames.Rejected) -> tuple[str, str] | None:
    return None if frame.code.retryable else (frame.request, frame.ref)


#: What answers a request for good, and which one, as (op, ref).
_ANSWERED: dict[type, Callable[[Any], tuple[str, str] | None]] = {
    frames.Done: lambda frame: (frame.request, frame.ref),
    frames.Rejected: _refused,
    frames.Entered: lambda frame: (frames.Enter.op, frame.name),
    frames.ReadCounted: lambda frame: (frames.ReadCount.op, f"{frame.conversation_id}:{frame.seq}"),
    frames.HistoryPage: lambda frame: (frames.History.op, _range(frame)),
}


class Instance(Node):
    """A client, as long as its application runs: a crash ends it, and the device's next start is another instance."""

    def __init__(self, world: World, name: str, device: str, token: str, number: int) -> None:
        """`device`: "alice/d0"."""
        super().__init__(world, name)
        self.number = number
        self.key = device
        self.user, self.device = device.split("/")
        self.events: list[events.ClientEvent] = []
        self.sent: dict[str, dict[str, Any]] = {}  # by idClient, in order: what the application gave to `send`
        self.tapped: set[str] = set()  # idClients of those that it gave once more, failed or not
        self.rooms: set[str] = set()  # chatrooms that its user has entered, and not left
        self.asked: set[tuple[str, str]] = set()  # (op, ref) of the requests that its user waits for
        self.unanswered: dict[tuple[str, str], int] = {}  # the same of all that it has asked, with the latest number
        self.connection: Connection | None = None
        #: What its user has seen of the conversation list, each time with the number of events until then.
        self.looks: list[tuple[int, list[Conversation]]] = []
        jitter = world.jitter_stream(number)
        kind = world.case.kind(device)
        self.machine = Client(self, self.user, self.device, token, world.case.policies, jitter.next, kind)

    @property
    def is_live(self) -> bool:
        """Running, and neither stopped nor ended."""
        return self.is_up and self.machine.state != State.ENDED

    def start(self) -> None:
        """Its application has it log in."""
        self.world.record(Started(self.world.clock.now, self.name))
        self.act(self.machine.start)

    def ask(self, wanted: frames.Asked, action: Callable[[float], object]) -> None:
        """Its user asks for what this request says, by that action."""
        self.world.record(Wished(self.world.clock.now, self.name, wanted))
        if isinstance(wanted, frames.Enter | frames.Leave):
            other = frames.Leave if isinstance(wanted, frames.Enter) else frames.Enter
            self.asked.discard((other.op, wanted.ref))  # which is not wanted any more
            self.unanswered.pop((other.op, wanted.ref), None)
        self.asked.add((wanted.op, wanted.ref))
        self.act(action)

    def look(self) -> None:
        """The user looks at the conversation list."""
        if self.is_up:
            self.looks.append((len(self.events), self.machine.conversations()))

    def kill(self, *, silent: bool) -> None:
        """The application crashes. Its gateway is told, unless `silent`: then only the heartbeat finds out."""
        self.is_up = False
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.client_open = False
            if silent:
                connection.deaden("both")
            else:
                connection.up(self.now, connection.lost_by_gateway, None)

    def next_deadline(self) -> float | None:
        return self.machine.next_deadline() if self.is_up else None

    def handle_timer(self, now: float) -> None:
        if self.is_up:
            self.machine.handle_timer(now)

    def connection_opened(self) -> None:
        self.act(self.machine.connected)

    def from_gateway(self, frame: frames.ToClient) -> None:
        self.world.record(ClientReceived(self.world.clock.now, self.name, "", frame))
        answer = _ANSWERED.get(type(frame))
        if answer is not None:
            request = answer(frame)
            if request is not None and self.unanswered.get(request) == getattr(frame, "number", 0):
                del self.unanswered[request]
        self.act(lambda now: self.machine.receive(frame, now))

    def connection_lost(self, connection: Connection) -> None:
        if connection is self.connection:
            self.connection = None
            self.act(self.machine.disconnected)

    # --- the client's port ---

    def connect(self) -> None:
        self.connection = self.world.new_connection(self)
        self.connection.up(self.now, self.connection.accept, None)

    def send(self, frame: frames.FromClient) -> None:
        if self.connection is not None:
            self.world.record(ClientSent(self.world.clock.now, self.name, self.connection.gateway.name, frame))
            if isinstance(frame, frames.Asked):
                self.unanswered[frame.op, frame.ref] = frame.number
            self.connection.up(self.now, self.connection.to_gateway, frame)

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.client_open = False
            connection.up(self.now, connection.lost_by_gateway, None)

    def emit(self, event: events.ClientEvent) -> None:
        self.events.append(event)
        self.world.record(Event(self.world.clock.now, self.name, event))
        if type(event) is events.Ended:
            self.world.ended(self, event.code)
        elif isinstance(event, Answer):
            self.asked.discard(answered(event))
            if isinstance(event, events.RequestFailed) and event.request == frames.Enter.op:
                self.rooms.discard(event.ref)


class ServerNode(Node):
    """Node number `index` of its tier."""

    tier: ClassVar[str]

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world, f"{self.tier}{index}")
        self.key = (self.tier, index)


class GatewayNode(ServerNode):
    tier = "gateway"

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world, index)
        self.connections: dict[int, Connection] = {}
        self.start()

    def start(self) -> None:
        self.is_up = True
        world = self.world
        self.machine = Gateway(self, world.case.policies, self.name, world.placement, world.wall_epoch(self.name))

    def crash(self, stream: Stream) -> None:
        self.is_up = False
        for channel in self.world.channels_from(self.name):
            channel.lose(stream.next())
        connections, self.connections = self.connections, {}
        for connection in connections.values():
            connection.gateway_died(stream.next())

    def peer_lost(self, peer: ServerNode) -> None:
        if self.is_up:
            self.act(lambda now: self.machine.router_lost(peer.name))

    def peer_back(self, peer: ServerNode) -> None:
        if self.is_up:
            self.act(lambda now: self.machine.router_back(peer.name))

    def next_deadline(self) -> float | None:
        return self.machine.next_deadline() if self.is_up else None

    def handle_timer(self, now: float) -> None:
        if self.is_up:
            self.machine.handle_timer(now)

    def accepted(self, connection: Connection) -> None:
        self.connections[connection.id] = connection
        self.act(lambda now: self.machine.connected(connection.id, now))

    def refused(self, connection: Connection) -> None:
        connection.down(self.now, connection.lost_by_client, None)

    def hung_up(self, connection: Connection) -> None:
        if self.connections.pop(connection.id, None) is not None:
            self.act(lambda now: self.machine.disconnected(connection.id, now))

    def from_client(self, connection: Connection, frame: frames.FromClient) -> None:
        if self.world.crashes_on(self.name, frame.op, "arrived"):
            return
        self.world.record(GatewayReceived(self.world.clock.now, self.name, connection.client.name, frame))
        connection.acknowledged(frame)
        self.act(lambda now: self.machine.receive(connection.id, frame, now))
        self.world.crashes_on(self.name, frame.op, "passed on")

    def from_router(self, frame: internal_frames.ToGateway) -> None:
        op = frame.frame.op if type(frame) is internal_frames.Down else frame.op
        if not self.is_up or self.world.crashes_on(self.name, op, "arrived"):
            return
        self.world.record(GatewayNotified(self.world.clock.now, self.name, "", frame))
        self.act(lambda now: self.machine.receive_from_router(frame, now))
        self.world.crashes_on(self.name, op, "passed on")

    # --- the gateway's port ---

    def send(self, connection: int, frame: frames.ToClient) -> None:
        target = self.connections.get(connection)
        if target is None:
            self.world.record(Adrift(self.world.clock.now, self.name, self.world.owners[connection], frame))
            return
        self.world.record(GatewaySent(self.world.clock.now, self.name, target.client.name, frame))
        if isinstance(frame, Pushed):
            self.world.longest_queue = max(self.world.longest_queue, target.left(frame))
        target.down(self.now, target.to_client, frame)

    def close(self, connection: int) -> None:
        target = self.connections.pop(connection, None)
        if target is not None:
            target.gateway_open = False
            target.down(self.now, target.lost_by_client, None)

    def authenticate(self, connection: int, token: str) -> None:
        machine = self.machine
        self.world.later(0.0, lambda _: self._authenticated(machine, connection, token), None)

    def _authenticated(self, machine: Gateway, connection: int, token: str) -> None:
        if not self.is_up or machine is not self.machine or connection not in self.connections:
            return
        code = self.world.refusal(self.connections[connection].client)
        user, issued_at = token.split("@")
        name = user if code is None else None
        self.act(lambda now: machine.authenticated(connection, name, code, now, float(issued_at)))

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        self.world.record(GatewayForwarded(self.world.clock.now, self.name, router, frame))
        self.world.channel(self.name, router).carry(self.now, self.world.routers[router].receive, frame)

    def emit(self, event: events.Pushed | events.Shed) -> None:
        device = f"{event.session.user}/{event.session.device}"
        if isinstance(event, events.Shed):  # a push itself stands in the trace
            self.world.record(Shed(self.world.clock.now, self.name, event.message, device))
        elif event.attempt > 1 and not self.connections[event.session.connection].awaits(event.message):
            self.world.record(Repeated(self.world.clock.now, self.name, event.message, device))


class RouterNode(ServerNode):
    """Holds the conversations and the users that it owns."""

    tier = "router"

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world, index)
        self.lives = 0
        self.died: dict[int, float] = {}  # which life, and when
        self._local: deque[internal_frames.ToRouter] = deque()
        self.start()

    def start(self) -> None:
        self.is_up = True
        self.lives += 1
        epoch = self.world.wall_epoch(self.name)
        self.machine = Router(self, self.world.case.policies, self.world.placement, epoch)
        if self.lives > 1:
            self.act(self.machine.restarted)

    def crash(self, stream: Stream) -> None:
        self.is_up = False
        self.died[self.lives] = self.world.clock.now
        self._local.clear()
        for channel in self.world.channels_from(self.name):
            channel.lose(stream.next())
            channel.reconnect()

    def peer_lost(self, peer: ServerNode) -> None:
        if self.is_up and peer.tier == "gateway":
            self.world.record(GatewayLost(self.world.clock.now, self.name, peer.name))
            self.act(lambda now: self.machine.gateway_lost(peer.name, now))

    def peer_back(self, peer: ServerNode) -> None:
        if self.is_up and peer.tier == "router":
            self.act(lambda now: self.machine.router_back(now))

    def next_deadline(self) -> float | None:
        return self.machine.next_deadline() if self.is_up else None

    def handle_timer(self, now: float) -> None:
        if self.is_up:
            self.machine.handle_timer(now)

    def _after(self) -> None:
        while self._local:
            self.machine.receive(self._local.popleft(), self.now)
        super()._after()

    def receive(self, frame: internal_frames.ToRouter) -> None:
        if self.is_up:
            self.world.record(RouterReceived(self.world.clock.now, self.name, "", frame))
            self.act(lambda now: self.machine.receive(frame, now))

    def stored(self, answer: tuple[Router, storage.Request, storage.Result]) -> None:
        machine, request, result = answer
        if self.is_up and machine is self.machine:  # else it has died since it asked
            self.act(lambda now: machine.stored(request, result, now))
            self.world.spring(self.name, request, "answered")

    # --- the router's port ---

    def store(self, request: storage.Request) -> None:
        self.world.record(Asked(self.world.clock.now, self.name, request))
        self.world.channel(self.name, "storage").carry(
            self.now, self.world.storage.receive, (self, self.lives, self.machine, request)
        )
        self.world.spring(self.name, request, "asked")

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        self.world.record(RouterSent(self.world.clock.now, self.name, gateway, frame))
        self.world.channel(self.name, gateway).carry(self.now, self.world.gateways[gateway].from_router, frame)

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        self.world.record(RouterSent(self.world.clock.now, self.name, router, frame))
        if router == self.name:
            self._local.append(frame)
        else:
            self.world.channel(self.name, router).carry(self.now, self.world.routers[router].receive, frame)

    def emit(self, event: events.Committed) -> None:
        if is_chatroom(event.message.conversation_id):  # what storage did stands in the trace
            self.world.record(Said(self.world.clock.now, self.name, event.message))


_Asked = tuple[RouterNode, int, Router, storage.Request]  # who, in which of its lives


class StorageNode:
    """Storage is never lost; it may be slow, stand still, fail, or not say what it did.

    Requests of one life of a router are carried out in the order in which they came: one that was restarted may
    overtake what its earlier life has asked for. Answers overtake each other at all times.

    What a life that has ended had asked is carried out within the policy `storage_timeout`, or never."""

    def __init__(self, world: World, stream: Stream) -> None:
        self.world = world
        self.data = MemoryStorage(world.case.policies.fanout)
        self.waiting = 0  # requests that are not answered yet
        self._stream = stream
        self._last: dict[tuple[str, int], float] = {}
        self._windows = world.windows["storage"]

    def receive(self, asked: _Asked) -> None:
        router, lives, _, request = asked
        at = self.world.clock.now + self._delay()
        if window := self._windows.get("storage_slow"):
            at += window.draw() * window.arguments["up_to"]
            self._happened("storage_slow", request)
        if window := self._windows.get("storage_stall"):
            at = max(at, window.end)
            self._happened("storage_stall", request)
        life = (router.name, lives)
        at = self._last[life] = max(at, self._last.get(life, 0.0))
        self.waiting += 1
        self.world.clock.call_at(at, self._execute, asked)

    def _execute(self, asked: _Asked) -> None:
        router, life, asker, request = asked
        if self.world.clock.now > router.died.get(life, _NEVER) + self.world.case.policies.storage_timeout:
            self.waiting -= 1
            return  # whoever asked has been gone for too long
        delay, silent = self._delay(), False
        result: storage.Result
        failed, late = self._windows.strikes("storage_fails"), self._windows.strikes("storage_late")
        for window in (failed, late):
            if window is not None:
                self._happened(window.fault.kind, request)
        if (failed and not failed.arguments["done"]) or (late and not late.arguments["done"]):
            result = storage.Failed("nothing was done")
        else:
            result = self.data.execute(request)
            self.world.record(Stored(self.world.clock.now, "storage", router.name, request, result))
            if failed:
                result = storage.Failed("who knows")
        if late:
            delay += late.arguments["by"]
            silent = late.arguments["silent"]
        self.world.clock.call_at(self.world.clock.now + delay, self._answer, (silent, router, asker, request, result))
        self.world.spring(router.name, request, "done")

    def _answer(self, answer: tuple[bool, RouterNode, Router, storage.Request, storage.Result]) -> None:
        silent, router, asker, request, result = answer
        self.waiting -= 1
        if not silent:
            router.stored((asker, request, result))

    def _delay(self) -> float:
        return self.world.case.storage_latency * (0.5 + self._stream.next())

    def _happened(self, kind: str, request: storage.Request) -> None:
        self.world.record(Struck(self.world.clock.now, "storage", kind, request))
