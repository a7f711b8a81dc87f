"""The links of the fault search. They keep the order of frames unless a fault changes it.

A link between nodes is a TCP connection of the backend: FIFO, and frames in flight are lost when it breaks. Between a
device and its gateway, single frames can also be lost, duplicated or overtaken.
"""

from __future__ import annotations

from typing import Any

from imsim.core import frames
from imsim.core.model import Message, is_chatroom
from imsim.faultsearch.entries import FrameLost, Struck
from imsim.faultsearch.faults import Window
from imsim.faultsearch.surroundings import Surroundings
from imsim.scenario import Stream
from imsim.sim.clock import Clock
from imsim.sim.connection import ClientEnd, ConnectionState, GatewayEnd
from imsim.sim.link import Arrive

# frames that are repeated until the device acknowledges them
Pushed = frames.Push | frames.State | frames.Notify | frames.Resync

# The frames that open a connection. Duplicated or overtaken ones would be another protocol, not a bad network.
_IN_ORDER = (frames.Login, frames.LoggedIn, frames.Refused)


class FlawedLink:
    """One direction between two nodes. The latency of a frame is 0.5 to 1.5 times the configured one."""

    __slots__ = ("_clock", "_count", "_flying", "_last", "_latency", "_record", "_stream")

    def __init__(self, world: Surroundings, latency: float, stream: Stream) -> None:
        self._clock = world.clock
        self._latency = latency
        self._stream = stream
        self._record = world.record
        self._last = 0.0
        self._flying: dict[int, tuple[Arrive, Any]] = {}
        self._count = 0

    @property
    def is_idle(self) -> bool:
        """Whether no frames are in flight except heartbeats."""
        return all(isinstance(frame, frames.Ping | frames.Pong) for _, frame in self._flying.values())

    def _send(
        self, arrive: Arrive, frame: Any, extra: float = 0.0, *, until: float = 0.0, ordered: bool = True
    ) -> None:
        """Call `arrive(frame)` later: `extra` seconds later than usual, and not before `until`. Unless `ordered`, later
        frames may overtake it."""
        clock = self._clock
        at = max(clock.now + self._latency * (0.5 + self._stream.next()) + extra, until)
        if ordered:
            at = self._last = max(at, self._last)
        self._count += 1
        self._flying[self._count] = (arrive, frame)
        clock.call_at(at, self._land, self._count)

    def _land(self, number: int) -> None:
        flight = self._flying.pop(number, None)
        if flight is not None:
            arrive, frame = flight
            arrive(frame)

    def lose(self) -> None:
        """Drop all frames in flight."""
        self._flying.clear()

    def lose_last(self, share: float) -> None:
        """Drop the last frames in flight: this share of all of them."""
        numbers = list(self._flying)
        for number in numbers[len(numbers) - round(share * len(numbers)) :]:
            del self._flying[number]


class Channel(FlawedLink):
    """A link between two nodes. While it is broken, it drops every frame."""

    __slots__ = ("_breaks", "_lag")

    def __init__(self, world: Surroundings, stream: Stream) -> None:
        super().__init__(world, world.case.backend_latency, stream)
        self._breaks = 0  # partitions can overlap
        self._lag: Window | None = None

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None:
        """Send the frame now; the clock of the node does not matter."""
        if self._breaks:
            self._record(FrameLost(self._clock.now, "internal", "", frame))
            return
        extra = 0.0
        if self._lag is not None and self._clock.now < self._lag.end:
            extra = self._lag.draw() * self._lag.arguments["up_to"]
            if not self._lag.has_struck:
                self._lag.has_struck = True
                fault = self._lag.fault
                self._record(Struck(self._clock.now, fault.target, fault.kind))
        self._send(arrive, frame, extra)

    def lag(self, window: Window) -> None:
        self._lag = window

    def break_off(self) -> None:
        self._breaks += 1
        self.lose()

    def end_break(self, _: None) -> None:
        self._breaks = max(0, self._breaks - 1)

    def repair(self) -> None:
        self._breaks, self._lag = 0, None

    def reconnect(self) -> None:
        """Start a new connection: later frames may overtake those still in flight on the old one."""
        self._last = 0.0


