"""The nodes of the simulated system: each holds core machines, and is the port that they act through.

**One event a hop.** When a frame arrives, its node's station says at once when a worker will be done with it, and the
machine runs right then, told that later time as its `now`: what it sends leaves at that time. So a hop is one event,
its arrival. Operations without a service time do not queue: they pass by those that do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imsim.core import events, frames, storage
from imsim.core.chatrooms import Chatrooms
from imsim.core.client import Client
from imsim.core.conversations import Conversations
from imsim.core.gateway import Gateway
from imsim.core.model import Code, is_chatroom
from imsim.core.users import Users
from imsim.scenario import Draws, Stream
from imsim.scenario.model import Tier
from imsim.sim.link import Link
from imsim.sim.station import Station

if TYPE_CHECKING:
    from imsim.sim.world import World

_NEVER = float("inf")
_OTHERS = 1 << 40  # draws for operations without a message are numbered from here, those of messages by intent


def intent_of(id_client: str) -> int | None:
    """The number in the plan of the message with this idClient; None for what the plan does not know."""
    return int(id_client) if id_client.isdigit() else None


class Work:
    """A node's station with the service times of its tier."""

    __slots__ = ("_draws", "_others", "_service", "station")

    def __init__(self, tier: Tier, seed: int, kind: str, index: int) -> None:
        self.station = Station(tier.workers)
        self._service = tier.service
        self._draws = {op: Draws(seed, "service", kind, op) for op in tier.service}
        self._others = {op: Stream(draws, _OTHERS + index) for op, draws in self._draws.items()}

    def done(self, now: float, op: str, flow: Any, intent: int | None = None, entity: int = 0) -> float:
        """When a worker will be done with an operation that comes now. Its demand is a property of (message, entity),
        whatever else happens, so that other designs meet the same."""
        distribution = self._service.get(op)
        if distribution is None:
            return now
        if intent is None:
            draw = self._others[op].next()
        else:
            draw = self._draws[op].at(intent, entity)
        return self.station.submit(now, distribution.quantile(draw), flow)

    def done_for_each(self, now: float, op: str, flow: Any, intent: int | None, entities: Iterable[int]) -> float:
        """The same for an operation that costs its service time once for each of `entities`."""
        if op not in self._service:
            return now
        return self.station.submit(now, self._demand(op, intent, entities), flow)

    def done_with_storage(self, now: float, request: storage.Request, result: storage.Result) -> float:
        """The same for a request of storage, of which the result says how much work it was."""
        op, intent = request.op, None
        if type(request) is storage.Append:
            intent = intent_of(request.message.id_client)
            rows = result.inbox_rows if type(result) is storage.Appended else 0
            if rows and "inbox" in self._service:
                demand = self._demand(op, intent, (0,)) + self._demand("inbox", intent, range(rows))
                return self.station.submit(now, demand, None)
        elif type(result) is storage.MissedPage and result.reads != 1:
            return self.done_for_each(now, op, None, None, range(result.reads))
        return self.done(now, op, None, intent)

    def _demand(self, op: str, intent: int | None, entities: Iterable[int]) -> float:
        distribution = self._service.get(op)
        if distribution is None:
            return 0.0
        if intent is None:
            others = self._others[op]
            return sum(distribution.quantile(others.next()) for _ in entities)
        draws = self._draws[op]
        return sum(distribution.quantile(draws.at(intent, entity)) for entity in entities)


