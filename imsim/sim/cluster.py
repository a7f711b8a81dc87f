"""The cluster: the nodes of a topology, the links between them, and the connections of devices to gateways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Protocol
from zlib import crc32

import numpy as np

from imsim.core import events, internal_frames
from imsim.core.client.client import Client
from imsim.core.placement import Placement, Strategy
from imsim.core.policies import Policies
from imsim.scenario import Draws, Scenario, Stream, Streams
from imsim.scenario.sections import ClientLink, Tier, Topology
from imsim.scenario.sections.faults import NodeCrash, Partition, SlowReader
from imsim.sim.clock import Clock
from imsim.sim.connection import Connection, PausableConnection
from imsim.sim.link import Carry, ClientNetwork, FreeLink, Hop, Link, Medium, NodeLink
from imsim.sim.nodes import DeviceNode, GatewayNode, RouterNode, StorageNode
from imsim.sim.nodes.client import Listener, Reports
from imsim.sim.nodes.node import ServerNode
from imsim.sim.nodes.storage import Asked, Data
from imsim.sim.nodes.work import Work
from imsim.sim.outages import CuttableLink, Outages
from imsim.sim.tracing import Tracer


class ServerReports(Protocol):
    """Receives the events of the servers."""

    def committed(self, event: events.Committed, at: float) -> None: ...

    def pushed(self, event: events.Pushed | events.Shed, device: int, at: float) -> None: ...


class Parts:
    """Creates the parts of a cluster besides its nodes: clocks, stations and links, with the values of a scenario.

    `epoch`: the wall time at which the clocks were 0.
    """

    def __init__(self, scenario: Scenario, seed: int, users: int, start: float, epoch: float, tracer: Tracer | None):
        """`users`: the number of users. `start`: the initial time of the clocks."""
        faults = {type(fault) for fault in scenario.faults}
        self.breaks_links = bool(faults & {NodeCrash, Partition})
        self.epoch = epoch
        self.outages = Outages()
        self._connection = PausableConnection if SlowReader in faults else Connection
        self._scenario = scenario
        self._seed = seed
        self._tracer = tracer
        self._clock = Clock(start) if tracer is None else tracer.clock(start)
        devices = np.arange(users * scenario.population.devices)
        self._up = Streams(Draws(seed, "link", "up"), devices)
        self._down = Streams(Draws(seed, "link", "down"), devices)
        self._jitter = Draws(seed, "reconnect")
        self._backend = Draws(seed, "link", "backend")
        self._chances = Draws(seed, "link", "luck")
        made = {name: self._network(fields) for name, fields in scenario.network.in_use().items()}
        self._networks = [made[name] for name, _ in scenario.network.of_users(seed, users)]
        self.free_link = FreeLink(self._clock)

    def clock(self, node: str) -> Clock:
        """Return the clock of this node."""
        return self._clock

    def work(self, tier: Tier, kind: str, index: int) -> Work:
        """Return the work of a new node: its station and its service times."""
        if self._tracer is None:
            return Work(tier, self._seed, kind, index, self._clock)
        return self._tracer.work(tier, self._seed, kind, index, self._clock)

    def link(self, source: ServerNode, target: ServerNode) -> NodeLink:
        """Return a new link from a server to another."""
        fields = self._scenario.network.between(source.tier, target.tier)
        stream = Streams(self._backend, np.array([crc32(f"{source.name}>{target.name}".encode())]))
        link_class = CuttableLink if self.breaks_links else NodeLink
        link = link_class(Medium(fields, self._clock, stream, self._chances, fields.bandwidth), 0)
        if self._tracer is not None:
            link.watch(self._tracer.link(f"{source.tier}-{target.tier}", source.work))
        if isinstance(link, CuttableLink):
            self.outages.add(link.of(source), source, target)
        return link

    def network(self, user: int) -> ClientNetwork:
        """Return the network of a user's devices."""
        return self._networks[user]

    def jitter(self, device: int) -> Stream:
        """Return the random stream for the reconnect delays of a device."""
        return Stream(self._jitter, device)

    def connection(
        self, id: int, client: DeviceNode, gateway: GatewayNode[Connection], up: Link | FreeLink, down: Link | FreeLink
    ) -> Connection:
        """Return a new connection from a device to a gateway over these links."""
        return self._connection(id, client, gateway, self._clock, up, down)

    def links(self, client: DeviceNode) -> tuple[Link, Link]:
        """Return the links up and down for a new connection of this device."""
        network = client.network
        up, down = Link(network.up, client.number), Link(network.down, client.number)
        up.loss = down.loss = client.loss
        if self._tracer is not None:
            up.watch(self._tracer.link("uplink", None))
            down.watch(self._tracer.link("downlink", None))
        return up, down

    def _network(self, fields: ClientLink) -> ClientNetwork:
        upload = fields.bandwidth if fields.upload is None else fields.upload
        return ClientNetwork(
            fields,
            Medium(fields, self._clock, self._up, self._chances, upload),
            Medium(fields, self._clock, self._down, self._chances, fields.bandwidth),
        )


class Storage(Protocol):
    """The part of a storage's node that `wire` uses."""

    @property
    def name(self) -> str: ...

    def wire(self, routers: Mapping[str, Hop]) -> None: ...

    def receive(self, asked: Asked) -> None: ...


