"""The faults of a scenario, as scheduled calls. `outages` handles the consequences of a broken connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

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
from imsim.sim.clock import Clock
from imsim.sim.cluster import Cluster
from imsim.sim.nodes import DeviceNode, GatewayNode, StorageNode
from imsim.sim.nodes.node import ServerNode
from imsim.sim.outages import Key, Pair


class Faults:
    """Injects the faults of a scenario into a cluster and into the networks of its clients."""

    def __init__(
        self,
        faults: Iterable[Fault],
        seed: int,
        clock: Clock,
        cluster: Cluster,
        clients: Iterable[DeviceNode],
        devices: int,
    ) -> None:
        """`devices`: the number of devices of each user."""
        self._faults = list(faults)
        self._seed = seed
        self._clock = clock
        self._cluster = cluster
        self._outages = cluster.parts.outages
        self._clients = list(clients)
        self._devices = devices
        self._nodes = cluster.nodes
        self._bursts: list[tuple[set[int], float]] = []  # users, and the loss in their networks

    def schedule(self) -> None:
        for number, fault in enumerate(self._faults):
            self._clock.call_at(fault.at, self._inject, (number, fault))

    def _inject(self, numbered: tuple[int, Fault]) -> None:
        number, fault = numbered
        now, draws = self._clock.now, Draws(self._seed, "fault", number)
        if isinstance(fault, NodeCrash):
            for key in self._targets(fault.target):
                self._crash(fault, self._nodes[key])
        elif isinstance(fault, Partition):
            self._partition(fault)
        elif isinstance(fault, StorageStall):
            for key in self._targets(fault.target):
                node = self._nodes[key]
                assert isinstance(node, StorageNode)
                node.stalled_until = max(node.stalled_until, now + fault.duration)
        elif isinstance(fault, LossBurst):
            users = {user for user in map(self._user, self._clients) if draws.at(user) < fault.share}
            burst = (users, fault.loss)
            self._bursts.append(burst)
            self._adjust_loss(users)
            self._later(fault.duration, self._end_burst, burst)
        else:
            for client in self._clients:
                if draws.at(client.number) < fault.share:
                    if isinstance(fault, SlowReader):
                        client.paused_until = max(now + fault.duration, client.paused_until)
                    else:
                        client.break_connection()

    def _later(self, seconds: float, function: Callable[[Any], object], argument: Any) -> None:
        self._clock.call_at(self._clock.now + seconds, function, argument)

    def _targets(self, target: str) -> list[Key]:
        cluster = self._cluster
        counts = {"gateway": len(cluster.gateways), "router": len(cluster.routers), "storage": len(cluster.storages)}
        keys = nodes_of(target, counts)
        assert keys is not None, "the scenario has been checked"
        return keys

    # --- crashes and partitions -------------------------------------------------------------------------------------

    def _crash(self, fault: NodeCrash, node: ServerNode) -> None:
        if not node.is_up:
            return
        node.crash()
        pairs = self._outages.of(node)
        self._outages.begin(pairs, node)
        self._later(min(fault.detect, fault.duration), self._notice_crash, (node, pairs, node.lives))
        self._later(fault.duration, self._restart, (node, pairs))

    def _notice_crash(self, crashed: tuple[ServerNode, list[Pair], int]) -> None:
        node, pairs, life = crashed
        if life == node.lives:
            self._outages.notice(pairs)
            if isinstance(node, GatewayNode):
                node.crash_noticed()

    def _restart(self, crashed: tuple[ServerNode, list[Pair]]) -> None:
        node, pairs = crashed
        self._notice_crash((node, pairs, node.lives))
        node.restart()
        self._outages.end(pairs)

    def _partition(self, fault: Partition) -> None:
        pairs = self._outages.between(self._targets(fault.target), self._targets(fault.other))
        self._outages.begin(pairs)
        self._later(min(fault.detect, fault.duration), self._outages.notice, pairs)
        self._later(fault.duration, self._outages.end, pairs)

    # --- the networks of clients ------------------------------------------------------------------------------------

    def _end_burst(self, burst: tuple[set[int], float]) -> None:
        self._bursts.remove(burst)
        self._adjust_loss(burst[0])

    def _user(self, client: DeviceNode) -> int:
        return client.number // self._devices

    def _adjust_loss(self, users: set[int]) -> None:
        """Set the loss of these users' networks: the highest of their own loss and the present bursts."""
        for client in self._clients:
            user = self._user(client)
            if user in users:
                client.loss = max([client.network.fields.loss, *(loss for hit, loss in self._bursts if user in hit)])
                if client.connection is not None:
                    client.connection.lose(client.loss)
