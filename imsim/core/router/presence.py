"""Presence and typing updates, which may be lost.

If one of two users has blocked the other, neither gets updates of the other, as if both were offline. The block is in
the state of their conversation. So the router that owns a user applies it to the user's updates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from imsim.core import frames, internal_frames
from imsim.core.internal_frames import PresenceUpdate
from imsim.core.limits import Buckets
from imsim.core.model import Session, p2p_id
from imsim.core.policies import Policies
from imsim.core.router import answers
from imsim.core.router.online import OnlineState, User
from imsim.core.timers import Timers


class PresencePort(Protocol):
    """The part of the port of `Users` that carries presence and typing."""

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None: ...

    def to_user(self, user: str, frame: PresenceUpdate) -> None: ...


class FriendPresence:
    """The updates that users send to their friends when they come online or go offline.

    The policy `presence` turns them on. The updates of each user are rate-limited: beyond the limit they wait, and
    each friend gets only the latest one.
    """

    __slots__ = ("_budget", "_is_on", "_late", "_port", "_timers")

    def __init__(self, port: PresencePort, timers: Timers, policies: Policies) -> None:
        self._port = port
        self._timers = timers
        self._is_on = policies.presence.reaches_friends
        # The budget is kept across sessions, so that logging in and out does not refill it.
        self._budget: Buckets[str] = Buckets(policies.presence_rate, policies.presence_burst)
        self._late: dict[str, dict[str, bool]] = {}  # user -> friend -> whether online: updates that wait for budget

    def session_added(self, user: User, session: Session, now: float, *, is_first: bool) -> None:
        """Report a first session to the friends, and request the friends' presence for the session."""
        if self._is_on:
            friends = self._friends(user)
            at_once = is_first and self._may_send(user.id, friends, True, now)
            update = frames.Presence(user.id, True) if at_once else None
            for friend in friends:
                self._port.to_user(friend, PresenceUpdate(friend, update, session))

    def went_offline(self, user: User, now: float) -> None:
        """Report to the friends that the last session of the user has ended."""
        if self._is_on:
            self._send(user.id, self._friends(user), False, now)

    def friendship_changed(self, user: User, state: OnlineState, now: float) -> None:
        """Handle the beginning or the end of a friendship. The routers of both users call this, each for its user."""
        peers = user.peers(state.stored.conversation_id)
        if not state.friends:
            for peer in peers:
                self._late.get(user.id, {}).pop(peer, None)
        elif user.sessions and not state.stored.blocked:
            self._send(user.id, peers, True, now)

    def block_changed(self, user: User, state: OnlineState, now: float) -> None:
        """Handle a block of a friend, or its end. Each of the two appears offline to the other, or online again."""
        if not self._is_on or not state.friends or not user.sessions:
            return
        blocked, peers = state.stored.blocked, user.peers(state.stored.conversation_id)
        self._send(user.id, peers, not blocked, now)
        for peer in peers:
            for session in user.sessions:
                if blocked:
                    answers.send(self._port, session, frames.Presence(peer, False))
                else:
                    self._port.to_user(peer, PresenceUpdate(peer, None, session))

    def typing(self, user: User, conversation_id: str) -> None:
        """Report to the other user that this user is typing."""
        state = user.states.get(conversation_id)
        if state is not None and not state.stored.blocked:
            for peer in user.peers(conversation_id):
                self._port.to_user(peer, PresenceUpdate(peer, frames.IsTyping(conversation_id)))

    def received(self, user: User, update: PresenceUpdate) -> None:
        """Handle an update for the user, or a request of a friend's device for the user's presence."""
        state = user.states.get(_conversation_of(update))
        if state is not None and state.stored.blocked:
            return
        if update.frame is not None:
            for session in user.sessions:
                if update.only in (None, session):
                    answers.send(self._port, session, update.frame)
        # The friendship may have ended, and the friend's router may not have received that yet.
        if update.asked_by is not None and user.sessions and state is not None and state.friends:
            asked_by = update.asked_by
            answer = PresenceUpdate(asked_by.user, frames.Presence(user.id, True), only=asked_by)
            self._port.to_user(asked_by.user, answer)

    @staticmethod
    def _friends(user: User) -> list[str]:
        """Return the friends whom the user has not blocked."""
        states = user.states.items()
        return [peer for id, state in states if state.friends and not state.stored.blocked for peer in user.peers(id)]

    def _send(self, user: str, friends: Iterable[str], online: bool, now: float) -> None:
        if self._is_on and self._may_send(user, friends, online, now):
            for friend in friends:
                self._port.to_user(friend, PresenceUpdate(friend, frames.Presence(user, online)))

    def _may_send(self, user: str, friends: Iterable[str], online: bool, now: float) -> bool:
        """Return whether the budget allows an update to these friends now. Otherwise the update waits."""
        late = self._late.get(user)
        if late is None:
            wait = self._budget.take(user, now)
            if not wait:
                return True
            late = self._late[user] = {}
            self._timers.at(now + wait, self._send_late, user)
        late.update(dict.fromkeys(friends, online))
        return False

    def _send_late(self, user: str, now: float) -> None:
        wait = self._budget.take(user, now)
        if wait:  # at least 1 ms: after rounding, the timer could fire at this same moment again
            self._timers.at(now + max(wait, 0.001), self._send_late, user)
            return
        for friend, online in self._late.pop(user).items():
            self._port.to_user(friend, PresenceUpdate(friend, frames.Presence(user, online)))


def _conversation_of(update: PresenceUpdate) -> str:
    """Return the id of the p2p conversation of the two users."""
    if isinstance(update.frame, frames.IsTyping):
        return update.frame.conversation_id
    if update.frame is not None:
        return p2p_id(update.user, update.frame.user)
    return p2p_id(update.user, update.asked_by.user) if update.asked_by is not None else ""
