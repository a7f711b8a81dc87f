"""The requests of a client, which it repeats until they are answered. Their repetition is harmless."""

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
    """The unanswered requests of a client.

    There is at most one for each (op, ref): a newer request replaces an unanswered one. While the client is logged in,
    a request is sent at once and then every `send_timeout` seconds. All are sent again after each login.
    """

    __slots__ = ("_connection", "_count", "_online", "_unanswered")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._online = False
        self._count = 0
        self._unanswered: dict[tuple[str, str], _Request] = NO_DICT

    def ask(self, frame: frames.Asked, now: float) -> None:
        """Send a request until it is answered."""
        # The number tells the answer to this request from a late answer to an older one.
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
        """Remove the request that this answers. Return False if no request waits for this answer."""
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
        """Cancel a request."""
        request = self._unanswered.pop((op, ref), None)
        if request is not None and request.timer:
            request.timer.cancel()

    def forget_seqs(self) -> list[frames.Asked]:
        """Cancel the requests about seqs, because the server has another log, and return them."""
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
        """Send the request again after the `retry_after` of its rejection."""
        request = self._unanswered.get((frame.request, frame.ref))
        if request is not None and frame.retry_after and request.frame.number == frame.number:
            self._arm(request, now + frame.retry_after)

    def is_waiting(self, op: str, ref: str) -> bool:
        return (op, ref) in self._unanswered

    def wanted(self, conversation_id: str) -> frames.SetConversation | None:
        """Return the settings of a conversation that were requested and not answered, or None."""
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
        """Stop all timers, because the connection has ended."""
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
    """Return the changes of both requests. Where both change a field, the newer one counts."""
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
