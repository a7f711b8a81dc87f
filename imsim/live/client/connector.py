"""The connection of a client: it requests a token, opens a WebSocket, and reports the loss of it."""

from __future__ import annotations

import asyncio
import logging
import os
from ssl import SSLContext, create_default_context
from typing import Protocol

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI
from websockets.frames import CloseCode
from websockets.http11 import Response
from websockets.uri import WebSocketURI, parse_uri

from imsim.core.exceptions import UsageError
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.sizes import largest_taken
from imsim.live.client.access import Access, TokenSourceFailed
from imsim.live.client.credentials import Unauthorized
from imsim.live.log import LOGGER
from imsim.live.websocket import WebSocket
from imsim.wire.websocket_frames import text_frame

_LOGGER = logging.getLogger("imsim.client")
_OPEN_TIMEOUT = 10.0  # seconds of real time for the token and the handshake


class Owner(Protocol):
    """The client that owns a connector."""

    def connection_opened(self, token: str) -> None:
        """Handle an open connection. `token` is the token for the login."""
        ...

    def connection_lost(self) -> None:
        """Handle the loss of the connection, or the failure of an attempt to connect."""
        ...

    def token_refused(self, reason: str) -> None:
        """Handle the server's refusal to issue a token."""
        ...

    def text_received(self, text: bytes) -> None:
        """Handle a text message of the server."""
        ...


class Connector:
    """The connector of one client to the server at `url`. Each attempt first gets a token from `access`.

    `failure` is the reason why the latest attempt failed. `departed` holds the local addresses of released sockets,
    for `run_until_idle`.

    Raises: UsageError for an invalid URL.
    """

    def __init__(self, owner: Owner, url: str, access: Access, policies: Policies, ssl: SSLContext | None) -> None:
        try:
            self._uri = parse_uri(url)
        except (InvalidURI, ValueError, TypeError, AttributeError):
            raise UsageError(f"url: must be ws://host:port or wss://host:port (got {url!r})") from None
        self.url = url
        self.failure = ""
        self._lacks_token = False  # whether the latest call of the token source failed; only the first one is logged
        self._late = ""  # the failure of the present attempt if it takes too long
        self.departed: list[object] = []
        self._owner = owner
        self._access = access
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
        """Close the connection with a closing handshake, or cancel the attempt."""
        if self._attempt is not None:
            self.failure = self._late
            self._cancelled.add(self._attempt)
            self._attempt.add_done_callback(self._cancelled.discard)
            self._attempt.cancel()
            self._attempt = None
        if self._socket is not None:
            self._release_socket().close()

    def abort(self) -> None:
        """Drop the connection at once, and report its loss to the owner."""
        if self._socket is not None:
            self._release_socket().abort()
            self._owner.connection_lost()

    async def attempted(self) -> None:
        """Return once no attempt to connect is under way."""
        while self._attempt is not None:
            await asyncio.wait([self._attempt])

    async def closed(self) -> None:
        """Return once all cancelled attempts and all released sockets have ended."""
        while ending := [*self._cancelled, *(socket.lost for socket in self._closing)]:
            await asyncio.wait(ending)

    async def barrier(self) -> None:
        """Return once the server has processed everything sent to it, and this side has received its answers.

        Return also if the connection is lost.
        """
        if self._socket is not None:
            await self._socket.barrier()

    async def _connect(self) -> None:
        attempt = asyncio.current_task()
        token, socket = "", None
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT):
                self._late = self._access.late
                token = await self._access.token(self._uri, self._ssl)
                self._lacks_token = False
                self._late = "no answer in time"
                socket = await self._open_socket()
        except TimeoutError:
            self.failure = self._late
        except OSError as error:
            self.failure = os.strerror(error.errno) if error.errno else str(error)
        except EOFError as error:
            self.failure = str(error)
        except TokenSourceFailed as error:
            self.failure = str(error)
            if not self._lacks_token:
                _LOGGER.warning("no token for the connection to %s: %s", self.url, error)
            self._lacks_token = True
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
            raise EOFError("the server closed the connection just after the handshake")
        return socket

    def _release_socket(self) -> ClientSocket:
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
            self._release_socket()
            self._owner.connection_lost()
        self._closing.discard(socket)


class ClientSocket(WebSocket):
    """The client's end of a WebSocket. The future `handshake` is done once it is open, `lost` once it has ended."""

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
            text = f"not an imsim server: HTTP {response.status_code} in answer to the WebSocket handshake"
            self.handshake.set_exception(EOFError(text))

    def on_text(self, text: bytes) -> None:
        self._connector.text_received(self, text)

    def on_bad(self, code: Code, text: str, close_code: CloseCode = CloseCode.NORMAL_CLOSURE) -> None:
        LOGGER.error("%s broke the WebSocket protocol: %s", self._connector.url, text)
        self.close()

    def on_pong(self, payload: bytes) -> None:
        waiting = self._pings.pop(payload, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def on_lost(self) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(EOFError("the connection was closed before the handshake was complete"))
        for waiting in self._pings.values():
            if not waiting.done():
                waiting.set_result(None)
        self._connector.socket_lost(self)
        self.lost.set_result(None)

    async def barrier(self) -> None:
        """Return once the peer has answered a ping, and so has processed everything sent before; or at the end."""
        if not self.is_open:  # the closing handshake is under way: no pong will arrive
            await asyncio.wait([self.lost])
            return
        self._last_ping += 1
        payload = b"%d" % self._last_ping
        waiting = self._pings[payload] = asyncio.get_running_loop().create_future()
        self.ping(payload)
        await waiting
