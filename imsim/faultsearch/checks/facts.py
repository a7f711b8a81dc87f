"""The base class of all checks, and the check that records the facts that others use."""

from __future__ import annotations

from imsim.core import internal_frames
from imsim.core.model import Session
from imsim.faultsearch.entries import Crashed, GatewayLost, RouterReceived, RouterSent, Struck
from imsim.faultsearch.evidence import Evidence


class Check:
    """Follows the trace of a run and reports each violation at the moment when it shows.

    Its public methods that take an `entry` are called for the entries of that type (see `handlers_in`).
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.world = evidence.world
        self.model = evidence.model
        self.policies = evidence.policies
        self.instances = evidence.instances
        self.violated = evidence.violated
        self.begin()

    def begin(self) -> None:
        """Create the attributes of the check."""

    def finish(self) -> None:
        """Check what only the end of the trace shows."""

    def has_connections(self, sessions: set[Session], where: str) -> None:
        """Check that every session has a connection at the end."""
        for session in sorted(sessions):
            if session.connection not in self.world.gateways[session.gateway].connections:
                text = f"{session.user}/{session.device} is {where} without a connection, as {session}"
                self.violated("sessions_end_with_their_connections", text)


class Facts(Check):
    """Records in the evidence which sessions routers know, and which nodes and devices have had a clock fault."""

    def struck(self, entry: Struck) -> None:
        if entry.kind == "clock":
            self.evidence.skewed_clocks.add(entry.node)

    def attached(self, entry: RouterSent[internal_frames.Attached]) -> None:
        if entry.frame.session is not None:
            self.evidence.sessions[entry.frame.session.user].add(entry.frame.session)

    def detached(self, entry: RouterReceived[internal_frames.Detach] | RouterSent[internal_frames.Kick]) -> None:
        self.evidence.sessions[entry.frame.session.user].discard(entry.frame.session)

    def lost(self, entry: Crashed | GatewayLost) -> None:
        """A router that crashed loses all its sessions; without a gateway, it loses those on that gateway."""
        for user, sessions in self.evidence.sessions.items():
            if self.evidence.is_owner(entry.node, user):
                gone = {one for one in sessions if isinstance(entry, Crashed) or one.gateway == entry.peer}
                sessions -= gone

    def finish(self) -> None:
        for sessions in self.evidence.sessions.values():
            self.has_connections(sessions, "online")
