"""One end of a WebSocket connection: websockets' Sans-I/O protocol between an asyncio transport and its owner.

Server and client share it. It gathers what is to be written and writes it once per loop iteration, puts fragmented
messages together, answers pings, and bounds both the closing handshake and what waits for a peer that does not read.
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

CLOSE_TIMEOUT = 2.0  # seconds that the peer has to finish a closing handshake

# The library logs two lines a connection at level INFO.
LOGGER = logging.getLogger("imsim.live.websocket")
LOGGER.setLevel(logging.WARNING)


def text_frame(text: bytes, *, mask: bool) -> bytes:
    """A whole text message as it goes over TCP. Clients mask; what a server sends is the same for all recipients."""
    return Frame(Opcode.TEXT, text).serialize(mask=mask)


class WebSocket(asyncio.Protocol):
    """The `on_...` methods are its owner's to override; they may send and close, as all writing waits for `flush`."""

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
        self.write_limit = write_limit  # bytes; more than that unread: `on_slow`
        self._out: list[bytes] = []
        self._fragments: list[bytes] | None = None  # of the message being received
        self._scheduled = False
        self._ended = False  # a close frame, or an HTTP refusal, is on its way out
        self._eof = False  # half-close with the next flush
        self._timer: asyncio.TimerHandle | None = None

    # --- for the owner ----------------------------------------------------------------------------------------------

    def on_request(self, request: Request) -> None:
        """Server: the peer's HTTP request; answer it with `respond`."""

    def on_response(self, response: Response) -> None:
        """Client: the answer to the opening handshake, good or bad."""

    def on_text(self, text: bytes) -> None: ...

    def on_pong(self, payload: bytes) -> None: ...

    def on_bad(self, code: Code, text: str) -> None:
        """The peer broke the protocol. What is sent from here still goes out before the close frame."""

    def on_slow(self) -> None:
        """The peer does not read. What waited in this end is dropped."""

    def on_lost(self) -> None:
        """The connection is over; last call."""

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: after the opening handshake, before the closing one."""
        return self.protocol.state is State.OPEN

    def address(self, name: str) -> object:
        """`peername` or `sockname`, as asyncio's transports tell it."""
        return self._transport.get_extra_info(name)

    def send(self, wire: bytes) -> None:
        """Write a message made by `text_frame`; the end of the loop iteration sends it. Dropped once closing."""
        if not self._ended:
            self._out.append(wire)
            self._schedule()

    def ping(self, payload: bytes) -> None:
        self.protocol.send_ping(payload)
        self._collect()

    def respond(self, response: Response) -> None:
        """Answer the HTTP request; any status but 101 ends the connection."""
        cast(ServerProtocol, self.protocol).send_response(response)
        self._collect()

    def request(self) -> None:
        """Begin the opening handshake."""
        protocol = cast(ClientProtocol, self.protocol)
        protocol.send_request(protocol.connect())
        self._collect()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection after what was sent, at the latest after CLOSE_TIMEOUT seconds."""
        if self.is_open:
            self.protocol.send_close(code, reason)
            self._collect()
        elif self.protocol.state is State.CONNECTING:
            self.abort()

    def abort(self) -> None:
        """Drop the connection at once, with all that waits in it."""
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
        self.flush()  # the transport closes when this returns

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.protocol.state is not State.CLOSED:
            self.protocol.receive_eof()
        self.on_lost()

    def flush(self) -> None:
        """Write what was sent."""
        self._scheduled = False
        transport, out = self._transport, self._out
        if transport.is_closing():
            out.clear()
            return
        if out:
            # Only what waited before counts: a single large message is no sign of a slow reader.
            if self.write_limit is not None and transport.get_write_buffer_size() > self.write_limit:
                self.write_limit = None
                out.clear()
                self.on_slow()
                self._collect()
            transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
        if self._eof:
            self._eof = False
            # Half-closed, the peer can still read what we wrote while we discard what it is still sending.
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _frame_received(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            self.on_text(bytes(frame.data))
        elif opcode is Opcode.PONG:
            self.on_pong(bytes(frame.data))
        elif opcode is Opcode.BINARY:
            self.on_bad(Code.BAD_FRAME, "a binary message; frames are JSON text")
        elif opcode is Opcode.TEXT:
            self._fragments = [bytes(frame.data)]
        elif opcode is Opcode.CONT and self._fragments is not None:
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                text, self._fragments = b"".join(self._fragments), None
                self.on_text(text)

    def _collect(self) -> None:
        """Take over what the protocol itself has to say: handshakes, pongs, close frames."""
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
