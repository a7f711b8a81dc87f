"""The listening sockets of a server. They accept and open a limited count of connections in one turn."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from ssl import SSLContext
from typing import Any

from imsim.live.admission import has_hung_up
from imsim.live.turn import PAUSE, TurnBudget, never

BACKLOG = 4096  # connections that may wait to be accepted: after a crash, all clients reconnect at the same time
ACCEPTED_PER_TURN = 4
OPENED_PER_TURN = 1  # more would delay the messages of users noticeably
ACCEPTED_IF_QUIET = 64
OPENED_IF_QUIET = 32
OPENED_IF_QUIET_TLS = 16  # the handshake of TLS costs more than the rest of a connection's opening
_RETRY_AFTER = 1.0  # seconds without accepting if the process has no file descriptor left
_CLOSED_FOR_ROOM = 16  # accepted sockets that are closed then


#: The family and the address of a socket.
Address = tuple[socket.AddressFamily, tuple[Any, ...]]


async def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses that the name or address `host` stands for. Raises: OSError or ValueError if it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def is_loopback(address: Address) -> bool:
    """Whether only this computer can reach the address."""
    found = ipaddress.ip_address(address[1][0].partition("%")[0])  # without the zone of an IPv6 address
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


class Listener:
    """The listening sockets on an address. `factory` makes the protocol of each connection.

    An accepted socket costs little until it is opened, that is, until it gets a transport and a protocol. While
    `is_behind()` is true, accepted sockets wait. The latest is opened first. A socket whose client has given up, or
    that has waited for `timeout` seconds, is closed without further work. `timeout` also limits the handshake of TLS.
    While `is_quiet()` is true, it accepts and opens more sockets in one turn.

    If the process has no file descriptor left, the listener closes the oldest accepted sockets. If none waits, it calls
    `make_room`, which may end connections and returns whether it has. `failed` receives each step that failed: "accept"
    for lack of a file descriptor, or the "handshake" of TLS.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        timeout: float,
        ssl: SSLContext | None = None,
        is_behind: Callable[[], bool] = lambda: False,
        is_quiet: Callable[[], bool] = never,
        make_room: Callable[[], bool] = lambda: False,
        failed: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.port = 0
        self._factory = factory
        self._timeout = timeout
        self._ssl = ssl
        self._is_behind = is_behind
        self._is_quiet = is_quiet
        self._make_room = make_room
        self._failed = failed
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []  # only in an event loop that cannot watch a socket
        self._accepted: deque[tuple[socket.socket, float]] = deque()  # not opened, with the time, the oldest first
        self._opening: set[asyncio.Task[object]] = set()
        self._turn = TurnBudget(
            OPENED_PER_TURN, self._open_some, PAUSE, is_quiet, OPENED_IF_QUIET_TLS if ssl else OPENED_IF_QUIET
        )
        self._retry: asyncio.TimerHandle | None = None  # of a pause

    @property
    def waiting(self) -> int:
        """The count of accepted sockets that are not open yet."""
        return len(self._accepted)

    def bind(self, addresses: list[Address]) -> None:
        """Listen on these addresses, but accept nothing yet. Port 0 stands for any free port.

        Raises: OSError if the port is in use, or if the host is not an address of this computer.
        """
        try:
            for family, address in addresses:
                self._sockets.append(socket.create_server(address, family=family, backlog=BACKLOG))
                self._sockets[-1].setblocking(False)
        except OSError:
            self.close()
            raise
        self.port = self._sockets[0].getsockname()[1]

    async def accept(self) -> None:
        """Begin to accept connections."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            try:
                loop.add_reader(listening, self._accept, listening)
            except NotImplementedError:  # the default event loop of Windows
                server = await loop.create_server(
                    self._factory,
                    sock=listening,
                    ssl=self._ssl,
                    ssl_handshake_timeout=self._timeout if self._ssl else None,
                    backlog=BACKLOG,
                )
                self._servers.append(server)

    def close(self) -> None:
        """Stop listening, and close the sockets that are not open. The open connections remain."""
        if self._retry is not None:
            self._retry.cancel()
        for server in self._servers:
            server.close()
        self._stop_reading()
        for listening in self._sockets:
            listening.close()
        self._sockets = []
        while self._accepted:
            self._accepted.popleft()[0].close()
        for task in self._opening:
            task.cancel()

    def _accept(self, listening: socket.socket) -> None:
        now = asyncio.get_running_loop().time()
        for _ in range(ACCEPTED_IF_QUIET if self._is_quiet() else ACCEPTED_PER_TURN):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError:
                self._run_out()
                break
            self._accepted.append((accepted, now))
        else:
            self._pause(PAUSE)
        self._open_some()

    def _open_some(self) -> None:
        """Open the latest of the accepted sockets, as many as this turn may."""
        waiting, now = self._accepted, asyncio.get_running_loop().time()
        while waiting and waiting[0][1] + self._timeout <= now:
            waiting.popleft()[0].close()
        while waiting and not self._is_behind() and self._turn.take():
            accepted, since = waiting.pop()
            if since < now and has_hung_up(accepted.fileno()):
                accepted.close()
            else:
                self._open(accepted)
        if waiting:
            self._turn.continue_later()

    def _open(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio sets it only on sockets that it made
        loop = asyncio.get_running_loop()
        opening = loop.connect_accepted_socket(
            self._factory, accepted, ssl=self._ssl, ssl_handshake_timeout=self._timeout if self._ssl else None
        )
        task: asyncio.Task[object] = loop.create_task(opening)
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and task.exception() is not None and self._ssl:
            self._failed("handshake")

    def _run_out(self) -> None:
        """Handle an error of `accept`. Usually, the process has no file descriptor left."""
        self._failed("accept")
        oldest = [self._accepted.popleft()[0] for _ in range(min(_CLOSED_FOR_ROOM, len(self._accepted)))]
        for accepted in oldest:
            accepted.close()
        if not oldest and not self._make_room():
            self._pause(_RETRY_AFTER)

    def _pause(self, seconds: float) -> None:
        """Accept nothing for some time."""
        self._stop_reading()
        self._retry = asyncio.get_running_loop().call_later(seconds, self._resume)

    def _stop_reading(self) -> None:
        for listening in self._sockets:
            with suppress(NotImplementedError):
                asyncio.get_running_loop().remove_reader(listening)

    def _resume(self) -> None:
        for listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)
