"""How many bytes of messages a frame or a request carries: what a per-byte service time counts."""

from __future__ import annotations

import json
from typing import Any

from imsim.core import frames, storage
from imsim.core.model import HasBody, Message

_WITH_MESSAGES = (
    frames.Page, frames.SyncDone, frames.HistoryPage, frames.Entered, storage.MissedPage, storage.RangePage,
)  # fmt: skip


def body_bytes(body: HasBody) -> int:
    """Of one message: its content, custom and attachment, in UTF-8. (What an attachment tells of is kept elsewhere.)"""
    total = _utf8(body.content)
    if body.custom is not None:
        total += _utf8(body.custom)
    if body.file is not None:
        total += _utf8(json.dumps(body.file, ensure_ascii=False, separators=(",", ":")))
    return total


def carried_bytes(carrier: Any) -> int:
    """Of all messages in a frame, a request or a result; 0 for those without."""
    if isinstance(carrier, frames.Send | Message):
        return body_bytes(carrier)
    if isinstance(carrier, frames.Push | frames.Deliver | storage.Append):
        return body_bytes(carrier.message)
    if isinstance(carrier, frames.Up | frames.Down):
        return carried_bytes(carrier.frame)
    if isinstance(carrier, _WITH_MESSAGES):
        return sum(map(body_bytes, carrier.messages))
    if isinstance(carrier, list):  # of pushes that go as one
        return sum(map(carried_bytes, carrier))
    return 0


def _utf8(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
