"""The outbox: it repeats each send until it is answered, and keeps the sends of each conversation in order.

When the server refuses a send as `busy`, the whole outbox pauses for the `retry_after` of the refusal. After that, only
a few sends may be in flight (the window): one at first, and one more each time that all of them have been answered. The
others wait here, in their order. The window ends when nothing waits any longer. So a busy server gets only as much from
each client as it can answer.
"""

from __future__ import annotations

from dataclasses import replace

from imsim.core import events, frames
from imsim.core.attachments import json_fault
from imsim.core.client.connection import Connection
from imsim.core.empty import NO_DICT
from imsim.core.model import LONGEST_ID_CLIENT, Code, Message, Scene, Status
from imsim.core.timers import Timer

_OUTGOING = 10_000  # the most sends that may wait for an answer
_FAILED = 1_000  # the most failed sends kept, in case the server has stored them


class Outgoing:
    """A send without a final answer. If `held`, it waits without a timer, for its predecessor or for a busy server."""

    __slots__ = ("attempts", "conversation_id", "frame", "held", "limited", "since", "timed_out", "timer")

    def __init__(self, conversation_id: str, frame: frames.Send, now: float) -> None:
        self.conversation_id = conversation_id
        self.frame = frame
        self.attempts = 0
        self.held = False
        self.since = now  # the time from which its attempts count
        self.limited = False  # held because of a rate limit: after it, no other held send is released
        self.timed_out = False  # no attempt got an answer
        self.timer: Timer | None = None

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Outbox:
    """The sends of one device: those that wait for an answer, and the latest ones that failed."""

    __slots__ = ("_connection", "_failed", "_held", "_online", "_pause", "_unanswered", "_waiting", "_window")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._online = False
        self._unanswered: dict[str, Outgoing] = NO_DICT  # by id_client
        self._waiting: dict[str, dict[str, Outgoing]] = NO_DICT  # the same by conversation, in the order of sending
        self._failed: dict[str, Outgoing] = NO_DICT  # kept in case the server has stored them
        self._held = 0  # the count of held sends
        self._window = 0.0  # the most sends that may be in flight, because the server was busy; 0: no limit
        self._pause: Timer | None = None  # the end of the pause

    def add(self, conversation_id: str, frame: frames.Send, now: float) -> None:
        """Send a message. If its id_client has failed, resend it. If it waits for an answer, do nothing."""
        if frame.id_client in self._unanswered:
            return
        frame.resend = self._failed.pop(frame.id_client, None) is not None
        outgoing = Outgoing(conversation_id, frame, now)
        if len(self._unanswered) >= _OUTGOING:
            text = f"{_OUTGOING} messages wait for an answer already; send again when some are answered"
            self._fail(outgoing, Code.UNAVAILABLE, text)
            return
        if not 1 <= (length := len(frame.id_client)) <= LONGEST_ID_CLIENT:  # the rejection would contain only a part
            text = f"idClient: expected 1 to {LONGEST_ID_CLIENT} characters, got {length}"
            self._fail(outgoing, Code.BAD_REQUEST, text)
            return
        if frame.file and (fault := json_fault(frame.file)):  # the encoder could fail, or encode it differently
            self._fail(outgoing, Code.BAD_REQUEST, f"file: {fault}")
            return
        self._unanswered, self._waiting = self._unanswered or {}, self._waiting or {}
        self._unanswered[frame.id_client] = outgoing
        self._waiting.setdefault(conversation_id, {})[frame.id_client] = outgoing
        if self._online and self._window:
            self._hold(outgoing)
            self._send_held(now)
        elif self._online:
            self._send(outgoing, now)

    def status(self, id_client: str) -> Status:
        """Return the status of a message. An unknown message counts as sent."""
        if id_client in self._unanswered:
            return Status.SENDING
        return Status.FAIL if id_client in self._failed else Status.SUCCESS

    def may_be_stored(self, conversation_id: str) -> bool:
        """Return whether the server may have stored a message of this conversation without an answer for this device.

        Such a message was sent and not answered, or got no answer to any attempt.
        """
        waiting = self._waiting.get(conversation_id, NO_DICT)
        return any(outgoing.attempts for outgoing in waiting.values()) or any(
            outgoing.timed_out and outgoing.conversation_id == conversation_id for outgoing in self._failed.values()
        )

    def logged_in(self, now: float) -> None:
        """Send all unanswered messages, except those that have no attempt left."""
        self._online = True
        for outgoing in list(self._unanswered.values()):
            if outgoing.attempts == 0:
                outgoing.since = now
            elif self._spent(outgoing, now):
                continue
            if self._window:
                self._hold(outgoing)
            else:
                self._send(outgoing, now)
        self._send_held(now)

    def lost(self) -> None:
        """Stop all timers, because the connection has ended."""
        self._online = False
        self._end_pause()
        for outgoing in self._unanswered.values():
            outgoing.stop_timer()

    def forget_seqs(self) -> None:
        """Reset `shown` in all sends, because the server has another log, with other seqs."""
        for outgoing in self._unanswered.values():
            outgoing.frame = replace(outgoing.frame, shown=0)

    def said(self, id_client: str, now: float) -> Outgoing | None:
        """Resolve a send to a chatroom, for which `received` is the final answer. Return the send, otherwise None."""
        outgoing = self._unanswered.get(id_client)
        if outgoing is None or outgoing.frame.scene != Scene.CHATROOM:
            return None
        self._drop(outgoing)
        self.released(outgoing.conversation_id, now)
        return outgoing

    def proved_by(self, message: Message) -> Outgoing | None:
        """Resolve the send of this message, whose answer was lost. Return the send, or None if there is none.

        Another device of the user may have used the same id_client for a message with another body. Such a message
        proves nothing, and the server will reject the send. An amended message cannot be compared, so it counts as
        proof: the server would answer the send in the same way.
        """
        return self._resolve(message.id_client, message.conversation_id, message)

    def answered(self, id_client: str, conversation_id: str) -> Outgoing | None:
        """Resolve a send that is stored, also if it had failed before. Return the send, or None if there is none."""
        return self._resolve(id_client, conversation_id, None)

    def _resolve(self, id_client: str, conversation_id: str, message: Message | None) -> Outgoing | None:
        for sends in (self._unanswered, self._failed):
            outgoing = sends.get(id_client)
            if outgoing is not None and outgoing.conversation_id == conversation_id:
                if message is not None and not message.came_from(outgoing.frame):
                    return None
                if sends is self._unanswered:
                    self._drop(outgoing)
                else:
                    del self._failed[id_client]
                return outgoing
        return None

    def rejected(self, frame: frames.Rejected, now: float) -> None:
        """Fail the send, hold it back, or leave it to its timer, depending on the code."""
        outgoing = self._unanswered.get(frame.ref)
        if outgoing is None:
            return  # answered before
        is_first = next(iter(self._waiting[outgoing.conversation_id])) == frame.ref
        if frame.code == Code.RATE_LIMITED or (frame.code == Code.BUSY and not outgoing.held):
            outgoing.attempts -= 1  # a refusal that asks the client to wait does not count as a failed attempt
        if frame.code == Code.BUSY:
            self._hold(outgoing)
            self._begin_pause(now + frame.retry_after)
        elif frame.code == Code.GAP or (frame.code == Code.RATE_LIMITED and not is_first):
            # Send it again only after the answer to its predecessor. Before that, it would be rejected again, and would
            # use up the rate that its predecessor needs.
            self._hold(outgoing)
            outgoing.limited = frame.code == Code.RATE_LIMITED
            # With a window, its predecessor may be held as well. Then no answer would release either of them.
            if is_first or (self._window and self._held == len(self._unanswered)):
                self._release(outgoing.conversation_id, now)
        elif frame.code == Code.RATE_LIMITED:
            outgoing.stop_timer()
            outgoing.timer = self._connection.timers.at(now + frame.retry_after, self._overdue, outgoing)
        elif not frame.code.retryable:
            self._drop(outgoing)
            self._fail(outgoing, frame.code, frame.text)
            self.released(outgoing.conversation_id, now)
        # Otherwise its timer repeats it a little later.

    def released(self, conversation_id: str, now: float) -> None:
        """Send what waited for the answer to a send of this conversation, which has arrived."""
        if self._window:
            self._window += 1 / self._window
        self._release(conversation_id, now)

    def _release(self, conversation_id: str, now: float) -> None:
        """Send the held sends of the conversation, because its oldest unanswered send has changed."""
        if self._window:
            self._send_held(now)
            return
        waiting = self._waiting.get(conversation_id)
        for outgoing in list(waiting.values()) if waiting else ():
            if not outgoing.held:
                break
            alone = outgoing.limited
            if not self._spent(outgoing, now):
                self._send(outgoing, now)
                if alone:
                    break

    # --- while the server is busy -----------------------------------------------------------------------------------

    def _hold(self, outgoing: Outgoing) -> None:
        """Hold a send back. It has no timer then."""
        outgoing.stop_timer()
        self._held += not outgoing.held
        outgoing.held = True

    def _begin_pause(self, until: float) -> None:
        """Send nothing before this time, and then one message first."""
        self._window = 1.0
        if self._pause is None:
            self._pause = self._connection.timers.at(until, self._resume)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _resume(self, _: None, now: float) -> None:
        self._pause = None
        self._send_held(now)

    def _send_held(self, now: float) -> None:
        """Send the oldest held sends, as many as the window allows, and fail those that have waited for too long."""
        if not self._window or self._pause is not None:
            return
        if not self._held:
            if len(self._unanswered) < self._window:
                self._window = 0.0
            return
        oldest_allowed = now - self._connection.policies.send_budget
        while self._held:
            outgoing = next(one for one in self._unanswered.values() if one.held)
            if outgoing.since < oldest_allowed:
                self._give_up(outgoing, "the server was busy for too long", now)
            elif len(self._unanswered) - self._held >= int(self._window):
                break
            elif not self._spent(outgoing, now):
                self._send(outgoing, now)

    # --- one send ---------------------------------------------------------------------------------------------------

    def _send(self, outgoing: Outgoing, now: float) -> None:
        frame = outgoing.frame
        outgoing.attempts += 1
        self._held -= outgoing.held
        outgoing.held = outgoing.limited = False
        after = None
        waiting = self._waiting[outgoing.conversation_id]
        if len(waiting) > 1:
            for id_client in waiting:
                if id_client == frame.id_client:
                    break
                after = id_client
        if outgoing.attempts > 1 or after is not None:
            resend = frame.resend or outgoing.attempts > 1
            outgoing.frame = frame = frames.Send(
                frame.id_client,
                frame.scene,
                frame.to,
                frame.content,
                frame.type,
                frame.file,
                frame.custom,
                resend,
                after,
                frame.shown,
            )
        if outgoing.timer is not None:
            outgoing.timer.cancel()
        outgoing.timer = self._connection.timers.at(
            now + self._connection.policies.timeout_of(outgoing.attempts), self._overdue, outgoing
        )
        self._connection.port.emit(events.Sent(frame.id_client, outgoing.attempts))
        self._connection.put(frame, now)

    def _spent(self, outgoing: Outgoing, now: float) -> bool:
        """Fail the send if it has no attempt left, and return whether it failed."""
        if outgoing.attempts < self._connection.policies.send_attempts:
            return False
        outgoing.timed_out = True
        self._give_up(outgoing, f"no answer after {outgoing.attempts} attempts", now)
        return True

    def _give_up(self, outgoing: Outgoing, text: str, now: float) -> None:
        self._drop(outgoing)
        self._fail(outgoing, Code.TIMEOUT, text)
        self._connection.owner.gave_up(now)

    def _overdue(self, outgoing: Outgoing, now: float) -> None:
        if self._spent(outgoing, now):
            self._release(outgoing.conversation_id, now)
        elif self._window:
            self._window = 1.0
            self._hold(outgoing)
            self._send_held(now)
        else:
            self._send(outgoing, now)

    def _drop(self, outgoing: Outgoing) -> None:
        id_client, waiting = outgoing.frame.id_client, self._waiting[outgoing.conversation_id]
        del self._unanswered[id_client], waiting[id_client]
        if not waiting:
            del self._waiting[outgoing.conversation_id]
            if not self._waiting:
                self._unanswered = self._waiting = NO_DICT
        outgoing.stop_timer()
        self._held -= outgoing.held

    def _fail(self, outgoing: Outgoing, code: Code, text: str) -> None:
        id_client = outgoing.frame.id_client
        self._failed = self._failed or {}
        self._failed[id_client] = outgoing
        if len(self._failed) > _FAILED:
            del self._failed[next(iter(self._failed))]
        self._connection.port.emit(events.SendFailed(id_client, code, text))
