"""A replacement for sleeping, for tests that run a server and its clients in one event loop."""

from __future__ import annotations

from collections.abc import Collection

from imsim.live.client.device import Device
from imsim.live.server import Server
from imsim.live.stores import Store


async def run_until_idle(server: Server | None, store: Store, devices: Collection[Device]) -> None:
    """Return once all activity that needs no passing of time has ended.

    Each round waits for everything in flight: attempts to connect, lost connections, frames in both directions and
    requests to the store. The function returns after a round in which no machine was called.
    """
    before = None
    while (activity := _activity(server, devices)) != before:
        before = activity
        for device in devices:
            connector = device.connector
            await connector.attempted()
            departed, connector.departed = connector.departed, []
            if server is not None:
                for address in departed:
                    await server.left(address)
            await connector.barrier()
        await store.flush()


def _activity(server: Server | None, devices: Collection[Device]) -> int:
    return (server.activity if server else 0) + sum(device.activity for device in devices)
