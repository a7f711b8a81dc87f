"""Stores: what carries out the core's storage requests for a server.

`MemoryStore` keeps everything in memory, `SqliteStore` in a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from imsim.core.storage import Request, Result
from imsim.live.stores.memory import MemoryStore
from imsim.live.stores.sqlite import SqliteStore

Deliver = Callable[[list[tuple[Request, Result]]], None]


class Store(Protocol):
    """Requests are carried out in the order in which they were submitted. One store can serve several servers, one
    after the other: that is a restart."""

    def start(self, deliver: Deliver) -> None:
        """From now on, answers go to `deliver`, in the running event loop; answers to what was submitted for an
        earlier one are dropped."""

    def submit(self, request: Request) -> None:
        """Carry it out; never answered from within this call."""

    @property
    def idle(self) -> bool:
        """Whether everything submitted has been answered."""

    async def flush(self) -> None:
        """Return once everything submitted before this call has been answered."""

    def close(self) -> None:
        """Carry out what was submitted, and let go of the file."""


__all__ = ["Deliver", "MemoryStore", "SqliteStore", "Store"]
