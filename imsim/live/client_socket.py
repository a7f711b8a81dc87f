"""The client's end of a WebSocket connection."""

from __future__ import annotations

import asyncio
from typing import Protocol

from websockets.client import ClientProtocol
from websockets.http11 import Response
from websockets.uri import WebSocketURI

from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.sizes import largest_taken
from imsim.live.websocket import LOGGER, WebSocket


class Owner(Protocol):
    """The client at whose end of the connection a socket is."""

    @property
    def url(self) -> str: ...

    def received(self, socket: ClientSocket, text: bytes) -> None: ...

    def socket_lost(self, socket: ClientSocket) -> None: ...


class ClientSocket(WebSocket):
    """`handshake` and `lost` are done when the connection is open and when it is over."""

    __slots__ = ("_last_ping", "_owner", "_pings", "handshake", "lost")

    def __init__(self, owner: Owner, uri: WebSocketURI, policies: Policies) -> None:
        super().__init__(ClientProtocol(uri, max_size=largest_taken(policies), logger=LOGGER))
        loop = asyncio.get_running_loop()
        self.handshake: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._owner = owner
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
        self._owner.received(self, text)

    def on_bad(self, code: Code, text: str) -> None:
        LOGGER.error("%s broke the WebSocket protocol: %s", self._owner.url, text)
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
        self._owner.socket_lost(self)
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
