"""Changes: what a `notification` in a conversation's log does, besides standing there.

A client that wants a change sends a message of type notification whose attachment says which: {event, operator,
targets, data}. So a change has its position in the log, its idClient, its answer and its way to every device like any
message. The router's rules decide whether it is allowed (`router.rules`); this module says what a change that stands in
the log means to its readers: clients, storage and the users' unread counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from imsim.core.model import HasBody, Message, MessageType, Scene

#: Events that change what an earlier entry of the log says.
AMENDMENTS = ("recall", "edit")

#: Events that stand in the log for the sake of the machines only: no device shows them as a message.
SILENT = frozenset(
    {
        "recall", "edit", "resolve", "apply", "reject",
        "friend_request", "friend_accept", "friend_reject", "friend_delete",
    }
)  # fmt: skip


_SYSTEM, _NOTIFICATION = Scene.SYSTEM, MessageType.NOTIFICATION  # asked for with every message


class HasScene(HasBody, Protocol):
    """A body, and the kind of conversation that it is for."""

    scene: Scene


def event_of(message: HasBody) -> str:
    """The event of a notification; "" for any other message, and for a notice that is only text."""
    if message.type != _NOTIFICATION or message.file is None:
        return ""
    return str(message.file.get("event", ""))


def is_from_outside(message: HasScene) -> bool:
    """Whether its sender may not see the log that it goes to: an application, the refusal of an invitation, or what is
    said to another user by the service's voice."""
    if message.scene == _SYSTEM:
        return True
    if message.type != _NOTIFICATION:
        return False
    event = event_of(message)
    return event == "apply" or (event == "reject" and message.scene == Scene.GROUP and not _targets(message))


def _targets(message: HasBody) -> object:
    return message.file["targets"] if message.file else None


def is_visible(message: Message) -> bool:
    """Whether devices show it, and conversation lists may have it as their last message."""
    return not message.recalled and (message.type != _NOTIFICATION or event_of(message) not in SILENT)


# --- recalls and edits ---


def recalled_seq(entry: Message) -> int | None:
    """The seq of the message that this entry of the log recalls; None for any other."""
    if event_of(entry) != "recall" or entry.file is None:
        return None
    data = entry.file["data"]
    return data["seq"] if isinstance(data, dict) else None


def edits(entry: Message, seq: int) -> bool:
    """Whether this entry of the log edits the message at `seq`."""
    data = entry.file["data"] if event_of(entry) == "edit" and entry.file else None
    return isinstance(data, dict) and data["seq"] == seq


def concerning(entries: Iterable[Message], stays: Sequence[Sequence[int]]) -> list[Message]:
    """Those of the entries that recall or edit what was said in one of these stays (first and last seq)."""
    found = []
    for entry in entries:
        data = entry.file["data"] if event_of(entry) in AMENDMENTS and entry.file else None
        if isinstance(data, dict) and any(first <= data["seq"] <= last for first, last in stays):
            found.append(entry)
    return found


def amended(message: Message, entry: Message) -> Message:
    """As it is after this entry of the log, which recalls or edits it."""
    data = entry.file["data"] if entry.file else None
    if event_of(entry) == "edit" and isinstance(data, dict):
        return edited(message, data["content"], entry.seq)
    return recalled(message, entry.seq)


def recalled(message: Message, seq: int) -> Message:
    return replace(message, content="", file=None, custom=None, recalled=True, amended=seq)


def edited(message: Message, content: str, seq: int) -> Message:
    return replace(message, content=content, amended=seq)


# --- friends and members ---


_FRIENDS_AFTER = {"friend_accept": True, "friend_delete": False}


def are_friends(state: dict[str, Any] | None) -> bool:
    return state is not None and bool(state["friends"])


def friends_after(entry: Message, before: bool) -> bool:
    """Whether they are friends after this entry of their log."""
    return _FRIENDS_AFTER.get(event_of(entry), before)


def is_left_with(entry: Message, user: str) -> bool:
    """Whether the user, who sees this entry of the log, is a member no more from there on."""
    event = event_of(entry)
    if event == "leave":
        return entry.sender == user
    if event == "kick" and entry.file is not None:
        targets = entry.file["targets"]
        return isinstance(targets, list) and user in targets
    return event == "dismiss"