def wire(
    gateways: Sequence[GatewayNode[Any]],
    routers: Sequence[RouterNode],
    storages: Sequence[Storage],
    link: Callable[[Any, Any], Carry],
) -> None:
    """Connect the nodes: set the ways from each node to the others. `link(source, target)` returns a way."""

    def to_routers(source: ServerNode) -> dict[str, Hop]:
        return {router.name: (link(source, router), router.receive) for router in routers}

    for gateway in gateways:
        gateway.wire(to_routers(gateway))
    for router in routers:
        router.wire(
            {gateway.name: (link(router, gateway), gateway.from_router) for gateway in gateways},
            to_routers(router),
            {storage.name: (link(router, storage), storage.receive) for storage in storages},
        )
    for storage in storages:
        storage.wire({router.name: (link(storage, router), router.stored) for router in routers})


class Cluster:
    """The nodes of a topology, connected with each other."""

    def __init__(
        self,
        topology: Topology,
        policies: Policies,
        parts: Parts,
        strategy: Strategy,
        users: Mapping[str, int],
        reports: ServerReports,
    ) -> None:
        """`strategy` decides which node owns a conversation or a user. `users`: the number of each user, by name."""
        self.policies = policies
        self.parts = parts
        self.data = Data(policies.fanout)
        self.placement = Placement([f"router{index}" for index in range(topology.routers)], strategy)
        self.storage_placement = Placement([f"storage{index}" for index in range(topology.storages)], strategy)
        self._connections = 0

        def equipment(tier: str, index: int) -> tuple[int, Clock, Work]:
            return index, parts.clock(f"{tier}{index}"), parts.work(getattr(topology, tier), tier, index)

        self.storages = [
            StorageNode(*equipment("storage", index), self.data, topology.storage) for index in range(topology.storages)
        ]
        self.routers = [
            RouterNode(
                *equipment("router", index),
                policies,
                parts.epoch,
                users,
                self.placement,
                self.storage_placement,
                reports.committed,
            )
            for index in range(topology.routers)
        ]
        self.gateways: list[GatewayNode[Connection]] = [
            GatewayNode(
                *equipment("gateway", index),
                policies,
                parts.epoch,
                users,
                self.placement,
                reports.pushed,
                topology.gateway.batch_interval,
            )
            for index in range(topology.gateways)
        ]
        self._links: dict[tuple[str, str], NodeLink] = {}
        self._is_free = False
        self._wire()

    @property
    def nodes(self) -> dict[tuple[str, int], ServerNode]:
        """The servers by (tier, index): gateways, then routers, then storages."""
        return {node.key: node for node in chain(self.gateways, self.routers, self.storages)}

    def router_of(self, name: str) -> RouterNode:
        """Return the router that owns a conversation or a user."""
        owner = self.placement.owner(name)
        return next(router for router in self.routers if router.name == owner)

    def _wire(self) -> None:
        wire(self.gateways, self.routers, self.storages, self._way)

    def _way(self, source: ServerNode, target: ServerNode) -> Carry:
        if self._is_free:
            return self.parts.free_link.carry
        way = source.name, target.name
        if way not in self._links:
            self._links[way] = self.parts.link(source, target)
        return self._links[way].way()

    @contextmanager
    def free_of_charge(self) -> Iterator[None]:
        """Set all links and nodes to take no time inside the `with` block.

        So a run can start as if the service had been in use for a long time. Everything that starts inside the block
        must be over at its end.
        """
        self._set_free(True)
        yield
        self._set_free(False)

    def _set_free(self, free: bool) -> None:
        self._is_free = free
        self._wire()
        for node in self.nodes.values():
            node.work.set_free(free)
        for gateway in self.gateways:
            for connection in gateway.connections.values():
                connection.use(*self.parts.links(connection.client))

    def open(self, conversation_id: str, members: tuple[str, ...]) -> None:
        """Open a conversation before its first message. Create it with these members if it does not exist."""
        self.router_of(conversation_id).open(conversation_id, members)

    def revoke(self, user: str) -> None:
        """Revoke all tokens of a user that were issued before now."""
        router = self.router_of(user)
        router.receive(internal_frames.Revoke(user, self.parts.epoch + router.clock.now))

    # --- clients ----------------------------------------------------------------------------------------------------

    def client(
        self,
        number: int,
        user: int,
        names: tuple[str, str],
        reports: Reports,
        listeners: Sequence[Listener] = (),
        token: str | None = None,
        kind: str = "",
    ) -> DeviceNode:
        """Return the node of a new client on device `number`.

        `user`: the number of its user. `names`: the names of the user and of the device.
        """
        name, device = names
        clock = self.parts.clock(f"{name}/{device}")
        jitter = self.parts.jitter(number)
        if token is None:
            token = f"{name} {self.parts.epoch + clock.now!r}"  # the user, and the time of issue
        return DeviceNode(
            number,
            clock,
            self.parts.network(user),
            self,
            reports,
            listeners,
            lambda node: Client(node, name, device, token, self.policies, jitter, kind, node.new_timers()),
        )

    def connect(self, client: DeviceNode) -> Connection:
        """Return a new connection of a device to its gateway.

        If the gateway is known to be down, connect to the next one that seems up, as a load balancer does.
        """
        first = client.number % len(self.gateways)
        gateway = self.gateways[first]
        if not gateway.seems_up:
            others = self.gateways[first:] + self.gateways[:first]
            gateway = next((other for other in others if other.seems_up), gateway)
        self._connections += 1
        free = self.parts.free_link
        up, down = (free, free) if self._is_free else self.parts.links(client)
        return self.parts.connection(self._connections, client, gateway, up, down)

    def forget(self) -> None:
        """Release all nodes and everything that they hold. The cluster cannot be used after this call."""
        for node in self.nodes.values():
            node.forget()
        vars(self).clear()
