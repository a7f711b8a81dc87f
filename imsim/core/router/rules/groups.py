"""The rules of groups: which member may make which change, and what follows from it.

The owner may make every change. An admin may make those that concern neither the owner nor another admin. A plain
member may make few. The setting `join` decides how a user becomes a member:

- "open": every user can join.
- "approval": a user applies, and the owner or an admin accepts.
- "invite": only the owner and admins can invite. With the other two settings, every member can invite.

The last setting also hides the group: a user who is neither a member nor invited gets the same answers as if the group
did not exist. With the other two settings, `join` or `apply` shows that it exists, but not how much is written in it.

With the setting `consent`, an invited user must accept first. So must a user whom `create` names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from imsim.core.exceptions import BadName
from imsim.core.model import Code, check_name
from imsim.core.router.rules.decision import Change, Decision, Note, RuleViolation, check_member, resolved

_JOIN = ("open", "approval", "invite")
_TITLE = 256  # characters


@dataclass(slots=True)
class Pending:
    """An application or an invitation that nobody has answered.

    `seq` is the position of the change that made the request. `notified` lists the users who received it.
    """

    kind: str  # apply | invite
    by: str
    seq: int
    expires: int  # wall time, ms since 1970
    notified: list[str]


@dataclass(slots=True)
class Group:
    """The state of a group, which the rules change."""

    owner: str = ""
    title: str = ""
    join: str = "invite"
    consent: bool = False
    admins: list[str] = field(default_factory=list)
    muted: list[str] = field(default_factory=list)  # includes users who left: they stay muted if they return
    muted_all: bool = False
    #: The fields of a `Pending`, by the user who may join. There may be thousands, and a rule reads one or two of them.
    #: So they keep the form that storage has.
    pending: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, state: dict[str, Any] | None, members: Collection[str]) -> Group:
        """Return the group with this state from storage. Without a state, the first member is the owner."""
        if state is None:
            return cls(owner=next(iter(members), ""))
        return cls(**{**state, "pending": dict(state["pending"])})

    def to_dict(self) -> dict[str, Any]:
        """Return the state for storage. It shares the lists and requests: the rules replace them, and change none."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def add_request(self, user: str, pending: Pending) -> None:
        self.pending[user] = asdict(pending)

    def request_of(self, user: str) -> Pending | None:
        pending = self.pending.get(user)
        return None if pending is None else Pending(**pending)

    def rank(self, user: str) -> int:
        """Return 2 for the owner, 1 for an admin and 0 for any other user."""
        return 2 if user == self.owner else int(user in self.admins)


