"""The cluster: the nodes of a topology and the links between them, wired up; and the devices' connections to it."""

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
    """Hears what the servers do."""

    def committed(self, event: events.Committed, at: float) -> None: ...

    def pushed(self, event: events.Pushed | events.Shed, device: int, at: float) -> None: ...


class Parts:
    """What a cluster is made of besides nodes: clocks, stations and links, as a scenario has them. Another world can
    have others. `epoch`: wall time at which the clocks were 0."""

    def __init__(self, scenario: Scenario, seed: int, users: int, start: float, epoch: float, tracer: Tracer | None):
        """`users`: how many there are. `start`: the time of the clocks."""
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
        """The clock of this node."""
        return self._clock

    def work(self, tier: Tier, kind: str, index: int) -> Work:
        """The station of a node."""
        if self._tracer is None:
            return Work(tier, self._seed, kind, index, self._clock)
        return self._tracer.work(tier, self._seed, kind, index, self._clock)

    def link(self, source: ServerNode, target: ServerNode) -> NodeLink:
        """From a node to another."""
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
        """What the user's devices are connected by."""
        return self._networks[user]

    def jitter(self, device: int) -> Stream:
        """From which the delays of the device's reconnects are drawn."""
        return Stream(self._jitter, device)

    def connection(
        self, id: int, client: DeviceNode, gateway: GatewayNode[Connection], up: Link | FreeLink, down: Link | FreeLink
    ) -> Connection:
        return self._connection(id, client, gateway, self._clock, up, down)

    def links(self, client: DeviceNode) -> tuple[Link, Link]:
        """Up and down, for a connection of this device."""
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
    """What others need of a storage's node."""

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
    """Give each node its ways to others. `link`: makes that from one node to another."""

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
    """All nodes of a topology, each with the ways to the others that it needs."""

    def __init__(
        self,
        topology: Topology,
        policies: Policies,
        parts: Parts,
        strategy: Strategy,
        users: Mapping[str, int],
        reports: ServerReports,
    ) -> None:
        """`strategy` decides which node owns a conversation or a user. `users`: the number of each."""
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
        """By tier and number: gateways, routers, storages."""
        return {node.key: node for node in chain(self.gateways, self.routers, self.storages)}

    def router_of(self, name: str) -> RouterNode:
        """The router that owns a conversation or a user."""
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
        """What happens meanwhile takes no time, on links and at nodes: so that a run can begin as if the service had
        been in use for long. It must be over when this ends."""
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
        """Have a conversation ready for what will come; it is made, with these members, if there is none."""
        self.router_of(conversation_id).open(conversation_id, members)

    def revoke(self, user: str) -> None:
        """Every token of the user that was given out before now is void."""
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
        """A new client for device `number`. `user`: the number of its user; `names`: of the user and of the device."""
        name, device = names
        clock = self.parts.clock(f"{name}/{device}")
        jitter = self.parts.jitter(number)
        if token is None:
            token = f"{name} {self.parts.epoch + clock.now!r}"  # who, and when it was issued
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
        """To the gateway of the device; if that is known to be down, the next one, as a load balancer would."""
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
        """Let go of all nodes, and of what they hold. Nothing can be done with the cluster afterwards."""
        for node in self.nodes.values():
            node.forget()
        vars(self).clear()
