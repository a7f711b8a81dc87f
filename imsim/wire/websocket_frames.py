"""Frames of WebSocket connections (RFC 6455): what both ends of imsim's own connections and of a load test share.

`websockets` has all of this, too. These functions take a third to a tenth of its time for one frame.
"""

from __future__ import annotations

import random
from collections.abc import Callable

try:
    from websockets.speedups import apply_mask as apply_mask  # `imsim.live.websocket` uses it, too
except ImportError:  # websockets without its C extension
    from websockets.utils import apply_mask as apply_mask

#: The first byte of a frame that is a whole message of text, or of bytes.
WHOLE_TEXT, WHOLE_BINARY = 0x81, 0x82
FIN, CONTROL = 0x80, 0x08  # bits in the first byte of a frame: the last one of a message; a control frame
MASKED = 0x80  # in the second byte of a frame; its other bits are the length
LENGTH_16 = 126  # the length is in the next 2 bytes; 127: in the next 8 bytes

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

NORMAL, PROTOCOL_ERROR, TOO_BIG = 1000, 1002, 1009  # codes of close frames

_OPCODE = 0x0F
_RESERVED = 0x70  # bits of extensions, of which there is none
_LONGEST_CONTROL = 125  # bytes
_random_bits = random.Random().getrandbits  # not `secrets`, which takes a system call for each mask


def text_frame(text: bytes, *, mask: bool) -> bytes:
    """Return the bytes of a whole text message on the TCP connection.

    A client must mask. A server does not, so the same bytes serve all recipients.
    """
    return masked(WHOLE_TEXT, text) if mask else unmasked(WHOLE_TEXT, text)


def unmasked(head: int, payload: bytes) -> bytes:
    """Return a frame of a server. `head` is its first byte."""
    size = len(payload)
    if size < LENGTH_16:
        return b"%c%c%b" % (head, size, payload)
    if size < 1 << 16:
        return b"%c\x7e%b%b" % (head, size.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (head, size.to_bytes(8, "big"), payload)


def masked(head: int, payload: bytes) -> bytes:
    """Return a frame of a client, with a random mask. `head` is its first byte."""
    size = len(payload)
    mask = _random_bits(32).to_bytes(4, "big")
    if size < LENGTH_16:
        return b"%c%c%b%b" % (head, MASKED | size, mask, apply_mask(payload, mask))
    if size < 1 << 16:
        return b"%c\xfe%b%b%b" % (head, size.to_bytes(2, "big"), mask, apply_mask(payload, mask))
    return b"%c\xff%b%b%b" % (head, size.to_bytes(8, "big"), mask, apply_mask(payload, mask))


def frame_size(data: bytes, start: int) -> int:
    """Return the size of the frame that begins at `start`. Return 0 if its header is not complete."""
    available = len(data) - start
    if available < 2:
        return 0
    size = data[start + 1] & ~MASKED
    head = 6 if data[start + 1] & MASKED else 2
    if size >= LENGTH_16:
        more = 2 if size == LENGTH_16 else 8
        if available < 2 + more:
            return 0
        size = int.from_bytes(data[start + 2 : start + 2 + more], "big")
        head += more
    return head + size


class FrameError(Exception):
    """The peer violated the protocol. `code` is the code of the close frame that it should get."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class FrameReader:
    """A reader of the frames that a server sends: it finds the messages and the control frames in the data.

    largest: the largest message in bytes.
    on_message: called with each message, text or binary. It can be changed at any time.
    on_control: called with the opcode and the payload of each control frame. It returns whether to continue; otherwise
        the rest of the data is dropped.
    """

    __slots__ = ("_fragments", "_largest", "_missing", "_parts", "on_control", "on_message")

    def __init__(
        self, largest: int, on_message: Callable[[bytes], None], on_control: Callable[[int, bytes], bool]
    ) -> None:
        self.on_message = on_message
        self.on_control = on_control
        self._largest = largest
        self._parts: list[bytes] | None = None  # of a frame that is not complete
        self._missing = 0  # bytes of that frame, at least
        self._fragments: bytearray | None = None  # of the message being received

    def receive(self, data: bytes) -> None:
        """Handle the frames that are complete, in order.

        Raises: FrameError if the server violates the protocol, or sends a message that is too large.
        """
        if self._parts is not None:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data, self._parts = b"".join(self._parts), None
        start, end = 0, len(data)
        while start < end:
            body, size = start + 2, data[start + 1] if start + 1 < end else 0
            if size >= LENGTH_16:
                # If the length itself is not complete, it seems to be too small, but the frame is not complete either.
                body += 2 if size == LENGTH_16 else 8
                if size & MASKED:
                    raise FrameError(PROTOCOL_ERROR, "a masked frame from a server")
                size = int.from_bytes(data[start + 2 : body], "big")
            head, stop = data[start], body + size
            if size > self._largest and not head & CONTROL:
                raise FrameError(TOO_BIG, f"a message of more than {self._largest} bytes")
            if stop > end:
                self._parts, self._missing = [data[start:]], stop - end
                return
            if WHOLE_TEXT <= head <= WHOLE_BINARY and self._fragments is None:
                self.on_message(data[body:stop])
            elif not self._handle(head, data[body:stop]):
                return
            start = stop

    def _handle(self, head: int, payload: bytes) -> bool:
        """Handle a control frame or a fragment. Return whether to continue."""
        opcode = head & _OPCODE
        if head & _RESERVED:
            raise FrameError(PROTOCOL_ERROR, "a frame with reserved bits")
        if opcode in (CLOSE, PING, PONG):
            if not head & FIN or len(payload) > _LONGEST_CONTROL:
                raise FrameError(PROTOCOL_ERROR, "a control frame that is fragmented or too long")
            return self.on_control(opcode, payload)
        if opcode not in (CONTINUATION, TEXT, BINARY):
            raise FrameError(PROTOCOL_ERROR, f"a frame with the unknown opcode {opcode}")
        if (opcode == CONTINUATION) == (self._fragments is None):
            raise FrameError(PROTOCOL_ERROR, "a fragment out of order")
        if self._fragments is None:
            self._fragments = bytearray()
        self._fragments += payload
        if len(self._fragments) > self._largest:
            raise FrameError(TOO_BIG, f"a message of more than {self._largest} bytes")
        if head & FIN:
            message, self._fragments = bytes(self._fragments), None
            self.on_message(message)
        return True
