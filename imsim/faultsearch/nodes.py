"""The nodes of the fault search: those of the simulation, each with its own clock, and recorded in the trace.

An operation takes no time here, but anything can happen between two of them. A life of a server lasts from its start to
its crash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imsim.core import events, frames, internal_frames, storage
from imsim.core.client.client import Client
from imsim.core.client.connection import State
from imsim.core.client.conversations import Conversation
from imsim.core.gateway.gateway import Gateway
from imsim.core.model import Code, is_chatroom
from imsim.core.placement import Placement
from imsim.core.timers import Timer, Timers
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
from imsim.faultsearch.network import Channel, Connection, Pushed
from imsim.faultsearch.surroundings import Surroundings
from imsim.scenario import Stream
from imsim.sim import nodes as sim
from imsim.sim.nodes.node import Node, ServerNode
from imsim.sim.nodes.work import Work

_NEVER = float("inf")


def _ignore(*_: object) -> None:
    """Report nothing: the trace records everything."""


class FlawedNode(Node):
    """A node with its own clock, which records its actions in the trace."""

    _armed = _NEVER  # when its clock wakes it

    clock: OwnClock
    machine: Any
    name: str
    world: Surroundings

    def record(self, kind: Callable[..., Entry], *about: Any) -> None:
        self.world.trace.append(kind(self.world.clock.now, self.name, *about))

    def set_clock(self, ahead: float, drift: float) -> None:
        self.clock.jump(ahead, drift)
        self._armed = _NEVER
        self.now = self.clock.now
        self.arm()

    def new_timers(self) -> Timers:
        self._timers = OwnTimers(self)
        return self._timers

    def arm(self) -> None:
        """Be woken at the machine's next deadline, if that is earlier than planned."""
        deadline = None if self._timers is None else self._timers.next_deadline()
        if deadline is not None and deadline < self._armed:
            self._armed = max(deadline, self.clock.now)
            self.clock.alarm_at(self._armed, self._wake, self._armed)

    def _wake(self, armed: float) -> None:
        if armed != self._armed:
            return  # an earlier one, or one of the clock since it jumped, has replaced it
        self._armed = _NEVER
        self.clock.reach(armed)
        self.now = self.clock.now
        if self._timers is not None:
            self.machine.handle_timer(self.now)
        self.arm()


class OwnTimers(Timers):
    """The timers of a machine whose node has a clock that can jump. They have the node woken at their next deadline."""

    __slots__ = ("_node",)

    def __init__(self, node: FlawedNode) -> None:
        super().__init__()
        self._node = node

    def at(self, deadline: float, callback: Callable[[Any, float], None], argument: Any = None) -> Timer:
        timer = super().at(deadline, callback, argument)
        self._node.arm()
        return timer


Answer = events.RequestDone | events.RequestFailed | events.Entered | events.ReadCounted | events.History
_AnswerFrame = frames.Done | frames.Rejected | frames.Entered | frames.ReadCounted | frames.HistoryPage


def answered(answer: Answer | _AnswerFrame) -> tuple[str, str]:
    """Return the request that this answers, as (op, ref)."""
    match answer:
        case events.Entered() | frames.Entered():
            return frames.Enter.op, answer.name
        case events.ReadCounted() | frames.ReadCounted():
            return frames.ReadCount.op, f"{answer.conversation_id}:{answer.seq}"
        case events.History() | frames.HistoryPage():
            return frames.History.op, f"{answer.conversation_id}:{answer.first}-{answer.last}"
        case _:
            return answer.request, answer.ref


