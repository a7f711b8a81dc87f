"""The rules between two users: who asks whom to be friends, and what becomes of it. The state is that of their
conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imsim.core.model import Code
from imsim.core.router.rules.decision import Change, Decision, Note, RuleViolation, resolved


def decide(state: dict[str, Any] | None, members: tuple[str, ...], change: Change, lifetime: int) -> Decision:
    """What becomes of a change between the two. `lifetime`: ms after which a request has no effect.

    Raises: RuleViolation.
    """
    rule = _RULES.get(change.event)
    if rule is None or len(members) != 2:
        raise RuleViolation(
            Code.BAD_REQUEST, f"file.event: {change.event!r} is none between two users; there are {', '.join(_RULES)}"
        )
    (other,) = (user for user in members if user != change.operator)
    return rule(state or {"friends": False, "request": None}, other, change, lifetime)


def _request(state: dict[str, Any], other: str, change: Change, lifetime: int) -> Decision:
    if state["friends"]:
        raise RuleViolation(Code.CONFLICT, "you are friends already")
    pending = state["request"]
    if pending is not None and pending["by"] == other and change.time < pending["expires"]:
        raise RuleViolation(Code.CONFLICT, "the other user has asked you: accept, or reject")
    expires = change.time + lifetime
    replaced: tuple[Note, ...] = ()
    if pending is not None:
        replaced = resolved([change.operator if pending["by"] == other else other], pending["id"], "expired")
    state = {**state, "request": {"by": change.operator, "id": change.id, "expires": expires}}
    return Decision(state, notes=(*replaced, Note(other, "friend_request", {"state": "init", "expires": expires})))


def _accept(state: dict[str, Any], other: str, change: Change, lifetime: int) -> Decision:
    pending = _pending(state, other, change)
    notes = (*resolved([change.operator], pending["id"], "passed"), Note(other, "friend_accepted"))
    return Decision({"friends": True, "request": None}, notes=notes)


def _reject(state: dict[str, Any], other: str, change: Change, lifetime: int) -> Decision:
    pending = _pending(state, other, change)
    notes = (*resolved([change.operator], pending["id"], "rejected"), Note(other, "friend_rejected"))
    return Decision({**state, "request": None}, notes=notes)


def _delete(state: dict[str, Any], other: str, change: Change, lifetime: int) -> Decision:
    if not state["friends"]:
        raise RuleViolation(Code.CONFLICT, "you are no friends")
    return Decision({**state, "friends": False}, notes=(Note(other, "friend_deleted"),))


def _pending(state: dict[str, Any], other: str, change: Change) -> dict[str, Any]:
    pending: dict[str, Any] | None = state["request"]
    if pending is None or pending["by"] != other:
        raise RuleViolation(Code.CONFLICT, "there is no request to answer, or another device of yours has answered it")
    if change.time >= pending["expires"]:
        raise RuleViolation(Code.EXPIRED, "it was asked too long ago")
    return pending


_RULES: dict[str, Callable[[dict[str, Any], str, Change, int], Decision]] = {
    "friend_request": _request,
    "friend_accept": _accept,
    "friend_reject": _reject,
    "friend_delete": _delete,
}

EVENTS = tuple(_RULES)
