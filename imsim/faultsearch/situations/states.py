"""Situations of conversation states: marks, settings, and how devices hear of them."""

from __future__ import annotations

from collections import Counter, defaultdict

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Code, Flow, is_chatroom
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import Asked, ClientReceived, ClientSent, Event, RouterReceived, Stored, Wished
from imsim.faultsearch.situations.situation import Situations, occurs, situation


class Settings(Situations):
    def begin(self) -> None:
        self.pending: Counter[tuple[str, str]] = Counter()  # changes of a state that storage has not answered
        self.wishes: set[tuple[str, str]] = set()  # (instance, conversation) of changes that are unanswered
        self.hidden_to: dict[tuple[str, str], int] = {}  # (instance, conversation) -> up to where
        self.versions: dict[tuple[str, str], int] = {}  # (instance, conversation) -> the latest received
        self.blocked: dict[tuple[str, str], bool] = {}  # (user, conversation) -> as it is stored

    @situation("two changes of one state waited for storage", Asked, storage.SaveState)
    def settings_raced(self, entry: Asked[storage.SaveState]) -> bool:
        request = entry.request
        return self.pending[request.user, request.conversation_id] > 0 and request.read_seq == 0

    @situation("a change of a state that storage had not answered was asked for again", Asked, storage.SaveState)
    def state_saved_again(self, entry: Asked[storage.SaveState]) -> bool:
        return entry.request.asked is None and entry.request.delivered_seq == 0

    @situation("a change was asked for while an older one was unanswered", Wished, frames.SetConversation)
    def wish_replaced(self, entry: Wished[frames.SetConversation]) -> bool:
        return (entry.node, entry.request.conversation_id) in self.wishes

    @situation("a change was asked for again after a login", ClientSent, frames.SetConversation)
    def set_while_offline(self, entry: ClientSent[frames.SetConversation]) -> bool:
        return self.memory.has_got(entry.node, frames.LoggedIn)

    @situation("a device heard of a change that another had made", Event, events.StateChanged)
    def set_elsewhere(self, entry: Event[events.StateChanged]) -> bool:
        return self.memory.has_got(entry.node, frames.State | frames.SyncDone)

    @situation("a conversation left the list", Event, events.StateChanged)
    def hidden(self, entry: Event[events.StateChanged]) -> bool:
        return entry.event.hidden_seq > self.hidden_to.get((entry.node, entry.event.conversation_id), 0)

    @situation("a hidden conversation had a new message", Event, events.Shown)
    def came_back(self, entry: Event[events.Shown]) -> bool:
        return self.hidden_to.get((entry.node, entry.event.message.conversation_id), 0) > 0

    @situation("a state came a second time, or after a newer one", ClientReceived, frames.State)
    def old_state_ignored(self, entry: ClientReceived[frames.State]) -> bool:
        state = entry.frame.state
        return state.version <= self.versions.get((entry.node, state.conversation_id), 0)

    @situation("a change was asked for of a conversation that the user does not have", Event, events.RequestFailed)
    def setting_refused(self, entry: Event[events.RequestFailed]) -> bool:
        return _failed(entry, frames.SetConversation, Code.NO_CONVERSATION)

    @situation("a custom beyond the limit", Event, events.RequestFailed)
    def setting_too_large(self, entry: Event[events.RequestFailed]) -> bool:
        return _failed(entry, frames.SetConversation, Code.TOO_LARGE)

    @situation(
        "a user was typing to a user whom the same user has blocked", RouterReceived, internal_frames.Up, frames.Typing
    )
    def typed_across_a_block(self, entry: RouterReceived[internal_frames.Up]) -> bool:
        frame = entry.frame.frame
        assert isinstance(frame, frames.Typing)
        return self.blocked.get((entry.frame.session.user, frame.conversation_id), False)

    # --- what they remember ---

    @on(Asked, storage.SaveState)
    def asked(self, entry: Asked[storage.SaveState]) -> None:
        self.pending[entry.request.user, entry.request.conversation_id] += 1

    @on(Stored, storage.SaveState)
    def stored(self, entry: Stored[storage.SaveState]) -> None:
        whose = (entry.request.user, entry.request.conversation_id)
        self.pending[whose] -= 1
        if entry.request.blocked is not None:
            self.blocked[whose] = entry.request.blocked

    @on(Wished, frames.SetConversation)
    def wished(self, entry: Wished[frames.SetConversation]) -> None:
        self.wishes.add((entry.node, entry.request.conversation_id))

    @on(Event, events.RequestDone | events.RequestFailed)
    def answered(self, entry: Event[events.RequestDone | events.RequestFailed]) -> None:
        if entry.event.request == frames.SetConversation.op:
            self.wishes.discard((entry.node, entry.event.ref))

    @on(Event, events.StateChanged)
    def changed(self, entry: Event[events.StateChanged]) -> None:
        self.hidden_to[entry.node, entry.event.conversation_id] = entry.event.hidden_seq

    @on(Event, events.Shown)
    def shown(self, entry: Event[events.Shown]) -> None:
        self.hidden_to.pop((entry.node, entry.event.message.conversation_id), None)

    @on(ClientReceived, frames.State)
    def received(self, entry: ClientReceived[frames.State]) -> None:
        where, version = (entry.node, entry.frame.state.conversation_id), entry.frame.state.version
        self.versions[where] = max(version, self.versions.get(where, 0))


