"""What users do besides writing: recalls and edits, friend requests, guests of groups."""

from __future__ import annotations

import numpy as np

from imsim.scenario.draws import Draws
from imsim.scenario.model import Scenario
from imsim.scenario.workload.arrivals import arrivals
from imsim.scenario.workload.columns import Bools, Int64s
from imsim.scenario.workload.planned import Action
from imsim.scenario.workload.talk import Groups

_LATEST = 1e9  # seconds: what comes later than any run is as good as never, and its nanoseconds are whole numbers


def amendments(
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


def friend_requests(scenario: Scenario, seed: int, duration: float) -> list[Action]:
    users, rate = scenario.population.users, scenario.conversations.friend_requests
    if not rate:
        return []
    user, nth, at = arrivals(Draws(seed, "friend gap"), np.full(users, rate), duration)
    other = (Draws(seed, "friend").array(user, nth) * (users - 1)).astype(np.int64)
    other += other >= user  # a number among the others: skip oneself
    rows = zip(at.tolist(), user.tolist(), other.tolist(), strict=True)
    return [Action(ns, "friend_request", one, other=another) for ns, one, another in rows]


def churn(scenario: Scenario, seed: int, duration: float, groups: Groups) -> list[Action]:
    """One guest after the other: the group's owner (its first member) invites, and the guest leaves at the next change.
    A group that nobody else is there for, or that is full, has no guests."""
    users, rate = scenario.population.users, scenario.conversations.churn
    if not rate:
        return []
    group, nth, at = arrivals(Draws(seed, "churn gap"), np.full(scenario.conversations.groups, rate), duration)
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
