"""The receiver: it shows each message once and in order, applies changes in the logs, and fetches missing messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from imsim.core import changes, events, frames
from imsim.core.changes import SILENT, event_of
from imsim.core.client.connection import Connection, State
from imsim.core.client.conversations import Conversations, LocalConversation
from imsim.core.client.inbox import Taken
from imsim.core.client.outbox import Outbox, Outgoing
from imsim.core.client.requests import Requests
from imsim.core.client.saved import SavedConversation
from imsim.core.empty import NO_NAMES
from imsim.core.model import ConversationState, Flow, Message, Route, Skipped
from imsim.core.unread import Unread

_IN, _OUT, _ONLINE = Flow.IN, Flow.OUT, State.ONLINE  # faster than attributes of the enumerations
_OWN = 100  # the entries in which a message of this device is searched that may be stored
_LOOKBACK = 20  # the size of the first range to search for the last message after a recall


class Receiver:
    """The conversations of a device, with their read marks and settings."""

    __slots__ = ("_connection", "_outbox", "_reports_marks", "_requests", "_user", "_wanted", "conversations")

    def __init__(
        self, user: str, connection: Connection, outbox: Outbox, requests: Requests, reports_marks: bool
    ) -> None:
        self.conversations = Conversations()
        self._user = user
        self._connection = connection
        self._outbox = outbox
        self._requests = requests
        self._reports_marks = reports_marks
        self._wanted = NO_NAMES  # refs of the ranges that the application requested; usually none

    def reset(self) -> None:
        """Delete everything, because the server has another log."""
        self.forget_gaps()
        self.conversations.clear()
        self._wanted = NO_NAMES

    def saved(self, cursors: Mapping[str, int]) -> list[SavedConversation]:
        """Return the conversations as a program can save them, with the lower cursors that `cursors` contains."""
        return [
            SavedConversation(
                c.id,
                min(c.inbox.cursor, cursors.get(c.id, c.inbox.cursor)),
                c.state,
                c.last_msg,
                c.unread.saved(),
                c.has_begun,
            )
            for c in self.conversations.values()
        ]

    def restore(self, conversations: Iterable[SavedConversation]) -> None:
        for saved in conversations:
            conversation = self.conversations[saved.id]
            conversation.inbox.next_seq = saved.cursor + 1
            conversation.state = saved.state
            conversation.last_msg = saved.last_msg
            conversation.unread = Unread.restored(saved.unread)
            conversation.has_begun = saved.has_begun

    # --- showing ------------------------------------------------------------------------------------------------------

    def take(self, message: Message, route: Route, now: float) -> LocalConversation:
        """Take a message of a log that arrived, show it when its turn comes, and return its conversation."""
        conversation = self.conversations[message.conversation_id]
        taken = conversation.inbox.take(message, route, now)
        if taken is Taken.SHOW:
            self._show(conversation, message, route, now)
            self.show_following(conversation, now)
        elif taken is Taken.REPEATED:
            self._connection.port.emit(events.Repeated(message))
        else:
            self.look_for_gap(conversation, now)
        return conversation

    def _show(self, conversation: LocalConversation, message: Message, route: Route, now: float) -> None:
        event = event_of(message)
        conversation.may_be_last(message)
        if event:
            self._apply(conversation, message, event, now)
        if message.sender == self._user:
            outgoing = self._outbox.proved_by(message)
            if outgoing is not None:  # a message of this device whose answer was lost
                self.read_by_send(conversation, outgoing, message.seq, now)
                self._connection.port.emit(events.Acked(message.id_client, conversation.id, message.seq, message.time))
                self._outbox.released(conversation.id, now)
                return
        elif message.countable:
            conversation.unread.add(message.seq)
        if event not in SILENT and not message.recalled:
            flow = _OUT if message.sender == self._user else _IN
            self._connection.port.emit(events.Shown(message, flow, route))

    def _apply(self, conversation: LocalConversation, entry: Message, event: str, now: float) -> None:
        """Apply the effects of a log entry on this device, according to its event."""
        if changes.is_left_with(entry, self._user):
            conversation.unread.end(entry.seq)
        if event not in SILENT or entry.file is None:
            return
        data, targets, last = entry.file["data"], entry.file["targets"], conversation.last_msg
        assert isinstance(data, dict)
        assert isinstance(targets, list)
        if event in changes.AMENDMENTS:
            conversation.amend(data["seq"], entry)
        if event == "recall":
            seq = data["seq"]
            conversation.unread.remove(seq)
            self._connection.port.emit(events.Recalled(conversation.id, seq))
            if last is not None and last.seq == seq:
                conversation.last_msg = None
                self._look_back(conversation, seq, now)
        elif event == "edit":
            seq, content = data["seq"], data["content"]
            if last is not None and last.seq == seq:
                conversation.last_msg = conversation.amended(last)
            self._connection.port.emit(events.Edited(conversation.id, seq, content))
        elif event == "resolve":
            self._connection.port.emit(events.Resolved(targets[0], data["state"]))
        else:
            self._connection.port.emit(events.Changed(entry))

    def _look_back(self, conversation: LocalConversation, seq: int, now: float, far: int = _LOOKBACK) -> None:
        """Search for the last message before `seq`, because the message at `seq` was the last one and was recalled."""
        if seq > 1:
            conversation.lookback = (max(1, seq - far), seq - 1)
            self._requests.ask(frames.History(conversation.id, *conversation.lookback), now)

    def show_following(self, conversation: LocalConversation, now: float) -> None:
        if not conversation.inbox.is_caught_up:
            for message, route in conversation.inbox.following():
                self._show(conversation, message, route, now)
        if conversation.gap_timer is not None:
            conversation.gap_timer.cancel()
            conversation.gap_timer = None
            self.look_for_gap(conversation, now)

    def complete_to(self, id: str, seq: int, now: float) -> None:
        """Note that the device has everything of the conversation up to `seq` that it may see."""
        conversation = self.conversations[id]
        conversation.inbox.complete_to(seq)
        self.show_following(conversation, now)

    def skip(self, skipped: Skipped, now: float) -> bool:
        """Leave out the messages up to `skipped.seq`, which the application can fetch with `history`.

        Return whether all of them are left out. If the device has shown something of the conversation, none is: other
        frames have overtaken the page, and it may leave out the recall of a message that the device shows. If a send of
        this device waits for an answer, the latest of them are not, because the message may be among them.
        """
        id, last = skipped.conversation_id, skipped.seq
        if self.conversations[id].inbox.cursor:
            return False
        if self._outbox.may_be_stored(id):
            last = max(0, last - _OWN)
        if last:
            unread = [[first, min(end, last)] for first, end in skipped.unread if first <= last]
            for first, end in unread:
                self.conversations[id].unread.add_range(first, end)
            self._connection.port.emit(events.Skipped(id, last, unread))
            self.complete_to(id, last, now)
        return last == skipped.seq

    def take_own(self, conversation: LocalConversation, message: Message, now: float) -> None:
        """Take a message that this device sent, and so shows already. It is stored now."""
        conversation.may_be_last(conversation.amended(message))
        if changes.is_left_with(message, self._user):
            conversation.unread.end(message.seq)
        conversation.inbox.take_own(message.seq, now)
        self.show_following(conversation, now)
        self.look_for_gap(conversation, now)

    def notified(self, id: str, seq: int, now: float) -> None:
        """Handle a notice that there are messages up to `seq`: fetch them, or acknowledge them if they are there."""
        conversation = self.conversations[id]
        conversation.head = max(conversation.head, seq)
        if conversation.head < conversation.inbox.next_seq:
            self.report_delivered(conversation, now)
        else:
            self.look_for_gap(conversation, now)

    # --- read and delivered marks -------------------------------------------------------------------------------------

    def read_moved(self, conversation: LocalConversation) -> None:
        if self._reports_marks:
            unread = conversation.unread
            self._connection.port.emit(events.ReadMoved(conversation.id, unread.read_seq, unread.count))

    def report_read(self, conversation: LocalConversation, now: float) -> None:
        self._requests.ask(frames.Read(conversation.id, conversation.unread.read_seq), now)

    def read_by_send(self, conversation: LocalConversation, outgoing: Outgoing, seq: int, now: float) -> None:
        """Move the read mark to the last message that was shown at the time of the send, which is stored as `seq`."""
        shown = outgoing.frame.shown
        if conversation.unread.read(shown):
            self.read_moved(conversation)
        # A server that stored an earlier attempt may have crashed before it sent the mark to the other devices and the
        # peer. And if the message was stored before this send was made, the mark has not moved to `shown`.
        is_first = outgoing.attempts == 1 and not outgoing.frame.resend and shown < seq
        if not is_first and shown > conversation.state.read_seq:
            self.report_read(conversation, now)

    def report_delivered(self, conversation: LocalConversation, now: float) -> None:
        self._connection.put(frames.Delivered(conversation.id, conversation.inbox.cursor), now)

    # --- conversation states ------------------------------------------------------------------------------------------

    def take_state(self, state: ConversationState) -> None:
        conversation = self.conversations[state.conversation_id]
        known = conversation.state
        if state.version <= known.version:
            return
        if state.has_settings_of(known):
            conversation.state = state
        else:
            before = self.settings(conversation)
            conversation.state = state
            self.settings_changed(conversation, before)
        if conversation.unread.read(state.read_seq):
            self.read_moved(conversation)
        if not self._reports_marks:
            return
        emit = self._connection.port.emit
        if state.peer_delivered_seq > known.peer_delivered_seq:
            emit(events.PeerDelivered(state.conversation_id, state.peer_delivered_seq))
        if state.peer_read_seq > known.peer_read_seq:
            emit(events.PeerRead(state.conversation_id, state.peer_read_seq))

    def settings(self, conversation: LocalConversation) -> events.StateChanged:
        """Return the settings as the device shows them, with those that the server has not answered yet."""
        state = conversation.settings(self._requests.wanted(conversation.id))
        return events.StateChanged(
            conversation.id, state.pinned, state.muted, state.hidden_seq, state.custom, state.blocked
        )

    def settings_changed(self, conversation: LocalConversation, before: events.StateChanged) -> None:
        after = self.settings(conversation)
        if after != before:
            self._connection.port.emit(after)

    # --- fetching what is missing -------------------------------------------------------------------------------------

    def look_for_gap(self, conversation: LocalConversation, now: float) -> None:
        """Pull missing messages: at once if a notice named them, after `gap_wait` if pushes may still bring them."""
        if self._connection.state != _ONLINE or conversation.pull is not None:
            return  # a sync or the pull under way will bring them
        since = conversation.inbox.held_since
        # No push will bring the messages from before this user joined the group.
        begins_here = since is not None and conversation.may_begin_later
        if begins_here or conversation.head >= conversation.inbox.next_seq:
            if conversation.gap_timer is not None:
                conversation.gap_timer.cancel()
            self._pull(conversation, now)
        elif since is not None and conversation.gap_timer is None:
            deadline = max(now, since + self._connection.policies.gap_wait)
            conversation.gap_timer = self._connection.timers.at(deadline, self._pull, conversation)

    def _pull(self, conversation: LocalConversation, now: float) -> None:
        conversation.gap_timer = None
        if self._connection.state == State.ONLINE:
            first, last = conversation.inbox.gap(conversation.head)
            if conversation.has_begun or not conversation.may_begin_later:
                last = min(last, first + self._connection.policies.page - 1)
            conversation.pull = (first, last)
            self._requests.ask(frames.History(conversation.id, first, last), now)

    def forget_gaps(self) -> None:
        for conversation in self.conversations.values():
            if conversation.gap_timer:
                conversation.gap_timer.cancel()
                conversation.gap_timer = None

    def history(self, conversation_id: str, first: int, last: int, now: float) -> None:
        """Fetch these messages for the application. They may have been shown before."""
        frame = frames.History(conversation_id, first, last)
        self._wanted |= {frame.ref}
        self._requests.ask(frame, now)

    def history_page(self, frame: frames.HistoryPage, now: float) -> None:
        asked = frames.History(frame.conversation_id, frame.first, frame.last)
        if not self._requests.answered(asked.op, asked.ref, frame.number):
            return
        conversation = self.conversations[frame.conversation_id]
        if conversation.lookback == (frame.first, frame.last):
            conversation.lookback = None
            for message in frame.messages:
                conversation.may_be_last(conversation.amended(message))
            if conversation.last_msg is None and frame.messages:
                self._look_back(conversation, frame.messages[0].seq if frame.more else frame.first, now)
            elif conversation.last_msg is None:  # a group has gaps for members who were away or joined late
                self._look_back(conversation, frame.first, now, 2 * (frame.last - frame.first + 1))
        if conversation.pull == (frame.first, frame.last):
            for message in frame.messages:
                if message.seq >= conversation.inbox.next_seq:  # otherwise a push has brought it meanwhile
                    self.take(message, Route.SYNC, now)
            if not frame.more:
                conversation.inbox.complete_to(frame.last)
                self.show_following(conversation, now)
            conversation.pull, conversation.has_begun = None, True
            self.report_delivered(conversation, now)
            if frame.more and conversation.inbox.held_since is not None:
                self._pull(conversation, now)  # the rest of a range that was too large for one page
            else:
                self.look_for_gap(conversation, now)
        if asked.ref in self._wanted:
            self._wanted -= {asked.ref}
            self._connection.port.emit(
                events.History(frame.conversation_id, frame.first, frame.last, frame.messages, frame.more)
            )

    def history_refused(self, ref: str) -> bool:
        """Give up the pull or look-back of this range, and return whether the application requested the range, too."""
        for conversation in self.conversations.values():
            if conversation.pull and frames.History(conversation.id, *conversation.pull).ref == ref:
                conversation.pull, conversation.head = None, 0
            if conversation.lookback and frames.History(conversation.id, *conversation.lookback).ref == ref:
                conversation.lookback = None
        if ref not in self._wanted:
            return False
        self._wanted -= {ref}
        return True
