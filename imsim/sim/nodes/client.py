"""The node of a client, and the node of a device in a scenario."""

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
    """A node that holds a client. `number`: the number of its device."""

    __slots__ = ("connection", "lose", "machine", "number")

    def __init__(self, number: int, clock: NodeClock, make: Callable[[Any], Client]) -> None:
        """`make`: a function that creates the client. This node is its port."""
        super().__init__(clock)
        self.number = number
        self.connection: C | None = None
        #: A hook for experiments: the device loses each frame for which it returns true, in both directions.
        self.lose: Callable[[Any], bool] | None = None
        self.machine = make(self)

    @abstractmethod
    def dial(self) -> C:
        """Return a new connection to a gateway."""

    def forget(self) -> None:
        self.machine.forget()
        self.connection = None
        del self.machine

    def act(self, action: Callable[[float], object]) -> None:
        """Call `action(now)`, an operation of the application on the machine."""
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


#: By the type of a client's event: a function that is called with the number of the device, the event and its time.
Reports = Mapping[type, Callable[[int, Any, float], None]]
#: Called with the device and the event, after the function from `Reports`.
Listener = Callable[["DeviceNode", events.ClientEvent], None]


class Dialer(Protocol):
    """Connects devices."""

    def connect(self, client: DeviceNode) -> Connection:
        """Return a new connection from this device to a gateway."""


class DeviceNode(ClientNode[Connection]):
    """A device of the plan.

    `network`: the network of its next connection. `loss`: the share of transmissions that this connection loses.
    """

    __slots__ = ("_dialer", "_listeners", "_reports", "loss", "network", "paused_until")

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
        self.paused_until = _NEVER  # the device reads nothing before this time, see `PausableConnection`

    def dial(self) -> Connection:
        return self._dialer.connect(self)

    def break_connection(self) -> None:
        """Break the network to the gateway: both ends detect it, and the frames in transit are lost."""
        if self.connection is not None:
            self.connection.cut(None)

    def emit(self, event: events.ClientEvent) -> None:
        report = self._reports.get(type(event))
        if report is not None:
            report(self.number, event, self.now)
        for listener in self._listeners:
            listener(self, event)
