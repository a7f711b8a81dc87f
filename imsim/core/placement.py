"""Placement: the assignment of conversations and users to routers, and likewise to storages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from heapq import heapify, heapreplace
from zlib import crc32

#: A function of the name of a conversation or user and the count of nodes. It returns the number of the node, from 0.
Strategy = Callable[[str, int], int]


def by_hash(name: str, nodes: int) -> int:
    """Return a hash of the name modulo the count of nodes.

    The hash is the same in every process. It spreads names evenly, but another count of nodes moves nearly all of them.
    """
    return crc32(name.encode()) % nodes


def by_rendezvous(name: str, nodes: int) -> int:
    """Return the node with the highest hash of node and name (rendezvous hashing, Thaler and Ravishankar, 1998).

    It spreads names as evenly as `by_hash`. A node that is added to n others takes 1 / (n + 1) of the names. All other
    names stay on their nodes.
    """
    # A CRC does not work here: for two nodes, the CRCs differ by the same bits for all names of the same length.
    return max(range(nodes), key=lambda node: blake2b(f"{node} {name}".encode(), digest_size=8).digest())


class Spread:
    """A strategy that balances the nodes by the size of conversations.

    It takes conversations in the order of their size, the largest first. It assigns each to the node with the fewest
    members so far, so large groups get different nodes. (This is Graham's LPT rule, 1969: the fullest node gets at most
    4/3 of the least possible.) It assigns users to the nodes in turn, and other names by hash.

    `members` maps each conversation to its count of members.
    """

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
    """The nodes of a tier and the owner of each name. It calls the strategy once for each name."""

    __slots__ = ("_owners", "_strategy", "nodes")

    def __init__(self, nodes: Sequence[str], strategy: Strategy = by_hash) -> None:
        self.nodes = tuple(nodes)
        self._strategy = strategy
        self._owners: dict[str, str] = {}

    def owner(self, name: str) -> str:
        """Return the node that owns the conversation or user with this name."""
        if len(self.nodes) == 1:
            return self.nodes[0]
        owner = self._owners.get(name)
        if owner is None:
            owner = self._owners[name] = self.nodes[self._strategy(name, len(self.nodes))]
        return owner

    def split(self, names: Sequence[str]) -> Iterable[tuple[str, Sequence[str]]]:
        """Group the names by owner. Nodes and names keep the order in which they occur in `names`."""
        if len(self.nodes) == 1:
            return ((self.nodes[0], names),) if names else ()
        parts: dict[str, list[str]] = {}
        for name in names:
            parts.setdefault(self.owner(name), []).append(name)
        return parts.items()


#: The placement of a system with one router.
SINGLE = Placement(("router0",))

#: The placement of a system with one storage.
SINGLE_STORAGE = Placement(("storage0",))