class Marks(Situations):
    def begin(self) -> None:
        self.unread: dict[tuple[str, str], set[int]] = defaultdict(set)  # countable seqs by instance and conversation
        self.read_to: dict[tuple[str, str], int] = {}  # (instance, conversation) -> read mark

    @situation("a device heard of a read on another", Event, events.ReadMoved)
    def mark_moved_elsewhere(self, entry: Event[events.ReadMoved]) -> bool:
        return self.memory.has_got(entry.node, frames.State)

    @situation("a mark was caught up after a login", ClientSent, frames.Read)
    def read_while_offline(self, entry: ClientSent[frames.Read]) -> bool:
        return entry.node not in self.memory.ready and self.memory.has_got(entry.node, frames.SyncDone)

    @situation("a mark was moved in the system log", ClientSent, frames.Read)
    def system_messages_read(self, entry: ClientSent[frames.Read]) -> bool:
        return entry.frame.conversation_id.startswith("system:")

    peer_read = occurs("a device heard how far the other user had read", Event, events.PeerRead)

    @situation("a device heard that the other user had got what it had not read", Event, events.PeerDelivered)
    def delivered_mark_sent(self, entry: Event[events.PeerDelivered]) -> bool:
        latest = self.memory.latest.get(entry.node)
        return isinstance(latest, frames.State) and entry.event.seq > latest.state.peer_read_seq

    readers_counted = occurs("how many have read a message", Event, events.ReadCounted)

    @situation("the readers of a message that does not exist", Event, events.RequestFailed)
    def nothing_to_count(self, entry: Event[events.RequestFailed]) -> bool:
        return _failed(entry, frames.ReadCount, Code.NO_CONVERSATION)

    @situation("a range of a conversation that is not the user's", Event, events.RequestFailed)
    def no_such_history(self, entry: Event[events.RequestFailed]) -> bool:
        return _failed(entry, frames.History, Code.NO_CONVERSATION)

    @situation("a message was recalled that counted as unread", Event, events.Recalled)
    def recalled_unread(self, entry: Event[events.Recalled]) -> bool:
        where, seq = (entry.node, entry.event.conversation_id), entry.event.seq
        return seq in self.unread[where] and seq > self.read_to.get(where, 0)

    # --- what they remember ---

    @on(Event, events.Shown)
    def shown(self, entry: Event[events.Shown]) -> None:
        message = entry.event.message
        if entry.event.flow == Flow.IN and message.countable and not is_chatroom(message.conversation_id):
            self.unread[entry.node, message.conversation_id].add(message.seq)

    @on(Event, events.ReadMoved)
    def moved(self, entry: Event[events.ReadMoved]) -> None:
        self.read_to[entry.node, entry.event.conversation_id] = entry.event.read_seq


def _failed(entry: Event[events.RequestFailed], request: type[frames.Asked], code: Code) -> bool:
    return (entry.event.request, entry.event.code) == (request.op, code)
