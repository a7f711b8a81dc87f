"""Broken connections between servers: which frames are lost, and when both ends detect the break.

One rule holds for both ends. Until the break is detected or over, frames are lost and neither end knows. Then both ends
know that their connection broke. Only after that do they use a new connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, Self

from imsim.sim.link import Arrive, Carry, NodeLink

Key = tuple[str, int]  # a node's tier and index
Pair = tuple[Key, Key]  # two nodes that have a connection; the first one is notified first of its changes


class Peer(Protocol):
    """The part of a node that its connections use."""

    @property
    def key(self) -> Key: ...

    def peer_lost(self, peer: Any) -> None: ...

    def peer_back(self, peer: Any) -> None: ...


class Crashable(Protocol):
    """A node that can crash. `lives`: the number of its crashes. `died`: the time of its last crash."""

    lives: int
    died: float


class BreakableLink(Protocol):
    """One direction of a connection that can break."""

    @property
    def is_open(self) -> bool:
        """Whether the link carries frames. It does not while it has a cause to be broken."""

    def break_off(self, *, sender_died: bool) -> None:
        """Add a cause to be broken. The frames in transit are lost.

        `sender_died`: the cause is a crash of the sender. The frames that it sent before the crash still arrive.
        """

    def repair(self) -> None:
        """Remove one cause to be broken."""


class Sent(NamedTuple):
    """A frame in transit on a `CuttableLink`, with the counts of cuts and of the source's crashes at its sending."""

    leaves: float
    cuts: int
    lives: int
    arrive: Arrive
    frame: Any


class CuttableLink(NodeLink):
    """A link between servers that can break, and whose source can crash.

    A break loses the frames that have not arrived. A crash of the source loses the frames that have not left.
    """

    __slots__ = ("_causes", "_cuts", "_source")

    def of(self, source: Crashable) -> Self:
        """Set the node that sends over this link. Return the link."""
        self._source = source
        self._causes = 0  # the causes for which it is broken at present
        self._cuts = 0  # how often the frames in transit were lost
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
            return  # the source crashed before the frame left
        sent.arrive(sent.frame)


class Outages:
    """The connections between nodes: which are broken, and which of these breaks the ends have not detected."""

    def __init__(self) -> None:
        self._nodes: dict[Key, Peer] = {}
        self._links: dict[Pair, dict[Key, BreakableLink]] = {}  # the links of a pair, by their sources
        self._unnoticed: set[Pair] = set()
        self.broken: set[Pair] = set()  # pairs whose connection broke; the end of a cause removes its pairs

    def connect(self, one: Peer, other: Peer) -> None:
        """Record that two nodes have a connection."""
        self._nodes[one.key], self._nodes[other.key] = one, other
        self._links.setdefault(_pair(one.key, other.key), {})

    def add(self, link: BreakableLink, source: Peer, target: Peer) -> None:
        """Add a link that breaks with the connection of these nodes: at most one link per direction."""
        if source is not target:
            self.connect(source, target)
            self._links[_pair(source.key, target.key)][source.key] = link

    def of(self, node: Peer) -> list[Pair]:
        """Return the connections of a node, in ascending order."""
        return sorted(pair for pair in self._links if node.key in pair)

    def between(self, ones: Iterable[Key], others: Iterable[Key]) -> list[Pair]:
        """Return the connections between two groups of nodes, in ascending order."""
        others = list(others)
        return sorted({_pair(one, other) for one in ones for other in others} & self._links.keys())

    def begin(self, pairs: list[Pair], dead: Peer | None = None) -> None:
        """Break these connections. `dead`: the node that crashed, if a crash is the cause."""
        self._unnoticed.update(pairs)
        self.broken.update(pairs)
        for pair in pairs:
            for source, link in self._links[_pair(*pair)].items():
                link.break_off(sender_died=dead is not None and source == dead.key)

    def notice(self, pairs: list[Pair]) -> None:
        """Notify the ends of these connections of the break, unless they know of it already."""
        for pair in pairs:
            if pair in self._unnoticed:
                self._unnoticed.discard(pair)
                self._lost(pair)

    def end(self, pairs: list[Pair]) -> None:
        """Remove one cause of the break. The ends connect again if no other cause remains."""
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
                self._lost(pair)  # a node that has just started does not know of the other cause

    def _lost(self, pair: Pair) -> None:
        one, other = (self._nodes[key] for key in pair)
        one.peer_lost(other)
        other.peer_lost(one)


def _pair(one: Key, other: Key) -> Pair:
    return min(one, other), max(one, other)
