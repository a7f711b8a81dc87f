import math

import numpy as np
import pytest
from scipy import stats

from imsim.core.exceptions import UsageError
from imsim.core.model import conversation_id
from imsim.scenario import Constant, Draws, Pareto, Plan, Scenario, plan
from imsim.scenario.workload import _chosen

COLUMNS = ("at", "sender", "device", "conversation", "size")
OFFICE = Scenario.load("office")
BUSY = OFFICE.with_({"workload.rate": 3.0, "population.devices": 3})


def same(one: Plan, other: Plan, upto: int | None = None) -> bool:
    return all(np.array_equal(getattr(one, c)[:upto], getattr(other, c)[:upto]) for c in COLUMNS)


# --- its shape ------------------------------------------------------------------------------------------------------


def test_columns() -> None:
    p = plan(BUSY)
    assert [getattr(p, column).dtype for column in COLUMNS] == [np.int64, np.int32, np.int8, np.int32, np.int32]
    assert {len(getattr(p, column)) for column in COLUMNS} == {len(p)}
    assert p.users == [f"u{i}" for i in range(100)]
    assert p.devices == ["d0", "d1", "d2"]
    assert p.device_index(7, 2) == 23
    assert (np.lexsort((p.sender, p.at)) == np.arange(len(p))).all()
    assert p.at[0] >= 0
    assert p.at[-1] < 10e9
    assert set(p.device) == {0, 1, 2}
    assert (p.size >= 1).all()
    assert (p.size <= 16384).all()


def test_every_message_goes_to_a_conversation_of_its_sender() -> None:
    p = plan(BUSY)
    for sender, index in zip(p.sender.tolist(), p.conversation.tolist(), strict=True):
        conversation = p.conversations[index]
        assert sender in conversation.members
        assert conversation.id == conversation_id(conversation.scene, p.users[sender], conversation.to(sender))
        assert conversation.to(sender) != p.users[sender]


def test_conversations_are_the_groups_and_then_pairs_by_first_message() -> None:
    p = plan(BUSY)
    groups, pairs = p.conversations[:20], p.conversations[20:]
    assert [c.id for c in groups] == [f"group:g{i}" for i in range(20)]
    assert {c.scene for c in groups} == {"group"}
    assert {c.scene for c in pairs} == {"p2p"}
    assert all(list(c.members) == sorted(set(c.members)) for c in p.conversations)
    assert len({c.id for c in p.conversations}) == len(p.conversations)
    private = p.conversation[p.conversation >= 20]
    _, first = np.unique(private, return_index=True)
    assert list(private[np.sort(first)]) == list(range(20, len(p.conversations)))


def test_both_partners_write_to_one_conversation() -> None:
    p = plan(Scenario().with_({"population.users": 2, "workload.rate": 5.0}))
    assert [c.id for c in p.conversations] == ["p2p:u0:u1"]
    assert set(p.sender) == {0, 1}
    assert [p.conversations[0].to(user) for user in (0, 1)] == ["u1", "u0"]


# --- what it is drawn from ------------------------------------------------------------------------------------------


def test_arrivals_are_a_poisson_process_of_each_user() -> None:
    p = plan(Scenario().with_({"population.users": 400, "workload.rate": 2.0, "duration": 100.0}))
    counts = np.bincount(p.sender, minlength=400)
    assert counts.mean() == pytest.approx(200, abs=4 * math.sqrt(200 / 400))
    dispersion = counts.var(ddof=1) / counts.mean() * 399
    assert 1e-4 < stats.chi2.cdf(dispersion, 399) < 1 - 1e-4
    assert stats.kstest(p.at, "uniform", args=(0, 100e9)).pvalue > 1e-4
    gaps = np.concatenate([np.diff(p.at[p.sender == user]) for user in range(400)])
    assert stats.kstest(gaps[gaps < 3e9] / 1e9, stats.truncexpon(6, scale=0.5).cdf).pvalue > 1e-4


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
        for chosen in (mine[mine < 20], mine[mine >= 20]):
            _, often = np.unique(chosen, return_counts=True)
            assert stats.chisquare(often).pvalue > 1e-4
        assert len(np.unique(mine[mine >= 20])) == 3
        assert set(mine[mine < 20]) == {g for g in range(20) if user in p.conversations[g].members}


def test_group_sizes_are_clamped_to_the_users_and_the_limit() -> None:
    heavy = OFFICE.with_({"conversations.group_size": Pareto(minimum=0.3, alpha=1.01), "conversations.groups": 3000})
    assert {len(c.members) for c in plan(heavy).conversations[:3000]} >= {1, 2, 100}
    limited = plan(heavy.with_({"limits.group_size": 30}))
    assert max(len(c.members) for c in limited.conversations[:3000]) == 30


def test_sizes_end_at_the_limit() -> None:
    assert plan(BUSY.with_({"limits.content_bytes": 100})).size.max() == 100
    assert plan(BUSY.with_({"workload.size": Constant(value=1.4)})).size.max() == 1


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