def is_silenced(state: dict[str, Any] | None, user: str) -> bool:
    """Return whether this member is muted now."""
    if state is None or not (state["muted_all"] or user in state["muted"]):
        return False
    return user != state["owner"] and user not in state["admins"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a group, from the policies."""

    size: int  # members
    request_lifetime: int  # ms until an application or an invitation expires


def decide(state: dict[str, Any] | None, members: Collection[str], change: Change, limits: Limits) -> Decision:
    """Decide about a change in a group with these members. Raises: RuleViolation."""
    members = dict.fromkeys(members)  # keeps their order, and is searched fast in a large group
    rule = _RULES.get(change.event)
    if rule is None:
        raise RuleViolation(
            Code.BAD_REQUEST, f"file.event: expected one of {', '.join(_RULES)} in a group (got {change.event!r})"
        )
    group = Group.of(state, members) if members else Group()  # a group that is created again starts empty
    try:
        for target in change.targets:
            check_name("file.targets", target)
    except BadName as error:
        raise RuleViolation(Code.BAD_REQUEST, str(error)) from None
    requests = len(group.pending)
    decision = rule(group, members, change, limits)
    there = len(members) + len(decision.joined)
    if len(group.pending) > requests and there + len(group.pending) > limits.size:
        raise RuleViolation(Code.TOO_LARGE, f"{change.event}: {_at_most(limits)} members and open requests")
    left = frozenset(decision.left)
    group.admins = [admin for admin in group.admins if admin not in left]
    if decision.joined and there > limits.size:
        raise RuleViolation(Code.TOO_LARGE, f"{change.event}: {_at_most(limits)} members")
    decision.state = group.to_dict()
    return decision


# --- the rules: each changes `group`, and returns the users who join, leave or are notified ------------------------

_Rule = Callable[[Group, Collection[str], Change, Limits], Decision]


def _create(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    if members:
        raise RuleViolation(Code.CONFLICT, f"to: {change.conversation_id} already exists")
    group.owner = change.operator
    _set(group, change)
    others = tuple(user for user in dict.fromkeys(change.targets) if user != change.operator)
    if group.consent:
        return Decision(joined=(change.operator,), notes=_request_consent(group, change, others, limits))
    return Decision(joined=(change.operator, *others))


def _configure(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=1)
    if not _settings(group).keys() & change.data.keys():
        unknown = f" (got {', '.join(sorted(change.data))[:80]})" if change.data else ""
        raise RuleViolation(Code.BAD_REQUEST, f"file.data: expected title, join or consent{unknown}")
    _set(group, change)
    return Decision()


def _set(group: Group, change: Change) -> None:
    title, join, consent = (change.data.get(name, old) for name, old in _settings(group).items())
    if not isinstance(title, str) or len(title) > _TITLE:
        raise RuleViolation(Code.BAD_REQUEST, f"file.data.title: expected a string of at most {_TITLE} characters")
    if join not in _JOIN:
        raise RuleViolation(Code.BAD_REQUEST, f"file.data.join: expected one of {', '.join(_JOIN)}")
    if not isinstance(consent, bool):
        raise RuleViolation(Code.BAD_REQUEST, "file.data.consent: expected true or false")
    group.title, group.join, group.consent = title, join, consent


def _settings(group: Group) -> dict[str, object]:
    return {"title": group.title, "join": group.join, "consent": group.consent}


def _invite(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=1 if group.join == "invite" else 0)
    new = _targets(change, lambda user: user not in members, "all these users are already members")
    swept = _expire(group, change)
    joined = dict.fromkeys(user for user in new if not group.consent or _has(group, "apply", user))
    applied = tuple(note for user in joined for note in _answer(group, change, user, "passed"))
    invited = tuple(Note(user, "group_invite", _about(group)) for user in joined)
    asked = _request_consent(group, change, tuple(user for user in new if user not in joined), limits)
    return Decision(joined=tuple(joined), notes=swept + applied + invited + asked)


def _request_consent(group: Group, change: Change, users: tuple[str, ...], limits: Limits) -> tuple[Note, ...]:
    """Send each user an invitation that the user must accept to become a member."""
    expires = change.time + limits.request_lifetime
    notes: list[Note] = []
    for user in users:
        notes += _answer(group, change, user, "expired")
        group.add_request(user, Pending("invite", change.operator, change.seq, expires, [user]))
        notes.append(Note(user, "group_invite", {**_about(group), "state": "init", "expires": expires}))
    return tuple(notes)


def _apply(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    user = change.operator
    if user in members:
        raise RuleViolation(Code.CONFLICT, "apply: you are already a member of this group")
    _check_is_public(group, change)
    if group.join == "open":
        raise RuleViolation(Code.CONFLICT, "apply: this group is open; send join instead")
    expires, admins = change.time + limits.request_lifetime, [group.owner, *group.admins]
    swept = _expire(group, change)
    if _has(group, "invite", user):
        raise RuleViolation(Code.CONFLICT, "apply: you have an invitation to this group; send accept instead")
    replaced = (*swept, *_answer(group, change, user, "expired"))
    group.add_request(user, Pending("apply", user, change.seq, expires, admins))
    data = {**_about(group), "state": "init", "expires": expires}
    return Decision(notes=(*replaced, *(Note(admin, "group_apply", data) for admin in admins)))


def _join(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _check_is_public(group, change)
    if group.join != "open":
        raise RuleViolation(Code.FORBIDDEN, "join: this group is not open; send apply, or ask for an invitation")
    if change.operator in members:
        raise RuleViolation(Code.CONFLICT, "join: you are already a member of this group")
    return Decision(joined=(change.operator,), notes=_answer(group, change, change.operator, "passed"))


def _accept(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    user, pending = _answered(group, members, change)
    notified = user if pending.kind == "apply" else pending.by
    notes = (*_answer(group, change, user, "passed"), Note(notified, "group_accepted", _about(group)))
    return Decision(joined=(user,), notes=notes)


def _reject(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    user, pending = _answered(group, members, change)
    notified = user if pending.kind == "apply" else pending.by
    notes = (*_answer(group, change, user, "rejected"), Note(notified, "group_rejected", _about(group)))
    return Decision(notes=notes)


def _leave(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change)
    if change.operator == group.owner:
        raise RuleViolation(Code.FORBIDDEN, "leave: the owner cannot leave the group; send transfer or dismiss")
    return Decision(left=(change.operator,))


def _kick(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=1)
    gone = _targets(change, lambda user: user in members, _NO_MEMBER)
    _outrank(group, change, gone)
    return Decision(left=gone, notes=tuple(Note(user, "group_kicked", _about(group)) for user in gone))


def _dismiss(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=2)
    users = tuple(members)
    ended = tuple(note for user in list(group.pending) for note in _answer(group, change, user, "expired"))
    notes = tuple(Note(user, "group_dismissed", _about(group)) for user in users if user != change.operator)
    return Decision(left=users, notes=ended + notes)


def _transfer(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=2)
    (heir,) = _other_members(group, members, change, "transfer a group to themselves", most=1)
    group.admins = [admin for admin in group.admins if admin != heir]
    group.owner = heir
    return Decision()


def _role(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=2)
    role = change.data.get("role")
    if role not in ("admin", "member"):
        raise RuleViolation(Code.BAD_REQUEST, "file.data.role: expected admin or member")
    users = _other_members(group, members, change, "change their own role")
    group.admins = [admin for admin in group.admins if admin not in users]
    if role == "admin":
        group.admins += users
    return Decision()


def _mute(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=1)
    muted = change.event == "mute"
    if not change.targets:
        group.muted_all = muted
        return Decision()
    known = members if muted else {*members, *group.muted}  # a user who left can be unmuted, too
    users = _targets(change, known.__contains__, _NO_MEMBER)
    _outrank(group, change, users)
    named = frozenset(users)
    group.muted = [user for user in group.muted if user not in named] + (list(users) if muted else [])
    if muted and len(group.muted) > limits.size:
        raise RuleViolation(Code.TOO_LARGE, f"file.targets: {_at_most(limits)} muted users (former members count)")
    return Decision()


_RULES: dict[str, _Rule] = {
    "create": _create,
    "configure": _configure,
    "invite": _invite,
    "apply": _apply,
    "join": _join,
    "accept": _accept,
    "reject": _reject,
    "leave": _leave,
    "kick": _kick,
    "dismiss": _dismiss,
    "transfer": _transfer,
    "role": _role,
    "mute": _mute,
    "unmute": _mute,
}

EVENTS = tuple(_RULES)

# --- shared helpers --------------------------------------------------------------------------------------------------

_NO_MEMBER = "none of these users is a member of this group"


def _at_most(limits: Limits) -> str:
    return f"a group can have at most {limits.size}"


def _about(group: Group) -> dict[str, Any]:
    return {"title": group.title}


def _check_is_public(group: Group, change: Change) -> None:
    """Check that a user can become a member without an invitation. A group that does not exist has no such setting."""
    if group.join == "invite":
        raise RuleViolation(
            Code.FORBIDDEN, f"{change.event}: no such group accepts you without an invitation by its owner or an admin"
        )


def _need(group: Group, members: Collection[str], change: Change, rank: int = 0) -> None:
    """Check that the operator is a member with at least this rank."""
    check_member(change.conversation_id, change.operator, members)
    if group.rank(change.operator) < rank:
        who = "the owner" if rank == 2 else "the owner or an admin"
        raise RuleViolation(Code.FORBIDDEN, f"file.event: only {who} may send {change.event}")


def _outrank(group: Group, change: Change, users: tuple[str, ...]) -> None:
    """Check that the operator has a higher rank than each of these users."""
    if any(group.rank(user) >= group.rank(change.operator) for user in users):
        if change.operator in users:
            raise RuleViolation(Code.FORBIDDEN, f"{change.event}: a user cannot {change.event} themselves")
        raise RuleViolation(
            Code.FORBIDDEN, f"{change.event}: an admin cannot {change.event} the owner or another admin"
        )


def _targets(change: Change, fits: Callable[[str], bool], otherwise: str, most: int = 1 << 30) -> tuple[str, ...]:
    """Return the targets that fit, each once. `otherwise` is the error text if none fits."""
    if not change.targets:
        raise RuleViolation(Code.BAD_REQUEST, "file.targets: expected at least one user")
    users = tuple(user for user in dict.fromkeys(change.targets) if fits(user))
    if not users:
        raise RuleViolation(Code.CONFLICT, f"file.targets: {otherwise}")
    if len(users) > most:
        raise RuleViolation(Code.BAD_REQUEST, f"file.targets: expected at most {most} (got {len(users)})")
    return users


def _other_members(
    group: Group, members: Collection[str], change: Change, with_oneself: str, most: int = 1 << 30
) -> tuple[str, ...]:
    """Return the targets that are members, except the owner. `with_oneself` names what an owner cannot do."""
    otherwise = _NO_MEMBER
    if group.owner in change.targets:
        otherwise = f"an owner cannot {with_oneself}"
    return _targets(change, lambda user: user in members and user != group.owner, otherwise, most)


def _answered(group: Group, members: Collection[str], change: Change) -> tuple[str, Pending]:
    """Return the request that the operator answers, and its user.

    Without targets it is the operator's own invitation. With one target it is the application of that user.
    """
    if change.targets:
        if change.targets == (change.operator,) and change.operator not in members:
            raise RuleViolation(
                Code.NOT_MEMBER,
                f"file.targets: to {change.event} your own invitation, send no targets",
            )
        _need(group, members, change, rank=1)
        (user,) = _targets(change, lambda user: True, "", most=1)
        kind = "apply"
    else:
        user, kind = change.operator, "invite"
    pending = group.request_of(user)
    if pending is None or pending.kind != kind:
        name = "application of this user" if change.targets else "invitation for you"
        raise RuleViolation(Code.CONFLICT, f"{change.event}: there is no {name}; it may have been answered already")
    if change.time >= pending.expires:
        name = "application" if change.targets else "invitation"
        raise RuleViolation(Code.EXPIRED, f"{change.event}: the {name} has expired")
    return user, pending


def _has(group: Group, kind: str, user: str) -> bool:
    """Return whether the user has an open request of this kind."""
    pending = group.pending.get(user)
    return pending is not None and pending["kind"] == kind


def _expire(group: Group, change: Change) -> tuple[Note, ...]:
    """Remove the expired requests, which makes room for new ones. Returns the notes that report it."""
    over = [user for user, pending in group.pending.items() if change.time >= pending["expires"]]
    return tuple(note for user in over for note in _answer(group, change, user, "expired"))


def _answer(group: Group, change: Change, user: str, state: str) -> tuple[Note, ...]:
    """Remove the user's request, if there is one. Returns the notes for the users who received it."""
    pending = group.request_of(user)
    group.pending.pop(user, None)
    return resolved(pending.notified, f"{change.conversation_id}:{pending.seq}", state) if pending else ()
