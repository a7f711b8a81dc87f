"""The connection between a client and its gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imsim.core import frames
from imsim.sim.link import Link

if TYPE_CHECKING:
    from imsim.sim.nodes.client import ClientNode
    from imsim.sim.nodes.gateway import GatewayNode


class Connection:
    """Between a client and its gateway: two links, and whether each end still holds it open."""

    __slots__ = ("_down", "_up", "client", "client_open", "clock", "gateway", "gateway_open", "id")

    def __init__(self, id: int, client: ClientNode, gateway: GatewayNode) -> None:
        self.id = id
        self.client = client
        self.gateway = gateway
        self.clock = client.world.clock
        self.client_open = True
        self.gateway_open = False
        world, fields = client.world, client.network
        upload = fields.bandwidth if fields.upload is None else fields.upload
        self._up = world.new_link(Link, fields, client.up_draws, "uplink", upload)
        self._down = world.new_link(Link, fields, client.down_draws, "downlink", fields.bandwidth)
        if fields.max_retransmits is not None:
            self._up.on_broken = self._down.on_broken = self._given_up

    def up(self, at: float, arrive: Callable[[Any], None], frame: Any) -> None:
        self._up.carry(at, arrive, frame)

    def down(self, at: float, arrive: Callable[[Any], None], frame: Any) -> None:
        self._down.carry(at, arrive, frame)

    def lose(self, loss: float) -> None:
        """From now on so many of its transmissions are lost."""
        for link in (self._up, self._down):
            link.loss = loss
            link.recompute()

    def gateway_crashed(self) -> None:
        """Nobody is at the other end any more, of which the client knows nothing: frames vanish, either way."""
        self.gateway_open = self.client_open = False

    def crash_noticed(self) -> None:
        """The client sees it break."""
        if self.client.connection is self:
            self.client_open = True
            self._down.forget()  # what the gateway had not sent it never will
            self.down(self.clock.now, self.lost_by_client, None)

    def _given_up(self, at: float) -> None:
        """At that time it breaks, and both ends learn of it. (Whether the other end could, TCP does not say; without
        it, it would by its heartbeat.)"""
        self.clock.call_at(at, self.cut, None)

    def cut(self, _: None) -> None:
        """It breaks, both ends learn of it, and what is on its way vanishes."""
        self.lost_by_gateway(None)
        self.client_open = self.client.connection is self
        self.lost_by_client(None)

    # --- at the gateway ---

    def accept(self, _: None) -> None:
        if self.gateway.machine is None:
            self.gateway.not_there_for(self)
        elif self.client_open:
            self.gateway_open = True
            self.gateway.accepted(self)
            self.down(self.clock.now, self.opened, None)

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
