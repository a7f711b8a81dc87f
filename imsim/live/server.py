"""The server: the core's server behind WebSockets, with a store.

Without an SSL context, the server does not encrypt. Keep it on the loopback interface or in a trusted network then.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from http import HTTPStatus
from ssl import SSLContext

from websockets.datastructures import Headers
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from imsim import wire
from imsim.core import events, frames, storage
from imsim.core.exceptions import RunError
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.server import Server as Machine
from imsim.core.sizes import largest_from_client, largest_to_client
from imsim.live.auth import Answer, HttpEndpoints, Revocation, Tokens
from imsim.live.stores import Store
from imsim.live.timer import DeadlineTimer
from imsim.live.websocket import CLOSE_TIMEOUT, LOGGER, WebSocket, text_frame

_BACKLOG = 4096  # connections that may wait to be accepted: after a crash, all clients reconnect at the same time
_PUSH_ALLOWANCE = 1 << 20  # bytes of pushes that may wait behind the largest frame
_FLUSH_TIMEOUT = 10.0  # seconds that `stop` waits for storage


class Server:
    """An instant-messaging server. It serves once, from `start` to `stop` or `abort`.

    The caller owns `store`, which can outlive the server. `key` authorizes requests for tokens of any user; a token is
    valid for `token_lifetime` seconds. `clock` returns monotonic seconds. If it is not `time.monotonic`, no deadline
    fires by itself; call `wake()` to handle the deadlines that are due. `wall` returns seconds since 1970.
    `write_limit` is how many bytes may wait for a client that does not read; beyond it, the server disconnects the
    client (slow_reader). `on_event` receives each Committed, Pushed and Shed event; it must not call the server.

    `machine` is the core's server. `activity` counts the calls to it. `url` and `port` are known after `start`.
    """

    def __init__(
        self,
        policies: Policies,
        store: Store,
        *,
        key: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        token_lifetime: float = 86_400.0,
        write_limit: int | None = None,
        ssl: SSLContext | None = None,
        on_event: Callable[[events.ServerEvent], None] | None = None,
    ) -> None:
        self.activity = 0
        self.url = ""
        self.port = 0
        self._store = store
        self._clock = clock
        self._wall = wall
        self._ssl = ssl
        self._tokens = Tokens(key, token_lifetime)
        self._endpoints = HttpEndpoints(key, self._tokens)
        self._revoking: dict[tuple[str, float], asyncio.Future[bool]] = {}  # (user, before) -> whether it is stored
        self._connections: dict[int, _Connection] = {}  # open WebSockets, by the machine's number of the connection
        self._transports: set[_Connection] = set()  # all connections, also those that are not WebSockets (yet)
        self._port = _Port(self._connections, store, on_event)
        self.machine = Machine(self._port, policies, epoch=wall() - clock())
        self._timer = DeadlineTimer(self.machine, clock, self.wake)
        self._listener: asyncio.Server | None = None
        self._last_connection = 0
        self._down = False
        self.login_timeout = policies.login_timeout
        self._storage_timeout = policies.storage_timeout
        # Large enough for a client that reads slowly but steadily: the largest frame, and the pushes that arrive while
        # the client reads it.
        self.write_limit = write_limit or largest_to_client(policies) + _PUSH_ALLOWANCE
        self.max_size = largest_from_client(policies)

    # --- for the caller ---------------------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on `host` and `port`. Port 0 stands for any free port.

        Raises: RunError if the port is in use, or if `host` is not an address of this computer.
        """
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                lambda: _Connection(self),
                host,
                port,
                ssl=self._ssl,
                ssl_handshake_timeout=self.login_timeout if self._ssl else None,
                backlog=_BACKLOG,
                start_serving=False,
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise RunError(f"port {port} of {host} is in use; choose another, or 0 for any free port") from None
            reason = error.strerror or error
            raise RunError(f"cannot listen on {host}:{port}: {reason}; give an address of this computer") from None
        self._store.start(self._stored)
        await self._listener.start_serving()
        self.port = self._listener.sockets[0].getsockname()[1]
        # A client cannot connect to the address for "all interfaces", but it can connect to the loopback address.
        reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
        shown = reachable.get(host, f"[{host}]" if ":" in host else host)
        self.url = f"{'wss' if self._ssl else 'ws'}://{shown}:{self.port}"

    async def stop(self) -> None:
        """Stop gracefully: finish pending storage requests, notify the clients to reconnect later, and disconnect them.

        It takes about 12 s at most, if storage or a client does not answer.
        """
        if self._down:
            return
        self._stop_listening()
        await self._flush_store()
        self._port.close_code = CloseCode.GOING_AWAY
        self.machine.shut_down(self._clock())
        self.run_until_idle()
        for connection in list(self._transports):
            connection.close(CloseCode.GOING_AWAY)
        lost = [connection.lost() for connection in self._transports]
        if lost:
            await asyncio.wait(lost, timeout=CLOSE_TIMEOUT + 1.0)
        self.abort()
        if lost:
            await asyncio.wait(lost)
        await self._flush_store()

    def abort(self) -> None:
        """Stop as in a crash: drop every connection and everything that is only in memory.

        The store still carries out the requests that it has received; their answers are dropped.
        """
        self._down = True
        self._stop_listening()
        self._timer.cancel()
        for connection in list(self._transports):
            connection.abort()

    @property
    def shed(self) -> int:
        """The count of chatroom messages that the server did not send to a connection, because of its rate limit."""
        return self._port.shed

    async def revoke(self, user: str) -> bool:
        """End the user's sessions and revoke the tokens issued so far. Return whether storage has confirmed it.

        After the confirmation, the revocation survives a restart. Without it, the server continues to retry.
        """
        before = self._wall()
        stored = self._revoking.setdefault((user, before), asyncio.get_running_loop().create_future())
        self.machine.revoke(user, before, self._clock())
        self.run_until_idle()
        done, _ = await asyncio.wait([stored], timeout=self._storage_timeout)
        self._revoking.pop((user, before), None)
        return bool(done) and stored.result()

    def wake(self) -> None:
        """Handle every deadline that is due by the clock."""
        if self._down:
            return
        now = self._clock()
        while (deadline := self.machine.next_deadline()) is not None and deadline <= now:
            self.machine.handle_timer(now)
            self.run_until_idle()

    async def left(self, peername: object) -> None:
        """Return once no connection from this address remains. Tests use it after they drop the client's end."""
        for connection in list(self._transports):
            if connection.address("peername") == peername:
                await connection.lost()

    # --- for connections --------------------------------------------------------------------------------------------

    def accepted(self, connection: _Connection) -> None:
        """Register a new TCP connection."""
        self._transports.add(connection)
        if self._down:
            connection.abort()

    def answer(self, request: Request) -> Answer | Revocation | None:
        """Return the answer to an HTTP request; a Revocation to carry out first; or None for a WebSocket handshake."""
        authorization = ", ".join(request.headers.get_all("Authorization"))
        health = {"connections": len(self._connections), "shed": self.shed}
        return self._endpoints.answer(request.method, request.path, authorization, health, self._wall())

    @staticmethod
    def response(answer: Answer) -> Response:
        """Return the answer as an HTTP response. The connection ends after it."""
        headers = Headers(
            {
                "Content-Type": "application/json",
                "Content-Length": str(len(answer.body)),
                "Cache-Control": "no-store",
                "Connection": "close",
                **answer.headers,
            }
        )
        return Response(answer.status, HTTPStatus(answer.status).phrase, headers, answer.body)

    def opened(self, connection: _Connection) -> int:
        """Register an open WebSocket, and return its number."""
        self._last_connection += 1
        self._connections[self._last_connection] = connection
        self.machine.connected(self._last_connection, self._clock())
        self.run_until_idle()
        return self._last_connection

    def received(self, id: int, text: bytes) -> None:
        """Handle a text message of the WebSocket with this number."""
        if self._down:
            return
        try:
            frame = wire.decode_from_client(text)
        except wire.BadRequest as bad:
            self.machine.reject(id, bad.op, bad.ref, bad.number, bad.text, self._clock())
            self.run_until_idle()
            return
        except wire.WireError as error:
            self.refuse(id, Code.BAD_FRAME, str(error))
            return
        self.machine.receive(id, frame, self._clock())
        self.run_until_idle()

    def refuse(self, id: int, code: Code, text: str) -> None:
        """End the connection with this number; send the code and the text as the reason."""
        if not self._down:
            self.machine.refuse(id, code, text, self._clock())
            self.run_until_idle()

    def lost(self, connection: _Connection) -> None:
        """Remove a connection that has ended."""
        self._transports.discard(connection)
        if connection.id:
            del self._connections[connection.id]
        if connection.id and not self._down:
            self.machine.disconnected(connection.id, self._clock())
            self.run_until_idle()

    # --- the drain loop ---------------------------------------------------------------------------------------------

    def run_until_idle(self) -> None:
        """Verify the tokens of pending logins, and update the timer. Run it after every call to the machine."""
        self.activity += 1
        logins = self._port.logins
        while logins:
            connection, token = logins.pop(0)
            verdict = self._tokens.verify(token, self._wall())
            self.machine.authenticated(connection, verdict.user, verdict.code, self._clock(), verdict.issued_at)
        self._timer.touch()

    def _stored(self, answers: list[tuple[storage.Request, storage.Result]]) -> None:
        if self._down:
            return
        machine, now = self.machine, self._clock()
        for request, result in answers:
            machine.stored(request, result, now)
            if isinstance(request, storage.RevokeTokens):
                stored = self._revoking.pop((request.user, request.before), None)
                if stored is not None:
                    stored.set_result(isinstance(result, storage.Saved))
        self.run_until_idle()

    # --- ending -----------------------------------------------------------------------------------------------------

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _flush_store(self) -> None:
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT):
                await self._store.flush()
        except TimeoutError:
            LOGGER.error("storage did not answer within %g s; the server stops without its answers", _FLUSH_TIMEOUT)


