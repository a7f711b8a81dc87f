"""The server: one core server behind WebSockets, with a store.

It is plain text unless an SSL context is given: keep it on the loopback interface, or in a trusted network.
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
from imsim.live.auth import Answer, FrontDesk, Revocation, Tokens
from imsim.live.stores import Store
from imsim.live.timer import DeadlineTimer
from imsim.live.websocket import CLOSE_TIMEOUT, LOGGER, WebSocket, text_frame

_BACKLOG = 4096  # connections that may wait to be accepted: a crowd that lost its server comes back together
_PUSHED_MEANWHILE = 1 << 20  # bytes that may wait beyond the largest frame
_FLUSH_TIMEOUT = 10.0  # seconds that a stop waits for storage


class Server:
    """Serves from `start` to `stop` (or `abort`), once; `store` is the caller's, and may outlive it.

    `key` lets a caller have tokens for any user, valid for `token_lifetime` seconds. `clock` is monotonic seconds:
    under any but `time.monotonic` no deadline fires by itself, and `wake()` runs what is due. `wall` is seconds since
    1970. `write_limit`: bytes that may wait for a client that does not read before it is disconnected (slow_reader).
    `on_event` sees each Committed, Pushed and Shed; it must not call back into the server.

    `machine` is the core's server, `activity` counts calls to it, `url` and `port` are known once started.
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
        self._desk = FrontDesk(key, self._tokens)
        self._revoking: dict[tuple[str, float], asyncio.Future[bool]] = {}  # (user, before) -> whether it was kept
        self._connections: dict[int, _Connection] = {}  # WebSockets, by the node's number
        self._transports: set[_Connection] = set()  # these and whatever else is connected
        self._port = _Port(self._connections, store, on_event)
        self.machine = Machine(self._port, policies, epoch=wall() - clock())
        self._timer = DeadlineTimer(self.machine, clock, self.wake)
        self._listener: asyncio.Server | None = None
        self._last_connection = 0
        self._down = False
        self.login_timeout = policies.login_timeout
        self._storage_timeout = policies.storage_timeout
        # Who reads slowly but steadily gets through any frame, and what is pushed meanwhile.
        self.write_limit = write_limit or largest_to_client(policies) + _PUSHED_MEANWHILE
        self.max_size = largest_from_client(policies)

    # --- for the caller ---------------------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one.

        Raises: RunError if the address is taken or is none of this machine's.
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
                raise RunError(f"port {port} of {host} is taken; choose another, or 0 for a free one") from None
            raise RunError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        self._store.start(self._stored)
        await self._listener.start_serving()
        self.port = self._listener.sockets[0].getsockname()[1]
        # A client cannot connect to "every interface"; this machine's own it can.
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
        self.url = f"{'wss' if self._ssl else 'ws'}://{shown}:{self.port}"

    async def stop(self) -> None:
        """Wait for what is being stored, tell the clients to come back later, and end every connection. Takes at most
        about 12 s, if storage and the clients are that slow."""
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
        """Stop as a crash would: connections are cut, what is in memory is forgotten. Requests that the store has
        already are still carried out, but nobody hears of it."""
        self._down = True
        self._stop_listening()
        self._timer.cancel()
        for connection in list(self._transports):
            connection.abort()

    @property
    def shed(self) -> int:
        """How many messages of chatrooms were not sent to a connection, which was getting too many."""
        return self._port.shed

    async def revoke(self, user: str) -> bool:
        """End the user's sessions; the tokens issued so far open no new one. Returns whether storage has kept that, so
        that it will be so after a restart, too; if not, it goes on trying."""
        before = self._wall()
        kept = self._revoking.setdefault((user, before), asyncio.get_running_loop().create_future())
        self.machine.revoke(user, before, self._clock())
        self.run_until_idle()
        done, _ = await asyncio.wait([kept], timeout=self._storage_timeout)
        self._revoking.pop((user, before), None)
        return bool(done) and kept.result()

    def wake(self) -> None:
        """Run every deadline that is due by the clock."""
        if self._down:
            return
        now = self._clock()
        while (deadline := self.machine.next_deadline()) is not None and deadline <= now:
            self.machine.handle_timer(now)
            self.run_until_idle()

    async def left(self, peername: object) -> None:
        """Returns once no connection from this address is left: for tests that break one at its other end."""
        for connection in list(self._transports):
            if connection.address("peername") == peername:
                await connection.lost()

    # --- for connections --------------------------------------------------------------------------------------------

    def accepted(self, connection: _Connection) -> None:
        self._transports.add(connection)
        if self._down:
            connection.abort()

    def answer(self, request: Request) -> Answer | Revocation | None:
        """What an HTTP request gets, or what is to be done first; None: a WebSocket."""
        authorization = ", ".join(request.headers.get_all("Authorization"))
        health = {"connections": len(self._connections), "shed": self.shed}
        return self._desk.answer(request.method, request.path, authorization, health, self._wall())

    @staticmethod
    def response(answer: Answer) -> Response:
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
        self._last_connection += 1
        self._connections[self._last_connection] = connection
        self.machine.connected(self._last_connection, self._clock())
        self.run_until_idle()
        return self._last_connection

    def received(self, id: int, text: bytes) -> None:
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
        if not self._down:
            self.machine.refuse(id, code, text, self._clock())
            self.run_until_idle()

    def lost(self, connection: _Connection) -> None:
        self._transports.discard(connection)
        if connection.id:
            del self._connections[connection.id]
        if connection.id and not self._down:
            self.machine.disconnected(connection.id, self._clock())
            self.run_until_idle()

    # --- the drain loop ---------------------------------------------------------------------------------------------

    def run_until_idle(self) -> None:
        """After every call to the node: answer what answers at once, and look at the deadlines."""
        self.activity += 1
        asked = self._port.asked
        while asked:
            connection, token = asked.pop(0)
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
                kept = self._revoking.pop((request.user, request.before), None)
                if kept is not None:
                    kept.set_result(isinstance(result, storage.Saved))
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
            LOGGER.error("storage did not answer within %g s; stopping without it", _FLUSH_TIMEOUT)


