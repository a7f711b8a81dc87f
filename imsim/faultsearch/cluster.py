"""The nodes of a case, what lies between them, and what is done to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from zlib import crc32

from imsim.core import internal_frames, storage
from imsim.core.model import Code
from imsim.core.placement import Placement
from imsim.faultsearch.app import App
from imsim.faultsearch.case import Case
from imsim.faultsearch.entries import Crashed, Entry, Revoked, Started, Struck
from imsim.faultsearch.faults import Fault, Windows
from imsim.faultsearch.network import Channel, Connection, DeviceLink
from imsim.faultsearch.nodes import FlawedNode, GatewayNode, Instance, RouterNode
from imsim.faultsearch.random import stream_number
from imsim.faultsearch.storage import StorageNode
from imsim.scenario import Draws, Stream
from imsim.scenario.sections.topology import Tier
from imsim.sim.clock import Clock
from imsim.sim.cluster import wire
from imsim.sim.link import Carry
from imsim.sim.nodes.node import ServerNode
from imsim.sim.nodes.work import Work
from imsim.sim.outages import Outages, Pair

N = TypeVar("N", GatewayNode, RouterNode)


class FlawedCluster:
    """The nodes of a case and the ways between them, on which faults act. All that happens stands in the trace."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.clock = Clock(0.0)
        self.trace: list[Entry] = []
        self.longest_queue = 0  # the most pushes that ever waited on one connection
        self.owners: dict[int, str] = {}  # connection -> the instance that opened it
        self._luck = Draws(case.seed, "chaos", "luck")
        self._jitter = Draws(case.seed, "reconnect")
        self._links = Draws(case.seed, "chaos", "link")
        self._walls: dict[str, Stream] = {}
        self.ambushes: list[Fault] = []  # crashes that wait for their moment
        self.at_login: dict[str, Fault] = {}  # revocations that wait for a user to log in
        self._connections: list[Connection] = []
        self._last_connection = 0
        self._channels: dict[tuple[str, str], Channel] = {}
        self.windows: dict[str, Windows] = {name: Windows() for name in ("storage", *case.devices)}
        self.storage = StorageNode(self, Stream(self._links, 0))
        self.placement = Placement(case.router_names)
        self.routers = {name: self._node(RouterNode, index) for index, name in enumerate(case.router_names)}
        self.gateways = {name: self._node(GatewayNode, index) for index, name in enumerate(case.gateway_names)}
        self.outages = Outages()
        self.apps = {key: App(self, key, number) for number, key in enumerate(case.devices, 1)}
        wire(list(self.gateways.values()), list(self.routers.values()), [self.storage], self._link)

    def _node(self, kind: type[N], index: int) -> N:
        """On a station where nothing takes time."""
        return kind(self, index, Work(Tier(service={}), self.case.seed, kind.tier, index, self.clock))

    def _link(self, source: ServerNode | StorageNode, target: ServerNode | StorageNode) -> Carry:
        """Storage answers straight away: its delays are its own."""
        if isinstance(source, StorageNode):
            return self.clock.call_at
        if not isinstance(target, StorageNode):
            self.outages.connect(source, target)  # also a router with itself: it looks again as it starts
        pair = source.name, target.name
        stream = Stream(self._links, stream_number(">".join(pair)))
        channel = self._channels[pair] = Channel(self, stream)
        return channel.carry

    # --- who is where ------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.clock.now

    def instances(self) -> Iterable[Instance]:
        return (instance for app in self.apps.values() for instance in app.instances)

    def node(self, name: str) -> FlawedNode:
        """A gateway, a router, or the current instance of a device."""
        return self.gateways.get(name) or self.routers.get(name) or self.apps[name].current

    def server(self, name: str) -> GatewayNode | RouterNode:
        return self.gateways.get(name) or self.routers[name]

    def router_of(self, name: str) -> RouterNode:
        return self.routers[self.placement.owner(name)]

    def channels_from(self, source: str) -> list[Channel]:
        return [channel for pair, channel in self._channels.items() if pair[0] == source]

    def connections_of(self, device: str) -> list[Connection]:
        """Those that the device's instances hold."""
        return [c for instance in self.apps[device].instances if (c := instance.connection) is not None]

    def new_connection(self, client: Instance) -> Connection:
        """To a gateway that is up, if there is one; another one than last time, as a load balancer would."""
        number = len(self._connections) + crc32(client.user.encode())
        gateways = list(self.gateways.values())
        order = gateways[number % len(gateways) :] + gateways[: number % len(gateways)]
        gateway = next((gateway for gateway in order if gateway.is_up), order[0])
        self._last_connection += 1
        up, down = (
            DeviceLink(self, client, Stream(self._links, -1 - (self._last_connection * 2 + is_down)), is_down=is_down)
            for is_down in (False, True)
        )
        connection = Connection(self._last_connection, client, gateway, self.clock, up, down)
        self._connections.append(connection)
        self.owners[connection.id] = client.name
        return connection

    def stream(self, fault: Fault) -> Stream:
        """The luck of one fault, whatever the others do."""
        return Stream(self._luck, stream_number(str(fault)))

    def jitter_stream(self, number: int) -> Stream:
        return Stream(self._jitter, number)

    # --- what is done to it ------------------------------------------------------------------------------------------

    def record(self, entry: Entry) -> None:
        self.trace.append(entry)

    def happened(self, fault: Fault) -> None:
        """The fault has hit something."""
        self.record(Struck(self.clock.now, fault.target, fault.kind))

    def later(self, seconds: float, function: Callable[[Any], object], argument: Any) -> None:
        self.clock.call_at(self.clock.now + seconds, function, argument)

    def crash(self, name: str, fault: Fault) -> None:
        node = self.server(name)
        if node.is_up:
            self.happened(fault)
            self.record(Crashed(self.clock.now, name))
            node.crash_with(self.stream(fault))
            for (_, target), channel in self._channels.items():
                if target == name:
                    channel.lose()
            self.break_off(name, [*self.gateways, *self.routers], fault)
            self.later(fault.arguments["seconds"], self._restart, node)

    def _restart(self, node: GatewayNode | RouterNode) -> None:
        if not node.is_up:
            self.record(Started(self.clock.now, node.name))
            node.restart()
            self.outages.end(self._pairs(node.name, [*self.gateways, *self.routers]))

    def break_off(self, name: str, others: list[str], fault: Fault) -> list[Pair]:
        """A node's connections to others, which break. The ends notice in the time that the fault says."""
        pairs = self._pairs(name, others)
        self.outages.begin(pairs)
        self.later(min(fault.arguments["detect"], fault.arguments["seconds"]), self.outages.notice, pairs)
        return pairs

    def _pairs(self, name: str, others: list[str]) -> list[Pair]:
        """The node is the first to hear what happens to them."""
        key, keys = self.server(name).key, [self.server(other).key for other in others]
        return [(key, other) for other in keys if self.outages.between([key], [other])]

    def spring(self, router: str, request: storage.Request, moment: str) -> None:
        """Something of a router happened with storage: is that what an ambush waits for?"""
        if moment == "asked" and isinstance(request, storage.OpenUser) and request.user in self.at_login:
            self.later(0.0, self.revoke, self.at_login.pop(request.user))
        if (fault := self._ambush_for(router, request.op, moment)) is not None:
            self.later(0.0, lambda fault: self.crash(router, fault), fault)

    def crashes_on(self, gateway: str, op: str, moment: str) -> bool:
        """A frame has arrived at a gateway, or was passed on: is that what an ambush waits for?"""
        fault = self._ambush_for(gateway, op, moment)
        if fault is not None:
            self.crash(gateway, fault)
        return fault is not None

    def _ambush_for(self, node: str, op: str, moment: str) -> Fault | None:
        """The ambush that waits for this, which is over with it."""
        for fault in self.ambushes:
            if (fault.target, fault.arguments["op"], fault.arguments["moment"]) == (node, op, moment):
                self.ambushes.remove(fault)
                return fault
        return None

    def wall_epoch(self, node: str) -> float:
        """The wall time at which this node's clock was 0, by what it believes in the life that begins now."""
        if node not in self._walls:
            self._walls[node] = Stream(self._links, stream_number(f"{node} wall"))
        return self.case.wall_skew * self._walls[node].next()

    def channels_between(self, one: str, *others: str) -> list[Channel]:
        pairs = [pair for other in others for pair in ((one, other), (other, one))]
        return [self._channels[pair] for pair in pairs if pair in self._channels]

    def refusal(self, instance: Instance) -> Code | None:
        """Why the token of this instance is not taken at present."""
        window = self.windows[instance.key].get("token_refused")
        if window is None:
            return None
        self.record(Struck(self.clock.now, instance.name, "token_refused"))
        return Code(window.arguments["code"])

    def new_token(self, user: str) -> str:
        """Good for this user, from now on."""
        return f"{user}@{self.clock.now!r}"

    def revoke(self, fault: Fault) -> None:
        """A user's tokens are void that are older than `spare` seconds; if a router is there to be asked."""
        user, router = fault.target, self.router_of(fault.target)
        if router.is_up:
            before = self.clock.now - fault.arguments["spare"]
            self.happened(fault)
            self.record(Revoked(self.clock.now, user, router.name, before))
            router.receive(internal_frames.Revoke(user, before))

    def ended(self, instance: Instance, code: Code) -> None:
        app = self.apps.get(instance.key)
        if app is not None:
            app.ended(instance, code)
