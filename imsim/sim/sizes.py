"""The sizes of frames and requests, in bytes.

A per-byte service time counts the bytes of the messages that a frame or a request carries. A link's bandwidth also
counts the overhead around them.
"""

from __future__ import annotations

from typing import Any

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Message
from imsim.core.sizes import body_bytes, utf8_bytes

#: The overhead of a frame, and of each message in a page, in bytes. The JSON around the content has 13 (ping) to 218
#: bytes (push), a WebSocket header 2 to 8, a TLS 1.3 record 22, TCP and IP 40. The sum is 80 to 290 bytes, and in the
#: upper half for most frames.
FRAME_OVERHEAD = 200

_BODIES = (frames.Send, Message)
_WITH_MESSAGE = (frames.Push, internal_frames.Deliver, storage.Append)
_WITH_MESSAGES = (
    frames.Page, frames.SyncDone, frames.HistoryPage, frames.Entered, storage.MissedPage, storage.RangePage,
)  # fmt: skip
_WITH_CUSTOM = (frames.SetConversation, storage.SaveState)
_PASSED_ON = (internal_frames.Up, internal_frames.Down, internal_frames.PresenceUpdate)


def carried_bytes(carrier: Any) -> int:
    """Return the bytes of user content in a frame, a request or a result. 0 if it has no user content."""
    if isinstance(carrier, _BODIES):
        return body_bytes(carrier)
    if isinstance(carrier, _WITH_MESSAGE):
        return body_bytes(carrier.message)
    if isinstance(carrier, _PASSED_ON):
        return carried_bytes(carrier.frame)
    if isinstance(carrier, _WITH_MESSAGES):
        return sum(map(body_bytes, carrier.messages))
    if isinstance(carrier, list):  # pushes that are sent as one operation
        return sum(map(carried_bytes, carrier))
    if isinstance(carrier, _WITH_CUSTOM) and carrier.custom is not None:
        return utf8_bytes(carrier.custom)
    return 0


def frame_bytes(carried: Any) -> int:
    """Return the bytes that a link carries for `carried`, overheads included.

    `carried` is a frame, or a tuple whose last part is the frame. Its other parts are the sender of the request or the
    function to call, for example.
    """
    while type(carried) is tuple:
        carried = carried[-1]
    if isinstance(carried, _PASSED_ON):
        carried = carried.frame
    parts = len(carried.messages) if isinstance(carried, _WITH_MESSAGES) else 0
    return FRAME_OVERHEAD * (1 + parts) + carried_bytes(carried)
