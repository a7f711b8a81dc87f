"""The adapter for chat servers that speak JSON over WebSocket. A TOML file describes the protocol, without code.

docs/websocket-adapter.md describes the file.
"""

from __future__ import annotations

from typing import ClassVar

from imsim.core.exceptions import UsageError
from imsim.load.adapters.described.adapter import DescribedAdapter
from imsim.load.adapters.described.description import Description, read
from imsim.load.adapters.described.session import DescribedSession


class WebSocketAdapter(DescribedAdapter):
    """A server whose protocol a TOML file describes (option `file`)."""

    options: ClassVar = {"file": "the TOML file that describes the server's protocol"}
    files: ClassVar = frozenset({"file"})

    def session(self, number: int, user: str, device: str) -> DescribedSession:
        return DescribedSession(self.protocol, self.target, number, user, device)

    def _read(self) -> tuple[Description, str]:
        file = self.target.options.get("file")
        if not file:
            raise UsageError("option file: missing; it names the TOML file that describes the server's protocol")
        description = read(file)
        if description.socketio is not None:
            raise UsageError(f"{file}: socketio: is for Socket.IO servers; use the adapter 'socketio'")
        return description, file
