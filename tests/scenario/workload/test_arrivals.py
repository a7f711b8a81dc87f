import math

import numpy as np
import pandas as pd
import pytest
from scenario.workload.plans import BUSY, MIXED, OFFICE, same
from scipy import stats

from imsim.core.exceptions import UsageError
from imsim.scenario import Plan, Scenario, plan

BURSTS = {"kind": "bursts", "factor": 10, "every": "3s", "lasting": "500ms"}
CURVE = {"kind": "curve", "points": [["0s", 0.2], ["1s", 1.0], ["2s", 1.0], ["2s", 0.5]], "period": "4s"}
RAMP = {"kind": "ramp", "start": 0.0, "end": 2.0, "over": "5s"}
REPLAY = {"kind": "replay", "at": [0.25, 0.25, 9.0, 3.5]}
SHAPES = [BURSTS, CURVE, RAMP]


def shaped(arrivals: object, **changes: object) -> Scenario:
    return BUSY.replace({"workload.arrivals": arrivals} | changes)


def by_sender(p: Plan) -> list[tuple[int, ...]]:
    """Return the messages without their times, ordered by sender."""
    order = np.argsort(p.sender, kind="stable")
    columns = (p.sender, p.device, p.type, p.size)
    who = [p.conversations[number].id for number in p.conversation[order]]
    return list(zip(*(column[order].tolist() for column in columns), who, strict=True))


def test_arrivals_of_each_user_are_a_poisson_process() -> None:
    p = plan(Scenario().replace({"population.users": 400, "workload.rate": 2.0, "duration": 100.0}))
    counts = np.bincount(p.sender, minlength=400)
    assert counts.mean() == pytest.approx(200, abs=4 * math.sqrt(200 / 400))
    dispersion = counts.var(ddof=1) / counts.mean() * 399
    assert 1e-4 < stats.chi2.cdf(dispersion, 399) < 1 - 1e-4
    assert stats.kstest(p.at, "uniform", args=(0, 100e9)).pvalue > 1e-4
    gaps = np.concatenate([np.diff(p.at[p.sender == user]) for user in range(400)])
    assert stats.kstest(gaps[gaps < 3e9] / 1e9, stats.truncexpon(6, scale=0.5).cdf).pvalue > 1e-4


def test_plan_does_not_depend_on_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan(BUSY)
    monkeypatch.setattr("imsim.scenario.workload.arrivals._BLOCK", 700)
    assert same(whole, plan(BUSY))


def test_messages_of_one_nanosecond_are_ordered_by_sender() -> None:
    crowded = plan(Scenario().replace({"workload.rate": 1e6}), duration=1e-4)
    assert (np.diff(crowded.at) == 0).sum() > 100
    assert (np.lexsort((crowded.sender, crowded.at)) == np.arange(len(crowded))).all()


# --- shapes of the rate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrivals", SHAPES)
def test_shape_keeps_messages_and_changes_their_times(arrivals: object) -> None:
    """All users have the same change of time, so one seed gives the same work at other times."""
    steady, moved = plan(BUSY), plan(shaped(arrivals))
    for user in range(100):
        one, other = (np.flatnonzero(p.sender == user) for p in (steady, moved))
        both = min(len(one), len(other))
        assert both > 10
        for column in ("device", "size", "type"):
            assert (getattr(steady, column)[one[:both]] == getattr(moved, column)[other[:both]]).all()
    assert not np.array_equal(steady.at, moved.at)


@pytest.mark.parametrize("arrivals", [*SHAPES, REPLAY])
@pytest.mark.parametrize("duration", [0.3, 2.0, 9.0])
def test_shorter_plan_is_a_prefix_with_any_arrivals(arrivals: object, duration: float) -> None:
    scenario = MIXED.replace({"workload.arrivals": arrivals})
    long, short = plan(scenario), plan(scenario, duration=duration)
    assert len(short) == np.searchsorted(long.at, duration * 1e9)
    assert same(short, long, len(short))


