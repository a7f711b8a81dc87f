"""The rules of friend requests between two users. The state is that of their p2p conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imsim.core.model import Code
from imsim.core.router.rules.decision import Change, Decision, Note, RuleViolation, resolved


def decide(state: dict[str, Any] | None, members: tuple[str, ...], change: Change, lifetime: int) -> Decision:
    """Decide about a change between two users. A friend request expires after `lifetime` ms.

    Raises: RuleViolation.
    """
    rule = _RULES.get(change.event)
    if rule is None:
        raise RuleViolation(
            Code.BAD_REQUEST,
            f"file.event: expected one of {', '.join(_RULES)} between two users (got {change.event!r})",
        )
    if len(members) != 2:
        raise RuleViolation(Code.BAD_REQUEST, f"{change.event}: a user cannot {_WITH_ONESELF[change.event]} themselves")
    (other,) = (user for user in members if user != change.operator)
    return rule(state or {"friends": False, "request": None}, other, change, lifetime)


def _request(state: dict[str, Any], other: str, change: Change, lifetime: int) -> Decision:
    if state["friends"]:
        raise RuleViolation(Code.CONFLICT, "friend_request: you are already friends")
    pending = state["request"]
    if pending is not None and pending["by"] == other and change.time < pending["expires"]:
        raise RuleViolation(
            Code.CONFLICT,
            "friend_request: the other user has already sent you one; send friend_accept or friend_reject",
        )
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
        raise RuleViolation(Code.CONFLICT, "friend_delete: you are not friends")
    return Decision({**state, "friends": False}, notes=(Note(other, "friend_deleted"),))


def _pending(state: dict[str, Any], other: str, change: Change) -> dict[str, Any]:
    """Return the request that `other` sent and the operator can answer. Raises: RuleViolation."""
    pending: dict[str, Any] | None = state["request"]
    if pending is None or pending["by"] != other:
        raise RuleViolation(
            Code.CONFLICT,
            f"{change.event}: there is no friend request to answer; another device may have answered it",
        )
    if change.time >= pending["expires"]:
        raise RuleViolation(Code.EXPIRED, f"{change.event}: the friend request has expired")
    return pending


_RULES: dict[str, Callable[[dict[str, Any], str, Change, int], Decision]] = {
    "friend_request": _request,
    "friend_accept": _accept,
    "friend_reject": _reject,
    "friend_delete": _delete,
}

#: The error texts for a user who sends these events to themselves.
_WITH_ONESELF = {
    "friend_request": "send a friend request to",
    "friend_accept": "accept a friend request from",
    "friend_reject": "reject a friend request from",
    "friend_delete": "end a friendship with",
}

EVENTS = tuple(_RULES)