class _Machines:
    """What gateway, router and client nodes share: the time their worker is done, and one armed timer."""

    __slots__ = ("_armed", "now", "world")

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = world.clock.now
        self._armed = _NEVER

    def next_deadline(self) -> float | None:
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        raise NotImplementedError

    def arm(self) -> None:
        """After each call of a machine: be woken at its next deadline, if that is earlier than planned."""
        deadline = self.next_deadline()
        if deadline is not None and deadline < self._armed:
            clock = self.world.clock
            self._armed = deadline if deadline > clock.now else clock.now
            clock.call_at(self._armed, self._wake, self._armed)

    def _wake(self, armed: float) -> None:
        if armed != self._armed:
            return  # an earlier one took its place
        self._armed = _NEVER
        self.now = self.world.clock.now
        self.handle_timer(self.now)
        self.arm()


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
        fields = client.world.scenario.network.client
        self._up = Link(fields, client.up_draws)
        self._down = Link(fields, client.down_draws)

    def up(self, at: float, arrive: Callable[[Any], None], frame: Any) -> None:
        self.clock.call_at(self._up.arrival(at), arrive, frame)

    def down(self, at: float, arrive: Callable[[Any], None], frame: Any) -> None:
        self.clock.call_at(self._down.arrival(at), arrive, frame)

    # --- at the gateway ---

    def accept(self, _: None) -> None:
        if self.gateway.machine is None:
            self.down(self.clock.now, self.lost_by_client, None)
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


class ClientNode(_Machines):
    """A device. `number` is its device number in the plan."""

    __slots__ = ("connection", "down_draws", "lose", "machine", "number", "up_draws")

    def __init__(
        self, world: World, number: int, user: str, device: str, token: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(world)
        self.number = number
        self.connection: Connection | None = None
        self.up_draws = Stream(world.up_draws, number)
        self.down_draws = Stream(world.down_draws, number)
        #: A hook for experiments: a frame for which it is true vanishes at this device, in either direction.
        self.lose: Callable[[Any], bool] | None = None
        jitter = Stream(world.jitter_draws, number)
        token = world.issue(user) if token is None else token
        self.machine = Client(self, user, device, token, world.policies, jitter.next, kind)

    def next_deadline(self) -> float | None:
        return self.machine.next_deadline()

    def handle_timer(self, now: float) -> None:
        self.machine.handle_timer(now)

    def act(self, action: Callable[[float], object]) -> None:
        """Have the machine do something on the application's behalf: `action(now)`."""
        self.now = self.world.clock.now
        action(self.now)
        self.arm()

    def from_gateway(self, frame: frames.ToClient) -> None:
        if self.lose is not None and self.lose(frame):
            return
        self.now = now = self.world.clock.now
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
        connection = self.connection
        if connection is not None:
            connection.lost_by_gateway(None)
            connection.lost_by_client(None)

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


class GatewayNode(_Machines):
    __slots__ = ("_connections", "_links", "machine", "name", "work")

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world)
        self.name = f"g{index}"
        self.work = Work(world.scenario.topology.gateway, world.seed, "gateway", index)
        self._links = world.backend_links(("gateway", index), "router", world.scenario.topology.routers)
        self._connections: dict[int, Connection] = {}
        self.machine: Gateway | None = None
        self.start()

    def start(self) -> None:
        self.machine = Gateway(self, self.world.policies, self.name, self.world.epoch)

    def crash(self) -> None:
        """Everything in memory is gone; the clients see their connections break."""
        self.machine = None
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.gateway_open = False
            connection.down(self.world.clock.now, connection.lost_by_client, None)

    def next_deadline(self) -> float | None:
        return self.machine.next_deadline() if self.machine else None

    def handle_timer(self, now: float) -> None:
        if self.machine:
            self.machine.handle_timer(now)

    def accepted(self, connection: Connection) -> None:
        assert self.machine is not None
        self._connections[connection.id] = connection
        self.now = self.world.clock.now
        self.machine.connected(connection.id, self.now)
        self.arm()

    def hung_up(self, connection: Connection) -> None:
        if self.machine is not None and self._connections.pop(connection.id, None) is not None:
            self.now = self.world.clock.now
            self.machine.disconnected(connection.id, self.now)
            self.arm()

    def from_client(self, connection: Connection, frame: frames.FromClient) -> None:
        assert self.machine is not None
        intent = intent_of(frame.id_client) if type(frame) is frames.Send else None
        now = self.world.clock.now
        self.now = self.work.done(now, frame.op, connection.id, intent, connection.client.number)
        self.machine.receive(connection.id, frame, self.now)
        self.arm()

    def from_router(self, frame: frames.ToGateway) -> None:
        if self.machine is not None:
            self.now = self.world.clock.now
            self.machine.receive_from_router(frame, self.now)
            self.arm()

    # --- the gateway's port ---

    def send(self, connection: int, frame: frames.ToClient) -> None:
        target = self._connections.get(connection)
        if target is None:
            return
        if type(frame) is frames.Push:
            intent = intent_of(frame.message.id_client)
        else:
            intent = intent_of(frame.id_client) if type(frame) is frames.Stored else None
        leaves = self.work.done(self.now, frame.op, connection, intent, target.client.number)
        target.down(leaves, target.to_client, frame)

    def close(self, connection: int) -> None:
        target = self._connections.pop(connection, None)
        if target is not None:
            target.gateway_open = False
            target.down(self.now, target.lost_by_client, None)

    def authenticate(self, connection: int, token: str) -> None:
        # In the simulation a token is the user's name and when it was issued; its check costs what `login` costs.
        self.world.clock.call_at(self.now, self._authenticated, (connection, token))

    def _authenticated(self, asked: tuple[int, str]) -> None:
        connection, token = asked
        if self.machine is not None:
            self.now = self.world.clock.now
            user, _, issued_at = token.partition(" ")
            if self.world.has_user(user):
                self.machine.authenticated(connection, user, None, self.now, float(issued_at))
            else:
                self.machine.authenticated(connection, None, Code.BAD_TOKEN, self.now)
            self.arm()

    def to_conversation(self, frame: frames.Up) -> None:
        router = self.world.router_of(frame.conversation_id)
        self.world.clock.call_at(self._links[router.index].arrival(self.now), router.receive, frame)

    def to_user(self, user: str, frame: frames.ToUsers) -> None:
        router = self.world.router_of(user)
        self.world.clock.call_at(self._links[router.index].arrival(self.now), router.receive, frame)

    def emit(self, event: events.Pushed | events.Shed) -> None:
        self.world.pushed(event, self.now)


