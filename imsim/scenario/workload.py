"""The plan: everything that users will do, who, to whom and when, drawn before the run. Both worlds carry it out.

Each number is drawn for (user, purpose) or (group, purpose), never from one stream. So under one seed

- a shorter run has a prefix of a longer one's messages, and of its actions;
- another rate leaves everybody's partners, groups and chatrooms as they are;
- chatrooms, other types, recalls, edits, churn and friend requests leave everybody's times, sizes, partners and groups
  as they were (but for the messages that now go to chatrooms, and to groups no more), and each other;
- another user leaves everybody's times, sizes and (but for the few who now talk to the newcomer) partners, groups and
  chatrooms as they were. (Who is asked to be a friend, or invited as a guest, is another then.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from imsim.core.exceptions import UsageError
from imsim.core.model import MessageType, Scene, p2p_id
from imsim.scenario.distributions import Distribution
from imsim.scenario.draws import Draws
from imsim.scenario.model import Scenario
from imsim.scenario.quantities import parse_duration

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]

_LATEST = 1e9  # seconds: what comes later than any run is as good as never, and its nanoseconds are whole numbers
# Numbers drawn at a time: bounds the memory, not the plan.
_BLOCK = 1 << 21
_MOST_MESSAGES = 200_000_000
_MOST_ACTIONS = 20_000_000


@dataclass(frozen=True, slots=True)
class PlannedConversation:
    """`members` are user indexes, ascending (a chatroom's: its audience); `name` is the group's or chatroom's, and ""
    in a p2p conversation."""

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
    """Something that a user does besides writing, on the first device.

    kind: recall or edit (the own message number `intent`), invite (the guest `other` into the own group
    `conversation`), leave (as its guest), friend_request (to user `other`). What a kind does not need is -1.
    """

    at: int  # ns from the run's start
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
    follow in the order of their first message, so a shorter plan's list is a prefix too. `actions` are sorted.
    """

    at: Int64s  # intended time, ns from the run's start
    sender: Int32s  # user index
    device: Int8s  # which of the sender's devices sends
    conversation: Int32s  # index into conversations
    type: Int8s  # index into types
    size: Int32s  # bytes: of content, of custom, or of what the attachment tells of, as the type has it
    users: list[str]
    devices: list[str]  # the names that each user's devices have
    types: list[str]
    conversations: list[PlannedConversation]
    actions: list[Action]

    def __len__(self) -> int:
        return len(self.at)

    def device_index(self, user: int, device: int) -> int:
        """The number of a user's device among all devices."""
        return user * len(self.devices) + device

    @cached_property
    def rooms(self) -> list[PlannedConversation]:
        """The chatrooms."""
        return [conversation for conversation in self.conversations if conversation.scene is Scene.CHATROOM]

    @cached_property
    def to_room(self) -> Bools:
        """Of each message, whether it goes to a chatroom."""
        is_room = np.array([conversation.scene is Scene.CHATROOM for conversation in self.conversations], bool)
        return is_room[self.conversation]

    @cached_property
    def amended(self) -> frozenset[int]:
        """The messages that will be recalled or edited."""
        return frozenset(action.intent for action in self.actions if action.intent >= 0)

    @cached_property
    def guests(self) -> frozenset[tuple[int, int]]:
        """(conversation, user) of those who come into a group and leave again. When exactly they do, and so what they
        get there, no plan can tell: it is nobody's due."""
        return frozenset((action.conversation, action.other) for action in self.actions if action.kind == "invite")

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


def device_name(index: int) -> str:
    return f"d{index}"


def plan(scenario: Scenario, seed: int | None = None, duration: float | None = None) -> Plan:
    """Draw the messages of a scenario, and what users do besides.

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
    _check_size(scenario, duration)

    users, rate = scenario.population.users, scenario.workload.rate
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

    devices, work = scenario.population.devices, scenario.workload
    types, ends = list(work.types), np.cumsum(list(work.types.values()))
    type = np.searchsorted(ends[:-1] / ends[-1], Draws(seed, "type").array(sender, nth), side="right")
    sizes = work.size.quantiles(Draws(seed, "size").array(sender, nth))
    actions = _amendments(scenario, seed, sender, nth, at, ~to_room, np.array(types)[type] == MessageType.TEXT)
    actions += _friend_requests(scenario, seed, duration)
    actions += _churn(scenario, seed, duration, groups)
    return Plan(
        at=at,
        sender=sender.astype(np.int32),
        device=(Draws(seed, "device").array(sender, nth) * devices).astype(np.int8),
        conversation=conversation.astype(np.int32),
        type=type.astype(np.int8),
        size=np.clip(np.rint(sizes), 1, scenario.limits.content_bytes).astype(np.int32),
        users=[user_name(user) for user in range(users)],
        devices=[device_name(device) for device in range(devices)],
        types=types,
        conversations=conversations,
        actions=sorted(action for action in actions if action.at < round(duration * 1e9)),
    )


def _amendments(
    scenario: Scenario, seed: int, sender: Int64s, nth: Int64s, at: Int64s, is_kept: Bools, is_text: Bools
) -> list[Action]:
    work = scenario.workload
    if not (work.recalls or work.edits):
        return []
    # Recalls from below, edits from above: more of the ones leave the others as they are.
    u = Draws(seed, "amendment").array(sender, nth)
    is_recall, is_edit = is_kept & (u < work.recalls), is_kept & is_text & (u >= 1 - work.edits)
    (intent,) = np.nonzero(is_recall | is_edit)
    after = work.amended_after.quantiles(Draws(seed, "amendment delay").array(sender[intent], nth[intent]))
    when = at[intent] + np.rint(np.minimum(after, _LATEST) * 1e9).astype(np.int64)
    rows = zip(when.tolist(), is_recall[intent].tolist(), sender[intent].tolist(), intent.tolist(), strict=True)
    return [Action(ns, "recall" if recall else "edit", user, intent=number) for ns, recall, user, number in rows]


def _friend_requests(scenario: Scenario, seed: int, duration: float) -> list[Action]:
    users, rate = scenario.population.users, scenario.conversations.friend_requests
    if not rate:
        return []
    user, nth, at = _arrivals(Draws(seed, "friend gap"), users, rate, duration)
    other = (Draws(seed, "friend").array(user, nth) * (users - 1)).astype(np.int64)
    other += other >= user  # a number among the others: skip oneself
    rows = zip(at.tolist(), user.tolist(), other.tolist(), strict=True)
    return [Action(ns, "friend_request", one, other=another) for ns, one, another in rows]


def _churn(scenario: Scenario, seed: int, duration: float, groups: _Groups) -> list[Action]:
    """One guest after the other: the group's owner (its first member) invites, and the guest leaves at the next change.
    A group that nobody else is there for, or that is full, has no guests."""
    users, rate = scenario.population.users, scenario.conversations.churn
    if not rate:
        return []
    group, nth, at = _arrivals(Draws(seed, "churn gap"), scenario.conversations.groups, rate, duration)
    pick = Draws(seed, "churn").array(group, nth // 2)  # both changes are about the same guest
    most = min(users, scenario.limits.group_size)
    actions = []
    for number, is_leave, ns, u in zip(group.tolist(), (nth % 2).tolist(), at.tolist(), pick.tolist(), strict=True):
        members = groups.members[groups.first[number] : groups.first[number + 1]]
        if len(members) < most:
            guest = int(u * (users - len(members)))  # a number among those outside: skip the members before it
            guest += int(np.searchsorted(members - np.arange(len(members)), guest, side="right"))
            kind, user = ("leave", guest) if is_leave else ("invite", int(members[0]))
            actions.append(Action(ns, kind, user, conversation=number, other=guest))
    return actions


def _check_size(scenario: Scenario, duration: float) -> None:
    """Raises: UsageError where a plan would be too large to hold."""
    talk, work, users = scenario.conversations, scenario.workload, scenario.population.users
    messages = users * work.rate * duration
    if messages > _MOST_MESSAGES:
        raise UsageError(
            f"scenario {scenario.name}: {messages:.2g} messages are too many for one run;"
            " lower workload.rate, duration or population.users"
        )
    actions = {
        "workload.recalls and workload.edits": messages * (work.recalls + work.edits),
        "conversations.friend_requests": users * talk.friend_requests * duration,
        "conversations.churn": talk.groups * talk.churn * duration,
    }
    if (total := sum(actions.values())) > _MOST_ACTIONS:
        what = max(actions, key=lambda name: actions[name])
        raise UsageError(
            f"scenario {scenario.name}: {total:.2g} recalls, edits, friend requests and changes of groups are too many"
            f" for one run; lower {what}"
        )


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
