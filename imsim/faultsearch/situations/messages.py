"""Situations of messages: on their way to the log, and from there to the devices."""

from __future__ import annotations

from collections import Counter, defaultdict

from imsim.core import changes, events, frames, internal_frames, storage
from imsim.core.model import Code, Flow, Message, Route, Scene, is_chatroom
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import (
    Asked,
    ClientReceived,
    Event,
    GatewaySent,
    RouterReceived,
    RouterSent,
    Stored,
)
from imsim.faultsearch.situations.situation import End, Situations, has_code, occurs, situation
from imsim.faultsearch.workload import ATTACHMENTS

_REFUSED = (ClientReceived | Event, frames.Rejected | events.SendFailed)  # as a device, and its application, hear of it
Up = RouterReceived[internal_frames.Up]
Down = RouterSent[internal_frames.Down]
Appended = Stored[storage.Append]


class Sends(Situations):
    def begin(self) -> None:
        self.appending: set[tuple[str, str, str]] = set()
        self.amending: dict[
            tuple[str, object], str
        ] = {}  # (conversation, seq) -> an amendment that storage has not got
        self.times: dict[str, int] = {}  # by conversation, of the latest message
        self.refused: dict[str, tuple[int, int]] = {}  # conversation -> epoch and seq that storage refused last
        self.let_out = ("", 0.0, "")  # what a writer let out last: which, when, idClient

    # --- answers ---

    @situation("a message was acknowledged although its sender had heard that it failed", Event, events.Acked)
    def ack_lost(self, entry: Event[events.Acked]) -> bool:
        return (entry.node, entry.event.id_client) in self.memory.failed

    early_ack = occurs("ack = after_receive acknowledged a message before it was stored", Event, events.Received)
    send_gave_up = has_code(Code.TIMEOUT, "every attempt was spent", Event, events.SendFailed)
    storage_failed = has_code(Code.UNAVAILABLE, "a request failed", ClientReceived, frames.Rejected)
    gap_refused = has_code(Code.GAP, "a message was refused because its predecessor had not arrived", *_REFUSED)
    no_such_conversation = has_code(Code.NO_CONVERSATION, "a send to a group that does not exist", *_REFUSED)
    not_a_member = has_code(Code.NOT_MEMBER, "a send into somebody else's group", *_REFUSED)
    too_large = has_code(Code.TOO_LARGE, "a send beyond the limit", *_REFUSED)
    conflict = has_code(Code.CONFLICT, "an idClient was used for another message", *_REFUSED)
    muted = has_code(Code.MUTED, "a send was refused because its sender is muted", *_REFUSED)
    not_allowed = has_code(Code.FORBIDDEN, "a change was refused because only others may make it", *_REFUSED)
    blocked = has_code(Code.BLOCKED, "a send was refused because its sender is blocked", *_REFUSED)
    strangers_refused = has_code(Code.NOT_FRIENDS, "a send between two users who are not friends", *_REFUSED)
    answered_too_late = has_code(Code.EXPIRED, "an answer, recall or edit came after its time", *_REFUSED)

    @situation("the limit of a user was met", GatewaySent, frames.Rejected)
    def user_had_to_wait(self, entry: GatewaySent[frames.Rejected]) -> bool:
        return entry.frame.code == Code.RATE_LIMITED and not self.memory.has_got(entry.node, internal_frames.Down)

    @situation("the limit of a group was met", GatewaySent, frames.Rejected)
    def group_had_to_wait(self, entry: GatewaySent[frames.Rejected]) -> bool:
        return entry.frame.code == Code.RATE_LIMITED and self.memory.has_got(entry.node, internal_frames.Down)

    @situation("the application sent a failed message again", Event, events.Sent)
    def sent_again_by_hand(self, entry: Event[events.Sent]) -> bool:
        return entry.event.attempt == 1 and (entry.node, entry.event.id_client) in self.memory.failed

    @situation("the application sent a message again that had succeeded", Event, events.Sent)
    def sent_again_though_stored(self, entry: Event[events.Sent]) -> bool:
        return entry.event.attempt == 1 and entry.event.id_client in self.memory.acked[entry.node]

    @situation("both devices got the same seq", End)
    def same_id_client_from_two_devices(self, entry: End) -> int:
        counts = Counter(id_client for acked in self.memory.acked.values() for id_client in acked)
        return sum(count > 1 for count in counts.values())

    # --- at the writer ---

    @situation(
        "a send arrived again while its first copy waited for storage", RouterReceived, internal_frames.Up, frames.Send
    )
    def coalesced_retry(self, entry: Up) -> bool:
        return _key(entry.frame) in self.appending

    @situation("a resent message was found where it had been stored", Stored, storage.Find)
    def resend_answered_from_storage(self, entry: Stored[storage.Find]) -> bool:
        return entry.result is not None

    @situation("storage knew a message that its writer had forgotten", Stored, storage.Append)
    def duplicate_refused_by_storage(self, entry: Appended) -> bool:
        return isinstance(entry.result, storage.Duplicate)

    @situation("storage refused a writer that another one had replaced", Stored, storage.Append)
    def fenced_writer(self, entry: Appended) -> bool:
        return isinstance(entry.result, storage.Fenced)

    @situation(
        "a message was to be amended that another amendment was about to change",
        RouterReceived,
        internal_frames.Up,
        frames.Send,
    )
    def amendments_raced(self, entry: Up) -> bool:
        about, id_client = self._amends(entry)
        return self.amending.get(about, id_client) != id_client

    @situation("a change was on its way behind what storage refused", Stored, storage.Append)
    def change_behind_a_refusal(self, entry: Appended) -> bool:
        if not isinstance(entry.result, storage.Fenced) or entry.request.effects is None:
            return False
        epoch, seq = self.refused.get(entry.request.message.conversation_id, (-1, 0))
        return epoch == entry.request.epoch and seq < entry.request.message.seq

    @situation("a message was stored with an earlier time than the one before it", Stored, storage.Append)
    def older_time_at_a_higher_seq(self, entry: Appended) -> bool:
        message = entry.request.message
        return isinstance(entry.result, storage.Appended) and message.time < self.times.get(message.conversation_id, 0)

    @situation("a send said what its device had shown", Stored, storage.Append)
    def mark_moved_by_sending(self, entry: Appended) -> bool:
        return entry.request.shown > 0

    @situation("a router opened a conversation again", Stored, storage.OpenConversation)
    def memory_lost(self, entry: Stored[storage.OpenConversation]) -> bool:
        return entry.request.conversation_id in self.memory.opened

    @situation("a writer that had given up looked at what was stored", Asked, storage.OpenConversation)
    def reopened_by_itself(self, entry: Asked[storage.OpenConversation]) -> bool:
        by_itself = self.memory.heard.get(entry.node) != entry.at
        return by_itself and entry.request.conversation_id in self.memory.opened

    @situation("a refusal waited for the change that it rests on", RouterSent, internal_frames.Down, frames.Rejected)
    def change_in_flight(self, entry: Down) -> bool:
        refusal = entry.frame.frame
        assert isinstance(refusal, frames.Rejected)
        is_ruled = refusal.code in (Code.NOT_MEMBER, Code.FORBIDDEN, Code.MUTED)
        return is_ruled and self._has_waited(entry) and self.memory.heard.get(entry.node) != entry.at

    @situation(
        "an idClient was used for another message while its twin waited for storage",
        RouterSent,
        internal_frames.Down,
        frames.Rejected,
    )
    def conflict_put_off(self, entry: Down) -> bool:
        refusal = entry.frame.frame
        assert isinstance(refusal, frames.Rejected)
        return self._has_waited(entry) and refusal.code == Code.CONFLICT and refusal.ref == self.let_out[2]

    def _has_waited(self, entry: Down) -> bool:
        """It is answered in the moment in which something else was let out: for that it has waited."""
        return self.let_out[:2] == (entry.node, entry.at)

    @staticmethod
    def _amends(entry: Up) -> tuple[tuple[str, object], str]:
        frame = entry.frame.frame
        assert isinstance(frame, frames.Send)
        return (entry.frame.conversation_id, _amended(frame)), frame.id_client

    # --- what they remember ---

    @on(Asked, storage.Append)
    def asked(self, entry: Asked[storage.Append]) -> None:
        message = entry.request.message
        self.amending.pop((message.conversation_id, _amended(message)), None)
        self.appending.add((message.conversation_id, message.sender, message.id_client))

    @on(Stored, storage.Append)
    def appended(self, entry: Appended) -> None:
        message = entry.request.message
        self.appending.discard((message.conversation_id, message.sender, message.id_client))
        if isinstance(entry.result, storage.Appended):
            self.times[message.conversation_id] = message.time
        elif isinstance(entry.result, storage.Duplicate | storage.Blocked):
            self.refused[message.conversation_id] = (entry.request.epoch, message.seq)

    @on(RouterSent, internal_frames.Down, frames.Stored)
    def released(self, entry: Down) -> None:
        frame = entry.frame.frame
        assert isinstance(frame, frames.Stored)
        self.let_out = (entry.node, entry.at, frame.id_client)

    @on(RouterReceived, internal_frames.Up, frames.Send)
    def wants_to_amend(self, entry: Up) -> None:
        about, id_client = self._amends(entry)
        if about[1] is not None:
            self.amending.setdefault(about, id_client)

    @on(RouterSent, internal_frames.Down, frames.Rejected)
    def refused_to(self, entry: Down) -> None:
        refusal = entry.frame.frame
        assert isinstance(refusal, frames.Rejected)
        self.amending = {about: sent for about, sent in self.amending.items() if sent != refusal.ref}


