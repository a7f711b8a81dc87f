"""A router's requests to its storages: which storage gets each request, and which answers are still expected."""

from __future__ import annotations

from typing import Protocol

from imsim.core.placement import Placement
from imsim.core.storage import Request, owner_of


class StoragesPort(Protocol):
    """The part of the router's port that reaches storages."""

    def store(self, name: str, request: Request) -> None: ...


class Storages:
    """The unanswered requests of a router.

    A request goes to the storage that owns its conversation or user. Its answer counts only while the request is
    unanswered. A late answer to a failed request does not count. Nor does an answer to a crashed router whose position
    this one has taken.

    While the link to a storage is broken, requests to it go to `refused`. The router lets them fail after the present
    call.
    """

    __slots__ = ("_lost", "_only", "_placement", "_port", "_unanswered", "refused")

    def __init__(self, port: StoragesPort, placement: Placement) -> None:
        self._port = port
        self._placement = placement
        self._only = placement.nodes[0] if len(placement.nodes) == 1 else ""  # the only storage, if there is one
        self._unanswered: dict[Request, str] = {}  # request -> name of its storage
        self._lost: set[str] = set()
        self.refused: list[Request] = []

    def ask(self, request: Request) -> None:
        """Send the request to its storage, or add it to `refused` if the link is broken."""
        name = self._only or self._placement.owner(owner_of(request))
        self._unanswered[request] = name
        if name in self._lost:
            self.refused.append(request)
        else:
            self._port.store(name, request)

    def is_answered(self, request: Request) -> bool:
        """Note the answer to a request. Returns whether the answer counts."""
        return self._unanswered.pop(request, None) is not None

    def lost(self, name: str) -> list[Request]:
        """Note that the link to a storage broke. Returns its unanswered requests, which have failed."""
        self._lost.add(name)
        return [request for request, owner in self._unanswered.items() if owner == name]

    def back(self, name: str) -> None:
        """Note that the link to a storage works again."""
        self._lost.discard(name)
