"""The plan: everything that users will do, who, to whom and when, drawn before the run. Both worlds carry it out.

Each number is drawn for (user, purpose) or (group, purpose), never from one stream. So under one seed

- a shorter run has a prefix of a longer one's messages, and of its actions;
- other sizes and skews leave everybody's times, and each other; so does another activity but for the times;
- another rate leaves everybody's partners, groups and chatrooms as they are; other arrivals (bursts, a day's curve)
  leave everything but the times, also of each message that there is under both;
- sessions leave the messages that are written all the same;
- chatrooms, other types, recalls, edits, churn and friend requests leave everybody's times, sizes, partners and groups
  as they were (but for the messages that now go to chatrooms, and to groups no more), and each other;
- another user leaves everybody's times, sizes and (but for the few who now talk to the newcomer) partners, groups and
  chatrooms as they were. (Who is asked to be a friend, or invited as a guest, is another then.)
"""

from __future__ import annotations

import numpy as np

from imsim.core.exceptions import UsageError
from imsim.core.model import MessageType, Scene
from imsim.scenario.draws import Draws
from imsim.scenario.model import Scenario
from imsim.scenario.quantities import parse_duration
from imsim.scenario.sections.people import CARRIED, MOST_BYTES
from imsim.scenario.workload.actions import amendments, churn, friend_requests
from imsim.scenario.workload.arrivals import expected, writing
from imsim.scenario.workload.columns import Bools, Floats, Int8s, Int32s, Int64s
from imsim.scenario.workload.online_periods import OnlinePeriods
from imsim.scenario.workload.planned import Plan, device_name, user_name
from imsim.scenario.workload.talk import Groups, numbered_pairs, p2p, partners

_MOST_MESSAGES = 200_000_000
_MOST_ACTIONS = 20_000_000


def plan(scenario: Scenario, seed: int | None = None, duration: float | None = None) -> Plan:
    """Draw the messages of a scenario, and what users do besides.

    A message goes to one of the sender's partners with chance `p2p_share`, with chance `room_share` to one of the
    sender's chatrooms, else to one of the sender's groups, each as likely as the other (unless there is a skew). A
    sender who is in no chatroom writes to groups instead, one who is in no group to partners; one who has none of them
    writes nothing, and nobody writes while offline.

    seed, duration (seconds): in place of the scenario's own.
    Raises: UsageError if the plan would be too large to hold, or the duration is none.
    """
    seed = scenario.seed if seed is None else seed
    duration = scenario.duration if duration is None else _checked(duration)
    if seed < 0:
        raise UsageError(f"seed: expected at least 0, got {seed}")
    _check_size(scenario, seed, duration)

    users = scenario.population.users
    sender, nth, at = writing(scenario, seed, duration)
    online_periods = OnlinePeriods.drawn(scenario, seed, duration)
    if online_periods is not None:
        can_write = _online(online_periods, sender, scenario.population.devices, at).any(axis=1)
        sender, nth, at = sender[can_write], nth[can_write], at[can_write]
    talk = scenario.conversations
    groups = Groups.drawn(seed, "group", talk.groups, talk.group_size, users, scenario.limits.group_size)
    rooms = Groups.drawn(seed, "room", talk.rooms, talk.room_size, users, scenario.limits.room_size)
    scene = Draws(seed, "scene").array(sender, nth)
    to_room = (scene >= 1 - talk.room_share) & (rooms.count_of(sender) > 0)
    to_group = (scene >= talk.p2p_share) & ~to_room & (groups.count_of(sender) > 0)
    if talk.partners == 0 and not (to_group | to_room).all():
        kept = to_group | to_room
        sender, nth, at, to_group, to_room = sender[kept], nth[kept], at[kept], to_group[kept], to_room[kept]

    conversation = np.empty(len(sender), np.int64)
    pick = Draws(seed, "conversation").array(sender, nth)
    conversation[to_group] = groups.picked(sender[to_group], pick[to_group], talk.group_skew)
    conversation[to_room] = rooms.picked(sender[to_room], pick[to_room]) + talk.groups
    conversations = groups.conversations(Scene.GROUP, "g") + rooms.conversations(Scene.CHATROOM, "r")
    private = ~(to_group | to_room)
    if private.any():
        partner = partners(scenario, seed, sender[private], pick[private])
        conversation[private], pairs = numbered_pairs(sender[private], partner)
        conversation[private] += len(conversations)
        conversations += [p2p(one, other) for one, other in pairs]

    devices, work = scenario.population.devices, scenario.workload
    types, ends = list(work.types), np.cumsum(list(work.types.values()))
    type = np.searchsorted(ends[:-1] / ends[-1], Draws(seed, "type").array(sender, nth), side="right")
    actions = amendments(scenario, seed, sender, nth, at, ~to_room, np.array(types)[type] == MessageType.TEXT)
    actions += friend_requests(scenario, seed, duration)
    actions += churn(scenario, seed, duration, groups)
    return Plan(
        at=at,
        sender=sender.astype(np.int32),
        device=_devices(seed, sender, nth, at, devices, online_periods),
        conversation=conversation.astype(np.int32),
        type=type.astype(np.int8),
        size=_sizes(scenario, types, type, Draws(seed, "size").array(sender, nth)),
        users=[user_name(user) for user in range(users)],
        devices=[device_name(device) for device in range(devices)],
        types=types,
        conversations=conversations,
        actions=sorted(action for action in actions if action.at < round(duration * 1e9)),
        online_periods=online_periods,
        room_patience=round(scenario.policies.send_timeout * 1e9),
    )


def _devices(
    seed: int, sender: Int64s, nth: Int64s, at: Int64s, devices: int, online_periods: OnlinePeriods | None
) -> Int8s:
    """On which device each message is written: any of those that are online."""
    u = Draws(seed, "device").array(sender, nth)
    if online_periods is None:
        return (u * devices).astype(np.int8)
    online = _online(online_periods, sender, devices, at)
    chosen = (u * online.sum(axis=1)).astype(np.int8)
    is_chosen = np.equal(np.cumsum(online, axis=1), chosen[:, None] + 1)
    number: Int8s = is_chosen.argmax(axis=1).astype(np.int8)
    return number


def _sizes(scenario: Scenario, types: list[str], type: Int64s, u: Floats) -> Int32s:
    """Of each message; where its type has sizes of its own, of these."""
    work, limit = scenario.workload, scenario.limits.content_bytes
    sizes = np.clip(np.rint(work.size.quantiles(u)), 1, limit)
    for name, distribution in work.sizes.items():
        if name in types:
            is_it = type == types.index(name)
            largest = limit if name in CARRIED else MOST_BYTES
            sizes[is_it] = np.clip(np.rint(distribution.quantiles(u[is_it])), 1, largest)
    return sizes.astype(np.int32)


def _online(online_periods: OnlinePeriods, user: Int64s, devices: int, at: Int64s) -> Bools:
    """Of each user, a row that tells which devices are online then."""
    return online_periods.is_online(user[:, None] * devices + np.arange(devices), at[:, None])


def _check_size(scenario: Scenario, seed: int, duration: float) -> None:
    """Raises: UsageError where a plan would be too large to hold."""
    talk, work, users = scenario.conversations, scenario.workload, scenario.population.users
    messages = expected(scenario, seed, duration)
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
