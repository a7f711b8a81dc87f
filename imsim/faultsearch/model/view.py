"""The local view: what an application knows if it follows the events of its client."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imsim.core import events
from imsim.core.model import Flow, Message, MessageType, conversation_id, is_chatroom
from imsim.faultsearch.model.rules import SILENT, Wish, comes_from_outside, leaves

Sent = Mapping[str, Mapping[str, Any]]  # by idClient: the arguments of `send`


def wish_to_send(user: str, sent: Mapping[str, Any]) -> Wish:
    return Wish(user, sent["scene"], sent["type"], sent.get("file") or {})


@dataclass(slots=True)
class View:
    """The local view of an application.

    `user`: its user. `sent`: by idClient, the arguments of `send`. By conversation: `shown`, the messages from
    elsewhere, in order; `texts`, the present contents by seq, including its own messages; `counted`, the seqs that may
    be unread; `ended`, the seq at which the user's last stay ended; `left_out`, the seq up to which the first sync has
    left messages out; and the recalls and edits, in order.
    """

    user: str
    sent: Sent
    shown: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    texts: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    counted: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    ended: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    left_out: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    recalled: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    edited: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    resolved: list[tuple[str, str]] = field(default_factory=list)
    changed: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, user: str, sent: Sent, happened: Iterable[events.ClientEvent]) -> View:
        view = cls(user, sent)
        for event in happened:
            view.take(event)
        return view

    def take(self, event: events.ClientEvent) -> None:
        if isinstance(event, events.Shown):
            message, id = event.message, event.message.conversation_id
            if is_chatroom(id):
                return
            self.shown[id].append(message)
            self.texts[id][message.seq] = message.content
            if event.flow == Flow.IN and message.type != MessageType.NOTIFICATION and message.seq > self.ended[id]:
                self.counted[id].add(message.seq)
            if leaves(message, self.user):
                self._end(id, message.seq)
        elif isinstance(event, events.Acked):
            sent, id = self.sent.get(event.id_client), event.conversation_id
            wish = wish_to_send(self.user, sent or {"scene": "", "type": ""})
            if sent is None or wish.event in SILENT or comes_from_outside(wish, sent["to"]):
                return
            if wish.event in ("leave", "dismiss"):
                self._end(id, event.seq)
            if event.seq not in self.recalled[id]:
                self.texts[id].setdefault(event.seq, sent["content"])
        elif isinstance(event, events.Recalled | events.Edited) and is_chatroom(event.conversation_id):
            return
        elif isinstance(event, events.Recalled):
            id = event.conversation_id
            self.recalled[id].append(event.seq)
            self.texts[id].pop(event.seq, None)
            self.counted[id].discard(event.seq)
        elif isinstance(event, events.Edited):
            id = event.conversation_id
            self.edited[id].append((event.seq, event.content))
            if event.seq in self.texts[id]:
                self.texts[id][event.seq] = event.content
        elif isinstance(event, events.Skipped):
            id = event.conversation_id
            self.left_out[id] = event.seq
            for first, last in event.unread:
                self.counted[id].update(seq for seq in range(first, last + 1) if seq > self.ended[id])
        elif isinstance(event, events.Resolved):
            self.resolved.append((event.id, event.state))
        elif isinstance(event, events.Changed):
            self.changed[event.message.conversation_id].append(event.message.seq)

    def _end(self, id: str, seq: int) -> None:
        """Note the end of a stay: no earlier message counts as unread."""
        self.ended[id] = max(seq, self.ended[id])
        self.counted[id] = {one for one in self.counted[id] if one > self.ended[id]}

    def has(self, entry: Message) -> bool:
        """Return whether the view shows this entry of a log, in its present form, or has left it out."""
        id, file = entry.conversation_id, entry.file or {}
        if entry.seq <= self.left_out[id]:
            return True
        event = Wish("", "", entry.type, file).event
        data: Any = file.get("data")
        targets: Any = file.get("targets")
        if event == "recall":
            return data["seq"] in self.recalled[id]
        if event == "edit":
            return (data["seq"], data["content"]) in self.edited[id]
        if event == "resolve":
            return (targets[0], data["state"]) in self.resolved
        if event in SILENT:
            return entry.seq in self.changed[id]
        return entry.recalled or entry.seq in self.texts[id] or entry.seq in self.recalled[id]


def conversation_of(user: str, sent: Mapping[str, Any]) -> str:
    return conversation_id(sent["scene"], user, sent["to"])
