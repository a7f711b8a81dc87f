"""The plan: everything that will be sent, by whom, to whom and when, drawn before the run. Both worlds carry it out.

Each number is drawn for (user, purpose) or (group, purpose), never from one stream. So under one seed a shorter run has
a prefix of a longer one's messages, another rate leaves everybody's partners as they are, and another user leaves
everybody's times, sizes and (but for the few who now talk to the newcomer) partners and groups as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from imsim.core.exceptions import UsageError
from imsim.core.model import Scene, p2p_id
from imsim.scenario.distributions import Distribution
from imsim.scenario.draws import Draws
from imsim.scenario.model import Scenario
from imsim.scenario.quantities import parse_duration

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]

# Numbers drawn at a time: bounds the memory, not the plan.
_BLOCK = 1 << 21
_MOST_MESSAGES = 200_000_000


@dataclass(frozen=True, slots=True)
class PlannedConversation:
    """`members` are user indexes, ascending; `name` is the group's, and "" in a p2p conversation."""

    id: str
    scene: Scene
    name: str
    members: tuple[int, ...]

    def to(self, sender: int) -> str:
        """The `to` of a message that user number `sender` sends here: the partner's name, or the group's or room's."""
        if self.scene is not Scene.P2P:
            return self.name
        one, other = self.members
        return user_name(other if sender == one else one)


class Action(NamedTuple):
    """Something that a user does besides writing, at `at` (ns from the run's start), on the first device.

    kind: recall or edit (of the own message number `intent`), invite (of user `other` into group `conversation`), leave
    (it), friend_request (to user `other`).
    """

    at: int
    kind: str
    user: int
    intent: int = -1
    conversation: int = -1
    other: int = -1


