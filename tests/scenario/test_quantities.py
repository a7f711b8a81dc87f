import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.scenario.quantities import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250us", 0.00025),
        ("0.3ms", 0.0003),
        ("5ms", 0.005),
        ("7 ns", 7e-9),
        ("2s", 2.0),
        ("1.5min", 90.0),
        ("2h", 7200.0),
        (3, 3.0),
        (0.25, 0.25),
        (0, 0.0),
    ],
)
def test_durations_with_units_are_parsed(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "bad",
    ["5", "5 parsecs", "-1s", "", "ms", "1e3s", "1s 2s", -1, True, None, float("nan"), float("inf"), 10**400, [1]],
)
def test_error_shows_expected_formats(bad: object) -> None:
    with pytest.raises(
        ValueError, match=r"^expected a duration such as '250us', .*'2h', or a number of seconds, got "
    ) as e:
        parse_duration(bad)
    assert len(str(e.value)) < 180


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (75.0, "75s"), (86400.0, "24h"), (0.0003, "300us"), (0.5, "500ms"), (1.5, "1.5s"), (90.0, "90s")],
)
def test_durations_are_formatted_with_the_shortest_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(min_value=0, max_value=1e9))
def test_formatted_duration_is_parsed_as_the_same_float(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
