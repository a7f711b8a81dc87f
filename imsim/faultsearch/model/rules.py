"""The rules of groups, friends and amendments, written a second time: what may be stored, and what follows from it.

They are written from the protocol and use only the data model of the core, so that they can check the core. A wish that
is against several rules has all their codes as reasons, as the core may report any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from imsim.core.model import Message, MessageType, Scene

#: Events that no device shows as a message.
SILENT = frozenset(
    {
        "recall", "edit", "resolve", "apply", "reject",
        "friend_request", "friend_accept", "friend_reject", "friend_delete",
    }
)  # fmt: skip
AMENDMENTS = frozenset({"recall", "edit"})
GROUPS = frozenset(
    {
        "create", "configure", "invite", "apply", "join", "accept", "reject", "leave", "kick", "dismiss",
        "transfer", "role", "mute", "unmute",
    }
)  # fmt: skip
FRIENDS = frozenset(event for event in SILENT if event.startswith("friend_"))
_RULED = AMENDMENTS | GROUPS | FRIENDS | {"resolve"}


@dataclass(frozen=True, slots=True)
class Rules:
    """The policies that the rules depend on. Times: ms."""

    strangers: bool = True
    group_size: int = 5_000
    recall_window: int = 120_000
    edit_window: int = 900_000
    lifetime: int = 604_800_000


@dataclass(frozen=True, slots=True)
class Request:
    """A pending application, invitation or friend request.

    `by`: the user who made it. `id`: the id of the system messages about it. `expires`: its end (ms). `notified`: the
    users who received it.
    """

    kind: str
    by: str
    id: str
    expires: int
    notified: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relations:
    """The users who have blocked a given user, and the user's friends."""

    blocking: frozenset[str] = frozenset()
    friends: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class State:
    """The state of one conversation.

    `requests`: the pending ones. The key is the user who would join a group, or who made a friend request.
    """

    members: tuple[str, ...] = ()
    owner: str = ""
    admins: frozenset[str] = frozenset()
    muted: frozenset[str] = frozenset()
    all_muted: bool = False
    join: str = "invite"
    consent: bool = False
    friends: bool = False
    requests: dict[str, Request] = field(default_factory=dict)

    def rank(self, user: str) -> int:
        return 2 if user == self.owner else int(user in self.admins)

    def matches(self, kept: dict[str, Any] | None) -> bool:
        """Return whether storage's record of the state, `kept`, agrees with it. For a group without members, only that
        counts."""
        if kept is None:
            return self == State(self.members)
        if "friends" in kept:
            return (bool(kept["friends"]), kept["request"] is not None) == (self.friends, bool(self.requests))
        settings = (kept["owner"], bool(kept["muted_all"]), kept["join"], bool(kept["consent"]))
        named = (frozenset(kept["admins"]), frozenset(kept["muted"]), frozenset(kept["pending"]))
        is_so = settings == (self.owner, self.all_muted, self.join, self.consent)
        return not self.members or (is_so and named == (self.admins, self.muted, frozenset(self.requests)))


@dataclass(frozen=True, slots=True)
class Wish:
    """A message that a user wants to send: as which entry of the log, and when (ms)."""

    user: str
    scene: str
    type: str
    file: dict[str, Any]
    seq: int = 1 << 40
    time: int = 0
    conversation: str = ""

    @property
    def event(self) -> str:
        return str(self.file.get("event", "")) if self.type == MessageType.NOTIFICATION else ""

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(self.file.get("targets", ())))

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.file.get("data", {})
        return data


Note = tuple[str, str, str, str]  # (user, type of the system message, the request that it resolves, its state)


@dataclass(slots=True)
class Outcome:
    """The result of judging a wish: the codes of all reasons against it, and its effects."""

    reasons: set[str]
    state: State
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: list[Note] = field(default_factory=list)
    amended: Message | None = None

    def refuse(self, is_wrong: object, *codes: str) -> None:
        if is_wrong:
            self.reasons.update(codes)

    def needs_member(self, user: str) -> None:
        self.refuse(user not in self.state.members, "not_member")


def wish_in(message: Message) -> Wish:
    """Return the wish that this entry of a log fulfils."""
    return Wish(message.sender, message.scene, message.type, message.file or {}, message.seq)


def event_of(message: Message) -> str:
    return wish_in(message).event


