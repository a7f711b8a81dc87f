"""The conversation states that routers send to devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from imsim.core import frames, internal_frames
from imsim.core.model import ConversationState, Message, MessageType, Session
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import RouterSent
from imsim.faultsearch.model.rules import leaves


class RouterStates(Check):
    """Routers send only conversation states that storage held at some time, to one session never an older one, and
    with each an unread count that is a recount. A router knows of a log at least what it has sent of it to any device
    of the user; and one that takes over from it finds as much in storage."""

    def begin(self) -> None:
        self._versions: dict[tuple[object, str], int] = {}  # (session, conversation) -> sent
        self._known: dict[tuple[str, str], set[int]] = defaultdict(set)  # (user, conversation) -> seqs, sent to devices

    @on(RouterSent, internal_frames.Down, frames.Push)
    def pushed(self, entry: RouterSent[internal_frames.Down]) -> None:
        frame = entry.frame.frame
        assert isinstance(frame, frames.Push)
        self._knows(entry.frame.sessions, [frame.message])

    @on(RouterSent, internal_frames.Down, frames.State)
    def sent(self, entry: RouterSent[internal_frames.Down]) -> None:
        frame = entry.frame.frame
        assert isinstance(frame, frames.State)
        for session in entry.frame.sessions:
            self._is_right(session, frame.state)

    @on(RouterSent, internal_frames.Down, frames.Page | frames.SyncDone)
    def paged(self, entry: RouterSent[internal_frames.Down]) -> None:
        frame = entry.frame.frame
        assert isinstance(frame, frames.Page | frames.SyncDone)
        self._knows(entry.frame.sessions, frame.messages)
        for session in entry.frame.sessions:
            for state in frame.states:
                self._is_right(session, state)
            if type(frame) is frames.SyncDone and frame.version > self.model.versions.get(session.user, 0):
                self._wrong("only_stored_states_are_sent", session.user, f"the version {frame.version}")

    def _is_right(self, session: Session, state: ConversationState) -> None:
        model, key, user = self.model, (session, state.conversation_id), session.user
        if state.version < self._versions.get(key, 0):
            self._wrong("versions_grow", user, f"{state} after version {self._versions[key]}")
        self._versions[key] = state.version
        held = model.history.get((user, state.conversation_id, state.version))
        if held is None and state.version == 0:
            held = replace(model.user_state("", state.conversation_id))
        if held is None or replace(state, unread=0) != held:
            self._wrong("only_stored_states_are_sent", user, f"{state}, stored was {held}")
        least, most = self._unread(user, state)
        if not least <= state.unread <= most:
            self._wrong("unread_is_a_recount", user, f"{state}, which are {least} to {most}")

    def _knows(self, sessions: Iterable[Session], messages: list[Message]) -> None:
        for session in sessions:
            for message in messages:
                self._known[session.user, message.conversation_id].add(message.seq)

    def _unread(self, user: str, state: ConversationState) -> tuple[int, int]:
        """How many count beyond this mark, of those that the user's router knows for certain, and of all; as it may
        not have heard yet what ended the user's stay, and what was recalled."""
        model, conversation = self.model, state.conversation_id
        known, log = self._known[user, conversation], model.logs.get(conversation, [])
        ends = [entry.seq for entry in log if entry.seq in known and leaves(entry, user)]
        begun = model.begun(user, conversation)
        floor, least, most = max([state.read_seq, *ends]), 0, 0
        for message in log:
            if message.seq <= floor or message.sender == user or message.type == MessageType.NOTIFICATION:
                continue
            if not message.recalled or message.amended not in known:
                most += model.may_see(user, conversation, message.seq)
            if message.seq in known and begun and message.seq >= begun and not message.recalled:
                least += 1
        return least, most

    def _wrong(self, invariant: str, user: str, text: str) -> None:
        self.violated(invariant, f"{user} was sent {text}")
