"""The rules of groups: who may change what, and what follows.

The owner may do everything, admins all but what concerns the owner and other admins, members little. A group's `join`
says how one gets in: "open" (whoever likes), "approval" (whoever applies and is accepted by an admin), "invite" (only
whom an admin invites; with the other two every member may invite). With `consent`, who is invited must accept, also
who is named when the group is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from imsim.core.exceptions import BadName
from imsim.core.model import Code, check_name
from imsim.core.router.rules.decision import Change, Decision, Note, RuleViolation, resolved

_JOIN = ("open", "approval", "invite")
_TITLE = 256  # characters


@dataclass(slots=True)
class Pending:
    """An application, or an invitation, without an answer. `seq`: of the change that it was; `notified`: who heard."""

    kind: str  # apply | invite
    by: str
    seq: int
    expires: int  # wall time, ms since 1970
    notified: list[str]


@dataclass(slots=True)
class Group:
    owner: str = ""
    title: str = ""
    join: str = "invite"
    consent: bool = False
    admins: list[str] = field(default_factory=list)
    muted: list[str] = field(default_factory=list)  # also who has left, and would come back to speak
    muted_all: bool = False
    #: By who wants, or is wanted, to join: the fields of a `Pending`. A rule looks at one or two of what may be
    #: thousands, so they are kept as they stand in storage.
    pending: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, state: dict[str, Any] | None, members: Collection[str]) -> Group:
        """As it stands in storage. One that was founded with its members and nothing else belongs to the first."""
        if state is None:
            return cls(owner=next(iter(members), ""))
        return cls(**{**state, "pending": dict(state["pending"])})

    def to_dict(self) -> dict[str, Any]:
        """Shares its lists, and each pending request: the rules put others in their place, and change none."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def ask(self, user: str, pending: Pending) -> None:
        self.pending[user] = asdict(pending)

    def asked(self, user: str) -> Pending | None:
        pending = self.pending.get(user)
        return None if pending is None else Pending(**pending)

    def rank(self, user: str) -> int:
        """2: owner, 1: admin, 0: anybody else."""
        return 2 if user == self.owner else int(user in self.admins)


def is_silenced(state: dict[str, Any] | None, user: str) -> bool:
    """Whether this member may not send at present."""
    if state is None or not (state["muted_all"] or user in state["muted"]):
        return False
    return user != state["owner"] and user not in state["admins"]


@dataclass(frozen=True, slots=True)
class Limits:
    size: int  # members
    request_lifetime: int  # ms after which an application or an invitation has no effect any more


def decide(state: dict[str, Any] | None, members: Collection[str], change: Change, limits: Limits) -> Decision:
    """What becomes of a change in a group with these members. Raises: RuleViolation."""
    members = dict.fromkeys(members)  # in their order; of thousands thousands may be looked up
    rule = _RULES.get(change.event)
    if rule is None:
        raise RuleViolation(
            Code.BAD_REQUEST, f"file.event: {change.event!r} is none of a group; there are {', '.join(_RULES)}"
        )
    group = Group.of(state, members) if members else Group()  # one that is made again starts anew
    if not members and change.event != "create":
        raise RuleViolation(Code.NO_CONVERSATION, f"there is no {change.conversation_id}")
    try:
        for target in change.targets:
            check_name("file.targets", target)
    except BadName as error:
        raise RuleViolation(Code.BAD_REQUEST, str(error)) from None
    requests = len(group.pending)
    decision = rule(group, members, change, limits)
    there = len(members) + len(decision.joined)
    if len(group.pending) > requests and there + len(group.pending) > limits.size:
        raise RuleViolation(Code.TOO_LARGE, f"a group has at most {limits.size} members and requests without an answer")
    left = frozenset(decision.left)
    group.admins = [admin for admin in group.admins if admin not in left]
    if decision.joined and there > limits.size:
        raise RuleViolation(Code.TOO_LARGE, f"a group has at most {limits.size} members")
    decision.state = group.to_dict()
    return decision


