"""Broken connections between nodes: the lost frames, and the notices to both ends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from imsim.scenario import Draws, Streams
from imsim.scenario.sections import BackendLink
from imsim.sim import Clock
from imsim.sim.link import Medium
from imsim.sim.outages import CuttableLink, Outages


class End:
    """A node that records the notices about its peers."""

    def __init__(self, tier: str, index: int) -> None:
        self.key = (tier, index)
        self.lives = 0
        self.died = -math.inf
        self.notices: list[tuple[str, tuple[str, int]]] = []

    def peer_lost(self, peer: End) -> None:
        self.notices.append(("lost", peer.key))

    def peer_back(self, peer: End) -> None:
        self.notices.append(("back", peer.key))


class Two:
    """A gateway and a router, connected both ways with a latency of a second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.gateway, self.router = End("gateway", 0), End("router", 0)
        self.outages = Outages()
        self.up = self.link(self.gateway, self.router)
        self.down = self.link(self.router, self.gateway)
        self.pairs = self.outages.of(self.gateway)
        self.arrived: list[str] = []

    def link(self, source: End, target: End) -> CuttableLink:
        fields, draws = BackendLink(latency=1.0), Draws(1, "test")
        link = CuttableLink(Medium(fields, self.clock, Streams(draws, np.array([0])), draws), 0).of(source)
        self.outages.add(link, source, target)
        return link

    def send(self, name: str, leaves: float = 0.0) -> None:
        self.up.carry(leaves, self.arrived.append, name)

    def until(self, at: float) -> None:
        self.clock.run(until=at)


@pytest.fixture
def two() -> Two:
    return Two()


def test_outage_loses_frames_in_transit_and_frames_sent_meanwhile(two):
    two.send("before")
    two.outages.begin(two.pairs)
    two.send("during")
    two.outages.end(two.pairs)
    two.send("after")
    two.until(5)
    assert two.arrived == ["after"]


def test_crash_loses_frames_in_work_but_not_sent_frames(two):
    two.send("sent")
    two.send("in work", leaves=0.7)
    two.until(0.5)
    two.gateway.lives, two.gateway.died = 1, 0.5
    two.outages.begin(two.pairs, two.gateway)
    two.until(5)
    assert two.arrived == ["sent"]


def test_both_ends_learn_once_of_outage_and_of_its_end(two):
    two.outages.begin(two.pairs)
    assert two.gateway.notices == two.router.notices == []
    two.outages.notice(two.pairs)
    two.outages.notice(two.pairs)
    two.outages.end(two.pairs)
    assert two.gateway.notices == [("lost", ("router", 0)), ("back", ("router", 0))]
    assert two.router.notices == [("lost", ("gateway", 0)), ("back", ("gateway", 0))]


def test_outage_that_ends_unnoticed_is_reported_at_its_end(two):
    two.outages.begin(two.pairs)
    two.outages.end(two.pairs)
    assert [notice for notice, _ in two.gateway.notices] == ["lost", "back"]


def test_outage_ends_with_its_last_cause(two):
    two.outages.begin(two.pairs)
    two.outages.begin(two.pairs)
    two.outages.end(two.pairs)
    assert not two.up.is_open
    assert ("back", ("router", 0)) not in two.gateway.notices
    two.outages.end(two.pairs)
    assert two.up.is_open
    assert two.gateway.notices[-1] == ("back", ("router", 0))


def test_outages_finds_connections_by_their_ends(two):
    other = End("router", 1)
    two.link(other, two.gateway)
    assert two.outages.of(two.gateway) == [(("gateway", 0), ("router", 0)), (("gateway", 0), ("router", 1))]
    assert two.outages.between([("router", 1)], [("gateway", 0)]) == [(("gateway", 0), ("router", 1))]
    assert two.outages.between([("router", 0)], [("router", 1)]) == []
    assert two.outages.of(other) == [(("gateway", 0), ("router", 1))]


def test_connection_without_links_breaks_and_notifies_first_end_first():
    gateway, router, outages, notices = End("gateway", 0), End("router", 0), Outages(), []
    gateway.notices = router.notices = notices
    outages.connect(gateway, router)
    outages.begin([(router.key, gateway.key)])
    assert outages.broken == {(router.key, gateway.key)}
    outages.end([(router.key, gateway.key)])
    assert not outages.broken
    assert notices == [("lost", gateway.key), ("lost", router.key), ("back", gateway.key), ("back", router.key)]
