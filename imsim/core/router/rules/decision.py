"""The input and the output of the rules: a `Change`, and a `Decision` or a `RuleViolation`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from imsim.core.changes import event_of
from imsim.core.model import Code, HasBody, Message


class RuleViolation(Exception):
    """The rules do not allow a send. `code` and `text` become the rejection that the client receives."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Change:
    """A change that a user requests. `seq` is its position in the log; `time` is wall time in ms since 1970."""

    conversation_id: str
    seq: int
    time: int
    event: str
    operator: str
    targets: tuple[str, ...]
    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The id of the system messages that follow from the change."""
        return f"{self.conversation_id}:{self.seq}"


@dataclass(frozen=True, slots=True)
class Note:
    """A system message for `user`.

    If `resolves` is the id of an earlier system message of the user, the note reports the new state of that message.
    """

    user: str
    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    resolves: str = ""


@dataclass(slots=True)
class Decision:
    """Everything that follows from a change. All of it happens, or nothing.

    `state` is the new state of the conversation; None leaves it as it was.
    """

    state: dict[str, Any] | None = None
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    amended: Message | None = None


def check_member(conversation_id: str, user: str, members: Collection[str]) -> None:
    """Check that the user is a member. A conversation that does not exist has no members.

    Raises: RuleViolation, which does not show whether the conversation exists.
    """
    if user not in members:
        raise RuleViolation(
            Code.NOT_MEMBER, f"to: you are not a member of {conversation_id}, or there is no such conversation"
        )


def resolved(users: tuple[str, ...] | list[str], id: str, state: str) -> tuple[Note, ...]:
    """Return the notes that report a request's final state to each user who received the request."""
    return tuple(Note(user, "resolve", {"state": state}, resolves=id) for user in users)


def requested_change(message: HasBody, user: str, conversation_id: str, seq: int, time: int) -> Change | None:
    """Return the change that `user` requests with this message at `seq`, or None if the message requests none.

    Raises: RuleViolation if `operator` names another user. Clients rely on `operator` to show who made the change.
    """
    event = event_of(message)
    if not event:
        return None
    file = message.file or {}
    if file.get("operator") != user:
        raise RuleViolation(Code.BAD_REQUEST, "file.operator: expected your own user name")
    targets, data = file["targets"], file["data"]
    assert isinstance(targets, list)
    assert isinstance(data, dict)
    return Change(conversation_id, seq, time, event, user, tuple(targets), data)
