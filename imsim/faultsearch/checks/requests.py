"""Checks of the answers and refusals of requests and sends."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Code, Message, Role, Scene, Session, conversation_id, is_chatroom, p2p_id, p2p_members
from imsim.faultsearch.checks.deliveries import fits
from imsim.faultsearch.checks.facts import Check
from imsim.faultsearch.dispatch import Down, Up
from imsim.faultsearch.entries import ClientSent, Event, RouterReceived, RouterSent, Stepped, Stored, Wished
from imsim.faultsearch.model.rules import State
from imsim.faultsearch.model.view import conversation_of, wish_to_send
from imsim.faultsearch.nodes import Answer, Instance, answered

_ROLES = (Role.MEMBER, Role.ADMIN, Role.OWNER)  # by rank
_SETTINGS = ("pinned", "muted", "hidden_seq", "custom", "blocked")
# events that other users may have reasons to refuse
_ADDRESSED = ("create", "invite", "edit", "friend_request", "friend_accept")


def settings_in(request: frames.Asked | storage.SaveState) -> dict[str, Any]:
    """Return the settings that a request changes, without marks."""
    return {name: value for name in _SETTINGS if (value := getattr(request, name, None)) is not None}


@dataclass(slots=True)
class _Pending:
    """A request that has no answer yet.

    `refusals`: the codes with which it may be refused. `saved`: whether storage has executed it. A newer request
    removes its own settings from `wanted`.
    """

    wanted: frames.Asked
    refusals: set[str]
    readers: int = 0  # the read count of the message when it was made
    there: int = 0  # the number of entries in the conversation when it was made
    #: by conversation of the user, the number of its entries when it was made
    ages: dict[str, int] = field(default_factory=dict)
    saved: bool = False


class Requests(Check):
    """Checks that a request is answered with what is true, and refused only for a reason.

    A request that is made while another of its kind is unanswered replaces it, and both have one answer.
    """

    def begin(self) -> None:
        self._limit = self.policies.content_bytes
        self._steps: Counter[str] = Counter()  # by instance, its steps so far
        self._pending: dict[str, dict[tuple[str, str], list[_Pending]]] = defaultdict(dict)  # by instance
        #: (instance, conversation) -> the last wish of its user for each setting; and by number, the requests that it
        #: sent
        self._wishes: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
        self._sent: dict[tuple[str, str, int], frames.SetConversation] = {}

    def asked(self, entry: Wished[frames.Asked]) -> None:
        instance, wanted, model = self.instances[entry.node], entry.request, self.model
        pending = _Pending(wanted, model.refusals(instance.user, wanted, self._limit))
        all_pending = self._pending[instance.name]
        if isinstance(wanted, frames.EndSession) and wanted.device == instance.device:
            pending.refusals = {"bad_request"}
        elif isinstance(wanted, frames.Friends):
            pending.ages = {id: model.age(id) for id in model.states if instance.user in (p2p_members(id) or ())}
        elif isinstance(wanted, frames.History | frames.Group):
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
        """Check that a device requests exactly the last wish of its user."""
        name, frame, conversation = entry.node, entry.frame, entry.frame.conversation_id
        wishes = self._wishes[name, conversation]
        end = max(self.model.given[name][conversation], default=0)
        wrong = {setting: value for setting, value in settings_in(frame).items() if wishes.get(setting) != value}
        if "hidden_seq" in wrong and wishes.get("hidden_seq", end + 1) <= wrong["hidden_seq"] <= end:
            del wrong["hidden_seq"]  # it may reach to later entries, which no user sees
        if wrong:
            text = f"{name} requested {wrong} in {conversation}, not {wishes}"
            self.violated("only_requested_settings_are_saved", text)
        self._sent[name, conversation, frame.number] = frame

    def saved(self, entry: Stored[storage.SaveState]) -> None:
        """Check that a device has requested all that storage saved, and note the requests that this fulfils.

        Storage may also save marks again that no device requested now.
        """
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
            self.violated("only_requested_settings_are_saved", f"{request.user} did not request {request}")

    def answered(self, entry: Event[Answer]) -> None:
        instance, event = self.instances[entry.node], entry.event
        pending = self._pending[instance.name].pop(answered(event), [])
        if isinstance(event, events.RequestFailed):
            is_full = (event.request, event.code) == (frames.Enter.op, Code.TOO_LARGE)  # also at an automatic re-entry
            if not is_full and not any(self._is_refusable(instance.user, one, event.code) for one in pending):
                self._wrong("refusals_have_a_reason", instance, event)
        elif pending:
            self._done(instance, event, pending)

    def looked(self, entry: Stepped) -> None:
        """Check that a requested setting shows at once: at the look before each step."""
        name = entry.node
        _, views = self.instances[name].looks[self._steps[name]]
        self._steps[name] += 1
        for view in views:
            for pending in self._pending[name].get((frames.SetConversation.op, view.id), ()):
                for setting, value in settings_in(pending.wanted).items():
                    if setting != "hidden_seq" and getattr(view, setting) != value:
                        text = f"{name} shows {setting} {getattr(view, setting)!r} of {view.id}, not {value!r}"
                        self.violated("settings_show_at_once", text)

    def _done(self, instance: Instance, event: Answer, pending: list[_Pending]) -> None:
        if not all(self._is_so(instance.user, one) for one in pending):
            self._wrong("done_requests_took_effect", instance, event)
        elif isinstance(event, events.ReadCounted):
            readers, members = self.model.readers(event.conversation_id, event.seq)
            if event.members != members or not pending[0].readers <= event.read <= readers:
                self._wrong("read_counts_are_right", instance, event)
        elif isinstance(event, events.History):
            self._looked_back(instance, event, pending[-1].there)
        elif isinstance(event, events.Group):
            self._listed_group(instance, event.page, pending[-1].there)
        elif isinstance(event, events.Friends):
            self._listed_friends(instance, event.page, pending[-1].ages)

    def _is_refusable(self, user: str, pending: _Pending, code: Code) -> bool:
        """Return whether the request may have been refused with this code: when it was made, or at a time since."""
        wanted = pending.wanted
        if isinstance(wanted, frames.Group) and code == Code.NOT_MEMBER:
            states = self.model.states.get(wanted.conversation_id, [])[pending.there :]
            return not states or any(user not in state.members for state in states)
        return code in pending.refusals

    def _listed_group(self, instance: Instance, page: frames.GroupPage, there: int) -> None:
        """Check that a page of a group is right for its position, which is none from before the request."""
        model, id = self.model, page.conversation_id
        if not there <= page.seq <= model.age(id):
            self._wrong("listings_are_right", instance, f"{page}, of a log with {there} to {model.age(id)} entries")
            return
        state = model.states[id][page.seq]
        if instance.user not in state.members:
            self.violated("strangers_learn_nothing", f"{instance.name} was given {page}")
        names = sorted(member for member in state.members if member > page.after)
        shown = names[: self.policies.page]
        members = [frames.GroupMember(name, _ROLES[state.rank(name)], muted=name in state.muted) for name in shown]
        settings = frames.GroupSettings(state.join, state.consent, state.all_muted)
        expected = frames.GroupPage(
            id, page.seq, state.owner, len(state.members), members, page.after, "", settings,
            shown[-1] if shown != names else "", page.number,
        )  # fmt: skip
        if page != expected:
            self._wrong("listings_are_right", instance, f"{page}, not {expected}")

    def _listed_friends(self, instance: Instance, page: frames.FriendsPage, ages: dict[str, int]) -> None:
        """Check that each friend and request was there at some time since the request, and that none is left out."""
        model, user = self.model, instance.user
        friends, requests = [one.user for one in page.friends], [one.user for one in page.requests]
        listed: dict[str, object] = dict.fromkeys(friends, True)
        listed |= {one.user: (one.by, one.id, one.expires) for one in page.requests}
        is_full = len(listed) == self.policies.page and page.next == max(listed)
        is_in_order = friends == sorted(friends) and requests == sorted(requests)
        if not is_in_order or len(listed) != len(friends) + len(requests) or (page.next and not is_full):
            self._wrong("listings_are_right", instance, page)
        pairs = ((id, p2p_members(id) or ()) for id in model.states)
        others = {one: id for id, pair in pairs for one in pair if user in pair and one != user}
        for other, id in others.items():
            if other <= page.after or (page.next and other > page.next):
                continue
            possible = [_friendship(state) for state in model.states[id][ages.get(id, 0) :]]
            if listed.pop(other, None) not in possible:
                self._wrong("listings_are_right", instance, f"{page}, in which {other} was one of {possible}")
        if listed:
            self._wrong("listings_are_right", instance, f"{page}, in which {sorted(listed)} do not belong")
        for one in page.friends:
            states = (model.user_state(user, p2p_id(user, one.user)), *model.states_of(user, p2p_id(user, one.user)))
            if one.blocked not in {state.blocked for state in states}:
                self._wrong("listings_are_right", instance, f"{page}, in which {one.user} was never blocked")

    def _is_so(self, user: str, pending: _Pending) -> bool:
        """Return whether the request may have been fulfilled by now."""
        wanted = pending.wanted
        if not isinstance(wanted, frames.SetConversation):
            return True
        is_theirs = user in self.model.stays.get(wanted.conversation_id, ())
        is_fit = len((wanted.custom or "").encode()) <= self._limit
        return is_theirs and is_fit and (pending.saved or not settings_in(wanted))

    def _looked_back(self, instance: Instance, event: events.History, there: int) -> None:
        """Check that the range is what the user could see when it was requested, or at some moment since."""
        model, log = self.model, event.conversation_id
        for age in range(there, model.age(log) + 1):
            view = model.view(instance.user, log, age)
            if self._is_page_of(event, [message for message in view if event.first <= message.seq <= event.last]):
                return
        text = f"{event}, of a log with {there} to {model.age(log)} entries"
        self._wrong("history_is_right", instance, text)

    def _is_page_of(self, event: events.History, found: list[Message]) -> bool:
        """Return whether the page has the latest of these messages, as many as fit.

        A page may end early only if the next message exceeds its bytes.
        """
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


def _friendship(state: State) -> object:
    """Return True for friends, the open friend request between two users, or None."""
    if state.friends:
        return True
    return next(((one.by, one.id, one.expires) for one in state.requests.values()), None)


def _is_part_of(wanted: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Return whether the settings given to storage include all wanted ones."""
    return wanted.get("hidden_seq", 0) <= settings.get("hidden_seq", 0) and all(
        settings.get(name) == value for name, value in wanted.items() if name != "hidden_seq"
    )


