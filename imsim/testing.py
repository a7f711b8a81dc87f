"""Tools for tests of the core and of programs that use it, without sockets, threads or waiting.

`RecordingPort` is a port for any machine and records all calls. `ManualClock` is a time that a test moves. `Pair`
connects a server and its clients directly, with frames as objects and a manual clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from imsim.core import events, frames, storage
from imsim.core.client.client import Client
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.server import Server
from imsim.core.storage.memory import MemoryStorage


class ManualClock:
    """A monotonic time in seconds. It changes only when a test sets `now`."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class RecordingPort:
    """A port for any machine. It appends each call to `calls` as (method, arguments).

    Questions about waiting times are not recorded; their answer is `wait_time`, in seconds. An append is recorded as
    the call `store(request)`.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.wait_time = 0.0

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, arguments))

    def waited(self) -> float:
        return self.wait_time

    def wait(self, *_: Any) -> float:
        return self.wait_time

    def storage_wait(self, *_: Any) -> float:
        return self.wait_time

    def append(self, request: storage.Request, now: float) -> None:
        self.store(request)

    def take(self, name: str | None = None) -> list[Any]:
        """Return the recorded calls and clear the record.

        With a `name`, return only the last argument of each call of that method (None if it has no arguments).
        """
        taken, self.calls = self.calls, []
        if name is None:
            return taken
        return [arguments[-1] if arguments else None for method, arguments in taken if method == name]


class Pair:
    """A `Server` with its storage and any number of clients, connected directly.

    `issue` creates a token for a user. `tokens` maps each token to its user, or to the code of its refusal. Storage
    answers at once. A restart of the server keeps only the storage. `advance` moves the time through every deadline.
    """

    def __init__(self, policies: Policies | None = None, tokens: Mapping[str, str | Code] | None = None) -> None:
        self.policies = policies or Policies()
        self.clock = ManualClock()
        self.storage: Any = MemoryStorage(self.policies.fanout)
        self.server_events: list[Any] = []
        self.server_wait = 0.0  # how long each frame has waited for the server, in seconds
        self.clients: list[DirectClient] = []
        self.tokens: dict[str, str | Code] = dict(tokens or {})
        self._issued: dict[str, float] = {}
        self._queue: deque[Callable[[], None]] = deque()
        self._connections: dict[int, DirectClient] = {}
        self._last_connection = 0
        self.up = True
        self.server = Server(self, self.policies)

    # --- for tests ---

    def issue(self, user: str) -> str:
        """Return a new token for this user."""
        token = f"token {len(self.tokens)} of {user}"
        self.tokens[token] = user
        self._issued[token] = self.clock.now
        return token

    def client(self, user: str, device: str = "d0", token: str | None = None, kind: str = "") -> DirectClient:
        """Return a new client for this device. Its `start()` logs in."""
        client = DirectClient(self, user, device, self.issue(user) if token is None else token, kind)
        self.clients.append(client)
        return client

    def run_until_idle(self) -> None:
        """Carry out everything that happens at the current time."""
        while self._queue:
            self._queue.popleft()()

    def advance(self, seconds: float) -> None:
        """Move the time on by `seconds`, and handle every deadline on the way."""
        self.run_until_idle()
        end = self.clock.now + seconds
        while True:
            machines: list[Any] = [client.machine for client in self.clients]
            if self.up:
                machines.append(self.server)
            due = min((d for m in machines if (d := m.next_deadline()) is not None), default=None)
            if due is None or due > end:
                break
            self.clock.now = max(self.clock.now, due)
            for machine in machines:
                machine.handle_timer(self.clock.now)
            self.run_until_idle()
        self.clock.now = end

    def revoke(self, user: str) -> None:
        """End the user's sessions and revoke all tokens issued to the user before now."""
        self.server.revoke(user, self.clock.now, self.clock.now)
        self.run_until_idle()

    def stop_server(self) -> None:
        """Crash the server: everything except the storage is lost, also the frames on their way."""
        self.up = False
        self.run_until_idle()
        for connection in list(self._connections):
            self._cut(connection)
        self.run_until_idle()

    def start_server(self) -> None:
        """Start a new server on the same storage."""
        self.server = Server(self, self.policies)
        self.up = True

    # --- the server's port ---

    def send(self, connection: int, frame: frames.ToClient) -> None:
        client = self._connections.get(connection)
        if client is not None:
            self._queue.append(lambda: client.arrive(connection, frame))

    def close(self, connection: int) -> None:
        self._queue.append(lambda: self._cut(connection))

    def authenticate(self, connection: int, token: str) -> None:
        verdict = self.tokens.get(token, Code.BAD_TOKEN)
        user, code = (None, verdict) if isinstance(verdict, Code) else (verdict, None)
        server, issued_at = self.server, self._issued.get(token, 0.0)
        self._queue.append(lambda: server.authenticated(connection, user, code, self.clock.now, issued_at))

    def store(self, request: storage.Request) -> None:
        server, result = self.server, self.storage.execute(request)
        self._queue.append(
            lambda: server.stored(request, result, self.clock.now) if server is self.server and self.up else None
        )

    def waited(self) -> float:
        return self.server_wait

    def emit(self, event: Any) -> None:
        self.server_events.append(event)

    # --- the wire ---

    def _cut(self, connection: int) -> None:
        client = self._connections.pop(connection, None)
        if client is not None:
            client.hang_up(connection)
        if self.up:
            self.server.disconnected(connection, self.clock.now)

    def _accept(self, client: DirectClient) -> int | None:
        if not self.up:
            return None
        self._last_connection += 1
        self._connections[self._last_connection] = client
        self.server.connected(self._last_connection, self.clock.now)
        return self._last_connection

    def _from_client(self, connection: int, frame: frames.FromClient) -> None:
        if self.up and connection in self._connections:
            self.server.receive(connection, frame, self.clock.now)


