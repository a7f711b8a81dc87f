"""The sync: it fetches what a device has missed, after a login and whenever pushes may have been lost."""

from __future__ import annotations

from imsim.core import events, frames
from imsim.core.client.connection import Connection, State
from imsim.core.client.outbox import Outbox
from imsim.core.client.receiver import Receiver
from imsim.core.client.requests import Requests
from imsim.core.client.saved import Saved
from imsim.core.model import Code, Route
from imsim.core.timers import Timer


class Sync:
    """The sync of one device. It requests one page after the other until the last one, and repeats lost requests."""

    __slots__ = (
        "_again",
        "_connection",
        "_first_sync_once",
        "_has_synced",
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

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        requests: Requests,
        receiver: Receiver,
        first_sync_once: bool = False,
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._requests = requests
        self._receiver = receiver
        self._log: str | None = None  # the server's log that this device has data of
        self._version = 0  # the version of the user's log up to which this device has all conversation states
        self._inbox = 0  # the position up to which the user's inbox has been fetched
        self._timer: Timer | None = None
        self._number = 0  # the number of the latest sync
        self._again = False  # whether there may be more than the sync under way will bring
        self._is_ready = False  # whether the first sync since the login is done
        self._first_sync_once = first_sync_once
        self._has_synced = False  # whether a sync with this log is done
        self._resync = 0  # the number of the connection's latest `resync`

    def logged_in(self, log: str, now: float) -> None:
        if self._log not in (None, log):
            self._reset()
        self._log = log
        self._again = self._is_ready = False
        self._resync = 0
        self._ask(None, now)

    @property
    def inbox(self) -> int:
        """The position up to which the user's inbox has been fetched."""
        return self._inbox

    def saved(self, inbox: int) -> tuple[str, int, int]:
        """Return the log, the version and the position `inbox`, which may be before the present one."""
        return self._log or "", self._version, min(inbox, self._inbox)

    def restore(self, saved: Saved) -> None:
        self._log, self._version, self._inbox = saved.log or None, saved.version, saved.inbox
        self._has_synced = True

    def lost(self) -> None:
        """Stop the timer, because the connection has ended."""
        self._stop_timer()

    def resynced(self, frame: frames.Resync, now: float) -> None:
        if frame.number > self._resync:  # otherwise it is a repetition
            self._resync = frame.number
            self.look_again(now)

    def look_again(self, now: float) -> None:
        """Sync again, because storage may have more than this device knows."""
        if self._connection.state == State.ONLINE:
            self._connection.state = State.SYNCING
            self._ask(None, now)
        else:
            self._again = True  # the sync under way may have read storage too early

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
        # Otherwise the timer repeats the sync a little later.

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
        self._has_synced = True
        self._stop_timer()
        for conversation in self._receiver.conversations.values():
            is_ahead = conversation.unread.read_seq > conversation.state.read_seq
            if is_ahead and not self._requests.is_waiting(frames.Read.op, conversation.id):
                # A send moved the read mark, and the server crashed before it stored the mark.
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
        newest = 0 if self._first_sync_once and self._has_synced else self._connection.policies.first_sync
        if newest:  # the server sends all messages of a conversation whose cursor is 0
            cursors = {id: seq for id, seq in cursors.items() if seq or self._outbox.may_be_stored(id)}
        sync = frames.Sync(cursors, self._version, self._inbox, self._number, self._resync, states, newest)
        self._connection.put(sync, now)

    def _ask_again(self, _: None, now: float) -> None:
        """Repeat the sync under the same number, so that a late answer from slow storage still counts."""
        self._number -= 1
        self._ask(None, now)

    def _take(self, frame: frames.Page | frames.SyncDone, now: float) -> bool:
        """Take the messages and states of a page, and return whether the sync goes on from it.

        It does not if the page does not answer the latest sync, or if it leaves out messages that this device needs:
        then the sync begins again at the same position of the inbox.
        """
        incomplete = {one.conversation_id for one in frame.skipped if not self._receiver.skip(one, now)}
        for message in frame.messages:
            self._receiver.take(message, Route.SYNC, now)
        for id, seq in frame.cursors.items():
            if seq and id not in incomplete:  # 0: the conversation has no messages yet
                self._receiver.complete_to(id, seq, now)
        if self._connection.policies.receipts.acknowledge_syncs:
            for id in {message.conversation_id: None for message in frame.messages}:
                self._receiver.report_delivered(self._receiver.conversations[id], now)
        for state in frame.states:
            if state.version:
                self._receiver.take_state(state)
        if incomplete and self._is_answer(frame.number):
            self._ask(None, now)
        return self._is_answer(frame.number)

    def _is_answer(self, number: int) -> bool:
        return self._connection.state == State.SYNCING and number == self._number

    def _reset(self) -> None:
        """Delete everything from the old log, because its seqs and versions mean nothing in the new one.

        Sends and requests of the user stay, except requests about seqs.
        """
        given_up = [
            frame
            for frame in self._requests.forget_seqs()
            if not isinstance(frame, frames.History) or self._receiver.history_refused(frame.ref)
        ]
        self._receiver.reset()
        self._version = self._inbox = 0
        self._has_synced = False
        self._outbox.forget_seqs()
        self._connection.port.emit(events.Reset())
        for frame in given_up:
            self._connection.port.emit(
                events.RequestFailed(frame.op, frame.ref, Code.AHEAD, "the server has another log, with other seqs")
            )

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
