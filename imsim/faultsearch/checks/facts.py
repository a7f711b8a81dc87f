"""What all checks have in common, and the facts that several of them rest on."""

from __future__ import annotations

from imsim.core import internal_frames
from imsim.core.model import Session
from imsim.faultsearch.entries import Crashed, GatewayLost, RouterReceived, RouterSent, Struck
from imsim.faultsearch.evidence import Evidence


class Check:
    """Follows the trace of a run by its public methods that take an `entry` (see `handlers_in`), and reports what is
    wrong at the moment when it is."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.world = evidence.world
        self.model = evidence.model
        self.policies = evidence.policies
        self.instances = evidence.instances
        self.violated = evidence.violated
        self.begin()

    def begin(self) -> None:
        """Make what it remembers."""

    def finish(self) -> None:
        """The trace has ended."""

    def has_connections(self, sessions: set[Session], where: str) -> None:
        """In the end every session has a connection."""
        for session in sorted(sessions):
            if session.connection not in self.world.gateways[session.gateway].connections:
                text = f"{session.user}/{session.device} is {where} without a connection, as {session}"
                self.violated("sessions_end_with_their_connections", text)


class Facts(Check):
    """Keeps in the evidence which sessions routers know of, and whose clocks are not to be relied on."""

    def struck(self, entry: Struck) -> None:
        if entry.kind == "clock":
            self.evidence.believed.add(entry.node)

    def attached(self, entry: RouterSent[internal_frames.Attached]) -> None:
        if entry.frame.session is not None:
            self.evidence.sessions[entry.frame.session.user].add(entry.frame.session)

    def detached(self, entry: RouterReceived[internal_frames.Detach] | RouterSent[internal_frames.Kick]) -> None:
        self.evidence.sessions[entry.frame.session.user].discard(entry.frame.session)

    def lost(self, entry: Crashed | GatewayLost) -> None:
        """With a router all its sessions are gone; without a gateway, those on that gateway."""
        for user, sessions in self.evidence.sessions.items():
            if self.evidence.is_owner(entry.node, user):
                gone = {one for one in sessions if isinstance(entry, Crashed) or one.gateway == entry.peer}
                sessions -= gone

    def finish(self) -> None:
        for sessions in self.evidence.sessions.values():
            self.has_connections(sessions, "online")
