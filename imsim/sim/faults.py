"""The scenario's faults, carried out as plain scheduled calls.

One rule for whoever is connected to what crashed or is cut off: frames vanish, and nobody knows, until `detect` has
passed or it is over; then both ends know that their connection broke. There is never traffic over a new one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from imsim.scenario import Draws
from imsim.scenario.sections.faults import (
    Fault,
    LossBurst,
    NodeCrash,
    Partition,
    SlowReader,
    StorageStall,
    nodes_of,
)
from imsim.sim.link import BackboneLink
from imsim.sim.nodes.connection import Connection

if TYPE_CHECKING:
    from imsim.sim.nodes import ClientNode, GatewayNode, RouterNode, StorageNode
    from imsim.sim.world import World

_Node = tuple[str, int]  # tier, index
_Pair = tuple[_Node, _Node]  # two that have a connection, in ascending order


class CuttableLink(BackboneLink):
    """One that can break, and whose source can crash: what had not arrived, or had not left, is lost."""

    __slots__ = ("cuts", "faults", "open", "source")

    faults: Faults
    source: _Node
    cuts: int  # how often what was on its way was lost
    open: int  # 1, less the number of causes for which it is broken

    def between(self, faults: Faults, source: _Node, target: _Node) -> CuttableLink:
        self.faults, self.source = faults, source
        self.cuts, self.open = 0, 1
        if source != target:
            faults.links.setdefault(_pair(source, target), []).append(self)
        return self

    def carry(self, leaves: float, arrive: Callable[[Any], object], frame: Any) -> None:
        if self.open == 1:
            sent = (leaves, self.cuts, self.faults.lives.get(self.source, 0), arrive, frame)
            super().carry(leaves, self._land, sent)

    def _land(self, sent: tuple[float, int, int, Callable[[Any], object], Any]) -> None:
        leaves, cuts, source_life, arrive, frame = sent
        faults = self.faults
        if cuts != self.cuts:
            return
        if source_life != faults.lives.get(self.source, 0) and faults.died[self.source] < leaves:
            return  # it was still being worked at
        arrive(frame)


class PausableConnection(Connection):
    """One whose device can stop reading for a while: what comes waits at its door."""

    __slots__ = ()

    def _waits(self, then: Callable[[Any], object], frame: Any) -> bool:
        until = self.client.world.faults.deaf.get(self.client.number, -math.inf)
        if until <= self.clock.now:
            return False
        self.clock.call_at(until, then, frame)
        return True

    def opened(self, _: None) -> None:
        if not self._waits(super().opened, None):
            super().opened(None)

    def to_client(self, frame: Any) -> None:
        if not self._waits(super().to_client, frame):
            super().to_client(frame)

    def lost_by_client(self, _: None) -> None:
        if not self._waits(super().lost_by_client, None):
            super().lost_by_client(None)


class Faults:
    """What will go wrong in a world. `lives`: how often a node was started anew; `deaf`: until when a device reads
    nothing."""

    def __init__(self, world: World, faults: Iterable[Fault]) -> None:
        self._world = world
        self._faults = list(faults)
        kinds = {type(fault) for fault in self._faults}
        #: What the world must be made of, so that it can go wrong.
        self.cuts_links = bool(kinds & {NodeCrash, Partition})
        self.pauses_devices = SlowReader in kinds
        self.links: dict[_Pair, list[CuttableLink]] = {}
        self.lives: dict[_Node, int] = {}
        self.died: dict[_Node, float] = {}
        self.deaf: dict[int, float] = {}
        self._down: set[_Node] = set()
        self._untold: set[_Pair] = set()  # whose connection broke, of which they do not know yet
        self._bursts: list[tuple[set[int], float]] = []  # users, and what their networks lose
        topology = world.scenario.topology
        self._counts = {"gateway": topology.gateways, "router": topology.routers, "storage": topology.storages}

    def schedule(self) -> None:
        for number, fault in enumerate(self._faults):
            self._world.clock.call_at(fault.at, self._begin, (number, fault))

    def _begin(self, numbered: tuple[int, Fault]) -> None:
        number, fault = numbered
        world = self._world
        if isinstance(fault, NodeCrash):
            self._crash(fault)
        elif isinstance(fault, Partition):
            self._part(fault)
        elif isinstance(fault, StorageStall):
            for _, index in self._nodes(fault.target):
                node = world.storages[index]
                node.stalled_until = max(node.stalled_until, world.clock.now + fault.duration)
        elif isinstance(fault, LossBurst):
            users = len(world.plan.users)
            draws = Draws(world.seed, "fault", number)
            burst = ({user for user in range(users) if draws.at(user) < fault.share}, fault.loss)
            self._bursts.append(burst)
            self._weather(burst[0])
            self._later(fault.duration, self._clear, burst)
        else:
            draws = Draws(world.seed, "fault", number)
            for client in world.clients.values():
                if draws.at(client.number) < fault.share:
                    if isinstance(fault, SlowReader):
                        until = world.clock.now + fault.duration
                        self.deaf[client.number] = max(until, self.deaf.get(client.number, until))
                    else:
                        client.break_connection()

    def _later(self, seconds: float, function: Callable[[Any], object], argument: Any) -> None:
        self._world.clock.call_at(self._world.clock.now + seconds, function, argument)

    def _nodes(self, target: str) -> list[_Node]:
        nodes = nodes_of(target, self._counts)
        assert nodes is not None, "the scenario has been checked"
        return nodes

    # --- crashes and partitions -------------------------------------------------------------------------------------

    def _crash(self, fault: NodeCrash) -> None:
        world = self._world
        for node in self._nodes(fault.target):
            if node in self._down:
                continue
            self._down.add(node)
            self.lives[node] = self.lives.get(node, 0) + 1
            self.died[node] = world.clock.now
            self._node(node).crash()
            pairs = sorted(pair for pair in self.links if node in pair)
            self._break(pairs, node)
            self._later(min(fault.detect, fault.duration), self._noticed, (node, pairs, self.lives[node]))
            self._later(fault.duration, self._restart, (node, pairs))

    def _noticed(self, gone: tuple[_Node, list[_Pair], int]) -> None:
        (tier, index), pairs, life = gone
        if life == self.lives[tier, index]:
            self._tell(pairs)
            if tier == "gateway":
                self._world.gateways[index].crash_noticed()

    def _restart(self, gone: tuple[_Node, list[_Pair]]) -> None:
        node, pairs = gone
        self._noticed((node, pairs, self.lives[node]))
        self._down.discard(node)
        self._node(node).start_anew()
        self._mend(pairs)

    def _node(self, node: _Node) -> GatewayNode | RouterNode | StorageNode:
        tier, index = node
        world = self._world
        if tier == "gateway":
            return world.gateways[index]
        return world.routers[index] if tier == "router" else world.storages[index]

    def _part(self, fault: Partition) -> None:
        one, other = self._nodes(fault.target), self._nodes(fault.other)
        pairs = sorted({_pair(a, b) for a in one for b in other} & self.links.keys())
        self._break(pairs)
        self._later(min(fault.detect, fault.duration), self._tell, pairs)
        self._later(fault.duration, self._mend, pairs)

    def _break(self, pairs: list[_Pair], dead: _Node | None = None) -> None:
        """dead: the one of each pair that crashed, if any. What it has sent still arrives."""
        self._untold.update(pairs)
        for pair in pairs:
            for link in self.links[pair]:
                link.open -= 1
                link.cuts += link.source != dead

    def _tell(self, pairs: list[_Pair]) -> None:
        for pair in pairs:
            if pair in self._untold:
                self._untold.discard(pair)
                self._lost(pair)

    def _mend(self, pairs: list[_Pair]) -> None:
        """One cause is over; they can connect again, unless there is another."""
        self._tell(pairs)
        for pair in pairs:
            for link in self.links[pair]:
                link.open += 1
            if all(link.open == 1 for link in self.links[pair]):
                self._back(pair)
            else:
                self._lost(pair)  # which one that has just started does not know

    def _lost(self, pair: _Pair) -> None:
        world = self._world
        for (tier, index), (other, number) in (pair, pair[::-1]):
            if tier == "gateway":
                world.gateways[index].router_lost(world.routers[number])
            elif tier == "router" and other == "gateway":
                world.routers[index].gateway_lost(world.gateways[number].name)
            elif tier == "router" and other == "storage":
                world.routers[index].storage_lost(number)

    def _back(self, pair: _Pair) -> None:
        """They are connected again. Routers look for what they did not hear of."""
        world = self._world
        for (tier, index), (other, number) in (pair, pair[::-1]):
            if tier == "gateway":
                world.gateways[index].router_back(world.routers[number])
            elif tier == "router" and other == "router":
                world.routers[index].router_back()
            elif tier == "router" and other == "storage":
                world.routers[index].storage_back(number)

    # --- the networks of clients ------------------------------------------------------------------------------------

    def _clear(self, burst: tuple[set[int], float]) -> None:
        self._bursts.remove(burst)
        self._weather(burst[0])

    def _weather(self, users: set[int]) -> None:
        """Give the devices of these users the networks that they have now."""
        world = self._world
        for client in world.clients.values():
            user = client.number // len(world.plan.devices)
            if user in users:
                usual = world.network_of(client.number)
                loss = max([usual.loss, *(loss for hit, loss in self._bursts if user in hit)])
                _switch(client, usual if loss == usual.loss else usual.model_copy(update={"loss": loss}), loss)


def _switch(client: ClientNode, network: Any, loss: float) -> None:
    client.network = network  # for its next connection
    if client.connection is not None:
        client.connection.lose(loss)


def _pair(one: _Node, other: _Node) -> _Pair:
    return min(one, other), max(one, other)
