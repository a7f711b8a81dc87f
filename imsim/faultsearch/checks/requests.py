"""What users ask for and send, and the answers and refusals that they get."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import Any

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Code, Message, Scene, Session, conversation_id, is_chatroom, p2p_members
from imsim.faultsearch.checks.deliveries import fits
from imsim.faultsearch.checks.facts import Check
from imsim.faultsearch.dispatch import Down, Up
from imsim.faultsearch.entries import ClientSent, Event, RouterReceived, RouterSent, Stepped, Stored, Wished
from imsim.faultsearch.model.view import conversation_of, wish_to_send
from imsim.faultsearch.nodes import Answer, Instance, answered

_SETTINGS = ("pinned", "muted", "hidden_seq", "custom", "blocked")
_ADDRESSED = ("create", "invite", "edit", "friend_request", "friend_accept")  # what others may not want


def settings_in(request: frames.Asked | storage.SaveState) -> dict[str, Any]:
    """What it sets of a conversation state, marks aside."""
    return {name: value for name in _SETTINGS if (value := getattr(request, name, None)) is not None}


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

    def asked(self, entry: Wished[frames.Asked]) -> None:
        instance, wanted, model = self.instances[entry.node], entry.request, self.model
        pending = _Pending(wanted, model.refusals(instance.user, wanted, self._limit))
        all_pending = self._pending[instance.name]
        if isinstance(wanted, frames.EndSession) and wanted.device == instance.device:
            pending.refusals = {"bad_request"}
        elif isinstance(wanted, frames.History):
            pending.there = model.age(wanted.conversation_id)
        elif isinstance(wanted, frames.ReadCount) and not pending.refusals:
            pending.readers, _ = model.readers(wanted.conversation_id, wanted.seq)
        elif isinstance(wanted, frames.Enter | frames.Leave):
            other = frames.Leave if isinstance(wanted, frames.Enter) else frames.Enter
            all_pending.pop((other.op, wanted.ref), None)
        elif isinstance(wanted, frames.SetConversation):
            settings = settings_in(wanted)
            struck_out: dict[str, Any] = dict.fromkeys(settings)
            self._wishes[instance.name, wanted.conversation_id].update(settings)
            for older in all_pending.get((wanted.op, wanted.ref), ()):
                assert isinstance(older.wanted, frames.SetConversation)
                older.wanted = replace(older.wanted, **struck_out)
        all_pending.setdefault((wanted.op, wanted.ref), []).append(pending)

    def sent(self, entry: ClientSent[frames.SetConversation]) -> None:
        """A device asks for what its user has last wished for, and no more."""
        name, frame, conversation = entry.node, entry.frame, entry.frame.conversation_id
        wishes = self._wishes[name, conversation]
        end = max(self.model.given[name][conversation], default=0)
        wrong = {setting: value for setting, value in settings_in(frame).items() if wishes.get(setting) != value}
        if "hidden_seq" in wrong and wishes.get("hidden_seq", end + 1) <= wrong["hidden_seq"] <= end:
            del wrong["hidden_seq"]  # it reaches to what of the log no user sees
        if wrong:
            text = f"{name} asked for {wrong} in {conversation}, not {wishes}"
            self.violated("only_wishes_are_carried_out", text)
        self._sent[name, conversation, frame.number] = frame

    def saved(self, entry: Stored[storage.SaveState]) -> None:
        """Storage has carried this out: which of the wishes for it have come true? A device has asked for all of it; or
        nobody, and it only repeats marks."""
        request, up, settings = entry.request, entry.request.asked, settings_in(entry.request)
        if isinstance(up, internal_frames.Up) and isinstance(up.frame, frames.SetConversation):
            sent = self._sent.get((self.world.owners[up.session.connection], request.conversation_id, up.frame.number))
            is_as_sent = sent is not None and settings == settings_in(sent) and up.session.user == request.user
            for instance, requests in self._pending.items():
                if self.evidence.users[instance] == request.user:
                    for pending in requests.get((frames.SetConversation.op, request.conversation_id), ()):
                        pending.saved |= _is_part_of(settings_in(pending.wanted), settings)
        else:
            is_as_sent = not settings.keys() - {"hidden_seq"}
        if not is_as_sent:
            self.violated("only_wishes_are_carried_out", f"{request.user} has not asked for {request}")

    def answered(self, entry: Event[Answer]) -> None:
        instance, event = self.instances[entry.node], entry.event
        pending = self._pending[instance.name].pop(answered(event), [])
        if isinstance(event, events.RequestFailed):
            is_full = (event.request, event.code) == (frames.Enter.op, Code.TOO_LARGE)  # also for one that comes back
            if not is_full and not any(event.code in one.refusals for one in pending):
                self._wrong("refusals_have_a_reason", instance, event)
        elif pending:
            self._done(instance, event, pending)

    def looked(self, entry: Stepped) -> None:
        """What a user wants of a conversation shows at once: at the look that comes before each step."""
        name = entry.node
        _, views = self.instances[name].looks[self._steps[name]]
        self._steps[name] += 1
        for view in views:
            for pending in self._pending[name].get((frames.SetConversation.op, view.id), ()):
                for setting, value in settings_in(pending.wanted).items():
                    if setting != "hidden_seq" and getattr(view, setting) != value:
                        text = f"{name} shows {setting} {getattr(view, setting)!r} of {view.id}, not {value!r}"
                        self.violated("wishes_show_at_once", text)

    def _done(self, instance: Instance, event: Answer, pending: list[_Pending]) -> None:
        if not all(self._is_so(instance.user, one) for one in pending):
            self._wrong("done_is_done", instance, event)
        elif isinstance(event, events.ReadCounted):
            readers, members = self.model.readers(event.conversation_id, event.seq)
            if event.members != members or not pending[0].readers <= event.read <= readers:
                self._wrong("read_counts_are_right", instance, event)
        elif isinstance(event, events.History):
            self._looked_back(instance, event, pending[-1].there)

    def _is_so(self, user: str, pending: _Pending) -> bool:
        """Whether it can have been carried out by now."""
        wanted = pending.wanted
        if not isinstance(wanted, frames.SetConversation):
            return True
        is_theirs = user in self.model.stays.get(wanted.conversation_id, ())
        is_fit = len((wanted.custom or "").encode()) <= self._limit
        return is_theirs and is_fit and (pending.saved or not settings_in(wanted))

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
        bytes left for the next one."""
        page, left = list(event.messages), found[: -len(event.messages) or len(found)]
        most, most_bytes = self.policies.page, self.policies.page_bytes
        if [*left, *page] != found or event.more != bool(left) or len(page) > most or not fits(page, most_bytes):
            return False
        return not left or len(page) == most or not fits([left[-1], *page], most_bytes)

    def peer_read(self, entry: Event[events.PeerRead]) -> None:
        instance, event = self.instances[entry.node], entry.event
        for peer in p2p_members(event.conversation_id) or ():
            mark = self.model.user_state(peer, event.conversation_id).read_seq
            if peer != instance.user and event.seq > mark:
                self._wrong("receipts_are_true", instance, event)

    def peer_delivered(self, entry: Event[events.PeerDelivered]) -> None:
        instance, event = self.instances[entry.node], entry.event
        if event.seq > self.model.user_state(instance.user, event.conversation_id).peer_delivered_seq:
            self._wrong("receipts_are_true", instance, event)

    def _wrong(self, invariant: str, instance: Instance, event: object) -> None:
        self.violated(invariant, f"{instance.name} reported {event}")