class DeviceLink(FlawedLink):
    """A link between a device and its gateway. The open faults of the device act on it."""

    __slots__ = ("_device", "_is_down", "_windows", "is_dead")

    def __init__(self, world: Surroundings, instance: str, device: str, stream: Stream, *, is_down: bool) -> None:
        """Make a link of an instance. `is_down`: whether it leads to the device."""
        super().__init__(world, world.case.client_latency, stream)
        self._device = instance
        self._windows = world.windows[device]
        self._is_down = is_down
        self.is_dead = False  # frames are dropped, and neither end notices

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None:
        """Send the frame now; the clock of the node does not matter."""
        if self.is_dead:
            return
        windows = self._windows
        if not windows:
            self._send(arrive, frame)
            return
        extra = until = 0.0
        if window := windows.get("delay"):
            extra = window.draw() * window.arguments["up_to"]
            self._record_hit("delay", frame)
        if self._is_down and (window := windows.get("slow_reader")):
            until = window.end
            self._record_hit("slow_reader", frame)
        if frame is not None:  # None opens or closes the connection, which TCP does reliably
            if windows.strikes("loss"):
                self._record_hit("loss", frame)
                return
            if not isinstance(frame, _IN_ORDER) and windows.strikes("duplication"):
                self._record_hit("duplication", frame)
                self._send(arrive, frame, extra + 0.01, until=until, ordered=False)
            if not isinstance(frame, _IN_ORDER) and (window := windows.strikes("reordering")):
                self._record_hit("reordering", frame)
                late = window.draw() * window.arguments["up_to"]
                self._send(arrive, frame, extra + late, until=until, ordered=False)
                return
        self._send(arrive, frame, extra, until=until)

    def _record_hit(self, kind: str, frame: Any) -> None:
        self._record(Struck(self._clock.now, self._device, kind, frame))


class Connection(ConnectionState):
    """A connection of a client instance to a gateway over faulty links. It counts the unacknowledged frames."""

    __slots__ = ("_latest", "_links", "_messages")

    def __init__(
        self, id: int, client: ClientEnd, gateway: GatewayEnd, clock: Clock, up: DeviceLink, down: DeviceLink
    ) -> None:
        super().__init__(id, client, gateway, clock, up, down)
        self._links = {"up": up, "down": down}
        #: The unacknowledged messages, as (conversation, seq). Of other frames only the latest counts: its number, by
        #: op and conversation.
        self._messages: set[tuple[str, int]] = set()
        self._latest: dict[tuple[str, str], int] = {}

    @property
    def _is_idle(self) -> bool:
        return all(link.is_idle for link in self._links.values())

    @property
    def is_over(self) -> bool:
        """Whether both ends have closed it and no frames are in flight."""
        return not (self.client_open or self.gateway_open) and self._is_idle

    @property
    def is_quiet(self) -> bool:
        """Whether both ends have it open, it works, and no frames are in flight."""
        works = not any(link.is_dead for link in self._links.values())
        return self.client_open and self.gateway_open and works and self._is_idle

    @property
    def unacknowledged(self) -> int:
        return len(self._messages) + len(self._latest)

    def left(self, frame: Pushed) -> int:
        """Note that the gateway has sent this frame. Return the number of unacknowledged frames."""
        if isinstance(frame, frames.Push):
            if is_chatroom(frame.message.conversation_id):
                return self.unacknowledged  # a chatroom message is sent once, without acknowledgement
            self._messages.add((frame.message.conversation_id, frame.message.seq))
        elif isinstance(frame, frames.State):
            self._latest[frame.op, frame.state.conversation_id] = frame.state.version
        elif isinstance(frame, frames.Notify):
            self._latest[frame.op, frame.conversation_id] = frame.seq
        else:
            self._latest[frame.op, ""] = frame.number
        return self.unacknowledged

    def awaits(self, message: Message) -> bool:
        """Return whether this message was pushed and no acknowledgement of it has reached the gateway."""
        return (message.conversation_id, message.seq) in self._messages

    def acknowledged(self, frame: frames.FromClient) -> None:
        """Note that this frame has reached the gateway, and what it acknowledges."""
        if type(frame) is frames.Delivered:
            self._messages -= {m for m in self._messages if m[0] == frame.conversation_id and m[1] <= frame.seq}
            self._confirm((frames.Notify.op, frame.conversation_id), frame.seq)
        elif type(frame) is frames.StateAck:
            self._confirm((frames.State.op, frame.conversation_id), frame.version)
        elif type(frame) is frames.Sync:
            self._confirm((frames.Resync.op, ""), frame.resync)

    def _confirm(self, what: tuple[str, str], number: int) -> None:
        if self._latest.get(what, number + 1) <= number:
            del self._latest[what]

    def make_half_open(self, direction: str) -> None:
        """Drop all frames from now on (up, down or both), so that neither end notices."""
        for name, link in self._links.items():
            link.is_dead |= direction in (name, "both")

    def cut(self, _: None) -> None:
        for link in self._links.values():
            link.lose()
        super().cut(None)

    def lose_last(self, share: float) -> None:
        """Drop this share of the frames in flight to the device, the last ones."""
        self._links["down"].lose_last(share)

    def gateway_crashed(self) -> None:
        """Notify the client of the end, after the frames that are not lost."""
        super().gateway_crashed()
        self.down.carry(self._clock.now, self.lost_by_client, None)
