import numpy as np
import pytest
from scenario.workload.plans import BUSY, COLUMNS, DTYPES, MIXED, OFFICE, ROOMS, SOCIAL, same
from scipy import stats

from imsim.core.exceptions import UsageError
from imsim.core.model import conversation_id
from imsim.scenario import Constant, Plan, Scenario, plan

# --- the columns ----------------------------------------------------------------------------------------------------


def test_columns_have_their_types_and_order() -> None:
    p = plan(BUSY)
    assert [getattr(p, column).dtype for column in COLUMNS] == DTYPES
    assert {len(getattr(p, column)) for column in COLUMNS} == {len(p)}
    assert p.users == [f"u{i}" for i in range(100)]
    assert p.devices == ["d0", "d1", "d2"]
    assert p.device_index(7, 2) == 23
    assert p.user_and_device(23) == (7, 2)
    assert p.sending_devices.tolist() == [p.device_index(*pair) for pair in zip(p.sender, p.device, strict=True)]
    assert (np.lexsort((p.sender, p.at)) == np.arange(len(p))).all()
    assert p.at[0] >= 0
    assert p.at[-1] < 10e9
    assert set(p.device) == {0, 1, 2}
    assert (p.size >= 1).all()
    assert (p.size <= 16384).all()


def test_sender_is_a_member_of_the_conversation() -> None:
    p = plan(BUSY)
    for sender, index in zip(p.sender.tolist(), p.conversation.tolist(), strict=True):
        conversation = p.conversations[index]
        assert sender in conversation.members
        assert conversation.id == conversation_id(conversation.scene, p.users[sender], conversation.to(sender))
        assert conversation.to(sender) != p.users[sender]


def test_conversations_are_groups_followed_by_pairs_in_order_of_first_message() -> None:
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


def test_partners_share_one_conversation() -> None:
    p = plan(Scenario().replace({"population.users": 2, "workload.rate": 5.0}))
    assert [c.id for c in p.conversations] == ["p2p:u0:u1"]
    assert set(p.sender) == {0, 1}
    assert [p.conversations[0].to(user) for user in (0, 1)] == ["u1", "u0"]


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_message_sizes_are_bounded_by_limit() -> None:
    assert plan(BUSY.replace({"limits.content_bytes": 100})).size.max() == 100
    assert plan(BUSY.replace({"workload.size": Constant(value=1.4)})).size.max() == 1


def test_office_has_a_few_hundred_messages() -> None:
    p = plan(OFFICE)
    assert 200 < len(p) < 500
    sizes = [len(c.members) for c in p.conversations[:20]]
    assert min(sizes) == 3
    assert max(sizes) <= 20


# --- types of messages ----------------------------------------------------------------------------------------------


def test_message_types_have_their_shares() -> None:
    shares = {"text": 5, "image": 0, "video": 3, "custom": 2}
    p = plan(BUSY.replace({"workload.rate": 10.0, "workload.types": shares}))
    assert p.types == ["text", "image", "video", "custom"]
    often = np.bincount(p.type, minlength=4)
    assert often[1] == 0
    assert stats.chisquare(often[[0, 2, 3]], np.array([0.5, 0.3, 0.2]) * len(p)).pvalue > 1e-4
    assert plan(BUSY).types == ["text"]
    last_is_none = plan(BUSY.replace({"workload.types": {"text": 0.1, "image": 0.2, "custom": 0}}))
    assert set(last_is_none.type) == {0, 1}


def test_plan_does_not_depend_on_order_of_types() -> None:
    one = Scenario.from_toml("workload = { types = { text = 1, image = 2, geo = 3 } }")
    other = Scenario.from_toml("workload = { types = { geo = 3, image = 2, text = 1 } }")
    assert one == other
    assert same(plan(one), plan(other))
    assert plan(one).types == plan(other).types


# --- common random numbers ------------------------------------------------------------------------------------------


