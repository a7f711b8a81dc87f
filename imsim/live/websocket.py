"""One end of a WebSocket connection: websockets' Sans-I/O protocol between an asyncio transport and its owner.

A server reads whole text frames and writes its own text frames without the library, because nearly all frames are of
this kind and the library takes four times as long. It also answers the usual handshake. The library handles all the
rest: other HTTP requests, control frames, fragments, and errors.

Server and client share it. It collects outgoing data and writes it once per loop iteration, reassembles fragmented
messages, and answers pings. It also limits the time of the closing handshake, and the bytes that wait for a peer that
does not read.

A connection may handle only a share of what it received in one iteration of the event loop (a turn). So a peer that
sends thousands of tiny frames at once delays the other connections by one share, not by all its frames.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import cast

from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from imsim.core.model import Code
from imsim.live.handshake import answer_to_usual
from imsim.live.log import LOGGER
from imsim.live.turn import PAUSE
from imsim.wire.websocket_frames import CONTROL, FIN, LENGTH_16, MASKED, WHOLE_TEXT, apply_mask, frame_size

CLOSE_TIMEOUT = 2.0  # seconds within which the peer must finish a closing handshake

SHARE = 128  # the work of one connection in one turn, in control frames and fragments
MESSAGE_WORK = 8  # the work of a message, in the same unit
_SLICE = 384  # bytes that the parser gets at a time: 64 frames of a client at most, because each has 6 bytes or more

_HIGH_WATER = 1 << 16  # bytes that may wait in a transport before it calls `pause_writing`; asyncio's default

_LARGEST_TEXT = (1 << 16) - 1  # bytes; the library handles longer messages, because it copies them less often

_OPCODES = frozenset(Opcode)

# Values of `WebSocket._left`, besides a count of bytes.
_HEAD = -1  # an HTTP request is expected, and the library has got nothing yet
_UNKNOWN = -2  # it is not known where frames begin, so the library gets everything


class _ReadBuffer(threading.local):
    """The buffer into which all connections of a thread read, one after another.

    Without it, asyncio allocates 256 KiB for each read, which costs as much as the read.
    """

    def __init__(self) -> None:
        self.view = memoryview(bytearray(1 << 16))


_READ_BUFFER = _ReadBuffer()


class Flushes:
    """The connections that have data to write. They write it together, in the next iteration of the event loop."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[WebSocket] = []

    def add(self, connection: WebSocket) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(connection)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            try:
                connection.flush()
            except Exception:  # a fault of this program must not end more than this connection
                LOGGER.exception("a connection was dropped because of an internal error")
                connection.abort()


