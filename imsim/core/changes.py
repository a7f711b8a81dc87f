"""Changes: what a `notification` in a conversation's log does, beside standing there.

Whoever wants a change sends a message of type notification whose attachment says which: {event, operator, targets,
data}. So a change has its place in the log, its idClient, its answer and its way to every device like any message. What
is allowed, and what follows, is decided by the writer with the rules of `groups`, `friends` and `amendments`: each a
function from the state as it is to a `Decision`, or to a `Refused`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from imsim.core.model import Code, HasBody, Message, MessageType, Scene

#: Events that stand in the log for the sake of the machines only: no device shows them as a message.
SILENT = frozenset(
    {
        "recall", "edit", "settle", "apply", "reject",
        "friend_request", "friend_accept", "friend_reject", "friend_delete",
    }
)  # fmt: skip


_SYSTEM, _NOTIFICATION = Scene.SYSTEM, MessageType.NOTIFICATION  # asked for with every message


class Refused(Exception):
    """The rules forbid it: with this code, for this reason."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Change:
    """Who wants what, and where it would stand: `seq`, and `time` in wall time, ms since 1970."""

    conversation_id: str
    seq: int
    time: int
    event: str
    operator: str
    targets: tuple[str, ...]
    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Of the system messages that it gives rise to."""
        return f"{self.conversation_id}:{self.seq}"


@dataclass(frozen=True, slots=True)
class Note:
    """A system message for `user`; or, where `settles` is the id of one that the user has, its new state."""

    user: str
    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    settles: str = ""


@dataclass(slots=True)
class Decision:
    """What follows from a change, all of it or nothing. `state`: the conversation's from now on; None: as before."""

    state: dict[str, Any] | None = None
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    amended: Message | None = None


def settled(users: tuple[str, ...] | list[str], id: str, state: str) -> tuple[Note, ...]:
    """The news that a request has its answer, for all who got the request."""
    return tuple(Note(user, "settle", {"state": state}, settles=id) for user in users)


class HasPlace(HasBody, Protocol):
    """A body, and the kind of conversation that it is for."""

    scene: Scene


def asked_for(message: HasBody, user: str, conversation_id: str, seq: int, time: int) -> Change | None:
    """The change that `user` wants who sends this, where it would stand at `seq`; None if it is none.

    Raises: Refused, where it bears the name of somebody else: everybody takes `operator` for who did it."""
    event = event_of(message)
    if not event:
        return None
    file = message.file or {}
    if file.get("operator") != user:
        raise Refused(Code.BAD_REQUEST, "file.operator: expected your own name")
    targets, data = file["targets"], file["data"]
    assert isinstance(targets, list)
    assert isinstance(data, dict)
    return Change(conversation_id, seq, time, event, user, tuple(targets), data)


def event_of(message: HasBody) -> str:
    """The event of a notification; "" for any other message, and for a notice that is only text."""
    if message.type != _NOTIFICATION or message.file is None:
        return ""
    return str(message.file.get("event", ""))


def is_from_outside(message: HasPlace) -> bool:
    """Whether its sender may not see the log that it goes to: an application, the refusal of an invitation, or what is
    said to another user by the service's voice."""
    if message.scene == _SYSTEM:
        return True
    event = event_of(message)
    return event == "apply" or (event == "reject" and message.scene == Scene.GROUP and not _targets(message))


def _targets(message: HasBody) -> object:
    return message.file["targets"] if message.file else None


def is_visible(message: Message) -> bool:
    """Whether devices show it, and conversation lists may have it as their last message."""
    return not message.recalled and event_of(message) not in SILENT
