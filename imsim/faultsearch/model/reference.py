"""The reference model: the expected state of each user, computed by brute force.

It knows the protocol and the data model, and nothing else of the core. It receives what storage has appended and what
devices have sent and received, keeps everything, and computes each result from the start. It has its own `rules` for
what is allowed and what follows from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imsim.core import frames
from imsim.core.model import ConversationState, Message, MessageType, Scene, p2p_id, p2p_members
from imsim.faultsearch.model.rules import (
    AMENDMENTS,
    Outcome,
    Relations,
    Rules,
    State,
    Wish,
    about,
    amended,
    is_shown,
    judge,
    wish_in,
)

Key = tuple[str, str, str]  # conversation, sender, idClient
Whose = tuple[str, str]  # user, conversation


@dataclass(slots=True)
class Line:
    """The expected state of one conversation in its user's list."""

    last_seq: int
    last_id: str
    update_time: int
    unread: int
    state: ConversationState


@dataclass(slots=True)
class Stay:
    """A range of a log that a user may see.

    `since`: the number of entries that the log had when the user was first allowed to see it.
    """

    first: int
    last: int  # 0: the stay has not ended
    since: int


class Marks(dict[Whose, int]):
    """Marks by (user or instance, conversation): 0 at first, and never decreasing."""

    def __missing__(self, whose: Whose) -> int:
        return 0

    def reach(self, user: str, conversation: str, seq: int) -> None:
        self[user, conversation] = max(seq, self[user, conversation])


