"""Which node owns a conversation or a user."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from heapq import heapify, heapreplace
from zlib import crc32

from imsim.core import storage
from imsim.core.exceptions import ImsimError, UsageError
from imsim.scenario import Plan
from imsim.scenario.custom_parts import broken

#: (name of a conversation or user, how many nodes there are) -> the number of its node, from 0.
Placement = Callable[[str, int], int]


def placement(strategy: str | Placement, plan: Plan) -> Placement:
    """A scenario's `topology.placement`. It is to be asked once for each name: the answer is kept."""
    if callable(strategy):
        return _checked(strategy)
    if strategy == "spread":
        return _Spread(plan)
    return by_rendezvous if strategy == "rendezvous" else by_hash


def by_hash(name: str, nodes: int) -> int:
    """A hash, the same in every process, modulo the nodes: even, but another number of nodes moves nearly all."""
    return crc32(name.encode()) % nodes


def by_rendezvous(name: str, nodes: int) -> int:
    """The node whose hash together with the name is the highest (Thaler and Ravishankar, 1998): as even, and of n + 1
    nodes the new one takes 1 / (n + 1) of the names while all others stay."""
    # No checksum: the CRCs of one name with two nodes differ by the same bits for all names of a length.
    return max(range(nodes), key=lambda node: blake2b(f"{node} {name}".encode(), digest_size=8).digest())


def owner_of(request: storage.Request) -> str:
    """The conversation or user whose owner carries out the request."""
    if isinstance(request, storage.Append):
        return request.message.conversation_id
    if isinstance(request, storage.OpenConversation | storage.Lookup):
        return request.conversation_id
    return request.session.user if isinstance(request, storage.Missed) else request.user


class _Spread:
    """By size: the conversations of the plan, the largest first, each to the node that has the fewest members so far,
    so that hot groups do not meet (Graham's LPT rule, 1969: the fullest node gets at most 4/3 of the least possible).
    Users, who weigh alike, in turn; names that are not in the plan, by hash."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._by_count: dict[int, dict[str, int]] = {}

    def __call__(self, name: str, nodes: int) -> int:
        owners = self._by_count.get(nodes)
        if owners is None:
            owners = self._by_count[nodes] = self._spread(nodes)
        owner = owners.get(name)
        return by_hash(name, nodes) if owner is None else owner

    def _spread(self, nodes: int) -> dict[str, int]:
        owners = {user: number % nodes for number, user in enumerate(self._plan.users)}
        loads = [(0, node) for node in range(nodes)]
        heapify(loads)
        for conversation in sorted(self._plan.conversations, key=lambda one: (-len(one.members), one.id)):
            load, node = loads[0]
            heapreplace(loads, (load + len(conversation.members), node))
            owners[conversation.id] = node
        return owners


def _checked(custom: Placement) -> Placement:
    def place(name: str, nodes: int) -> int:
        try:
            node = custom(name, nodes)
        except ImsimError:
            raise
        except Exception as error:
            raise broken(f"custom placement: {name!r}, {nodes}:", error) from error
        if node not in range(nodes):
            raise UsageError(
                f"custom placement: {name!r}, {nodes}: expected a number from 0 to {nodes - 1}, got {node!r}"
            )
        return int(node)

    return place
