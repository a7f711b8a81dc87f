"""Those who watch a run go by, each one thing, and say what was wrong at the moment when it was so.

What each finds is named as an invariant is, and told in words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import (
    Code,
    ConversationState,
    Message,
    MessageType,
    Scene,
    Session,
    conversation_id,
    is_chatroom,
    p2p_members,
)
from imsim.core.policies import Policies
from imsim.faultsearch.checks.limits import fits, written_in
from imsim.faultsearch.model.reference import Ledger
from imsim.faultsearch.model.rules import Relations, leaves
from imsim.faultsearch.model.view import wish_to_send
from imsim.faultsearch.nodes import Answer, answered

if TYPE_CHECKING:
    from imsim.core.client.conversations import Conversation
    from imsim.faultsearch.checks.rooms import Rooms
    from imsim.faultsearch.nodes import Instance
    from imsim.faultsearch.world import World

_ADDRESSED = ("create", "invite", "edit", "friend_request", "friend_accept")  # what others may not want

Found = list[tuple[str, str]]  # (invariant, text)


class States:
    """What routers tell of places: only what storage held at some time, and to one session never an older state; and
    the unread that they tell with it is a recount. What of the log a user's router has told any of the user's devices,
    it knows, whatever it may know beyond that; and one that takes over from it finds as much in storage."""

    def __init__(self, ledger: Ledger, found: Found) -> None:
        self._ledger = ledger
        self._found = found
        self._versions: dict[tuple[object, str], int] = {}  # (session, conversation) -> told
        self._known: dict[tuple[str, str], set[int]] = defaultdict(set)  # (user, conversation) -> seqs, told to devices

    def told(self, down: internal_frames.Down) -> None:
        frame, ledger = down.frame, self._ledger
        if type(frame) is frames.Push:
            self._knows(down.sessions, [frame.message])
        if type(frame) is frames.State:
            states = [frame.state]
        elif isinstance(frame, frames.Page | frames.SyncDone):
            self._knows(down.sessions, frame.messages)
            states = frame.states
        else:
            return
        for session in down.sessions:
            for state in states:
                key = (session, state.conversation_id)
                if state.version < self._versions.get(key, 0):
                    self._tell("versions_grow", session.user, f"{state} after version {self._versions[key]}")
                self._versions[key] = state.version
                held = ledger.history.get((session.user, state.conversation_id, state.version))
                if held is None and state.version == 0:
                    held = replace(ledger.user_state("", state.conversation_id))
                if held is None or replace(state, unread=0) != held:
                    self._tell("only_what_is_stored_is_told", session.user, f"{state}, stored was {held}")
                least, most = self._unread(session.user, state)
                if not least <= state.unread <= most:
                    self._tell("unread_is_a_recount", session.user, f"{state}, which are {least} to {most}")
            if type(frame) is frames.SyncDone and frame.version > ledger.versions.get(session.user, 0):
                self._tell("only_what_is_stored_is_told", session.user, f"the version {frame.version}")

    def _knows(self, sessions: Iterable[Session], messages: list[Message]) -> None:
        for session in sessions:
            for message in messages:
                self._known[session.user, message.conversation_id].add(message.seq)

    def _unread(self, user: str, state: ConversationState) -> tuple[int, int]:
        """How many count beyond this mark, of those that the user's router knows for certain, and of all; as it may
        not have heard yet what ended the user's stay, and what was recalled."""
        ledger, conversation = self._ledger, state.conversation_id
        known, log = self._known[user, conversation], ledger.logs.get(conversation, [])
        ends = [entry.seq for entry in log if entry.seq in known and leaves(entry, user)]
        begun = ledger.begun(user, conversation)
        floor, least, most = max([state.read_seq, *ends]), 0, 0
        for message in log:
            if message.seq <= floor or message.sender == user or message.type == MessageType.NOTIFICATION:
                continue
            if not message.recalled or message.amended not in known:
                most += ledger.may_see(user, conversation, message.seq)
            if message.seq in known and begun and message.seq >= begun and not message.recalled:
                least += 1
        return least, most

    def _tell(self, invariant: str, user: str, text: str) -> None:
        self._found.append((invariant, f"{user} was told {text}"))


