"""The server's end of a connection: an HTTP request, or a WebSocket from its handshake to its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Protocol, cast

from websockets.datastructures import Headers
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from imsim.core.model import Code
from imsim.live.admission import Admission, has_hung_up
from imsim.live.auth import Answer
from imsim.live.log import LOGGER
from imsim.live.websocket import MESSAGE_WORK, Flushes, WebSocket

_BYTES_BEFORE_LOGIN = 1 << 16  # that a client may send before it is logged in, its HTTP request included
_STEPS_BEFORE_LOGIN = 256  # of a connection: an HTTP request, a message, or a few other frames


class ConnectionOwner(Protocol):
    """The server, as its connections see it."""

    admission: Admission
    flushes: Flushes
    login_timeout: float  # seconds
    max_size: int  # bytes of a message from the client
    write_limit: int  # bytes that may wait for a client that does not read

    def accepted(self, connection: Connection) -> None: ...

    def answer(self, request: Request) -> Answer | Coroutine[None, None, Answer] | None: ...

    def answered(self, request: Request, answer: Answer) -> None: ...

    def opened(self, connection: Connection) -> int: ...

    def admitted(self, connection: Connection) -> None: ...

    def received(self, id: int, text: bytes) -> None: ...

    def refuse(self, id: int, code: Code, text: str, close_code: CloseCode = ...) -> None: ...

    def lost(self, connection: Connection) -> None: ...


class Connection(WebSocket):
    """The server's end of a connection. `id` is the connection's number; it is 0 until the WebSocket is open.

    Until the client is logged in, the connection is a newcomer. The frames of a newcomer wait in the server's
    queue `admission`, and it may send only a few bytes.
    """

    __slots__ = (
        "_answering",
        "_bytes_left",
        "_handshake_timer",
        "_is_newcomer",
        "_lost",
        "_server",
        "_steps_left",
        "end",
        "id",
    )

    def __init__(self, server: ConnectionOwner) -> None:
        super().__init__(ServerProtocol(max_size=server.max_size, logger=LOGGER), server.write_limit, server.flushes)
        self.id = 0
        self.end = ""  # for the metrics
        self._server = server
        self._is_newcomer = True
        self._bytes_left = _BYTES_BEFORE_LOGIN
        self._steps_left = _STEPS_BEFORE_LOGIN
        self._answering: asyncio.Task[None] | None = None  # a reference, because the event loop keeps only a weak one
        self._lost: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # This timer uses real time even if the clock is moved by hand: a peer must not hold a socket open without
        # sending an HTTP request.
        loop = asyncio.get_running_loop()
        self._handshake_timer = loop.call_later(self._server.login_timeout, self.abort)
        self._server.accepted(self)

    # --- before the login -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self._is_newcomer:
            super().data_received(data)
            return
        if self._is_deaf or self.protocol.eof_sent:
            return  # the connection is ending
        self.keep_unread(data)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self._end_flood()
        elif self.id or self._has_request():
            self._server.admission.submit(self, is_open=self.id > 0)

    def serve(self, *, waited: bool) -> None:
        """Handle one request, message or slice of what a newcomer has sent."""
        if self._transport.is_closing():
            return
        self._steps_left -= 1
        if self._steps_left < 0:
            self._end_flood()
            return
        # A client that half-closes the connection can still read the answer to an HTTP request, but it cannot log in.
        # If the request has waited, the client has probably given up.
        if (waited or self.id or self._unread.startswith(b"GET / ")) and self._peer_has_hung_up():
            self.abort()
            return
        # The parser gets only the head of an HTTP request, so that the request is answered before the rest is parsed.
        rest = b""
        if not self.id:
            head, separator, rest = self._unread.partition(b"\r\n\r\n")
            self._unread = head + separator
        if not self.id and self.open_at_once(self._unread):
            self.forget_unread()
            self._opened()
        else:
            self.read(MESSAGE_WORK)
        if rest and not self._is_deaf and not self.protocol.eof_sent:
            self.keep_unread(rest)
            self._server.admission.submit(self, is_open=self.id > 0)

    def read_later(self) -> None:
        if self._is_newcomer:
            self._server.admission.submit(self, is_open=self.id > 0)
        else:
            super().read_later()

    def eof_received(self) -> bool | None:
        if self._answering is not None and not self._answering.done() and self.address("sslcontext") is None:
            return True  # the client can still read the answer
        if self._server.admission.withdraw(self) or (self._is_newcomer and self.id):
            self.abort()  # the client has given up
        else:
            super().eof_received()
        return None

    def admit(self) -> None:
        """Handle what the client sends from now on at once: it is logged in."""
        self._is_newcomer = False
        self._server.admitted(self)
        if self._server.admission.withdraw(self):
            self.read_later()

    @property
    def is_newcomer(self) -> bool:
        """Whether the client is not logged in."""
        return self._is_newcomer

    @property
    def unsent(self) -> int:
        """The bytes that wait until the client reads what was sent before."""
        return self._transport.get_write_buffer_size()

    def _has_request(self) -> bool:
        """Whether the whole head of an HTTP request has arrived, or bytes that cannot become one."""
        if b"\r\n\r\n" in self._unread:
            return True
        first, separator, _ = self._unread.partition(b"\n")
        return bool(separator) and b" HTTP/1." not in first

    def _peer_has_hung_up(self) -> bool:
        file = cast(socket.socket, self.address("socket")).fileno()
        return file >= 0 and has_hung_up(file)

    def _end_flood(self) -> None:
        """End a newcomer that sends too much."""
        self._server.admission.withdraw(self)
        self.forget_unread()
        self._is_deaf = True
        if self.id:
            self._server.refuse(self.id, Code.BAD_REQUEST, "too much data before the login; log in first")
        elif not self.protocol.eof_sent:
            answer = Answer(431, b'{"error": "the request is too large"}', {})
            self.respond(_response(answer))

    # --- events -----------------------------------------------------------------------------------------------------

    def _opened(self) -> None:
        self._handshake_timer.cancel()
        self.id = self._server.opened(self)

    def on_request(self, request: Request) -> None:
        self._handshake_timer.cancel()
        if self.protocol.parser_exc is not None:
            return  # the request has a body, which is not supported: the protocol has ended the connection
        answer = self._server.answer(request)
        if isinstance(answer, Answer):
            self.answer(request, answer)
        elif answer is not None:
            self._is_deaf = True
            self._answering = asyncio.get_running_loop().create_task(self._answer_later(request, answer))
        else:
            # `protocol` is a ServerProtocol at this end, which the shared class does not say.
            self.respond(self.protocol.accept(request))  # type: ignore[union-attr]
            request.headers.clear()  # the library keeps the request as long as the connection lasts
            if self.is_open:
                self._opened()

    async def _answer_later(self, request: Request, answer: Coroutine[None, None, Answer]) -> None:
        try:
            made = await answer
        except Exception:  # a fault of this program must not leave the client without an answer
            LOGGER.exception("a request over HTTP was not answered because of an internal error")
            made = Answer(500, b'{"error": "internal error"}', {})
        if self.protocol.state is State.CONNECTING:  # otherwise the connection has ended
            self.answer(request, made)

    def answer(self, request: Request, answer: Answer) -> None:
        """Answer an HTTP request."""
        self._server.answered(request, answer)
        self.respond(_response(answer))

    def on_text(self, text: bytes) -> None:
        self._server.received(self.id, text)

    def on_bad(self, code: Code, text: str, close_code: CloseCode = CloseCode.NORMAL_CLOSURE) -> None:
        self._server.refuse(self.id, code, text, close_code)

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


def _response(answer: Answer) -> Response:
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