def is_shown(message: Message) -> bool:
    """Return whether devices show the entry as a message."""
    return not message.recalled and event_of(message) not in SILENT


def comes_from_outside(sent: Wish, to: str) -> bool:
    """Return whether the sender cannot see the message. `to`: the user or group that it was sent to."""
    if sent.scene == Scene.SYSTEM:
        return sent.user != to
    if sent.event == "apply":
        return True
    return sent.event == "reject" and sent.scene == Scene.GROUP and not sent.targets


def is_of_a_stranger(wish: Wish) -> bool:
    """Return whether the sender is not a member of the group when sending it."""
    return wish.event in ("create", "apply", "join") or (wish.event in ("accept", "reject") and not wish.targets)


def is_change(wish: Wish) -> bool:
    return wish.event in _RULED


def edits(entry: Message, seq: int) -> bool:
    """Return whether this entry of a log edits the message at `seq`."""
    return event_of(entry) == "edit" and about(entry) == seq


def leaves(entry: Message, user: str) -> bool:
    """Return whether this entry of a group's log ends the stay of a user who may see it."""
    wish = wish_in(entry)
    return (
        wish.event == "dismiss"
        or (wish.event, user) == ("leave", entry.sender)
        or (wish.event == "kick" and user in wish.targets)
    )


def about(entry: Message) -> int:
    """Return the seq of the message that this entry of a log recalls or edits; 0 if it does neither."""
    wish = wish_in(entry)
    return int(wish.data["seq"]) if wish.event in AMENDMENTS else 0


def amended(log: Iterable[Message], amended: Message, seq: int) -> list[Message]:
    """Return all entries that change when the entry `seq` amends one message. A recall also recalls the edits of the
    message."""
    edited = [entry for entry in log if amended.recalled and edits(entry, amended.seq)]
    return [amended, *(_blank(entry, seq) for entry in edited)]


def _blank(message: Message, seq: int) -> Message:
    return replace(message, content="", file=None, custom=None, recalled=True, amended=seq)


def judge(
    state: State, wish: Wish, log: Sequence[Message], rules: Rules, relations: Relations | None = None
) -> Outcome:
    """Judge a wish in this state and log. `relations`: those of the user; None: unknown, so they are ignored."""
    out = Outcome(set(), state)
    if wish.event in AMENDMENTS:
        seq = wish.data.get("seq", 0)
        _amend(out, wish, log[seq - 1] if 1 <= seq <= len(log) else None, rules)
    elif wish.event not in _RULED:
        _speak(out, wish, rules)
    elif wish.scene == Scene.GROUP and wish.event in GROUPS:
        _change_group(out, wish, rules)
    elif wish.scene == Scene.P2P and wish.event in FRIENDS:
        _change_friends(out, wish, rules)
    else:
        out.reasons |= {"bad_request", "not_member"}
    if relations is not None:
        _reach(out, wish, rules, relations)
    return out


def judge_in_room(wish: Wish, target: Message | None, rules: Rules) -> Outcome:
    """Judge a message that a member of a chatroom sends. `target`: the message that it amends."""
    out = Outcome(set(), State((wish.user,)))
    if wish.event in AMENDMENTS:
        _amend(out, wish, target, rules)
    elif wish.event in _RULED:
        out.reasons.add("bad_request")
    return out


def _reach(out: Outcome, wish: Wish, rules: Rules, relations: Relations) -> None:
    """Add the reasons of other users against it: they have blocked the user, or accept only friends."""
    if wish.scene == Scene.SYSTEM:
        to = wish.conversation.partition(":")[2]
        out.refuse(not rules.strangers and to not in (wish.user, *relations.friends), "not_friends")
    elif wish.scene == Scene.P2P and wish.event in ("edit", "friend_request", "friend_accept"):
        out.refuse(any(member in relations.blocking for member in out.state.members if member != wish.user), "blocked")
    elif wish.scene == Scene.GROUP and wish.event in ("create", "invite"):
        asked = {whom for whom, type, _, _ in out.notes if type == "group_invite"}
        out.refuse(relations.blocking & {*out.joined, *asked}, "blocked")
        out.refuse(not rules.strangers and not {*out.joined} - {wish.user} <= relations.friends, "not_friends")


