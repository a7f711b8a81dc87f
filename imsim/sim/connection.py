"""Connections between clients and gateways."""

from __future__ import annotations

from typing import Any, Protocol

from imsim.core import frames
from imsim.sim.clock import Clock
from imsim.sim.link import Arrive, FreeLink, Link


class Way(Protocol):
    """One direction of a connection."""

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None: ...


class ClientEnd(Protocol):
    """The part of a client's node that its connection uses."""

    number: int

    @property
    def connection(self) -> Any:
        """The connection that the client uses at present, or None."""

    def connection_opened(self) -> None: ...

    def connection_lost(self, connection: Any) -> None: ...

    def from_gateway(self, frame: frames.ToClient) -> None: ...


class PausableEnd(ClientEnd, Protocol):
    """A device that can stop reading."""

    paused_until: float


class GatewayEnd(Protocol):
    """The part of a gateway's node that its connections use."""

    is_up: bool

    def accepted(self, connection: Any) -> None: ...

    def refused(self, connection: Any) -> None:
        """Handle a connection attempt of a client after a crash of the gateway."""

    def hung_up(self, connection: Any) -> None: ...

    def from_client(self, connection: Any, frame: frames.FromClient) -> None: ...


class ConnectionState:
    """A connection as a pair of flags: whether each end still holds it open.

    `up` and `down` carry the frames. They also carry the opening and the close of the connection to the other end.
    """

    __slots__ = ("_clock", "client", "client_open", "down", "gateway", "gateway_open", "id", "up")

    client: Any
    gateway: Any
    up: Way
    down: Way

    def __init__(self, id: int, client: ClientEnd, gateway: GatewayEnd, clock: Clock, up: Way, down: Way) -> None:
        self.id = id
        self.client = client
        self.gateway = gateway
        self.client_open = True
        self.gateway_open = False
        self._clock = clock
        self.up = up
        self.down = down

    def cut(self, _: None) -> None:
        """Break the connection: both ends detect it, and the frames in transit are lost."""
        self.lost_by_gateway(None)
        self.client_open = self.client.connection is self
        self.lost_by_client(None)

    # --- at the gateway ---

    def gateway_crashed(self) -> None:
        """Close the gateway's end after a crash of the gateway."""
        self.gateway_open = False

    def crash_noticed(self) -> None:
        """Handle the detection of the gateway's crash."""

    def accept(self, _: None) -> None:
        if not self.gateway.is_up:
            self.gateway.refused(self)
        elif self.client_open:
            self.gateway_open = True
            self.gateway.accepted(self)
            self.down.carry(self._clock.now, self.opened, None)

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
            self.client.connection_opened()

    def to_client(self, frame: frames.ToClient) -> None:
        if self.client_open:
            self.client.from_gateway(frame)

    def lost_by_client(self, _: None) -> None:
        if self.client_open:
            self.client_open = False
            self.client.connection_lost(self)


class Connection(ConnectionState):
    """A connection over two links. It breaks as soon as one of them gives up on a frame."""

    __slots__ = ()

    up: Link | FreeLink
    down: Link | FreeLink

    def __init__(
        self, id: int, client: ClientEnd, gateway: GatewayEnd, clock: Clock, up: Link | FreeLink, down: Link | FreeLink
    ) -> None:
        super().__init__(id, client, gateway, clock, up, down)
        self.use(up, down)

    def use(self, up: Link | FreeLink, down: Link | FreeLink) -> None:
        """Carry all frames over these links from now on."""
        self.up, self.down = up, down
        if up.gives_up:
            up.on_broken = down.on_broken = self._given_up

    def lose(self, loss: float) -> None:
        """Lose this share of the transmissions from now on."""
        self.up.loss = self.down.loss = loss

    def gateway_crashed(self) -> None:
        """Lose all frames in both directions. The client does not know of the crash yet."""
        super().gateway_crashed()
        self.client_open = False

    def crash_noticed(self) -> None:
        """Break the connection at the client."""
        if self.client.connection is self:
            self.client_open = True
            self.down.forget()  # the frames that the gateway had not sent are lost
            self.down.carry(self._clock.now, self.lost_by_client, None)

    def _given_up(self, at: float) -> None:
        """Break the connection at the time `at`, for both ends.

        With TCP, the other end may not detect the break. It would then detect the missing heartbeats.
        """
        self._clock.call_at(at, self.cut, None)


class PausableConnection(Connection):
    """A connection whose device can stop reading for some time. Meanwhile frames wait for the device."""

    __slots__ = ()

    client: PausableEnd

    def _waits(self, then: Arrive, frame: Any) -> bool:
        """Return whether the device has stopped reading. If so, schedule `then(frame)` for when it reads again."""
        until = self.client.paused_until
        if until <= self._clock.now:
            return False
        self._clock.call_at(until, then, frame)
        return True

    def opened(self, _: None) -> None:
        if not self._waits(super().opened, None):
            super().opened(None)

    def to_client(self, frame: frames.ToClient) -> None:
        if not self._waits(super().to_client, frame):
            super().to_client(frame)

    def lost_by_client(self, _: None) -> None:
        if not self._waits(super().lost_by_client, None):
            super().lost_by_client(None)
