"""Logins, and for which reasons sessions end."""

from __future__ import annotations

from collections import defaultdict

from imsim.core import events, frames, internal_frames
from imsim.core.model import Code
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import ClientSent, Event, Revoked, RouterReceived, Started, Struck
from imsim.faultsearch.nodes import Instance


class Logins(Check):
    """A session ends for good only for a reason; then the device stays away until its application has it log in
    again."""

    def begin(self) -> None:
        self._moment = 0
        self._asked: dict[str, tuple[int, float]] = {}  # instance -> its last login: when, and its token's time
        self._ended: set[str] = set()  # instances
        self._refused: set[str] = set()  # instances whose token was not taken
        self._arrived: dict[str, list[tuple[int, internal_frames.Attach]]] = defaultdict(list)  # by user
        self._ends: dict[str, list[tuple[int, str]]] = defaultdict(list)  # user -> the device that was to be ended
        self._revoked: dict[str, list[tuple[int, float]]] = defaultdict(list)  # user -> tokens issued before

    @on(ClientSent, frames.Login)
    def asked(self, entry: ClientSent[frames.Login]) -> None:
        self._asked[entry.node] = (self._next(), float(entry.frame.token.split("@")[1]))
        if entry.node in self._ended:
            self.violated("ended_clients_stay_away", f"{entry.node} logged in by itself")

    @on(RouterReceived, internal_frames.Attach)
    def arrived(self, entry: RouterReceived[internal_frames.Attach]) -> None:
        self._arrived[entry.frame.user].append((self._next(), entry.frame))

    @on(RouterReceived, internal_frames.Up, frames.EndSession)
    def asked_to_end(self, entry: RouterReceived[internal_frames.Up]) -> None:
        frame = entry.frame.frame
        assert isinstance(frame, frames.EndSession)
        self._ends[entry.frame.session.user].append((self._next(), frame.device))

    @on(Revoked)
    def revoked(self, entry: Revoked) -> None:
        self._revoked[entry.node].append((self._next(), entry.before))

    @on(Struck)
    def token_refused(self, entry: Struck) -> None:
        if entry.kind == "token_refused":
            self._refused.add(entry.node)

    @on(Started)
    def started(self, entry: Started) -> None:
        self._ended.discard(entry.node)

    @on(Event, events.Ended)
    def ended(self, entry: Event[events.Ended]) -> None:
        instance, event = self.instances[entry.node], entry.event
        self._ended.add(instance.name)
        if not self._has_reason(instance, event.code):
            self.violated("sessions_end_for_a_reason", f"{instance.name} was ended: {event.code} {event.text}")

    def _next(self) -> int:
        self._moment += 1
        return self._moment

    def _has_reason(self, instance: Instance, code: Code) -> bool:
        user, (since, issued) = instance.user, self._asked[instance.name]
        if code in (Code.BAD_TOKEN, Code.TOKEN_EXPIRED):
            return instance.name in self._refused
        if code == Code.TOKEN_REVOKED:
            return any(at > since or issued < before for at, before in self._revoked[user])
        if code == Code.REPLACED:
            logins = [a for at, a in self._arrived[user] if at > since and a.device == instance.device]
            own = [attach for attach in logins if self.world.owners[attach.connection] == instance.name]
            return len(logins) > len(own)
        return code == Code.KICKED and (
            any(at > since and device == instance.device for at, device in self._ends[user])
            or any(at > since and self._takes_the_slot(attach, instance) for at, attach in self._arrived[user])
        )

    def _takes_the_slot(self, attach: internal_frames.Attach, instance: Instance) -> bool:
        slot = self.world.case.slot
        return attach.device != instance.device and slot(f"{attach.user}/{attach.device}") == slot(instance.key)
