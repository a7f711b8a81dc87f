"""A WebSocket on a gevent socket, with websockets' Sans-I/O `ClientProtocol`.

It uses one file descriptor and one greenlet, the one that calls `read`. `send` never waits: a writer greenlet sends the
data that the socket does not accept at once, in order. So a server that does not read blocks only its own connection.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import gevent
from gevent import Greenlet, socket, ssl
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import CONNECTING, OPEN
from websockets.uri import parse_uri

from imsim.load.target import Target

_CHUNK = 1 << 16  # bytes per read
_CLOSE_TIMEOUT = 1.0  # seconds that a close waits for the server to close its side
_LARGEST_BACKLOG = 1 << 24  # bytes that may wait for a server that does not read


class TransportError(OSError):
    """The WebSocket could not be opened. The message is one line with the reason."""


class Transport:
    """An open WebSocket. `read` calls `on_text(data)` for each text message; `on_text` must not wait."""

    def __init__(self, sock: socket.socket, protocol: ClientProtocol, secure: bool, on_text: Callable[[bytes], None]):
        self._sock = sock
        self._protocol = protocol
        self._secure = secure
        self._on_text = on_text
        self._fragments: list[bytes] = []
        self._backlog = bytearray()
        self._corked = False  # true while `read` dispatches messages, so that their answers are sent together
        self._writer: Greenlet[..., None] | None = None
        self._close_timer: Greenlet[..., None] | None = None

    @classmethod
    def connect(cls, target: Target, timeout: float, on_text: Callable[[bytes], None], largest: int) -> Transport:
        """Connect and complete the handshake, within `timeout` seconds for each of the two.

        `largest` is the largest message in bytes that the server may send; a larger one ends the connection.
        Raises: TransportError if the WebSocket cannot be opened.
        """
        sock = None
        try:
            sock = socket.create_connection((target.host, target.port), timeout=timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.secure:
                sock = _tls().wrap_socket(sock, server_hostname=target.host)
            protocol = ClientProtocol(parse_uri(target.url), max_size=largest)
            transport = cls(sock, protocol, target.secure, on_text)
            transport._shake_hands()
            sock.settimeout(None)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, OSError | InvalidHandshake):
                raise TransportError(f"no WebSocket at {target.url}: {_reason(error)}") from None
            raise
        return transport

    def _shake_hands(self) -> None:
        protocol = self._protocol
        protocol.send_request(protocol.connect())
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
        """Send a text message (UTF-8), at once or after the messages that wait. Drop it if the connection has ended."""
        if self._protocol.state is OPEN:
            self._protocol.send_text(data)
            if not self._corked:
                self._flush()

    def close(self) -> None:
        """Send a close frame and dispatch no further messages.

        The connection ends when the server has closed its side, or after 1 s.
        """
        self._on_text = _ignore
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
            if frame.opcode is Opcode.TEXT and frame.fin:
                self._on_text(bytes(frame.data))
            elif frame.opcode in (Opcode.TEXT, Opcode.CONT):
                self._fragments.append(bytes(frame.data))
                if frame.fin:
                    whole, self._fragments = b"".join(self._fragments), []
                    self._on_text(whole)
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