@dataclass(slots=True)
class _Pending:
    """A request since it was made: with what it may be refused, and whether storage has carried it out. Of a change,
    what a newer one wants otherwise is struck out."""

    wanted: frames.Asked
    refusals: set[str]
    readers: int = 0  # of the message that it asks about, when it was made
    there: int = 0  # how many messages there were then in the conversation that it asks about
    saved: bool = False


class Requests:
    """A request is answered by what is true, and refused only for a reason.

    One that is made while another of its kind is unanswered takes its place, and both have one answer."""

    def __init__(self, ledger: Ledger, policies: Policies, owners: dict[int, str], found: Found) -> None:
        self._ledger = ledger
        self._owners = owners
        self._limit = policies.content_bytes
        self._page = policies.page
        self._page_bytes = policies.page_bytes
        self._found = found
        self._pending: dict[str, dict[tuple[str, str], list[_Pending]]] = defaultdict(dict)  # by instance
        #: (instance, conversation) -> what its user has last wished of each setting; what it has sent, also by number
        self._wishes: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
        self._sent: dict[tuple[str, str, int], frames.SetConversation] = {}

    def asked(self, instance: Instance, wanted: frames.Asked) -> None:
        ledger = self._ledger
        pending = _Pending(wanted, ledger.refusals(instance.user, wanted, self._limit))
        if isinstance(wanted, frames.EndSession) and wanted.device == instance.device:
            pending.refusals = {"bad_request"}
        if isinstance(wanted, frames.SetConversation):
            self._wishes[instance.name, wanted.conversation_id].update(_settings(wanted))
        if isinstance(wanted, frames.History):
            pending.there = ledger.age(wanted.conversation_id)
        if isinstance(wanted, frames.ReadCount) and not pending.refusals:
            pending.readers, _ = ledger.readers(wanted.conversation_id, wanted.seq)
        if isinstance(wanted, frames.Enter | frames.Leave):
            other = frames.Leave if isinstance(wanted, frames.Enter) else frames.Enter
            self._pending[instance.name].pop((other.op, wanted.ref), None)
        all_pending = self._pending[instance.name].setdefault((wanted.op, wanted.ref), [])
        for older in all_pending:
            if isinstance(older.wanted, frames.SetConversation) and isinstance(wanted, frames.SetConversation):
                older.wanted = _without(older.wanted, wanted)
        all_pending.append(pending)

    def left_client(self, instance: Instance, frame: frames.FromClient) -> None:
        """A device asks for what its user has last wished for, and no more."""
        if not isinstance(frame, frames.SetConversation):
            return
        conversation = frame.conversation_id
        wishes = self._wishes[instance.name, conversation]
        end = max(self._ledger.given[instance.name][conversation], default=0)
        wrong = {name: value for name, value in _settings(frame).items() if wishes.get(name) != value}
        if "hidden_seq" in wrong and wishes.get("hidden_seq", end + 1) <= wrong["hidden_seq"] <= end:
            del wrong["hidden_seq"]  # it reaches to what of the log no user sees
        if wrong:
            text = f"{instance.name} asked for {wrong} in {conversation}, not {wishes}"
            self._found.append(("only_what_is_wished_is_set", text))
        self._sent[instance.name, conversation, frame.number] = frame

    def _is_as_sent(self, request: storage.SaveState) -> bool:
        """Whether a device has asked for all of this; or nobody, and it only repeats marks."""
        settings, up = _settings(request), request.asked
        if isinstance(up, internal_frames.Up) and isinstance(up.frame, frames.SetConversation):
            sent = self._sent.get((self._owners[up.session.connection], request.conversation_id, up.frame.number))
            return sent is not None and settings == _settings(sent) and up.session.user == request.user
        return not settings.keys() - {"hidden_seq"}

    def saved(self, request: storage.SaveState) -> None:
        """Storage has carried this out: which of the wishes for it have come true?"""
        if not self._is_as_sent(request):
            self._found.append(("only_what_is_wished_is_set", f"{request.user} has not asked for {request}"))
        up = request.asked
        if not isinstance(up, internal_frames.Up) or not isinstance(up.frame, frames.SetConversation):
            return
        for instance, requests in self._pending.items():
            if instance.startswith(f"{request.user}/"):
                for pending in requests.get((frames.SetConversation.op, request.conversation_id), ()):
                    assert isinstance(pending.wanted, frames.SetConversation)
                    pending.saved |= _includes(request, pending.wanted)

    def event(self, instance: Instance, event: events.ClientEvent) -> None:
        if isinstance(event, Answer):
            all_pending = self._pending[instance.name].pop(answered(event), [])
            if isinstance(event, events.RequestFailed):
                self._refused(instance, event, all_pending)
            elif all_pending:
                self._done(instance, event, all_pending)
        elif isinstance(event, events.PeerRead):
            self._peer_read(instance, event)
        elif isinstance(event, events.PeerDelivered):
            self._peer_delivered(instance, event)

    def looked(self, instance: Instance, views: list[Conversation]) -> None:
        """What a user wants of a conversation shows at once."""
        for view in views:
            for pending in self._pending[instance.name].get((frames.SetConversation.op, view.id), ()):
                for name, value in _settings(pending.wanted).items():
                    if name != "hidden_seq" and getattr(view, name) != value:
                        text = f"{instance.name} shows {name} {getattr(view, name)!r} of {view.id}, not {value!r}"
                        self._found.append(("what_is_wished_shows", text))

    def _refused(self, instance: Instance, event: events.RequestFailed, pending: list[_Pending]) -> None:
        if event.request == frames.Enter.op and event.code == Code.TOO_LARGE:
            return  # the room is full, also for who comes back
        if not any(event.code in one.refusals for one in pending):
            self._tell("refusals_have_a_reason", instance, event)

    def _done(
        self,
        instance: Instance,
        event: Answer,
        pending: list[_Pending],
    ) -> None:
        ledger = self._ledger
        so = [ledger.is_so(instance.user, one.wanted, self._limit) and self._is_saved(one) for one in pending]
        if not all(so):
            self._tell("done_is_done", instance, event)
        elif isinstance(event, events.ReadCounted):
            readers, members = ledger.readers(event.conversation_id, event.seq)
            if event.members != members or not pending[0].readers <= event.read <= readers:
                self._tell("read_counts_are_right", instance, event)
        elif isinstance(event, events.History):
            self._looked_back(instance, event, pending[-1].there)

    def _looked_back(self, instance: Instance, event: events.History, there: int) -> None:
        """The range as the user saw it when it was asked for, or at some moment since."""
        ledger, log = self._ledger, event.conversation_id
        for age in range(there, ledger.age(log) + 1):
            view = ledger.view(instance.user, log, age)
            if self._is_page_of(event, [message for message in view if event.first <= message.seq <= event.last]):
                return
        self._tell("history_is_right", instance, f"{event}, of a log of {there} to {ledger.age(log)}")

    def _is_page_of(self, event: events.History, found: list[Message]) -> bool:
        """Whether these are the latest of what was found, as many as fit into a page: a page that ends early had no
        bytes left for the next one; and it has more than its bytes only if it is one message that does, and what has
        nothing."""
        page, left = list(event.messages), found[: -len(event.messages) or len(found)]
        if [*left, *page] != found or event.more != bool(left) or len(page) > self._page:
            return False
        sizes = [written_in(message) for message in page]
        if not fits(sizes, self._page_bytes):
            return False
        return not left or len(page) == self._page or not fits([written_in(left[-1]), *sizes], self._page_bytes)

    @staticmethod
    def _is_saved(pending: _Pending) -> bool:
        wanted = pending.wanted
        if not isinstance(wanted, frames.SetConversation):
            return True
        return pending.saved or wanted == frames.SetConversation(wanted.conversation_id)

    def _peer_read(self, instance: Instance, event: events.PeerRead) -> None:
        for peer in p2p_members(event.conversation_id) or ():
            mark = self._ledger.user_state(peer, event.conversation_id).read_seq
            if peer != instance.user and event.seq > mark:
                self._tell("receipts_are_true", instance, event)

    def _peer_delivered(self, instance: Instance, event: events.PeerDelivered) -> None:
        if event.seq > self._ledger.user_state(instance.user, event.conversation_id).peer_delivered_seq:
            self._tell("receipts_are_true", instance, event)

    def _tell(self, invariant: str, instance: Instance, event: object) -> None:
        self._found.append((invariant, f"{instance.name} was told {event}"))


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
    """What it sets of a place, marks aside."""
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