class Entitled(NamedTuple):
    """One row per message and device that is to get it, sorted by (intent, device)."""

    intent: Int32s
    device: Int32s  # number over all users, see Plan.device_index
    own: Bools  # whether it is another device of the sender


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be sent. The columns have one entry for each message; its index is the message's `intent`.

    They are sorted by (at, sender). `conversations` starts with all groups, then has all chatrooms; p2p conversations
    follow in the order of their first message, so a shorter plan's list is a prefix too. `actions` are sorted by time.
    """

    at: Int64s  # intended time, ns from the run's start
    sender: Int32s  # user index
    device: Int8s  # which of the sender's devices sends
    conversation: Int32s  # index into conversations
    size: Int32s  # bytes of content
    type: Int8s  # index into types
    users: list[str]
    devices: list[str]  # the names that each user's devices have
    conversations: list[PlannedConversation]
    types: tuple[str, ...] = ("text",)
    actions: tuple[Action, ...] = ()

    def __len__(self) -> int:
        return len(self.at)

    def device_index(self, user: int, device: int) -> int:
        """The number of a user's device among all devices."""
        return user * len(self.devices) + device

    def rooms_of(self, user: int) -> list[int]:
        """The numbers of the chatrooms of whose audience the user is."""
        return [n for n, c in enumerate(self.conversations) if c.scene is Scene.CHATROOM and user in c.members]

    @property
    def amended(self) -> frozenset[int]:
        """The messages that will be recalled or edited."""
        return frozenset(action.intent for action in self.actions if action.intent >= 0)

    @property
    def guests(self) -> frozenset[tuple[int, int]]:
        """(conversation, user) of those who come into groups and leave again: what they get there is nobody's due."""
        return frozenset((a.conversation, a.other) for a in self.actions if a.kind == "invite")

    def entitled(self) -> Entitled:
        """Who is to get what: all devices of all members, but for the one that sends."""
        sizes = np.array([len(c.members) for c in self.conversations], np.int64)
        members = np.fromiter(chain.from_iterable(c.members for c in self.conversations), np.int32, sizes.sum())
        first = np.cumsum(sizes) - sizes

        per_user = len(self.devices)
        counts = sizes[self.conversation] * per_user
        intent = np.repeat(np.arange(len(self), dtype=np.int32), counts)
        nth = _places(counts)
        user = members[first[self.conversation][intent] + nth // per_user]
        device = (user * per_user + nth % per_user).astype(np.int32)

        other = device != (self.sender * per_user + self.device)[intent]
        intent, device, user = intent[other], device[other], user[other]
        return Entitled(intent, device, user == self.sender[intent])


def user_name(index: int) -> str:
    return f"u{index}"


def plan(scenario: Scenario, seed: int | None = None, duration: float | None = None) -> Plan:
    """Draw the messages of a scenario.

    A message goes to one of the sender's partners with chance `p2p_share`, with chance `room_share` to one of the
    sender's chatrooms, else to one of the sender's groups, each as likely as the other. A sender who is in no chatroom
    writes to groups instead, one who is in no group to partners; one who has none of them writes nothing.

    seed, duration (seconds): in place of the scenario's own.
    Raises: UsageError if the plan would be too large to hold, or the duration is none.
    """
    seed = scenario.seed if seed is None else seed
    duration = scenario.duration if duration is None else _checked(duration)
    if seed < 0:
        raise UsageError(f"seed: expected at least 0, got {seed}")
    users, rate = scenario.population.users, scenario.workload.rate
    if (expected := users * rate * duration) > _MOST_MESSAGES:
        raise UsageError(
            f"scenario {scenario.name}: {expected:.2g} messages are too many for one run;"
            " lower workload.rate, duration or population.users"
        )

    sender, nth, at = _arrivals(Draws(seed, "gap"), users, rate, duration)
    talk = scenario.conversations
    groups = _Groups.drawn(seed, "group", talk.groups, talk.group_size, users, scenario.limits.group_size)
    rooms = _Groups.drawn(seed, "room", talk.rooms, talk.room_size, users, scenario.limits.room_size)
    scene = Draws(seed, "scene").array(sender, nth)
    to_room = (scene >= 1 - talk.room_share) & (rooms.count_of(sender) > 0)
    to_group = (scene >= talk.p2p_share) & ~to_room & (groups.count_of(sender) > 0)
    if talk.partners == 0 and not (to_group | to_room).all():
        kept = to_group | to_room
        sender, nth, at, to_group, to_room = sender[kept], nth[kept], at[kept], to_group[kept], to_room[kept]

    conversation = np.empty(len(sender), np.int64)
    pick = Draws(seed, "conversation").array(sender, nth)
    conversation[to_group] = groups.picked(sender[to_group], pick[to_group])
    conversation[to_room] = rooms.picked(sender[to_room], pick[to_room]) + talk.groups
    conversations = groups.conversations(Scene.GROUP, "g") + rooms.conversations(Scene.CHATROOM, "r")
    private = ~(to_group | to_room)
    if private.any():
        partner = _partners(scenario, seed, sender[private], pick[private])
        conversation[private], pairs = _numbered_pairs(sender[private], partner)
        conversation[private] += len(conversations)
        conversations += [_p2p(one, other) for one, other in pairs]

    devices, types = scenario.population.devices, scenario.workload.types
    sizes = scenario.workload.size.quantiles(Draws(seed, "size").array(sender, nth))
    return Plan(
        at=at,
        sender=sender.astype(np.int32),
        device=(Draws(seed, "device").array(sender, nth) * devices).astype(np.int8),
        conversation=conversation.astype(np.int32),
        size=np.clip(np.rint(sizes), 1, scenario.limits.content_bytes).astype(np.int32),
        users=[user_name(user) for user in range(users)],
        devices=[f"d{device}" for device in range(devices)],
        type=np.searchsorted(_cumulated(types), Draws(seed, "type").array(sender, nth), side="right").astype(np.int8),
        conversations=conversations,
        types=tuple(types),
        actions=_actions(scenario, seed, duration, sender, nth, at, to_room, groups),
    )


def _cumulated(shares: dict[str, float]) -> npt.NDArray[np.float64]:
    """Where each type's part of the unit interval ends, but for the last."""
    weights = np.fromiter(shares.values(), float)
    return np.asarray(np.cumsum(weights)[:-1] / weights.sum())


def _actions(
    scenario: Scenario,
    seed: int,
    duration: float,
    sender: Int64s,
    nth: Int64s,
    at: Int64s,
    to_room: Bools,
    groups: _Groups,
) -> tuple[Action, ...]:
    actions = _amendments(scenario, seed, sender, nth, at, to_room)
    talk, users = scenario.conversations, scenario.population.users
    if talk.friend_requests:
        user, number, when = _arrivals(Draws(seed, "friend gap"), users, talk.friend_requests, duration)
        others = (Draws(seed, "friend").array(user, number) * (users - 1)).astype(np.int64)
        others += others >= user
        rows = zip(when.tolist(), user.tolist(), others.tolist(), strict=True)
        actions += [Action(ns, "friend_request", one, other=other) for ns, one, other in rows]
    if talk.churn:
        actions += _churn(scenario, seed, duration, groups)
    return tuple(sorted(actions))


def _amendments(scenario: Scenario, seed: int, sender: Int64s, nth: Int64s, at: Int64s, to_room: Bools) -> list[Action]:
    work = scenario.workload
    if not (work.recalls or work.edits):
        return []
    kind = Draws(seed, "amendment").array(sender, nth)
    delay = work.amended_after.quantiles(Draws(seed, "amendment delay").array(sender, nth))
    chosen = np.nonzero((kind < work.recalls + work.edits) & ~to_room)[0]
    return [
        Action(
            int(at[intent] + round(delay[intent] * 1e9)),
            "recall" if kind[intent] < work.recalls else "edit",
            int(sender[intent]),
            intent=int(intent),
        )
        for intent in chosen.tolist()
    ]


def _churn(scenario: Scenario, seed: int, duration: float, groups: _Groups) -> list[Action]:
    """Guests, one after the other: the owner invites one, who leaves at the next change."""
    talk, users = scenario.conversations, scenario.population.users
    group, number, when = _arrivals(Draws(seed, "churn gap"), talk.groups, talk.churn, duration)
    pick = Draws(seed, "churn").array(group, number // 2)
    actions = []
    for which, nth, ns, u in zip(group.tolist(), number.tolist(), when.tolist(), pick.tolist(), strict=True):
        members = groups.members[groups.first[which] : groups.first[which + 1]]
        if len(members) == users:
            continue  # there is nobody to invite
        guest = int(u * (users - len(members)))  # its number among those who are no members
        for member in members.tolist():
            guest += guest >= member
        invite = nth % 2 == 0
        kind, user = ("invite", int(members[0])) if invite else ("leave", guest)
        actions.append(Action(ns, kind, user, conversation=which, other=guest))
    return actions


def _checked(duration: float) -> float:
    try:
        seconds = parse_duration(duration)
    except ValueError as error:
        raise UsageError(f"duration: {error}") from None
    if seconds == 0:
        raise UsageError("duration: expected more than 0 s, got 0")
    return seconds


def _arrivals(draws: Draws, users: int, rate: float, duration: float) -> tuple[Int64s, Int64s, Int64s]:
    """Every user's Poisson process up to `duration`: (user, number among the user's own, ns), by (ns, user)."""
    end = round(duration * 1e9)
    found: list[tuple[Int64s, Int64s, Int64s]] = []
    active = np.arange(users)
    now = np.zeros(users)  # seconds, of each active user's latest arrival
    done = 0  # arrivals already drawn for each active user
    while len(active):
        left = rate * max(duration - float(now.min()), 0.0)
        width = max(1, min(math.ceil(left + 3 * math.sqrt(left)), _BLOCK // len(active)))
        number = np.arange(done, done + width)
        times = -np.log1p(-draws.array(active[:, None], number)) / rate
        # Added strictly one after another from time 0, so the width of a block never shows in a time.
        times[:, 0] += now
        np.cumsum(times, axis=1, out=times)
        ns = np.rint(times * 1e9)
        row, column = np.nonzero(ns < end)
        found.append((active[row], number[column], ns[row, column].astype(np.int64)))
        going_on = times[:, -1] < duration
        active, now, done = active[going_on], times[going_on, -1], done + width
    user, nth, at = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((nth, user, at))
    return user[order], nth[order], at[order]


@dataclass(frozen=True)
class _Groups:
    """Who is in which group or chatroom: the same pairs (group, user), sorted by group and sorted by user."""

    first: Int64s  # of each group, into members; one more entry at the end
    members: Int64s
    first_of: Int64s  # of each user, into groups_of; one more entry at the end
    groups_of: Int64s

    @classmethod
    def drawn(cls, seed: int, what: str, count: int, size: Distribution, users: int, limit: int) -> _Groups:
        number = np.arange(count)
        sizes = np.rint(size.quantiles(Draws(seed, f"{what} size").array(number)))
        sizes = np.clip(sizes, 1, min(users, limit)).astype(np.int64)
        members = _chosen(Draws(seed, f"{what} members"), number, sizes, np.full(count, users))
        group = np.repeat(number, sizes)
        by_group = np.lexsort((members, group))
        by_user = np.lexsort((group, members))
        return cls(
            first=_starts(sizes),
            members=members[by_group],
            first_of=_starts(np.bincount(members, minlength=users)),
            groups_of=group[by_user],
        )

    def count_of(self, user: Int64s) -> Int64s:
        return self.first_of[user + 1] - self.first_of[user]

    def picked(self, user: Int64s, u: npt.NDArray[np.float64]) -> Int64s:
        """One of the user's groups, each as likely as the other."""
        return self.groups_of[self.first_of[user] + (u * self.count_of(user)).astype(np.int64)]

    def conversations(self, scene: Scene, prefix: str) -> list[PlannedConversation]:
        members, first = self.members.tolist(), self.first.tolist()
        return [
            PlannedConversation(f"{scene}:{prefix}{g}", scene, f"{prefix}{g}", tuple(members[first[g] : first[g + 1]]))
            for g in range(len(first) - 1)
        ]


def _partners(scenario: Scenario, seed: int, sender: Int64s, u: npt.NDArray[np.float64]) -> Int64s:
    """One of each sender's partners, each as likely as the other. Only those who send have theirs drawn."""
    many = scenario.conversations.partners
    row, place = np.unique(sender, return_inverse=True)
    others = np.full(len(row), scenario.population.users - 1)
    table = _chosen(Draws(seed, "partners"), row, np.full(len(row), many), others).reshape(-1, many)
    table += table >= row[:, None]  # numbers among the others: skip oneself
    return table[place, (u * many).astype(np.int64)]


def _numbered_pairs(sender: Int64s, partner: Int64s) -> tuple[Int64s, Iterator[tuple[int, int]]]:
    """The number of each message's pair of users, counted by first appearance; and the pairs, smaller index first."""
    one, other = np.minimum(sender, partner), np.maximum(sender, partner)
    _, first, place = np.unique((one << 32) | other, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[place], zip(one[first[order]].tolist(), other[first[order]].tolist(), strict=True)


def _p2p(one: int, other: int) -> PlannedConversation:
    return PlannedConversation(p2p_id(user_name(one), user_name(other)), Scene.P2P, "", (one, other))


def _chosen(draws: Draws, rows: Int64s, sizes: Int64s, populations: Int64s) -> Int64s:
    """For each row a random subset of `sizes` numbers out of range(population); concatenated, row by row.

    Reservoir sampling (Li's algorithm L, 1994), all rows side by side: a new number in the population enters a subset
    with its fair chance and replaces one member, so a larger population leaves nearly all subsets as they were. The
    work is about size * ln(population / size) steps for the largest row.
    """
    first = np.cumsum(sizes) - sizes
    chosen = _places(sizes)  # to begin with the first numbers
    active = np.arange(len(rows))
    latest = sizes - 1.0  # the last number that each row has looked at
    log_w = np.zeros(len(rows))  # log of the chance that a number enters
    step = 0
    while True:
        log_w = log_w + np.log(draws.array(rows[active], 3 * step)) / sizes[active]
        with np.errstate(divide="ignore"):  # a chance that rounds to 1 skips none
            skipped = np.floor(np.log(draws.array(rows[active], 3 * step + 1)) / np.log(-np.expm1(log_w)))
        latest = latest + skipped + 1
        going_on = latest < populations[active]
        active, latest, log_w = active[going_on], latest[going_on], log_w[going_on]
        if not len(active):
            return chosen
        slot = (draws.array(rows[active], 3 * step + 2) * sizes[active]).astype(np.int64)
        chosen[first[active] + slot] = latest.astype(np.int64)
        step += 1


def _starts(sizes: Int64s) -> Int64s:
    """Where each run of these sizes starts, and where the last one ends."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)))


def _places(sizes: Int64s) -> Int64s:
    """0, 1, ... size - 1 for each size, concatenated."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)
