"""How many bytes there are: in what users wrote, in a page, and in the largest frames, both ways."""

from __future__ import annotations

import json

from imsim.core.limits import CURSORS
from imsim.core.model import HasBody
from imsim.core.policies import Policies

_ESCAPED = 6  # bytes that JSON may make of one: \u0000
_TEXTS = 4  # of a message, each with limits.content_bytes: content, custom, file, and in it what an edit puts in place
_TARGET = 70  # a user whom a change names
_CURSOR = 160  # a conversation in a sync, and up to where
_STATE = 512  # a conversation state, its custom aside
_MESSAGE = 2_048  # a message but for its body, with the longest names and an idClient that is all escapes
_FRAME = 1 << 16  # all else: a token, texts, numbers
_TAKEN = 64 << 20  # that a client takes at least: the server's limits may be others than its own


def body_bytes(body: HasBody) -> int:
    """Of one message: its content, custom and attachment, in UTF-8. (Files are kept elsewhere.)"""
    total = utf8_bytes(body.content)
    if body.custom is not None:
        total += utf8_bytes(body.custom)
    if body.file is not None:
        total += utf8_bytes(json.dumps(body.file, ensure_ascii=False, separators=(",", ":")))
    return total


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


class Room:
    """What a page has left of its bytes."""

    __slots__ = ("_most", "_used")

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0

    def takes(self, size: int) -> bool:
        """Whether this fits in, and now is in. What is too large for any page fits where it is the first: a page
        without anything would be asked for again for ever."""
        if size and self._used and self._used + size > self._most:
            return False
        self._used += size
        return True


def largest_from_client(policies: Policies) -> int:
    """The largest frame that a client may have cause to send: a message, a change that names all of a group, or a sync
    with every conversation of a device."""
    return _FRAME + _largest_message(policies) + _CURSOR * CURSORS


def largest_to_client(policies: Policies) -> int:
    """The largest frame that the server sends: a page, of messages or of what users wrote in conversation states."""
    written = max(_ESCAPED * policies.page_bytes, _largest_message(policies))
    around = _MESSAGE * max(policies.page, policies.room_recent) + (_CURSOR + _STATE) * CURSORS
    return _FRAME + written + around


def largest_taken(policies: Policies) -> int:
    """The largest frame that a client with these limits takes from any server."""
    return max(_TAKEN, largest_to_client(policies))


def _largest_message(policies: Policies) -> int:
    return _ESCAPED * _TEXTS * policies.content_bytes + _TARGET * policies.group_size
