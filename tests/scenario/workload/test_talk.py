import math
from collections import defaultdict

import numpy as np
import pytest
from scenario.workload.plans import BUSY, OFFICE, ROOMS
from scipy import stats

from imsim.scenario import Constant, Draws, Pareto, Scenario, plan
from imsim.scenario.workload.talk import chosen


def test_shares_sizes_partners_and_groups_are_as_the_scenario_says() -> None:
    p = plan(
        OFFICE.with_(
            {
                "population.users": 300,
                "population.devices": 4,
                "workload.rate": 10.0,
                "conversations.partners": 3,
                "conversations.group_size": Constant(value=60),
            }
        )
    )
    sd = math.sqrt(0.3 * 0.7 / len(p))
    assert (p.conversation < 20).mean() == pytest.approx(0.3, abs=5 * sd)  # 60 of 300, 20 times: all are in some group
    assert np.percentile(p.size, 50) == pytest.approx(60, rel=0.03)
    assert np.percentile(p.size, 99) == pytest.approx(1200, rel=0.1)
    assert stats.chisquare(np.bincount(p.device)).pvalue > 1e-4
    assert {len(c.members) for c in p.conversations[:20]} == {60}

    for user in (0, 150, 299):
        mine = p.conversation[p.sender == user]
        for to in (mine[mine < 20], mine[mine >= 20]):
            _, often = np.unique(to, return_counts=True)
            assert stats.chisquare(often).pvalue > 1e-4
        assert len(np.unique(mine[mine >= 20])) == 3
        assert set(mine[mine < 20]) == {g for g in range(20) if user in p.conversations[g].members}


def test_group_sizes_are_clamped_to_the_users_and_the_limit() -> None:
    heavy = OFFICE.with_({"conversations.group_size": Pareto(minimum=0.3, alpha=1.01), "conversations.groups": 3000})
    assert {len(c.members) for c in plan(heavy).conversations[:3000]} >= {1, 2, 100}
    limited = plan(heavy.with_({"limits.group_size": 30}))
    assert max(len(c.members) for c in limited.conversations[:3000]) == 30


def test_who_is_in_no_group_writes_to_partners() -> None:
    only_groups = BUSY.with_({"conversations.p2p_share": 0.0, "conversations.groups": 2})
    p = plan(only_groups)
    members = set(p.conversations[0].members) | set(p.conversations[1].members)
    outside = ~np.isin(p.sender, list(members))
    assert outside.any()
    assert (~outside).any()
    assert ((p.conversation >= 2) == outside).all()

    p = plan(only_groups.with_({"conversations.partners": 0}))  # nobody to write to: nothing is written
    assert set(p.sender) == members
    assert (p.conversation < 2).all()


def test_hot_group_is_everybody() -> None:
    p = plan(Scenario.load("hot-group"))
    assert [c.members for c in p.conversations] == [tuple(range(500))]
    assert 50 < len(p) < 200
    assert len(p.entitled().intent) == 499 * len(p)


@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_every_subset_is_as_likely(size: int) -> None:
    rows = 20_000
    subsets = chosen(Draws(3), np.arange(rows), np.full(rows, size), np.full(rows, 8)).reshape(rows, size)
    masks = (1 << subsets).sum(axis=1)
    kinds, often = np.unique(masks, return_counts=True)
    assert {int(kind).bit_count() for kind in kinds} == {size}  # distinct, in range
    assert kinds.max() < 2**8
    assert len(kinds) == math.comb(8, size)
    assert size == 8 or stats.chisquare(often).pvalue > 1e-4
    assert stats.chisquare(np.bincount(subsets[:, 0], minlength=8)).pvalue > 1e-4 or size > 1


def test_chatrooms_have_their_share_and_their_sizes() -> None:
    everybody = BUSY.with_({**ROOMS, "workload.rate": 10.0, "conversations.room_size": 100})
    p = plan(everybody)
    assert p.to_room.mean() == pytest.approx(0.2, abs=5 * math.sqrt(0.2 * 0.8 / len(p)))
    assert stats.chisquare(np.bincount(p.conversation[p.to_room] - 20)).pvalue > 1e-4
    assert {len(room.members) for room in p.rooms} == {100}
    p = plan(everybody.with_({"conversations.room_size": Constant(value=60)}))
    assert (
        [c.id for c in p.conversations[20:23]] == [room.id for room in p.rooms] == [f"chatroom:r{i}" for i in range(3)]
    )
    assert {len(room.members) for room in p.rooms} == {60}
    assert p.rooms[0].members != p.rooms[1].members
    for intent in np.flatnonzero(p.to_room):
        room = p.conversations[p.conversation[intent]]
        assert room.scene == "chatroom"
        assert p.sender[intent] in room.members
        assert room.to(p.sender[intent]) == room.name
    heavy = BUSY.with_({**ROOMS, "conversations.room_size": Pareto(minimum=5, alpha=1.01), "limits.room_size": 30})
    assert max(len(room.members) for room in plan(heavy.with_({"conversations.rooms": 50})).rooms) == 30


def test_who_is_in_no_chatroom_writes_to_groups_and_then_to_partners() -> None:
    only_rooms = BUSY.with_({**ROOMS, "conversations.p2p_share": 0.0, "conversations.room_share": 1.0})
    p = plan(only_rooms)
    audience = {user for room in p.rooms for user in room.members}
    grouped = {user for group in p.conversations[:20] for user in group.members}
    scenes = defaultdict(set)
    for sender, number in zip(p.sender.tolist(), p.conversation.tolist(), strict=True):
        scenes[sender in audience, sender in grouped].add(str(p.conversations[number].scene))
    assert scenes == {
        (True, True): {"chatroom"},
        (True, False): {"chatroom"},
        (False, True): {"group"},
        (False, False): {"p2p"},
    }
    p = plan(only_rooms.with_({"conversations.partners": 0, "conversations.groups": 0}))
    assert set(p.sender) == audience
    assert p.to_room.all()