def test_plan_depends_on_scenario_and_seed_only() -> None:
    assert same(plan(MIXED), plan(MIXED))
    assert plan(MIXED).conversations == plan(MIXED).conversations
    assert plan(MIXED).actions == plan(MIXED).actions != plan(MIXED, seed=7).actions
    assert same(plan(BUSY, seed=7), plan(BUSY.replace({"seed": 7})))
    assert not same(plan(BUSY), plan(BUSY, seed=7))


@pytest.mark.parametrize("duration", [0.001, 0.1, 1, 9.99])
def test_shorter_plan_is_a_prefix(duration: float) -> None:
    long, short = plan(MIXED), plan(MIXED, duration=duration)
    assert len(short) == np.searchsorted(long.at, duration * 1e9)
    assert same(short, long, len(short))
    assert short.conversations == long.conversations[: len(short.conversations)]
    assert short.actions == [action for action in long.actions if action.at < duration * 1e9]
    assert same(short, plan(MIXED.replace({"duration": duration, "warmup": 0})))


def test_additional_user_hardly_changes_others() -> None:
    few, many = plan(BUSY), plan(BUSY.replace({"population.users": 101}))
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
def test_other_activities_do_not_change_messages(field: str) -> None:
    before, after = plan(BUSY), plan(BUSY.replace({field: SOCIAL[field]}))
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
def test_one_kind_of_action_does_not_change_others(changes, kinds: set[str]) -> None:
    def others(p: Plan) -> list:
        return [action for action in p.actions if action.kind in kinds]

    few, many = plan(MIXED), plan(MIXED.replace(changes))
    assert others(few) == others(many)
    assert few.actions != many.actions


def test_chatrooms_do_not_change_messages_to_others() -> None:
    without, with_rooms = plan(BUSY), plan(BUSY.replace(ROOMS))
    for column in ("at", "sender", "device", "size", "type"):
        assert np.array_equal(getattr(without, column), getattr(with_rooms, column)), column
    assert with_rooms.conversations[:20] == without.conversations[:20]
    before = [without.conversations[c] for c in without.conversation]
    after = [with_rooms.conversations[c] for c in with_rooms.conversation]
    moved = [(one.scene, other.scene) for one, other in zip(before, after, strict=True) if one != other]
    assert len(moved) == with_rooms.to_room.sum() > 300
    assert {scene for _, scene in moved} == {"chatroom"}
    assert {scene for scene, _ in moved} == {"group", "p2p"}  # p2p: messages of users without a group


def test_additional_chatrooms_do_not_change_first_ones() -> None:
    few, many = plan(MIXED), plan(MIXED.replace({"conversations.rooms": 9}))
    assert few.rooms == many.rooms[:3]
    assert [action for action in few.actions if action.intent < 0] == [a for a in many.actions if a.intent < 0]


def test_rate_does_not_change_partners_groups_and_chatrooms() -> None:
    assert plan(MIXED).rooms == plan(MIXED.replace({"workload.rate": 6.0})).rooms
    slow, fast = plan(BUSY), plan(BUSY.replace({"workload.rate": 6.0}))
    assert slow.conversations[:20] == fast.conversations[:20]
    assert {c.id for c in slow.conversations} <= {c.id for c in fast.conversations}
    # Twice the rate gives the same process in half the time.
    half = np.sort(fast.at[: len(slow)] * 2)
    assert np.abs(half[:100] - slow.at[:100]).max() <= 2


# --- entitled devices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 3])
def test_all_devices_of_members_except_the_sending_one_are_entitled(devices: int) -> None:
    p = plan(BUSY.replace({"population.devices": devices}))
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


def test_empty_plan_has_all_columns() -> None:
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
        (
            {"duration": 1e9},
            r"^scenario office: 3e\+11 messages are too many for one run \(at most 2e\+08\); lower workload\.rate",
        ),
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
def test_error_about_too_many_actions_names_their_field(changes, field: str) -> None:
    with pytest.raises(
        UsageError, match=rf"^scenario office: .* are too many for one run \(at most 2e\+07\); lower {field}$"
    ):
        plan(OFFICE.replace(changes), duration=1000)
