"""A WebSocket on a gevent socket, with websockets' Sans-I/O `ClientProtocol`.

It uses one file descriptor and one greenlet, the one that calls `read`. `send` never waits: a writer greenlet sends the
data that the socket does not accept at once, in order. So a server that does not read blocks only its own connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import gevent
from gevent import Greenlet, socket, ssl
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import CONNECTING, OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from imsim.load.adapters.interface import Connect

_CHUNK = 1 << 16  # bytes per read
_CLOSE_TIMEOUT = 1.0  # seconds that a close waits for the server to close its side
_LARGEST_BACKLOG = 1 << 24  # bytes that may wait for a server that does not read


class TransportError(OSError):
    """The WebSocket could not be opened. The message is one line with the reason."""


class Transport:
    """An open WebSocket. `read` calls `on_message(data)` for each message; `on_message` must not wait.

    `binary`: whether the messages to the server are binary. Both kinds are received.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: ClientProtocol,
        secure: bool,
        binary: bool,
        on_message: Callable[[bytes], None],
    ) -> None:
        self._sock = sock
        self._protocol = protocol
        self._secure = secure
        self._send = protocol.send_binary if binary else protocol.send_text
        self._on_message = on_message
        self._fragments: list[bytes] = []
        self._backlog = bytearray()
        self._corked = False  # true while `read` dispatches messages, so that their answers are sent together
        self._writer: Greenlet[..., None] | None = None
        self._close_timer: Greenlet[..., None] | None = None

    @classmethod
    def connect(cls, to: Connect, largest: int, binary: bool, on_message: Callable[[bytes], None]) -> Transport:
        """Connect and complete the handshake, within `to.timeout` seconds for each of the two.

        `largest` is the largest message in bytes that the server may send; a larger one ends the connection.
        Raises: TransportError if the WebSocket cannot be opened.
        """
        sock = None
        try:
            uri = parse_uri(to.url)
            sock = socket.create_connection((uri.host, uri.port), timeout=to.timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if uri.secure:
                sock = _tls().wrap_socket(sock, server_hostname=uri.host)
            subprotocols = [Subprotocol(name) for name in to.subprotocols] or None
            protocol = ClientProtocol(uri, subprotocols=subprotocols, max_size=largest)
            transport = cls(sock, protocol, uri.secure, binary, on_message)
            transport._shake_hands(to.headers)
            sock.settimeout(None)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, OSError | InvalidHandshake | InvalidURI):
                raise TransportError(f"no WebSocket at {to.url}: {_reason(error)}") from None
            raise
        return transport

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server chose."""
        return self._protocol.subprotocol

    def _shake_hands(self, headers: Iterable[tuple[str, str]]) -> None:
        protocol = self._protocol
        request = protocol.connect()
        request.headers.update(headers)
        protocol.send_request(request)
        self._sock.sendall(b"".join(protocol.data_to_send()))
        while protocol.state is CONNECTING:  # data that arrives with the answer may already close the connection
            data = self._sock.recv(_CHUNK)
            if data:
                protocol.receive_data(data)
            else:
                protocol.receive_eof()
            if protocol.handshake_exc is not None:
                raise protocol.handshake_exc

    def read(self) -> None:
        """Dispatch messages until the connection has ended, for any reason and from either side."""
        protocol, sock = self._protocol, self._sock
        try:
            self._dispatch()  # the messages that arrived together with the answer to the handshake
            while data := sock.recv(_CHUNK):
                protocol.receive_data(data)
                self._dispatch()
            protocol.receive_eof()
        except OSError:
            pass  # the connection was reset, or this side closed it
        finally:
            self._close_socket()

    def send(self, data: bytes) -> None:
        """Send a message, at once or after the messages that wait. Drop it if the connection has ended."""
        if self._protocol.state is OPEN:
            self._send(data)
            if not self._corked:
                self._flush()

    def close(self) -> None:
        """Send a close frame and dispatch no further messages.

        The connection ends when the server has closed its side, or after 1 s.
        """
        self._on_message = _ignore
        if self._protocol.state is OPEN:
            self._protocol.send_close(1000)
            self._flush()
        self._end_soon()

    def _end_soon(self) -> None:
        if self._close_timer is None:
            self._close_timer = gevent.spawn_later(_CLOSE_TIMEOUT, self._close_socket)

    def _dispatch(self) -> None:
        self._corked = True
        for frame in self._protocol.events_received():
            if isinstance(frame, Response):
                continue
            assert isinstance(frame, Frame)
            if frame.opcode is not Opcode.CONT and frame.opcode in DATA_OPCODES and frame.fin:
                self._on_message(bytes(frame.data))
            elif frame.opcode in DATA_OPCODES:
                self._fragments.append(bytes(frame.data))
                if frame.fin:
                    whole, self._fragments = b"".join(self._fragments), []
                    self._on_message(whole)
        self._corked = False
        self._flush()
        if self._protocol.close_expected():
            self._end_soon()

    def _flush(self) -> None:
        data = b"".join(self._protocol.data_to_send())  # an empty item means end of stream; `_close_socket` does that
        if not data:
            return
        if self._writer is None and not self._secure:
            try:
                sent = self._sock.send(data, 0, 0.0)  # type: ignore[call-arg]  # gevent's timeout argument: 0 raises instead of waiting
                data = data[sent:]
            except BlockingIOError:
                pass
            except OSError:
                self._close_socket()
                return
        if data:
            self._backlog += data
            if len(self._backlog) > _LARGEST_BACKLOG:
                self._close_socket()
            elif self._writer is None:
                self._writer = gevent.spawn(self._write)

    def _write(self) -> None:
        try:
            while self._backlog:
                data = bytes(self._backlog)
                self._backlog.clear()
                self._sock.sendall(data)
        except OSError:
            self._close_socket()
        finally:
            self._writer = None

    def _close_socket(self) -> None:
        self._sock.close()  # wakes the reader and the writer
        if self._close_timer is not None and self._close_timer is not gevent.getcurrent():
            self._close_timer.kill(block=False)


def _ignore(data: bytes) -> None:
    pass


@cache
def _tls() -> ssl.SSLContext:
    # The context is cached, because loading the certificates takes tens of milliseconds.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def _reason(error: BaseException) -> str:
    if isinstance(error, InvalidStatus):
        return f"HTTP {error.response.status_code} in answer to the WebSocket handshake"
    if isinstance(error, TimeoutError):
        return "no answer within the timeout"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