class Instance(FlawedNode, sim.ClientNode[Connection]):
    """A client during one run of its application. A crash ends it, and the device's next start makes another
    instance."""

    def __init__(
        self,
        world: Surroundings,
        name: str,
        device: str,
        token: str,
        number: int,
        ended: Callable[[Instance, Code], None] | None = None,
    ) -> None:
        """Make an instance of a device, such as "alice/d0". `ended` is called when the server ends it permanently."""
        self.world = world
        self.name = name
        self._ended = ended
        self.is_up = True
        self.key = device
        self.user, self.device = device.split("/")
        self.events: list[events.ClientEvent] = []
        self.sent: dict[str, dict[str, Any]] = {}  # by idClient, in order: the arguments of `send`
        self.tapped: set[str] = set()  # idClients that the application sent once more, whether failed or not
        self.rooms: set[str] = set()  # chatrooms that its user has entered and not left
        self.asked: set[tuple[str, str]] = set()  # (op, ref) of the requests whose answers its user waits for
        # (op, ref) of all requests that it has sent -> the latest number
        self.unanswered: dict[tuple[str, str], int] = {}
        #: The user's looks at the conversation list, each with the number of events until then.
        self.looks: list[tuple[int, list[Conversation]]] = []
        rest = (token, world.case.policies, world.jitter_stream(number).next, world.case.kind(device))
        super().__init__(
            number, OwnClock(world.clock), lambda node: Client(node, self.user, self.device, *rest, self.new_timers())
        )

    @property
    def is_live(self) -> bool:
        """Whether it is running, and neither stopped nor ended."""
        return self.is_up and self.machine.state != State.ENDED

    def start(self) -> None:
        """Have it log in."""
        self.record(Started)
        self.act(self.machine.start)

    def ask(self, wanted: frames.Asked, action: Callable[[float], object]) -> None:
        """Make a request of its user by that action."""
        self.record(Wished, wanted)
        if isinstance(wanted, frames.Enter | frames.Leave):
            other = frames.Leave if isinstance(wanted, frames.Enter) else frames.Enter
            self.asked.discard((other.op, wanted.ref))  # the newer request replaces it
            self.unanswered.pop((other.op, wanted.ref), None)
        self.asked.add((wanted.op, wanted.ref))
        self.act(action)

    def look(self) -> None:
        """Record the conversation list as the user sees it now."""
        if self.is_up:
            self.looks.append((len(self.events), self.machine.conversations()))

    def kill(self, *, silent: bool) -> None:
        """Crash the application. Unless `silent`, its gateway is notified; otherwise only the heartbeat detects it."""
        self.is_up = False
        self._timers = None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.client_open = False
            if silent:
                connection.make_half_open("both")
            else:
                connection.up.carry(self.now, connection.lost_by_gateway, None)

    def from_gateway(self, frame: frames.ToClient) -> None:
        self.record(ClientReceived, "", frame)
        if isinstance(frame, _AnswerFrame) and not (isinstance(frame, frames.Rejected) and frame.code.retryable):
            request = answered(frame)
            if self.unanswered.get(request) == frame.number:
                del self.unanswered[request]
        super().from_gateway(frame)

    def dial(self) -> Connection:
        connection: Connection = self.world.new_connection(self)
        return connection

    # --- the client's port ---

    def send(self, frame: frames.FromClient) -> None:
        if self.connection is not None:
            self.record(ClientSent, self.connection.gateway.name, frame)
            if isinstance(frame, frames.Asked):
                self.unanswered[frame.op, frame.ref] = frame.number
            super().send(frame)

    def emit(self, event: events.ClientEvent) -> None:
        self.events.append(event)
        self.record(Event, event)
        if type(event) is events.Ended:
            if self._ended is not None:
                self._ended(self, event.code)
        elif isinstance(event, Answer):
            self.asked.discard(answered(event))
            if isinstance(event, events.RequestFailed) and event.request == frames.Enter.op:
                self.rooms.discard(event.ref)


class FlawedServer(FlawedNode, ServerNode):
    """A server whose frames can be lost in a crash.

    `_epoch`: the wall time at which its clock was 0, as it assumes in its present life.
    """

    _epoch: float
    channels: list[Channel]

    def start(self) -> None:
        self._epoch = self.world.wall_epoch(self.name)
        super().start()

    def crash_with(self, stream: Stream) -> None:
        """Crash; the random stream decides how many of the last frames it sent are lost."""
        for channel in self.channels:
            channel.lose_last(stream.next())
        self.crash()


