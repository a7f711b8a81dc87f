"""What gateways repeat until it is acknowledged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imsim.core import frames, internal_frames
from imsim.core.model import is_chatroom
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import (
    Crashed,
    GatewayForwarded,
    GatewayNotified,
    GatewayReceived,
    GatewaySent,
    Struck,
)

_LONGEST = 60.0  # seconds
_ROUNDING = 0.001

What = tuple[str, str, int]  # op, conversation, seq of a message (0: only the latest of its op and conversation counts)


@dataclass(slots=True)
class _Sent:
    """`number`: of what only the latest counts. `since`: None once it need not be repeated any more."""

    number: int
    wait: float
    since: float | None


class Repetitions(Check):
    """A gateway sends a push, state, notice or resync again, each time after the wait that the policies say, until the
    device acknowledges it or the connection ends."""

    def begin(self) -> None:
        self._sent: dict[tuple[str, str], dict[What, _Sent]] = {}  # by gateway and instance
        self._believed: set[str] = set()  # gateways with a clock that runs otherwise

    @on(Struck)
    def struck(self, entry: Struck) -> None:
        if entry.kind == "clock":
            self._believed.add(entry.node)

    @on(GatewaySent, frames.Push | frames.State | frames.Notify | frames.Resync)
    def sent(self, entry: GatewaySent[Any]) -> None:
        what, number = _what(entry.frame)
        if is_chatroom(what[1]):
            return  # it goes once
        all_sent, policies = self._sent.setdefault((entry.node, entry.peer), {}), self.policies
        last = all_sent.get(what)
        if last is not None:
            self._is_late(entry.node, entry.peer, what, last, entry.at)
        if last is None or last.number != number:
            all_sent[what] = _Sent(number, policies.push_timeout, entry.at)
        else:
            last.wait, last.since = min(last.wait * policies.push_backoff, _LONGEST), entry.at

    @on(GatewayReceived, frames.Delivered)
    def delivered(self, entry: GatewayReceived[frames.Delivered]) -> None:
        conversation, seq = entry.frame.conversation_id, entry.frame.seq
        for what, sent in self._sent.get((entry.node, entry.peer), {}).items():
            is_covered = what[1] == conversation and sent.number <= seq
            if is_covered and what[0] in (frames.Push.op, frames.Notify.op):
                self._done(entry, what, sent)

    @on(GatewayReceived, frames.StateAck)
    def state_acknowledged(self, entry: GatewayReceived[frames.StateAck]) -> None:
        self._latest(entry, (frames.State.op, entry.frame.conversation_id, 0), entry.frame.version)

    @on(GatewayReceived, frames.Sync)
    def synced(self, entry: GatewayReceived[frames.Sync]) -> None:
        self._latest(entry, (frames.Resync.op, "", 0), entry.frame.resync)

    @on(GatewaySent, frames.LoggedIn)
    def logged_in(self, entry: GatewaySent[frames.LoggedIn]) -> None:
        self._sent.pop((entry.node, entry.peer), None)

    @on(GatewaySent, frames.Refused)
    def refused(self, entry: GatewaySent[frames.Refused]) -> None:
        self._ended(entry.node, entry.peer, entry.at)

    @on(GatewayForwarded, internal_frames.Detach)
    def detached(self, entry: GatewayForwarded[internal_frames.Detach]) -> None:
        self._ended(entry.node, self.world.owners[entry.frame.session.connection], entry.at)

    @on(GatewayNotified, internal_frames.Kick)
    def kicked(self, entry: GatewayNotified[internal_frames.Kick]) -> None:
        self._ended(entry.node, self.world.owners[entry.frame.session.connection], entry.at)

    @on(Crashed)
    def crashed(self, entry: Crashed) -> None:
        for key in [key for key in self._sent if key[0] == entry.node]:
            del self._sent[key]

    def finish(self) -> None:
        for gateway, instance in self._sent:
            self._ended(gateway, instance, self.world.clock.now)

    def _latest(self, entry: GatewayReceived[Any], what: What, number: int) -> None:
        sent = self._sent.get((entry.node, entry.peer), {}).get(what)
        if sent is not None and sent.number <= number:
            self._done(entry, what, sent)

    def _done(self, entry: GatewayReceived[Any], what: What, sent: _Sent) -> None:
        self._is_late(entry.node, entry.peer, what, sent, entry.at)
        sent.since = None

    def _ended(self, gateway: str, instance: str, now: float) -> None:
        for what, sent in self._sent.get((gateway, instance), {}).items():
            self._is_late(gateway, instance, what, sent, now)
            sent.since = None

    def _is_late(self, gateway: str, instance: str, what: What, sent: _Sent, now: float) -> None:
        if sent.since is None or gateway in self._believed or now - sent.since <= sent.wait + _ROUNDING:
            return
        op, conversation, _ = what
        text = f"{instance} was not sent {op} {conversation}#{sent.number} again by {gateway} for {now - sent.since} s"
        self.violated("what_is_unacknowledged_is_repeated", text)


def _what(frame: frames.Push | frames.State | frames.Notify | frames.Resync) -> tuple[What, int]:
    if isinstance(frame, frames.Push):
        message = frame.message
        return (frame.op, message.conversation_id, message.seq), message.seq
    if isinstance(frame, frames.State):
        return (frame.op, frame.state.conversation_id, 0), frame.state.version
    if isinstance(frame, frames.Notify):
        return (frame.op, frame.conversation_id, 0), frame.seq
    return (frame.op, "", 0), frame.number
