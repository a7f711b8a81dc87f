"""What feeds the reference model: each entry is compared with the model as it was, and then becomes part of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from imsim.core import frames, internal_frames, storage
from imsim.core.model import ConversationState, Message, Scene, conversation_id, is_chatroom, p2p_id, p2p_members
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.checks.refusals import Refusals
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import (
    Asked,
    ClientReceived,
    ClientSent,
    Crashed,
    GatewayReceived,
    GatewaySent,
    RouterReceived,
    Stored,
)
from imsim.faultsearch.model.reference import Key, wish_of
from imsim.faultsearch.model.rules import Outcome, Relations, is_change


class Writers(Check):
    """What a writer asks storage for was asked of it, by a session that had not ended: sessions are ordered by their
    epochs, for as long as one writer lasts."""

    def begin(self) -> None:
        self._epochs: dict[tuple[str, str, str], int] = {}  # (conversation, user, slot) -> the latest seen
        self._rightful: set[Key] = set()  # sends that a session has asked for while it was the latest
        self._last: dict[str, Key] = {}  # by conversation, the last send that came
        self._shown: dict[Key, set[int]] = defaultdict(set)  # what a sender had shown, as a writer has heard

    @on(RouterReceived, internal_frames.Up)
    def came(self, entry: RouterReceived[internal_frames.Up]) -> None:
        up = entry.frame
        session, frame, conversation = up.session, up.frame, up.conversation_id
        if not conversation or is_chatroom(conversation):
            return
        slot = (conversation, *self.world.case.slot(f"{session.user}/{session.device}"))
        latest = self._epochs[slot] = max(session.epoch, self._epochs.get(slot, 0))
        if isinstance(frame, frames.Send):
            key = self._last[conversation] = (conversation, session.user, frame.id_client)
            self._shown[key].add(frame.shown)
            if session.epoch == latest:
                self._rightful.add(key)

    @on(Asked)
    def asked(self, entry: Asked[Any]) -> None:
        if is_chatroom(getattr(entry.request, "conversation_id", "")):
            self.violated("nothing_of_rooms_is_stored", f"{entry.request} was asked for")

    @on(Asked, storage.OpenConversation)
    def opened(self, entry: Asked[storage.OpenConversation]) -> None:
        conversation = entry.request.conversation_id
        for slot in [slot for slot in self._epochs if slot[0] == conversation]:
            del self._epochs[slot]
        if key := self._last.get(conversation):
            self._rightful.add(key)  # a new writer starts because of it, which knows of no later session

    @on(Asked, storage.Append)
    def appends(self, entry: Asked[storage.Append]) -> None:
        request = entry.request
        message = request.message
        key = (message.conversation_id, message.sender, message.id_client)
        if request.shown not in self._shown[key]:
            self.violated("to_send_is_to_read", f"{message.id} was sent by one who read to {request.shown}")
        if key not in self._rightful:
            self.violated("stale_sessions_do_nothing", f"{message.id} was sent by a session that had ended")


class Storage(Check):
    """What storage takes in may stand there and changes what it should, all of it and nothing else; what it finds is
    what it has taken in."""

    def begin(self) -> None:
        self._askers: dict[int, tuple[str, int]] = {}  # request -> its router, and which of its lives asked
        self._crashes: Counter[str] = Counter()
        #: (conversation, user) -> the relations of others to the user, as its writer has looked them up
        self._relations: dict[tuple[str, str], Relations] = {}

    @on(Crashed)
    def crashed(self, entry: Crashed) -> None:
        self._crashes[entry.node] += 1

    @on(Asked)
    def asked(self, entry: Asked[Any]) -> None:
        self._askers[id(entry.request)] = (entry.node, self._crashes[entry.node])

    @on(Stored, storage.OpenConversation)
    def opened(self, entry: Stored[storage.OpenConversation]) -> None:
        if isinstance(entry.result, storage.LogState):
            self.model.founded(entry.request.conversation_id, entry.result.members)

    @on(Stored, storage.Append)
    def appended(self, entry: Stored[storage.Append]) -> None:
        request = entry.request
        message, result = request.message, entry.result
        if isinstance(result, storage.Appended):
            if not is_change(wish_of(message)) and self._is_blocked(message):
                self.violated("blocked_users_are_not_heard", f"{message.id} was stored")
            known = self._relations.pop((message.conversation_id, message.sender), None)
            relations = known or self.model.relations(message.sender, self.world.case.users)
            self._follows(request, self.model.appended(message, request.shown, relations), result)
            self._kept(result.states)
        elif isinstance(result, storage.Blocked) and not self._is_blocked(message):
            self.violated("refusals_have_a_reason", f"{message.id} was taken for blocked")

    @on(Stored, storage.Between)
    def related(self, entry: Stored[storage.Between]) -> None:
        request = entry.request
        if isinstance(entry.result, storage.Relations):
            found = Relations(frozenset(entry.result.blocking), frozenset(entry.result.friends))
            self._relations[request.conversation_id, request.user] = found
            self.other(Refusals).related(request, found)
            if found != (known := self.model.relations(request.user, request.others)):
                self.violated("relations_are_true", f"{request.conversation_id}: {found}, not {known}")

    @on(Stored, storage.SaveState)
    def saved(self, entry: Stored[storage.SaveState]) -> None:
        request = entry.request
        self.model.changed(
            request.user,
            request.conversation_id,
            read=request.read_seq,
            hidden=request.hidden_seq or 0,
            pinned=request.pinned,
            muted=request.muted,
            custom=request.custom,
            delivered=request.delivered_seq,
            blocked=request.blocked,
        )
        if request.delivered_seq > self.model.held.get((request.user, request.conversation_id), 0):
            self.violated("receipts_are_true", f"{request.user} is said to have got {request}")
        if isinstance(entry.result, storage.StatesSaved):
            self._kept(entry.result.states)

    @on(Stored, storage.Missed)
    def missed(self, entry: Stored[storage.Missed]) -> None:
        request = entry.request
        user = request.session.user
        if isinstance(entry.result, storage.MissedPage):
            self._kept((user, state) for state in entry.result.states)
            for message in entry.result.messages:
                self._is_as_stored(user, message)
        elif isinstance(entry.result, storage.Ahead):  # storage loses nothing here
            text = f"{user}/{request.session.device} has more than there is: {request}"
            self.violated("nobody_is_ahead_of_storage", text)

    @on(Stored, storage.RevokeTokens)
    def revoked(self, entry: Stored[storage.RevokeTokens]) -> None:
        # Left out: a router that died before storage had done it cannot see to those whom its next life has let in.
        request = entry.request
        router, crashes = self._askers[id(request)]
        if crashes == self._crashes[router]:
            self.model.revoke(request.user, request.before)

    @on(Stored, storage.OpenUser)
    def opened_user(self, entry: Stored[storage.OpenUser]) -> None:
        assert isinstance(entry.result, storage.UserState)
        user: str = entry.request.user
        self._kept((user, state) for state, *_ in entry.result.states)
        for record in entry.result.states:
            self._record_kept(user, record)

    def _is_as_stored(self, user: str, message: Message) -> None:
        """Storage finds a message as it is by now, or was when the user left."""
        now = self.model.forms[message.conversation_id, message.seq][-1:]
        if message not in now and message not in self.model.view(user, message.conversation_id):
            self.violated("only_stored_messages_are_sent", f"{message} was found for {user}")

    def _is_blocked(self, message: Message) -> bool:
        """Whether the user who would read it has blocked its sender: between two users, and in what one says to the
        other by the system's voice."""
        if message.scene == Scene.SYSTEM and message.sender != message.to:
            return self.model.user_state(message.to, p2p_id(message.sender, message.to)).blocked
        peers = [one for one in p2p_members(message.conversation_id) or () if one != message.sender]
        return any(self.model.user_state(peer, message.conversation_id).blocked for peer in peers)

    def _follows(self, request: storage.Append, outcome: Outcome, result: storage.Appended) -> None:
        message, effects = request.message, request.effects or storage.Effects()
        if outcome.reasons:
            text = f"{message.id} of {message.sender}, a {message.type} {message.file or ''}: {sorted(outcome.reasons)}"
            self.violated("only_what_is_allowed_is_stored", text)
            return
        if len(message.content.encode()) > self.policies.content_bytes:
            self.violated("only_what_is_allowed_is_stored", f"{message.id} of {message.sender} is too long")
        if (set(effects.joined), set(effects.left)) != (set(outcome.joined), set(outcome.left)):
            text = f"{message.id} let in {effects.joined} and out {effects.left}, not {outcome.joined}, {outcome.left}"
            self.violated("changes_do_what_they_say", text)
        if effects.state is not None and not self.model.states[message.conversation_id][-1].stands_in(effects.state):
            self.violated("changes_do_what_they_say", f"{message.id} made it {effects.state}")
        if effects.amended != outcome.amended:
            self.violated("changes_do_what_they_say", f"{message.id} left {effects.amended}")
        notes = sorted((note.to, note.type, *_resolution(note)) for note in result.notes)
        if notes != sorted(outcome.notes):
            self.violated("all_concerned_are_notified", f"{message.id} led to {notes}, not {sorted(outcome.notes)}")
        for note in result.notes:
            self.model.added_note(note)

    def _record_kept(self, user: str, record: storage.StateRecord) -> None:
        model, conversation = self.model, record.state.conversation_id
        got = [model.user_state(peer, conversation).peer_delivered_seq for peer in p2p_members(conversation) or ()]
        other = [seq for peer, seq in zip(p2p_members(conversation) or (), got, strict=True) if peer != user]
        kept = (len(record.unread_seqs), record.max_seq, [record.delivered_seq] if other else [])
        if kept != (model.unread(user, conversation), model.end_for(user, conversation), other):
            self.violated("storage_keeps_states", f"kept for {user}: {record}")

    def _kept(self, states: Iterable[tuple[str, ConversationState]]) -> None:
        for user, state in states:
            kept = self.model.user_state(user, state.conversation_id)
            if state != kept:
                self.violated("storage_keeps_states", f"kept for {user}: {state}, not {kept}")


