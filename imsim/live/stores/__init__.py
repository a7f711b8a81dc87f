"""Stores, which carry out the core's storage requests for a server.

`MemoryStore` keeps everything in memory, `SqliteStore` in a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from imsim.core.storage import Request, Result
from imsim.live.stores.memory import MemoryStore
from imsim.live.stores.probe import Probe
from imsim.live.stores.sqlite import OVERLOADED, SqliteStore

Deliver = Callable[[list[tuple[Request, Result]]], None]


class Store(Protocol):
    """A store. It carries out requests in the order in which they are submitted.

    One store can serve several servers, one after another: that is a restart.
    """

    @property
    def log(self) -> str:
        """The name of the stored data, as in `imsim.core.storage.UserState`."""

    @property
    def latest_revocation(self) -> float:
        """The highest `before` of all RevokeTokens that the storage has carried out; 0.0 if there was none."""

    def start(self, deliver: Deliver) -> None:
        """Deliver the answers from now on to `deliver`, in the running event loop.

        Answers to requests that were submitted for an earlier `deliver` are dropped.
        """

    def submit(self, request: Request) -> None:
        """Carry out the request. The answer never arrives before this call returns."""

    @property
    def idle(self) -> bool:
        """Whether the store has answered every submitted request."""

    @property
    def waiting(self) -> int:
        """The count of submitted requests that the store has not answered."""

    @property
    def answered(self) -> int:
        """The count of requests that the store has answered."""

    async def flush(self) -> None:
        """Return once the store has answered every request submitted before this call."""

    def close(self) -> None:
        """Carry out the submitted requests, then release the file."""


__all__ = ["OVERLOADED", "Deliver", "MemoryStore", "Probe", "SqliteStore", "Store"]
