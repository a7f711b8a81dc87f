"""The adapter for chat servers on Socket.IO (protocol 5, that is Socket.IO 3 and 4), over WebSocket.

Socket.IO carries events with arguments, and acknowledgements. It does not define what a chat message is. So a
description (see `imsim.load.adapters.websocket`) says which events there are. Its templates and paths are about these
documents, which the adapter translates into packets:

- `{"event": name, "args": [...], "ack": true}`: an event to the server; with `ack`, its request number `{n}` is the
  number of its acknowledgement.
- `{"event": name, "args": [...]}`: an event of the server. It also has `answer_to` if the server wants an answer.
- `{"ack": n, "args": [...]}`: the acknowledgement of event number n.
- `{"answer_to": number, "args": [...]}`: an answer to an event of the server.

The packets are written and read here. python-socketio's `Packet` takes four to ten times as long, and its import loads
asyncio. The tests compare both.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, ClassVar

import msgspec

from imsim.load.adapters.described import templates
from imsim.load.adapters.described.adapter import DescribedAdapter
from imsim.load.adapters.described.compiler import SESSION, compiled_part
from imsim.load.adapters.described.description import Description, parse, read
from imsim.load.adapters.described.protocol import shown
from imsim.load.adapters.described.session import DescribedSession, Phase
from imsim.load.adapters.described.templates import Template, TemplateError
from imsim.load.adapters.interface import Item, Out

_URL = "{url}/socket.io/?EIO=4&transport=websocket"
_DEFAULT = "socketio.toml"

_decode = msgspec.json.Decoder().decode


class SocketIOAdapter(DescribedAdapter):
    """A Socket.IO server whose events a TOML file describes (option `file`).

    Without a file, the events are those of the small server in docs/websocket-adapter.md.
    """

    options: ClassVar = {"file": "the TOML file that describes the server's events; absent: those of the documentation"}
    files: ClassVar = frozenset({"file"})

    def session(self, number: int, user: str, device: str) -> SocketIOSession:
        return SocketIOSession(self, number, user, device)

    def _read(self) -> tuple[Description, str]:
        file = self.target.options.get("file")
        if file:
            description = read(file)
        else:
            file = _DEFAULT
            text = (resources.files("imsim.load.adapters") / file).read_text(encoding="utf-8")
            description = parse(text, file)
        place = description.socketio
        namespace = "/" if place is None else place.namespace
        self.prefix = b"" if namespace == "/" else namespace.encode() + b","
        """The namespace as it is in packets."""
        self.connect_packet = templates.compiled_text("40" + self.prefix.decode())
        if place is not None and place.auth is not None:
            self.connect_packet = compiled_part(
                place.auth, SESSION, f"{file}: socketio.auth", "40" + self.prefix.decode()
            )
        if "url" not in description.connect.model_fields_set:
            connect = description.connect.model_copy(update={"url": _URL})
            description = description.model_copy(update={"connect": connect})
        return description, file

    def _template(self, document: Any) -> Template:
        prefix = self.prefix.decode()
        match document:
            case {"event": str(event), "args": list(args)} if document.keys() <= {"event", "args", "ack"}:
                ack = document.get("ack", False)
                if not isinstance(ack, bool):
                    raise TemplateError(f"ack: expected true or false, got {ack!r}")
                return templates.compiled([event, *args], before=f"42{prefix}{{n}}" if ack else f"42{prefix}")
            case {"answer_to": str(number), "args": list(args)} if len(document) == 2:
                return templates.compiled(args, before=f"43{prefix}{number}")
        raise TemplateError(
            'expected {"event": name, "args": [...]}, with "ack": true if the server acknowledges it,'
            ' or {"answer_to": "{frame.answer_to}", "args": [...]}'
        )


class SocketIOSession(DescribedSession):
    """The session of a device with a Socket.IO server."""

    def __init__(self, adapter: SocketIOAdapter, number: int, user: str, device: str) -> None:
        super().__init__(adapter.protocol, adapter.target, number, user, device)
        self._prefix = adapter.prefix
        self._at = 2 + len(adapter.prefix)  # where the number or the data of a packet begins
        self._connect_packet = adapter.connect_packet
        self._attachments = 0  # binary frames that belong to the last event

    def received(self, item: Item, now: float) -> list[Out]:
        if type(item) is not bytes:
            return super().received(item, now)
        self._heard = now
        if self._attachments:
            self._attachments -= 1
            return []
        try:
            return self._packet(item, now)
        except (ValueError, LookupError, TypeError, RecursionError):
            return self._close(f"the server sent an invalid packet: {shown(item)}")

    def _connected(self, now: float) -> list[Out]:
        self._attachments = 0
        self._enter(Phase.CONNECTING, now + self._policies.login_timeout)
        return []  # the server's first packet opens the session

    def _packet(self, packet: bytes, now: float) -> list[Out]:
        kind = packet[:1]
        if kind == b"4":
            return self._message(packet, now)
        if kind == b"2":
            return [b"3" + packet[1:]]
        if kind == b"0":
            opened = _decode(packet[1:])
            self._silence = (opened["pingInterval"] + opened["pingTimeout"]) / 1000
            return [self._frames.render(self._connect_packet, {}, now)]
        if kind == b"1":
            return self._retry("the server closed the connection", now)
        if kind == b"6":
            return []
        raise ValueError

    def _message(self, packet: bytes, now: float) -> list[Out]:
        """Handle a packet of Socket.IO."""
        at = self._at
        kind = packet[1:2]
        if kind in b"56":  # an event or an acknowledgement with binary attachments, which are ignored
            count, _, rest = packet[2:].partition(b"-")
            self._attachments = int(count)
            kind = b"2" if kind == b"5" else b"3"
            packet = packet[:2] + rest
        if self._prefix:
            if not packet.startswith(self._prefix, 2) and packet[2:] != self._prefix[:-1]:
                return []  # another namespace
        elif packet[2:3] == b"/":
            return []
        if kind == b"2":
            start = packet.index(b"[", at)
            event, *args = _decode(packet[start:])
            document = {"event": event, "args": args}
            if start > at:
                document["answer_to"] = int(packet[at:start])
            return self._document(document, now)
        if kind == b"3":
            start = packet.index(b"[", at)
            return self._document({"ack": int(packet[at:start]), "args": _decode(packet[start:])}, now)
        if kind == b"0":
            return self._log_in(now) if self._phase is Phase.CONNECTING else []
        if kind == b"1":
            return self._close("the server ended the session")
        if kind == b"4":
            return self._close(f"the server refused the connection: {shown(packet[at:])}")
        raise ValueError
