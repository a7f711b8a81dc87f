"""A cluster without a plan: its nodes, links and clients."""

from __future__ import annotations

from imsim.core import events
from imsim.core.client.connection import State
from imsim.core.model import Scene
from imsim.scenario import Scenario
from imsim.sim.cluster import Cluster, Parts
from imsim.sim.placement import by_hash

USERS = {"ann": 0, "bob": 1}


class Reports:
    def __init__(self) -> None:
        self.stored: list[str] = []
        self.pushed_to: list[int] = []

    def committed(self, event: events.Committed, at: float) -> None:
        self.stored.append(event.message.content)

    def pushed(self, event: events.Pushed | events.Shed, device: int, at: float) -> None:
        self.pushed_to.append(device)


class Small:
    """A small cluster with two users, each with one device."""

    def __init__(self, **changes: object) -> None:
        scenario = Scenario().replace({"topology": {"gateways": 2, "routers": 3, "storages": 2}, **changes})
        self.parts = Parts(scenario, 1, len(USERS), 0.0, 0.0, None)
        self.clock = self.parts.clock("test")
        self.reports, self.shown = Reports(), []
        reports = {events.Shown: lambda *shown: self.shown.append(shown)}
        policies = scenario.core_policies()
        self.cluster = Cluster(scenario.topology, policies, self.parts, by_hash, USERS, self.reports)
        self.ann, self.bob = (
            self.cluster.client(number, number, (name, "d0"), reports) for name, number in USERS.items()
        )

    def log_in(self) -> None:
        for client in (self.ann, self.bob):
            client.act(client.machine.start)
        self.clock.run(until=self.clock.now + 2.0)

    def send(self, content: str) -> None:
        self.ann.act(lambda now: self.ann.machine.send(Scene.P2P, "bob", content, content, now))
        self.clock.run(until=self.clock.now + 20.0)

    def shown_to_bob(self) -> list[str]:
        return [event.message.content for number, event, _ in self.shown if number == 1]


def test_nodes_are_named_by_tier_and_number():
    nodes = Small().cluster.nodes.values()
    assert [node.name for node in nodes] == [
        "gateway0", "gateway1", "router0", "router1", "router2", "storage0", "storage1",
    ]  # fmt: skip
    assert all(node.work.name == node.name == f"{node.tier}{node.index}" for node in nodes)


def test_cluster_delivers_message_to_device():
    small = Small()
    small.log_in()
    small.send("hello")
    assert small.reports.stored == small.shown_to_bob() == ["hello"]
    assert small.reports.pushed_to == [1]


def test_device_connects_to_next_gateway_after_crash_is_noticed():
    small = Small()
    down, other = small.cluster.gateways[1], small.cluster.gateways[0]
    down.crash()
    assert small.cluster.connect(small.bob).gateway is down
    down.crash_noticed()
    assert small.cluster.connect(small.bob).gateway is other
    down.restart()
    assert small.cluster.connect(small.bob).gateway is down


def test_router_delivers_again_after_crash_and_restart():
    crash = {"kind": "node_crash", "target": "router", "at": 1.0}
    small = Small(faults=[crash])  # with a fault in the scenario, links can break
    small.log_in()
    small.send("before")
    for router in small.cluster.routers:
        router.crash()
        small.parts.outages.begin(small.parts.outages.of(router), router)
    for router in small.cluster.routers:
        router.restart()
        small.parts.outages.end(small.parts.outages.of(router))
    small.send("after")
    assert small.bob.machine.state == State.ONLINE
    assert small.shown_to_bob() == ["before", "after"]
