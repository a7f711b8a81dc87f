"""The messages that a device sends: repeated until each has its answer, and in order within a conversation."""

from __future__ import annotations

from dataclasses import replace

from imsim.core import events, frames
from imsim.core.attachments import json_fault
from imsim.core.client.connection import Connection
from imsim.core.empty import NO_DICT
from imsim.core.model import LONGEST_ID_CLIENT, Code, Message, Scene, Status
from imsim.core.timers import Timer

_OUTGOING = 10_000  # sends that may wait for their answer
_FAILED = 1_000  # failed sends remembered, in case they prove stored after all


class Outgoing:
    """A send without its final answer. `held` means: it waits, without a timer, for the answer of its predecessor."""

    __slots__ = ("attempts", "conversation_id", "frame", "held", "limited", "timer")

    def __init__(self, conversation_id: str, frame: frames.Send) -> None:
        self.conversation_id = conversation_id
        self.frame = frame
        self.attempts = 0
        self.held = False
        self.limited = False  # held for want of rate: then it goes alone
        self.timer: Timer | None = None

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Outbox:
    """The sends of one device: those that wait for their answer, and the latest that failed."""

    __slots__ = ("_connection", "_failed", "_online", "_unanswered", "_waiting")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._online = False
        self._unanswered: dict[str, Outgoing] = NO_DICT  # by id_client
        self._waiting: dict[str, dict[str, Outgoing]] = NO_DICT  # the same by conversation, in the order of sending
        self._failed: dict[str, Outgoing] = NO_DICT  # in case they prove stored after all

    def add(self, conversation_id: str, frame: frames.Send, now: float) -> None:
        """An id_client that has failed is sent again by this; one that is on its way is not."""
        if frame.id_client in self._unanswered:
            return
        frame.resend = self._failed.pop(frame.id_client, None) is not None
        outgoing = Outgoing(conversation_id, frame)
        if len(self._unanswered) >= _OUTGOING:
            self._fail(outgoing, Code.UNAVAILABLE, "too many messages wait for an answer")
            return
        if not 1 <= len(frame.id_client) <= LONGEST_ID_CLIENT:  # it would be refused by a part of its name
            self._fail(outgoing, Code.BAD_REQUEST, f"idClient: give it 1 to {LONGEST_ID_CLIENT} characters")
            return
        if frame.file and (fault := json_fault(frame.file)):  # it might not even leave, or leave as something else
            self._fail(outgoing, Code.BAD_REQUEST, f"file: {fault}")
            return
        self._unanswered, self._waiting = self._unanswered or {}, self._waiting or {}
        self._unanswered[frame.id_client] = outgoing
        self._waiting.setdefault(conversation_id, {})[frame.id_client] = outgoing
        if self._online:
            self._send(outgoing, now)

    def status(self, id_client: str) -> Status:
        if id_client in self._unanswered:
            return Status.SENDING
        return Status.FAIL if id_client in self._failed else Status.SUCCESS

    def logged_in(self, now: float) -> None:
        self._online = True
        for outgoing in list(self._unanswered.values()):
            if outgoing.attempts == 0 or not self._spent(outgoing, now):
                self._send(outgoing, now)

    def lost(self) -> None:
        """The connection is gone."""
        self._online = False
        for outgoing in self._unanswered.values():
            outgoing.stop_timer()

    def forget_seqs(self) -> None:
        """The log is another one: what was shown of the old one is not read in the new."""
        for outgoing in self._unanswered.values():
            outgoing.frame = replace(outgoing.frame, shown=0)

    def said(self, id_client: str, now: float) -> Outgoing | None:
        """The router has it, which in a chatroom is all that is to be had: then this is the send that it was."""
        outgoing = self._unanswered.get(id_client)
        if outgoing is None or outgoing.frame.scene != Scene.CHATROOM:
            return None
        self._drop(outgoing)
        self.release_held(outgoing.conversation_id, now)
        return outgoing

    def proved_by(self, message: Message) -> Outgoing | None:
        """The send that this message of one's own is, its answer having been lost. Another device may have used the
        same id_client for something else: that one is no proof, and the send will be refused. (Unless it was amended
        since: then nobody can tell, and the send would be answered as if it were it.)"""
        return self._resolve(message.id_client, message.conversation_id, message)

    def answered(self, id_client: str, conversation_id: str) -> Outgoing | None:
        """The send that proves stored, also if it had failed; it waits for nothing any more."""
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
        outgoing = self._unanswered.get(frame.ref)
        if outgoing is None:
            return  # answered before
        is_first = next(iter(self._waiting[outgoing.conversation_id])) == frame.ref
        if frame.code == Code.RATE_LIMITED:
            outgoing.attempts -= 1  # a refusal that says when to come back is no failed attempt
        if frame.code == Code.GAP or (frame.code == Code.RATE_LIMITED and not is_first):
            # It goes again when its predecessor has been answered, and no sooner: it would be refused again, and where
            # there is a rate limit it would take what its predecessor waits for.
            outgoing.held, outgoing.limited = True, frame.code == Code.RATE_LIMITED
            outgoing.stop_timer()
            if is_first:
                self.release_held(outgoing.conversation_id, now)
        elif frame.code == Code.RATE_LIMITED:
            outgoing.stop_timer()
            outgoing.timer = self._connection.timers.at(now + frame.retry_after, self._overdue, outgoing)
        elif not frame.code.retryable:
            self._drop(outgoing)
            self._fail(outgoing, frame.code, frame.text)
            self.release_held(outgoing.conversation_id, now)
        # Otherwise its timer sends it again, a little later, which is what an overloaded server needs.

    def release_held(self, conversation_id: str, now: float) -> None:
        """The oldest unanswered message of the conversation changed: those held back for it may go again."""
        waiting = self._waiting.get(conversation_id)
        for outgoing in list(waiting.values()) if waiting else ():
            if not outgoing.held:
                break
            alone = outgoing.limited
            if not self._spent(outgoing, now):
                self._send(outgoing, now)
                if alone:
                    break

    def _send(self, outgoing: Outgoing, now: float) -> None:
        frame = outgoing.frame
        outgoing.attempts += 1
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
            now + self._connection.policies.send_timeout, self._overdue, outgoing
        )
        self._connection.port.emit(events.Sent(frame.id_client, outgoing.attempts))
        self._connection.put(frame, now)

    def _spent(self, outgoing: Outgoing, now: float) -> bool:
        if outgoing.attempts < self._connection.policies.send_attempts:
            return False
        self._drop(outgoing)
        self._fail(outgoing, Code.TIMEOUT, "no answer after every attempt")
        self._connection.owner.gave_up(now)
        return True

    def _overdue(self, outgoing: Outgoing, now: float) -> None:
        if not self._spent(outgoing, now):
            self._send(outgoing, now)
        else:
            self.release_held(outgoing.conversation_id, now)

    def _drop(self, outgoing: Outgoing) -> None:
        id_client, waiting = outgoing.frame.id_client, self._waiting[outgoing.conversation_id]
        del self._unanswered[id_client], waiting[id_client]
        if not waiting:
            del self._waiting[outgoing.conversation_id]
            if not self._waiting:
                self._unanswered = self._waiting = NO_DICT
        outgoing.stop_timer()

    def _fail(self, outgoing: Outgoing, code: Code, text: str) -> None:
        id_client = outgoing.frame.id_client
        self._failed = self._failed or {}
        self._failed[id_client] = outgoing
        if len(self._failed) > _FAILED:
            del self._failed[next(iter(self._failed))]
        self._connection.port.emit(events.SendFailed(id_client, code, text))
