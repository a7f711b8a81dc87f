"""What a client asks until it is answered: requests whose repetition does no harm."""

from __future__ import annotations

from dataclasses import replace

from imsim.core import frames
from imsim.core.client.connection import Connection
from imsim.core.empty import NO_DICT
from imsim.core.timers import Timer


class _Request:
    __slots__ = ("frame", "timer")

    def __init__(self, frame: frames.Asked) -> None:
        self.frame = frame
        self.timer: Timer | None = None


class Requests:
    """At most one of each (op, ref): a newer one takes the place of one that is still unanswered. Each goes out at once
    while there is a login, every `send_timeout` seconds from then on, and after each login."""

    __slots__ = ("_connection", "_count", "_online", "_unanswered")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._online = False
        self._count = 0
        self._unanswered: dict[tuple[str, str], _Request] = NO_DICT

    def ask(self, frame: frames.Asked, now: float) -> None:
        # A late answer to an older one must not be taken for this one's.
        self._count += 1
        frame = replace(frame, number=self._count)
        if isinstance(frame, frames.SetConversation) and (older := self.wanted(frame.conversation_id)) is not None:
            frame = _merged(older, frame)
        key = (frame.op, frame.ref)
        request = self._unanswered.get(key)
        if request is None:
            self._unanswered = self._unanswered or {}
            request = self._unanswered[key] = _Request(frame)
        request.frame = frame
        if self._online:
            self._send(request, now)

    def answered(self, op: str, ref: str, number: int = 0) -> bool:
        """Whether it was asked for and not answered before; now it is."""
        request = self._unanswered.get((op, ref))
        if request is None:
            return False
        if request.frame.number != number:
            return False
        del self._unanswered[op, ref]
        if request.timer:
            request.timer.cancel()
        return True

    def forget(self, op: str, ref: str) -> None:
        """It is not wanted any more."""
        request = self._unanswered.pop((op, ref), None)
        if request is not None and request.timer:
            request.timer.cancel()

    def forget_seqs(self) -> list[frames.Asked]:
        """The log is another one. Returns the requests about a seq of the old one, which are given up."""
        given_up: list[frames.Asked] = []
        for (op, ref), request in list(self._unanswered.items()):
            frame = request.frame
            if isinstance(frame, frames.Read | frames.History | frames.ReadCount):
                self.forget(op, ref)
                given_up.append(frame)
            elif isinstance(frame, frames.SetConversation):
                request.frame = replace(frame, hidden_seq=None)
        return given_up

    def postponed(self, frame: frames.Rejected, now: float) -> None:
        """It was refused for now, with the time after which to ask again."""
        request = self._unanswered.get((frame.request, frame.ref))
        if request is not None and frame.retry_after and request.frame.number == frame.number:
            self._arm(request, now + frame.retry_after)

    def is_waiting(self, op: str, ref: str) -> bool:
        return (op, ref) in self._unanswered

    def wanted(self, conversation_id: str) -> frames.SetConversation | None:
        """What the user wants of a conversation and the server has not answered."""
        if not self._unanswered:
            return None
        request = self._unanswered.get((frames.SetConversation.op, conversation_id))
        if request is None:
            return None
        assert isinstance(request.frame, frames.SetConversation)
        return request.frame

    def logged_in(self, now: float) -> None:
        self._online = True
        for request in list(self._unanswered.values()):
            self._send(request, now)

    def lost(self) -> None:
        """The connection is gone."""
        self._online = False
        for request in self._unanswered.values():
            if request.timer:
                request.timer.cancel()

    def _send(self, request: _Request, now: float) -> None:
        self._arm(request, now + self._connection.policies.send_timeout)
        self._connection.put(request.frame, now)

    def _arm(self, request: _Request, deadline: float) -> None:
        if request.timer:
            request.timer.cancel()
        request.timer = self._connection.timers.at(deadline, self._send, request)


def _merged(older: frames.SetConversation, newer: frames.SetConversation) -> frames.SetConversation:
    hidden = [seq for seq in (older.hidden_seq, newer.hidden_seq) if seq is not None]
    return frames.SetConversation(
        newer.conversation_id,
        older.pinned if newer.pinned is None else newer.pinned,
        older.muted if newer.muted is None else newer.muted,
        max(hidden, default=None),
        older.custom if newer.custom is None else newer.custom,
        newer.number,
        older.blocked if newer.blocked is None else newer.blocked,
    )
