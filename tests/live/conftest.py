"""Fixtures for tests of the live world. Each `async def` test runs in a new event loop.

`World` is a server and its clients in that loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from imsim.core import events
from imsim.core.policies import Policies
from imsim.live import LiveClient, MemoryStore, Server, Store, run_until_idle
from imsim.testing import ManualClock

KEY = "a key of the tests"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    test = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    asyncio.run(asyncio.wait_for(test, 20))
    return True


class World:
    """A server and its clients, with a clock that is moved by hand. Deadlines fire only in `advance`."""

    def __init__(self, policies: Policies | None = None, store: Store | None = None, **server: Any) -> None:
        self.policies = policies or Policies()
        self.store: Store = store or MemoryStore()
        self.clock = ManualClock()
        self.wall = ManualClock(1_700_000_000.0)
        self.clients: list[LiveClient] = []
        self._arguments = server
        self.server = self._server()

    def _server(self) -> Server:
        return Server(
            self.policies,
            self.store,
            key=KEY,
            clock=self.clock,
            wall=lambda: self.wall.now + self.clock.now,
            **self._arguments,
        )

    async def __aenter__(self) -> World:
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            await client.stop()
        await self.server.stop()
        self.store.close()

    @property
    def url(self) -> str:
        return self.server.url

    def token(self, user: str) -> str:
        return self.server._tokens.issue(user, self.wall.now + self.clock.now)[0]

    def client(self, user: str, device: str = "d0", **arguments: Any) -> LiveClient:
        seen: list[events.ClientEvent] = []
        if not {"token", "key"} & arguments.keys():
            arguments["token"] = self.token(user)
        client = LiveClient(
            self.url,
            user,
            device,
            policies=self.policies,
            clock=self.clock,
            draw=lambda: 0.5,
            on_event=seen.append,
            **arguments,
        )
        client.seen = seen  # type: ignore[attr-defined]
        self.clients.append(client)
        return client

    async def online(self, user: str, device: str = "d0") -> LiveClient:
        client = self.client(user, device)
        await client.start()
        return client

    async def run_until_idle(self) -> None:
        await run_until_idle(self.server, self.store, self.clients)

    async def advance(self, seconds: float) -> None:
        await self.run_until_idle()
        end = self.clock.now + seconds
        while True:
            machines = [self.server.machine, *(client.machine for client in self.clients)]
            due = min((d for m in machines if (d := m.next_deadline()) is not None), default=None)
            if due is None or due > end:
                break
            self.clock.now = max(self.clock.now, due)
            self.server.wake()
            for client in self.clients:
                client.wake()
            await self.run_until_idle()
        self.clock.now = end

    async def restart(self, store: Callable[[], Store] | None = None) -> None:
        """Crash the server, and start a new one at the same address."""
        port = self.server.port
        self.server.abort()
        if store is not None:
            self.store.close()
            self.store = store()
        self.server = self._server()
        await self.server.start(port=port)
        await self.run_until_idle()


@pytest.fixture
def world() -> type[World]:
    return World


@pytest.fixture
def shown() -> Callable[[LiveClient], list[str]]:
    """A function that returns the contents of the messages that a client has shown, in order, without notices."""

    def contents(client: LiveClient) -> list[str]:
        shown = (e.message for e in client.seen if isinstance(e, events.Shown))  # type: ignore
        return [message.content for message in shown if message.type != "notification"]

    return contents


@pytest.fixture
def key() -> str:
    return KEY