class RouterNode(_Machines):
    """Holds the conversations and the users that hash to it."""

    __slots__ = (
        "_asked_at_once",
        "_gateway_links",
        "_local",
        "_router_links",
        "_storage_links",
        "chatrooms",
        "conversations",
        "index",
        "users",
        "work",
    )

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world)
        topology = world.scenario.topology
        self.index = index
        self.work = Work(topology.router, world.seed, "router", index)
        self._gateway_links = world.backend_links(("router", index), "gateway", topology.gateways)
        self._router_links = world.backend_links(("router", index), "router", topology.routers)
        self._storage_links = world.backend_links(("router", index), "storage", topology.storages)
        self._local: deque[frames.ToUsers] = deque()
        self._asked_at_once: list[storage.Request] | None = None
        self.conversations: Conversations | None = None
        self.chatrooms: Chatrooms | None = None
        self.users: Users | None = None
        self.start()

    def start(self) -> None:
        self.conversations = Conversations(self, self.world.policies, self.world.epoch)
        self.chatrooms = Chatrooms(self, self.world.policies, self.world.epoch)
        self.users = Users(self, self.world.policies)

    def warm_up(self, conversation_id: str, founders: tuple[str, ...]) -> None:
        """Have a conversation open, as it would be had the service run for a while; free of charge."""
        assert self.conversations is not None
        self._asked_at_once = []
        self.conversations.open(conversation_id, self.now, founders)
        asked, self._asked_at_once = self._asked_at_once, None
        for request in asked:
            self.conversations.stored(request, self.world.storage.execute(request), self.now)

    def crash(self) -> None:
        """Everything in memory is gone, answers from storage included."""
        self.conversations = self.chatrooms = self.users = None
        self._local.clear()

    def revoke(self, user: str) -> None:
        if self.users is not None:
            self.now = self.world.clock.now
            self.users.revoke(user, self.world.epoch + self.now)
            self.arm()

    def next_deadline(self) -> float | None:
        if self.conversations is None or self.users is None:
            return None
        one, other = self.conversations.next_deadline(), self.users.next_deadline()
        return one if other is None or (one is not None and one < other) else other

    def handle_timer(self, now: float) -> None:
        if self.conversations is not None and self.users is not None:
            self.conversations.handle_timer(now)
            self.users.handle_timer(now)
            self._drain()

    def receive(self, frame: frames.Up | frames.ToUsers) -> None:
        if self.conversations is None or self.chatrooms is None or self.users is None:
            return
        now = self.world.clock.now
        if type(frame) is frames.Up and frame.conversation_id:
            request = frame.frame
            intent = intent_of(request.id_client) if type(request) is frames.Send else None
            self.now = self.work.done(now, request.op, frame.conversation_id, intent)
            machine = self.chatrooms if is_chatroom(frame.conversation_id) else self.conversations
            machine.receive(frame, self.now)
        else:
            self._to_users(frame, now)
        self._drain()
        self.arm()

    def _to_users(self, frame: frames.ToUsers, now: float) -> None:
        assert self.users is not None
        if type(frame) is frames.Deliver:
            message = frame.message
            numbers = [self.world.user_number(user) for user in frame.users]
            intent = intent_of(message.id_client)
            self.now = self.work.done_for_each(now, frame.op, message.conversation_id, intent, numbers)
        else:
            self.now = self.work.done(now, frame.op, None)
        self.users.receive(frame, self.now)

    def _drain(self) -> None:
        """What the conversations had for users of this same router, once they are done."""
        while self._local:
            self._to_users(self._local.popleft(), self.now)

    def stored(self, answer: tuple[Conversations | Users, storage.Request, storage.Result]) -> None:
        machine, request, result = answer
        if machine is self.conversations or machine is self.users:  # else it has died since it asked
            self.now = self.world.clock.now
            machine.stored(request, result, self.now)
            self._drain()
            self.arm()

    # --- the port of both machines ---

    def store(self, request: storage.Request) -> None:
        if self._asked_at_once is not None:
            self._asked_at_once.append(request)
            return
        asker = self.users if isinstance(request, storage.USERS_REQUESTS) else self.conversations
        node = self.world.storage_for(request)
        arrival = self._storage_links[node.index].arrival(self.now)
        self.world.clock.call_at(arrival, node.receive, (self, asker, request))

    def to_gateway(self, gateway: str, frame: frames.ToGateway) -> None:
        index = int(gateway[1:])
        arrival = self._gateway_links[index].arrival(self.now)
        self.world.clock.call_at(arrival, self.world.gateways[index].from_router, frame)

    def to_users(self, frame: frames.Deliver | frames.Opened) -> None:
        for index, users in self.world.by_router(frame.users):
            part = frame if len(users) == len(frame.users) else replace(frame, users=users)
            if index == self.index:
                self._local.append(part)
            else:
                arrival = self._router_links[index].arrival(self.now)
                self.world.clock.call_at(arrival, self.world.routers[index].receive, part)

    def to_user(self, user: str, frame: frames.ToUsers) -> None:
        router = self.world.router_of(user)
        if router is self:
            self._local.append(frame)
        else:
            self.world.clock.call_at(self._router_links[router.index].arrival(self.now), router.receive, frame)

    def emit(self, event: events.Committed) -> None:
        self.world.committed(event, self.now)


class StorageNode:
    """One storage server: requests take their time here, but all servers keep their data in one place, because what a
    request means does not depend on the server that carries it out."""

    __slots__ = ("_links", "index", "work", "world")

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.work = Work(world.scenario.topology.storage, world.seed, "storage", index)
        self._links = world.backend_links(("storage", index), "router", world.scenario.topology.routers)

    def receive(self, asked: tuple[RouterNode, Conversations | Users, storage.Request]) -> None:
        router, asker, request = asked
        result = self.world.storage.execute(request)
        done = self.work.done_with_storage(self.world.clock.now, request, result)
        arrival = self._links[router.index].arrival(done)
        self.world.clock.call_at(arrival, router.stored, (asker, request, result))
