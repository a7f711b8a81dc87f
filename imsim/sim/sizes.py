"""How many bytes of messages a frame or a request carries: what a per-byte service time counts, and, with what is
around them, what a link's bandwidth does."""

from __future__ import annotations

from typing import Any

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Message
from imsim.core.sizes import body_bytes, utf8_bytes

#: What a frame weighs besides its content, in bytes, and each message in a page. The wire's JSON around the content has
#: 13 (ping) to 218 (push); a WebSocket header 2 to 8, a TLS 1.3 record 22, TCP and IP 40 more: 80 to 290, most frames
#: in the upper half.
FRAME_OVERHEAD = 200

_BODIES = (frames.Send, Message)
_WITH_MESSAGE = (frames.Push, internal_frames.Deliver, storage.Append)
_WITH_MESSAGES = (
    frames.Page, frames.SyncDone, frames.HistoryPage, frames.Entered, storage.MissedPage, storage.RangePage,
)  # fmt: skip
_WITH_CUSTOM = (frames.SetConversation, storage.SaveState)
_PASSED_ON = (internal_frames.Up, internal_frames.Down, internal_frames.PresenceUpdate)


def carried_bytes(carrier: Any) -> int:
    """Of all that users wrote in a frame, a request or a result; 0 for those without."""
    if isinstance(carrier, _BODIES):
        return body_bytes(carrier)
    if isinstance(carrier, _WITH_MESSAGE):
        return body_bytes(carrier.message)
    if isinstance(carrier, _PASSED_ON):
        return carried_bytes(carrier.frame)
    if isinstance(carrier, _WITH_MESSAGES):
        return sum(map(body_bytes, carrier.messages))
    if isinstance(carrier, list):  # of pushes that go as one
        return sum(map(carried_bytes, carrier))
    if isinstance(carrier, _WITH_CUSTOM) and carrier.custom is not None:
        return utf8_bytes(carrier.custom)
    return 0


def frame_bytes(thing: Any) -> int:
    """What a link carries for this, overheads included. Of what travels as a tuple (who asked, what is to be called
    ...), the last part is the frame."""
    while type(thing) is tuple:
        thing = thing[-1]
    if isinstance(thing, _PASSED_ON):
        thing = thing.frame
    parts = len(thing.messages) if isinstance(thing, _WITH_MESSAGES) else 0
    return FRAME_OVERHEAD * (1 + parts) + carried_bytes(thing)
