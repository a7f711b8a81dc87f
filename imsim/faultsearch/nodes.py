"""The nodes of the fault search: the core's own machines, each on a clock of its own.

They are leaner than those of `imsim.sim.nodes`, which model time spent; here an operation takes none, but anything can
happen between two of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imsim.core import events, frames, internal_frames, storage
from imsim.core.client.client import Client
from imsim.core.client.connection import State
from imsim.core.client.conversations import Conversation
from imsim.core.gateway.gateway import Gateway
from imsim.core.model import is_chatroom
from imsim.core.placement import Placement
from imsim.core.router.router import Router
from imsim.core.storage.memory import MemoryStorage
from imsim.faultsearch.clock import OwnClock
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
from imsim.sim import nodes as sim
from imsim.sim.nodes import storage as sim_storage
from imsim.sim.nodes.node import Node, ServerNode
from imsim.sim.nodes.work import Work

if TYPE_CHECKING:
    from imsim.faultsearch.world import World


_NEVER = float("inf")


def _unheard(*_: object) -> None:
    """Nothing is reported: the trace says it all."""


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


class Instance(OwnTime):
    """A client, as long as its application runs: a crash ends it, and the device's next start is another instance."""

    def __init__(self, world: World, name: str, device: str, token: str, number: int) -> None:
        """`device`: "alice/d0"."""
        super().__init__(OwnClock(world.clock))
        self.world = world
        self.name = name
        self.is_up = True
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
        self._timers = (self.machine.timers,)

    def act(self, action: Callable[[float], object]) -> None:
        """Have the machine do something: `action(now)`."""
        self.now = self.clock.now
        action(self.now)
        self.arm()

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
        self.deaths: dict[Router, float] = {}  # of the machine of each life that is over: when
        policies, placement = world.case.policies, world.placement
        rest = (placement, Placement(["storage"]), _unheard)
        super().__init__(index, OwnClock(world.clock), work, policies, 0.0, {}, *rest, tracks_requests=False)

    def start(self) -> None:
        self._epoch = self.world.wall_epoch(self.name)
        super().start()

    def crash_with(self, stream: Stream) -> None:
        """Crash; the last of what it sent is lost, by the luck in the stream."""
        assert self.machine is not None
        self.deaths[self.machine] = self.world.clock.now
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

    def stored(self, answer: tuple[Router, storage.Request, storage.Result]) -> None:
        machine, request, _ = answer
        if machine is self.machine:  # else it has died since it asked
            super().stored(answer)
            self.world.spring(self.name, request, "answered")

    # --- the router's port ---

    def store(self, request: storage.Request) -> None:
        self.world.record(Asked(self.world.clock.now, self.name, request))
        super().store(request)
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


_Answer = tuple[bool, str, Router, storage.Request, storage.Result]  # whether it is silent, and to whom


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
        self._last: dict[Router, float] = {}  # by the machine, of which each life has another
        self._windows = world.windows["storage"]

    def receive(self, asked: sim_storage.Asked) -> None:
        _, asker, request = asked
        at = self.world.clock.now + self._delay()
        if window := self._windows.get("storage_slow"):
            at += window.draw() * window.arguments["up_to"]
            self._happened("storage_slow", request)
        if window := self._windows.get("storage_stall"):
            at = max(at, window.end)
            self._happened("storage_stall", request)
        at = self._last[asker] = max(at, self._last.get(asker, 0.0))
        self.waiting += 1
        self.world.clock.call_at(at, self._execute, asked)

    def _execute(self, asked: sim_storage.Asked) -> None:
        name, asker, request = asked
        died = self.world.routers[name].deaths.get(asker, _NEVER)
        if self.world.clock.now > died + self.world.case.policies.storage_timeout:
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
            self.world.record(Stored(self.world.clock.now, "storage", name, request, result))
            if failed:
                result = storage.Failed("who knows")
        if late:
            delay += late.arguments["by"]
            silent = late.arguments["silent"]
        self.world.clock.call_at(self.world.clock.now + delay, self._answer, (silent, name, asker, request, result))
        self.world.spring(name, request, "done")

    def _answer(self, answer: _Answer) -> None:
        silent, name, asker, request, result = answer
        self.waiting -= 1
        if not silent:
            self.world.routers[name].stored((asker, request, result))

    def _delay(self) -> float:
        return self.world.case.storage_latency * (0.5 + self._stream.next())

    def _happened(self, kind: str, request: storage.Request) -> None:
        self.world.record(Struck(self.world.clock.now, "storage", kind, request))
