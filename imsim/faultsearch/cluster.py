"""The nodes of a case, the links between them, and the faults that act on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar
from zlib import crc32

from imsim.core import internal_frames
from imsim.faultsearch.app import App
from imsim.faultsearch.case import Case
from imsim.faultsearch.entries import Crashed, Revoked, Started
from imsim.faultsearch.faults import Fault
from imsim.faultsearch.network import Channel, Connection, DeviceLink
from imsim.faultsearch.nodes import FlawedNode, GatewayNode, Instance, RouterNode
from imsim.faultsearch.random import stream_number
from imsim.faultsearch.storage import StorageNode
from imsim.faultsearch.surroundings import Surroundings
from imsim.scenario import Stream
from imsim.scenario.sections.topology import Tier
from imsim.sim.cluster import wire
from imsim.sim.link import Carry
from imsim.sim.nodes.node import ServerNode
from imsim.sim.nodes.work import Work
from imsim.sim.outages import Outages, Pair

N = TypeVar("N", GatewayNode, RouterNode)


class FlawedCluster(Surroundings):
    """The nodes and links of a case, on which faults act. The trace records everything that happens."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self._connections: list[Connection] = []
        self._last_connection = 0
        self._channels: dict[tuple[str, str], Channel] = {}
        self.storage = StorageNode(self, Stream(self._links, 0))
        self.routers = {name: self._node(RouterNode, index) for index, name in enumerate(case.router_names)}
        self.gateways = {name: self._node(GatewayNode, index) for index, name in enumerate(case.gateway_names)}
        self.outages = Outages()
        self.apps = {key: App(self, key, number) for number, key in enumerate(case.devices, 1)}
        wire(list(self.gateways.values()), list(self.routers.values()), [self.storage], self._link)

    def _node(self, kind: type[N], index: int) -> N:
        """Return a node on a station that takes no time."""
        return kind(self, index, Work(Tier(service={}), self.case.seed, kind.tier, index, self.clock))

    def _link(self, source: GatewayNode | RouterNode | StorageNode, target: ServerNode | StorageNode) -> Carry:
        """Return the link from one node to another. Storage answers without a link: `StorageNode` delays its answers
        itself."""
        if isinstance(source, StorageNode):
            return self.clock.call_at
        if not isinstance(target, StorageNode):
            self.outages.connect(source, target)  # also a router with itself: it starts its recovery when it starts
        pair = source.name, target.name
        stream = Stream(self._links, stream_number(">".join(pair)))
        channel = self._channels[pair] = Channel(self, stream)
        source.channels.append(channel)
        return channel.carry

    # --- look-ups of nodes and connections ---------------------------------------------------------------------------

    def instances(self) -> Iterable[Instance]:
        return (instance for app in self.apps.values() for instance in app.instances)

    def node(self, name: str) -> FlawedNode:
        """Return a gateway, a router, or the current instance of a device."""
        return self.gateways.get(name) or self.routers.get(name) or self.apps[name].current

    def server(self, name: str) -> GatewayNode | RouterNode:
        return self.gateways.get(name) or self.routers[name]

    def router_of(self, name: str) -> RouterNode:
        return self.routers[self.placement.owner(name)]

    def connections_of(self, device: str) -> list[Connection]:
        """Return the connections that the device's instances hold."""
        return [c for instance in self.apps[device].instances if (c := instance.connection) is not None]

    def new_connection(self, client: Instance) -> Connection:
        """Open a connection to a gateway that is up, if there is one. As with a load balancer, the gateway varies."""
        number = len(self._connections) + crc32(client.user.encode())
        gateways = list(self.gateways.values())
        order = gateways[number % len(gateways) :] + gateways[: number % len(gateways)]
        gateway = next((gateway for gateway in order if gateway.is_up), order[0])
        self._last_connection += 1
        number = -1 - 2 * self._last_connection
        up = DeviceLink(self, client.name, client.key, Stream(self._links, number), is_down=False)
        down = DeviceLink(self, client.name, client.key, Stream(self._links, number - 1), is_down=True)
        connection = Connection(self._last_connection, client, gateway, self.clock, up, down)
        self._connections.append(connection)
        self.owners[connection.id] = client.name
        return connection

    # --- effects of faults -------------------------------------------------------------------------------------------

    def crash(self, name: str, fault: Fault) -> None:
        node = self.server(name)
        if node.is_up:
            self.record_hit(fault)
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
        """Break a node's connections to others, and return the connections.

        Both ends of each detect the break after the fault's `detect` seconds.
        """
        pairs = self._pairs(name, others)
        self.outages.begin(pairs)
        self.later(min(fault.arguments["detect"], fault.arguments["seconds"]), self.outages.notice, pairs)
        return pairs

    def _pairs(self, name: str, others: list[str]) -> list[Pair]:
        """Return the connections between a node and others. The node is first in each, so it is notified first."""
        key, keys = self.server(name).key, [self.server(other).key for other in others]
        return [(key, other) for other in keys if self.outages.between([key], [other])]

    def channels_between(self, one: str, *others: str) -> list[Channel]:
        pairs = [pair for other in others for pair in ((one, other), (other, one))]
        return [self._channels[pair] for pair in pairs if pair in self._channels]

    def revoke(self, fault: Fault) -> None:
        """Revoke a user's tokens that are older than `spare` seconds, if the user's router is up."""
        user, router = fault.target, self.router_of(fault.target)
        if router.is_up:
            before = self.clock.now - fault.arguments["spare"]
            self.record_hit(fault)
            self.record(Revoked(self.clock.now, user, router.name, before))
            router.receive(internal_frames.Revoke(user, before))