class Deliveries(Situations):
    def begin(self) -> None:
        self.given: dict[tuple[str, str], set[int]] = defaultdict(set)  # seqs by instance and conversation
        self.sent: dict[tuple[str, str, str, str], int] = {}  # (instance, gateway, op, conversation) -> latest number

    # --- what is shown ---

    @situation("a picture or the like, or an attachment of an unknown type, was shown", Event, events.Shown)
    def attachment(self, entry: Event[events.Shown]) -> bool:
        return not _is_of_a_room(entry) and entry.event.message.type in ATTACHMENTS

    @situation("the custom of a message was shown", Event, events.Shown)
    def custom(self, entry: Event[events.Shown]) -> bool:
        message = entry.event.message
        return message.custom is not None and not _is_of_a_room(entry) and message.scene != Scene.SYSTEM

    @situation("a notification was shown", Event, events.Shown)
    def not_countable(self, entry: Event[events.Shown]) -> bool:
        return not _is_of_a_room(entry) and not entry.event.message.countable

    @situation("a message was shown with flow = out", Event, events.Shown)
    def own_message_from_another_device(self, entry: Event[events.Shown]) -> bool:
        return not _is_of_a_room(entry) and entry.event.flow == Flow.OUT

    @situation("a device got a message by a sync", Event, events.Shown)
    def shown_by_sync(self, entry: Event[events.Shown]) -> bool:
        return not _is_of_a_room(entry) and entry.event.route == Route.SYNC

    @situation("a sync showed a system message", Event, events.Shown)
    def system_message_while_away(self, entry: Event[events.Shown]) -> bool:
        return entry.event.message.conversation_id.startswith("system:") and entry.event.route == Route.SYNC

    @situation("a push arrived before the sync was done", Event, events.Shown)
    def push_during_sync(self, entry: Event[events.Shown]) -> bool:
        is_early = entry.event.route == Route.PUSH and entry.node not in self.memory.ready
        return is_early and not _is_of_a_room(entry)

    @situation("a push filled a gap, and what stood behind it followed", Event, events.Shown)
    def message_held_back_shown(self, entry: Event[events.Shown]) -> bool:
        latest = self.memory.latest.get(entry.node)
        is_other = isinstance(latest, frames.Push) and latest.message is not entry.event.message
        return is_other and not _is_of_a_room(entry)

    @situation("a device showed what it had fetched to fill a gap", Event, events.Shown)
    def gap_pulled(self, entry: Event[events.Shown]) -> bool:
        return not _is_of_a_room(entry) and self.memory.has_got(entry.node, frames.HistoryPage)

    duplicate_push = occurs("a device got a message again", Event, events.Repeated)

    # --- pushes and notices ---

    @situation("a message arrived before its predecessor", ClientReceived, frames.Push)
    def gap_waited_for(self, entry: ClientReceived[frames.Push]) -> bool:
        message = entry.frame.message
        return message.seq > 1 and message.seq - 1 not in self.given[entry.node, message.conversation_id]

    notified = occurs("a device heard that there is something new", ClientReceived, frames.Notify)
    resync = occurs("a device was asked to look at storage", ClientReceived, frames.Resync)

    @situation("a notice was repeated because it had not been acknowledged", GatewaySent, frames.Notify)
    def notified_again(self, entry: GatewaySent[frames.Notify]) -> bool:
        return self._is_again(entry, entry.frame.conversation_id, entry.frame.seq)

    @situation("a resync was repeated because the device had not asked", GatewaySent, frames.Resync)
    def resync_repeated(self, entry: GatewaySent[frames.Resync]) -> bool:
        return self._is_again(entry, "", entry.frame.number)

    @situation("a state was repeated because its device had not acknowledged it", GatewaySent, frames.State)
    def state_repeated(self, entry: GatewaySent[frames.State]) -> bool:
        return self._is_again(entry, entry.frame.state.conversation_id, entry.frame.state.version)

    def _is_again(self, entry: GatewaySent[frames.ToClient], conversation: str, number: int) -> bool:
        return self.sent.get((entry.peer, entry.node, entry.frame.op, conversation)) == number

    @situation(
        "users had not heard of the last of what a new writer found", RouterSent, internal_frames.Down, frames.Resync
    )
    def found_by_a_new_writer(self, entry: Down) -> bool:
        return self.memory.has_got(entry.node, internal_frames.Opened)

    # --- syncs and ranges ---

    page_with_more = occurs("a sync took several pages", ClientReceived, frames.Page)

    @situation("a device was given what had been recalled before", ClientReceived, frames.Page | frames.SyncDone)
    def fetched_recalled(self, entry: ClientReceived[frames.Page | frames.SyncDone]) -> bool:
        return any(message.recalled for message in entry.frame.messages)

    @situation(
        "a page of a sync, or of a range, took fewer messages than it may: no more bytes fitted in",
        Stored,
        storage.Missed | storage.Range,
    )
    def page_ended_by_bytes(self, entry: Stored[storage.Missed | storage.Range]) -> bool:
        page = entry.result
        return (
            isinstance(page, storage.MissedPage | storage.RangePage)
            and page.more
            and len(page.messages) < entry.request.limit
        )

    @situation("an inbox was read past messages that the device had got", Stored, storage.Missed)
    def sync_past_what_was_pushed(self, entry: Stored[storage.Missed]) -> bool:
        page = entry.result
        return isinstance(page, storage.MissedPage) and page.inbox - entry.request.inbox > len(page.messages)

    @situation("a range of messages was fetched again", Event, events.History)
    def history_looked_at(self, entry: Event[events.History]) -> bool:
        return bool(entry.event.messages)

    @situation("the range did not fit into one page", Event, events.History)
    def history_with_more(self, entry: Event[events.History]) -> bool:
        return entry.event.more

    @situation("a range of the system log was fetched again", Event, events.History)
    def system_messages_fetched(self, entry: Event[events.History]) -> bool:
        return bool(entry.event.messages) and entry.event.conversation_id.startswith("system:")

    # --- what they remember ---

    @on(ClientReceived, frames.Push)
    def pushed(self, entry: ClientReceived[frames.Push]) -> None:
        self.given[entry.node, entry.frame.message.conversation_id].add(entry.frame.message.seq)

    @on(ClientReceived, frames.Stored)
    def stored(self, entry: ClientReceived[frames.Stored]) -> None:
        self.given[entry.node, entry.frame.conversation_id].add(entry.frame.seq)

    @on(ClientReceived, frames.Page | frames.SyncDone)
    def paged(self, entry: ClientReceived[frames.Page | frames.SyncDone]) -> None:
        for conversation, seq in entry.frame.cursors.items():
            self.given[entry.node, conversation].update(range(1, seq + 1))

    @on(GatewaySent, frames.State | frames.Notify | frames.Resync)
    def sent_out(self, entry: GatewaySent[frames.State | frames.Notify | frames.Resync]) -> None:
        frame = entry.frame
        if isinstance(frame, frames.State):
            conversation, number = frame.state.conversation_id, frame.state.version
        elif isinstance(frame, frames.Notify):
            conversation, number = frame.conversation_id, frame.seq
        else:
            conversation, number = "", frame.number
        self.sent[entry.peer, entry.node, frame.op, conversation] = number

    @on(GatewaySent, frames.LoggedIn)
    def logged_in(self, entry: GatewaySent[frames.LoggedIn]) -> None:
        self.sent.pop((entry.peer, entry.node, frames.Resync.op, ""), None)


def _key(up: internal_frames.Up) -> tuple[str, str, str]:
    assert isinstance(up.frame, frames.Send)
    return up.conversation_id, up.session.user, up.frame.id_client


def _amended(message: frames.Send | Message) -> object:
    """The seq of what it would recall or edit; None if it would not."""
    file = message.file or {}
    data = file.get("data")
    return data.get("seq") if file.get("event") in changes.AMENDMENTS and isinstance(data, dict) else None


def _is_of_a_room(entry: Event[events.Shown]) -> bool:
    return is_chatroom(entry.event.message.conversation_id)
