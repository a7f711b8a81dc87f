"""One end of a WebSocket connection: websockets' Sans-I/O protocol between an asyncio transport and its owner.

Server and client share it. It collects outgoing data and writes it once per loop iteration, reassembles fragmented
messages, and answers pings. It also limits the time of the closing handshake, and the bytes that wait for a peer that
does not read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from imsim.core.model import Code

CLOSE_TIMEOUT = 2.0  # seconds within which the peer must finish a closing handshake

# The level hides the two INFO lines that the library logs for each connection.
LOGGER = logging.getLogger("imsim.live.websocket")
LOGGER.setLevel(logging.WARNING)


def text_frame(text: bytes, *, mask: bool) -> bytes:
    """Return the bytes of a whole text message on the TCP connection.

    A client must mask. A server does not, so the same bytes serve all recipients.
    """
    return Frame(Opcode.TEXT, text).serialize(mask=mask)


class WebSocket(asyncio.Protocol):
    """One end of a WebSocket connection.

    A subclass overrides the `on_...` methods. They may send and close, because all writing waits for `flush`.
    """

    __slots__ = (
        "_ended",
        "_eof",
        "_fragments",
        "_out",
        "_scheduled",
        "_timer",
        "_transport",
        "protocol",
        "write_limit",
    )

    _transport: asyncio.Transport

    def __init__(self, protocol: ServerProtocol | ClientProtocol, write_limit: int | None = None) -> None:
        self.protocol = protocol
        self.write_limit = write_limit  # bytes; `on_slow` is called when more than this is unread
        self._out: list[bytes] = []
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

    def on_bad(self, code: Code, text: str) -> None:
        """Handle a violation of the protocol by the peer. Frames sent from here precede the close frame."""

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
            self._schedule()

    def ping(self, payload: bytes) -> None:
        """Send a ping."""
        self.protocol.send_ping(payload)
        self._collect()

    def respond(self, response: Response) -> None:
        """Answer the HTTP request. Any status except 101 ends the connection."""
        cast(ServerProtocol, self.protocol).send_response(response)
        self._collect()

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
        """Drop the connection and all queued data at once."""
        self._transport.abort()

    # --- the transport ----------------------------------------------------------------------------------------------
    # TCP_NODELAY needs no call: asyncio and uvloop set it on every TCP transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        protocol = self.protocol
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Frame):
                self._frame_received(event)
            elif isinstance(event, Request):
                self.on_request(event)
            else:
                self.on_response(event)
        if protocol.parser_exc is not None:
            code = Code.TOO_LARGE if isinstance(protocol.parser_exc, PayloadTooBig) else Code.BAD_FRAME
            self.on_bad(code, str(protocol.parser_exc))
        self._collect()

    def eof_received(self) -> None:
        self.protocol.receive_eof()
        self._collect()
        self.flush()  # now, because the transport closes when this method returns

    def connection_lost(self, exc: Exception | None) -> None:
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
            if self.write_limit is not None and transport.get_write_buffer_size() > self.write_limit:
                self.write_limit = None
                out.clear()
                self.on_slow()
                self._collect()
            transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
        if self._eof:
            self._eof = False
            # After a half-close the peer can still read what this side wrote; this side discards what the peer sends.
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()

    # --- private ----------------------------------------------------------------------------------------------------

    def _frame_received(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            self.on_text(bytes(frame.data))
        elif opcode is Opcode.PONG:
            self.on_pong(bytes(frame.data))
        elif opcode is Opcode.BINARY:
            self.on_bad(Code.BAD_FRAME, "message: must be JSON text (got a binary message)")
        elif opcode is Opcode.TEXT:
            self._fragments = [bytes(frame.data)]
        elif opcode is Opcode.CONT and self._fragments is not None:
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                text, self._fragments = b"".join(self._fragments), None
                self.on_text(text)

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
            asyncio.get_running_loop().call_soon(self.flush)
