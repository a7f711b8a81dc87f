"""Sizes in bytes: of message bodies, of pages, and of the largest frames in both directions."""

from __future__ import annotations

import json

from imsim.core.limits import CURSORS, UNREAD_RANGES
from imsim.core.model import HasBody
from imsim.core.policies import Policies

_ESCAPED = 6  # the longest escape in JSON of one byte: \u0000
_TEXTS = 4  # texts in a message with up to content_bytes each: content, custom, file, and in it the new text of an edit
_TARGET = 70  # a user in the targets of a change
_CURSOR = 160  # a conversation and its seq in a sync
_STATE = 512  # a conversation state without its custom
_SKIPPED = 192  # a part of a conversation that a sync leaves out, without its ranges
_RANGE = 40  # a range of unread messages, with the longest seqs
_MESSAGE = 2_048  # a message without its body, with the longest names and an idClient that consists of escapes
_FRAME = 1 << 16  # everything else in a frame: a token, texts, numbers
_TAKEN = 64 << 20  # the least that a client accepts, because the server may have higher limits than the client


def body_bytes(body: HasBody) -> int:
    """Return the bytes of a message's content, custom and attachment, in UTF-8. (Files are stored elsewhere.)"""
    total = utf8_bytes(body.content)
    if body.custom is not None:
        total += utf8_bytes(body.custom)
    if body.file is not None:
        total += utf8_bytes(json.dumps(body.file, ensure_ascii=False, separators=(",", ":")))
    return total


def utf8_bytes(text: str) -> int:
    """Return the length of the text in bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


class Room:
    """The remaining bytes of a page, or the remaining count of its ranges."""

    __slots__ = ("_most", "_used")

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0

    def takes(self, size: int) -> bool:
        """Add an item of this size if it fits, and return whether it did.

        The first item always fits, also if it is larger than a page: the client would request an empty page forever.
        """
        if size and self._used and self._used + size > self._most:
            return False
        self._used += size
        return True


def largest_from_client(policies: Policies) -> int:
    """Return the bytes of the largest frame that a client can need to send.

    It is a message, a change with all members of a group as targets, or a sync with all conversations of a device.
    """
    return _FRAME + _largest_message(policies) + _CURSOR * CURSORS


def largest_to_client(policies: Policies) -> int:
    """Return the bytes of the largest frame that the server sends: a page of messages or of conversation states."""
    written = max(_ESCAPED * policies.page_bytes, _largest_message(policies))
    around = _MESSAGE * max(policies.page, policies.room_recent) + (_CURSOR + _SKIPPED + _STATE) * CURSORS
    return _FRAME + written + around + _RANGE * UNREAD_RANGES


def largest_taken(policies: Policies) -> int:
    """Return the bytes of the largest frame that a client with these limits accepts from any server."""
    return max(_TAKEN, largest_to_client(policies))


def _largest_message(policies: Policies) -> int:
    return _ESCAPED * _TEXTS * policies.content_bytes + _TARGET * policies.group_size
