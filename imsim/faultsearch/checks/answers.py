"""How long routers take to answer, and what they must not forget before storage has it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Session, is_chatroom
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.checks.presence import Sessions
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import Asked, Crashed, GatewayLost, Rested, RouterReceived, RouterSent

_SLOW = ("storage_slow", "storage_stall", "storage_fails", "storage_late")
_TURNS = 20  # requests to storage, one after the other, that an answer may have to wait for
_LEAST = 1.0  # seconds


class Answers(Check):
    """As long as storage is neither slow nor fails, a router answers logins, syncs and sends soon: whatever waits for
    storage, or for what storage is asked, goes on when storage has answered."""

    def begin(self) -> None:
        case = self.world.case
        self._is_slow = any(fault.kind in _SLOW for fault in case.faults)
        self._patience = _LEAST + 2 * _TURNS * (case.storage_latency + case.backend_latency) * 1.5
        self._open: dict[str, dict[Hashable, tuple[float, str, Any]]] = {}  # by router: since when, its gateway, what

    @on(RouterReceived, internal_frames.Attach)
    def logs_in(self, entry: RouterReceived[internal_frames.Attach]) -> None:
        attach = entry.frame
        self._asked(entry, attach.connection, attach.gateway, attach)

    @on(RouterReceived, internal_frames.Up, frames.Sync | frames.Send)
    def asks(self, entry: RouterReceived[internal_frames.Up]) -> None:
        up = entry.frame
        has_ended = up.session not in self.other(Sessions).of[up.session.user]  # then it need not be answered
        if not is_chatroom(up.conversation_id) and not has_ended:
            what = up.frame.id_client if isinstance(up.frame, frames.Send) else frames.Sync.op
            self._asked(entry, (up.session, what), up.session.gateway, up)

    @on(RouterSent, internal_frames.Attached)
    def logged_in(self, entry: RouterSent[internal_frames.Attached]) -> None:
        self._answered(entry, entry.frame.connection)

    @on(RouterSent, internal_frames.Down, frames.Page | frames.SyncDone | frames.Stored | frames.Rejected)
    def answered(self, entry: RouterSent[internal_frames.Down]) -> None:
        frame = entry.frame.frame
        what = frames.Sync.op
        if isinstance(frame, frames.Stored):
            what = frame.id_client
        elif isinstance(frame, frames.Rejected) and frame.request == frames.Send.op:
            what = frame.ref
        for session in entry.frame.sessions:
            self._answered(entry, (session, what))

    @on(RouterReceived, internal_frames.Detach)
    def detached(self, entry: RouterReceived[internal_frames.Detach]) -> None:
        self._ended(entry.frame.session)

    @on(RouterSent, internal_frames.Kick)
    def kicked(self, entry: RouterSent[internal_frames.Kick]) -> None:
        self._ended(entry.frame.session)

    @on(Crashed)
    def crashed(self, entry: Crashed) -> None:
        self._open.pop(entry.node, None)

    @on(GatewayLost)
    def gateway_lost(self, entry: GatewayLost) -> None:
        self._forget(lambda gateway, what: gateway == entry.peer)

    def finish(self) -> None:
        for router, asked in self._open.items():
            for since, _, what in asked.values():
                self._late(router, self.world.clock.now - since, what)

    def _asked(self, entry: RouterReceived[Any], key: Hashable, gateway: str, what: Any) -> None:
        if not self._is_slow:
            self._open.setdefault(entry.node, {}).setdefault(key, (entry.at, gateway, what))

    def _answered(self, entry: RouterSent[Any], key: Hashable) -> None:
        if (asked := self._open.get(entry.node, {}).pop(key, None)) is not None:
            self._late(entry.node, entry.at - asked[0], asked[2])

    def _late(self, router: str, seconds: float, what: Any) -> None:
        if seconds > self._patience:
            self.violated("routers_answer_soon", f"{router} had {what} for {seconds:.3f} s without an answer")

    def _ended(self, session: Session) -> None:
        self._forget(lambda gateway, what: isinstance(what, internal_frames.Up) and what.session == session)

    def _forget(self, is_over: Callable[[str, Any], bool]) -> None:
        for asked in self._open.values():
            for key in [key for key, (_, gateway, what) in asked.items() if is_over(gateway, what)]:
                del asked[key]


class Saved(Check):
    """A mark of which a router has asked storage is stored in the end, however often storage failed: it is lost only
    with its router."""

    def begin(self) -> None:
        self._asked: dict[str, list[storage.SaveState]] = {}  # by router

    @on(Asked, storage.SaveState)
    def asked(self, entry: Asked[storage.SaveState]) -> None:
        self._asked.setdefault(entry.node, []).append(entry.request)

    @on(Crashed)
    def crashed(self, entry: Crashed) -> None:
        self._asked.pop(entry.node, None)

    @on(Rested)
    def rested(self, entry: Rested) -> None:
        """The world is quiescent; nobody has logged in again yet."""
        for router, asked in self._asked.items():
            for request in asked:
                self._is_saved(router, request)
        self._asked.clear()

    def _is_saved(self, router: str, request: storage.SaveState) -> None:
        user, conversation = request.user, request.conversation_id
        if user in self.model.stays.get(conversation, ()):
            state, end = self.model.user_state(user, conversation), self.model.age(conversation)
            wanted = (min(request.read_seq, end), min(request.hidden_seq or 0, end))
            if state.read_seq < wanted[0] or state.hidden_seq < wanted[1]:
                self.violated("marks_survive_until_saved", f"{user} has {state}; {router} was to save {request}")
