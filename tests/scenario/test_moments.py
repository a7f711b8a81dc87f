"""The formats of moments, and the errors about other columns."""

from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from imsim.scenario import Empirical, Scenario
from imsim.scenario.moments import moments

TEXTS = ["2026-02-03T04:05:08Z", "2026-02-03T04:05:06Z", "2026-02-03T05:05:06.25+01:00"]
AWARE = [datetime.fromisoformat(text) for text in TEXTS]
NAIVE = [one.astimezone(UTC).replace(tzinfo=None) for one in AWARE]
EPOCH = [one.timestamp() for one in AWARE]


@pytest.mark.parametrize(
    "column",
    [
        AWARE,
        NAIVE,
        tuple(TEXTS),
        [text.removesuffix("Z") for text in TEXTS[:2]] + ["2026-02-03 04:05:06.250"],
        EPOCH,
        np.array(EPOCH),
        np.array(NAIVE, dtype="datetime64[ms]"),
        list(np.array(NAIVE, dtype="datetime64[ns]")),
        pd.Series(NAIVE),
        pd.Series(NAIVE, index=[7, 8, 9], dtype="datetime64[ns]"),
        pd.Series(EPOCH),
        pd.Series(TEXTS),
        pd.to_datetime(TEXTS, utc=True, format="ISO8601"),
        pd.Series(pd.to_datetime(TEXTS, utc=True, format="ISO8601")).dt.tz_convert("Asia/Shanghai"),
        pd.DatetimeIndex(NAIVE),
        tomllib.loads(f"at = [{', '.join(TEXTS)}]")["at"],
        [timedelta(seconds=2), timedelta(0), timedelta(milliseconds=250)],
        pd.to_timedelta([2, 0, 0.25], unit="s"),
        [2, 0, 0.25],
        np.array([2, 0, 0.25], np.float32),
        pd.array([2, 0, 0.25], dtype="Float64"),
    ],
)
def test_moments_become_seconds_from_the_start(column):
    assert moments(column) == (0, 0.25, 2)
    assert Scenario().replace({"workload.arrivals": column}).workload.arrivals.at == (0, 0.25, 2)


def test_datetimes_keep_their_nanoseconds():
    start = pd.Timestamp("2026-02-03T04:05:06.000000001")
    late = start + pd.Timedelta(5_000_000_123, unit="ns")
    for column in ([start, late], pd.Series([start, late]), pd.Series([start, late]).dt.tz_localize("UTC")):
        assert moments(column) == (0, 5.000000123)


def test_numbers_are_epoch_seconds_if_all_of_them_are_above_1e9():
    assert moments([0.5, 1e9]) == (0.5, 1e9), (
        "numbers up to 1e9 are seconds from the start, and the first need not be 0"
    )
    assert moments([5.0]) == (5.0,)
    assert moments([1e9 + 1]) == (0,)
    assert moments([1_770_091_506, 1_770_091_500]) == (0, 6)


def test_datetimes_without_time_zone_keep_the_hour_of_a_clock_change():
    naive = [datetime(2026, 3, 29, 1, 59, 59), datetime(2026, 3, 29, 3, 0, 0)]  # one second apart in Berlin
    assert moments(naive) == (0, 3601)
    aware = [one.replace(tzinfo=timezone(timedelta(hours=hours))) for one, hours in zip(naive, (1, 2), strict=True)]
    assert moments(aware) == (0, 1)


EXPECTED = (
    "expected seconds from the start (0 to 1e9), epoch seconds (all of them above 1e9), or datetimes: those of Python, "
    "numpy or pandas, or ISO 8601 texts such as '2026-02-03T04:05:06Z', all with a time zone or all without, got "
)


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ([-1, 2], "numbers from -1 to 2"),
        ([0.5, 1e9 + 1], "numbers from 0.5 to 1e+09"),
        ([5.0, 1_770_091_506], "numbers from 5 to 1.77009e+09"),
        (np.array([1.2e9, 9.9e9]), "numbers from 1.2e+09 to 9.9e+09"),
        ([float("nan")], "a missing value"),
        ([0.5, None], "None"),
        (pd.Series([1, None], dtype="Int64"), "a missing value"),
        (pd.Series([*NAIVE, None]), "a missing value"),
        (pd.Series([None, AWARE[0]]), "a missing value"),
        ([*AWARE, None], "None among datetimes"),
        (["now"], "'now'"),
        (["5ms"], "'5ms'"),
        ([date(2026, 2, 3)], "datetime.date(2026, 2, 3)"),
        ([NAIVE[0], 5.0], "5.0 among datetimes"),
        ([NAIVE[0], AWARE[0]], "some with a time zone and some without"),
        ([1_770_091_506_000], "1.77e+12; if these are milliseconds, divide them by 1e3"),
        ([1_770_091_506_000_000], "1.77e+15; if these are microseconds, divide them by 1e6"),
        (
            pd.Series(NAIVE, dtype="datetime64[ns]").astype("int64"),
            "1.77e+18; if these are nanoseconds, divide them by 1e9",
        ),
    ],
)
def test_error_shows_the_value_that_is_not_a_moment(column, found):
    with pytest.raises(ValueError, match="expected") as error:
        moments(column)
    assert str(error.value) == EXPECTED + found


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ([], "expected at least one moment, got none"),
        (np.array(3.0), "expected one column of numbers or times, got array(3.)"),
        (
            pd.DataFrame({"a": [1]}),
            "expected one column of numbers or times, got a table with the column a; pass one column, as in table['a']",
        ),
        (
            pd.DataFrame({"at": [1.0], "n": [2]}),
            "expected one column of numbers or times, got a table with the columns at, n; pass one column, as in "
            "table['at']",
        ),
        (
            [datetime(1990, 1, 1), datetime(2024, 1, 1)],
            "expected datetimes less than 1e9 s (31 years) apart, got some that are 34 years apart",
        ),
        (
            pd.Series(pd.to_datetime(["1990-01-01", "2024-01-01"])),
            "expected datetimes less than 1e9 s (31 years) apart, got some that are 34 years apart",
        ),
        ([[1], [1, 2]], "expected one column of numbers or times, got a list"),
        ([b"x"], "expected numbers or times, got b'x'"),
        ([True], "expected numbers or times, got true"),
    ],
)
def test_error_shows_the_value_that_is_not_a_column(column, text):
    with pytest.raises(ValueError, match="expected") as error:
        moments(column)
    assert " ".join(str(error.value).split()) == text


def test_empirical_distribution_accepts_timedeltas():
    assert Empirical.of(pd.to_timedelta([3, 1], unit="ms")).values == (0.001, 0.003)
    assert Empirical.of([timedelta(seconds=2)]) == Empirical.of([2.0])
    with pytest.raises(ValueError, match="expected numbers or timedeltas, got datetimes"):
        Empirical.of(NAIVE)