class _Port:
    """The port of the core's server.

    The machine sends the same frame to many connections one after another. So the port encodes it only once.
    """

    def __init__(
        self,
        connections: dict[int, _Connection],
        store: Store,
        on_event: Callable[[events.ServerEvent], None] | None,
    ) -> None:
        self._connection = connections.get
        self.store = store.submit
        self._on_event = on_event
        self.shed = 0
        self.close_code = CloseCode.NORMAL_CLOSURE
        self.logins: list[tuple[int, str]] = []  # pending: (connection, token)
        self._frame: frames.ToClient | None = None
        self._wire = b""

    def send(self, connection: int, frame: frames.ToClient) -> None:
        target = self._connection(connection)
        if target is not None:
            if frame is not self._frame:
                self._frame, self._wire = frame, text_frame(wire.encode(frame), mask=False)
            target.send(self._wire)

    def close(self, connection: int) -> None:
        target = self._connection(connection)
        if target is not None:
            target.close(self.close_code)

    def authenticate(self, connection: int, token: str) -> None:
        self.logins.append((connection, token))

    def emit(self, event: events.ServerEvent) -> None:
        if type(event) is events.Shed:
            self.shed += 1
        if self._on_event is not None:
            self._on_event(event)


class _Connection(WebSocket):
    """The server's end of a connection. `id` is the connection's number; it is 0 until the WebSocket is open."""

    __slots__ = ("_handshake_timer", "_lost", "_revoking", "_server", "id")

    def __init__(self, server: Server) -> None:
        super().__init__(ServerProtocol(max_size=server.max_size, logger=LOGGER), server.write_limit)
        self.id = 0
        self._server = server
        self._revoking: asyncio.Task[None] | None = None  # a reference, because the event loop keeps only a weak one
        self._lost: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # This timer uses real time even if the clock is moved by hand: a peer must not hold a socket open without
        # sending an HTTP request.
        loop = asyncio.get_running_loop()
        self._handshake_timer = loop.call_later(self._server.login_timeout, self.abort)
        self._server.accepted(self)

    def on_request(self, request: Request) -> None:
        self._handshake_timer.cancel()
        if self.protocol.parser_exc is not None:
            return  # the request has a body, which is not supported: the protocol has ended the connection
        answer = self._server.answer(request)
        if isinstance(answer, Revocation):
            self._revoking = asyncio.get_running_loop().create_task(self._revoke(answer))
        elif answer is not None:
            self.respond(self._server.response(answer))
        else:
            self.respond(self.protocol.accept(request))  # type: ignore[union-attr]
            if self.is_open:
                self.id = self._server.opened(self)

    async def _revoke(self, revocation: Revocation) -> None:
        answer = revocation.answer(stored=await self._server.revoke(revocation.user))
        if self.protocol.state is State.CONNECTING:  # otherwise the connection has ended
            self.respond(self._server.response(answer))

    def on_text(self, text: bytes) -> None:
        self._server.received(self.id, text)

    def on_bad(self, code: Code, text: str) -> None:
        self._server.refuse(self.id, code, text)

    def on_slow(self) -> None:
        text = "the client reads too slowly: its send queue is full; log in again to fetch the missed messages"
        self._server.refuse(self.id, Code.SLOW_READER, text)
        if self.is_open:  # the machine had ended the connection before, so `refuse` had no effect
            self.abort()

    def on_lost(self) -> None:
        self._handshake_timer.cancel()
        self._server.lost(self)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def lost(self) -> asyncio.Future[None]:
        """Return a future that is done once the connection has ended."""
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
        return self._lost
