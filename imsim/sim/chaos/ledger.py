"""What each user should see, worked out by brute force.

It knows the frames and the words of the data model, and nothing else of the core: it is told what storage took in and
what went over the edges, keeps everything, and recounts from the start whenever it is asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imsim.core import frames
from imsim.core.model import Message, MessageType, Place, group_id, p2p_members

Key = tuple[str, str, str]  # conversation, sender, idClient
Whose = tuple[str, str]  # user, conversation


@dataclass(slots=True)
class Line:
    """One conversation as its user should see it."""

    last_seq: int
    last_id: str
    update_time: int
    unread: int
    place: Place


@dataclass(slots=True)
class Ledger:
    """Places are kept without their unread count, which is recounted."""

    logs: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    members: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of what storage has been told to found
    by_key: dict[Key, Message] = field(default_factory=dict)
    places: dict[Whose, Place] = field(default_factory=dict)
    #: every state that a place was ever in, by version
    history: dict[tuple[str, str, int], Place] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)  # of each user's log of places
    revoked: dict[str, float] = field(default_factory=dict)  # user -> tokens issued before are void
    #: the highest seq that any device of the user said it had read or shown; up to which it said it held everything
    claimed: dict[Whose, int] = field(default_factory=dict)
    held: dict[Whose, int] = field(default_factory=dict)
    #: of each instance, the same as its gateway heard it (of a sync: its router)
    heard: dict[Whose, int] = field(default_factory=dict)
    #: what each instance has been given: instance -> conversation -> seqs
    given: dict[str, dict[str, set[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))

    # --- what storage took in ---

    def founded(self, conversation: str, members: tuple[str, ...]) -> None:
        self.members.setdefault(conversation, members)

    def appended(self, message: Message, shown: int) -> None:
        self.logs[message.conversation_id].append(message)
        self.by_key[message.conversation_id, message.sender, message.id_client] = message
        self.changed(message.sender, message.conversation_id, read=shown)

    def changed(
        self,
        user: str,
        conversation: str,
        *,
        read: int = 0,
        hidden: int = 0,
        pinned: bool | None = None,
        muted: bool | None = None,
        custom: str | None = None,
        delivered: int = 0,
    ) -> None:
        """Storage was told to change a user's place. Marks move forward only, and not beyond the log; what is hidden is
        read; how far one user of a p2p conversation has got it, and has read, is part of the other's place; and what
        was read had been got."""
        if user not in self.members.get(conversation, ()):
            return
        end, old = len(self.logs.get(conversation, ())), self.place(user, conversation)
        new = replace(old, hidden_seq=max(old.hidden_seq, min(hidden, end)))
        new.read_seq = max(old.read_seq, min(read, end), new.hidden_seq)
        new.pinned = new.pinned if pinned is None else pinned
        new.muted = new.muted if muted is None else muted
        new.custom = new.custom if custom is None else custom
        if new != old:
            self._keep(user, new)
        for peer in p2p_members(conversation) or ():
            if peer != user:
                known = self.place(peer, conversation)
                got = max(known.peer_delivered_seq, new.read_seq, min(delivered, end))
                told = replace(known, peer_read_seq=new.read_seq, peer_delivered_seq=got)
                if told != known:
                    self._keep(peer, told)

    def _keep(self, user: str, place: Place) -> None:
        self.versions[user] = place.version = self.versions.get(user, 0) + 1
        self.places[user, place.conversation_id] = place
        self.history[user, place.conversation_id, place.version] = place

    def revoke(self, user: str, before: float) -> None:
        self.revoked[user] = max(before, self.revoked.get(user, 0.0))

    # --- what went over the edges ---

    def left_client(self, user: str, frame: frames.FromClient, conversation: str) -> None:
        seq = 0
        if isinstance(frame, frames.Send):
            seq = frame.shown
        elif isinstance(frame, frames.Read):
            seq = frame.seq
        elif isinstance(frame, frames.SetConversation):
            seq = frame.hidden_seq or 0
        _raise(self.claimed, (user, conversation), seq)

    def holds(self, user: str, conversation: str, seq: int) -> None:
        """A device of the user says that it has everything up to `seq`."""
        _raise(self.held, (user, conversation), seq)

    def was_heard(self, instance: str, conversation: str, seq: int) -> None:
        """That it said so has reached those who are to tell the other user."""
        _raise(self.heard, (instance, conversation), seq)

    def reached_client(self, instance: str, frame: frames.ToClient) -> None:
        given = self.given[instance]
        if isinstance(frame, frames.Push):
            given[frame.message.conversation_id].add(frame.message.seq)
        elif isinstance(frame, frames.Page | frames.SyncDone | frames.HistoryPage):
            for message in frame.messages:
                given[message.conversation_id].add(message.seq)
        elif isinstance(frame, frames.Stored):
            given[frame.conversation_id].add(frame.seq)

    # --- what follows ---

    def may_see(self, user: str, conversation: str) -> bool:
        return user in self.members_of(conversation)

    def members_of(self, conversation: str) -> tuple[str, ...]:
        return self.members.get(conversation) or p2p_members(conversation) or ()

    def seen_by(self, user: str) -> dict[str, list[Message]]:
        """Every conversation of the user with all that it holds."""
        return {conversation: log for conversation, log in self.logs.items() if self.may_see(user, conversation)}

    def place(self, user: str, conversation: str) -> Place:
        return self.places.get((user, conversation)) or Place(conversation, 0, 0, 0)

    def unread(self, user: str, conversation: str) -> int:
        mark = self.place(user, conversation).read_seq
        return sum(
            message.seq > mark and message.sender != user and message.type != MessageType.NOTIFICATION
            for message in self.logs.get(conversation, ())
        )

    def listed(self, user: str) -> dict[str, Line]:
        """The conversation list: where something has happened since it was hidden."""
        lines = {}
        for conversation, log in self.seen_by(user).items():
            place, last = self.place(user, conversation), max(log, key=lambda message: message.seq)
            if last.seq > place.hidden_seq:
                unread = self.unread(user, conversation)
                lines[conversation] = Line(last.seq, last.id, last.time, unread, place)
        return lines

    def readers(self, conversation: str, seq: int) -> tuple[int, int]:
        """How many have read this message, of how many; its sender aside."""
        sender = self.logs[conversation][seq - 1].sender
        others = [user for user in self.members_of(conversation) if user != sender]
        return sum(self.place(user, conversation).read_seq >= seq for user in others), len(others)

    def verdict(self, user: str, conversation: str, sent: Mapping[str, Any], limit: int) -> set[str]:
        """What may be the end of this send: "stored", or the codes with which it may be refused for good."""
        members = self.members_of(conversation)
        if len(sent["content"].encode()) > limit:
            return {"too_large"}
        if not members:
            return {"no_conversation"}
        if user not in members:
            return {"not_member", "no_conversation"}  # the group may have been made since
        # Who asked before a group was there was told so.
        early = set() if p2p_members(conversation) else {"no_conversation"}
        stored = self.by_key.get((conversation, user, sent["id"]))
        if stored is not None and (stored.content, stored.type) != (sent["content"], sent["type"]):
            return {"conflict"} | early
        return {"stored", "timeout", "unavailable"} | early

    def refusals(self, user: str, wanted: frames.Asked, limit: int) -> set[str]:
        """The codes with which a request that is made now may be refused for good."""
        if isinstance(wanted, frames.CreateGroup):
            if group_id(wanted.name) not in self.members:
                return {"conflict", "not_member"}  # somebody else may make it first
            if self.is_so(user, wanted, limit):
                return set()
            return {"conflict"} if user in self.members[group_id(wanted.name)] else {"not_member"}
        if isinstance(wanted, frames.SetConversation):
            if len((wanted.custom or "").encode()) > limit:
                return {"too_large"}
            return set() if user in self.members.get(wanted.conversation_id, ()) else {"no_conversation"}
        if isinstance(wanted, frames.History):
            return set() if user in self.members.get(wanted.conversation_id, ()) else {"no_conversation"}
        if isinstance(wanted, frames.ReadCount):
            there = len(self.logs.get(wanted.conversation_id, ())) if self.may_see(user, wanted.conversation_id) else 0
            return set() if 1 <= wanted.seq <= there else {"no_conversation"}
        return set()

    def is_so(self, user: str, wanted: frames.Asked, limit: int) -> bool:
        """Whether that request can have been carried out by now."""
        if isinstance(wanted, frames.CreateGroup):
            return set(self.members.get(group_id(wanted.name), ())) == {*wanted.members, user}
        if isinstance(wanted, frames.SetConversation):
            return user in self.members.get(wanted.conversation_id, ()) and len((wanted.custom or "").encode()) <= limit
        return True


def _raise(marks: dict[Whose, int], whose: Whose, seq: int) -> None:
    if seq > marks.get(whose, 0):
        marks[whose] = seq