class WebSocket(asyncio.BufferedProtocol):
    """One end of a WebSocket connection.

    A subclass overrides the `on_...` methods. They may send and close, because all writing waits for `flush`.
    """

    __slots__ = (
        "_ended",
        "_eof",
        "_events",
        "_flushes",
        "_fragments",
        "_is_deaf",
        "_is_paused",
        "_is_waiting",
        "_largest_text",
        "_left",
        "_out",
        "_position",
        "_read_buffer",
        "_scheduled",
        "_timer",
        "_transport",
        "_unread",
        "protocol",
        "write_limit",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        protocol: ServerProtocol | ClientProtocol,
        write_limit: int | None = None,
        flushes: Flushes | None = None,
    ) -> None:
        """Create an end that writes together with the others of `flushes`."""
        self.protocol = protocol
        self.write_limit = write_limit  # bytes; `on_slow` is called when more than this is unread
        self._out: list[bytes] = []
        self._unread = b""  # received, but not parsed, from `_position` on
        self._position = 0
        self._flushes = flushes or Flushes()
        # The count of bytes of a frame that the library has begun to parse, but has not got yet. A text frame can
        # bypass the library only if this is 0. At a client's end, all frames go through the library.
        self._left = _UNKNOWN
        self._largest_text = min(protocol.max_message_size or _LARGEST_TEXT, _LARGEST_TEXT)
        if isinstance(protocol, ServerProtocol):
            self._left = 0 if protocol.state is State.OPEN else _HEAD
        self._events: list[Request | Response | Frame] = []  # parsed, but not handled; an empty deque takes 600 bytes
        self._is_paused = False  # whether the transport reads nothing, because earlier data waits for the next turn
        self._is_waiting = False  # whether much of what was written waits in the transport
        self._is_deaf = False  # whether to drop what the peer sends from now on
        self._fragments: list[bytes] | None = None  # of the message being received
        self._scheduled = False
        self._ended = False  # whether a close frame, or an HTTP refusal, has been queued
        self._eof = False  # whether the next flush half-closes the TCP connection
        self._timer: asyncio.TimerHandle | None = None

    # --- for the owner ----------------------------------------------------------------------------------------------

    def on_request(self, request: Request) -> None:
        """Handle the peer's HTTP request (server only). Answer it with `respond`."""

    def on_response(self, response: Response) -> None:
        """Handle the answer to the opening handshake, whether it accepts or refuses (client only)."""

    def on_text(self, text: bytes) -> None:
        """Handle a text message."""

    def on_pong(self, payload: bytes) -> None:
        """Handle the answer to a ping."""

    def on_bad(self, code: Code, text: str, close_code: CloseCode = CloseCode.NORMAL_CLOSURE) -> None:
        """Handle a violation of the protocol by the peer. Frames sent from here precede the close frame.

        `close_code` is the code that this close frame should have, unless the library has already made one.
        """

    def on_slow(self) -> None:
        """Handle a peer that does not read. The data that waited on this side has been dropped."""

    def on_lost(self) -> None:
        """Handle the end of the connection. It is the last call."""

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: after the opening handshake, before the closing one."""
        return self.protocol.state is State.OPEN

    def address(self, name: str) -> object:
        """Return extra information of the asyncio transport, such as `peername` or `sockname`."""
        return self._transport.get_extra_info(name)

    def send(self, wire: bytes) -> None:
        """Queue a message made by `text_frame`. It is sent at the end of the loop iteration.

        Once the connection is closing, the message is dropped.
        """
        if not self._ended:
            self._out.append(wire)
            if not self._scheduled:
                self._scheduled = True
                self._flushes.add(self)

    def ping(self, payload: bytes) -> None:
        """Send a ping."""
        self.protocol.send_ping(payload)
        self._collect()

    def respond(self, response: Response) -> None:
        """Answer the HTTP request. Any status except 101 ends the connection."""
        cast(ServerProtocol, self.protocol).send_response(response)
        self._collect()

    def open_at_once(self, head: bytes) -> bool:
        """Answer the HTTP request if it is a usual handshake. Return whether it was; otherwise, nothing has changed.

        `head` is the first that the peer has sent, and the library has not got it. Afterwards the protocol is in the
        state in which the library would have left it.
        """
        protocol = self.protocol
        is_first = self._left == _HEAD and protocol.state is State.CONNECTING
        if not is_first or protocol.logger.isEnabledFor(logging.INFO):  # the library logs at this level
            return False
        answer = answer_to_usual(head, time.time())
        if answer is None:
            return False
        cast(ServerProtocol, protocol).accept_called = True
        protocol.state = State.OPEN
        protocol.parser = protocol.parse()
        next(protocol.parser)
        self._left = 0
        self._out.append(answer)
        self._schedule()
        return True

    def request(self) -> None:
        """Begin the opening handshake."""
        protocol = cast(ClientProtocol, self.protocol)
        protocol.send_request(protocol.connect())
        self._collect()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send the queued data and a close frame, then end the connection, after CLOSE_TIMEOUT seconds at the latest.

        Before the opening handshake is complete, end the connection at once.
        """
        if self.is_open:
            self.protocol.send_close(code, reason)
            self._collect()
        elif self.protocol.state is State.CONNECTING:
            self.abort()

    def abort(self) -> None:
        """Drop the connection at once, and all data that waits to be handled or written."""
        self.forget_unread()
        self._transport.abort()

    # --- the transport ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._read_buffer = _READ_BUFFER.view
        if self.write_limit is not None and self.write_limit < _HIGH_WATER:
            self._transport.set_write_buffer_limits(high=self.write_limit)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._read_buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Handle data from the peer."""
        if self._unread:
            self.keep_unread(data)
        else:
            self._unread = data
        if not self._is_paused:
            self.read()

    def keep_unread(self, data: bytes) -> None:
        """Add the data to the data that was received but not parsed."""
        self._unread = self._unread[self._position :] + data if self._unread else data
        self._position = 0

    def forget_unread(self) -> None:
        """Drop the data that was received but not handled."""
        self._unread = b""
        self._position = 0
        self._events.clear()

    def read(self, share: int = SHARE) -> None:
        """Handle received data, but not more than `share`. Then let other connections have their turn."""
        try:
            is_done = self._read(share)
        except Exception:  # a fault of this program must not end more than this connection
            LOGGER.exception("a connection was dropped because of an internal error")
            self.abort()
            return
        if is_done and self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        elif not is_done:
            self.read_later()

    def read_later(self) -> None:
        """Call `read` after a pause."""
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        asyncio.get_running_loop().call_later(PAUSE, self.read)

    def eof_received(self) -> bool | None:
        self.forget_unread()
        self.protocol.receive_eof()
        self._collect()
        self.flush()  # now, because the transport closes when this method returns
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget_unread()
        if self._timer is not None:
            self._timer.cancel()
        if self.protocol.state is not State.CLOSED:
            self.protocol.receive_eof()
        self.on_lost()

    def flush(self) -> None:
        """Write the queued data to the transport."""
        self._scheduled = False
        transport, out = self._transport, self._out
        if transport.is_closing():
            out.clear()
            return
        if out:
            # Only the data of earlier flushes counts: a single large message does not mean that the reader is slow.
            if self._is_waiting and self.write_limit is not None:
                self._check_reader(self.write_limit)
            transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
        if self._eof:
            self._half_close()

    # asyncio calls these two methods if the transport has more data than its limit, and when it has less again.

    def pause_writing(self) -> None:
        self._is_waiting = True

    def resume_writing(self) -> None:
        self._is_waiting = False
        if self._eof:
            asyncio.get_running_loop().call_soon(self._half_close)

    # --- private ----------------------------------------------------------------------------------------------------

    def _check_reader(self, write_limit: int) -> None:
        """Call `on_slow` if more than the limit waits in the transport."""
        if self._transport.get_write_buffer_size() > write_limit:
            self.write_limit = None
            self._out.clear()
            self.on_slow()
            self._collect()

    def _half_close(self) -> None:
        """End the data that this side sends. The peer can still read it; this side discards what the peer sends."""
        transport = self._transport
        if transport.is_closing():
            return
        if not transport.can_write_eof():
            self._eof = False
            transport.close()
        elif transport.get_write_buffer_size():
            # The transport would half-close later by itself, but then an error would be logged with a traceback.
            transport.set_write_buffer_limits(high=0)
        else:
            self._eof = False
            try:
                transport.write_eof()
            except OSError:  # the peer has already reset the connection
                transport.abort()

    def _read(self, share: int) -> bool:
        """Handle received data, but not more than `share`.

        Return whether everything has been handled, except the beginning of a frame that is not complete.
        """
        protocol, events = self.protocol, self._events
        while True:
            if not events and not self._left:
                share = self._read_texts(share)
            start = self._position
            if not events and start >= len(self._unread):
                self._unread, self._position = b"", 0
                return True
            if share <= 0:
                return False
            if not events:
                size = self._size_for_library()
                if not size:
                    return True
                self._position = start + size
                protocol.receive_data(self._unread[start : start + size])
                events.extend(protocol.events_received())
            while events:
                if share <= 0:
                    return False
                event = events.pop(0)
                if isinstance(event, Frame):
                    share -= self._frame_received(event)
                elif isinstance(event, Request):
                    share -= MESSAGE_WORK
                    self.on_request(event)
                    if self._left == _HEAD and self.is_open:
                        self._left = 0
                else:
                    self.on_response(event)
            if protocol.parser_exc is not None and not self._is_deaf:
                self._is_deaf = True
                code = Code.TOO_LARGE if isinstance(protocol.parser_exc, PayloadTooBig) else Code.BAD_FRAME
                self.on_bad(code, str(protocol.parser_exc))
            self._collect()  # after the events, so that a pong follows the answers to the messages before its ping
            if self._is_deaf or protocol.eof_sent:  # the rest means nothing
                self.forget_unread()

    def _read_texts(self, share: int) -> int:
        """Handle the text messages that have arrived whole, up to the next other frame. Return what is left of `share`.

        It does exactly what the library would do with them.
        """
        while share > 0 and not self._ended and self._fragments is None:
            data, start = self._unread, self._position  # the owner can drop both
            if len(data) < start + 2 or data[start] != WHOLE_TEXT:
                break
            size = data[start + 1] - MASKED
            mask = start + 2
            if size == LENGTH_16 and len(data) >= start + 4:
                size = data[start + 2] << 8 | data[start + 3]
                mask = start + 4
            elif not 0 <= size < LENGTH_16:
                break
            end = mask + 4 + size
            if end > len(data) or size > self._largest_text:
                break
            self._position = end
            share -= MESSAGE_WORK
            self.on_text(apply_mask(data[mask + 4 : end], data[mask : mask + 4]))
        return share

    def _size_for_library(self) -> int:
        """Return how many of the unread bytes the library gets next. Return 0 to wait for more bytes.

        The library gets whole frames if possible, so that it is known where the next frame begins. Text messages are
        not among them if `_read_texts` can handle them.
        """
        data, start = self._unread, self._position
        if self._left == _HEAD:
            end = data.find(b"\r\n\r\n", start) + 4
            if end > 3:
                return end - start
            self._left = _UNKNOWN
        if self._left == _UNKNOWN:
            return _SLICE
        limit = min(start + _SLICE, len(data))
        end = start + self._left
        may_bypass = not self._ended and self._fragments is None
        while end < limit and (end == start or not may_bypass or data[end] != WHOLE_TEXT):
            size = frame_size(data, end)
            if not size:
                if end == start and len(data) > end + 1 and not _may_begin_frame(data[end], data[end + 1]):
                    self._left = _UNKNOWN  # the library refuses it, so nothing of interest follows
                    return len(data) - start
                break
            if end == start and may_bypass and end + size > len(data) and self._is_short_text(end, size):
                break
            end += size
            if data[end - size] & (FIN | CONTROL) == FIN:
                break  # the end of a message, after which the owner may close the connection
        self._left = max(0, end - limit)
        return min(end, limit) - start

    def _is_short_text(self, start: int, size: int) -> bool:
        """Return whether `_read_texts` can handle this frame of `size` bytes once all of it has arrived."""
        data = self._unread
        return data[start] == WHOLE_TEXT and data[start + 1] & MASKED > 0 and size <= self._largest_text

    def _frame_received(self, frame: Frame) -> int:
        """Handle a frame, and return how much work it was."""
        opcode = frame.opcode
        if self._ended:
            pass
        elif opcode is Opcode.TEXT and frame.fin:
            self.on_text(bytes(frame.data))
            return MESSAGE_WORK
        elif opcode is Opcode.PONG:
            self.on_pong(bytes(frame.data))
        elif opcode is Opcode.BINARY:
            text = "message: must be JSON text (got a binary message)"
            self.on_bad(Code.BAD_FRAME, text, CloseCode.UNSUPPORTED_DATA)
        elif opcode is Opcode.TEXT:
            self._fragments = [bytes(frame.data)]
        elif opcode is Opcode.CONT and self._fragments is not None:
            if frame.data or frame.fin:
                self._fragments.append(bytes(frame.data))
            if frame.fin:
                message, self._fragments = b"".join(self._fragments), None
                self.on_text(message)
                return MESSAGE_WORK
        return 1

    def _collect(self) -> None:
        """Queue the data that the protocol itself sends: handshakes, pongs and close frames."""
        protocol = self.protocol
        for data in protocol.data_to_send():
            self._schedule()
            if data:
                self._out.append(data)
            else:
                self._eof = True
        if not self._ended and protocol.close_expected():
            self._ended = True
            self._timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.abort)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._flushes.add(self)


def _may_begin_frame(first: int, second: int) -> bool:
    """Return whether a client's frame can begin with these two bytes. A client must mask."""
    return first & 0x0F in _OPCODES and second & MASKED > 0
