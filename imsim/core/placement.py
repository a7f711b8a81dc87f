"""Placement: which router owns a conversation or a user (and, in the same way, which storage keeps it)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from heapq import heapify, heapreplace
from zlib import crc32

#: (name of a conversation or user, number of nodes) -> the number of its node, from 0.
Strategy = Callable[[str, int], int]


def by_hash(name: str, nodes: int) -> int:
    """A hash, the same in every process, modulo the nodes: even, but another number of nodes moves nearly all."""
    return crc32(name.encode()) % nodes


def by_rendezvous(name: str, nodes: int) -> int:
    """The node whose hash together with the name is the highest (Thaler and Ravishankar, 1998): as even, and of n + 1
    nodes the new one takes 1 / (n + 1) of the names while all others stay."""
    # Not a checksum: the CRCs of one name with two nodes differ by the same bits for all names of a length.
    return max(range(nodes), key=lambda node: blake2b(f"{node} {name}".encode(), digest_size=8).digest())


class Spread:
    """By size: conversations, the largest first, each to the node that has the fewest members so far, so that large
    groups do not meet (Graham's LPT rule, 1969: the fullest node gets at most 4/3 of the least possible). Users, who
    weigh alike, in turn; other names by hash.

    `members`: of each conversation, how many members it has."""

    def __init__(self, users: Sequence[str], members: Mapping[str, int]) -> None:
        self._users = users
        self._members = members
        self._by_count: dict[int, dict[str, int]] = {}

    def __call__(self, name: str, nodes: int) -> int:
        owners = self._by_count.get(nodes)
        if owners is None:
            owners = self._by_count[nodes] = self._spread(nodes)
        owner = owners.get(name)
        return by_hash(name, nodes) if owner is None else owner

    def _spread(self, nodes: int) -> dict[str, int]:
        owners = {user: number % nodes for number, user in enumerate(self._users)}
        loads = [(0, node) for node in range(nodes)]
        heapify(loads)
        for conversation, members in sorted(self._members.items(), key=lambda item: (-item[1], item[0])):
            load, node = loads[0]
            heapreplace(loads, (load + members, node))
            owners[conversation] = node
        return owners


class Placement:
    """The nodes of a tier, and which of them owns a name. The strategy is asked once for each name."""

    __slots__ = ("_owners", "_strategy", "nodes")

    def __init__(self, nodes: Sequence[str], strategy: Strategy = by_hash) -> None:
        self.nodes = tuple(nodes)
        self._strategy = strategy
        self._owners: dict[str, str] = {}

    def owner(self, name: str) -> str:
        """The node that owns the conversation or the user of this name."""
        if len(self.nodes) == 1:
            return self.nodes[0]
        owner = self._owners.get(name)
        if owner is None:
            owner = self._owners[name] = self.nodes[self._strategy(name, len(self.nodes))]
        return owner

    def split(self, names: Sequence[str]) -> Iterable[tuple[str, Sequence[str]]]:
        """The names by the node that owns each, both in the order of the names."""
        if len(self.nodes) == 1:
            return ((self.nodes[0], names),) if names else ()
        parts: dict[str, list[str]] = {}
        for name in names:
            parts.setdefault(self.owner(name), []).append(name)
        return parts.items()


#: A system of one router.
SINGLE = Placement(("router0",))

#: A system of one storage.
SINGLE_STORAGE = Placement(("storage0",))
