"""Presence and typing: hints, which may get lost.

Whom a user has blocked neither hears of the user nor is heard of, as if either were away. The user's own place says so,
so both are seen to by the router that owns the user.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from imsim.core import frames
from imsim.core.model import Session, p2p_id
from imsim.core.online import OnlinePlace, User


class Port(Protocol):
    def to_gateway(self, gateway: str, frame: frames.ToGateway) -> None: ...

    def to_user(self, user: str, frame: frames.Hint) -> None: ...


class Hints:
    """`presence`: whether friends are told who is there."""

    __slots__ = ("_port", "_presence")

    def __init__(self, port: Port, *, presence: bool) -> None:
        self._port = port
        self._presence = presence

    def tell_friends(self, user: User, news: frames.Presence | None, asks: Session | None = None) -> None:
        if self._presence:
            for conversation_id, place in user.places.items():
                if place.friends and not place.stored.blocked:
                    for peer in user.peers(conversation_id):
                        self._port.to_user(peer, frames.Hint(peer, news, asks))

    def hinted(self, user: User, hint: frames.Hint) -> None:
        place = user.places.get(_about(hint))
        if place is not None and place.stored.blocked:
            return
        if hint.frame is not None:
            sessions = user.sessions.values()
            self._to_all([s for s in sessions if hint.tells in (None, s)], hint.frame)
        if hint.asks is not None and user.sessions:
            answer = frames.Presence(user.id, True)
            self._port.to_user(hint.asks.user, frames.Hint(hint.asks.user, answer, tells=hint.asks))

    def blocked_or_not(self, user: User, place: OnlinePlace) -> None:
        """The user has just begun or ceased to block a friend: each goes away for the other, or comes back."""
        if not self._presence or not place.friends or not user.sessions:
            return
        blocked = place.stored.blocked
        for peer in user.peers(place.stored.conversation_id):
            self._port.to_user(peer, frames.Hint(peer, frames.Presence(user.id, not blocked)))
            if blocked:
                self._to_all(user.sessions.values(), frames.Presence(peer, False))
            else:
                for session in user.sessions.values():
                    self._port.to_user(peer, frames.Hint(peer, None, session))

    def typing(self, user: User, conversation_id: str) -> None:
        place = user.places.get(conversation_id)
        if place is not None and not place.stored.blocked:
            for peer in user.peers(conversation_id):
                self._port.to_user(peer, frames.Hint(peer, frames.IsTyping(conversation_id)))

    def _to_all(self, sessions: Iterable[Session], frame: frames.ToClient) -> None:
        for session in sessions:
            self._port.to_gateway(session.gateway, frames.Down((session,), frame))


def _about(hint: frames.Hint) -> str:
    """The conversation with whom it is about."""
    if isinstance(hint.frame, frames.IsTyping):
        return hint.frame.conversation_id
    if hint.frame is not None:
        return p2p_id(hint.user, hint.frame.user)
    return p2p_id(hint.user, hint.asks.user) if hint.asks is not None else ""
