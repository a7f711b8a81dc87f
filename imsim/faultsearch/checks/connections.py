"""What a client puts on each of its connections, and what a gateway puts on one that has ended."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from imsim.core import events, frames
from imsim.core.model import Scene
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import Adrift, ClientReceived, ClientSent, Event, Struck, Wished

_ROUNDING = 0.001  # seconds


class Connections(Check):
    """A client that is logged in is never silent for so long that it would lose its connection; it enters a room, if
    its user has, before it speaks there; and a gateway sends nothing on a connection that has ended."""

    def begin(self) -> None:
        self._longest = min(self.policies.heartbeat, self.policies.heartbeat_timeout / 2)
        self._said: dict[str, float] = {}  # instance -> when last, since it knows that it is logged in
        self._believed: set[str] = set()  # devices whose clock runs otherwise
        self._wished: dict[str, set[str]] = defaultdict(set)  # instance -> the rooms that its user wants to be in
        self._entered: dict[str, set[str]] = defaultdict(set)  # the same as it has said on this connection

    @on(Struck)
    def struck(self, entry: Struck) -> None:
        if entry.kind == "clock":
            self._believed.add(entry.node)

    @on(Wished, frames.Enter)
    def wants_in(self, entry: Wished[frames.Enter]) -> None:
        self._wished[entry.node].add(entry.request.name)

    @on(Wished, frames.Leave)
    def wants_out(self, entry: Wished[frames.Leave]) -> None:
        self._wished[entry.node].discard(entry.request.name)

    @on(Event, events.RequestFailed)
    def failed(self, entry: Event[events.RequestFailed]) -> None:
        if entry.event.request == frames.Enter.op:
            self._wished[entry.node].discard(entry.event.ref)

    @on(ClientSent)
    def left_client(self, entry: ClientSent[Any]) -> None:
        name, frame = entry.node, entry.frame
        if isinstance(frame, frames.Login):
            self._said.pop(name, None)
            self._entered[name] = set()
            return
        if name in self._said:
            silence = entry.at - self._said[name]
            if silence > self._longest + _ROUNDING and self.instances[name].key not in self._believed:
                self.violated("clients_do_not_fall_silent", f"{name} said nothing for {silence:.3f} s, until {frame}")
            self._said[name] = entry.at
        if isinstance(frame, frames.Enter):
            self._entered[name].add(frame.name)
        elif isinstance(frame, frames.Leave):
            self._entered[name].discard(frame.name)
        elif isinstance(frame, frames.Send) and frame.scene == Scene.CHATROOM and self._is_outside(name, frame.to):
            self.violated("speakers_have_entered", f"{name} said {frame.id_client} before it had entered {frame.to}")

    def _is_outside(self, instance: str, room: str) -> bool:
        """Whether it has not said yet on this connection that it wants to be in a room that its user wants to be in."""
        return room in self._wished[instance] and room not in self._entered[instance]

    @on(ClientReceived, frames.LoggedIn)
    def logged_in(self, entry: ClientReceived[frames.LoggedIn]) -> None:
        self._said[entry.node] = entry.at

    @on(Adrift)
    def adrift(self, entry: Adrift[Any]) -> None:
        text = f"{entry.node} had for {entry.peer}, which has ended: {entry.frame}"
        self.violated("nothing_goes_to_connections_that_ended", text)