class _Port:
    """The node's port. What is sent is encoded once however many it goes to, as they come one after another."""

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
        self.asked: list[tuple[int, str]] = []
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
        self.asked.append((connection, token))

    def emit(self, event: events.ServerEvent) -> None:
        if type(event) is events.Shed:
            self.shed += 1
        if self._on_event is not None:
            self._on_event(event)


class _Connection(WebSocket):
    """A client's connection; `id` is 0 until it is a WebSocket."""

    __slots__ = ("_handshake_timer", "_lost", "_revoking", "_server", "id")

    def __init__(self, server: Server) -> None:
        super().__init__(ServerProtocol(max_size=server.max_size, logger=LOGGER), server.write_limit)
        self.id = 0
        self._server = server
        self._revoking: asyncio.Task[None] | None = None  # the loop itself keeps no hold of it
        self._lost: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Real time, whatever the clock: nobody may hold a socket without so much as an HTTP request.
        loop = asyncio.get_running_loop()
        self._handshake_timer = loop.call_later(self._server.login_timeout, self.abort)
        self._server.accepted(self)

    def on_request(self, request: Request) -> None:
        self._handshake_timer.cancel()
        if self.protocol.parser_exc is not None:
            return  # a body, which a GET has not: the protocol has ended the connection already
        answer = self._server.answer(request)
        if isinstance(answer, Revocation):
            self._revoking = asyncio.get_running_loop().create_task(self._revoke(answer))
        elif answer is not None:
            self.respond(self._server.response(answer))
        else:
            self.respond(self.protocol.accept(request))  # type: ignore[union-attr]
            if self.is_open:
                self.id = self._server.opened(self)

    async def _revoke(self, asked: Revocation) -> None:
        answer = asked.revoked(kept=await self._server.revoke(asked.user))
        if self.protocol.state is State.CONNECTING:  # else nobody waits for it any more
            self.respond(self._server.response(answer))

    def on_text(self, text: bytes) -> None:
        self._server.received(self.id, text)

    def on_bad(self, code: Code, text: str) -> None:
        self._server.refuse(self.id, code, text)

    def on_slow(self) -> None:
        self._server.refuse(self.id, Code.SLOW_READER, "more is waiting for you than the server keeps; log in again")
        if self.is_open:  # the node had ended it already
            self.abort()

    def on_lost(self) -> None:
        self._handshake_timer.cancel()
        self._server.lost(self)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def lost(self) -> asyncio.Future[None]:
        """Done once the connection is over."""
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
        return self._lost