class Refusals(Check):
    """Checks that a permanently refused send broke a rule of its conversation, at some time since it was sent.

    A send is refused as a gap only if its predecessor was not stored when it arrived.
    """

    def begin(self) -> None:
        self._blocked: set[tuple[str, str, str]] = set()  # (conversation, sender, idClient) that storage refused
        self._related: dict[tuple[str, str], set[str]] = defaultdict(set)  # (conversation, user) -> codes
        #: (instance, idClient) -> the number of entries in the log when it was sent, and the time (ms)
        self._since: dict[tuple[str, str], tuple[int, int]] = {}
        #: (session, idClient) -> how often it arrived without its predecessor, and was not refused as a gap
        self._early: Counter[tuple[Session, str]] = Counter()
        case = self.world.case
        self._clocks_agree = not case.wall_skew and all(fault.kind != "clock" for fault in case.faults)

    def appended(self, entry: Stored[storage.Append]) -> None:
        if isinstance(entry.result, storage.Blocked):
            message = entry.request.message
            self._blocked.add((message.conversation_id, message.sender, message.id_client))

    def related(self, entry: Stored[storage.Between]) -> None:
        """Note the relations that a writer has looked up for a user."""
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
            # If clocks disagree, the time at the deciding node is unknown.
            times = (sent_at, int(entry.at * 1000) + 1) if self._clocks_agree else (0, 1 << 60)
            allowed = self.model.verdict(user, conversation, sent, since, times)
            if (conversation, user, event.id_client) in self._blocked:
                allowed.add("blocked")
            if wish_to_send(user, sent).event in _ADDRESSED or sent["scene"] == Scene.SYSTEM:
                allowed |= self._related[conversation, user]
            harmless = self.model.verdict_on_stranger(user, conversation, sent)
            if harmless is not None and event.code not in harmless:
                text = f"{event.id_client} on {instance.name} was refused with {event.code}, unlike in a missing group"
                self.violated("strangers_learn_nothing", text)
        if event.code not in allowed:
            text = f"{event.id_client} on {instance.name} was refused with {event.code}, allowed are {sorted(allowed)}"
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
            text = f"{frame.ref} of {session} was refused as a gap, although its predecessor was stored"
            self.violated("refusals_have_a_reason", text)