# --- the rules: each changes `group`, and says who joins or leaves and who is notified -----------------------------

_Rule = Callable[[Group, Collection[str], Change, Limits], Decision]


def _create(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    if members:
        raise RuleViolation(Code.CONFLICT, f"{change.conversation_id} exists already")
    group.owner = change.operator
    _set(group, change)
    others = tuple(user for user in dict.fromkeys(change.targets) if user != change.operator)
    if group.consent:
        return Decision(joined=(change.operator,), notes=_ask(group, change, others, limits))
    return Decision(joined=(change.operator, *others))


def _configure(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=1)
    if not _settings(group).keys() & change.data.keys():
        unknown = f"; there is no {', '.join(sorted(change.data))[:80]}" if change.data else ""
        raise RuleViolation(Code.BAD_REQUEST, f"file.data: give title, join or consent{unknown}")
    _set(group, change)
    return Decision()


def _set(group: Group, change: Change) -> None:
    title, join, consent = (change.data.get(name, old) for name, old in _settings(group).items())
    if not isinstance(title, str) or len(title) > _TITLE:
        raise RuleViolation(Code.BAD_REQUEST, f"file.data.title: expected text of at most {_TITLE} characters")
    if join not in _JOIN:
        raise RuleViolation(Code.BAD_REQUEST, f"file.data.join: expected one of {', '.join(_JOIN)}")
    if not isinstance(consent, bool):
        raise RuleViolation(Code.BAD_REQUEST, "file.data.consent: expected true or false")
    group.title, group.join, group.consent = title, join, consent


def _settings(group: Group) -> dict[str, object]:
    return {"title": group.title, "join": group.join, "consent": group.consent}


def _invite(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=1 if group.join == "invite" else 0)
    new = _targets(change, lambda user: user not in members, "all are members already")
    swept = _sweep(group, change)
    joined = dict.fromkeys(user for user in new if not group.consent or _has(group, "apply", user))
    applied = tuple(note for user in joined for note in _answer(group, change, user, "passed"))
    invited = tuple(Note(user, "group_invite", _about(group)) for user in joined)
    asked = _ask(group, change, tuple(user for user in new if user not in joined), limits)
    return Decision(joined=tuple(joined), notes=swept + applied + invited + asked)


def _ask(group: Group, change: Change, users: tuple[str, ...], limits: Limits) -> tuple[Note, ...]:
    """Each of them whether to be a member."""
    expires = change.time + limits.request_lifetime
    notes: list[Note] = []
    for user in users:
        notes += _answer(group, change, user, "expired")
        group.ask(user, Pending("invite", change.operator, change.seq, expires, [user]))
        notes.append(Note(user, "group_invite", {**_about(group), "state": "init", "expires": expires}))
    return tuple(notes)


def _apply(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    user = change.operator
    if user in members:
        raise RuleViolation(Code.CONFLICT, "you are a member already")
    if group.join == "invite":
        raise RuleViolation(Code.FORBIDDEN, "this group takes only whom it invites")
    if group.join == "open":
        raise RuleViolation(Code.CONFLICT, "this group is open: join it")
    expires, admins = change.time + limits.request_lifetime, [group.owner, *group.admins]
    swept = _sweep(group, change)
    if _has(group, "invite", user):
        raise RuleViolation(Code.CONFLICT, "you are invited: accept")
    replaced = (*swept, *_answer(group, change, user, "expired"))
    group.ask(user, Pending("apply", user, change.seq, expires, admins))
    data = {**_about(group), "state": "init", "expires": expires}
    return Decision(notes=(*replaced, *(Note(admin, "group_apply", data) for admin in admins)))


def _join(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    if group.join != "open":
        raise RuleViolation(Code.FORBIDDEN, "apply, or be invited: this group is not open")
    if change.operator in members:
        raise RuleViolation(Code.CONFLICT, "you are a member already")
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
        raise RuleViolation(Code.FORBIDDEN, "you own this group: transfer it to another member, or dismiss it")
    return Decision(left=(change.operator,))


def _kick(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=1)
    gone = _targets(change, lambda user: user in members, "none of them is a member")
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
    (heir,) = _targets(change, lambda user: user in members and user != group.owner, "no other member", most=1)
    group.admins = [admin for admin in group.admins if admin != heir]
    group.owner = heir
    return Decision()


def _role(group: Group, members: Collection[str], change: Change, limits: Limits) -> Decision:
    _need(group, members, change, rank=2)
    role = change.data.get("role")
    if role not in ("admin", "member"):
        raise RuleViolation(Code.BAD_REQUEST, "file.data.role: expected admin or member")
    users = _targets(change, lambda user: user in members and user != group.owner, "no other member")
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
    known = members if muted else {*members, *group.muted}  # who has left may speak again, too
    users = _targets(change, known.__contains__, "none of them is a member")
    _outrank(group, change, users)
    named = frozenset(users)
    group.muted = [user for user in group.muted if user not in named] + (list(users) if muted else [])
    if muted and len(group.muted) > limits.size:
        raise RuleViolation(Code.TOO_LARGE, f"a group mutes at most {limits.size} users, those who have left included")
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

# --- what they share -------------------------------------------------------------------------------------------------


def _about(group: Group) -> dict[str, Any]:
    return {"title": group.title}


def _need(group: Group, members: Collection[str], change: Change, rank: int = 0) -> None:
    if change.operator not in members:
        raise RuleViolation(Code.NOT_MEMBER, f"you are no member of {change.conversation_id}")
    if group.rank(change.operator) < rank:
        raise RuleViolation(
            Code.FORBIDDEN, "only the owner may do this" if rank == 2 else "only the owner and admins may"
        )


def _outrank(group: Group, change: Change, users: tuple[str, ...]) -> None:
    if any(group.rank(user) >= group.rank(change.operator) for user in users):
        raise RuleViolation(Code.FORBIDDEN, "not with the owner, and not with an admin unless you own the group")


def _targets(change: Change, fits: Callable[[str], bool], otherwise: str, most: int = 1 << 30) -> tuple[str, ...]:
    """Those of the targets that it concerns, each once."""
    if not change.targets:
        raise RuleViolation(Code.BAD_REQUEST, "file.targets: name somebody")
    users = tuple(user for user in dict.fromkeys(change.targets) if fits(user))
    if not users or len(users) > most:
        raise RuleViolation(Code.CONFLICT if not users else Code.BAD_REQUEST, f"file.targets: {otherwise}")
    return users


def _answered(group: Group, members: Collection[str], change: Change) -> tuple[str, Pending]:
    """Whose application or invitation it is that the operator answers: without targets, the operator's own invitation;
    else the application of the one target."""
    if change.targets:
        _need(group, members, change, rank=1)
        (user,) = _targets(change, lambda user: True, "name one", most=1)
        kind = "apply"
    else:
        user, kind = change.operator, "invite"
    pending = group.asked(user)
    if pending is None or pending.kind != kind:
        raise RuleViolation(Code.CONFLICT, "there is nothing to answer, or somebody has answered it")
    if change.time >= pending.expires:
        raise RuleViolation(Code.EXPIRED, "it was asked too long ago")
    return user, pending


def _has(group: Group, kind: str, user: str) -> bool:
    """Whether there is such a request: the other side wants the same."""
    pending = group.pending.get(user)
    return pending is not None and pending["kind"] == kind


def _sweep(group: Group, change: Change) -> tuple[Note, ...]:
    """Requests whose time is over are none any more: where new ones come, the old must go."""
    over = [user for user, pending in group.pending.items() if change.time >= pending["expires"]]
    return tuple(note for user in over for note in _answer(group, change, user, "expired"))


def _answer(group: Group, change: Change, user: str, state: str) -> tuple[Note, ...]:
    """The user's request, if there is one, is one no more: tell those who have it."""
    pending = group.asked(user)
    group.pending.pop(user, None)
    return resolved(pending.notified, f"{change.conversation_id}:{pending.seq}", state) if pending else ()
