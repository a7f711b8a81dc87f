"""The nodes of the fault search: those of the simulation, each on a clock of its own, with what they do in the trace.

An operation takes no time here, but anything can happen between two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from imsim.core import events, frames, internal_frames, storage
from imsim.core.client.client import Client
from imsim.core.client.connection import State
from imsim.core.client.conversations import Conversation
from imsim.core.gateway.gateway import Gateway
from imsim.core.model import Code, is_chatroom
from imsim.core.placement import Placement
from imsim.faultsearch.case import Case
from imsim.faultsearch.clock import OwnClock
from imsim.faultsearch.entries import (
    Adrift,
    Asked,
    ClientReceived,
    ClientSent,
    Entry,
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
    Wished,
)
from imsim.faultsearch.faults import Windows
from imsim.faultsearch.network import Channel, Connection, Pushed
from imsim.scenario import Stream
from imsim.sim import nodes as sim
from imsim.sim.clock import Clock
from imsim.sim.nodes.node import Node, ServerNode
from imsim.sim.nodes.work import Work

_NEVER = float("inf")


def _unheard(*_: object) -> None:
    """Nothing is reported: the trace says it all."""


class World(Protocol):
    """What nodes need of the world around them."""

    clock: Clock
    case: Case
    placement: Placement
    windows: dict[str, Windows]
    routers: dict[str, RouterNode]
    owners: dict[int, str]
    longest_queue: int

    def record(self, entry: Entry) -> None: ...
    def wall_epoch(self, node: str) -> float: ...
    def jitter_stream(self, number: int) -> Stream: ...
    def new_connection(self, client: Instance) -> Connection: ...
    def channels_from(self, source: str) -> Iterable[Channel]: ...
    def refusal(self, instance: Instance) -> Code | None: ...
    def ended(self, instance: Instance, code: Code) -> None: ...
    def crashes_on(self, gateway: str, op: str, moment: str) -> bool: ...
    def spring(self, router: str, request: storage.Request, moment: str) -> None: ...


class OwnTime(Node):
    """A node with a clock of its own."""

    __slots__ = ()

    clock: OwnClock

    def set_clock(self, ahead: float, drift: float) -> None:
        self.clock.jump(ahead, drift)
        self._armed = _NEVER
        self.now = self.clock.now
        self.arm()

    def _wake(self, armed: float) -> None:
        if armed == self._armed:
            self.clock.reach(armed)
        super()._wake(armed)


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


class Instance(OwnTime, sim.ClientNode[Connection]):
    """A client, as long as its application runs: a crash ends it, and the device's next start is another instance."""

    def __init__(self, world: World, name: str, device: str, token: str, number: int) -> None:
        """`device`: "alice/d0"."""
        self.world = world
        self.name = name
        self.is_up = True
        self.key = device
        self.user, self.device = device.split("/")
        self.events: list[events.ClientEvent] = []
        self.sent: dict[str, dict[str, Any]] = {}  # by idClient, in order: what the application gave to `send`
        self.tapped: set[str] = set()  # idClients of those that it gave once more, failed or not
        self.rooms: set[str] = set()  # chatrooms that its user has entered, and not left
        self.asked: set[tuple[str, str]] = set()  # (op, ref) of the requests that its user waits for
        self.unanswered: dict[tuple[str, str], int] = {}  # the same of all that it has asked, with the latest number
        #: What its user has seen of the conversation list, each time with the number of events until then.
        self.looks: list[tuple[int, list[Conversation]]] = []
        rest = (token, world.case.policies, world.jitter_stream(number).next, world.case.kind(device))
        super().__init__(number, OwnClock(world.clock), lambda node: Client(node, self.user, self.device, *rest))

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
        self._timers = ()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.client_open = False
            if silent:
                connection.deaden("both")
            else:
                connection.up(self.now, connection.lost_by_gateway, None)

    def handle_timer(self, now: float) -> None:
        if self.is_up:
            super().handle_timer(now)

    def from_gateway(self, frame: frames.ToClient) -> None:
        self.world.record(ClientReceived(self.world.clock.now, self.name, "", frame))
        answer = _ANSWERED.get(type(frame))
        if answer is not None:
            request = answer(frame)
            if request is not None and self.unanswered.get(request) == getattr(frame, "number", 0):
                del self.unanswered[request]
        super().from_gateway(frame)

    def dial(self) -> Connection:
        return self.world.new_connection(self)

    # --- the client's port ---

    def send(self, frame: frames.FromClient) -> None:
        if self.connection is not None:
            self.world.record(ClientSent(self.world.clock.now, self.name, self.connection.gateway.name, frame))
            if isinstance(frame, frames.Asked):
                self.unanswered[frame.op, frame.ref] = frame.number
            super().send(frame)

    def emit(self, event: events.ClientEvent) -> None:
        self.events.append(event)
        self.world.record(Event(self.world.clock.now, self.name, event))
        if type(event) is events.Ended:
            self.world.ended(self, event.code)
        elif isinstance(event, Answer):
            self.asked.discard(answered(event))
            if isinstance(event, events.RequestFailed) and event.request == frames.Enter.op:
                self.rooms.discard(event.ref)


