"""The online periods of devices, and their effect on plans."""

import numpy as np
import pytest
from scenario.workload.plans import BUSY, MIXED, same
from scipy import stats

from imsim.core.exceptions import UsageError
from imsim.scenario import OnlinePeriods, Plan, Scenario, plan
from imsim.scenario.workload.online_periods import NEVER

ONLINE, OFFLINE = {"kind": "exponential", "mean": "4s"}, {"kind": "uniform", "low": "1s", "high": "3s"}
SESSIONS = {"online": ONLINE, "offline": OFFLINE}


def with_sessions(**changes: object) -> Scenario:
    return MIXED.replace({"population.sessions": SESSIONS | changes})


def online_periods(seed: int = 1, duration: float = 200.0, devices: int = 300, **changes: object) -> OnlinePeriods:
    scenario = Scenario().replace({"population.users": devices, "population.sessions": SESSIONS | changes})
    drawn = OnlinePeriods.drawn(scenario, seed, duration)
    assert drawn is not None
    return drawn


def lengths(s: OnlinePeriods) -> dict[bool, np.ndarray]:
    """Return the lengths of online and offline periods, without the first and last one of each device."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for device, online in enumerate(s.is_online_first.tolist()):
        at = s.at[s.first[device] : s.first[device + 1]] / 1e9
        for nth, length in enumerate(np.diff(at)):
            found[online ^ (nth % 2 == 0)].append(length)
    return {online: np.array(some) for online, some in found.items()}


def test_devices_are_always_online_by_default() -> None:
    assert plan(BUSY).online_periods is None


def test_periods_have_the_lengths_of_the_scenario() -> None:
    drawn = lengths(online_periods(duration=1000.0))
    # The end cuts long periods more often, but no period is longer than a fiftieth of the 1,000 s.
    assert stats.kstest(drawn[True], "expon", args=(0, 4)).pvalue > 1e-4
    assert stats.kstest(drawn[False], "uniform", args=(1, 2)).pvalue > 1e-4


def test_periods_without_start_begin_in_the_steady_state() -> None:
    """At any time, including 0, two thirds of the devices are online; the others are at random points of a period."""
    s = online_periods(devices=6000)
    everybody = np.arange(6000)
    for at in (0, 10**9, 10**11):
        assert s.is_online(everybody, at).mean() == pytest.approx(2 / 3, abs=5 * np.sqrt(2 / 9 / 6000))
    offline = everybody[~s.is_online_first]
    left = s.online_from(offline, np.zeros(len(offline), np.int64)) / 1e9
    # The residual time of uniform(1, 3): its density is constant up to 1, then falls to 0 at 3.
    assert stats.kstest(left, lambda x: np.where(x < 1, x / 2, 1 - (3 - x) ** 2 / 8)).pvalue > 1e-4


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_periods_with_start_are_new_at_time_zero(share: float) -> None:
    s = online_periods(start=share, devices=2000)
    assert s.is_online_first.mean() == pytest.approx(share, abs=0.05)
    assert s.is_online_first.mean() == share or 0 < share < 1
    offline = np.flatnonzero(~s.is_online_first)
    back = s.online_from(offline, np.zeros(len(offline), np.int64)) / 1e9
    if len(offline):
        assert stats.kstest(back, "uniform", args=(1, 2)).pvalue > 1e-4


def test_online_state_is_known_at_any_time() -> None:
    s = OnlinePeriods(
        end=100, is_online_first=np.array([True, False]), first=np.array([0, 3, 4]), at=np.array([10, 20, 90, 50])
    )
    ask = lambda device, *at: s.is_online(np.full(len(at), device), np.array(at)).tolist()  # noqa: E731
    assert ask(0, 0, 9, 10, 19, 20, 89, 90, 100) == [True, True, False, False, True, True, False, False]
    assert ask(1, 0, 49, 50, 99) == [False, False, True, True]
    device, at = np.array([0, 0, 0, 0, 1, 1]), np.array([5, 10, 30, 95, 7, 60])
    assert s.online_from(device, at).tolist() == [5, 20, 30, NEVER, 50, 60]
    assert s.is_online_at_end(np.array([0, 1])).tolist() == [False, True]
    assert s.is_online_throughout(device, at, at + 5).tolist() == [False, False, True, False, False, True]
    assert list(s.changes()) == [(10, 0, False), (20, 0, True), (50, 1, True), (90, 0, False)]


def test_users_send_on_devices_that_are_online() -> None:
    p = plan(with_sessions())
    device = p.sender.astype(np.int64) * 3 + p.device
    assert p.online_periods.is_online(device, p.at).all()
    without = plan(MIXED)
    assert len(without) * 0.9 < len(p) < len(without)  # all of three devices are offline with probability 1/27
    often = np.bincount(p.device, minlength=3)
    assert stats.chisquare(often).pvalue > 1e-4


def test_online_periods_do_not_change_remaining_messages() -> None:
    before, after = plan(MIXED), plan(with_sessions())
    there = np.isin(before.at, after.at)
    assert there.sum() == len(after)
    for column in ("at", "sender", "type", "size"):
        assert np.array_equal(getattr(before, column)[there], getattr(after, column)), column
    ids = [[p.conversations[c].id for c in p.conversation] for p in (before, after)]
    assert [id for id, kept in zip(ids[0], there.tolist(), strict=True) if kept] == ids[1]


@pytest.mark.parametrize("duration", [0.5, 3.0, 9.9])
def test_shorter_plan_with_online_periods_is_a_prefix(duration: float) -> None:
    long, short = plan(with_sessions()), plan(with_sessions(), duration=duration)
    assert same(short, long, len(short))
    assert len(short) == np.searchsorted(long.at, duration * 1e9)
    assert list(short.online_periods.changes()) == [
        change for change in long.online_periods.changes() if change[0] < duration * 1e9
    ]


def test_online_periods_do_not_depend_on_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = online_periods()
    monkeypatch.setattr("imsim.scenario.workload.online_periods._BLOCK", 700)
    assert list(online_periods().changes()) == list(whole.changes())


def test_additional_device_does_not_change_others() -> None:
    few, many = list(online_periods(devices=100).changes()), list(online_periods(devices=101).changes())
    assert few == [change for change in many if change[1] < 100]


def excused(p: Plan, is_stored: bool = True) -> dict[tuple[int, int], bool]:
    intent, device, _ = (column.astype(np.int64) for column in p.entitled())
    found = p.is_excused(intent, device, np.full(len(p), is_stored))
    return dict(zip(zip(intent.tolist(), device.tolist(), strict=True), found.tolist(), strict=True))


def test_devices_offline_at_end_or_during_chatroom_message_are_excused() -> None:
    p = plan(with_sessions().replace({"workload.rate": 0.1}), duration=30.0)
    away = ~p.online_periods.is_online_at_end(np.arange(300))
    assert 50 < away.sum() < 150
    patience = 5_000_000_000
    some = excused(p)
    for (intent, device), is_excused in some.items():
        if not p.to_room[intent]:
            assert is_excused == away[device]
        else:
            at = int(p.at[intent])
            changes = p.online_periods.at[p.online_periods.first[device] : p.online_periods.first[device + 1]]
            calm = not ((changes > at - patience) & (changes <= at + patience)).any()
            assert is_excused == (away[device] or not calm or not p.online_periods.is_online(np.array([device]), at)[0])
    own = p.sender.astype(int) * 3 + p.device
    kept_back = excused(p, is_stored=False)
    assert all(kept_back[key] == (some[key] or away[own[key[0]]]) for key in some)
    assert not any(excused(plan(MIXED)).values())


def test_written_sessions_are_read_back_and_single_fields_can_be_set() -> None:
    scenario = with_sessions(start=0.5)
    assert Scenario.from_toml(scenario.to_toml(), name="office") == scenario
    assert "population.sessions" not in BUSY.to_toml()
    at_once = BUSY.replace({"population.sessions.online": "4s", "population.sessions.offline": "2s"})
    assert at_once.population.sessions.offline.value == 2
    assert at_once.replace({"population.sessions": None}) == BUSY


@pytest.mark.parametrize(
    ("sessions", "text"),
    [
        ({"online": "4s"}, "population.sessions.offline: missing"),
        ({"online": "4s", "offline": 0}, "population.sessions.offline: expected a mean of more than 0 s, got 0 s"),
        (SESSIONS | {"start": 1.5}, "population.sessions.start: expected at most 1, got 1.5"),
        (
            SESSIONS | {"stat": 1},
            r"population.sessions.stat: unknown field \(did you mean 'start'\?\); known here: online, ",
        ),
        (3, "population.sessions: expected a table, got 3"),
    ],
)
def test_error_names_field_of_sessions(sessions: object, text: str) -> None:
    with pytest.raises(UsageError, match=f"^scenario office: {text}"):
        BUSY.replace({"population.sessions": sessions})


def test_too_many_online_periods_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"periods are too many for one run \(at most 2e\+07\); raise population\.sessions\.online$"
    ):
        online_periods(online="1us", offline="1us", duration=1000.0)