def _speak(out: Outcome, wish: Wish, rules: Rules) -> None:
    state, user = out.state, wish.user
    if wish.scene == Scene.SYSTEM:
        out.refuse(wish.type != MessageType.CUSTOM, "bad_request")
        return
    out.needs_member(user)
    out.refuse(
        wish.scene == Scene.P2P and len(state.members) == 2 and not rules.strangers and not state.friends, "not_friends"
    )
    out.refuse((state.all_muted or user in state.muted) and not state.rank(user), "muted")


def _amend(out: Outcome, wish: Wish, target: Message | None, rules: Rules) -> None:
    state = out.state
    if wish.event == "edit":
        _speak(out, wish, rules)
    out.needs_member(wish.user)
    if target is None:
        out.reasons.add("bad_request")
        return
    out.refuse(target.recalled, "conflict")
    out.refuse(event_of(target) in _RULED, "bad_request")
    own = target.sender == wish.user
    window = rules.recall_window if wish.event == "recall" else rules.edit_window
    above = wish.event == "recall" and wish.scene == Scene.GROUP and state.rank(wish.user) > 0
    out.refuse(not above and not (own and wish.time - target.time <= window), "expired" if own else "forbidden")
    if wish.event == "recall":
        out.amended = _blank(target, wish.seq)
        return
    content = wish.data.get("content")
    out.refuse(target.type != MessageType.TEXT or not content, "bad_request")
    out.amended = replace(target, content=str(content), amended=wish.seq)


def _change_friends(out: Outcome, wish: Wish, rules: Rules) -> None:
    state, user, event = out.state, wish.user, wish.event
    others = [member for member in state.members if member != user]
    out.refuse(user not in state.members, "not_member")
    if len(others) != 1:
        out.reasons.add("bad_request")
        return
    other, asked = others[0], state.requests.get(others[0])
    id = f"{wish.conversation}:{wish.seq}"
    if event == "friend_delete":
        out.refuse(not state.friends, "conflict")
        out.state = replace(state, friends=False)
        out.notes = [(other, "friend_deleted", "", "")]
    elif event == "friend_request":
        out.refuse(state.friends or (asked and wish.time < asked.expires), "conflict")
        out.notes = [*_resolved(state.requests.values(), "expired"), (other, event, "", "init")]
        request = Request("friend", user, id, wish.time + rules.lifetime, (other,))
        out.state = replace(state, requests={user: request})
    else:
        if asked is None:
            out.reasons.add("conflict")
            return
        out.refuse(wish.time >= asked.expires, "expired")
        answer = "accepted" if event == "friend_accept" else "rejected"
        answer_given = "passed" if event == "friend_accept" else "rejected"
        out.notes = [*_resolved([asked], answer_given), (other, f"friend_{answer}", "", "")]
        out.state = replace(state, friends=state.friends or event == "friend_accept", requests={})


def _resolved(requests: Iterable[Request], state: str) -> list[Note]:
    return [(user, "notification", request.id, state) for request in requests for user in request.notified]


