"""The life of a server as `imsim serve` runs it."""

from __future__ import annotations

import asyncio
import gc

from imsim.live import serve


class Counting:
    """A server whose count of logged-in clients is `clients`."""

    clients = 0

    def connection_counts(self):
        return {"logged_in": self.clients}


def test_what_a_server_keeps_leaves_the_sight_of_the_garbage_collector_when_the_last_client_goes(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(server.clients))
    monkeypatch.setattr(serve, "_TIDY_SECONDS", 0)
    server = Counting()

    async def play():
        task = asyncio.ensure_future(serve._tidy(server))
        for server.clients in (0, 2, 1, 0, 0, 1, 0):
            for _ in range(5):
                await asyncio.sleep(0)
        task.cancel()

    asyncio.run(play())
    assert frozen == [0, 0]
