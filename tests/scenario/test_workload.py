import math
from collections import defaultdict

import numpy as np
import pytest
from scipy import stats

from imsim.core.exceptions import UsageError
from imsim.core.model import conversation_id
from imsim.scenario import Constant, Draws, Pareto, Plan, Scenario, plan
from imsim.scenario.workload import _chosen

COLUMNS = ("at", "sender", "device", "conversation", "type", "size")
DTYPES = [np.int64, np.int32, np.int8, np.int32, np.int8, np.int32]
OFFICE = Scenario.load("office")
BUSY = OFFICE.with_({"workload.rate": 3.0, "population.devices": 3})
SOCIAL = {
    "conversations.churn": 0.5,
    "conversations.friend_requests": 0.2,
    "workload.types": {"text": 6, "image": 3, "geo": 1},
    "workload.recalls": 0.1,
    "workload.edits": 0.2,
    "workload.amended_after": {"kind": "exponential", "mean": "500ms"},
}
ROOMS = {"conversations.rooms": 3, "conversations.room_size": 60, "conversations.room_share": 0.2}
MIXED = BUSY.with_({**SOCIAL, **ROOMS})


def same(one: Plan, other: Plan, upto: int | None = None) -> bool:
    return all(np.array_equal(getattr(one, c)[:upto], getattr(other, c)[:upto]) for c in COLUMNS)


# --- its shape ------------------------------------------------------------------------------------------------------


def test_columns() -> None:
    p = plan(BUSY)
    assert [getattr(p, column).dtype for column in COLUMNS] == DTYPES
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


# --- what kinds of messages, and where to ---------------------------------------------------------------------------


def test_types_have_their_shares() -> None:
    shares = {"text": 5, "image": 0, "video": 3, "custom": 2}
    p = plan(BUSY.with_({"workload.rate": 10.0, "workload.types": shares}))
    assert p.types == ["text", "image", "video", "custom"]
    often = np.bincount(p.type, minlength=4)
    assert often[1] == 0
    assert stats.chisquare(often[[0, 2, 3]], np.array([0.5, 0.3, 0.2]) * len(p)).pvalue > 1e-4
    assert plan(BUSY).types == ["text"]
    last_is_none = plan(BUSY.with_({"workload.types": {"text": 0.1, "image": 0.2, "custom": 0}}))
    assert set(last_is_none.type) == {0, 1}


def test_equal_scenarios_have_equal_plans_in_whatever_order_their_types_stand() -> None:
    one = Scenario.from_toml("workload = { types = { text = 1, image = 2, geo = 3 } }")
    other = Scenario.from_toml("workload = { types = { geo = 3, image = 2, text = 1 } }")
    assert one == other
    assert same(plan(one), plan(other))
    assert plan(one).types == plan(other).types


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


# --- what users do besides writing ----------------------------------------------------------------------------------


def test_recalls_and_edits_have_their_shares_and_delays() -> None:
    p = plan(MIXED.with_({"workload.rate": 10.0, "duration": 20.0}))
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


def test_every_message_can_be_amended_and_a_delay_beyond_any_run_is_none() -> None:
    p = plan(BUSY.with_({"workload.recalls": 1, "workload.amended_after": 0}))
    assert p.amended == set(range(len(p)))
    p = plan(BUSY.with_({"workload.edits": 1, "workload.amended_after": 0}))
    assert {(action.kind, action.at) for action in p.actions} == {("edit", at) for at in p.at.tolist()}
    never = Pareto(minimum=1e8, alpha=1.001)  # reaches beyond what nanoseconds can hold
    assert plan(BUSY.with_({"workload.recalls": 1, "workload.amended_after": never})).actions == []


def test_actions_come_in_order_and_end_with_the_run() -> None:
    p = plan(MIXED)
    assert {action.kind for action in p.actions} == {"recall", "edit", "invite", "leave", "friend_request"}
    assert p.actions == sorted(p.actions)
    assert p.actions[0].at >= 0
    assert p.actions[-1].at < 10e9


def test_friend_requests_go_to_anybody_else() -> None:
    p = plan(Scenario().with_({"population.users": 20, "conversations.friend_requests": 5.0, "duration": 100.0}))
    asked = [(action.user, action.other) for action in p.actions]
    assert len(asked) == pytest.approx(10_000, abs=4 * math.sqrt(10_000))
    often = np.zeros((20, 20))
    np.add.at(often, tuple(np.array(asked).T), 1)
    assert (often.diagonal() == 0).all()
    assert stats.chisquare(often[~np.eye(20, dtype=bool)]).pvalue > 1e-4
    assert stats.kstest([action.at for action in p.actions], "uniform", args=(0, 100e9)).pvalue > 1e-4


def test_guests_are_invited_by_the_owner_from_outside_and_leave_again() -> None:
    p = plan(OFFICE.with_({"conversations.churn": 2.0, "duration": 200.0, "workload.rate": 1e-9}))
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
    # Everybody outside is as likely as the other.
    members = p.conversations[0].members
    guests = np.bincount([action.other for action in by_group[0][::2]], minlength=100)
    assert stats.chisquare(np.delete(guests, members)).pvalue > 1e-4


def test_a_group_of_everybody_or_a_full_one_has_no_guests() -> None:
    everybody = Scenario.load("hot-group").with_({"conversations.churn": 10.0})
    assert plan(everybody).actions == []
    full = OFFICE.with_({"conversations.churn": 10.0, "conversations.group_size": 7, "limits.group_size": 7})
    assert plan(full).actions == []
    assert plan(full.with_({"limits.group_size": 8})).actions