def _change_group(out: Outcome, wish: Wish, rules: Rules) -> None:
    state, user, event, targets = out.state, wish.user, wish.event, wish.targets
    if not state.members:
        state = State()  # a group that is created again starts with a new state
    refuse, rank = out.refuse, state.rank(user) if user in state.members else -1
    named = [target for target in targets if target in state.members]
    settings = {name: value for name, value in wish.data.items() if name in ("join", "consent")}
    closed: tuple[str, ...] = ()  # the users whose requests this event resolves
    answer = "passed"
    if event in ("invite", "apply"):  # a new request removes the expired ones
        over = {whose: request for whose, request in state.requests.items() if wish.time >= request.expires}
        out.notes += _resolved(over.values(), "expired")
        state = replace(state, requests={w: r for w, r in state.requests.items() if w not in over})

    def needs(least: int) -> None:
        refuse(rank < 0, "not_member")
        refuse(rank < least, "forbidden")

    def outranks() -> None:
        refuse(any(state.rank(target) >= rank for target in named), "forbidden")

    if event == "create":
        refuse(state.members, "conflict")
        others = [one for one in targets if one != user]
        state = replace(state, owner=user, **settings)
        out.joined = (user,) if state.consent else (user, *others)
        out.notes = [(one, "group_invite", "", "init") for one in others] if state.consent else []
    elif event == "configure":
        needs(1)
        refuse(not wish.data.keys() & {"title", "join", "consent"}, "bad_request")
        state = replace(state, **settings)
    elif event == "invite":
        needs(1 if state.join == "invite" else 0)
        new = tuple(target for target in targets if target not in state.members)
        refuse(not new, "conflict" if targets else "bad_request")
        applied = {whose for whose, request in state.requests.items() if request.kind == "apply"}
        out.joined = closed = tuple(one for one in new if not state.consent or one in applied)
        asked = [one for one in new if one not in out.joined]
        out.notes += _resolved([state.requests[one] for one in asked if one in state.requests], "expired")
        out.notes += [(one, "group_invite", "", "init" if one in asked else "") for one in new]
    elif event == "apply":
        refuse(rank >= 0 or state.join == "open", "conflict")
        refuse(state.join == "invite", "forbidden")
        refuse(user in state.requests and state.requests[user].kind == "invite", "conflict")
        closed, answer = (user,), "expired"
        out.notes += [(admin, "group_apply", "", "init") for admin in (state.owner, *sorted(state.admins))]
    elif event == "join":
        refuse(state.join != "open", "forbidden")
        refuse(rank >= 0, "conflict")
        out.joined = closed = (user,)
    elif event in ("accept", "reject"):
        whose = targets[0] if targets else user
        if targets:
            needs(1)
        refuse(len(targets) > 1, "bad_request")
        request = state.requests.get(whose)
        if request is None or request.kind != ("apply" if targets else "invite"):
            refuse(True, "conflict")
            return
        refuse(wish.time >= request.expires, "expired")
        closed, answer = (whose,), "passed" if event == "accept" else "rejected"
        out.joined = closed if event == "accept" else ()
        out.notes = [(whose if targets else request.by, f"group_{event}ed", "", "")]
    elif event == "leave":
        needs(0)
        refuse(rank == 2, "forbidden")
        out.left = (user,)
    elif event == "kick":
        needs(1)
        refuse(not named, "conflict" if targets else "bad_request")
        outranks()
        out.left = tuple(named)
        out.notes = [(one, "group_kicked", "", "") for one in named]
    elif event == "dismiss":
        needs(2)
        out.left, closed, answer = state.members, tuple(state.requests), "expired"
        out.notes = [(one, "group_dismissed", "", "") for one in state.members if one != user]
    elif event in ("transfer", "role"):
        needs(2)
        others = [one for one in named if one != state.owner]
        refuse(not others, "conflict" if targets else "bad_request")
        if event == "transfer" and others:
            refuse(len(others) > 1, "bad_request")
            state = replace(state, owner=others[0], admins=state.admins - {others[0]})
        elif event == "role":
            admins = state.admins | set(others) if wish.data.get("role") == "admin" else state.admins - set(others)
            state = replace(state, admins=admins)
    else:
        needs(1)
        named += [one for one in targets if event == "unmute" and one in state.muted - set(named)]
        outranks()
        refuse(targets and not named, "conflict")
        refuse(event == "mute" and len(state.muted | set(named)) > rules.group_size and targets, "too_large")
        if not targets:
            state = replace(state, all_muted=event == "mute")
        else:
            state = replace(state, muted=state.muted | set(named) if event == "mute" else state.muted - set(named))

    out.notes += _resolved([state.requests[one] for one in closed if one in state.requests], answer)
    ended = {*closed, *out.joined, *out.left}
    requests = {whose: request for whose, request in state.requests.items() if whose not in ended}
    asks = [note[0] for note in out.notes if note[3] == "init"]
    if asks:
        id, expires = f"{wish.conversation}:{wish.seq}", wish.time + rules.lifetime
        for whose in (user,) if event == "apply" else asks:
            notified = tuple(asks) if event == "apply" else (whose,)
            requests[whose] = Request("apply" if event == "apply" else "invite", user, id, expires, notified)
        there = len(state.members) + len(out.joined) + len(requests)
        refuse(len(requests) > len(out.state.requests) and there > rules.group_size, "too_large")
    members = tuple(one for one in (*state.members, *out.joined) if one not in out.left)
    refuse(out.joined and len(members) > rules.group_size, "too_large")
    gone = set(out.left)
    out.state = replace(state, members=members, admins=state.admins - gone, requests=requests)