class Claims:
    """A device says that it has, or has shown, only what it was given; and of a repeated send that it is one."""

    def __init__(self, ledger: Ledger, found: Found) -> None:
        self._ledger = ledger
        self._found = found
        self._known: dict[tuple[str, str], int] = {}  # (instance, conversation) -> what it rightly said it has
        self._sent: Counter[tuple[str, str]] = Counter()  # (instance, idClient) -> attempts, but for those too many

    def left_client(self, instance: Instance, frame: frames.FromClient) -> None:
        if isinstance(frame, frames.Send):
            self._has(instance, conversation_id(frame.scene, instance.user, frame.to), frame.shown, frame)
            is_repeated = self._sent[instance.name, frame.id_client] > 0
            if (
                is_repeated and not frame.resend and frame.id_client not in instance.tapped
            ):  # by the user, not by itself
                self._tell("who_repeats_says_so", instance, frame)
            self._sent[instance.name, frame.id_client] += 1
        elif isinstance(frame, frames.Delivered):
            self._has(instance, frame.conversation_id, frame.seq, frame)
        elif isinstance(frame, frames.Sync):
            for conversation, seq in frame.cursors.items():
                self._has(instance, conversation, seq, frame)
        elif isinstance(frame, frames.Read):
            claimed = self._ledger.claimed.get((instance.user, frame.conversation_id), 0)
            if frame.seq > claimed:  # else it may have heard it from another device, of which the same was asked
                self._has(instance, frame.conversation_id, frame.seq, frame)

    def reached_client(self, instance: str, frame: frames.ToClient) -> None:
        if isinstance(frame, frames.Rejected) and frame.code == Code.RATE_LIMITED:
            self._sent[instance, frame.ref] -= 1

    def _has(self, instance: Instance, conversation: str, seq: int, frame: frames.FromClient) -> None:
        key, ledger = (instance.name, conversation), self._ledger
        known = self._known.get(key, 0)
        if seq <= known:
            return
        given = ledger.given[instance.name][conversation]
        missing = [n for n in range(known + 1, seq + 1) if n not in given]
        if any(n > ledger.age(conversation) or ledger.may_see(instance.user, conversation, n) for n in missing):
            self._tell("nobody_claims_what_they_lack", instance, f"{frame}, and lacks {missing}")
        self._known[key] = seq

    def _tell(self, invariant: str, instance: Instance, text: object) -> None:
        self._found.append((invariant, f"{instance.name} said {text}"))


