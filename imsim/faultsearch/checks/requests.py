"""The requests of users, and their answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Code, Message, p2p_members
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.checks.pages import fits, written_in
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import ClientSent, Event, Stepped, Stored, Wished
from imsim.faultsearch.nodes import Answer, Instance, answered


@dataclass(slots=True)
class _Pending:
    """A request since it was made: with what it may be refused, and whether storage has carried it out. Of a change,
    what a newer one wants otherwise is struck out."""

    wanted: frames.Asked
    refusals: set[str]
    readers: int = 0  # of the message that it asks about, when it was made
    there: int = 0  # how many messages there were then in the conversation that it asks about
    saved: bool = False


class Requests(Check):
    """A request is answered by what is true, and refused only for a reason.

    One that is made while another of its kind is unanswered replaces it, and both have one answer."""

    def begin(self) -> None:
        self._limit = self.policies.content_bytes
        self._steps: Counter[str] = Counter()  # of each instance
        self._pending: dict[str, dict[tuple[str, str], list[_Pending]]] = defaultdict(dict)  # by instance
        #: (instance, conversation) -> what its user has last wished of each setting; what it has sent, also by number
        self._wishes: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
        self._sent: dict[tuple[str, str, int], frames.SetConversation] = {}

    @on(Wished)
    def asked(self, entry: Wished[frames.Asked]) -> None:
        instance, wanted, model = self.instances[entry.node], entry.request, self.model
        pending = _Pending(wanted, model.refusals(instance.user, wanted, self._limit))
        if isinstance(wanted, frames.EndSession) and wanted.device == instance.device:
            pending.refusals = {"bad_request"}
        if isinstance(wanted, frames.SetConversation):
            self._wishes[instance.name, wanted.conversation_id].update(_settings(wanted))
        if isinstance(wanted, frames.History):
            pending.there = model.age(wanted.conversation_id)
        if isinstance(wanted, frames.ReadCount) and not pending.refusals:
            pending.readers, _ = model.readers(wanted.conversation_id, wanted.seq)
        if isinstance(wanted, frames.Enter | frames.Leave):
            other = frames.Leave if isinstance(wanted, frames.Enter) else frames.Enter
            self._pending[instance.name].pop((other.op, wanted.ref), None)
        all_pending = self._pending[instance.name].setdefault((wanted.op, wanted.ref), [])
        for older in all_pending:
            if isinstance(older.wanted, frames.SetConversation) and isinstance(wanted, frames.SetConversation):
                older.wanted = _without(older.wanted, wanted)
        all_pending.append(pending)

    @on(ClientSent, frames.SetConversation)
    def sent(self, entry: ClientSent[frames.SetConversation]) -> None:
        """A device asks for what its user has last wished for, and no more."""
        instance, frame, conversation = self.instances[entry.node], entry.frame, entry.frame.conversation_id
        wishes = self._wishes[instance.name, conversation]
        end = max(self.model.given[instance.name][conversation], default=0)
        wrong = {name: value for name, value in _settings(frame).items() if wishes.get(name) != value}
        if "hidden_seq" in wrong and wishes.get("hidden_seq", end + 1) <= wrong["hidden_seq"] <= end:
            del wrong["hidden_seq"]  # it reaches to what of the log no user sees
        if wrong:
            text = f"{instance.name} asked for {wrong} in {conversation}, not {wishes}"
            self.violated("only_wishes_are_carried_out", text)
        self._sent[instance.name, conversation, frame.number] = frame

    def _is_as_sent(self, request: storage.SaveState) -> bool:
        """Whether a device has asked for all of this; or nobody, and it only repeats marks."""
        settings, up = _settings(request), request.asked
        if isinstance(up, internal_frames.Up) and isinstance(up.frame, frames.SetConversation):
            sent = self._sent.get((self.world.owners[up.session.connection], request.conversation_id, up.frame.number))
            return sent is not None and settings == _settings(sent) and up.session.user == request.user
        return not settings.keys() - {"hidden_seq"}

    @on(Stored, storage.SaveState)
    def saved(self, entry: Stored[storage.SaveState]) -> None:
        """Storage has carried this out: which of the wishes for it have come true?"""
        request = entry.request
        if not self._is_as_sent(request):
            self.violated("only_wishes_are_carried_out", f"{request.user} has not asked for {request}")
        up = request.asked
        if not isinstance(up, internal_frames.Up) or not isinstance(up.frame, frames.SetConversation):
            return
        for instance, requests in self._pending.items():
            if instance.startswith(f"{request.user}/"):
                for pending in requests.get((frames.SetConversation.op, request.conversation_id), ()):
                    assert isinstance(pending.wanted, frames.SetConversation)
                    pending.saved |= _includes(request, pending.wanted)

    @on(Event, Answer)
    def answered(self, entry: Event[Answer]) -> None:
        instance, event = self.instances[entry.node], entry.event
        all_pending = self._pending[instance.name].pop(answered(event), [])
        if isinstance(event, events.RequestFailed):
            self._refused(instance, event, all_pending)
        elif all_pending:
            self._done(instance, event, all_pending)

    @on(Stepped)
    def looked(self, entry: Stepped) -> None:
        """What a user wants of a conversation shows at once: at the look that comes before each step."""
        instance = self.instances[entry.node]
        _, views = instance.looks[self._steps[instance.name]]
        self._steps[instance.name] += 1
        for view in views:
            for pending in self._pending[instance.name].get((frames.SetConversation.op, view.id), ()):
                for name, value in _settings(pending.wanted).items():
                    if name != "hidden_seq" and getattr(view, name) != value:
                        text = f"{instance.name} shows {name} {getattr(view, name)!r} of {view.id}, not {value!r}"
                        self.violated("wishes_show_at_once", text)

    def _refused(self, instance: Instance, event: events.RequestFailed, pending: list[_Pending]) -> None:
        if event.request == frames.Enter.op and event.code == Code.TOO_LARGE:
            return  # the room is full, also for a device that comes back
        if not any(event.code in one.refusals for one in pending):
            self._wrong("refusals_have_a_reason", instance, event)

    def _done(
        self,
        instance: Instance,
        event: Answer,
        pending: list[_Pending],
    ) -> None:
        model = self.model
        so = [model.is_so(instance.user, one.wanted, self._limit) and self._is_saved(one) for one in pending]
        if not all(so):
            self._wrong("done_is_done", instance, event)
        elif isinstance(event, events.ReadCounted):
            readers, members = model.readers(event.conversation_id, event.seq)
            if event.members != members or not pending[0].readers <= event.read <= readers:
                self._wrong("read_counts_are_right", instance, event)
        elif isinstance(event, events.History):
            self._looked_back(instance, event, pending[-1].there)

    def _looked_back(self, instance: Instance, event: events.History, there: int) -> None:
        """The range as the user saw it when it was asked for, or at some moment since."""
        model, log = self.model, event.conversation_id
        for age in range(there, model.age(log) + 1):
            view = model.view(instance.user, log, age)
            if self._is_page_of(event, [message for message in view if event.first <= message.seq <= event.last]):
                return
        self._wrong("history_is_right", instance, f"{event}, of a log of {there} to {model.age(log)}")

    def _is_page_of(self, event: events.History, found: list[Message]) -> bool:
        """Whether these are the latest of what was found, as many as fit into a page: a page that ends early had no
        bytes left for the next one; and it has more than its bytes only if it is one message that does, and what has
        nothing."""
        page, left = list(event.messages), found[: -len(event.messages) or len(found)]
        if [*left, *page] != found or event.more != bool(left) or len(page) > self.policies.page:
            return False
        sizes = [written_in(message) for message in page]
        if not fits(sizes, self.policies.page_bytes):
            return False
        is_full = not fits([written_in(left[-1]), *sizes], self.policies.page_bytes) if left else True
        return is_full or len(page) == self.policies.page

    @staticmethod
    def _is_saved(pending: _Pending) -> bool:
        wanted = pending.wanted
        if not isinstance(wanted, frames.SetConversation):
            return True
        return pending.saved or wanted == frames.SetConversation(wanted.conversation_id)

    @on(Event, events.PeerRead)
    def peer_read(self, entry: Event[events.PeerRead]) -> None:
        instance, event = self.instances[entry.node], entry.event
        for peer in p2p_members(event.conversation_id) or ():
            mark = self.model.user_state(peer, event.conversation_id).read_seq
            if peer != instance.user and event.seq > mark:
                self._wrong("receipts_are_true", instance, event)

    @on(Event, events.PeerDelivered)
    def peer_delivered(self, entry: Event[events.PeerDelivered]) -> None:
        instance, event = self.instances[entry.node], entry.event
        if event.seq > self.model.user_state(instance.user, event.conversation_id).peer_delivered_seq:
            self._wrong("receipts_are_true", instance, event)

    def _wrong(self, invariant: str, instance: Instance, event: object) -> None:
        self.violated(invariant, f"{instance.name} reported {event}")


def _without(older: frames.SetConversation, newer: frames.SetConversation) -> frames.SetConversation:
    return frames.SetConversation(
        older.conversation_id,
        older.pinned if newer.pinned is None else None,
        older.muted if newer.muted is None else None,
        older.hidden_seq if newer.hidden_seq is None else None,
        older.custom if newer.custom is None else None,
        blocked=older.blocked if newer.blocked is None else None,
    )


_SETTINGS = ("pinned", "muted", "hidden_seq", "custom", "blocked")


def _settings(of: frames.Asked | storage.SaveState) -> dict[str, Any]:
    """What it sets of a conversation state, marks aside."""
    return {name: value for name in _SETTINGS if (value := getattr(of, name, None)) is not None}


def _includes(request: storage.SaveState, wanted: frames.SetConversation) -> bool:
    """Whether what storage was asked to do is all of that, or more."""
    return (
        wanted.pinned in (None, request.pinned)
        and wanted.muted in (None, request.muted)
        and wanted.custom in (None, request.custom)
        and wanted.blocked in (None, request.blocked)
        and (wanted.hidden_seq or 0) <= (request.hidden_seq or 0)
    )
