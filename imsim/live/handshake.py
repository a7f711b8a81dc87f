"""The answer to the usual opening handshake of a client.

Nearly all handshakes have the same form, and the library takes a seventh of the CPU time of a login for one. So the
server answers this form itself, with the same bytes. The library handles all other HTTP requests.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import lru_cache

from websockets.utils import accept_key

_LONGEST = 2048  # bytes, far within the library's limit of a line
_MOST_FIELDS = 64  # half of the library's limit
_HEAD = re.compile(rb"GET / HTTP/1\.1\r\n((?:[-A-Za-z0-9]+:[ -~]*\r\n)+)\r\n")
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_CONNECTION = frozenset(["upgrade", "keep-alive, upgrade"])  # the second one is that of some browsers
_UNUSUAL = frozenset(["content-length", "transfer-encoding", "sec-websocket-protocol"])


def answer_to_usual(head: bytes, wall: float) -> bytes | None:
    """Return the answer that `websockets` would give to this HTTP request, or None if the request is not a usual one.

    The server has no extensions and no subprotocols, and accepts any origin. `wall` is in seconds since 1970.
    """
    if len(head) > _LONGEST or (match := _HEAD.fullmatch(head)) is None:
        return None
    lines = match[1].decode().split("\r\n")[:-1]
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip(" ")
    key = fields.get("sec-websocket-key", "")
    if (
        len(fields) != len(lines)  # a field is repeated
        or len(lines) > _MOST_FIELDS
        or fields.get("upgrade", "").lower() != "websocket"
        or fields.get("connection", "").lower() not in _CONNECTION
        or fields.get("sec-websocket-version") != "13"
        or _KEY.fullmatch(key) is None
        or not _UNUSUAL.isdisjoint(fields)
    ):
        return None
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nDate: {_date(int(wall))}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n"
    ).encode()


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
