"""The conversation states of online users: changes by their devices, and reports of changes to their devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Code, ConversationState
from imsim.core.policies import Policies
from imsim.core.router import answers
from imsim.core.router.online import User
from imsim.core.router.pending_writes import PendingWrites
from imsim.core.router.presence import FriendPresence
from imsim.core.timers import Timers


class StatesPort(answers.Port, Protocol):
    """The part of the port of `Users` that conversation states need."""

    def store(self, request: storage.Request) -> None: ...

    def to_user(self, user: str, frame: internal_frames.PeerMoved) -> None: ...


class States:
    """Handles changes of conversation states. `users` has the users who are online, by name."""

    def __init__(
        self, port: StatesPort, users: Mapping[str, User], timers: Timers, policies: Policies, presence: FriendPresence
    ) -> None:
        self._port = port
        self._users = users
        self._presence = presence
        self._pending_writes = PendingWrites(timers, policies.storage_timeout, port.store)

    def read(self, user: User, frame: frames.Read, up: internal_frames.Up, now: float) -> None:
        """Move the user's read mark."""
        state = user.states.get(frame.conversation_id)
        if state is not None and frame.seq <= state.unread.read_seq:
            answers.done(self._port, up)
        else:
            self._pending_writes.save(storage.SaveState(user.id, frame.conversation_id, frame.seq, asked=up), now)

    def set(self, user: User, frame: frames.SetConversation, up: internal_frames.Up, now: float) -> None:
        """Change the user's settings of a conversation."""
        change = storage.SaveState(
            user.id,
            frame.conversation_id,
            pinned=frame.pinned,
            muted=frame.muted,
            hidden_seq=frame.hidden_seq,
            custom=frame.custom,
            blocked=frame.blocked,
            asked=up,
        )
        self._pending_writes.save(change, now)

    def delivered(self, user: User, conversation_id: str, seq: int, now: float) -> None:
        """Note that a device of the user has every message up to `seq`. In a p2p conversation the other user learns
        it."""
        state = user.states.get(conversation_id)
        if state is not None and seq > state.delivered_seq and user.peers(conversation_id):
            state.delivered_seq = seq
            self._pending_writes.save(storage.SaveState(user.id, conversation_id, delivered_seq=seq), now)

    def saved(self, request: storage.SaveState, result: storage.Result, now: float) -> None:
        """Handle the answer of storage, and report the states to both users.

        The states are reported even if this request changed nothing. An earlier one may have changed them, and its
        answer may have been lost.
        """
        up = request.asked
        assert up is None or isinstance(up, internal_frames.Up)
        if not isinstance(result, storage.StatesSaved):
            if up is not None:
                answers.reject(self._port, up, Code.UNAVAILABLE, "storage could not save the change")
            return
        self._pending_writes.saved(request)
        if result.states:
            self._report(result, now)
        if up is not None:
            if result.states:
                answers.done(self._port, up)
            else:
                answers.reject(self._port, up, Code.NO_CONVERSATION, "conversationId: you have no such conversation")

    def _report(self, saved: storage.StatesSaved, now: float) -> None:
        (name, own), *others = saved.states
        user = self._users.get(name)
        if user is not None and user.request is None:
            self.learn(user, own, now)
        for peer, state in others:
            if user is not None and (mine := user.states.get(state.conversation_id)) is not None:
                mine.delivered_seq = state.peer_delivered_seq  # a device may report a seq beyond the log
            self._port.to_user(peer, internal_frames.PeerMoved(peer, state))

    def learn(self, user: User, stored: ConversationState, now: float) -> None:
        """Take over a state from storage, unless the user has a newer version of it already."""
        state = user.state_of(stored.conversation_id)
        if stored.version > state.stored.version:
            was_blocked, state.stored = state.stored.blocked, stored
            state.unread.read(stored.read_seq)
            changed = frames.State(state.view())
            for session in user.sessions:
                answers.send(self._port, session, changed)
            if stored.blocked != was_blocked:
                self._presence.block_changed(user, state, now)
