"""Situations of groups, friends, amendments and chatrooms."""

from __future__ import annotations

from typing import Any

from imsim.core import events, frames, storage
from imsim.core.model import Code, Message, Scene, is_chatroom
from imsim.faultsearch.entries import ClientSent, Event, Said, Shed, Stored
from imsim.faultsearch.situations.memory import Memory
from imsim.faultsearch.situations.situation import Situation, occurs, when

Appended = Stored[storage.Append]
Failed = Event[events.SendFailed]
RequestFailed = Event[events.RequestFailed]
Entered = Event[events.Entered]
Shown = Event[events.Shown]
Recalled = Event[events.Recalled]
Edited = Event[events.Edited]
_ANSWERS = ("accept", "reject", "friend_accept", "friend_reject")
_NOTHING = storage.Effects()


def _effects(entry: Appended) -> storage.Effects:
    """Return the effects of a change that was stored."""
    return entry.request.effects or _NOTHING if isinstance(entry.result, storage.Appended) else _NOTHING


def _event(entry: Appended) -> object:
    return (entry.request.message.file or {}).get("event") if _effects(entry) is not _NOTHING else None


def _left_before(entry: Appended, past: Memory) -> set[str]:
    return past.left[entry.request.message.conversation_id]


def _state(note: Message) -> object:
    """Return the state of a request that a system message reports."""
    file: dict[str, Any] = note.file or {}
    data = file.get("data")
    return data["state"] if isinstance(data, dict) else file.get("state")


def _notes(name: str, state: str, description: str, kind: str = "") -> Situation:
    """Make a situation that counts system messages with this state of a request, as effects of a change."""

    def count(entry: Appended, past: Memory) -> int:
        return sum(_state(note) == state and note.type == (kind or note.type) for note in _effects(entry).notes)

    return when(name, Appended, description, count)


def _is_stored(name: str, event: str, description: str) -> Situation:
    return when(name, Appended, description, lambda entry, past: _event(entry) == event)


def _wanted(entry: Failed, past: Memory) -> Any:
    """Return the event of the change that failed."""
    return (past.sent[entry.node][entry.event.id_client].get("file") or {}).get("event")


def _is_of_another(entry: Appended, past: Memory) -> bool:
    amended = _effects(entry).amended
    return _event(entry) == "recall" and amended is not None and amended.sender != entry.request.message.sender


def _requests_the_one_before(entry: ClientSent[frames.History], past: Memory) -> bool:
    last, frame = past.recalled, entry.frame
    return last is not None and (frame.conversation_id, frame.last) == (last.conversation_id, last.seq - 1)


def _is_of_a_room(entry: Shown) -> bool:
    return is_chatroom(entry.event.message.conversation_id)


SITUATIONS = (
    # --- stored changes of groups and friends ---
    when("custom system message", Appended, "a custom system message was stored",
         lambda entry, past: isinstance(entry.result, storage.Appended)
         and entry.request.message.scene == Scene.SYSTEM),
    when("member joined", Appended, "a user joined an existing group",
         lambda entry, past: bool(_effects(entry).joined) and _event(entry) != "create"),
    when("member rejoined", Appended, "a user joined again after leaving",
         lambda entry, past: _event(entry) != "create"
         and not _left_before(entry, past).isdisjoint(_effects(entry).joined)),
    when("member left", Appended, "a member left, or was removed",
         lambda entry, past: _event(entry) in ("leave", "kick")),
    _is_stored("group dismissed", "dismiss", "the owner of a group ended it"),
    when("group created again", Appended, "a group was created again after it was dismissed",
         lambda entry, past: _event(entry) == "create" and bool(_left_before(entry, past))),
    _is_stored("owner changed", "transfer", "a group was transferred"),
    _is_stored("friends", "friend_accept", "two users became friends"),
    _is_stored("friendship ended", "friend_delete", "a friendship ended"),
    _notes("application", "init", "the admins of a group received an application", "group_apply"),
    _notes("invitation to be accepted", "init", "a user received an invitation to accept", "group_invite"),
    _notes("request accepted", "passed", "a request was accepted, and all who had received it were notified"),
    _notes("request rejected", "rejected", "a request was rejected"),
    _notes("request expired", "expired", "a request expired, or another change replaced it"),
    when("answered before", Failed, "a second answer to a request was refused",
         lambda entry, past: entry.event.code == Code.CONFLICT and _wanted(entry, past) in _ANSWERS),
    # --- amendments ---
    when("recall by former member", Failed, "a recall was refused because its user has left the group",
         lambda entry, past: _wanted(entry, past) == "recall" and entry.event.code == Code.NOT_MEMBER),
    when("edit refused", Failed, "an edit was refused because its user is now muted or blocked, or has left",
         lambda entry, past: _wanted(entry, past) == "edit"
         and entry.event.code in (Code.MUTED, Code.BLOCKED, Code.NOT_MEMBER)),
    when("recalled by an admin", Appended, "a recall of another user's message was stored", _is_of_another),
    when("recalled", Recalled, "a device recalled a message",
         lambda entry, past: not is_chatroom(entry.event.conversation_id)),
    when("edited", Edited, "a device edited a message",
         lambda entry, past: not is_chatroom(entry.event.conversation_id)),
    when("last message recalled", ClientSent[frames.History],
         "a device requested the message before the last one, which was recalled", _requests_the_one_before),
    # --- chatrooms ---
    occurs("room entered", Entered, "a device entered a chatroom"),
    occurs("room shed", Shed, "a device was not sent a chatroom message, because of its rate limit"),
    when("room full", RequestFailed, "an `enter` was refused because the room is full",
         lambda entry, past: (entry.event.request, entry.event.code) == (frames.Enter.op, Code.TOO_LARGE)),
    when("room entered again", Entered, "a device entered a chatroom again, by itself, after a new login",
         lambda entry, past: (entry.node, entry.event.name) in past.entered),
    when("room entered after leaving", Entered, "a device entered a chatroom again that it had left",
         lambda entry, past: (entry.node, entry.event.name) in past.gone),
    when("room message shown", Shown, "a device showed a chatroom message",
         lambda entry, past: _is_of_a_room(entry)),
    when("recent room messages shown", Shown, "a device showed messages sent before it entered the chatroom",
         lambda entry, past: _is_of_a_room(entry) and past.has_got(entry.node, frames.Entered)),
    when("send from outside a room", Failed, "a send into a chatroom that the device is not in was refused",
         lambda entry, past: entry.event.code == Code.NOT_MEMBER
         and past.sent[entry.node][entry.event.id_client]["scene"] == Scene.CHATROOM),
    when("room message recalled", Recalled, "a device was notified that a chatroom message was recalled",
         lambda entry, past: is_chatroom(entry.event.conversation_id)),
    when("room message edited", Edited, "a device was notified that a chatroom message was edited",
         lambda entry, past: is_chatroom(entry.event.conversation_id)),
    when("room restarted with lower seqs", Said, "a chatroom that was lost started again with lower seqs",
         lambda entry, past: entry.message.seq < past.said.get(entry.message.to, 0)),
)  # fmt: skip
