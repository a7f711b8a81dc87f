"""The server: the core's server behind WebSockets, with a store.

Without an SSL context, the server does not encrypt. Keep it on the loopback interface or in a trusted network then.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from ssl import SSLContext
from typing import Literal

from websockets.frames import CloseCode
from websockets.http11 import Request

from imsim import wire
from imsim.core import events, frames, storage
from imsim.core.events import Committed, Pushed
from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.server import Server as Machine
from imsim.core.sizes import largest_from_client, largest_to_client
from imsim.core.storage import Failed
from imsim.keys import check_exposed_key, check_key
from imsim.live.admission import Admission
from imsim.live.auth import Answer, HttpEndpoints, Operation, Revocation, Tokens, known_path
from imsim.live.connection import Connection
from imsim.live.exposition import VERSION
from imsim.live.listener import Listener, is_loopback, resolve
from imsim.live.log import LOGGER
from imsim.live.metrics import NOTED, Metrics
from imsim.live.monitor import Monitor
from imsim.live.stores import Probe, Store
from imsim.live.timer import DeadlineTimer
from imsim.live.turn import Quiet, TurnClock
from imsim.live.web import ChatPage
from imsim.live.websocket import CLOSE_TIMEOUT, Flushes
from imsim.wire.websocket_frames import text_frame

_PUSH_ALLOWANCE = 1 << 20  # bytes of pushes that may wait behind the largest frame
_ENDED_FOR_ROOM = 16  # newcomers that the server disconnects to get file descriptors
_FLUSH_TIMEOUT = 10.0  # seconds that `stop` waits for storage


class Server:
    """An instant-messaging server. It serves once, from `start` to `stop` or `abort`.

    The caller owns `store`, which can outlive the server. `key` authorizes requests for tokens of any user; a token is
    valid for `token_lifetime` seconds. `clock` returns monotonic seconds. If it is not `time.monotonic`, no deadline
    fires by itself; call `wake()` to handle the deadlines that are due. `wall` returns seconds since 1970.
    `write_limit` is how many bytes may wait for a client that does not read; beyond it, the server disconnects the
    client (slow_reader). `on_event` receives each Committed, Pushed and Shed event; it must not call the server.
    `page` adds the chat page. With "key", its user enters the server's key. With "open", it gets tokens without a key.

    `machine` is the core's server. `activity` counts the calls to it. `url` and `port` are known after `start`.
    `monitor` has the metrics.
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
        page: Literal["open", "key"] | None = None,
    ) -> None:
        self.activity = 0
        self.url = ""
        self.port = 0
        self._store = store
        self._clock = clock
        self._wall = wall
        self._ssl = ssl
        self._key = check_key(key)
        self._tokens = Tokens(key, token_lifetime, store)
        self._endpoints = HttpEndpoints(key, self._tokens)
        self._page = ChatPage(self._tokens if page == "open" else None) if page else None
        self._revoking: dict[tuple[str, float], asyncio.Future[bool]] = {}  # (user, before) -> whether it is stored
        self._connections: dict[int, Connection] = {}  # open WebSockets, by the machine's number of the connection
        self._transports: set[Connection] = set()  # all connections, also those that are not WebSockets (yet)
        self._newcomers: dict[Connection, None] = {}  # those that are not logged in, the oldest first
        self.monitor = Monitor(self, store, clock)
        self._metrics = self.monitor.metrics
        self._received = self._metrics.received
        self._is_quiet = Quiet(lambda: self._received[frames.Send.op])  # users wait for the answers to these
        self.admission = Admission(policies.logins, self._is_quiet)
        self._port = _Port(self._connections, store, TurnClock(clock), self._metrics, on_event)
        self.machine = Machine(self._port, policies, epoch=wall() - clock(), reports_all=on_event is not None)
        self._metrics.count(self.machine)
        self.flushes = Flushes()
        self._timer = DeadlineTimer(self.machine, clock, self.wake)
        self._listener: Listener | None = None
        self._last_connection = 0
        self._down = False
        self._is_stopping = False
        self.login_timeout = policies.login_timeout
        self._storage_timeout = policies.storage_timeout
        # Large enough for a client that reads slowly but steadily: the largest frame, and the pushes that arrive while
        # the client reads it.
        self.write_limit = write_limit or largest_to_client(policies) + _PUSH_ALLOWANCE
        self.max_size = largest_from_client(policies)

    # --- for the caller ---------------------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on `host` and `port`. Port 0 stands for any free port.

        If other computers can reach `host`, the server needs a key of at least 16 characters that is not the default
        key, and logs what they can reach.

        Raises: RunError if the port is in use, or if `host` is not an address of this computer; UsageError if `host` is
        empty, if the key is not sufficient for it, or if the server was started before.
        """
        if self._down or self._listener is not None:
            raise UsageError("server: it serves only once, and it was started before; make another Server")
        if not host.strip():
            raise UsageError(
                "host: must not be empty; 127.0.0.1 listens on this computer only, 0.0.0.0 on all its interfaces"
            )
        listener = Listener(
            lambda: Connection(self),
            timeout=self.login_timeout,
            ssl=self._ssl,
            is_behind=lambda: self.admission.is_behind,
            is_quiet=self._is_quiet,
            make_room=self._make_room,
            failed=self._metrics.opening_failed,
        )
        try:
            addresses = await resolve(host, port)
            if is_exposed := not all(map(is_loopback, addresses)):
                check_exposed_key(self._key, host)
            listener.bind(addresses)
        except ValueError as error:  # a name that the DNS cannot have
            raise RunError(f"cannot listen on {host!r}: {error}; give an address of this computer") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise RunError(f"port {port} of {host} is in use; choose another, or 0 for any free port") from None
            # An error of the name's look-up has a number of its own.
            reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise RunError(f"cannot listen on {host}:{port}: {reason}; give an address of this computer") from None
        self._listener = listener
        self._endpoints.host = host
        self._store.start(self._stored)
        await listener.accept()
        self.monitor.start()
        self.port = listener.port
        # A client cannot connect to the address for "all interfaces", but it can connect to the loopback address.
        reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
        shown = reachable.get(host, f"[{host}]" if ":" in host else host)
        self.url = f"{'wss' if self._ssl else 'ws'}://{shown}:{self.port}"
        if is_exposed:
            logging.getLogger(__name__).warning(
                "other computers can reach %s, port %d: /healthz, /readyz and /metrics without a key, /token and"
                " /revoke with the key, the WebSocket with a token; %s",
                host,
                self.port,
                "encrypted" if self._ssl else "not encrypted (--tls-cert and --tls-key, or a proxy with TLS)",
            )

    async def stop(self) -> None:
        """Stop gracefully: finish pending storage requests, notify the clients to reconnect later, and disconnect them.

        It takes about 12 s at most, if storage or a client does not answer.
        """
        if self._down:
            return
        self._is_stopping = True
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
        self.monitor.stop()
        for connection in list(self._transports):
            connection.abort()

    @property
    def shed(self) -> int:
        """The count of chatroom messages that the server did not send to a connection, because of its rate limit."""
        return self._metrics.shed

    async def revoke(self, user: str) -> bool:
        """End the user's sessions and revoke the tokens issued so far. Return whether storage has confirmed it.

        After the confirmation, the revocation survives a restart. Without it, the server continues to retry.
        """
        before = self._tokens.revocation(self._wall())
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

    # --- for the monitor --------------------------------------------------------------------------------------------

    def not_serving(self) -> str:
        """Return why the server takes no logins, or ""."""
        if self._down or self._is_stopping:
            return "the server is shutting down"
        return "" if self._listener is not None else "the server is starting"

    def connection_counts(self) -> dict[str, int]:
        """Return the count of connections by state."""
        newcomers = len(self._newcomers)
        return {"logged_in": len(self._transports) - newcomers, "not_logged_in": newcomers}

    def queues(self) -> dict[str, Iterable[int]]:
        """Return the parts of the length of each queue. `send_bytes` is in bytes."""
        return {
            "router": self.machine.queued_requests(),
            "unacknowledged_pushes": self.machine.queued_pushes(),
            "newcomers": (len(self.admission),),
            "accepted_sockets": (self._listener.waiting if self._listener else 0,),
            "send_bytes": (connection.unsent for connection in list(self._transports)),
        }

    # --- for connections --------------------------------------------------------------------------------------------

    def accepted(self, connection: Connection) -> None:
        """Register a new TCP connection."""
        self._transports.add(connection)
        self._newcomers[connection] = None
        if self._down:
            connection.abort()

    def admitted(self, connection: Connection) -> None:
        """Register that the client of this connection is logged in."""
        self._newcomers.pop(connection, None)

    def _make_room(self) -> bool:
        """Disconnect the oldest connections that are not logged in. Return whether there was one."""
        oldest = list(itertools.islice(self._newcomers, _ENDED_FOR_ROOM))
        for connection in oldest:
            del self._newcomers[connection]
            if connection.id:
                self._metrics.dropped(connection)
            connection.abort()
        return bool(oldest)

    def answer(self, request: Request) -> Answer | Coroutine[None, None, Answer] | None:
        """Return the answer to an HTTP request; a coroutine that makes it; or None for a WebSocket handshake."""
        if self._page is not None and (page := self._page.answer(request, self._wall())) is not None:
            return page
        authorization = ", ".join(request.headers.get_all("Authorization"))
        health = {"version": VERSION, "connections": len(self._connections), "shed": self.shed}
        hosts = request.headers.get_all("Host")
        answer = self._endpoints.answer(request.method, request.path, authorization, health, self._wall(), hosts)
        if isinstance(answer, Revocation):
            return self._revoked(answer)
        if answer is Operation.READY:
            return self.monitor.ready()
        if answer is Operation.METRICS:
            return self.monitor.scrape(", ".join(request.headers.get_all("Accept")))
        return answer

    async def _revoked(self, revocation: Revocation) -> Answer:
        return revocation.answer(stored=await self.revoke(revocation.user))

    def answered(self, request: Request, answer: Answer) -> None:
        """Count the answer to an HTTP request."""
        self._metrics.answered(known_path(request.path), answer.status)

    def opened(self, connection: Connection) -> int:
        """Register an open WebSocket, and return its number."""
        self._last_connection += 1
        self._metrics.opened += 1
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
            self._metrics.invalid_received(bad.op)
            self.machine.reject(id, bad.op, bad.ref, bad.number, bad.text, self._clock())
            self.run_until_idle()
            return
        except wire.WireError as error:
            self._metrics.invalid_received()
            self.refuse(id, Code.BAD_FRAME, str(error), _close_code(text))
            return
        self._received[frame.op] += 1
        self.machine.receive(id, frame, self._clock())
        self.run_until_idle()

    def refuse(self, id: int, code: Code, text: str, close_code: CloseCode = CloseCode.NORMAL_CLOSURE) -> None:
        """End the connection with this number; send the code and the text as the reason."""
        if not self._down:
            self._port.close_codes[id] = close_code
            self.machine.refuse(id, code, text, self._clock())
            self._port.close_codes.clear()
            self.run_until_idle()

    def lost(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self._transports.discard(connection)
        self._newcomers.pop(connection, None)
        self.admission.withdraw(connection)
        if connection.id:
            del self._connections[connection.id]
            self._metrics.connection_lost(connection)
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
            if type(result) is Failed:
                self.monitor.storage.failed(request, result, now)
            machine.stored(request, result, now)
            if isinstance(request, storage.RevokeTokens):
                if isinstance(request, Probe):
                    self.monitor.storage.probed(request, result, now)
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
        connections: dict[int, Connection],
        store: Store,
        turn: TurnClock,
        metrics: Metrics,
        on_event: Callable[[events.ServerEvent], None] | None,
    ) -> None:
        self._connection = connections.get
        self.store = store.submit
        self._sent = metrics.sent
        self._store_times = metrics.store.recent
        self._metrics = metrics
        self.waited = turn.elapsed
        self._on_event = on_event
        self.close_code = CloseCode.NORMAL_CLOSURE
        self.close_codes: dict[int, CloseCode] = {}  # of the connections that do not get `close_code`
        self.logins: list[tuple[int, str]] = []  # pending: (connection, token)
        self._frame: frames.ToClient | None = None
        self._wire = b""

    def send(self, connection: int, frame: frames.ToClient) -> None:
        target = self._connection(connection)
        if target is not None:
            if frame is not self._frame:
                self._frame, self._wire = frame, text_frame(wire.encode(frame), mask=False)
                if type(frame) in NOTED:
                    self._metrics.note(target, frame)
                    if type(frame) is frames.LoggedIn:
                        target.admit()
            self._sent[frame.op] += 1
            target.send(self._wire)

    def close(self, connection: int) -> None:
        target = self._connection(connection)
        if target is not None:
            target.close(self.close_codes.get(connection, self.close_code))

    def authenticate(self, connection: int, token: str) -> None:
        self.logins.append((connection, token))

    def emit(self, event: events.ServerEvent) -> None:
        kind = type(event)  # faster than isinstance for each event, but mypy learns nothing from it
        if kind is Committed and (after := event.after) is not None:  # type: ignore[union-attr]
            self._store_times.append(after)
        elif kind is not Pushed or event.attempt > 1:  # type: ignore[union-attr]
            self._metrics.event(event)
        if self._on_event is not None:
            self._on_event(event)


def _close_code(text: bytes) -> CloseCode:
    """Return the close code after a message that is not a frame."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return CloseCode.INVALID_DATA
    return CloseCode.NORMAL_CLOSURE