@dataclass(slots=True)
class ReferenceModel:
    """The expected logs, states and marks. Conversation states are kept without their unread count, which is
    recomputed."""

    rules: Rules = field(default_factory=Rules)
    logs: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))  # in their present form
    #: (conversation, seq) -> every form that the entry ever had; the first is as it was stored
    forms: dict[tuple[str, int], list[Message]] = field(default_factory=lambda: defaultdict(list))
    #: conversation -> user -> stays. A user who returns also gets a stay for each recall or edit, during the absence,
    #: of an entry that the user had seen.
    stays: dict[str, dict[str, list[Stay]]] = field(default_factory=dict)
    # (conversation, seq) of system messages that followed from changes
    notes: set[tuple[str, int]] = field(default_factory=set)
    #: by conversation, its states by the rules: before its first entry, and after each entry
    states: dict[str, list[State]] = field(default_factory=dict)
    by_key: dict[Key, Message] = field(default_factory=dict)
    user_states: dict[Whose, ConversationState] = field(default_factory=dict)
    #: (user, conversation, version) -> conversation state
    history: dict[tuple[str, str, int], ConversationState] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)  # user -> the latest version of a conversation state
    revoked: dict[str, float] = field(default_factory=dict)  # user -> tokens issued before are void
    #: the highest seq that any device of the user has sent as read or shown; and the seq up to which one reported to
    #: hold all
    claimed: Marks = field(default_factory=Marks)
    held: Marks = field(default_factory=Marks)
    #: the same by instance, as received by its gateway (of a sync: by its router)
    heard: Marks = field(default_factory=Marks)
    #: by (instance, conversation): the seq up to which its first sync has left out what it was not given
    left_out: Marks = field(default_factory=Marks)
    #: the seqs that each instance was given: instance -> conversation -> seqs
    given: dict[str, dict[str, set[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))

    # --- updates from storage ---

    def founded(self, conversation: str, members: tuple[str, ...]) -> None:
        if conversation not in self.stays:
            self.stays[conversation] = {member: [Stay(1, 0, 0)] for member in members}
            self.states[conversation] = [State(members)]

    def appended(self, message: Message, shown: int, relations: Relations) -> Outcome:
        """Add a message that storage appended. Return its effects by the rules, and the reasons against it.

        `relations`: those of the sender at the time of the decision.
        """
        conversation, wish = message.conversation_id, wish_of(message)
        log, stays = self.logs[conversation], self.stays[conversation]
        outcome = judge(self.states[conversation][-1], wish, log, self.rules, relations)
        outcome.refuse(self._amends_unseen(wish, conversation), "bad_request")
        self._add(message)
        self.states[conversation].append(outcome.state)
        for user in outcome.joined:
            before = [*stays.setdefault(user, [])]
            for entry in log[before[-1].last :] if before else ():
                if any(stay.first <= about(entry) <= stay.last for stay in before):
                    stays[user].append(Stay(entry.seq, entry.seq, message.seq))
            stays[user].append(Stay(message.seq, 0, message.seq))
        for user in outcome.left:
            stays[user][-1].last = message.seq
        if (one := outcome.amended) is not None and not outcome.reasons:
            for entry in amended(log, one, message.seq):
                log[entry.seq - 1] = entry
                self.forms[conversation, entry.seq].append(entry)
        if message.sender in (*outcome.state.members, *outcome.left):
            self.changed(message.sender, conversation, read=shown)
        return outcome

    def added_note(self, note: Message) -> None:
        """Add a system message that storage appended to a system log."""
        self.founded(note.conversation_id, (note.to,))
        self._add(note)
        self.notes.add((note.conversation_id, note.seq))
        self.states[note.conversation_id].append(self.states[note.conversation_id][-1])

    def _amends_unseen(self, wish: Wish, conversation: str) -> bool:
        """Return whether the wish is to recall or edit a message that its user may not see."""
        return wish.event in AMENDMENTS and not self.may_see(wish.user, conversation, wish.data.get("seq", 0))

    def _add(self, message: Message) -> None:
        self.logs[message.conversation_id].append(message)
        self.forms[message.conversation_id, message.seq].append(message)
        self.by_key[message.conversation_id, message.sender, message.id_client] = message

    def changed(
        self, user: str, conversation: str, read: int = 0, hidden: int = 0, delivered: int = 0, **settings: Any
    ) -> None:
        """Change a user's conversation state as storage was asked to.

        Marks only move forward, and not beyond what the user may see. A hidden message counts as read, and a read one
        as delivered. In a p2p conversation, the marks of one user are part of the other's state.
        """
        members = p2p_members(conversation) or ()
        if "blocked" in settings and user in members:
            self.founded(conversation, members)
        if user not in self.stays.get(conversation, ()):
            return
        end, old = self.visible_end(user, conversation), self.user_state(user, conversation)
        new = replace(old, hidden_seq=max(old.hidden_seq, min(hidden, end)), **settings)
        new.read_seq = max(old.read_seq, min(read, end), new.hidden_seq)
        if new != old:
            self._keep(user, new)
        for peer in members:
            if peer != user:
                known = self.user_state(peer, conversation)
                got = max(known.peer_delivered_seq, new.read_seq, min(delivered, end))
                seen = replace(known, peer_read_seq=new.read_seq, peer_delivered_seq=got)
                if seen != known:
                    self._keep(peer, seen)

    def _keep(self, user: str, state: ConversationState) -> None:
        self.versions[user] = state.version = self.versions.get(user, 0) + 1
        self.user_states[user, state.conversation_id] = state
        self.history[user, state.conversation_id, state.version] = state

    def revoke(self, user: str, before: float) -> None:
        self.revoked[user] = max(before, self.revoked.get(user, 0.0))

    # --- marks of devices ---

    def got(self, instance: str, user: str, conversation: str) -> int:
        """Return the highest seq that the instance has: its mark at the gateway, or that of a message it was given."""
        given, log = self.given[instance][conversation], self.logs[conversation]
        said = [seq for seq in given if seq <= len(log) and log[seq - 1].sender != user]
        return max([self.heard[instance, conversation], *said])

    # --- expected results ---

    def relations(self, user: str, others: Iterable[str]) -> Relations:
        blocking = (one for one in others if self.user_state(one, p2p_id(user, one)).blocked)
        friends = (one for one in others if (states := self.states.get(p2p_id(user, one))) and states[-1].friends)
        return Relations(frozenset(blocking), frozenset(friends))

    def friends_of(self, user: str) -> list[str]:
        """Return the user's friends, without those who have blocked the user or are blocked."""
        found = []
        for id, states in self.states.items():
            members = p2p_members(id) or ()
            if user in members and states[-1].friends and not any(self.user_state(one, id).blocked for one in members):
                found += [one for one in members if one != user]
        return found

    def may_see(self, user: str, conversation: str, seq: int) -> bool:
        return any(stay.first <= seq <= stay.last for stay in self._stays(user, conversation))

    def _stays(self, user: str, conversation: str, age: int | None = None) -> list[Stay]:
        """Return the periods of membership, at the time when the log had `age` entries (None: now).

        A period that had not ended by that time ends there.
        """
        age = self.age(conversation) if age is None else age
        stays = self.stays.get(conversation, {}).get(user, [])
        return [Stay(one.first, min(one.last or age, age), one.since) for one in stays if one.since <= age]

    def members_of(self, conversation: str) -> tuple[str, ...]:
        states = self.states.get(conversation)
        return states[-1].members if states else p2p_members(conversation) or ()

    def visible_end(self, user: str, conversation: str) -> int:
        """Return the last seq that this user may see."""
        stays = self._stays(user, conversation)
        return stays[-1].last if stays else 0

    def view(self, user: str, conversation: str, age: int | None = None) -> list[Message]:
        """Return the entries that the user could see when the log had `age` entries (None: now).

        A user who has left sees the entries as they were then, but recalled ones as recalled.
        """
        age = self.age(conversation) if age is None else age
        stays, view = self._stays(user, conversation, age), []
        for message in self.logs.get(conversation, [])[:age]:
            if not any(stay.first <= message.seq <= stay.last for stay in stays):
                continue
            forms = [form for form in self.forms[conversation, message.seq] if form.amended <= age]
            seen = [form for form in forms if form.amended <= stays[-1].last]
            view.append(forms[-1] if forms[-1].recalled else seen[-1])
        return view

    def is_new_to(self, user: str, message: Message) -> bool:
        """Return whether a message was edited after the user had left."""
        return not message.recalled and message.amended > self.visible_end(user, message.conversation_id)

    def seen_by(self, user: str) -> dict[str, list[Message]]:
        """Return every conversation of the user with the entries that the user may see."""
        return {conversation: view for conversation in self.logs if (view := self.view(user, conversation))}

    def has_missed_amendments(self, user: str, conversation: str) -> bool:
        """Return whether an entry that the user has seen was amended after the user had left.

        A user who has left a group is not notified of it before joining again. A device that has the message keeps it,
        and a device that fetches it receives a recalled one as recalled.
        """
        return any(m.amended > self.visible_end(user, conversation) for m in self.view(user, conversation))

    def user_state(self, user: str, conversation: str) -> ConversationState:
        return self.user_states.get((user, conversation)) or ConversationState(conversation, 0, 0, 0)

    def states_of(self, user: str, conversation: str) -> list[ConversationState]:
        """Return every state that the user ever had in the conversation, except the initial one."""
        return [state for (one, id, _), state in self.history.items() if (one, id) == (user, conversation)]

    def stay_start(self, user: str, conversation: str) -> int:
        """Return the first seq of the user's present stay; 0 if the user is not a member."""
        stays = self.stays.get(conversation, {}).get(user)
        return 0 if not stays or stays[-1].last else stays[-1].first

    def unread(self, user: str, conversation: str) -> int:
        """Return the unread count: of messages since the user is a member."""
        return len(self.unread_seqs(user, conversation))

    def unread_seqs(self, user: str, conversation: str) -> list[int]:
        stay_start = self.stay_start(user, conversation)
        if not stay_start:
            return []
        since = max(self.user_state(user, conversation).read_seq, stay_start - 1)
        return [
            message.seq
            for message in self.view(user, conversation)
            if message.seq > since
            and message.sender != user
            and message.type != MessageType.NOTIFICATION
            and not message.recalled
        ]

    def beginning(self, user: str, conversation: str, newest: int) -> tuple[int, list[int]]:
        """Return what a sync leaves out that begins with the `newest` messages: its last seq (0: nothing is left out),
        and the unread seqs in it."""
        view = self.view(user, conversation)
        shown = [message.seq for message in view if is_shown(message)]
        if len(shown) < newest or view[0].seq == shown[-newest]:
            return 0, []
        last = shown[-newest] - 1
        return last, [seq for seq in self.unread_seqs(user, conversation) if seq <= last]

    def listed(self, user: str) -> dict[str, Line]:
        """Return the conversation list. A hidden conversation is listed again once something new has happened in it."""
        lines = {}
        for conversation, view in self.seen_by(user).items():
            state, shown = self.user_state(user, conversation), [message for message in view if is_shown(message)]
            if shown and shown[-1].seq > state.hidden_seq and not conversation.startswith(f"{Scene.SYSTEM}:"):
                last, unread = shown[-1], self.unread(user, conversation)
                lines[conversation] = Line(last.seq, last.id, last.time, unread, state)
        return lines

    def readers(self, conversation: str, seq: int) -> tuple[int, int]:
        """Return how many users have read this message, and how many may see it, both without its sender."""
        sender = self.logs[conversation][seq - 1].sender
        others = [user for user in self.stays[conversation] if user != sender and self.may_see(user, conversation, seq)]
        return sum(self.user_state(user, conversation).read_seq >= seq for user in others), len(others)

    def first(self, conversation: str, user: str, id_client: str) -> Message | None:
        """Return the message with this key, as it was stored."""
        stored = self.by_key.get((conversation, user, id_client))
        return self.forms[conversation, stored.seq][0] if stored else None

    def age(self, conversation: str) -> int:
        """Return the number of entries in the log."""
        return len(self.logs.get(conversation, ()))

    def verdict(
        self, user: str, conversation: str, sent: Mapping[str, Any], since: int, times: tuple[int, int]
    ) -> set[str]:
        """Return the codes with which a send may have been refused permanently by now.

        `since`: the number of entries in the log when it was sent. `times`: the first and last possible times of the
        decision (ms).
        """
        file = sent.get("file") or {}
        codes: set[str] = set()
        for state in self.states.get(conversation, [State(p2p_members(conversation) or ())])[since:]:
            for time in times:
                wish = Wish(user, sent["scene"], sent["type"], file, time=time)
                codes |= judge(state, wish, self.logs.get(conversation, ()), self.rules).reasons
        stored = self.first(conversation, user, sent["id"])
        if stored is not None and not same_words(stored, sent):
            codes.add("conflict")
        if file.get("event") in AMENDMENTS and file["data"]["seq"] > since:
            codes.add("bad_request")  # the message to amend did not exist yet
        if self._amends_unseen(Wish(user, sent["scene"], sent["type"], file), conversation):
            codes.add("bad_request")
        return codes | {"timeout", "unavailable"}

    def verdict_on_stranger(self, user: str, conversation: str, sent: Mapping[str, Any]) -> set[str] | None:
        """Return the codes with which a send to a group may have been refused if the group shows a stranger nothing.

        None: the user is or was a member, was invited, or has applied, or the event may show that the group exists.
        """
        wish = Wish(user, sent["scene"], sent["type"], sent.get("file") or {})
        states = self.states.get(conversation, [])
        if wish.scene != Scene.GROUP or wish.event in ("create", "apply", "join"):
            return None
        if user in self.stays.get(conversation, ()) or any(user in state.requests for state in states):
            return None
        codes = judge(State(), wish, (), self.rules).reasons - {"forbidden"}
        return codes | {"timeout", "unavailable"}

    def refusals(self, user: str, wanted: frames.Asked, limit: int) -> set[str]:
        """Return the codes with which a request that is made now may be refused permanently."""
        if isinstance(wanted, frames.Enter):
            return {"too_large"}
        if isinstance(wanted, frames.Group):
            return set() if user in self.members_of(wanted.conversation_id) else {"not_member"}
        if not isinstance(wanted, frames.SetConversation | frames.History | frames.ReadCount):
            return set()
        conversation = wanted.conversation_id
        is_there = user in self.stays.get(conversation, ())
        if isinstance(wanted, frames.ReadCount):
            is_there = 1 <= wanted.seq <= self.age(conversation) and self.may_see(user, conversation, wanted.seq)
        elif isinstance(wanted, frames.SetConversation):
            if len((wanted.custom or "").encode()) > limit:
                return {"too_large"}
            if wanted.blocked is not None:
                others = [one for one in p2p_members(conversation) or () if one != user]
                return set() if len(others) == 1 else {"bad_request"}
        return set() if is_there else {"no_conversation"}


def wish_of(message: Message) -> Wish:
    return replace(wish_in(message), time=message.time, conversation=message.conversation_id)


def same_words(message: Message, sent: Mapping[str, Any]) -> bool:
    """Return whether the message has the content that was given to `send`."""
    said = (message.content, message.type, message.file, message.custom)
    return said == (sent["content"], sent["type"], sent.get("file"), sent.get("custom"))
