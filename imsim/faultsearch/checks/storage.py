"""Checks of the requests to storage and their results. They then update the reference model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from imsim.core import frames, internal_frames, storage
from imsim.core.model import ConversationState, Message, Scene, Skipped, is_chatroom, p2p_id, p2p_members
from imsim.faultsearch.checks.facts import Check
from imsim.faultsearch.checks.requests import settings_in
from imsim.faultsearch.entries import Asked, Crashed, Rested, RouterReceived, Stored
from imsim.faultsearch.model.reference import Key, wish_of
from imsim.faultsearch.model.rules import Outcome, Relations, is_change


class Writers(Check):
    """Checks that a writer stores only messages of sessions that had not ended.

    Sessions are ordered by their epochs, for as long as one writer lasts.
    """

    def begin(self) -> None:
        self._epochs: dict[tuple[str, str, str], int] = {}  # (conversation, user, slot) -> the latest seen
        self._rightful: set[Key] = set()  # sends of a session that was the latest at that time
        self._last: dict[str, Key] = {}  # by conversation, the last send that arrived
        # the seqs up to which a sender had shown messages, as received by a writer
        self._shown: dict[Key, set[int]] = defaultdict(set)

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

    def asked(self, entry: Asked[Any]) -> None:
        if is_chatroom(getattr(entry.request, "conversation_id", "")):
            self.violated("room_messages_are_not_stored", f"{entry.request} was sent to storage")

    def opened(self, entry: Asked[storage.OpenConversation]) -> None:
        conversation = entry.request.conversation_id
        self._epochs = {slot: epoch for slot, epoch in self._epochs.items() if slot[0] != conversation}
        if key := self._last.get(conversation):
            self._rightful.add(key)  # a new writer starts because of this send, and knows no later session

    def appends(self, entry: Asked[storage.Append]) -> None:
        request = entry.request
        message = request.message
        key = (message.conversation_id, message.sender, message.id_client)
        if request.shown not in self._shown[key]:
            text = f"{message.id} was stored with a read mark of {request.shown}, which its sender did not send"
            self.violated("read_marks_of_sends_are_true", text)
        if key not in self._rightful:
            self.violated("stale_sessions_store_nothing", f"{message.id} was sent by a session that had ended")


class Storage(Check):
    """Checks that storage accepts only what is allowed, changes exactly what it should, and finds what it accepted."""

    def begin(self) -> None:
        # id of a request -> its router, and the number of the router's crashes then
        self._askers: dict[int, tuple[str, int]] = {}
        self._crashes: Counter[str] = Counter()
        #: (conversation, user) -> the relations of others to the user, as the writer has looked them up
        self._relations: dict[tuple[str, str], Relations] = {}

    def crashed(self, entry: Crashed) -> None:
        self._crashes[entry.node] += 1

    def asked(self, entry: Asked[Any]) -> None:
        self._askers[id(entry.request)] = (entry.node, self._crashes[entry.node])

    def opened(self, entry: Stored[storage.OpenConversation]) -> None:
        if isinstance(entry.result, storage.LogState):
            self.model.founded(entry.request.conversation_id, entry.result.members)

    def appended(self, entry: Stored[storage.Append]) -> None:
        request = entry.request
        message, result = request.message, entry.result
        if isinstance(result, storage.Appended):
            if not is_change(wish_of(message)) and self._is_blocked(message):
                self.violated(
                    "messages_of_blocked_users_are_refused", f"{message.id} was stored although its sender is blocked"
                )
            known = self._relations.pop((message.conversation_id, message.sender), None)
            relations = known or self.model.relations(message.sender, self.world.case.users)
            self._follows(request, self.model.appended(message, request.shown, relations), result)
            self._kept(result.states)
        elif isinstance(result, storage.Blocked) and not self._is_blocked(message):
            self.violated("refusals_have_a_reason", f"{message.id} was refused although its sender is not blocked")

    def related(self, entry: Stored[storage.Between]) -> None:
        request = entry.request
        if isinstance(entry.result, storage.Relations):
            found = Relations(frozenset(entry.result.blocking), frozenset(entry.result.friends))
            self._relations[request.conversation_id, request.user] = found
            if found != (known := self.model.relations(request.user, request.others)):
                self.violated("relations_are_true", f"{request.conversation_id}: {found}, not {known}")

    def saved(self, entry: Stored[storage.SaveState]) -> None:
        request, settings = entry.request, settings_in(entry.request)
        user, conversation = request.user, request.conversation_id
        settings.pop("hidden_seq", None)
        marks = (request.read_seq, request.hidden_seq or 0, request.delivered_seq)
        self.model.changed(user, conversation, *marks, **settings)
        held = self.model.held[user, conversation] if self.evidence.acknowledges else 0
        if request.delivered_seq > held:
            self.violated("receipts_are_true", f"{user} is marked as having received more than it has: {request}")
        if isinstance(entry.result, storage.StatesSaved):
            self._kept(entry.result.states)

    def missed(self, entry: Stored[storage.Missed]) -> None:
        session = entry.request.session
        if isinstance(entry.result, storage.MissedPage):
            self._kept((session.user, state) for state in entry.result.states)
            if entry.request.newest:
                self._begins(entry.request, entry.result)
            for message in entry.result.messages:  # in its present form, or as it was when the user left
                now = self.model.forms[message.conversation_id, message.seq][-1:]
                if message not in now and message not in self.model.view(session.user, message.conversation_id):
                    self.violated("only_stored_messages_are_sent", f"{message} was found for {session.user}")
        elif isinstance(entry.result, storage.Ahead):  # storage loses nothing here
            text = f"{session.user}/{session.device} has later messages than storage: {entry.request}"
            self.violated("devices_are_not_ahead_of_storage", text)

    def _begins(self, request: storage.Missed, page: storage.MissedPage) -> None:
        """Check that each conversation without a cursor begins with its newest messages."""
        user = request.session.user
        skipped = {one.conversation_id: one for one in page.skipped}
        for id in {*page.cursors, *skipped}:
            expected = (0, []) if id in request.cursors else self.model.beginning(user, id, request.newest)
            found = skipped.get(id, Skipped(id, 0))
            unread = [seq for first, last in found.unread for seq in range(first, last + 1)]
            early = [m.id for m in page.messages if m.conversation_id == id and m.seq <= found.seq]
            if (found.seq, unread) != expected or early:
                text = f"{user} was sent {early} and not {found} of {id}, expected {expected}"
                self.violated("first_syncs_begin_with_the_newest", text)

    def revoked(self, entry: Stored[storage.RevokeTokens]) -> None:
        # Left out: if a router crashed before storage had saved the revocation, its next life may keep revoked logins.
        router, crashes = self._askers[id(entry.request)]
        if crashes == self._crashes[router]:
            self.model.revoke(entry.request.user, entry.request.before)

    def opened_user(self, entry: Stored[storage.OpenUser]) -> None:
        assert isinstance(entry.result, storage.UserState)
        model, user = self.model, entry.request.user
        self._kept((user, state) for state, *_ in entry.result.states)
        for record in entry.result.states:
            conversation = record.state.conversation_id
            peers = [peer for peer in p2p_members(conversation) or () if peer != user]
            got = [model.user_state(peer, conversation).peer_delivered_seq for peer in peers]
            kept = (len(record.unread_seqs), record.max_seq, [record.delivered_seq] if peers else [])
            if kept != (model.unread(user, conversation), model.visible_end(user, conversation), got):
                self.violated("storage_keeps_states", f"kept for {user} is {record}, against the model")

    def _is_blocked(self, message: Message) -> bool:
        """Return whether the reader has blocked the sender: of a p2p message, or of a system message from a user."""
        is_for_one = message.scene in (Scene.P2P, Scene.SYSTEM) and message.sender != message.to
        return is_for_one and self.model.user_state(message.to, p2p_id(message.sender, message.to)).blocked

    def _follows(self, request: storage.Append, outcome: Outcome, result: storage.Appended) -> None:
        message, effects = request.message, request.effects or storage.Effects()
        if outcome.reasons:
            what = f"a {message.type} {message.file or ''}"
            text = f"{message.id} of {message.sender}, {what}, is against the rules: {sorted(outcome.reasons)}"
            self.violated("only_allowed_messages_are_stored", text)
            return
        if len(message.content.encode()) > self.policies.content_bytes:
            self.violated("only_allowed_messages_are_stored", f"{message.id} of {message.sender} is too long")
        does = (set(effects.joined), set(effects.left), effects.amended)
        follows = (set(outcome.joined), set(outcome.left), outcome.amended)
        state = self.model.states[message.conversation_id][-1]
        if does != follows or not (effects.state is None or state.matches(effects.state)):
            self.violated("changes_have_their_effects", f"{message.id} led to {effects}, not {follows}, {state}")
        notes = sorted((note.to, note.type, *_resolution(note)) for note in result.notes)
        if notes != sorted(outcome.notes):
            self.violated(
                "changes_send_their_system_messages", f"{message.id} led to {notes}, not {sorted(outcome.notes)}"
            )
        for note in result.notes:
            self.model.added_note(note)

    def _kept(self, states: Iterable[tuple[str, ConversationState]]) -> None:
        for user, state in states:
            kept = self.model.user_state(user, state.conversation_id)
            if state != kept:
                self.violated("storage_keeps_states", f"kept for {user} is {state}, not {kept}")


def _resolution(note: Message) -> tuple[str, str]:
    """Return the request that a system message resolves, and the state that it reports."""
    file: dict[str, Any] = note.file or {}
    if file.get("event") == "resolve":
        return file["targets"][0], file["data"]["state"]
    return "", file.get("state", "")


class Saved(Check):
    """Checks that storage saves each mark that a router requested, however often storage fails.

    It may be lost only with its router.
    """

    def begin(self) -> None:
        self._asked: dict[str, list[storage.SaveState]] = defaultdict(list)  # by router

    def asked(self, entry: Asked[storage.SaveState]) -> None:
        self._asked[entry.node].append(entry.request)

    def crashed(self, entry: Crashed) -> None:
        self._asked.pop(entry.node, None)

    def rested(self, entry: Rested) -> None:
        """Check all marks at the first quiescence, before the second login."""
        for router, asked in self._asked.items():
            for request in asked:
                user, conversation = request.user, request.conversation_id
                state, end = self.model.user_state(user, conversation), self.model.visible_end(user, conversation)
                if state.read_seq < min(request.read_seq, end) or state.hidden_seq < min(request.hidden_seq or 0, end):
                    text = f"{user} has {state}, but {router} requested {request}"
                    self.violated("requested_marks_are_saved", text)
        self._asked.clear()
