"""The actions of users besides sending messages: recalls, edits, friend requests and guests of groups."""

from __future__ import annotations

import numpy as np

from imsim.scenario.draws import Draws
from imsim.scenario.model import Scenario
from imsim.scenario.workload.arrivals import arrivals
from imsim.scenario.workload.columns import Bools, Int64s
from imsim.scenario.workload.planned import Action
from imsim.scenario.workload.talk import Groups

_LATEST = 1e9  # seconds; longer than any run, and its nanoseconds fit into an int64


def amendments(
    scenario: Scenario, seed: int, sender: Int64s, nth: Int64s, at: Int64s, is_kept: Bools, is_text: Bools
) -> list[Action]:
    """Return the recalls and edits of the messages in these columns."""
    work = scenario.workload
    if not (work.recalls or work.edits):
        return []
    # Recalls have small numbers, edits large ones. So a larger share of one kind does not change the other kind.
    u = Draws(seed, "amendment").array(sender, nth)
    is_recall, is_edit = is_kept & (u < work.recalls), is_kept & is_text & (u >= 1 - work.edits)
    (intent,) = np.nonzero(is_recall | is_edit)
    after = work.amended_after.quantiles(Draws(seed, "amendment delay").array(sender[intent], nth[intent]))
    when = at[intent] + np.rint(np.minimum(after, _LATEST) * 1e9).astype(np.int64)
    rows = zip(when.tolist(), is_recall[intent].tolist(), sender[intent].tolist(), intent.tolist(), strict=True)
    return [Action(ns, "recall" if recall else "edit", user, intent=number) for ns, recall, user, number in rows]


def friend_requests(scenario: Scenario, seed: int, duration: float) -> list[Action]:
    """Return the friend requests of all users."""
    users, rate = scenario.population.users, scenario.conversations.friend_requests
    if not rate:
        return []
    user, nth, at = arrivals(Draws(seed, "friend gap"), np.full(users, rate), duration)
    other = (Draws(seed, "friend").array(user, nth) * (users - 1)).astype(np.int64)
    other += other >= user  # a number among the other users: skip the user
    rows = zip(at.tolist(), user.tolist(), other.tolist(), strict=True)
    return [Action(ns, "friend_request", one, other=another) for ns, one, another in rows]


def churn(scenario: Scenario, seed: int, duration: float, groups: Groups) -> list[Action]:
    """Return the changes of membership in all groups.

    In turn, the owner of a group (its first member) invites a guest, and the guest leaves. A full group, and a group of
    all users, has no guests.
    """
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
            guest = int(u * (users - len(members)))  # a number among the users outside: skip members
            guest += int(np.searchsorted(members - np.arange(len(members)), guest, side="right"))
            kind, user = ("leave", guest) if is_leave else ("invite", int(members[0]))
            actions.append(Action(ns, kind, user, conversation=number, other=guest))
    return actions
