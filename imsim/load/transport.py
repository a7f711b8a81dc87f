"""One WebSocket on a gevent socket, around websockets' Sans-I/O `ClientProtocol`.

One file descriptor and one greenlet: whoever calls `read` is the reader. `send` never waits: what the socket does not
take at once, a writer greenlet sends in order; so a server that does not read holds up nobody but itself.
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

_CHUNK = 1 << 16
_LINGER = 1.0  # seconds that a close waits for the server to hang up
_LONGEST_BACKLOG = 1 << 24  # bytes that may wait for a server that does not read


class TransportError(OSError):
    """No WebSocket could be opened; one line that says why."""


class Transport:
    """An open connection. `on_text(data)` gets each text message, from within `read`; it must not wait."""

    def __init__(self, sock: socket.socket, protocol: ClientProtocol, secure: bool, on_text: Callable[[bytes], None]):
        self._sock = sock
        self._protocol = protocol
        self._secure = secure
        self._on_text = on_text
        self._fragments: list[bytes] = []
        self._backlog = bytearray()
        self._corked = False  # while messages are handed out: their answers leave together
        self._writer: Greenlet[..., None] | None = None
        self._linger: Greenlet[..., None] | None = None

    @classmethod
    def connect(cls, target: Target, timeout: float, on_text: Callable[[bytes], None], largest: int) -> Transport:
        """Open a connection and shake hands, within `timeout` seconds for each of them. `largest`: bytes of one
        message; a server that sends more is hung up on.

        Raises: TransportError.
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
        while protocol.state is CONNECTING:  # what comes together with the answer may end it at once
            data = self._sock.recv(_CHUNK)
            if data:
                protocol.receive_data(data)
            else:
                protocol.receive_eof()
            if protocol.handshake_exc is not None:
                raise protocol.handshake_exc

    def read(self) -> None:
        """Hand out messages until the connection has ended, whoever ended it and why ever."""
        protocol, sock = self._protocol, self._sock
        try:
            self._dispatch()  # what came together with the handshake's answer
            while data := sock.recv(_CHUNK):
                protocol.receive_data(data)
                self._dispatch()
            protocol.receive_eof()
        except OSError:
            pass  # reset, or closed by ourselves
        finally:
            self._hang_up()

    def send(self, data: bytes) -> None:
        """Send a text message (UTF-8) at once or, behind others, later. On an ended connection it is dropped."""
        if self._protocol.state is OPEN:
            self._protocol.send_text(data)
            if not self._corked:
                self._flush()

    def close(self) -> None:
        """Say goodbye, hand out nothing more, and end: when the server has hung up too, or after a second."""
        self._on_text = _nobody
        if self._protocol.state is OPEN:
            self._protocol.send_close(1000)
            self._flush()
        self._end_soon()

    def _end_soon(self) -> None:
        if self._linger is None:
            self._linger = gevent.spawn_later(_LINGER, self._hang_up)

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
        data = b"".join(self._protocol.data_to_send())  # an end of stream is empty: the socket's close says it
        if not data:
            return
        if self._writer is None and not self._secure:
            try:
                sent = self._sock.send(data, 0, 0.0)  # type: ignore[call-arg]  # gevent's own: raise, do not wait
                data = data[sent:]
            except BlockingIOError:
                pass
            except OSError:
                self._hang_up()
                return
        if data:
            self._backlog += data
            if len(self._backlog) > _LONGEST_BACKLOG:
                self._hang_up()
            elif self._writer is None:
                self._writer = gevent.spawn(self._write)

    def _write(self) -> None:
        try:
            while self._backlog:
                data = bytes(self._backlog)
                self._backlog.clear()
                self._sock.sendall(data)
        except OSError:
            self._hang_up()
        finally:
            self._writer = None

    def _hang_up(self) -> None:
        self._sock.close()  # wakes the reader and the writer
        if self._linger is not None and self._linger is not gevent.getcurrent():
            self._linger.kill(block=False)


def _nobody(data: bytes) -> None:
    pass


@cache
def _tls() -> ssl.SSLContext:
    # Made once: loading the certificates takes tens of milliseconds.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def _reason(error: BaseException) -> str:
    if isinstance(error, InvalidStatus):
        return f"the server answers HTTP {error.response.status_code}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
