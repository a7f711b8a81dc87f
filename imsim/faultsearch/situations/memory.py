"""The memory of the situations: the facts about a run that their predicates need."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from imsim.core import changes, events, frames, storage
from imsim.core.model import Flow, Message, is_chatroom
from imsim.faultsearch.dispatch import Down, Up
from imsim.faultsearch.entries import (
    Asked,
    ClientReceived,
    Event,
    GatewayNotified,
    GatewayReceived,
    GatewaySent,
    RouterReceived,
    RouterSent,
    Said,
    Stored,
    Wished,
)
from imsim.faultsearch.evidence import number_of

_Received = ClientReceived[Any] | GatewayReceived[Any] | GatewayNotified[Any] | RouterReceived[Any]


class Memory:
    """The facts of a run so far. `sent`: by instance and idClient, the arguments of `send`."""

    def __init__(self, sent: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        self.sent = sent
        # facts about nodes
        self.latest: dict[str, Any] = {}  # by node, the latest frame that it received
        self.heard: dict[str, float] = {}  # by node, the time of that frame
        self.let_out = ("", 0.0, "")  # the latest acknowledgement of a writer: (router, time, idClient)
        # facts about instances
        self.ready: set[str] = set()  # the instances that have finished their sync
        self.failed: set[tuple[str, str]] = set()  # (instance, idClient)
        self.acked: dict[str, set[str]] = defaultdict(set)  # by instance
        self.given: dict[tuple[str, str], set[int]] = defaultdict(set)  # seqs by instance and conversation
        self.numbers: dict[tuple[str, str, str, str], int] = {}  # (instance, gateway, op, conversation) -> latest sent
        self.wishes: set[tuple[str, str]] = set()  # (instance, conversation) of changes that are unanswered
        self.hidden_to: dict[tuple[str, str], int] = {}  # (instance, conversation) -> up to where
        self.versions: dict[tuple[str, str], int] = {}  # (instance, conversation) -> the latest received version
        self.unread: dict[tuple[str, str], set[int]] = defaultdict(set)  # countable seqs by instance and conversation
        self.read_to: dict[tuple[str, str], int] = {}  # (instance, conversation) -> read mark
        self.left_out: dict[tuple[str, str], int] = {}  # (instance, conversation) -> up to where, by its first sync
        self.entered: set[tuple[str, str]] = set()  # (instance, chatroom)
        self.gone: set[tuple[str, str]] = set()  # the chatrooms that an instance has left: (instance, chatroom)
        self.recalled: events.Recalled | None = None  # the latest
        # facts about conversations
        self.opened: set[str] = set()  # those that a router has opened
        self.times: dict[str, int] = {}  # by conversation, the time of its latest message
        # conversation -> epoch and seq of the last message that storage refused
        self.refused: dict[str, tuple[int, int]] = {}
        self.left: dict[str, set[str]] = defaultdict(set)  # by group, users who were members and have left
        self.said: dict[str, int] = {}  # by chatroom, the latest seq
        self.appending: set[tuple[str, str, str]] = set()  # (conversation, sender, idClient) of pending appends
        #: (conversation, seq) -> the idClient of a pending amendment that storage has not received
        self.amending: dict[tuple[str, object], str] = {}
        # facts about users
        self.pending: Counter[tuple[str, str]] = Counter()  # changes of a state that storage has not answered
        self.blocked: dict[tuple[str, str], bool] = {}  # (user, conversation) -> as it is stored
        self.epochs: dict[tuple[str, str, str], int] = {}  # (router, user, device) -> the latest epoch
        self.slots: dict[tuple[str, str, str], tuple[int, str]] = {}  # (router, user, slot) -> latest epoch, its device
        self.opening: Counter[str] = Counter()  # by user, requests that storage has not answered
        self.revocations: Counter[tuple[str, float]] = Counter()  # (user, before) -> the number of requests

    def has_got(self, node: str, kind: Any) -> bool:
        """Return whether the latest frame that the node received is of this kind."""
        return isinstance(self.latest.get(node), kind)

    # --- frames ---

    def received(self, entry: _Received) -> None:
        self.latest[entry.node] = entry.subject
        self.heard[entry.node] = entry.at

    def pushed(self, entry: ClientReceived[frames.Push]) -> None:
        self.given[entry.node, entry.frame.message.conversation_id].add(entry.frame.message.seq)

    def acknowledged(self, entry: ClientReceived[frames.Stored]) -> None:
        if entry.frame.seq:
            self.given[entry.node, entry.frame.conversation_id].add(entry.frame.seq)

    def paged(self, entry: ClientReceived[frames.Page | frames.SyncDone]) -> None:
        for conversation, seq in entry.frame.cursors.items():
            self.given[entry.node, conversation].update(range(1, seq + 1))

    def got_state(self, entry: ClientReceived[frames.State]) -> None:
        where, version = (entry.node, entry.frame.state.conversation_id), entry.frame.state.version
        self.versions[where] = max(version, self.versions.get(where, 0))

    def sent_out(self, entry: GatewaySent[frames.State | frames.Notify | frames.Resync]) -> None:
        conversation, number = number_of(entry.frame)
        self.numbers[entry.peer, entry.node, entry.frame.op, conversation] = number

    def logged_in(self, entry: GatewaySent[frames.LoggedIn]) -> None:
        self.numbers.pop((entry.peer, entry.node, frames.Resync.op, ""), None)

    def came(self, entry: RouterReceived[Up[frames.Send]]) -> None:
        session, about = entry.frame.session, amends(entry.frame)
        if about[1] is not None:
            self.amending.setdefault(about, entry.frame.frame.id_client)
        device, slot = (entry.node, session.user, session.device), (entry.node, session.user, session.slot)
        self.epochs[device] = max(session.epoch, self.epochs.get(device, 0))
        now = (session.epoch, session.device)
        self.slots[slot] = max(self.slots.get(slot, now), now)

    def released(self, entry: RouterSent[Down[frames.Stored]]) -> None:
        self.let_out = (entry.node, entry.at, entry.frame.frame.id_client)

    def refused_to(self, entry: RouterSent[Down[frames.Rejected]]) -> None:
        self.amending = {about: sent for about, sent in self.amending.items() if sent != entry.frame.frame.ref}

    # --- storage ---

    def appends(self, entry: Asked[storage.Append]) -> None:
        message = entry.request.message
        self.amending.pop((message.conversation_id, _target(message)), None)
        self.appending.add((message.conversation_id, message.sender, message.id_client))

    def appended(self, entry: Stored[storage.Append]) -> None:
        message, effects, result = entry.request.message, entry.request.effects, entry.result
        self.appending.discard((message.conversation_id, message.sender, message.id_client))
        if isinstance(result, storage.Appended):
            self.times[message.conversation_id] = message.time
            self.left[message.conversation_id].update(effects.left if effects else ())
        elif isinstance(result, storage.Duplicate | storage.Blocked):
            self.refused[message.conversation_id] = (entry.request.epoch, message.seq)

    def was_opened(self, entry: Stored[storage.OpenConversation]) -> None:
        self.opened.add(entry.request.conversation_id)

    def saves(self, entry: Asked[storage.SaveState]) -> None:
        self.pending[entry.request.user, entry.request.conversation_id] += 1

    def saved(self, entry: Stored[storage.SaveState]) -> None:
        whose = (entry.request.user, entry.request.conversation_id)
        self.pending[whose] -= 1
        if entry.request.blocked is not None:
            self.blocked[whose] = entry.request.blocked

    def opens_user(self, entry: Asked[storage.OpenUser]) -> None:
        self.opening[entry.request.user] += 1

    def opened_user(self, entry: Stored[storage.OpenUser]) -> None:
        self.opening[entry.request.user] -= 1

    def revokes(self, entry: Asked[storage.RevokeTokens]) -> None:
        self.revocations[entry.request.user, entry.request.before] += 1

    def was_said(self, entry: Said) -> None:
        self.said[entry.message.to] = entry.message.seq

    # --- applications ---

    def is_ready(self, entry: Event[events.Ready]) -> None:
        self.ready.add(entry.node)

    def is_gone(self, entry: Event[events.Disconnected | events.Ended]) -> None:
        self.ready.discard(entry.node)

    def has_failed(self, entry: Event[events.SendFailed]) -> None:
        self.failed.add((entry.node, entry.event.id_client))

    def was_acked(self, entry: Event[events.Acked]) -> None:
        self.acked[entry.node].add(entry.event.id_client)

    def shown(self, entry: Event[events.Shown]) -> None:
        message, where = entry.event.message, (entry.node, entry.event.message.conversation_id)
        self.hidden_to.pop(where, None)
        if entry.event.flow == Flow.IN and message.countable and not is_chatroom(message.conversation_id):
            self.unread[where].add(message.seq)

    def skipped(self, entry: Event[events.Skipped]) -> None:
        self.left_out[entry.node, entry.event.conversation_id] = entry.event.seq

    def read_moved(self, entry: Event[events.ReadMoved]) -> None:
        self.read_to[entry.node, entry.event.conversation_id] = entry.event.read_seq

    def was_recalled(self, entry: Event[events.Recalled]) -> None:
        if not is_chatroom(entry.event.conversation_id):
            self.recalled = entry.event

    def state_changed(self, entry: Event[events.StateChanged]) -> None:
        self.hidden_to[entry.node, entry.event.conversation_id] = entry.event.hidden_seq

    def wished(self, entry: Wished[frames.SetConversation]) -> None:
        self.wishes.add((entry.node, entry.request.conversation_id))

    def answered(self, entry: Event[events.RequestDone | events.RequestFailed]) -> None:
        if entry.event.request == frames.SetConversation.op:
            self.wishes.discard((entry.node, entry.event.ref))
        elif entry.event.request == frames.Leave.op:
            self.gone.add((entry.node, entry.event.ref))

    def entered_room(self, entry: Event[events.Entered]) -> None:
        self.entered.add((entry.node, entry.event.name))


def key_of(up: Up[frames.Send]) -> tuple[str, str]:
    """Return (sender, idClient) of a send."""
    return up.session.user, up.frame.id_client


def amends(up: Up[frames.Send]) -> tuple[str, object]:
    """Return the conversation of a send and the seq of the message that it amends (None: it amends none)."""
    return up.conversation_id, _target(up.frame)


def _target(message: frames.Send | Message) -> object:
    file = message.file or {}
    data = file.get("data")
    return data.get("seq") if file.get("event") in changes.AMENDMENTS and isinstance(data, dict) else None
