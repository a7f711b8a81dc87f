"""What frames travel on in the fault search: wires that keep their order until a fault says otherwise.

Between nodes a wire is a TCP connection of the backbone: FIFO, and what is on its way is lost when it breaks. Between a
device and its gateway frames also exist singly, so that one can be lost, doubled or overtaken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imsim.core import frames
from imsim.core.model import Message, is_chatroom
from imsim.faultsearch.entries import FrameLost, Struck
from imsim.faultsearch.faults import Window, Windows
from imsim.scenario import Stream

if TYPE_CHECKING:
    from imsim.faultsearch.nodes import GatewayNode, Instance
    from imsim.faultsearch.world import World

Arrive = Callable[[Any], None]
Pushed = frames.Push | frames.State | frames.Notify | frames.Resync  # what is repeated until it is acknowledged

# A connection begins with these: doubled or overtaken they would be another protocol, not a bad network.
_IN_ORDER = (frames.Login, frames.LoggedIn, frames.Refused)


class Wire:
    """One direction between two places. Latency varies by a half either way."""

    __slots__ = ("_count", "_flying", "_last", "_latency", "_stream", "_world")

    def __init__(self, world: World, latency: float, stream: Stream) -> None:
        self._world = world
        self._latency = latency
        self._stream = stream
        self._last = 0.0
        self._flying: dict[int, tuple[Arrive, Any]] = {}
        self._count = 0

    @property
    def is_idle(self) -> bool:
        """Nothing is on its way but heartbeats."""
        return all(isinstance(thing, frames.Ping | frames.Pong) for _, thing in self._flying.values())

    def carry(
        self, arrive: Arrive, thing: Any, extra: float = 0.0, *, until: float = 0.0, ordered: bool = True
    ) -> None:
        """Have `arrive(thing)` called later: `extra` seconds later than usual, not before `until`; unless `ordered`,
        others may overtake it."""
        clock = self._world.clock
        at = max(clock.now + self._latency * (0.5 + self._stream.next()) + extra, until)
        if ordered:
            at = self._last = max(at, self._last)
        self._count += 1
        self._flying[self._count] = (arrive, thing)
        clock.call_at(at, self._land, self._count)

    def _land(self, number: int) -> None:
        flight = self._flying.pop(number, None)
        if flight is not None:
            arrive, thing = flight
            arrive(thing)

    def lose(self, share: float = 1.0) -> None:
        """The last part of what is on its way never arrives."""
        numbers = list(self._flying)
        for number in numbers[len(numbers) - round(share * len(numbers)) :]:
            del self._flying[number]


class Channel(Wire):
    """A wire of the backbone. While it is broken, nothing gets on it."""

    __slots__ = ("_breaks", "_lag")

    def __init__(self, world: World, latency: float, stream: Stream) -> None:
        super().__init__(world, latency, stream)
        self._breaks = 0  # partitions can overlap
        self._lag: Window | None = None

    def send(self, arrive: Arrive, thing: Any) -> None:
        if self._breaks:
            self._world.record(FrameLost(self._world.clock.now, "backbone", "", thing))
            return
        extra = 0.0
        if self._lag is not None and self._world.clock.now < self._lag.end:
            extra = self._lag.draw() * self._lag.arguments["up_to"]
            if not self._lag.has_struck:
                self._lag.has_struck = True
                self._world.happened(self._lag.fault)
        self.carry(arrive, thing, extra)

    def lag(self, window: Window) -> None:
        self._lag = window

    def break_off(self) -> None:
        self._breaks += 1
        self.lose()

    def mend(self, _: None) -> None:
        self._breaks = max(0, self._breaks - 1)

    def repair(self) -> None:
        self._breaks, self._lag = 0, None

    def reconnect(self) -> None:
        """What is sent from now on is on another connection, and may overtake what is still on its way."""
        self._last = 0.0


class Connection:
    """Between an instance of a client and a gateway: two wires, and whether each end still holds it open."""

    def __init__(self, id: int, client: Instance, gateway: GatewayNode, windows: Windows) -> None:
        world = client.world
        self.id = id
        self.client = client
        self.gateway = gateway
        self.client_open = True
        self.gateway_open = False
        #: What left on it and is not acknowledged: (conversation, seq) of messages; and of that of which the latest
        #: says all, by what it is and about which conversation, its number.
        self._messages: set[tuple[str, int]] = set()
        self._latest: dict[tuple[str, str], int] = {}
        self._world = world
        self._windows = windows
        self._dead: set[str] = set()
        self._wires = {
            direction: Wire(world, world.case.client_latency, world.link_stream(id * 2 + number))
            for number, direction in enumerate(("up", "down"))
        }

    @property
    def is_over(self) -> bool:
        """Neither end holds it, and nothing is on its way."""
        return not (self.client_open or self.gateway_open) and all(wire.is_idle for wire in self._wires.values())

    @property
    def is_quiet(self) -> bool:
        """Both ends hold it, it works, and nothing is on its way."""
        return (
            self.client_open
            and self.gateway_open
            and not self._dead
            and all(wire.is_idle for wire in self._wires.values())
        )

    @property
    def unacknowledged(self) -> int:
        return len(self._messages) + len(self._latest)

    def left(self, frame: Pushed) -> int:
        """The gateway has sent this; returns how much is not acknowledged."""
        if isinstance(frame, frames.Push):
            if is_chatroom(frame.message.conversation_id):
                return self.unacknowledged  # it goes once
            self._messages.add((frame.message.conversation_id, frame.message.seq))
        elif isinstance(frame, frames.State):
            self._latest[frame.op, frame.state.conversation_id] = frame.state.version
        elif isinstance(frame, frames.Notify):
            self._latest[frame.op, frame.conversation_id] = frame.seq
        else:
            self._latest[frame.op, ""] = frame.number
        return self.unacknowledged

    def awaits(self, message: Message) -> bool:
        """Whether this was pushed, and no acknowledgement of it has reached the gateway."""
        return (message.conversation_id, message.seq) in self._messages

    def acknowledged(self, frame: frames.FromClient) -> None:
        """This has reached the gateway."""
        if type(frame) is frames.Delivered:
            self._messages -= {m for m in self._messages if m[0] == frame.conversation_id and m[1] <= frame.seq}
            self._settled((frames.Notify.op, frame.conversation_id), frame.seq)
        elif type(frame) is frames.StateAck:
            self._settled((frames.State.op, frame.conversation_id), frame.version)
        elif type(frame) is frames.Sync:
            self._settled((frames.Resync.op, ""), frame.resync)

    def _settled(self, what: tuple[str, str], number: int) -> None:
        if self._latest.get(what, number + 1) <= number:
            del self._latest[what]

    def up(self, arrive: Arrive, thing: Any) -> None:
        self._carry("up", arrive, thing)

    def down(self, arrive: Arrive, thing: Any) -> None:
        self._carry("down", arrive, thing)

    def _carry(self, direction: str, arrive: Arrive, thing: Any) -> None:
        if direction in self._dead:
            return
        wire, windows = self._wires[direction], self._windows
        if not windows:
            wire.carry(arrive, thing)
            return
        extra = until = 0.0
        if window := windows.get("delay"):
            extra = window.draw() * window.arguments["up_to"]
            self._happened("delay", thing)
        if direction == "down" and (window := windows.get("slow_reader")):
            until = window.end
            self._happened("slow_reader", thing)
        if thing is not None:  # a frame; what opens and closes the connection is TCP's, and safe
            if windows.strikes("loss"):
                self._happened("loss", thing)
                return
            if not isinstance(thing, _IN_ORDER) and windows.strikes("duplication"):
                self._happened("duplication", thing)
                wire.carry(arrive, thing, extra + 0.01, until=until, ordered=False)
            if not isinstance(thing, _IN_ORDER) and (window := windows.strikes("reordering")):
                self._happened("reordering", thing)
                late = window.draw() * window.arguments["up_to"]
                wire.carry(arrive, thing, extra + late, until=until, ordered=False)
                return
        wire.carry(arrive, thing, extra, until=until)

    def _happened(self, kind: str, thing: Any) -> None:
        self._world.record(Struck(self._world.clock.now, self.client.name, kind, thing))

    def deaden(self, direction: str) -> None:
        """From now on nothing gets through (up, down or both), and nobody is told."""
        self._dead |= {"up", "down"} if direction == "both" else {direction}

    def cut(self) -> None:
        """It breaks: both ends learn of it at once, what is on its way is lost."""
        for wire in self._wires.values():
            wire.lose()
        self.lost_by_gateway(None)
        self.lost_by_client(None)

    def gateway_crashed(self, share: float) -> None:
        """The last `share` of what the gateway sent is lost; then the client sees the end."""
        self.gateway_open = False
        self._wires["down"].lose(share)
        self.down(self.lost_by_client, None)

    # --- at the gateway ---

    def accept(self, _: None) -> None:
        if not self.gateway.up:
            self.down(self.lost_by_client, None)
        elif self.client_open:
            self.gateway_open = True
            self.gateway.accepted(self)
            self.down(self.opened, None)

    def to_gateway(self, frame: frames.FromClient) -> None:
        if self.gateway_open:
            self.gateway.from_client(self, frame)

    def lost_by_gateway(self, _: None) -> None:
        if self.gateway_open:
            self.gateway_open = False
            self.gateway.hung_up(self)

    # --- at the client ---

    def opened(self, _: None) -> None:
        if self.client_open:
            self.client.opened(self)

    def to_client(self, frame: frames.ToClient) -> None:
        if self.client_open:
            self.client.from_gateway(frame)

    def lost_by_client(self, _: None) -> None:
        if self.client_open:
            self.client_open = False
            self.client.lost(self)