@pytest.mark.parametrize("arrivals", SHAPES)
def test_plan_with_a_shape_does_not_depend_on_block_size(arrivals: object, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan(shaped(arrivals))
    monkeypatch.setattr("imsim.scenario.workload.arrivals._BLOCK", 700)
    assert same(whole, plan(shaped(arrivals)))


def test_bursts_have_the_given_factor_and_share_of_time() -> None:
    arrivals = {"kind": "bursts", "factor": 20, "every": "10s", "lasting": "1s"}
    p = plan(shaped(arrivals, duration=2000.0, **{"workload.rate": 0.2}))
    assert len(p) == pytest.approx(0.2 * 100 * 2000, rel=0.1)  # some 200 bursts of random length
    often = np.bincount((p.at // 100_000_000).astype(int), minlength=20_000)  # messages in each tenth of a second
    quiet = 20 * 0.1 / (1 + 19 * 0.1)  # bursts take a tenth of the time and have 20 times the rate
    is_burst = often > 4 * quiet + 2
    assert is_burst.mean() == pytest.approx(0.1, rel=0.3)
    assert often[is_burst].mean() == pytest.approx(20 * quiet, rel=0.2)
    assert often[~is_burst].mean() == pytest.approx(quiet, rel=0.2)
    starts = np.flatnonzero(np.diff(is_burst.astype(int)) == 1)
    assert len(starts) == pytest.approx(200, rel=0.3)
    assert stats.variation(np.diff(starts)) == pytest.approx(1, abs=0.25)  # nearly exponential


def test_curve_has_its_levels_and_the_mean_rate() -> None:
    p = plan(shaped(CURVE, duration=400.0, **{"workload.rate": 1.0}))
    assert len(p) == pytest.approx(40_000, abs=5 * 200)
    # Calculated by hand: from 0.2 to 1 in a second, a second at 1, then from 0.5 to 0.2 in two seconds.
    areas = np.array([0.6, 1.0, (0.5 + 0.35) / 2, (0.35 + 0.2) / 2])
    often = np.bincount((p.at // 1_000_000_000 % 4).astype(int))
    assert stats.chisquare(often, areas / areas.sum() * len(p)).pvalue > 1e-4
    within = (p.at % 4_000_000_000) / 1e9
    rising = within[within < 1]
    assert stats.kstest(rising, lambda x: (0.2 * x + 0.4 * x**2) / 0.6).pvalue > 1e-4


def test_curve_of_one_point_is_steady_and_level_zero_is_empty() -> None:
    steady = plan(BUSY)
    assert np.abs(plan(shaped({"kind": "curve", "points": [["1h", 7]]})).at - steady.at).max() <= 1
    gap = {"kind": "curve", "points": [[0, 1], [1, 1], [1, 0], [3, 0], [3, 1]], "period": 4}
    p = plan(shaped(gap))
    assert len(p) > 1000
    assert set((p.at // 1_000_000_000 % 4).tolist()) == {0, 3}


def test_ramp_rises_and_then_stays_constant() -> None:
    p = plan(shaped(RAMP, duration=20.0, **{"workload.rate": 20.0}))
    seconds = p.at / 1e9
    rising, steady = seconds[seconds < 5], seconds[seconds >= 5]
    assert len(rising) == pytest.approx(10_000, abs=500)
    assert len(steady) == pytest.approx(60_000, abs=1250)
    assert stats.kstest(rising, lambda x: x**2 / 25).pvalue > 1e-4
    assert stats.kstest(steady, "uniform", args=(5, 15)).pvalue > 1e-4
    silent = plan(shaped({"kind": "ramp", "start": 1, "end": 0, "over": 2}))
    assert silent.at[-1] < 2e9


@pytest.mark.parametrize("arrivals", SHAPES)
def test_when_is_the_inverse_of_expected(arrivals: object) -> None:
    shape = shaped(arrivals).workload.arrivals.shape(seed=3, duration=20.0)
    times = np.linspace(0.001, 19.9, 997)
    expected = np.array([shape.expected(time) for time in times])
    assert (np.diff(expected) > 0).all()
    assert shape.when(expected) == pytest.approx(times, abs=1e-9)
    assert shape.expected(0.0) == 0


# --- recorded moments -----------------------------------------------------------------------------------------------


def test_moments_are_replayed_by_random_users() -> None:
    p = plan(shaped(REPLAY))
    assert p.at.tolist() == [250_000_000, 250_000_000, 3_500_000_000, 9_000_000_000]
    many = plan(shaped(np.linspace(0, 9.9, 5000)))
    assert stats.chisquare(np.bincount(many.sender, minlength=100)).pvalue > 1e-4
    assert np.median(many.size) == pytest.approx(60, rel=0.1)
    assert len({many.conversations[c].id for c in many.conversation[many.sender == 7]}) == 5
    assert len(plan(shaped([5.0]), duration=1.0)) == 0


def test_moments_of_a_run_or_a_file_are_replayed(tmp_path) -> None:
    intended = np.arange(40) * 100_000_000
    pd.DataFrame({"intended_at": intended}).to_parquet(tmp_path / "messages.parquet")
    from_run = OFFICE.replace({"workload.arrivals": {"kind": "replay", "run": str(tmp_path)}})
    assert plan(from_run).at.tolist() == intended.tolist()
    (tmp_path / "log.txt").write_text("".join(f"{ns / 1e9}\n" for ns in intended) + "\n")
    assert from_run == OFFICE.replace({"workload.arrivals": {"kind": "replay", "file": str(tmp_path / "log.txt")}})
    assert from_run == OFFICE.replace({"workload.arrivals": pd.Series(intended) / 1e9})
    assert from_run == OFFICE.replace({"workload.arrivals": (intended / 1e9).tolist()})
    (tmp_path / "log.txt").write_text("\n".join(f"2026-02-03T04:05:{ns / 1e9:09.6f}Z" for ns in intended), "utf-8-sig")
    assert from_run == OFFICE.replace({"workload.arrivals": {"kind": "replay", "file": str(tmp_path / "log.txt")}})
    # The scenario is complete without the files.
    assert Scenario.from_toml(from_run.to_toml(), name="office") == from_run


# --- as fields ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrivals", ["poisson", *SHAPES, REPLAY])
def test_written_arrivals_are_read_back_equal(arrivals: object) -> None:
    scenario = shaped(arrivals)
    assert Scenario.from_toml(scenario.to_toml(), name="office") == scenario
    assert scenario.replace({"seed": 2}).workload.arrivals == scenario.workload.arrivals


def test_override_replaces_one_kind_by_another() -> None:
    assert shaped(CURVE).replace({"workload.arrivals": RAMP}) == shaped(RAMP)
    assert shaped(CURVE).replace({"workload.arrivals": "poisson"}) == BUSY
    assert shaped(RAMP).replace({"workload.arrivals.over": "1min"}).workload.arrivals.over == 60


KINDS = "a kind of poisson, bursts, curve, ramp, replay, or a column of moments"


@pytest.mark.parametrize(
    ("arrivals", "text"),
    [
        ("sometimes", f"workload.arrivals: expected {KINDS}, got 'sometimes'"),
        (3, f"workload.arrivals: expected {KINDS}, got 3"),
        (pd.Timestamp("2026-02-03"), f"workload.arrivals: expected {KINDS}, got Timestamp"),
        ({"factor": 3}, f"workload.arrivals: expected {KINDS}, got a table without 'kind'"),
        (BURSTS | {"factor": 1}, "workload.arrivals.factor: expected more than 1, got 1"),
        (BURSTS | {"lasting": "3s"}, "workload.arrivals: expected lasting < every, got lasting = 3 s and every = 3 s"),
        (BURSTS | {"ever": 3}, r"workload.arrivals.ever: unknown field \(did you mean 'every'\?\); known here: kind, "),
        ("bursts", "workload.arrivals.factor: missing"),
        (CURVE | {"points": []}, "workload.arrivals: expected points ordered by time, from 0 to the period"),
        (CURVE | {"points": [[1, 1], [0, 1]]}, "workload.arrivals: expected points ordered by time"),
        (CURVE | {"points": [[5, 1]]}, r"workload.arrivals: expected points .*, from 0 to the period \(4 s\)"),
        (CURVE | {"points": [[1, 0]]}, "workload.arrivals: expected at least one point with a level above 0"),
        (CURVE | {"points": [[1, -1]]}, "workload.arrivals: expected points such as .* got .1, -1."),
        (CURVE | {"points": [1, 2]}, "workload.arrivals: expected points such as .* got 1$"),
        (CURVE | {"points": [["noon", 2]]}, "workload.arrivals.points.0.0: expected a duration"),
        (RAMP | {"end": 0}, "workload.arrivals: expected start or end above 0"),
        (RAMP | {"end": -1}, "workload.arrivals.end: expected at least 0, got -1"),
        ("replay", r"workload.arrivals: expected one of at \(moments\), run \(a run's folder\) and file"),
        (REPLAY | {"run": "x"}, "workload.arrivals: expected one of at"),
        ({"kind": "replay", "run": "nowhere"}, "workload.arrivals: expected a run's folder, but nowhere contains no"),
        ({"kind": "replay", "file": "nowhere"}, "workload.arrivals: expected a text file with one moment on each line"),
        ({"kind": "replay", "file": 3}, "workload.arrivals: expected the path of a file, got 3"),
    ],
)
def test_error_names_arrivals_and_expected_value(arrivals: object, text: str) -> None:
    with pytest.raises(UsageError, match=f"^scenario office: {text}") as error:
        shaped(arrivals)
    assert len(str(error.value).splitlines()) == 1 or arrivals == "bursts"


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ("poisson", 60.0),
        (BURSTS, 60.0),
        ({"kind": "ramp", "start": 0.0, "end": 2.0, "over": "12s"}, 30.0),
        ({"kind": "curve", "points": [["0s", 3.0], ["6s", 3.0], ["6s", 1.0], ["12s", 1.0]], "period": "12s"}, 90.0),
        ([0.0, 1.0, 5.9, 6.0, 7.0], 3.0),
    ],
)
def test_arrivals_expect_messages_without_chance(arrivals: object, expected: float) -> None:
    assert shaped(arrivals).workload.arrivals.expected(6.0, 10.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arrivals", "since", "until", "is_even"),
    [
        ("poisson", 0, 6, True),
        (BURSTS, 0, 6, True),
        (RAMP, 0, 5, False),
        (RAMP, 5, 9, True),
        (CURVE, 1, 2, True),
        (CURVE, 1, 3, False),
        (CURVE | {"points": [["0s", 0.0], ["2s", 0.0], ["3s", 1.0]]}, 0, 1, False),  # nothing arrives
        ([number / 100 for number in range(1_000)], 0, 10, True),
        (sorted(np.random.default_rng(1).uniform(0, 10, 1_000)), 0, 10, True),
        ([(number / 320) ** 2 for number in range(1_000)], 0, 10, False),
    ],
)
def test_arrivals_are_even_if_the_blocks_of_a_time_have_as_many_messages(
    arrivals: object, since: float, until: float, is_even: bool
) -> None:
    assert shaped(arrivals).workload.arrivals.is_even(since, until) is is_even


def test_too_many_arrivals_are_refused() -> None:
    with pytest.raises(UsageError, match="too many for one run"):
        plan(shaped({"kind": "ramp", "start": 0, "end": 1e6, "over": "1s"}), duration=1000)
    with pytest.raises(UsageError, match=r"expected at most 1e\+07 bursts in a run, got 1e\+09; raise every"):
        plan(shaped(BURSTS | {"every": "1us", "lasting": "1ns"}), duration=1000)
