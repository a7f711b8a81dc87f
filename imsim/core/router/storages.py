"""A router's requests to its storages: which storage gets each request, and which answers are still expected."""

from __future__ import annotations

from typing import Protocol

from imsim.core.placement import Placement
from imsim.core.storage import Append, Request, owner_of


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

    __slots__ = ("_appends", "_lost", "_only", "_placement", "_port", "_timeout", "_unanswered", "refused")

    def __init__(self, port: StoragesPort, placement: Placement, timeout: float) -> None:
        """An append without an answer is given up after `timeout` seconds."""
        self._port = port
        self._placement = placement
        self._only = placement.nodes[0] if len(placement.nodes) == 1 else ""  # the only storage, if there is one
        self._unanswered: dict[Request, str] = {}  # request -> name of its storage
        #: By storage: its appends since the last one that it answered, with their times, the oldest first.
        self._appends: dict[str, dict[Append, float]] = {}
        self._timeout = timeout
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

    def append(self, request: Append, now: float) -> None:
        """Send an append to its storage like `ask`, and note its time."""
        self.ask(request)
        self._appends.setdefault(self._unanswered[request], {})[request] = now

    def wait(self, conversation_id: str, now: float) -> float:
        """Return how long a new append to this conversation would wait at least, in seconds.

        It is the time since the oldest append without an answer. Appends before one that is answered do not count:
        their answers are lost, or take unusually long.
        """
        appends = self._appends.get(self._only or self._placement.owner(conversation_id))
        while appends:
            oldest, since = next(iter(appends.items()))
            if now - since < self._timeout:
                return now - since
            del appends[oldest]
        return 0.0

    def is_answered(self, request: Request) -> bool:
        """Note the answer to a request. Returns whether the answer counts."""
        name = self._unanswered.pop(request, None)
        if name is None:
            return False
        if type(request) is Append and request in (appends := self._appends[name]):
            while True:
                oldest = next(iter(appends))
                del appends[oldest]
                if oldest is request:
                    break
        return True

    def lost(self, name: str) -> list[Request]:
        """Note that the link to a storage broke. Returns its unanswered requests, which have failed."""
        self._lost.add(name)
        return [request for request, owner in self._unanswered.items() if owner == name]

    def back(self, name: str) -> None:
        """Note that the link to a storage works again."""
        self._lost.discard(name)