class Clients(Check):
    """What clients get is stored, and theirs to see; what they say they have becomes part of the model."""

    @on(ClientSent, frames.Send)
    def sent(self, entry: ClientSent[frames.Send]) -> None:
        user, frame = self.evidence.users[entry.node], entry.frame
        self.model.left_client(user, frame, conversation_id(frame.scene, user, frame.to))

    @on(ClientSent, frames.Read | frames.SetConversation)
    def changed(self, entry: ClientSent[frames.Read | frames.SetConversation]) -> None:
        frame = entry.frame
        self.model.left_client(self.evidence.users[entry.node], frame, frame.conversation_id)

    @on(ClientSent, frames.Delivered)
    def delivered(self, entry: ClientSent[frames.Delivered]) -> None:
        frame = entry.frame
        self.model.holds(self.evidence.users[entry.node], frame.conversation_id, frame.seq)

    @on(ClientSent, frames.Sync)
    def synced(self, entry: ClientSent[frames.Sync]) -> None:
        frame = entry.frame
        for conversation, seq in frame.cursors.items():
            self.model.holds(self.evidence.users[entry.node], conversation, seq)

    @on(GatewayReceived, frames.Delivered)
    def heard_delivered(self, entry: GatewayReceived[frames.Delivered]) -> None:
        frame = entry.frame
        self.model.was_heard(entry.peer, frame.conversation_id, frame.seq)

    @on(RouterReceived, internal_frames.Up, frames.Sync)
    def heard_sync(self, entry: RouterReceived[internal_frames.Up]) -> None:
        up = entry.frame
        assert isinstance(up.frame, frames.Sync)
        for conversation, seq in up.frame.cursors.items():
            self.model.was_heard(self.world.owners[up.session.connection], conversation, seq)

    @on(GatewaySent, frames.Stored)
    def acknowledged(self, entry: GatewaySent[frames.Stored]) -> None:
        """When a sender hears that its message is safe, it must be."""
        frame = entry.frame
        key = (frame.conversation_id, self.evidence.users[entry.peer], frame.id_client)
        self.evidence.answers[key].add((frame.id, frame.seq, frame.time))
        stored = self.model.by_key.get(key)
        if stored is None or (stored.id, stored.seq, stored.time) != (frame.id, frame.seq, frame.time):
            self.violated("acks_survive", f"{frame.id_client} was acknowledged as {frame.id}, stored: {stored}")

    @on(GatewaySent, frames.Received)
    def received(self, entry: GatewaySent[frames.Received]) -> None:
        frame = entry.frame
        if not frame.seq and self.policies.ack != "after_receive":
            self.violated("received_is_sent_as_configured", f"{frame.id_client} of {entry.peer} was received")

    @on(ClientReceived)
    def fed(self, entry: ClientReceived[Any]) -> None:
        self.model.reached_client(entry.node, entry.frame)

    @on(ClientReceived, frames.Push)
    def pushed(self, entry: ClientReceived[frames.Push]) -> None:
        self._given(entry.node, entry.frame.message)

    @on(ClientReceived, frames.Page | frames.SyncDone | frames.HistoryPage)
    def paged(self, entry: ClientReceived[frames.Page | frames.SyncDone | frames.HistoryPage]) -> None:
        for message in entry.frame.messages:
            self._given(entry.node, message)

    def _given(self, instance: str, message: Message) -> None:
        model, user, conversation = self.model, self.evidence.users[instance], message.conversation_id
        if is_chatroom(conversation):
            return  # see `Rooms`
        key = (conversation, message.sender, message.id_client)
        self.evidence.answers[key].add((message.id, message.seq, message.time))
        if not model.may_see(user, conversation, message.seq):
            self.violated("users_see_only_their_own", f"{instance} was given {message.id}")
        if model.is_new_to(user, message):
            text = f"{instance} was given the content of {message.id} from after its user had left"
            self.violated("users_see_only_their_own", text)
        if message not in model.forms[conversation, message.seq]:
            self.violated("only_stored_messages_are_sent", f"{instance} was given {message}")


def _resolution(note: Message) -> tuple[str, str]:
    """Which request a system message resolves, and the state that it says."""
    file: dict[str, Any] = note.file or {}
    if file.get("event") == "resolve":
        return file["targets"][0], file["data"]["state"]
    return "", file.get("state", "")