class GatewayNode(OwnTime, sim.GatewayNode[Connection]):
    """A gateway, with what it does in the trace."""

    clock: OwnClock

    def __init__(self, world: World, index: int, work: Work) -> None:
        self.world = world
        super().__init__(index, OwnClock(world.clock), work, world.case.policies, 0.0, (), world.placement, _unheard)

    def start(self) -> None:
        self._epoch = self.world.wall_epoch(self.name)
        super().start()

    def crash_with(self, stream: Stream) -> None:
        """Crash; the last of what it sent is lost, by the luck in the stream."""
        for channel in self.world.channels_from(self.name):
            channel.lose(stream.next())
        for connection in self.connections.values():
            connection.lose_last(stream.next())
        self.crash()

    def from_client(self, connection: Connection, frame: frames.FromClient) -> None:
        if self.world.crashes_on(self.name, frame.op, "arrived"):
            return
        self.world.record(GatewayReceived(self.world.clock.now, self.name, connection.client.name, frame))
        connection.acknowledged(frame)
        super().from_client(connection, frame)
        self.world.crashes_on(self.name, frame.op, "passed on")

    def from_router(self, frame: internal_frames.ToGateway) -> None:
        op = frame.frame.op if type(frame) is internal_frames.Down else frame.op
        if not self.is_up or self.world.crashes_on(self.name, op, "arrived"):
            return
        self.world.record(GatewayNotified(self.world.clock.now, self.name, "", frame))
        super().from_router(frame)
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
        super().send(connection, frame)

    def authenticate(self, connection: int, token: str) -> None:
        self.clock.call_at(self.now, self._check_token, (self.machine, connection, token))

    def _check_token(self, asked: tuple[Gateway, int, str]) -> None:
        machine, connection, token = asked
        if machine is not self.machine or connection not in self.connections:
            return
        code = self.world.refusal(self.connections[connection].client)
        user, issued_at = token.split("@")
        self.now = self.clock.now
        machine.authenticated(connection, user if code is None else None, code, self.now, float(issued_at))
        self.arm()

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        self.world.record(GatewayForwarded(self.world.clock.now, self.name, router, frame))
        super().to_router(router, frame)

    def emit(self, event: events.Pushed | events.Shed) -> None:
        device = f"{event.session.user}/{event.session.device}"
        if isinstance(event, events.Shed):  # a push itself stands in the trace
            self.world.record(Shed(self.world.clock.now, self.name, event.message, device))
        elif event.attempt > 1 and not self.connections[event.session.connection].awaits(event.message):
            self.world.record(Repeated(self.world.clock.now, self.name, event.message, device))


class RouterNode(OwnTime, sim.RouterNode):
    """A router, with what it does in the trace."""

    clock: OwnClock

    def __init__(self, world: World, index: int, work: Work) -> None:
        self.world = world
        self.deaths: list[float] = []  # when each life ended
        self.asked_in: dict[storage.Request, int] = {}  # in which life
        policies, placement = world.case.policies, world.placement
        rest = (placement, Placement(["storage"]), _unheard)
        super().__init__(index, OwnClock(world.clock), work, policies, 0.0, {}, *rest)

    def start(self) -> None:
        self._epoch = self.world.wall_epoch(self.name)
        super().start()

    def crash_with(self, stream: Stream) -> None:
        """Crash; the last of what it sent is lost, by the luck in the stream."""
        self.deaths.append(self.world.clock.now)
        self.crash()
        for channel in self.world.channels_from(self.name):
            channel.lose(stream.next())
            channel.reconnect()

    def peer_lost(self, peer: ServerNode) -> None:
        if self.is_up and peer.tier == "gateway":
            self.world.record(GatewayLost(self.world.clock.now, self.name, peer.name))
        super().peer_lost(peer)

    def receive(self, frame: internal_frames.ToRouter) -> None:
        if self.is_up:
            self.world.record(RouterReceived(self.world.clock.now, self.name, "", frame))
            super().receive(frame)

    def stored(self, answer: tuple[storage.Request, storage.Result]) -> None:
        super().stored(answer)
        request, _ = answer
        if self.asked_in[request] == self.lives:  # else it has died since it asked
            self.world.spring(self.name, request, "answered")

    # --- the router's port ---

    def keep(self, frame: internal_frames.ToRouter) -> Any:
        self.world.record(RouterSent(self.world.clock.now, self.name, self.name, frame))
        return super().keep(frame)

    def store(self, name: str, request: storage.Request) -> None:
        self.asked_in[request] = self.lives
        self.world.record(Asked(self.world.clock.now, self.name, request))
        super().store(name, request)
        self.world.spring(self.name, request, "asked")

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        self.world.record(RouterSent(self.world.clock.now, self.name, gateway, frame))
        super().to_gateway(gateway, frame)

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        self.world.record(RouterSent(self.world.clock.now, self.name, router, frame))
        super().to_router(router, frame)

    def emit(self, event: events.Committed) -> None:
        if is_chatroom(event.message.conversation_id):  # what storage did stands in the trace
            self.world.record(Said(self.world.clock.now, self.name, event.message))