def test_office_is_a_few_hundred_messages() -> None:
    p = plan(OFFICE)
    assert 200 < len(p) < 500
    sizes = [len(c.members) for c in p.conversations[:20]]
    assert min(sizes) == 3
    assert max(sizes) <= 20


@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_every_subset_is_as_likely(size: int) -> None:
    rows = 20_000
    subsets = _chosen(Draws(3), np.arange(rows), np.full(rows, size), np.full(rows, 8)).reshape(rows, size)
    masks = (1 << subsets).sum(axis=1)
    kinds, often = np.unique(masks, return_counts=True)
    assert {int(kind).bit_count() for kind in kinds} == {size}  # distinct, in range
    assert kinds.max() < 2**8
    assert len(kinds) == math.comb(8, size)
    assert size == 8 or stats.chisquare(often).pvalue > 1e-4
    assert stats.chisquare(np.bincount(subsets[:, 0], minlength=8)).pvalue > 1e-4 or size > 1


# --- common random numbers ------------------------------------------------------------------------------------------


def test_same_seed_same_plan_and_another_seed_another() -> None:
    assert same(plan(BUSY), plan(BUSY))
    assert plan(BUSY).conversations == plan(BUSY).conversations
    assert same(plan(BUSY, seed=7), plan(BUSY.with_({"seed": 7})))
    assert not same(plan(BUSY), plan(BUSY, seed=7))


@pytest.mark.parametrize("duration", [0.001, 0.1, 1, 9.99])
def test_a_shorter_plan_is_a_prefix(duration: float) -> None:
    long, short = plan(BUSY), plan(BUSY, duration=duration)
    assert len(short) == np.searchsorted(long.at, duration * 1e9)
    assert same(short, long, len(short))
    assert short.conversations == long.conversations[: len(short.conversations)]
    assert same(short, plan(BUSY.with_({"duration": duration, "warmup": 0})))


def test_how_many_are_drawn_at_a_time_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan(BUSY)
    monkeypatch.setattr("imsim.scenario.workload._BLOCK", 700)
    assert same(whole, plan(BUSY))


def test_more_users_leave_the_others_nearly_as_they_were() -> None:
    few, many = plan(BUSY), plan(BUSY.with_({"population.users": 101}))
    kept = many.sender < 100
    for column in ("at", "sender", "device", "size"):
        assert np.array_equal(getattr(few, column), getattr(many, column)[kept])
    before = [few.conversations[c].id for c in few.conversation]
    after = [many.conversations[c].id for c in many.conversation[kept]]
    moved = np.mean([a != b for a, b in zip(before, after, strict=True)])
    assert 0 < moved < 0.05
    for one, other in zip(few.conversations[:20], many.conversations[:20], strict=True):
        assert len(set(one.members) - set(other.members)) <= 1


def test_another_rate_leaves_partners_and_groups() -> None:
    slow, fast = plan(BUSY), plan(BUSY.with_({"workload.rate": 6.0}))
    assert slow.conversations[:20] == fast.conversations[:20]
    assert {c.id for c in slow.conversations} <= {c.id for c in fast.conversations}
    # Twice the rate is the same process in half the time.
    half = np.sort(fast.at[: len(slow)] * 2)
    assert np.abs(half[:100] - slow.at[:100]).max() <= 2


# --- who is entitled ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 3])
def test_entitled_are_all_devices_of_all_members_but_the_sending_one(devices: int) -> None:
    p = plan(BUSY.with_({"population.devices": devices}))
    expected = [
        (intent, p.device_index(member, d), member == p.sender[intent])
        for intent in range(len(p))
        for member in p.conversations[p.conversation[intent]].members
        for d in range(devices)
        if (member, d) != (p.sender[intent], p.device[intent])
    ]
    entitled = p.entitled()
    assert list(zip(entitled.intent, entitled.device, entitled.own, strict=True)) == expected
    assert expected == sorted(expected)
    assert entitled.own.any() == (devices > 1)


def test_an_empty_plan_has_all_its_columns() -> None:
    for scenario in (Scenario(), OFFICE, Scenario.load("hot-group")):
        p = plan(scenario, duration=1e-9)
        assert len(p) == 0
        assert [getattr(p, column).dtype for column in COLUMNS] == [np.int64, np.int32, np.int8, np.int32, np.int32]
        assert len(p.entitled().intent) == 0
        assert len(p.conversations) == scenario.conversations.groups


# --- size and limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"duration": 1e9}, r"^scenario office: 3e\+11 messages are too many for one run; lower workload\.rate"),
        ({"duration": 0}, r"^duration: expected more than 0 s, got 0$"),
        ({"duration": -1}, r"^duration: expected a duration such as .*, got -1$"),
        ({"seed": -1}, r"^seed: expected at least 0, got -1$"),
    ],
)
def test_impossible_plans_are_refused(arguments, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        plan(BUSY, **arguments)


def test_messages_of_one_nanosecond_stand_in_their_senders_order() -> None:
    crowded = plan(Scenario().with_({"workload.rate": 1e6}), duration=1e-4)
    assert (np.diff(crowded.at) == 0).sum() > 100
    assert (np.lexsort((crowded.sender, crowded.at)) == np.arange(len(crowded))).all()
