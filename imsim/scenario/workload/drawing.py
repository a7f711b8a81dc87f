"""Creation of a plan from a scenario.

Each number is drawn for (user, purpose) or (group, purpose), never from one common stream. So under one seed, a change
of a scenario leaves most of its plan unchanged:

- A shorter duration gives a prefix of the messages and of the actions.
- Other sizes and skews do not change times, nor each other. Another activity changes only times.
- Another rate does not change partners, groups and chatrooms. Other arrivals (bursts, a curve) change only the times of
  the messages that both plans have.
- Online periods remove messages, but do not change the remaining ones.
- Chatrooms, types, recalls, edits, churn and friend requests do not change times, sizes, partners and groups, nor each
  other. Only the messages that go to chatrooms no longer go to groups.
- An additional user does not change the times and sizes of others, and changes their partners, groups and chatrooms
  only where the new user replaces another one. (Friend requests and guests do change.)
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
from imsim.scenario.workload.planned import Plan, conversation_of, device_name, user_name
from imsim.scenario.workload.talk import Groups, numbered_pairs, partners

_MOST_MESSAGES = 200_000_000
_MOST_ACTIONS = 20_000_000


def plan(scenario: Scenario, seed: int | None = None, duration: float | None = None) -> Plan:
    """Draw the messages and actions of a scenario.

    A message goes to one of the sender's partners with probability `p2p_share`, to one of the sender's chatrooms with
    probability `room_share`, else to one of the sender's groups. All partners, chatrooms or groups of the sender are
    equally likely, unless a skew is set. A sender without a chatroom sends to groups instead, one without a group to
    partners, and one without any of them sends nothing. Users send nothing while they are offline.

    seed, duration (seconds): replace the values of the scenario.

    Raises: UsageError if the plan would be too large, or if seed or duration are invalid.
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
        conversations += [conversation_of(Scene.P2P, "", pair) for pair in pairs]

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
    """Return the device on which each message is sent: a random one of those that are online."""
    u = Draws(seed, "device").array(sender, nth)
    if online_periods is None:
        return (u * devices).astype(np.int8)
    online = _online(online_periods, sender, devices, at)
    chosen = (u * online.sum(axis=1)).astype(np.int8)
    is_chosen = np.equal(np.cumsum(online, axis=1), chosen[:, None] + 1)
    number: Int8s = is_chosen.argmax(axis=1).astype(np.int8)
    return number


def _sizes(scenario: Scenario, types: list[str], type: Int64s, u: Floats) -> Int32s:
    """Return the size of each message, from the distribution of its type if there is one."""
    work, limit = scenario.workload, scenario.limits.content_bytes
    sizes = np.clip(np.rint(work.size.quantiles(u)), 1, limit)
    for name, distribution in work.sizes.items():
        if name in types:
            is_it = type == types.index(name)
            largest = limit if name in CARRIED else MOST_BYTES
            sizes[is_it] = np.clip(np.rint(distribution.quantiles(u[is_it])), 1, largest)
    return sizes.astype(np.int32)


def _online(online_periods: OnlinePeriods, user: Int64s, devices: int, at: Int64s) -> Bools:
    """Return a row for each user and time, with the online state of each device of the user."""
    return online_periods.is_online(user[:, None] * devices + np.arange(devices), at[:, None])


def _check_size(scenario: Scenario, seed: int, duration: float) -> None:
    """Raise a UsageError if the plan would be too large."""
    talk, work, users = scenario.conversations, scenario.workload, scenario.population.users
    messages = expected(scenario, seed, duration)
    if messages > _MOST_MESSAGES:
        raise UsageError(
            f"scenario {scenario.name}: {messages:.2g} messages are too many for one run (at most"
            f" {_MOST_MESSAGES:.0e}); lower workload.rate, duration or population.users"
        )
    actions = {
        "workload.recalls and workload.edits": messages * (work.recalls + work.edits),
        "conversations.friend_requests": users * talk.friend_requests * duration,
        "conversations.churn": talk.groups * talk.churn * duration,
    }
    if (total := sum(actions.values())) > _MOST_ACTIONS:
        field = max(actions, key=lambda name: actions[name])
        raise UsageError(
            f"scenario {scenario.name}: {total:.2g} recalls, edits, friend requests and changes of groups are too many"
            f" for one run (at most {_MOST_ACTIONS:.0e}); lower {field}"
        )


def _checked(duration: float) -> float:
    try:
        seconds = parse_duration(duration)
    except ValueError as error:
        raise UsageError(f"duration: {error}") from None
    if seconds == 0:
        raise UsageError("duration: expected more than 0 s, got 0")
    return seconds
