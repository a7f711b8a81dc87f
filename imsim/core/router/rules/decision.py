"""What a sender asks to change, and what the rules decide: a `Decision`, or a `RuleViolation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imsim.core.changes import event_of
from imsim.core.model import Code, HasBody, Message


class RuleViolation(Exception):
    """The rules forbid it: with this code, for this reason."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Change:
    """A change that a user asks for, and its position in the log: `seq`, and `time`, wall time in ms since 1970."""

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
    """A system message for `user`; or, where `resolves` is the id of one that the user has, its new state."""

    user: str
    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    resolves: str = ""


@dataclass(slots=True)
class Decision:
    """What follows from a change, all of it or nothing. `state`: the conversation's from now on; None: as before."""

    state: dict[str, Any] | None = None
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    amended: Message | None = None


def resolved(users: tuple[str, ...] | list[str], id: str, state: str) -> tuple[Note, ...]:
    """The news that a request has its answer, for all who got the request."""
    return tuple(Note(user, "resolve", {"state": state}, resolves=id) for user in users)


def asked_for(message: HasBody, user: str, conversation_id: str, seq: int, time: int) -> Change | None:
    """The change that `user` wants who sends this, where it would stand at `seq`; None if it is none.

    Raises: RuleViolation, where it bears the name of somebody else: everybody takes `operator` for who did it."""
    event = event_of(message)
    if not event:
        return None
    file = message.file or {}
    if file.get("operator") != user:
        raise RuleViolation(Code.BAD_REQUEST, "file.operator: expected your own name")
    targets, data = file["targets"], file["data"]
    assert isinstance(targets, list)
    assert isinstance(data, dict)
    return Change(conversation_id, seq, time, event, user, tuple(targets), data)
