"""Those who watch what a client puts on each of its connections, and that nobody writes to one that has ended."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from imsim.core import events, frames
from imsim.core.model import Scene
from imsim.core.policies import Policies

if TYPE_CHECKING:
    from imsim.faultsearch.checks.ongoing import Found
    from imsim.faultsearch.nodes import Instance

_ROUNDING = 0.001  # seconds


class Connections:
    """Who is logged in never says nothing for as long as would end the connection; who speaks in a room that its user
    has entered has entered it on this connection; and a gateway has done with a connection once it has ended."""

    def __init__(self, policies: Policies, found: Found) -> None:
        self._longest = min(policies.heartbeat, policies.heartbeat_timeout / 2)
        self._found = found
        self._said: dict[str, float] = {}  # instance -> when last, since it knows that it is logged in
        self._believed: set[str] = set()  # devices whose clock runs otherwise
        self._wished: dict[str, set[str]] = defaultdict(set)  # instance -> the rooms that its user is to be in
        self._entered: dict[str, set[str]] = defaultdict(set)  # the same as it has said on this connection

    def clock_moved(self, device: str) -> None:
        self._believed.add(device)

    def asks(self, instance: Instance, wanted: frames.Asked) -> None:
        if isinstance(wanted, frames.Enter):
            self._wished[instance.name].add(wanted.name)
        elif isinstance(wanted, frames.Leave):
            self._wished[instance.name].discard(wanted.name)

    def event(self, instance: Instance, event: events.ClientEvent) -> None:
        if isinstance(event, events.RequestFailed) and event.request == frames.Enter.op:
            self._wished[instance.name].discard(event.ref)

    def left_client(self, instance: Instance, frame: frames.FromClient, at: float) -> None:
        name = instance.name
        if isinstance(frame, frames.Login):
            self._said.pop(name, None)
            self._entered[name] = set()
            return
        if name in self._said:
            silence = at - self._said[name]
            if silence > self._longest + _ROUNDING and instance.key not in self._believed:
                self._tell("nobody_falls_silent", f"{name} said nothing for {silence:.3f} s, until {frame}")
            self._said[name] = at
        if isinstance(frame, frames.Enter):
            self._entered[name].add(frame.name)
        elif isinstance(frame, frames.Leave):
            self._entered[name].discard(frame.name)
        elif isinstance(frame, frames.Send) and frame.scene == Scene.CHATROOM and self._is_outside(name, frame.to):
            self._tell("who_speaks_has_entered", f"{name} said {frame.id_client} before it had entered {frame.to}")

    def _is_outside(self, instance: str, room: str) -> bool:
        """Whether it has not said yet on this connection that it wants to be in a room in which its user is to be."""
        return room in self._wished[instance] and room not in self._entered[instance]

    def reached_client(self, instance: str, frame: frames.ToClient, at: float) -> None:
        if isinstance(frame, frames.LoggedIn):
            self._said[instance] = at

    def adrift(self, gateway: str, connection: str, frame: frames.ToClient) -> None:
        self._tell(
            "nothing_goes_to_connections_that_ended", f"{gateway} had for {connection}, which has ended: {frame}"
        )

    def _tell(self, invariant: str, text: str) -> None:
        self._found.append((invariant, text))