def _is_part_of(wanted: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether what storage was asked to set is all of that, or more."""
    return wanted.get("hidden_seq", 0) <= settings.get("hidden_seq", 0) and all(
        settings.get(name) == value for name, value in wanted.items() if name != "hidden_seq"
    )


class Refusals(Check):
    """A send that is refused for good has broken a rule of its conversation, as that was at some time since it was
    sent. For want of its predecessor it is refused only if that was not stored when it came."""

    def begin(self) -> None:
        self._blocked: set[tuple[str, str, str]] = set()  # (conversation, sender, idClient) that storage refused
        self._related: dict[tuple[str, str], set[str]] = defaultdict(set)  # (conversation, user) -> codes
        #: (instance, idClient) -> how old the log was when it was sent, and the time (ms)
        self._since: dict[tuple[str, str], tuple[int, int]] = {}
        #: (session, idClient) -> how often it came without its predecessor, and was not refused for that
        self._early: Counter[tuple[Session, str]] = Counter()
        case = self.world.case
        self._clocks_agree = not case.wall_skew and all(fault.kind != "clock" for fault in case.faults)

    def appended(self, entry: Stored[storage.Append]) -> None:
        if isinstance(entry.result, storage.Blocked):
            message = entry.request.message
            self._blocked.add((message.conversation_id, message.sender, message.id_client))

    def related(self, entry: Stored[storage.Between]) -> None:
        """A writer has looked up how others stand to a user who wants something."""
        request, result = entry.request, entry.result
        if isinstance(result, storage.Relations):
            codes = self._related[request.conversation_id, request.user]
            codes |= {"blocked"} if result.blocking else set()
            codes |= {"not_friends"} if not {*result.friends} >= {*request.others} else set()

    def asked(self, entry: ClientSent[frames.Send]) -> None:
        frame = entry.frame
        conversation = conversation_id(frame.scene, self.evidence.users[entry.node], frame.to)
        since = (self.model.age(conversation), int(entry.at * 1000))
        self._since.setdefault((entry.node, frame.id_client), since)

    def failed(self, entry: Event[events.SendFailed]) -> None:
        instance, event = self.instances[entry.node], entry.event
        user, sent = instance.user, instance.sent[event.id_client]
        conversation = conversation_of(user, sent)
        if len(sent["content"].encode()) > self.policies.content_bytes:
            allowed = {"too_large", "timeout"}
        elif is_chatroom(conversation):
            allowed = self.evidence.rooms[conversation].refusals(user, sent, self.model.rules)
            allowed |= {"not_member", "timeout", "unavailable"}
        else:
            since, sent_at = self._since.get((instance.name, event.id_client), (0, 0))
            # Where clocks disagree, nobody knows what the time is where it is decided.
            times = (sent_at, int(entry.at * 1000) + 1) if self._clocks_agree else (0, 1 << 60)
            allowed = self.model.verdict(user, conversation, sent, since, times)
            if (conversation, user, event.id_client) in self._blocked:
                allowed.add("blocked")
            if wish_to_send(user, sent).event in _ADDRESSED or sent["scene"] == Scene.SYSTEM:
                allowed |= self._related[conversation, user]
        if event.code not in allowed:
            text = f"{event.id_client} on {instance.name} was refused: {event.code}, not {sorted(allowed)}"
            self.violated("refusals_have_a_reason", text)

    def came(self, entry: RouterReceived[Up[frames.Send]]) -> None:
        up, after = entry.frame, entry.frame.frame.after
        if after is not None and (up.conversation_id, up.session.user, after) not in self.model.by_key:
            self._early[up.session, up.frame.id_client] += 1

    def refused(self, entry: RouterSent[Down[frames.Rejected]]) -> None:
        session, frame = entry.frame.sessions[0], entry.frame.frame
        if frame.code != Code.GAP:
            return
        if self._early[session, frame.ref]:
            self._early[session, frame.ref] -= 1
        else:
            self.violated("refusals_have_a_reason", f"{frame.ref} of {session} comes after what was stored")