class DirectClient:
    """A device in a `Pair`: its client machine, its events, and a connection that can lose frames or break.

    `lose` decides for each frame, in both directions, whether the connection loses it.
    """

    def __init__(self, pair: Pair, user: str, device: str, token: str, kind: str) -> None:
        self.machine = Client(self, user, device, token, pair.policies, lambda: 0.5, kind)
        self.events: list[events.ClientEvent] = []
        self.lose: Callable[[frames.ToClient | frames.FromClient], bool] = lambda frame: False
        self._pair = pair
        self._connection: int | None = None

    def start(self) -> None:
        """Connect and log in."""
        self.machine.start(self._pair.clock.now)
        self._pair.run_until_idle()

    def break_connection(self) -> None:
        """Break the connection: both sides detect it, and frames on their way are lost."""
        if self._connection is not None:
            self._pair._cut(self._connection)
        self._pair.run_until_idle()

    def arrive(self, connection: int, frame: frames.ToClient) -> None:
        """Receive a frame, unless its connection has ended or loses it."""
        if connection == self._connection and not self.lose(frame):
            self.machine.receive(frame, self._pair.clock.now)

    def hang_up(self, connection: int) -> None:
        """End the connection from the server's side."""
        if connection == self._connection:
            self._connection = None
            self.machine.disconnected(self._pair.clock.now)

    # --- the client's port ---

    def connect(self) -> None:
        def open_connection() -> None:
            self._connection = self._pair._accept(self)
            if self._connection is None:
                self.machine.disconnected(self._pair.clock.now)
            else:
                self.machine.connected(self._pair.clock.now)

        self._pair._queue.append(open_connection)

    def send(self, frame: frames.FromClient) -> None:
        connection = self._connection
        if connection is not None and not self.lose(frame):
            self._pair._queue.append(lambda: self._pair._from_client(connection, frame))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pair._queue.append(lambda: self._pair._cut(connection))

    def emit(self, event: events.ClientEvent) -> None:
        self.events.append(event)
