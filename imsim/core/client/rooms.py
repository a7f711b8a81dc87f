"""The chatrooms that a device is in, and their messages."""

from __future__ import annotations

from imsim.core import changes, events, frames
from imsim.core.client.connection import Connection
from imsim.core.client.requests import Requests
from imsim.core.empty import NO_DICT
from imsim.core.model import Flow, HasBody, Message, Route


class Rooms:
    """The chatrooms of a device. It enters each room again after each login, until it leaves."""

    __slots__ = ("_connection", "_requests", "_shown", "_user")

    def __init__(self, user: str, connection: Connection, requests: Requests) -> None:
        self._user = user
        self._connection = connection
        self._requests = requests
        #: The latest seq shown of each room, by its name: on this connection, and on the connections before.
        self._shown: dict[str, tuple[int, int]] = NO_DICT

    def enter(self, frame: frames.Enter, now: float) -> None:
        self._shown = self._shown or {}
        self._shown.setdefault(frame.name, (0, 0))
        self._requests.forget(frames.Leave.op, frame.name)  # otherwise it would be repeated
        self._requests.ask(frame, now)

    def leave(self, name: str) -> None:
        self._shown.pop(name, None)
        self._requests.forget(frames.Enter.op, name)

    def logged_in(self, now: float) -> None:
        # A room that restarted on another node may continue with lower seqs, because they follow that node's clock.
        self._shown = {name: (0, latest or before) for name, (latest, before) in self._shown.items()} or NO_DICT
        for name in self._shown:
            if not self._requests.is_waiting(frames.Enter.op, name):
                self._requests.ask(frames.Enter(name), now)

    def entered(self, frame: frames.Entered) -> None:
        if self._requests.answered(frames.Enter.op, frame.name, frame.number):
            self._connection.port.emit(events.Entered(frame.name, frame.users))
            _, before = self._shown.get(frame.name, (0, 0))
            for message in frame.messages:
                if message.seq > before:
                    self.take(message)

    def refused(self, name: str) -> None:
        """Forget the room, because the server refused to let the device enter."""
        self._shown.pop(name, None)

    def take(self, message: Message) -> None:
        """Show the message if its seq is the highest so far. Late and repeated messages of a room are dropped."""
        latest, before = self._shown.get(message.to, (message.seq, 0))
        if message.seq > latest:
            self._shown[message.to] = (message.seq, before)
            self.amended(message.conversation_id, message)
            if changes.is_visible(message):
                flow = Flow.OUT if message.sender == self._user else Flow.IN
                self._connection.port.emit(events.Shown(message, flow, Route.PUSH))

    def amended(self, room: str, entry: HasBody) -> None:
        """Report a recall or an edit in a chatroom to the application. The client itself keeps no room messages."""
        event = changes.event_of(entry)
        if event in changes.AMENDMENTS and entry.file is not None:
            data = entry.file["data"]
            assert isinstance(data, dict)
            if event == "recall":
                self._connection.port.emit(events.Recalled(room, data["seq"]))
            else:
                self._connection.port.emit(events.Edited(room, data["seq"], data["content"]))
