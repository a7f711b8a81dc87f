"""Situations of groups, friends and amendments."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from imsim.core import events, frames, storage
from imsim.core.model import Code, Message, Scene, is_chatroom
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import ClientSent, Event, Stored
from imsim.faultsearch.situations.situation import Situations, situation

_STORED = (Stored, storage.Append)
_ANSWERS = ("accept", "reject", "friend_accept", "friend_reject")

Appended = Stored[storage.Append]
Failed = Event[events.SendFailed]


class Changes(Situations):
    """As storage takes them in, unless they say otherwise."""

    def begin(self) -> None:
        self.left: dict[str, set[str]] = defaultdict(set)  # by group, users who are no longer members

    @situation("a custom system message was stored", *_STORED)
    def news(self, entry: Appended) -> bool:
        return isinstance(entry.result, storage.Appended) and entry.request.message.scene == Scene.SYSTEM

    @situation("a user joined a group that was there", *_STORED)
    def member_came(self, entry: Appended) -> bool:
        return bool(_joined(entry)) and _event(entry) != "create"

    @situation("a user joined who had left", *_STORED)
    def member_came_back(self, entry: Appended) -> bool:
        left = self.left[entry.request.message.conversation_id]
        return bool(left & _joined(entry)) and _event(entry) != "create"

    @situation("a member left, or was put out", *_STORED)
    def member_left(self, entry: Appended) -> bool:
        return _event(entry) in ("leave", "kick")

    @situation("the owner of a group ended it", *_STORED)
    def group_dismissed(self, entry: Appended) -> bool:
        return _event(entry) == "dismiss"

    @situation("a group was made again after it was dismissed", *_STORED)
    def group_made_again(self, entry: Appended) -> bool:
        return _event(entry) == "create" and bool(self.left[entry.request.message.conversation_id])

    @situation("a group was transferred", *_STORED)
    def owner_changed(self, entry: Appended) -> bool:
        return _event(entry) == "transfer"

    @situation("two users became friends", *_STORED)
    def friends(self, entry: Appended) -> bool:
        return _event(entry) == "friend_accept"

    @situation("a friendship ended", *_STORED)
    def friends_no_more(self, entry: Appended) -> bool:
        return _event(entry) == "friend_delete"

    @situation("the admins of a group were asked", *_STORED)
    def application(self, entry: Appended) -> int:
        return sum(_state(note) == "init" and note.type == "group_apply" for note in _notes(entry))

    @situation("a user was asked to join", *_STORED)
    def invitation_to_be_accepted(self, entry: Appended) -> int:
        return sum(_state(note) == "init" and note.type == "group_invite" for note in _notes(entry))

    @situation("a request was accepted, and all who had it were notified", *_STORED)
    def answer_passed(self, entry: Appended) -> int:
        return sum(_state(note) == "passed" for note in _notes(entry))

    @situation("a request was rejected", *_STORED)
    def answer_rejected(self, entry: Appended) -> int:
        return sum(_state(note) == "rejected" for note in _notes(entry))

    @situation("a request came to nothing in another way", *_STORED)
    def request_expired(self, entry: Appended) -> int:
        return sum(_state(note) == "expired" for note in _notes(entry))

    @situation("a second answer to a request was refused", Event, events.SendFailed)
    def answered_before(self, entry: Failed) -> bool:
        return entry.event.code == Code.CONFLICT and self._wanted(entry) in _ANSWERS

    @situation("a recall was refused because its user has left", Event, events.SendFailed)
    def recall_from_outside(self, entry: Failed) -> bool:
        return self._wanted(entry) == "recall" and entry.event.code == Code.NOT_MEMBER

    @situation("an edit was refused because its user is muted or blocked by now, or has left", Event, events.SendFailed)
    def edit_refused(self, entry: Failed) -> bool:
        return self._wanted(entry) == "edit" and entry.event.code in (Code.MUTED, Code.BLOCKED, Code.NOT_MEMBER)

    def _wanted(self, entry: Failed) -> Any:
        """The event of the change that failed."""
        return (self.memory.sent[entry.node][entry.event.id_client].get("file") or {}).get("event")

    @on(*_STORED)
    def changed(self, entry: Appended) -> None:
        if (effects := _effects(entry)) is not None:
            self.left[entry.request.message.conversation_id].update(effects.left)


class Amendments(Situations):
    def begin(self) -> None:
        self.last: events.Recalled | None = None

    @situation("a recall of a message of another user was stored", *_STORED)
    def recalled_by_an_admin(self, entry: Appended) -> bool:
        effects = _effects(entry)
        amended = effects.amended if effects is not None else None
        is_other = amended is not None and amended.sender != entry.request.message.sender
        return _event(entry) == "recall" and is_other

    @situation("a device recalled a message", Event, events.Recalled)
    def recalled(self, entry: Event[events.Recalled]) -> bool:
        return not is_chatroom(entry.event.conversation_id)

    @situation("a device edited a message", Event, events.Edited)
    def edited(self, entry: Event[events.Edited]) -> bool:
        return not is_chatroom(entry.event.conversation_id)

    @situation("a device looked for the message before the last one, which was recalled", ClientSent, frames.History)
    def last_message_recalled(self, entry: ClientSent[frames.History]) -> bool:
        last, frame = self.last, entry.frame
        return last is not None and (frame.conversation_id, frame.last) == (last.conversation_id, last.seq - 1)

    @on(Event, events.Recalled)
    def remember(self, entry: Event[events.Recalled]) -> None:
        if not is_chatroom(entry.event.conversation_id):
            self.last = entry.event


def _effects(entry: Appended) -> storage.Effects | None:
    """Of a change that was stored."""
    return entry.request.effects if isinstance(entry.result, storage.Appended) else None


def _event(entry: Appended) -> object:
    return (entry.request.message.file or {}).get("event") if _effects(entry) is not None else None


def _joined(entry: Appended) -> set[str]:
    effects = _effects(entry)
    return set(effects.joined) if effects is not None else set()


def _notes(entry: Appended) -> tuple[Message, ...]:
    effects = _effects(entry)
    return tuple(effects.notes) if effects is not None else ()


def _state(note: Message) -> object:
    """The state of a request that a system message says."""
    file: dict[str, Any] = note.file or {}
    data = file.get("data")
    return data["state"] if isinstance(data, dict) else file.get("state")
