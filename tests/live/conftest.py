"""Fixtures for tests of the live world. `World` is a server and its clients in the event loop of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import imsim
from imsim.core import events
from imsim.core.exceptions import RunError
from imsim.core.model import Scene
from imsim.core.policies import Policies
from imsim.live import Device, MemoryStore, Server, Store, run_until_idle
from imsim.testing import ManualClock

KEY = "a key of the tests"


class Phone(Device):
    """A device that a test drives. `seen` has all events; `send` returns at once, and `wait_stored` waits."""

    def __init__(self, url: str, user: str, device: str = "d0", **arguments: Any) -> None:
        self.seen: list[events.ClientEvent] = []
        self._changed = asyncio.Event()
        super().__init__(url, user, device, on_event=self._see, **arguments)

    def _see(self, event: events.ClientEvent) -> None:
        self.seen.append(event)
        self._changed.set()

    async def wait_for(self, matches: Callable[[events.ClientEvent], bool], since: int = 0) -> Any:
        """Return the first event from the number `since` on for which `matches` is true."""
        while True:
            for event in self.seen[since:]:
                if matches(event):
                    return event
            self._changed.clear()
            await self._changed.wait()

    async def start(self) -> None:  # type: ignore[override]
        since = len(self.seen)
        super().start()
        event = await self.wait_for(lambda e: isinstance(e, events.Ready | events.Disconnected | events.Ended), since)
        if isinstance(event, events.Ended):
            raise RunError(f"the server refused {self.user}: {event.code}: {event.text}")
        if isinstance(event, events.Disconnected):
            raise RunError(f"not online: {event.code} {self.connector.failure}")

    def start_nowait(self) -> None:
        super().start()

    def send(self, scene: str, to: str, content: str, id_client: str | None = None, **fields: Any) -> str:
        id_client = id_client or f"m{len(self.seen)}-{content[:50]}"
        self.perform(lambda now: self.machine.send(Scene(scene), to, content, id_client, now, **fields))
        return id_client

    async def wait_stored(self, id_client: str) -> events.Acked:
        """Return the latest answer to this send."""

        def answers(event: events.ClientEvent) -> bool:
            return isinstance(event, events.Acked | events.SendFailed) and event.id_client == id_client

        event = next((e for e in reversed(self.seen) if answers(e)), None)
        if event is None or self.machine.status(id_client) == "sending":
            event = await self.wait_for(answers, len(self.seen))
        if isinstance(event, events.SendFailed):
            raise RunError(f"{event.code}: {event.text}")
        return event

    async def create_group(self, name: str, members: list[str]) -> str:
        self.perform(lambda now: self.machine.create_group(name, members, now))
        return (await self.wait_stored(f"create:{name}")).conversation_id

    async def enter(self, room: str) -> None:
        since = len(self.seen)
        self.perform(lambda now: self.machine.enter(room, now))
        await self.wait_for(lambda event: isinstance(event, events.Entered) and event.name == room, since)

    def read(self, conversation_id: str) -> None:
        self.perform(lambda now: self.machine.read(conversation_id, now))


class World:
    """A server and its clients, with a clock that is moved by hand. Deadlines fire only in `advance`.

    `client` and `online` return devices that a test drives; `sdk` returns a client of the public SDK.
    """

    def __init__(self, policies: Policies | None = None, store: Store | None = None, **server: Any) -> None:
        self.policies = policies or Policies()
        self.store: Store = store or MemoryStore()
        self.clock = ManualClock()
        self.wall = ManualClock(1_700_000_000.0)
        self.clients: list[Device] = []
        self.sdks: list[imsim.Client] = []
        self._arguments = server
        self.server = self._server()

    def _server(self) -> Server:
        return Server(
            self.policies,
            self.store,
            key=KEY,
            clock=self.clock,
            wall=self._wall,
            **self._arguments,
        )

    async def __aenter__(self) -> World:
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for sdk in self.sdks:
            await sdk.close()
        for client in self.clients:
            await client.stop()
        await self.server.stop()
        self.store.close()

    @property
    def url(self) -> str:
        return self.server.url

    def token(self, user: str) -> str:
        return self.server._tokens.issue(user, self.wall.now + self.clock.now)[0]

    def _wall(self) -> float:
        return self.wall.now + self.clock.now

    def client(self, user: str, device: str = "d0", **arguments: Any) -> Phone:
        if not {"token", "key"} & arguments.keys():
            arguments["token"] = self.token(user)
        clocks = {"clock": self.clock, "wall": self._wall, "draw": lambda: 0.5}
        phone = Phone(self.url, user, device, policies=self.policies, **clocks, **arguments)
        self.clients.append(phone)
        return phone

    async def online(self, user: str, device: str = "d0") -> Phone:
        client = self.client(user, device)
        await client.start()
        return client

    def sdk(self, user: str, **arguments: Any) -> imsim.Client:
        """Return a client of the public SDK with the clocks of this world."""
        if not {"token", "key", "token_source"} & arguments.keys():
            arguments["token"] = self.token(user)
        arguments.setdefault("policies", self.policies)
        world = self

        class Client(imsim.Client):
            _clock = world.clock
            _draw = staticmethod(lambda: 0.5)
            _wall = staticmethod(world._wall)

        client = Client(self.url, user, **arguments)
        self.sdks.append(client)
        self.clients.append(client._session.device)
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
def shown() -> Callable[[Phone], list[str]]:
    """A function that returns the contents of the messages that a client has shown, in order, without notices."""

    def contents(client: Phone) -> list[str]:
        shown = (e.message for e in client.seen if isinstance(e, events.Shown))
        return [message.content for message in shown if message.type != "notification"]

    return contents


@pytest.fixture
def key() -> str:
    return KEY