class Gaps:
    """A send is refused for want of its predecessor only if that was not stored when it came."""

    def __init__(self, ledger: Ledger, found: Found) -> None:
        self._ledger = ledger
        self._found = found
        #: (session, idClient) -> how often it came without its predecessor, and was not refused for that
        self._early: Counter[tuple[Session, str]] = Counter()

    def reached_router(self, up: internal_frames.Up) -> None:
        frame, sender = up.frame, up.session.user
        if not isinstance(frame, frames.Send) or frame.after is None:
            return
        if (up.conversation_id, sender, frame.after) not in self._ledger.by_key:
            self._early[up.session, frame.id_client] += 1

    def told(self, down: internal_frames.Down) -> None:
        frame = down.frame
        if not isinstance(frame, frames.Rejected) or frame.code != Code.GAP:
            return
        session = down.sessions[0]
        if self._early[session, frame.ref]:
            self._early[session, frame.ref] -= 1
        else:
            self._found.append(("refusals_have_a_reason", f"{frame.ref} of {session} comes after what was stored"))


class Logins:
    """A session ends for good only for a reason; then the device stays away until somebody has it log in again."""

    def __init__(self, world: World, found: Found) -> None:
        self._world = world
        self._found = found
        self._moment = 0
        self._asked: dict[str, tuple[int, float]] = {}  # instance -> its last login: when, and its token's time
        self._ended: set[str] = set()  # instances
        self._refused: set[str] = set()  # instances whose token was not taken
        self._arrived: dict[str, list[tuple[int, internal_frames.Attach]]] = defaultdict(list)  # by user
        self._ends: dict[str, list[tuple[int, str]]] = defaultdict(list)  # user -> the device that was to be ended
        self._revoked: dict[str, list[tuple[int, float]]] = defaultdict(list)  # user -> tokens issued before

    def asked(self, instance: str, login: frames.Login) -> None:
        self._asked[instance] = (self._next(), float(login.token.split("@")[1]))
        if instance in self._ended:
            self._found.append(("who_was_ended_stays_away", f"{instance} logged in by itself"))

    def arrived(self, attach: internal_frames.Attach) -> None:
        self._arrived[attach.user].append((self._next(), attach))

    def asked_to_end(self, user: str, device: str) -> None:
        self._ends[user].append((self._next(), device))

    def revoked(self, user: str, before: float) -> None:
        self._revoked[user].append((self._next(), before))

    def token_refused(self, instance: str) -> None:
        self._refused.add(instance)

    def started(self, instance: str) -> None:
        self._ended.discard(instance)

    def ended(self, instance: Instance, event: events.Ended) -> None:
        self._ended.add(instance.name)
        if not self._has_reason(instance, event.code):
            self._found.append(("nobody_is_thrown_out", f"{instance.name} was ended: {event.code} {event.text}"))

    def _next(self) -> int:
        self._moment += 1
        return self._moment

    def _has_reason(self, instance: Instance, code: Code) -> bool:
        user, (since, issued) = instance.user, self._asked[instance.name]
        if code in (Code.BAD_TOKEN, Code.TOKEN_EXPIRED):
            return instance.name in self._refused
        if code == Code.TOKEN_REVOKED:
            return any(at > since or issued < before for at, before in self._revoked[user])
        if code == Code.REPLACED:
            logins = [a for at, a in self._arrived[user] if at > since and a.device == instance.device]
            own = [attach for attach in logins if self._world.owners[attach.connection] == instance.name]
            return len(logins) > len(own)
        return code == Code.KICKED and (
            any(at > since and device == instance.device for at, device in self._ends[user])
            or any(at > since and self._takes_the_slot(attach, instance) for at, attach in self._arrived[user])
        )

    def _takes_the_slot(self, attach: internal_frames.Attach, instance: Instance) -> bool:
        slot = self._world.case.slot
        return attach.device != instance.device and slot(f"{attach.user}/{attach.device}") == slot(instance.key)


