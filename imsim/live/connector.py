"""The connection of a client: one WebSocket after the other."""

from __future__ import annotations

import asyncio
import os
from ssl import SSLContext, create_default_context
from typing import Protocol

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI
from websockets.http11 import Response
from websockets.uri import WebSocketURI, parse_uri

from imsim.core.exceptions import UsageError
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.sizes import largest_taken
from imsim.live.credentials import Unauthorized, get_token
from imsim.live.websocket import LOGGER, WebSocket, text_frame

_OPEN_TIMEOUT = 10.0  # seconds, real ones, for token and handshake


class Owner(Protocol):
    """The client that a connector works for."""

    def connection_opened(self, token: str | None) -> None:
        """`token`: the one that was requested for it, if any."""
        ...

    def connection_lost(self) -> None:
        """Also if an attempt failed."""
        ...

    def token_refused(self, reason: str) -> None: ...

    def text_received(self, text: bytes) -> None: ...


class Connector:
    """Connects to the server at `url` when asked. With the server's `key` each attempt begins by requesting a token.

    `failure`: why the latest attempt failed. `departed`: local addresses of sockets given up, for `run_until_idle`.

    Raises: UsageError for a bad URL.
    """

    def __init__(
        self, owner: Owner, url: str, user: str, key: str | None, policies: Policies, ssl: SSLContext | None
    ) -> None:
        try:
            self._uri = parse_uri(url)
        except (InvalidURI, ValueError):
            raise UsageError(f"{url!r} is no server's address; give one like ws://127.0.0.1:8765") from None
        self.url = url
        self.failure = ""
        self.departed: list[object] = []
        self._owner = owner
        self._user = user
        self._key = key
        self._policies = policies
        self._ssl = (ssl or create_default_context()) if self._uri.secure else None
        self._attempt: asyncio.Task[None] | None = None
        self._socket: ClientSocket | None = None
        self._cancelled: set[asyncio.Task[None]] = set()
        self._closing: set[ClientSocket] = set()

    @property
    def connected(self) -> bool:
        return self._socket is not None

    @property
    def connecting(self) -> bool:
        """Whether an attempt to connect is under way."""
        return self._attempt is not None

    def connect(self) -> None:
        """Begin an attempt."""
        self.failure = ""
        self._attempt = asyncio.get_running_loop().create_task(self._connect())

    def send(self, text: bytes) -> None:
        assert self._socket is not None
        self._socket.send(text_frame(text, mask=True))

    def close(self) -> None:
        """End the connection or the attempt, in order."""
        if self._attempt is not None:
            self._cancelled.add(self._attempt)
            self._attempt.add_done_callback(self._cancelled.discard)
            self._attempt.cancel()
            self._attempt = None
        if self._socket is not None:
            self._give_up_socket().close()

    def abort(self) -> None:
        """Lose the connection."""
        if self._socket is not None:
            self._give_up_socket().abort()
            self._owner.connection_lost()

    async def attempted(self) -> None:
        """Returns once no attempt to connect is under way."""
        while self._attempt is not None:
            await asyncio.wait([self._attempt])

    async def closed(self) -> None:
        """Returns once nothing is left of attempts and sockets given up."""
        while ending := [*self._cancelled, *(socket.lost for socket in self._closing)]:
            await asyncio.wait(ending)

    async def barrier(self) -> None:
        """Returns once the server has processed all that was sent, and all that it had sent has been received here;
        or once the connection is lost."""
        if self._socket is not None:
            await self._socket.barrier()

    async def _connect(self) -> None:
        attempt = asyncio.current_task()
        token = socket = None
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT):
                if self._key is not None:
                    token = await get_token(self._uri, self._user, self._key, self._ssl)
                socket = await self._open_socket()
        except TimeoutError:
            self.failure = "no answer in time"
        except OSError as error:
            self.failure = os.strerror(error.errno) if error.errno else str(error)
        except EOFError as error:
            self.failure = str(error)
        except Unauthorized as error:
            self._finish(attempt)
            self._owner.token_refused(str(error))
            return
        finally:
            self._finish(attempt)
        if socket is None:
            self._owner.connection_lost()
        else:
            self._socket = socket
            self._owner.connection_opened(token)

    def _finish(self, attempt: asyncio.Task[None] | None) -> None:
        if self._attempt is attempt:
            self._attempt = None

    async def _open_socket(self) -> ClientSocket:
        loop, uri, policies = asyncio.get_running_loop(), self._uri, self._policies
        _, socket = await loop.create_connection(
            lambda: ClientSocket(self, uri, policies), uri.host, uri.port, ssl=self._ssl
        )
        try:
            await socket.handshake
        except BaseException:
            if not socket.lost.done():
                self._closing.add(socket)
                socket.abort()
            raise
        if socket.lost.done():
            raise EOFError("the connection was closed as soon as it was open")
        return socket

    def _give_up_socket(self) -> ClientSocket:
        socket, self._socket = self._socket, None
        assert socket is not None
        self._closing.add(socket)
        self.departed.append(socket.address("sockname"))
        return socket

    # --- called by sockets ------------------------------------------------------------------------------------------

    def text_received(self, socket: ClientSocket, text: bytes) -> None:
        if socket is self._socket:
            self._owner.text_received(text)

    def socket_lost(self, socket: ClientSocket) -> None:
        if socket is self._socket:
            self._give_up_socket()
            self._owner.connection_lost()
        self._closing.discard(socket)


class ClientSocket(WebSocket):
    """`handshake` and `lost` are done when the connection is open and when it is over."""

    __slots__ = ("_connector", "_last_ping", "_pings", "handshake", "lost")

    def __init__(self, connector: Connector, uri: WebSocketURI, policies: Policies) -> None:
        super().__init__(ClientProtocol(uri, max_size=largest_taken(policies), logger=LOGGER))
        loop = asyncio.get_running_loop()
        self.handshake: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._connector = connector
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        self._last_ping = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.request()

    def on_response(self, response: Response) -> None:
        if self.handshake.done():
            return
        if self.protocol.handshake_exc is None:
            self.handshake.set_result(None)
        else:
            self.handshake.set_exception(EOFError(f"it is no imsim server (HTTP {response.status_code})"))

    def on_text(self, text: bytes) -> None:
        self._connector.text_received(self, text)

    def on_bad(self, code: Code, text: str) -> None:
        LOGGER.error("%s broke the WebSocket protocol: %s", self._connector.url, text)
        self.close()

    def on_pong(self, payload: bytes) -> None:
        waiting = self._pings.pop(payload, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def on_lost(self) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(EOFError("the connection was closed before it was open"))
        for waiting in self._pings.values():
            if not waiting.done():
                waiting.set_result(None)
        self._connector.socket_lost(self)
        self.lost.set_result(None)

    async def barrier(self) -> None:
        if not self.is_open:  # closing
            await asyncio.wait([self.lost])
            return
        self._last_ping += 1
        payload = b"%d" % self._last_ping
        waiting = self._pings[payload] = asyncio.get_running_loop().create_future()
        self.ping(payload)
        await waiting