class GatewayNode(FlawedServer, sim.GatewayNode[Connection]):
    """A gateway that records its actions in the trace."""

    clock: OwnClock

    def __init__(self, world: Surroundings, index: int, work: Work) -> None:
        self.world, self.channels = world, []
        super().__init__(index, OwnClock(world.clock), work, world.case.policies, 0.0, (), world.placement, _ignore)

    def crash_with(self, stream: Stream) -> None:
        ways: list[Channel | Connection] = [*self.channels, *self.connections.values()]
        for way in ways:
            way.lose_last(stream.next())
        self.crash()

    def from_client(self, connection: Connection, frame: frames.FromClient) -> None:
        if self.world.crashes_on(self.name, frame.op, "arrived"):
            return
        self.record(GatewayReceived, connection.client.name, frame)
        connection.acknowledged(frame)
        super().from_client(connection, frame)
        self.world.crashes_on(self.name, frame.op, "passed on")

    def from_router(self, frame: internal_frames.ToGateway) -> None:
        op = frame.frame.op if type(frame) is internal_frames.Down else frame.op
        if not self.is_up or self.world.crashes_on(self.name, op, "arrived"):
            return
        self.record(GatewayNotified, "", frame)
        super().from_router(frame)
        self.world.crashes_on(self.name, op, "passed on")

    # --- the gateway's port ---

    def send(self, connection: int, frame: frames.ToClient) -> None:
        target = self.connections.get(connection)
        if target is None:
            self.record(Adrift, self.world.owners[connection], frame)
            return
        self.record(GatewaySent, target.client.name, frame)
        if isinstance(frame, Pushed):
            self.world.longest_queue = max(self.world.longest_queue, target.left(frame))
        super().send(connection, frame)

    def authenticate(self, connection: int, token: str) -> None:
        self.clock.call_at(self.now, self._check_token, (self.machine, connection, token))

    def _check_token(self, asked: tuple[Gateway, int, str]) -> None:
        machine, connection, token = asked
        if machine is not self.machine or connection not in self.connections:
            return
        client = self.connections[connection].client
        code = self.world.refusal(client.key, client.name)
        user, issued_at = token.split("@")
        self.now = self.clock.now
        machine.authenticated(connection, user if code is None else None, code, self.now, float(issued_at))

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        self.record(GatewayForwarded, router, frame)
        super().to_router(router, frame)

    def emit(self, event: events.Pushed | events.Shed) -> None:
        device = f"{event.session.user}/{event.session.device}"
        if isinstance(event, events.Shed):  # a push itself is recorded as it is sent
            self.record(Shed, event.message, device)
        elif event.attempt > 1 and not self.connections[event.session.connection].awaits(event.message):
            self.record(Repeated, event.message, device)


class RouterNode(FlawedServer, sim.RouterNode):
    """A router that records its actions in the trace."""

    clock: OwnClock

    def __init__(self, world: Surroundings, index: int, work: Work) -> None:
        self.world, self.channels = world, []
        policies, placement = world.case.policies, world.placement
        rest = (placement, Placement(["storage"]), _ignore)
        super().__init__(index, OwnClock(world.clock), work, policies, 0.0, {}, *rest)

    def crash_with(self, stream: Stream) -> None:
        assert self.machine is not None
        self.world.deaths[self.machine] = self.world.clock.now
        super().crash_with(stream)
        for channel in self.channels:
            channel.reconnect()

    def peer_lost(self, peer: ServerNode) -> None:
        if self.is_up and peer.tier == "gateway":
            self.record(GatewayLost, peer.name)
        super().peer_lost(peer)

    def receive(self, frame: internal_frames.ToRouter) -> None:
        if self.is_up:
            self.record(RouterReceived, "", frame)
            super().receive(frame)

    def stored(self, answer: tuple[storage.Request, storage.Result]) -> None:
        super().stored(answer)
        request, _ = answer
        if self.world.askers[request] is self.machine:  # else the life that sent the request has ended
            self.world.trigger_ambush(self.name, request, "answered")

    # --- the router's port ---

    def keep(self, frame: internal_frames.ToRouter) -> Any:
        self.record(RouterSent, self.name, frame)
        return super().keep(frame)

    def store(self, name: str, request: storage.Request) -> None:
        assert self.machine is not None
        self.world.askers[request] = self.machine
        self.record(Asked, request)
        super().store(name, request)
        self.world.trigger_ambush(self.name, request, "asked")

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        self.record(RouterSent, gateway, frame)
        super().to_gateway(gateway, frame)

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        self.record(RouterSent, router, frame)
        super().to_router(router, frame)

    def emit(self, event: events.Committed) -> None:
        if is_chatroom(event.message.conversation_id):  # other messages are recorded as storage appends them
            self.record(Said, event.message)
