"""Presence and typing: hints, which may get lost.

Whom a user has blocked neither hears of the user nor is heard of, as if either were away. The user's own place says so,
so both are seen to by the router that owns the user.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from imsim.core import frames, internal_frames
from imsim.core.limits import Buckets
from imsim.core.model import Session, p2p_id
from imsim.core.policies import Policies, Presence
from imsim.core.router.online import OnlineState, User
from imsim.core.timers import Timers


class PresencePort(Protocol):
    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None: ...

    def to_user(self, user: str, frame: internal_frames.PresenceUpdate) -> None: ...


class FriendPresence:
    """Under the policy `presence`, friends are told who is there. What a user's friends are told of the user has a
    budget: beyond it the news waits, and there is none that a later one has overtaken."""

    __slots__ = ("_budget", "_is_on", "_late", "_port", "_timers")

    def __init__(self, port: PresencePort, timers: Timers, policies: Policies) -> None:
        self._port = port
        self._timers = timers
        self._is_on = policies.presence is Presence.FRIENDS
        # Kept across sessions, or who logs in and out would refill it.
        self._budget: Buckets[str] = Buckets(policies.presence_rate, policies.presence_burst)
        self._late: dict[str, dict[str, bool]] = {}  # by user: which friends are to be told what, once there is budget

    def came(self, user: User, session: Session, now: float, *, is_first: bool) -> None:
        """The user has a new session, which would like to know who of the friends is there."""
        if self._is_on:
            friends = self._friends(user)
            at_once = is_first and self._may_tell(user.id, friends, True, now)
            news = frames.Presence(user.id, True) if at_once else None
            for friend in friends:
                self._port.to_user(friend, internal_frames.PresenceUpdate(friend, news, session))

    def went(self, user: User, now: float) -> None:
        if self._is_on:
            self._tell(user.id, self._friends(user), False, now)

    def friends_or_not(self, user: User, state: OnlineState, now: float) -> None:
        """The two have just become friends, or ceased to be. (Each user's router tells the other user.)"""
        peers = user.peers(state.stored.conversation_id)
        if not state.friends:
            for peer in peers:
                self._late.get(user.id, {}).pop(peer, None)
        elif user.sessions and not state.stored.blocked:
            self._tell(user.id, peers, True, now)

    def hinted(self, user: User, hint: internal_frames.PresenceUpdate) -> None:
        state = user.states.get(_about(hint))
        if state is not None and state.stored.blocked:
            return
        if hint.frame is not None:
            sessions = user.sessions.values()
            self._to_all([s for s in sessions if hint.tells in (None, s)], hint.frame)
        # The asker's router may not have heard yet that they are no friends any more.
        if hint.asks is not None and user.sessions and state is not None and state.friends:
            answer = frames.Presence(user.id, True)
            self._port.to_user(hint.asks.user, internal_frames.PresenceUpdate(hint.asks.user, answer, tells=hint.asks))

    def blocked_or_not(self, user: User, state: OnlineState, now: float) -> None:
        """The user has just begun or ceased to block a friend: each goes away for the other, or comes back."""
        if not self._is_on or not state.friends or not user.sessions:
            return
        blocked, peers = state.stored.blocked, user.peers(state.stored.conversation_id)
        self._tell(user.id, peers, not blocked, now)
        for peer in peers:
            if blocked:
                self._to_all(user.sessions.values(), frames.Presence(peer, False))
            else:
                for session in user.sessions.values():
                    self._port.to_user(peer, internal_frames.PresenceUpdate(peer, None, session))

    @staticmethod
    def _friends(user: User) -> list[str]:
        """Of whom the user hears, and who hear of the user."""
        states = user.states.items()
        return [peer for id, state in states if state.friends and not state.stored.blocked for peer in user.peers(id)]

    def _tell(self, user: str, friends: Iterable[str], online: bool, now: float) -> None:
        if self._is_on and self._may_tell(user, friends, online, now):
            for friend in friends:
                self._port.to_user(friend, internal_frames.PresenceUpdate(friend, frames.Presence(user, online)))

    def _may_tell(self, user: str, friends: Iterable[str], online: bool, now: float) -> bool:
        """Whether these friends may be told at once; else it waits."""
        late = self._late.get(user)
        if late is None:
            wait = self._budget.take(user, now)
            if not wait:
                return True
            late = self._late[user] = {}
            self._timers.at(now + wait, self._tell_late, user)
        late.update(dict.fromkeys(friends, online))
        return False

    def _tell_late(self, user: str, now: float) -> None:
        wait = self._budget.take(user, now)
        if wait:  # not at this very moment, which rounding might make of it
            self._timers.at(now + max(wait, 0.001), self._tell_late, user)
            return
        for friend, online in self._late.pop(user).items():
            self._port.to_user(friend, internal_frames.PresenceUpdate(friend, frames.Presence(user, online)))

    def typing(self, user: User, conversation_id: str) -> None:
        state = user.states.get(conversation_id)
        if state is not None and not state.stored.blocked:
            for peer in user.peers(conversation_id):
                self._port.to_user(peer, internal_frames.PresenceUpdate(peer, frames.IsTyping(conversation_id)))

    def _to_all(self, sessions: Iterable[Session], frame: frames.ToClient) -> None:
        for session in sessions:
            self._port.to_gateway(session.gateway, internal_frames.Down((session,), frame))


def _about(hint: internal_frames.PresenceUpdate) -> str:
    """The conversation with whom it is about."""
    if isinstance(hint.frame, frames.IsTyping):
        return hint.frame.conversation_id
    if hint.frame is not None:
        return p2p_id(hint.user, hint.frame.user)
    return p2p_id(hint.user, hint.asks.user) if hint.asks is not None else ""