# --- common random numbers ------------------------------------------------------------------------------------------


def test_same_seed_same_plan_and_another_seed_another() -> None:
    assert same(plan(MIXED), plan(MIXED))
    assert plan(MIXED).conversations == plan(MIXED).conversations
    assert plan(MIXED).actions == plan(MIXED).actions != plan(MIXED, seed=7).actions
    assert same(plan(BUSY, seed=7), plan(BUSY.with_({"seed": 7})))
    assert not same(plan(BUSY), plan(BUSY, seed=7))


@pytest.mark.parametrize("duration", [0.001, 0.1, 1, 9.99])
def test_a_shorter_plan_is_a_prefix(duration: float) -> None:
    long, short = plan(MIXED), plan(MIXED, duration=duration)
    assert len(short) == np.searchsorted(long.at, duration * 1e9)
    assert same(short, long, len(short))
    assert short.conversations == long.conversations[: len(short.conversations)]
    assert short.actions == [action for action in long.actions if action.at < duration * 1e9]
    assert same(short, plan(MIXED.with_({"duration": duration, "warmup": 0})))


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


@pytest.mark.parametrize("field", SOCIAL)
def test_what_users_do_besides_leaves_their_messages_as_they_were(field: str) -> None:
    before, after = plan(BUSY), plan(BUSY.with_({field: SOCIAL[field]}))
    assert before.conversations == after.conversations
    for column in set(COLUMNS) - {"type"}:
        assert np.array_equal(getattr(before, column), getattr(after, column)), column
    assert np.array_equal(before.type, after.type) == (field != "workload.types")


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"workload.recalls": 0.3}, {"edit", "invite", "leave", "friend_request"}),
        ({"workload.edits": 0.5}, {"recall", "invite", "leave", "friend_request"}),
        ({"conversations.churn": 2.0}, {"recall", "edit", "friend_request"}),
        ({"conversations.friend_requests": 2.0}, {"recall", "edit", "invite", "leave"}),
        ({"workload.amended_after": 0.1}, {"invite", "leave", "friend_request"}),
    ],
)
def test_more_of_one_kind_of_action_leaves_the_others_as_they_were(changes, kinds: set[str]) -> None:
    def others(p: Plan) -> list:
        return [action for action in p.actions if action.kind in kinds]

    few, many = plan(MIXED), plan(MIXED.with_(changes))
    assert others(few) == others(many)
    assert few.actions != many.actions


def test_chatrooms_leave_what_does_not_go_to_them_as_it_was() -> None:
    without, with_rooms = plan(BUSY), plan(BUSY.with_(ROOMS))
    for column in ("at", "sender", "device", "size", "type"):
        assert np.array_equal(getattr(without, column), getattr(with_rooms, column)), column
    assert with_rooms.conversations[:20] == without.conversations[:20]
    before = [without.conversations[c] for c in without.conversation]
    after = [with_rooms.conversations[c] for c in with_rooms.conversation]
    moved = [(one.scene, other.scene) for one, other in zip(before, after, strict=True) if one != other]
    assert len(moved) == with_rooms.to_room.sum() > 300
    assert {scene for _, scene in moved} == {"chatroom"}
    assert {scene for scene, _ in moved} == {"group", "p2p"}  # p2p: of those who are in no group


def test_more_chatrooms_and_larger_ones_leave_the_first_nearly_as_they_were() -> None:
    few, many = plan(MIXED), plan(MIXED.with_({"conversations.rooms": 9}))
    assert few.rooms == many.rooms[:3]
    assert [action for action in few.actions if action.intent < 0] == [a for a in many.actions if a.intent < 0]


def test_another_rate_leaves_partners_groups_and_chatrooms() -> None:
    assert plan(MIXED).rooms == plan(MIXED.with_({"workload.rate": 6.0})).rooms
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
    for scenario in (Scenario(), OFFICE, Scenario.load("hot-group"), Scenario.load("social")):
        p = plan(scenario, duration=1e-9)
        assert len(p) == 0
        assert [getattr(p, column).dtype for column in COLUMNS] == DTYPES
        assert len(p.entitled().intent) == 0
        assert len(p.to_room) == len(p.actions) == 0
        assert len(p.conversations) == scenario.conversations.groups + scenario.conversations.rooms


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


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"workload.rate": 1e3, "workload.recalls": 0.5, "workload.edits": 0.5}, "workload.recalls and workload.edits"),
        ({"conversations.friend_requests": 1e3}, "conversations.friend_requests"),
        ({"conversations.churn": 1e3, "conversations.groups": 1000}, "conversations.churn"),
    ],
)
def test_too_many_actions_are_refused_by_the_field_that_makes_them(changes, field: str) -> None:
    with pytest.raises(UsageError, match=rf"^scenario office: .* are too many for one run; lower {field}$"):
        plan(OFFICE.with_(changes), duration=1000)


def test_messages_of_one_nanosecond_stand_in_their_senders_order() -> None:
    crowded = plan(Scenario().with_({"workload.rate": 1e6}), duration=1e-4)
    assert (np.diff(crowded.at) == 0).sum() > 100
    assert (np.lexsort((crowded.sender, crowded.at)) == np.arange(len(crowded))).all()
