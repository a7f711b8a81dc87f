import math
from collections import defaultdict

import numpy as np
import pytest
from scenario.workload.plans import BUSY, OFFICE, ROOMS, same
from scipy import stats

from imsim.core.exceptions import UsageError
from imsim.scenario import Constant, Draws, Pareto, Scenario, plan
from imsim.scenario.workload.talk import chosen


def test_shares_sizes_partners_and_groups_follow_scenario() -> None:
    p = plan(
        OFFICE.replace(
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
    assert (p.conversation < 20).mean() == pytest.approx(
        0.3, abs=5 * sd
    )  # each of 300 users is in one of the 20 groups
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


def test_group_sizes_are_bounded_by_users_and_limit() -> None:
    heavy = OFFICE.replace({"conversations.group_size": Pareto(minimum=0.3, alpha=1.01), "conversations.groups": 3000})
    assert {len(c.members) for c in plan(heavy).conversations[:3000]} >= {1, 2, 100}
    limited = plan(heavy.replace({"limits.group_size": 30}))
    assert max(len(c.members) for c in limited.conversations[:3000]) == 30


def test_user_without_group_sends_to_partners() -> None:
    only_groups = BUSY.replace({"conversations.p2p_share": 0.0, "conversations.groups": 2})
    p = plan(only_groups)
    members = set(p.conversations[0].members) | set(p.conversations[1].members)
    outside = ~np.isin(p.sender, list(members))
    assert outside.any()
    assert (~outside).any()
    assert ((p.conversation >= 2) == outside).all()

    p = plan(only_groups.replace({"conversations.partners": 0}))  # users without a group have nobody to send to
    assert set(p.sender) == members
    assert (p.conversation < 2).all()


def test_hot_group_contains_all_users() -> None:
    p = plan(Scenario.load("hot-group"))
    assert [c.members for c in p.conversations] == [tuple(range(500))]
    assert 50 < len(p) < 200
    assert len(p.entitled().intent) == 499 * len(p)


@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_all_subsets_are_equally_likely(size: int) -> None:
    rows = 20_000
    subsets = chosen(Draws(3), np.arange(rows), np.full(rows, size), np.full(rows, 8)).reshape(rows, size)
    masks = (1 << subsets).sum(axis=1)
    kinds, often = np.unique(masks, return_counts=True)
    assert {int(kind).bit_count() for kind in kinds} == {size}  # the numbers of a subset are distinct and in range
    assert kinds.max() < 2**8
    assert len(kinds) == math.comb(8, size)
    assert size == 8 or stats.chisquare(often).pvalue > 1e-4
    assert stats.chisquare(np.bincount(subsets[:, 0], minlength=8)).pvalue > 1e-4 or size > 1


def test_chatrooms_have_given_share_and_sizes() -> None:
    everybody = BUSY.replace({**ROOMS, "workload.rate": 10.0, "conversations.room_size": 100})
    p = plan(everybody)
    assert p.to_room.mean() == pytest.approx(0.2, abs=5 * math.sqrt(0.2 * 0.8 / len(p)))
    assert stats.chisquare(np.bincount(p.conversation[p.to_room] - 20)).pvalue > 1e-4
    assert {len(room.members) for room in p.rooms} == {100}
    p = plan(everybody.replace({"conversations.room_size": Constant(value=60)}))
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
    heavy = BUSY.replace({**ROOMS, "conversations.room_size": Pareto(minimum=5, alpha=1.01), "limits.room_size": 30})
    assert max(len(room.members) for room in plan(heavy.replace({"conversations.rooms": 50})).rooms) == 30


def test_user_without_chatroom_sends_to_groups_or_else_partners() -> None:
    only_rooms = BUSY.replace({**ROOMS, "conversations.p2p_share": 0.0, "conversations.room_share": 1.0})
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
    p = plan(only_rooms.replace({"conversations.partners": 0, "conversations.groups": 0}))
    assert set(p.sender) == audience
    assert p.to_room.all()


# --- skews ----------------------------------------------------------------------------------------------------------


def test_partner_shares_follow_zipf() -> None:
    changes = {"workload.rate": 30.0, "conversations.p2p_share": 1.0, "conversations.groups": 0}
    even, skewed = (plan(BUSY.replace({**changes, "conversations.partner_skew": skew})) for skew in (0.0, 1.0))
    assert np.array_equal(even.at, skewed.at)
    assert {c.id for c in even.conversations} == {c.id for c in skewed.conversations}
    shares = np.zeros(5)
    received = np.zeros(100)
    for user in range(100):
        mine = skewed.conversation[skewed.sender == user]
        _, often = np.unique(mine, return_counts=True)
        shares += np.sort(often)[::-1]
    for sender, number in zip(skewed.sender.tolist(), skewed.conversation.tolist(), strict=True):
        one, other = skewed.conversations[number].members
        received[other if sender == one else one] += 1
    expected = 1 / np.arange(1, 6)
    assert shares / shares.sum() == pytest.approx(expected / expected.sum(), rel=0.1)
    # Users with small numbers are not closer to everybody.
    assert received[:5].mean() == pytest.approx(received.mean(), rel=0.5)


def test_group_shares_follow_zipf() -> None:
    everybody = BUSY.replace(
        {"conversations.group_size": 100, "conversations.groups": 8, "conversations.p2p_share": 0.2}
    )
    even, skewed = plan(everybody), plan(everybody.replace({"conversations.group_skew": 1.2}))
    often = np.bincount(skewed.conversation[skewed.conversation < 8], minlength=8)
    expected = np.arange(1.0, 9) ** -1.2
    assert stats.chisquare(often, expected / expected.sum() * often.sum()).pvalue > 1e-4
    assert np.array_equal(even.at, skewed.at)
    assert np.array_equal(even.conversation[even.conversation >= 8], skewed.conversation[skewed.conversation >= 8])
    # Users send only to groups of which they are members.
    some = plan(BUSY.replace({"conversations.group_skew": 2.0}))
    assert all(s in some.conversations[c].members for s, c in zip(some.sender, some.conversation, strict=True))


def test_few_users_send_most_messages() -> None:
    tail = Pareto(minimum=1, alpha=1.16, maximum=1000)
    wide = Scenario().replace({"population.users": 5000, "workload.rate": 1.0, "duration": 20.0})
    p = plan(wide.replace({"workload.activity": tail}))
    often = np.sort(np.bincount(p.sender, minlength=5000))[::-1]
    weights = np.sort(tail.quantiles(Draws(1, "activity").array(np.arange(5000))))[::-1] / tail.mean
    assert often.sum() == pytest.approx(weights.sum() * 20, rel=0.02)
    assert often[:1000].sum() / often.sum() == pytest.approx(weights[:1000].sum() / weights.sum(), rel=0.02)
    assert often[:1000].sum() > 0.6 * often.sum()
    assert len(plan(wide)) * 0.6 < len(p) < len(plan(wide)) * 1.6  # the mean is one, but the tail is heavy
    # Activities can have any unit.
    hundredfold = Pareto(minimum=100, alpha=1.16, maximum=100_000)
    assert plan(wide.replace({"workload.activity": hundredfold}), duration=1.0).at == pytest.approx(
        plan(wide.replace({"workload.activity": tail}), duration=1.0).at, abs=2
    )
    assert same(plan(wide.replace({"workload.activity": 7})), plan(wide))


def test_active_users_replay_more_moments() -> None:
    activity = {"kind": "pareto", "minimum": 1, "alpha": 1.2, "maximum": 100}
    moments = np.linspace(0, 9.9, 20_000)
    p = plan(BUSY.replace({"workload.activity": activity, "workload.arrivals": moments}))
    weights = Pareto(minimum=1, alpha=1.2, maximum=100).quantiles(Draws(1, "activity").array(np.arange(100)))
    assert stats.chisquare(np.bincount(p.sender, minlength=100), weights / weights.sum() * 20_000).pvalue > 1e-4


def test_types_have_their_own_sizes() -> None:
    types = {"text": 2, "image": 1, "file": 1, "custom": 1}
    mixed = BUSY.replace({"workload.types": types})
    sizes = {"image": {"kind": "lognormal", "median": 300_000, "p99": 5_000_000}, "custom": 1e4, "video": 7}
    before, after = plan(mixed), plan(mixed.replace({"workload.sizes": sizes}))
    kind = np.array(after.types)[after.type]
    assert np.median(after.size[kind == "image"]) == pytest.approx(300_000, rel=0.1)
    assert set(after.size[kind == "custom"]) == {10_000}
    for type in ("text", "file"):
        assert np.array_equal(before.size[kind == type], after.size[kind == type])
    for column in ("at", "sender", "device", "conversation", "type"):
        assert np.array_equal(getattr(before, column), getattr(after, column))
    assert mixed.replace({"workload.sizes": sizes}).to_toml().count("image") == 2


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"conversations.partner_skew": -1}, "conversations.partner_skew: expected at least 0, got -1"),
        ({"conversations.group_skew": 11}, "conversations.group_skew: expected at most 10, got 11"),
        ({"workload.activity": 0}, "workload.activity: expected a mean of more than 0, got 0"),
        ({"workload.activity": "5ms"}, "workload.activity: expected plain numbers, 0 or more, got '5ms'"),
        ({"workload.sizes.pic": 1}, "workload.sizes.pic: unknown type; known here: text, image"),
        ({"workload.sizes.text": 20_000}, r"workload.sizes.text: expected at most limits.content_bytes \(16384\), got"),
        ({"workload.sizes.file": 0}, "workload.sizes.file: expected values of 1 or more, got at most 0"),
    ],
)
def test_error_names_field_and_expected_value(changes: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=f"^scenario office: {text}"):
        BUSY.replace(changes)
