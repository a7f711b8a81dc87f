"""Waiting for quiet: what a test of a server and its clients in one event loop does instead of sleeping."""

from __future__ import annotations

from collections.abc import Collection

from imsim.live.client import LiveClient
from imsim.live.server import Server
from imsim.live.stores import Store


async def run_until_idle(server: Server | None, store: Store, clients: Collection[LiveClient]) -> None:
    """Return once everything that happens without time passing has happened: each round takes what is on its way to
    where it leads (attempts to connect, lost connections, frames both ways, requests to the store), until a round in
    which no machine was called."""
    before = None
    while (activity := _activity(server, clients)) != before:
        before = activity
        for client in clients:
            connector = client.connector
            await connector.attempted()
            departed, connector.departed = connector.departed, []
            if server is not None:
                for address in departed:
                    await server.left(address)
            await connector.barrier()
        await store.flush()


def _activity(server: Server | None, clients: Collection[LiveClient]) -> int:
    return (server.activity if server else 0) + sum(client.activity for client in clients)