class Senders:
    """Who is refused for good has broken a rule: that of the conversation as it was at some time since it was asked."""

    def __init__(self, ledger: Ledger, limit: int, rooms: Rooms, found: Found) -> None:
        self.blocked: set[tuple[str, str, str]] = set()  # (conversation, sender, idClient) that storage refused
        self._told: dict[tuple[str, str], set[str]] = defaultdict(set)  # (conversation, user) -> codes
        self._rooms = rooms
        self._ledger = ledger
        self._limit = limit
        self._found = found
        self._since: dict[tuple[str, str], int] = {}  # (instance, idClient) -> how old the log was then

    def told(self, request: storage.Between, relations: Relations) -> None:
        """A writer has looked up how others stand to one who wants something."""
        codes = self._told[request.conversation_id, request.user]
        codes |= {"blocked"} if relations.blocking else set()
        codes |= {"not_friends"} if not relations.friends >= set(request.others) else set()

    def asked(self, instance: str, user: str, frame: frames.Send) -> None:
        conversation = conversation_id(frame.scene, user, frame.to)
        self._since.setdefault((instance, frame.id_client), self._ledger.age(conversation))

    def failed(self, instance: Instance, event: events.SendFailed) -> None:
        sent = instance.sent[event.id_client]
        conversation = conversation_id(sent["scene"], instance.user, sent["to"])
        if is_chatroom(conversation):
            allowed = {"not_member", "timeout", "unavailable"} | self._rooms.refusals(instance.user, conversation, sent)
            if len(sent["content"].encode()) > self._limit:
                allowed = {"too_large", "timeout"}
        else:
            since = self._since.get((instance.name, event.id_client), 0)
            allowed = self._ledger.verdict(instance.user, conversation, sent, self._limit, since)
            if (conversation, instance.user, event.id_client) in self.blocked:
                allowed.add("blocked")
            if wish_to_send(instance.user, sent).event in _ADDRESSED or sent["scene"] == Scene.SYSTEM:
                allowed |= self._told[conversation, instance.user]
        if event.code not in allowed:
            text = f"{event.id_client} on {instance.name} was refused: {event.code}, not {sorted(allowed)}"
            self._found.append(("refusals_have_a_reason", text))
