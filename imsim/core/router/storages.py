"""What a router asks of its storages: which of them has each request, and which answers count."""

from __future__ import annotations

from typing import Protocol

from imsim.core.placement import Placement
from imsim.core.storage import Request, owner_of


class StoragesPort(Protocol):
    def store(self, name: str, request: Request) -> None: ...


class Storages:
    """A request goes to the storage that owns its conversation or user. Its answer counts as long as it is waited for:
    not once the request has failed, nor where another router in this one's position asked, which has died.

    Until a storage that was lost is back, it is asked nothing: what it would be asked is `refused`, and is to fail as
    soon as the present call has returned."""

    __slots__ = ("_lost", "_placement", "_port", "_unanswered", "refused")

    def __init__(self, port: StoragesPort, placement: Placement) -> None:
        self._port = port
        self._placement = placement
        self._unanswered: dict[Request, str] = {}  # with the storage that has it
        self._lost: set[str] = set()
        self.refused: list[Request] = []

    def ask(self, request: Request) -> None:
        name = self._placement.owner(owner_of(request))
        self._unanswered[request] = name
        if name in self._lost:
            self.refused.append(request)
        else:
            self._port.store(name, request)

    def is_answered(self, request: Request) -> bool:
        """An answer is there. Returns whether it counts."""
        return self._unanswered.pop(request, None) is not None

    def lost(self, name: str) -> list[Request]:
        """Returns what it has not answered, which has failed."""
        self._lost.add(name)
        return [request for request, owner in self._unanswered.items() if owner == name]

    def back(self, name: str) -> None:
        self._lost.discard(name)
