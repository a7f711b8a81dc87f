import math

import pytest

from imsim import Budget, UsageError


@pytest.mark.parametrize(
    ("text", "metric", "bound", "again"),
    [
        ("delivery.p99 < 200ms", "delivery.p99", 200, "delivery.p99 < 200ms"),
        ("ack.p95<=0.05s", "ack.p95", 50, "ack.p95 <= 0.05s"),
        (" delivery.p99.9 <= 1.5 s ", "delivery.p99.9", 1500, "delivery.p99.9 <= 1.5 s"),
        ("lost <= 0", "lost", 0, "lost <= 0"),
        ("delivered >= 1e3", "delivered", 1000, "delivered >= 1e3"),
        ("mine > 0.5", "mine", 0.5, "mine > 0.5"),
    ],
)
def test_budget_is_parsed_from_text(text, metric, bound, again):
    budget = Budget(text)
    assert (budget.metric, budget.bound, str(budget)) == (metric, bound, again)
    assert repr(budget) == f"Budget({again!r})"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a metric"),
        ("delivery.p99", "delivery.p99 < 200ms"),
        ("< 5", "expected a metric"),
        ("delivery.p99 = 5ms", "one of"),
        ("delivery.p99 < 200", "unit, such as 200ms"),
        ("delivery.p99 < 0", "unit, such as 200ms"),
        ("delivery.p99 < fast", "'fast'"),
        ("lost <= 2ms", "a plain number \\(got '2ms'"),
        ("lost <= nan", "a plain number \\(got 'nan'"),
        ("p99 < 300ms", r"^budget 'p99 < 300ms': unknown metric 'p99' .*'delivery\.p99', .* or 'ack\.p99'\?"),
        ("delivery.p999 < 300ms", r"unknown metric 'delivery\.p999' .*'delivery\.p99'"),
        ("late < 300ms", "unknown metric 'late'; the bound of your own metric is a plain number"),
    ],
)
def test_budget_refuses_bad_text(text, words):
    with pytest.raises(UsageError, match=words):
        Budget(text)


def test_budget_is_kept_by_run_or_fails_with_message(delivered):
    run = delivered(100, 200)
    assert Budget("delivery.max <= 200ms").fails(run) is None
    assert Budget("delivery.max < 200ms").fails(run) == "delivery.max < 200ms: measured 200 ms"
    assert Budget("lost <= 0").fails(run) is None
    assert "never arrived" in Budget("ack.p99 < 1s").fails(delivered(1, None))
    assert "nothing to measure" in Budget("ack.p99 < 1s").fails(delivered())
    with pytest.raises(UsageError, match="metric 'mine': unknown"):
        Budget("mine < 3").fails(run)


def test_budget_judges_replications_by_interval_of_mean():
    budget = Budget("delivery.p99 < 10ms")
    assert budget.judge([8.0, 8.1, 8.2]) == "keeps"
    assert budget.judge([11.8, 12.1, 12.2]) == "breaks"
    assert budget.judge([8.0, 11.0, 9.0]) == "undecided"
    assert budget.judge([8.0]) == "undecided"
    assert Budget("delivered > 10").judge([12.0, 12.1, 12.2]) == "keeps"


def test_budget_refuses_single_replication():
    """It would never fail."""

    class One:
        def values(self, metric):
            return [12.0]

    with pytest.raises(UsageError, match="one replication has no interval; use two or more"):
        Budget("delivery.p99 < 10ms").fails(One())


def test_infinite_value_in_any_replication_breaks_upper_bound():
    assert Budget("delivery.p99 < 10ms").judge([8.0, math.inf]) == "breaks"
    assert Budget("delivery.p99 < 10ms").judge([8.0, math.nan]) == "undecided"


def test_single_loss_breaks_budget_of_zero():
    assert Budget("lost <= 0").judge([0.0, 0.0, 1.0]) == "breaks"
    assert Budget("lost < 0").judge([0.0, 0.0]) == "breaks"
    assert Budget("lost <= 0").judge([0.0, 0.0]) == "keeps"
    assert Budget("lost > 0").judge([0.0, 1.0]) == "keeps"
    assert Budget("mine <= 0").judge([-5.0, 1.0, -5.0]) == "undecided", "a function of the user's may be negative"
