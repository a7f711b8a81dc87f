"""A finished run, sorted for those who judge it: the trace told to the ledger, in order, and noted by kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from imsim.core import events, frames, storage
from imsim.core.model import Message, Place, conversation_id
from imsim.sim.chaos.ledger import Key, Ledger
from imsim.sim.chaos.nodes import Instance
from imsim.sim.chaos.trace import Entry
from imsim.sim.chaos.world import ChaosWorld


class Evidence:
    """`found`: what was seen to be wrong while the trace was told, where only that moment shows it:
    (invariant, text)."""

    def __init__(self, world: ChaosWorld) -> None:
        self.world = world
        self.ledger = Ledger()
        self.found: list[tuple[str, str]] = []
        self.answers: dict[Key, set[tuple[str, int, int]]] = defaultdict(set)  # every (id, seq, time) ever told
        self._users = {instance.name: instance.user for instance in [*world.instances(), *world.probes]}
        self._told: dict[tuple[str, str], int] = {}  # (user, conversation) -> the latest mark told
        self._epochs: dict[tuple[str, str, str], int] = {}  # (conversation, user, device) -> the latest seen
        self._rightful: set[Key] = set()  # sends that a session has asked for while it was the latest
        self._last_up: dict[str, Key] = {}  # by conversation
        for entry in world.trace:
            self._take(entry)

    # --- who is left ---

    @property
    def shared(self) -> set[str]:
        """idClients that more than one instance has sent."""
        counts = Counter(id_client for instance in self.world.instances() for id_client in instance.sent)
        return {id_client for id_client, count in counts.items() if count > 1}

    @property
    def live(self) -> list[Instance]:
        """The instances that are there in the end, those who only look included."""
        return [*(i for i in self.world.instances() if i.is_live), *self.world.probes]

    def shown(self, instance: Instance) -> dict[str, list[Message]]:
        """What reached the screen from elsewhere, in order, by conversation."""
        shown: dict[str, list[Message]] = defaultdict(list)
        for event in instance.events:
            if type(event) is events.Shown:
                shown[event.message.conversation_id].append(event.message)
        return shown

    def acked(self, instance: Instance) -> Iterator[events.Acked]:
        return (event for event in instance.events if type(event) is events.Acked)

    # --- the trace ---

    def _take(self, entry: Entry) -> None:
        what, thing = entry.what, entry.thing
        if what == "stored":
            request, result = thing
            self._storage(request, result)
        elif what == "->":
            if isinstance(thing, frames.Down):
                self._told_by_router(thing)
            elif entry.node in self._users:
                self._from_client(self._users[entry.node], thing)
            elif isinstance(thing, frames.Stored):
                self._acknowledged(self._users[entry.peer], thing)
        elif what == "<-":
            if entry.node in self._users:
                self._to_client(entry.node, thing)
            elif isinstance(thing, frames.Up) and entry.node in self.world.routers and thing.conversation_id:
                self._up(thing)
        elif what == "asked":
            self._asked(thing)

    def _storage(self, request: storage.Request, result: storage.Result) -> None:
        ledger = self.ledger
        if isinstance(request, storage.OpenConversation):
            if isinstance(result, storage.ConversationState):
                ledger.founded(request.conversation_id, result.members)
        elif isinstance(request, storage.Append):
            if isinstance(result, storage.Appended):
                ledger.appended(request.message, request.shown)
        elif isinstance(request, storage.SavePlace):
            ledger.marked(request.user, request.conversation_id, max(request.read_seq, request.hidden_seq or 0))
        elif isinstance(request, storage.OpenUser):
            assert isinstance(result, storage.UserState)
            for place, unread_seqs, *_ in result.places:
                if (place.read_seq, len(unread_seqs)) != ledger.place(request.user, place.conversation_id):
                    self.found.append(("marks_stand", f"kept for {request.user}: {place}, unread {unread_seqs}"))

    def _from_client(self, user: str, frame: frames.FromClient) -> None:
        conversation = ""
        if isinstance(frame, frames.Send):
            conversation = conversation_id(frame.scene, user, frame.to)
        elif isinstance(frame, frames.Read):
            conversation = frame.conversation_id
        self.ledger.left_client(user, frame, conversation)

    def _acknowledged(self, user: str, frame: frames.Stored) -> None:
        """A gateway tells a sender that its message is safe: at this moment it must be."""
        self.answers[frame.conversation_id, user, frame.id_client].add((frame.id, frame.seq, frame.time))
        stored = self.ledger.by_key.get((frame.conversation_id, user, frame.id_client))
        if stored is None or (stored.id, stored.seq, stored.time) != (frame.id, frame.seq, frame.time):
            self.found.append(("acks_survive", f"{frame.id_client} was acknowledged as {frame.id}, stored: {stored}"))

    def _to_client(self, instance: str, frame: frames.ToClient) -> None:
        self.ledger.reached_client(instance, frame)
        messages = [frame.message] if isinstance(frame, frames.Push) else []
        if isinstance(frame, frames.Page | frames.SyncDone | frames.HistoryPage):
            messages = frame.messages
        for message in messages:
            key = (message.conversation_id, message.sender, message.id_client)
            self.answers[key].add((message.id, message.seq, message.time))
            if not self.ledger.may_see(self._users[instance], message.conversation_id):
                self.found.append(("nobody_sees_what_is_not_theirs", f"{instance} was given {message.id}"))
            if self.ledger.by_key.get(key) is None:
                self.found.append(("only_what_is_stored_is_let_out", f"{instance} was given {message.id}"))

    def _told_by_router(self, down: frames.Down) -> None:
        frame = down.frame
        places: list[Place] = []
        if isinstance(frame, frames.Placed):
            places = [frame.place]
        elif isinstance(frame, frames.SyncDone):
            places = frame.places
        for mark in places:
            place = (down.sessions[0].user, mark.conversation_id)
            told, stored = self._told.get(place, 0), self.ledger.marks.get(place, 0)
            self._told[place] = max(told, mark.read_seq)
            if mark.unread < 0:
                self.found.append(("unread_is_a_recount", f"{place} was told of {mark.unread} unread"))
            if mark.read_seq < told:
                self.found.append(("marks_only_grow", f"{place} was told {mark.read_seq} after {told}"))
            if mark.read_seq > stored:
                self.found.append(("marks_only_grow", f"{place} was told {mark.read_seq}, but {stored} is stored"))

    # --- sessions: who may act is decided by epochs, for as long as one writer lasts ---

    def _up(self, up: frames.Up) -> None:
        session, frame = up.session, up.frame
        place = (up.conversation_id, session.user, session.device)
        latest = self._epochs[place] = max(session.epoch, self._epochs.get(place, 0))
        if isinstance(frame, frames.Send):
            key = self._last_up[up.conversation_id] = (up.conversation_id, session.user, frame.id_client)
            if session.epoch == latest:
                self._rightful.add(key)

    def _asked(self, request: Any) -> None:
        if isinstance(request, storage.OpenConversation):
            for place in [place for place in self._epochs if place[0] == request.conversation_id]:
                del self._epochs[place]
            if key := self._last_up.get(request.conversation_id):
                self._rightful.add(key)  # for its sake a new writer starts, which knows of no later session
        elif isinstance(request, storage.Append):
            message = request.message
            if (message.conversation_id, message.sender, message.id_client) not in self._rightful:
                self.found.append(("stale_sessions_do_nothing", f"{message.id} was sent by a session that had ended"))
