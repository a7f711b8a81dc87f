"""A client's node, and that of a device in a scenario."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from imsim.core import events, frames
from imsim.core.client.client import Client
from imsim.sim.clock import NodeClock
from imsim.sim.connection import Connection, ConnectionState
from imsim.sim.link import ClientNetwork
from imsim.sim.nodes.node import Node

C = TypeVar("C", bound=ConnectionState)

_NEVER = float("-inf")


class ClientNode(Node, ABC, Generic[C]):
    """Holds a client. `number`: of its device."""

    __slots__ = ("connection", "lose", "machine", "number")

    def __init__(self, number: int, clock: NodeClock, make: Callable[[Any], Client]) -> None:
        """`make`: makes the client; this node is its port."""
        super().__init__(clock)
        self.number = number
        self.connection: C | None = None
        #: A hook for experiments: a frame for which it is true vanishes at this device, in either direction.
        self.lose: Callable[[Any], bool] | None = None
        self.machine = make(self)

    @abstractmethod
    def dial(self) -> C:
        """A new connection to a gateway."""

    def forget(self) -> None:
        self.machine.forget()
        self.connection = None
        del self.machine

    def act(self, action: Callable[[float], object]) -> None:
        """Have the machine do something on the application's behalf: `action(now)`."""
        self.now = self.clock.now
        action(self.now)

    # --- its end of the connection ----------------------------------------------------------------------------------

    def connection_opened(self) -> None:
        self.act(self.machine.connected)

    def connection_lost(self, connection: C) -> None:
        if connection is self.connection:
            self.connection = None
            self.act(self.machine.disconnected)

    def from_gateway(self, frame: frames.ToClient) -> None:
        if self.lose is not None and self.lose(frame):
            return
        self.now = now = self.clock.now
        self.machine.receive(frame, now)

    # --- the client's port ------------------------------------------------------------------------------------------

    def connect(self) -> None:
        self.connection = self.dial()
        self.connection.up.carry(self.now, self.connection.accept, None)

    def send(self, frame: frames.FromClient) -> None:
        connection = self.connection
        if connection is not None and not (self.lose is not None and self.lose(frame)):
            connection.up.carry(self.now, connection.to_gateway, frame)

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.client_open = False
            connection.up.carry(self.now, connection.lost_by_gateway, None)


#: By the type of an event: what is called with the number of the device, such an event of its client, and when it
#: happened.
Reports = Mapping[type, Callable[[int, Any, float], None]]
#: Called with the device and the event, after that.
Listener = Callable[["DeviceNode", events.ClientEvent], None]


class Dialer(Protocol):
    """Connects devices."""

    def connect(self, client: DeviceNode) -> Connection:
        """A new connection from this device to a gateway."""


class DeviceNode(ClientNode[Connection]):
    """A device of the plan. `network`: what its next connection goes over; `loss`: the share of transmissions that it
    loses then."""

    __slots__ = ("_dialer", "_listeners", "_reports", "deaf_until", "loss", "network")

    def __init__(
        self,
        number: int,
        clock: NodeClock,
        network: ClientNetwork,
        dialer: Dialer,
        reports: Reports,
        listeners: Sequence[Listener],
        make: Callable[[DeviceNode], Client],
    ) -> None:
        super().__init__(number, clock, make)
        self.network = network
        self.loss = network.fields.loss
        self._dialer = dialer
        self._reports = reports
        self._listeners = listeners
        self.deaf_until = _NEVER  # until then the device reads nothing, see `PausableConnection`

    def dial(self) -> Connection:
        return self._dialer.connect(self)

    def break_connection(self) -> None:
        """The network between this device and its gateway fails: both ends learn of it, frames on their way vanish."""
        if self.connection is not None:
            self.connection.cut(None)

    def emit(self, event: events.ClientEvent) -> None:
        report = self._reports.get(type(event))
        if report is not None:
            report(self.number, event, self.now)
        for listener in self._listeners:
            listener(self, event)
