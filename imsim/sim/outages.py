"""Connections between servers that break: what is lost with one, and when both ends learn of it.

One rule for both ends: frames vanish, and neither knows, until the break is noticed or over; then both know that their
connection broke. There is never traffic over a new one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, Self

from imsim.sim.link import Arrive, Carry, NodeLink

Key = tuple[str, int]  # a node's tier and index
Pair = tuple[Key, Key]  # two nodes that have a connection; the first hears first of what happens to it


class Peer(Protocol):
    """A node, as its connections see it."""

    @property
    def key(self) -> Key: ...

    def peer_lost(self, peer: Any) -> None: ...

    def peer_back(self, peer: Any) -> None: ...


class Mortal(Protocol):
    """A node that can crash. `lives`: how often it has; `died`: when it last did."""

    lives: int
    died: float


class BreakableLink(Protocol):
    """One direction of a connection that can break."""

    @property
    def is_open(self) -> bool:
        """Whether it carries anything: not while it is broken, for whatever cause."""

    def break_off(self, *, sender_died: bool) -> None:
        """A cause to be broken. What is on its way is lost, except what a sender had sent before it died."""

    def repair(self) -> None:
        """One cause is over."""


class Sent(NamedTuple):
    """What travels on a `CuttableLink`: a frame, and what was the case when it was sent."""

    leaves: float
    cuts: int
    lives: int
    arrive: Arrive
    frame: Any


class CuttableLink(NodeLink):
    """A link between nodes that can break, and whose source can crash: what had not arrived, or had not left, is
    lost."""

    __slots__ = ("_causes", "_cuts", "_source")

    def of(self, source: Mortal) -> Self:
        self._source = source
        self._causes = 0  # for which it is broken
        self._cuts = 0  # how often what was on its way was lost
        return self

    @property
    def is_open(self) -> bool:
        return self._causes == 0

    def break_off(self, *, sender_died: bool) -> None:
        self._causes += 1
        self._cuts += not sender_died

    def repair(self) -> None:
        self._causes -= 1

    def way(self) -> Carry:
        return self.carry

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None:
        if self._causes == 0:
            super().carry(leaves, self._land, Sent(leaves, self._cuts, self._source.lives, arrive, frame))

    def _arrival(self, leaves: float, sent: Sent) -> float:
        return super()._arrival(leaves, sent.frame)

    def _land(self, sent: Sent) -> None:
        if sent.cuts != self._cuts:
            return
        if sent.lives != self._source.lives and self._source.died < sent.leaves:
            return  # the node was still working at it
        sent.arrive(sent.frame)


class Outages:
    """Which connections are broken, and which of these breaks their ends have not noticed."""

    def __init__(self) -> None:
        self._nodes: dict[Key, Peer] = {}
        self._links: dict[Pair, dict[Key, BreakableLink]] = {}  # by their sources
        self._unnoticed: set[Pair] = set()
        self.broken: set[Pair] = set()  # until a cause is over

    def connect(self, one: Peer, other: Peer) -> None:
        """The two have a connection."""
        self._nodes[one.key], self._nodes[other.key] = one, other
        self._links.setdefault(_pair(one.key, other.key), {})

    def add(self, link: BreakableLink, source: Peer, target: Peer) -> None:
        """A connection can have a link each way, which breaks with it."""
        if source is not target:
            self.connect(source, target)
            self._links[_pair(source.key, target.key)][source.key] = link

    def of(self, node: Peer) -> list[Pair]:
        """All connections of a node, in ascending order."""
        return sorted(pair for pair in self._links if node.key in pair)

    def between(self, ones: Iterable[Key], others: Iterable[Key]) -> list[Pair]:
        others = list(others)
        return sorted({_pair(one, other) for one in ones for other in others} & self._links.keys())

    def begin(self, pairs: list[Pair], dead: Peer | None = None) -> None:
        """They break. `dead`: the end of each that crashed, if one did."""
        self._unnoticed.update(pairs)
        self.broken.update(pairs)
        for pair in pairs:
            for source, link in self._links[_pair(*pair)].items():
                link.break_off(sender_died=dead is not None and source == dead.key)

    def notice(self, pairs: list[Pair]) -> None:
        """The ends notice, unless they have."""
        for pair in pairs:
            if pair in self._unnoticed:
                self._unnoticed.discard(pair)
                self._lost(pair)

    def end(self, pairs: list[Pair]) -> None:
        """One cause is over; the ends can connect again, unless there is another."""
        self.notice(pairs)
        self.broken.difference_update(pairs)
        for pair in pairs:
            links = self._links[_pair(*pair)].values()
            for link in links:
                link.repair()
            if all(link.is_open for link in links):
                one, other = (self._nodes[key] for key in pair)
                one.peer_back(other)
                other.peer_back(one)
            else:
                self._lost(pair)  # of which a node that has just started does not know

    def _lost(self, pair: Pair) -> None:
        one, other = (self._nodes[key] for key in pair)
        one.peer_lost(other)
        other.peer_lost(one)


def _pair(one: Key, other: Key) -> Pair:
    return min(one, other), max(one, other)
