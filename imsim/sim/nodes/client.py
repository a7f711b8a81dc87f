"""A device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imsim.core import events, frames
from imsim.core.client.client import Client
from imsim.scenario import Stream
from imsim.sim.nodes.connection import Connection
from imsim.sim.nodes.machines import Machines

if TYPE_CHECKING:
    from imsim.sim.world import World


class ClientNode(Machines):
    """A device. `number` is its device number in the plan."""

    __slots__ = ("connection", "down_draws", "lose", "machine", "network", "number", "up_draws")

    def __init__(
        self, world: World, number: int, user: str, device: str, token: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(world)
        self.number = number
        self.network = world.network_of(number)
        self.connection: Connection | None = None
        self.up_draws = Stream(world.up_draws, number)
        self.down_draws = Stream(world.down_draws, number)
        #: A hook for experiments: a frame for which it is true vanishes at this device, in either direction.
        self.lose: Callable[[Any], bool] | None = None
        jitter = Stream(world.jitter_draws, number)
        token = world.issue(user) if token is None else token
        self.machine = Client(self, user, device, token, world.policies, jitter.next, kind)
        self._timers = (self.machine.timers,)

    def handle_timer(self, now: float) -> None:
        self.machine.handle_timer(now)

    def forget(self) -> None:
        self.machine.forget()
        self.connection = None

    def act(self, action: Callable[[float], object]) -> None:
        """Have the machine do something on the application's behalf: `action(now)`."""
        self.now = self.clock.now
        action(self.now)
        self.arm()

    def from_gateway(self, frame: frames.ToClient) -> None:
        if self.lose is not None and self.lose(frame):
            return
        self.now = now = self.clock.now
        self.machine.receive(frame, now)
        self.arm()

    def connection_opened(self) -> None:
        self.act(self.machine.connected)

    def connection_lost(self, connection: Connection) -> None:
        if connection is self.connection:
            self.connection = None
            self.act(self.machine.disconnected)

    def break_connection(self) -> None:
        """The network between this device and its gateway fails: both ends learn of it, frames on their way vanish."""
        if self.connection is not None:
            self.connection.cut(None)

    # --- the client's port ---

    def connect(self) -> None:
        self.connection = self.world.new_connection(self)
        self.connection.up(self.now, self.connection.accept, None)

    def send(self, frame: frames.FromClient) -> None:
        connection = self.connection
        if connection is not None and not (self.lose is not None and self.lose(frame)):
            connection.up(self.now, connection.to_gateway, frame)

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.client_open = False
            connection.up(self.now, connection.lost_by_gateway, None)

    def emit(self, event: events.ClientEvent) -> None:
        self.world.client_event(self, event)
