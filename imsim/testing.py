"""Tools for tests of the core and of programs that use it, without sockets, threads or waiting.

- `ManualClock` is a clock that the test sets.
- `RecordingPort` is a port for any machine. It records the calls of the machine.
- `Pair` is a server with its clients, connected directly. Frames are objects, and the test moves the time.
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
    """A monotonic clock in seconds. It stands still until a test sets `now`."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class RecordingPort:
    """A port of any machine. It appends each call to `calls` as (method, arguments)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, arguments))

    def take(self, name: str | None = None) -> list[Any]:
        """Return the recorded calls and remove them.

        name: a method, or None for all. With a name, the result contains only the last argument of each of its calls.
        """
        taken, self.calls = self.calls, []
        if name is None:
            return taken
        return [arguments[-1] if arguments else None for method, arguments in taken if method == name]


class Pair:
    """A `Server` with its storage and any number of clients, connected directly.

    policies: the policies of the server and the clients.
    tokens: the user of each token, or the code with which the server refuses it. `issue` adds a token for a user.

    Storage answers immediately, and only its data survives a restart. `advance` moves the time from deadline to
    deadline.
    """

    def __init__(self, policies: Policies | None = None, tokens: Mapping[str, str | Code] | None = None) -> None:
        self.policies = policies or Policies()
        self.clock = ManualClock()
        self.storage: Any = MemoryStorage(self.policies.fanout)
        self.server_events: list[Any] = []
        self.clients: list[DirectClient] = []
        self.tokens: dict[str, str | Code] = dict(tokens or {})
        self._issued: dict[str, float] = {}
        self._queue: deque[Callable[[], None]] = deque()
        self._connections: dict[int, DirectClient] = {}
        self._last_connection = 0
        self.up = True
        self.server = Server(self, self.policies)

    # --- methods for tests ---

    def issue(self, user: str) -> str:
        """Create a token for this user."""
        token = f"token {len(self.tokens)} of {user}"
        self.tokens[token] = user
        self._issued[token] = self.clock.now
        return token

    def client(self, user: str, device: str = "d0", token: str | None = None, kind: str = "") -> DirectClient:
        """Create a client on this device. Its method `start` logs it in."""
        client = DirectClient(self, user, device, self.issue(user) if token is None else token, kind)
        self.clients.append(client)
        return client

    def run_until_idle(self) -> None:
        """Execute all pending work that needs no time."""
        while self._queue:
            self._queue.popleft()()

    def advance(self, seconds: float) -> None:
        """Move the time forward, and stop at every deadline on the way."""
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
        """Revoke every token of the user that was issued before now."""
        self.server.revoke(user, self.clock.now, self.clock.now)
        self.run_until_idle()

    def stop_server(self) -> None:
        """Crash the server. All data outside storage and all frames under way are lost."""
        self.up = False
        self.run_until_idle()
        for connection in list(self._connections):
            self._cut(connection)
        self.run_until_idle()

    def start_server(self) -> None:
        """Start a new server with the same storage."""
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
    """A device in a `Pair`: its machine, its events, and a connection that can lose frames or break."""

    def __init__(self, pair: Pair, user: str, device: str, token: str, kind: str) -> None:
        self.machine = Client(self, user, device, token, pair.policies, lambda: 0.5, kind)
        self.events: list[events.ClientEvent] = []
        self.lose: Callable[[frames.ToClient | frames.FromClient], bool] = lambda frame: False
        self._pair = pair
        self._connection: int | None = None

    def start(self) -> None:
        """Connect to the server and log in."""
        self.machine.start(self._pair.clock.now)
        self._pair.run_until_idle()

    def break_connection(self) -> None:
        """Break the connection. Both sides are notified, and frames under way are lost."""
        if self._connection is not None:
            self._pair._cut(self._connection)
        self._pair.run_until_idle()

    def arrive(self, connection: int, frame: frames.ToClient) -> None:
        if connection == self._connection and not self.lose(frame):
            self.machine.receive(frame, self._pair.clock.now)

    def hang_up(self, connection: int) -> None:
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
