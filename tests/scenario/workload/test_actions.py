import math
from collections import defaultdict

import numpy as np
import pytest
from scenario.workload.plans import BUSY, MIXED, OFFICE
from scipy import stats

from imsim.scenario import Pareto, Scenario, plan


def test_recalls_and_edits_have_given_shares_and_delays() -> None:
    p = plan(MIXED.replace({"workload.rate": 10.0, "duration": 20.0}))
    end, mean = 20e9, 0.5e9
    early = (p.at < end - 20 * mean) & ~p.to_room
    is_text = np.array(p.types)[p.type] == "text"
    for kind, share, of in (("recall", 0.1, early), ("edit", 0.2, early & is_text)):
        actions = [action for action in p.actions if action.kind == kind]
        mine = [action for action in actions if of[action.intent]]
        assert len(mine) / of.sum() == pytest.approx(share, abs=5 * math.sqrt(share / of.sum()))
        assert all(action.user == p.sender[action.intent] and not p.to_room[action.intent] for action in actions)
        delays = [action.at - p.at[action.intent] for action in mine]
        assert stats.kstest(delays, "expon", args=(0, mean)).pvalue > 1e-4
        assert kind == "recall" or all(is_text[action.intent] for action in actions)
    assert len({action.intent for action in p.actions if action.intent >= 0}) == len(p.amended)
    assert p.amended == {action.intent for action in p.actions if action.kind in ("recall", "edit")}


def test_every_message_is_amended_unless_the_delay_exceeds_the_run() -> None:
    p = plan(BUSY.replace({"workload.recalls": 1, "workload.amended_after": 0}))
    assert p.amended == set(range(len(p)))
    p = plan(BUSY.replace({"workload.edits": 1, "workload.amended_after": 0}))
    assert {(action.kind, action.at) for action in p.actions} == {("edit", at) for at in p.at.tolist()}
    never = Pareto(minimum=1e8, alpha=1.001)  # more than int64 nanoseconds can represent
    assert plan(BUSY.replace({"workload.recalls": 1, "workload.amended_after": never})).actions == []


def test_actions_are_sorted_and_end_with_the_run() -> None:
    p = plan(MIXED)
    assert {action.kind for action in p.actions} == {"recall", "edit", "invite", "leave", "friend_request"}
    assert p.actions == sorted(p.actions)
    assert p.actions[0].at >= 0
    assert p.actions[-1].at < 10e9


def test_friend_requests_go_to_random_other_users() -> None:
    p = plan(Scenario().replace({"population.users": 20, "conversations.friend_requests": 5.0, "duration": 100.0}))
    asked = [(action.user, action.other) for action in p.actions]
    assert len(asked) == pytest.approx(10_000, abs=4 * math.sqrt(10_000))
    often = np.zeros((20, 20))
    np.add.at(often, tuple(np.array(asked).T), 1)
    assert (often.diagonal() == 0).all()
    assert stats.chisquare(often[~np.eye(20, dtype=bool)]).pvalue > 1e-4
    assert stats.kstest([action.at for action in p.actions], "uniform", args=(0, 100e9)).pvalue > 1e-4


def test_owner_invites_guests_from_outside_who_leave_again() -> None:
    p = plan(OFFICE.replace({"conversations.churn": 2.0, "duration": 200.0, "workload.rate": 1e-9}))
    by_group = defaultdict(list)
    for action in p.actions:
        by_group[action.conversation].append(action)
    assert len(by_group) == 20
    assert len(p.actions) == pytest.approx(20 * 2 * 200, abs=4 * math.sqrt(8000))
    for number, actions in by_group.items():
        members = p.conversations[number].members
        assert [action.kind for action in actions] == [("invite", "leave")[i % 2] for i in range(len(actions))]
        for invite, leave in zip(actions[::2], actions[1::2], strict=False):
            assert invite.user == members[0]
            assert invite.other == leave.other == leave.user
            assert invite.other not in members
    assert p.guests == {(action.conversation, action.other) for action in p.actions}
    # All users outside the group are equally likely.
    members = p.conversations[0].members
    guests = np.bincount([action.other for action in by_group[0][::2]], minlength=100)
    assert stats.chisquare(np.delete(guests, members)).pvalue > 1e-4


def test_full_group_has_no_guests() -> None:
    everybody = Scenario.load("hot-group").replace({"conversations.churn": 10.0})
    assert plan(everybody).actions == []
    full = OFFICE.replace({"conversations.churn": 10.0, "conversations.group_size": 7, "limits.group_size": 7})
    assert plan(full).actions == []
    assert plan(full.replace({"limits.group_size": 8})).actions
