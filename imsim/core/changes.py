"""Changes: the effects of a `notification` in a conversation's log.

A client requests a change with a message of type notification. Its attachment names the change: {event, operator,
targets, data}. So a change has a position in the log, an idClient, an answer, and reaches every device, like any
message. The router's rules decide whether a change is allowed (`router.rules`). This module defines the effects of a
change in the log on its readers: clients, storage and the users' unread counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from imsim.core.model import HasBody, Message, MessageType, Scene

#: Events that change an earlier entry of the log.
AMENDMENTS = ("recall", "edit")

#: Events that only the machines use: no device shows them as a message.
SILENT = frozenset(
    {
        "recall", "edit", "resolve", "apply", "reject",
        "friend_request", "friend_accept", "friend_reject", "friend_delete",
    }
)  # fmt: skip


_SYSTEM, _NOTIFICATION = Scene.SYSTEM, MessageType.NOTIFICATION  # faster than an attribute of the enumeration


class HasScene(HasBody, Protocol):
    """A body and the conversation that it is for."""

    scene: Scene
    to: str


def event_of(message: HasBody) -> str:
    """Return the event of a notification, or "" for any other message and for a notification without attachment."""
    if message.type != _NOTIFICATION or message.file is None:
        return ""
    return str(message.file.get("event", ""))


def is_from_outside(message: HasScene, sender: str) -> bool:
    """Return whether the sender may not see the log that the message goes to.

    This is so for an application to a group, for the refusal of an invitation, and for a system message to another
    user. It depends on the message alone, so a repeated send gets the same answer at any time.
    """
    if message.scene == _SYSTEM:
        return message.to != sender
    if message.type != _NOTIFICATION:
        return False
    event = event_of(message)
    return event == "apply" or (event == "reject" and message.scene == Scene.GROUP and not _targets(message))


def _targets(message: HasBody) -> object:
    return message.file["targets"] if message.file else None


def is_visible(message: Message) -> bool:
    """Return whether devices show the message, and conversation lists may have it as their last message."""
    return not message.recalled and (message.type != _NOTIFICATION or event_of(message) not in SILENT)


# --- recalls and edits ---


def recalled_seq(entry: Message) -> int | None:
    """Return the seq of the message that this entry of the log recalls, or None if it recalls nothing."""
    if entry.type != _NOTIFICATION or event_of(entry) != "recall" or entry.file is None:
        return None
    data = entry.file["data"]
    return data["seq"] if isinstance(data, dict) else None


def edits(entry: Message, seq: int) -> bool:
    """Return whether this entry of the log edits the message at `seq`."""
    data = entry.file["data"] if event_of(entry) == "edit" and entry.file else None
    return isinstance(data, dict) and data["seq"] == seq


def concerning(entries: Iterable[Message], stays: Sequence[Sequence[int]]) -> list[Message]:
    """Return the entries that recall or edit a message within one of these stays (first and last seq)."""
    found = []
    for entry in entries:
        data = entry.file["data"] if event_of(entry) in AMENDMENTS and entry.file else None
        if isinstance(data, dict) and any(first <= data["seq"] <= last for first, last in stays):
            found.append(entry)
    return found


def amended(message: Message, entry: Message) -> Message:
    """Return the message as it is after this entry of the log, which recalls or edits it."""
    data = entry.file["data"] if entry.file else None
    if event_of(entry) == "edit" and isinstance(data, dict):
        return edited(message, data["content"], entry.seq)
    return recalled(message, entry.seq)


def recalled(message: Message, seq: int) -> Message:
    """Return the message as it is after the recall at `seq`: without its content."""
    return replace(message, content="", file=None, custom=None, recalled=True, amended=seq)


def edited(message: Message, content: str, seq: int) -> Message:
    """Return the message with the content that the edit at `seq` gave it."""
    return replace(message, content=content, amended=seq)


# --- friends and members ---


_FRIENDS_AFTER = {"friend_accept": True, "friend_delete": False}


def are_friends(state: dict[str, Any] | None) -> bool:
    """Return whether the two users of a p2p conversation are friends, from the state of its log."""
    return state is not None and bool(state["friends"])


def friends_after(entry: Message, before: bool) -> bool:
    """Return whether two users are friends after this entry of their log; `before`: whether they were before it."""
    return before if entry.type != _NOTIFICATION else _FRIENDS_AFTER.get(event_of(entry), before)


def is_left_with(entry: Message, user: str) -> bool:
    """Return whether this entry of the log ends the membership of the user, who sees the entry."""
    if entry.type != _NOTIFICATION:
        return False
    event = event_of(entry)
    if event == "leave":
        return entry.sender == user
    if event == "kick" and entry.file is not None:
        targets = entry.file["targets"]
        return isinstance(targets, list) and user in targets
    return event == "dismiss"
