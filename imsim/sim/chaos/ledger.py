"""What each user should see, worked out by brute force.

It knows the frames and the words of the data model, and nothing else of the core: it is told what storage took in and
what went over the edges, keeps everything, and recounts from the start whenever it is asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imsim.core import frames
from imsim.core.model import Message, MessageType, p2p_members

Key = tuple[str, str, str]  # conversation, sender, idClient


@dataclass(slots=True)
class Line:
    """One conversation as its user should see it, the read mark given."""

    last_seq: int
    last_id: str
    update_time: int
    unread: int


@dataclass(slots=True)
class Ledger:
    logs: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    by_key: dict[Key, Message] = field(default_factory=dict)
    marks: dict[tuple[str, str], int] = field(default_factory=dict)  # (user, conversation) -> seq, as stored
    #: (user, conversation) -> the highest seq that any device of the user said it had read or shown
    claimed: dict[tuple[str, str], int] = field(default_factory=dict)
    #: what each instance has been given: instance -> conversation -> seqs
    given: dict[str, dict[str, set[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))

    # --- what storage took in ---

    def founded(self, conversation: str, members: tuple[str, ...]) -> None:
        self.members.setdefault(conversation, members)

    def appended(self, message: Message, shown: int) -> None:
        self.logs[message.conversation_id].append(message)
        self.by_key[message.conversation_id, message.sender, message.id_client] = message
        self.marked(message.sender, message.conversation_id, shown)

    def marked(self, user: str, conversation: str, seq: int) -> None:
        """Storage was told to move a read mark: it moves forward only, and not beyond the log."""
        seq = min(seq, len(self.logs.get(conversation, ())))
        self.marks[user, conversation] = max(seq, self.marks.get((user, conversation), 0))

    # --- what went over the edges ---

    def left_client(self, user: str, frame: frames.FromClient, conversation: str) -> None:
        if isinstance(frame, frames.Read | frames.Send):
            seq = frame.seq if isinstance(frame, frames.Read) else frame.shown
            self.claimed[user, conversation] = max(seq, self.claimed.get((user, conversation), 0))

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

    def unread(self, user: str, conversation: str, mark: int) -> int:
        return sum(
            message.seq > mark and message.sender != user and message.type != MessageType.NOTIFICATION
            for message in self.logs.get(conversation, ())
        )

    def place(self, user: str, conversation: str) -> tuple[int, int]:
        """The user's stored mark, and how many count beyond it."""
        mark = self.marks.get((user, conversation), 0)
        return mark, self.unread(user, conversation, mark)

    def line(self, user: str, conversation: str, mark: int) -> Line:
        last = max(self.logs[conversation], key=lambda message: message.seq)
        return Line(last.seq, last.id, last.time, self.unread(user, conversation, mark))

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
