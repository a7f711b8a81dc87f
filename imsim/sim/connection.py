"""The connection between a client and its gateway."""

from __future__ import annotations

from typing import Any, Protocol

from imsim.core import frames
from imsim.sim.clock import Clock
from imsim.sim.link import Arrive, FreeLink, Link


class Way(Protocol):
    """One direction of a connection."""

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None: ...


class ClientEnd(Protocol):
    """What a connection needs of its client."""

    number: int

    @property
    def connection(self) -> Any:
        """The one that the client uses."""

    def connection_opened(self) -> None: ...

    def connection_lost(self, connection: Any) -> None: ...

    def from_gateway(self, frame: frames.ToClient) -> None: ...


class PausableEnd(ClientEnd, Protocol):
    """A device that can stop reading."""

    deaf_until: float


class GatewayEnd(Protocol):
    """What a connection needs of its gateway."""

    is_up: bool

    def accepted(self, connection: Any) -> None: ...

    def refused(self, connection: Any) -> None:
        """A client wants to connect, but the gateway has crashed."""

    def hung_up(self, connection: Any) -> None: ...

    def from_client(self, connection: Any, frame: frames.FromClient) -> None: ...


class ConnectionState:
    """Whether each end still holds the connection open. Over `up` and `down` goes a frame, or what else happens at the
    other end."""

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
        """It breaks, both ends learn of it, and what is on its way vanishes."""
        self.lost_by_gateway(None)
        self.client_open = self.client.connection is self
        self.lost_by_client(None)

    # --- at the gateway ---

    def gateway_crashed(self) -> None:
        """The gateway is gone, and does not hold it any more."""
        self.gateway_open = False

    def crash_noticed(self) -> None:
        """Others have noticed that."""

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
    """One over two links. It ends as soon as one of them gives a frame up."""

    __slots__ = ()

    up: Link | FreeLink
    down: Link | FreeLink

    def __init__(
        self, id: int, client: ClientEnd, gateway: GatewayEnd, clock: Clock, up: Link | FreeLink, down: Link | FreeLink
    ) -> None:
        super().__init__(id, client, gateway, clock, up, down)
        self.use(up, down)

    def use(self, up: Link | FreeLink, down: Link | FreeLink) -> None:
        """From now on what it carries goes over these links."""
        self.up, self.down = up, down
        if up.gives_up:
            up.on_broken = down.on_broken = self._given_up

    def lose(self, loss: float) -> None:
        """From now on this share of its transmissions is lost."""
        self.up.loss = self.down.loss = loss

    def gateway_crashed(self) -> None:
        """Of which the client knows nothing: frames vanish, either way."""
        super().gateway_crashed()
        self.client_open = False

    def crash_noticed(self) -> None:
        """The client sees it break."""
        if self.client.connection is self:
            self.client_open = True
            self.down.forget()  # what the gateway had not sent it never will
            self.down.carry(self._clock.now, self.lost_by_client, None)

    def _given_up(self, at: float) -> None:
        """At that time it breaks, and both ends learn of it. (TCP does not say whether the other end could; without
        it, the heartbeat would find out.)"""
        self._clock.call_at(at, self.cut, None)


class PausableConnection(Connection):
    """One whose device can stop reading for a while: what comes waits until the device reads on."""

    __slots__ = ()

    client: PausableEnd

    def _waits(self, then: Arrive, frame: Any) -> bool:
        until = self.client.deaf_until
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
