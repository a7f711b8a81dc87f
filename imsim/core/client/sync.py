"""Fetching what a device has missed: after a login, and whenever there may be more than it was sent."""

from __future__ import annotations

from imsim.core import events, frames
from imsim.core.client.connection import Connection, State
from imsim.core.client.outbox import Outbox
from imsim.core.client.receiver import Receiver
from imsim.core.client.requests import Requests
from imsim.core.model import Code, Route
from imsim.core.timers import Timer


class Sync:
    """Asks page by page, and again where no answer comes, until the server says that this was all."""

    __slots__ = (
        "_again",
        "_connection",
        "_inbox",
        "_is_ready",
        "_log",
        "_number",
        "_outbox",
        "_receiver",
        "_requests",
        "_resync",
        "_timer",
        "_version",
    )

    def __init__(self, connection: Connection, outbox: Outbox, requests: Requests, receiver: Receiver) -> None:
        self._connection = connection
        self._outbox = outbox
        self._requests = requests
        self._receiver = receiver
        self._log: str | None = None  # which log of the server's this device has got things from
        self._version = 0  # of the user's log, up to which this device has its conversation states for sure
        self._inbox = 0  # up to where the user's inbox has been fetched
        self._timer: Timer | None = None
        self._number = 0  # of the latest sync
        self._again = False  # whether there may be more than the sync under way has seen
        self._is_ready = False  # whether the first sync since the login is done
        self._resync = 0  # the number of the connection's latest `resync`

    def logged_in(self, log: str, now: float) -> None:
        if self._log not in (None, log):
            self._reset()
        self._log = log
        self._again = self._is_ready = False
        self._resync = 0
        self._ask(None, now)

    def lost(self) -> None:
        """The connection is gone."""
        self._stop_timer()

    def resynced(self, frame: frames.Resync, now: float) -> None:
        if frame.number > self._resync:  # else it came again
            self._resync = frame.number
            self.look_again(now)

    def look_again(self, now: float) -> None:
        """There may be more in storage than this device knows of."""
        if self._connection.state == State.ONLINE:
            self._connection.state = State.SYNCING
            self._ask(None, now)
        else:
            self._again = True  # the sync under way may have looked too early

    def rejected(self, frame: frames.Rejected, now: float) -> None:
        if not self._is_answer(frame.number):
            return
        if frame.code == Code.AHEAD:
            self._reset()
            self._ask(None, now)
        elif frame.retry_after:
            self._stop_timer()
            self._timer = self._connection.timers.at(now + frame.retry_after, self._ask)
        elif not frame.code.retryable:
            self._stop_timer()
            self._connection.port.emit(events.RequestFailed(frame.request, frame.ref, frame.code, frame.text))
        # Otherwise its timer asks again, a little later.

    def page(self, frame: frames.Page, now: float) -> None:
        if self._take(frame, now):
            self._inbox = frame.inbox
            self._version = frame.version or self._version
            self._ask(None, now)

    def done(self, frame: frames.SyncDone, now: float) -> None:
        if not self._take(frame, now):
            return
        self._inbox, self._version = frame.inbox, frame.version
        if self._again:
            self._again = False
            self._ask(None, now)
            return
        self._connection.state = State.ONLINE
        self._stop_timer()
        for conversation in self._receiver.conversations.values():
            is_ahead = conversation.unread.read_seq > conversation.state.read_seq
            if is_ahead and not self._requests.is_waiting(frames.Read.op, conversation.id):
                # A send moved it, and the server died at that moment.
                self._receiver.report_read(conversation, now)
            self._receiver.look_for_gap(conversation, now)
        if not self._is_ready:
            self._is_ready = True
            self._connection.port.emit(events.Ready())

    def _ask(self, _: None, now: float) -> None:
        cursors = {c.id: c.inbox.cursor for c in self._receiver.conversations.values()}
        states = max((c.state.version for c in self._receiver.conversations.values()), default=0)
        self._number += 1
        self._stop_timer()
        self._timer = self._connection.timers.at(now + self._connection.policies.send_timeout, self._ask_again)
        self._connection.put(frames.Sync(cursors, self._version, self._inbox, self._number, self._resync, states), now)

    def _ask_again(self, _: None, now: float) -> None:
        """Under the same number: the answer to the first is as good, and storage that is slow is not to be late for
        ever."""
        self._number -= 1
        self._ask(None, now)

    def _take(self, frame: frames.Page | frames.SyncDone, now: float) -> bool:
        """Whether it answers the latest sync; what it brings is welcome in any case."""
        for message in frame.messages:
            self._receiver.take(message, Route.SYNC, now)
        for id, seq in frame.cursors.items():
            if seq:  # of what has not begun there is nothing to keep
                self._receiver.complete_to(id, seq, now)
        if self._connection.policies.receipts.acknowledge_syncs:
            for id in {message.conversation_id: None for message in frame.messages}:
                self._receiver.report_delivered(self._receiver.conversation(id), now)
        for state in frame.states:
            if state.version:
                self._receiver.take_state(state)
        return self._is_answer(frame.number)

    def _is_answer(self, number: int) -> bool:
        return self._connection.state == State.SYNCING and number == self._number

    def _reset(self) -> None:
        """What this device has got is of a log that is no more: an old seq, or version, says nothing about the new one.
        What the user wants is kept, as far as it does not speak of a seq."""
        given_up = [
            frame
            for frame in self._requests.forget_seqs()
            if not isinstance(frame, frames.History) or self._receiver.history_refused(frame.ref)
        ]
        self._receiver.reset()
        self._version = self._inbox = 0
        self._outbox.forget_seqs()
        self._connection.port.emit(events.Reset())
        for frame in given_up:
            self._connection.port.emit(
                events.RequestFailed(frame.op, frame.ref, Code.AHEAD, "the server's log is another one")
            )

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
