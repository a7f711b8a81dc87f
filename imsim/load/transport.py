"""The client's end of a WebSocket, for thousands of them in one process.

The event loop of gevent calls an open connection when data has arrived. So the connection needs no greenlet, and one
file descriptor. `send` never waits: data that the socket does not accept at once is sent later, in order. So a server
that does not read blocks only its own connection.

Only `connect` waits, in the greenlet that calls it. It uses no proxy, whatever the environment names.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import cache
from typing import Any

import gevent
from gevent import monkey, socket
from gevent.event import Event
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.protocol import CONNECTING
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from imsim.load.adapters.interface import Connect
from imsim.wire import websocket_frames as ws

_CHUNK = 1 << 16  # bytes per read
_CLOSE_TIMEOUT = 1.0  # seconds that a close waits for the server to close its side
_LARGEST_BACKLOG = 1 << 24  # bytes that may wait for a server that does not read

_READ, _WRITE = 1, 2  # events of the loop's watchers

# A socket of gevent has two watchers of its own and takes several calls for a read.
_Socket: Any = monkey.get_original("socket", "socket")


class TransportError(OSError):
    """The WebSocket could not be opened. The message is one line with the reason."""


class Transport:
    """An open WebSocket. `connect` makes it, and `listen` makes it receive.

    subprotocol: the one that the server chose, or None.
    """

    __slots__ = (
        "_backlog",
        "_head",
        "_is_corked",
        "_is_deaf",
        "_is_open",
        "_on_end",
        "_out",
        "_reader",
        "_received",
        "_sock",
        "_timer",
        "_tls",
        "_watcher",
        "_writer",
        "subprotocol",
    )

    def __init__(
        self,
        sock: socket.socket,
        tls: _Tls | None,
        received: bytes,
        subprotocol: str | None,
        largest: int,
        binary: bool,
        on_message: Callable[[bytes], None],
    ) -> None:
        self.subprotocol = subprotocol
        self._sock = _Socket(fileno=sock.detach())
        self._sock.setblocking(False)
        self._tls = tls
        self._received = received  # with the answer to the handshake
        self._reader = ws.FrameReader(largest, on_message, self._control)
        self._head = ws.WHOLE_BINARY if binary else ws.WHOLE_TEXT
        self._on_end: Callable[[], None] = _ignore
        self._out: list[bytes] = []  # frames that will be sent together
        self._backlog = bytearray()  # what the socket has not accepted
        self._is_open = True  # until a close frame is sent, or the connection ends
        self._is_corked = False  # true while messages are dispatched, so that their answers are sent together
        self._is_deaf = False  # whether to drop what the server sends from now on
        self._watcher: Any = gevent.get_hub().loop.io(self._sock.fileno(), _READ)
        self._writer: Any = None
        self._timer: Any = None

    @classmethod
    def connect(cls, to: Connect, largest: int, binary: bool, on_message: Callable[[bytes], None]) -> Transport:
        """Connect and complete the handshake, within `to.timeout` seconds for each step.

        largest: the largest message in bytes that the server may send; a larger one ends the connection.
        binary: whether the messages to the server are binary. Both kinds are received.
        on_message: called with each message in the event loop. So it must not wait, and it must not raise.

        Raises: TransportError if the WebSocket cannot be opened.
        """
        sock = None
        try:
            uri = parse_uri(to.url)
            sock = _connect(uri.host, uri.port, to.timeout)
            tls = _Tls(sock, uri.host) if uri.secure else None
            received, subprotocol = _shake_hands(sock, tls, uri, to)
            return cls(sock, tls, received, subprotocol, largest, binary, on_message)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, OSError | InvalidHandshake | InvalidURI):
                raise TransportError(f"no WebSocket at {to.url}: {_reason(error)}") from None
            raise

    def listen(self, on_end: Callable[[], None]) -> None:
        """Begin to receive. `on_end` is called in the event loop once the connection has ended, from either side.

        The messages that arrived together with the answer to the handshake are dispatched at once.
        """
        self._on_end = on_end
        if self._watcher is None:
            gevent.get_hub().loop.run_callback(on_end)
            return
        self._watcher.start(self._readable)
        received, self._received = self._received, b""
        self._dispatch(received)

    def send(self, payload: bytes) -> None:
        """Send a message, at once or after the messages that wait. Drop it if the connection is closed."""
        if self._is_open:
            frame = ws.masked(self._head, payload)
            if self._is_corked:
                self._out.append(frame)
            else:
                self._write(frame)

    def close(self) -> None:
        """Send a close frame and dispatch no further messages.

        The connection ends when the server has closed its side, or after 1 s.
        """
        self._send_close(ws.NORMAL)

    def join(self, timeout: float) -> None:
        """Wait until the connection has ended, for this many seconds at most. Then `on_end` is not called."""
        if self._watcher is not None:
            ended = Event()
            self._on_end = ended.set
            ended.wait(timeout)

    # --- in the event loop ------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:  # the connection was reset
            self._end()
            return
        if not data:
            self._end()
        elif not self._is_deaf:
            self._dispatch(data)

    def _dispatch(self, data: bytes) -> None:
        self._is_corked = True
        try:
            if self._tls is not None:
                data = self._tls.decrypt(data)
            self._reader.receive(data)
        except ws.FrameError as error:
            self._send_close(error.code)
        except ssl.SSLError:
            self._end()
        finally:
            self._is_corked = False
            if self._out or self._tls is not None:  # TLS may have something to send, too
                data = b"".join(self._out)
                self._out.clear()
                self._write(data)

    def _control(self, opcode: int, payload: bytes) -> bool:
        if opcode == ws.PING and self._is_open:
            self._out.append(ws.masked(ws.FIN | ws.PONG, payload))
        elif opcode == ws.CLOSE:
            self._send_close(int.from_bytes(payload[:2], "big") if len(payload) > 1 else None)
        return not self._is_deaf

    def _send_close(self, code: int | None) -> None:
        self._is_deaf = True
        self._reader.on_message = _drop
        if self._is_open:
            frame = ws.masked(ws.FIN | ws.CLOSE, b"" if code is None else code.to_bytes(2, "big"))
            self._is_open = False
            self._timer = gevent.get_hub().loop.timer(_CLOSE_TIMEOUT)
            self._timer.start(self._end)
            if self._is_corked:
                self._out.append(frame)
            else:
                self._write(frame)

    def _write(self, data: bytes) -> None:
        if self._tls is not None:
            data = self._tls.encrypt(data)
        if not data or self._watcher is None:
            return
        sent = 0
        if self._writer is None:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self._end()
                return
            if sent == len(data):
                return
            self._writer = gevent.get_hub().loop.io(self._sock.fileno(), _WRITE)
            self._writer.start(self._writable)
        self._backlog += data[sent:]
        if len(self._backlog) > _LARGEST_BACKLOG:
            self._end()

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._backlog)
        except BlockingIOError:
            return
        except OSError:
            self._end()
            return
        del self._backlog[:sent]
        if not self._backlog:
            _stop(self._writer)
            self._writer = None

    def _end(self) -> None:
        if self._watcher is None:
            return
        self._is_open, self._is_deaf = False, True
        self._reader.on_message = _drop
        _stop(self._watcher)
        self._watcher = None
        _stop(self._writer)
        self._writer = None
        _stop(self._timer)
        self._timer = None
        self._sock.close()
        # Not at once, because the caller may be in the middle of an input or of a send.
        gevent.get_hub().loop.run_callback(self._on_end)


def _stop(watcher: Any) -> None:
    if watcher is not None:
        watcher.stop()
        watcher.close()


def _ignore() -> None:
    pass


def _drop(message: bytes) -> None:
    pass


# --- the opening ----------------------------------------------------------------------------------------------------


def _connect(host: str, port: int, timeout: float) -> socket.socket:
    """Return a connected socket. Its further steps have this timeout, too."""
    error: OSError | None = None
    try:
        addresses = _addresses(host, port)
    except UnicodeError:
        raise OSError(f"not a valid host: {host[:80]!r}") from None
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address)
        except OSError as failure:
            sock.close()
            error = failure
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    _addresses.cache_clear()  # the server may have moved
    raise error or OSError("the name has no address")


@cache
def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """Return the families and addresses of a host. They are cached, because each look-up takes a thread."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def _shake_hands(sock: socket.socket, tls: _Tls | None, uri: WebSocketURI, to: Connect) -> tuple[bytes, str | None]:
    """Return the data that arrived with the answer, and the subprotocol that the server chose."""
    protocol = ClientProtocol(uri, subprotocols=[Subprotocol(name) for name in to.subprotocols] or None)
    request = protocol.connect()
    request.headers.update(to.headers)
    protocol.send_request(request)
    data = b"".join(protocol.data_to_send())
    sock.sendall(data if tls is None else tls.encrypt(data))
    answer, is_refused = b"", False
    while protocol.state is CONNECTING:
        data = sock.recv(_CHUNK)
        is_over = not data
        answer += data if tls is None else tls.decrypt(data)
        end = answer.find(b"\r\n\r\n") + 4
        if end > 3 and answer.startswith(b"HTTP/1.1 101") and not is_refused:
            protocol.receive_data(answer[:end])  # the rest is frames, which are not for the library
            answer = answer[end:]
        elif end > 3 or is_refused or is_over or len(answer) > _CHUNK:
            is_refused = True
            protocol.receive_data(answer)
            answer = b""
        if is_over:
            protocol.receive_eof()
        if protocol.handshake_exc is not None:
            raise protocol.handshake_exc
    return answer, protocol.subprotocol


class _Tls:
    """TLS of one connection, on a connected socket of which it needs only the data. It shakes hands at once."""

    __slots__ = ("_incoming", "_object", "_outgoing")

    def __init__(self, sock: socket.socket, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = _context().wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(self._outgoing.read())
                data = sock.recv(_CHUNK)
                if not data:
                    raise ConnectionError("the server closed the connection within the handshake of TLS") from None
                self._incoming.write(data)
            else:
                sock.sendall(self._outgoing.read())
                return

    def decrypt(self, data: bytes) -> bytes:
        """Return the plain bytes of what the server sent."""
        self._incoming.write(data)
        plain = []
        try:
            while data := self._object.read(_CHUNK):
                plain.append(data)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return b"".join(plain)

    def encrypt(self, data: bytes) -> bytes:
        """Return what to send to the server: these bytes, and what TLS itself has to send."""
        if data:
            self._object.write(data)
        return self._outgoing.read()


@cache
def _context() -> ssl.SSLContext:
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
