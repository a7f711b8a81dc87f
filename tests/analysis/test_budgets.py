import math

import pytest

from imsim import Budget, UsageError
from imsim.analysis.intervals import Estimate, estimate


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
def test_budget_is_a_text(text, metric, bound, again):
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
        ("delivery.p99 < 200", "unit, as in 200ms"),
        ("delivery.p99 < 0", "unit, as in 200ms"),
        ("delivery.p99 < fast", "'fast'"),
        ("lost <= 2ms", "a plain number, got '2ms'"),
        ("lost <= nan", "a plain number, got 'nan'"),
        ("p99 < 300ms", r"^budget 'p99 < 300ms': unknown metric 'p99' .* 'delivery\.p99', .* or 'ack\.p99'\?"),
        ("delivery.p999 < 300ms", r"unknown metric 'delivery\.p999' .*'delivery\.p99'"),
        (
            "late < 300ms",
            r"unknown metric 'late'; the bound of a metric of your own must be a plain number, got '300ms'",
        ),
    ],
)
def test_text_that_is_not_a_budget_is_refused(text, words):
    with pytest.raises(UsageError, match=words):
        Budget(text)


def test_run_keeps_a_budget_or_fails_with_a_message(delivered):
    run = delivered(100, 200)
    assert Budget("delivery.max <= 200ms").fails(run) is None
    assert Budget("delivery.max < 200ms").fails(run) == "delivery.max < 200ms: it is 200 ms"
    assert Budget("lost <= 0").fails(run) is None
    assert "never arrived" in Budget("ack.p99 < 1s").fails(delivered(1, None))
    assert "nothing to measure" in Budget("ack.p99 < 1s").fails(delivered())
    with pytest.raises(UsageError, match="unknown metric 'mine'"):
        Budget("mine < 3").fails(run)


def test_budget_judges_replications_by_the_interval_of_their_mean():
    budget = Budget("delivery.p99 < 10ms")
    assert budget.judge([8.0, 8.1, 8.2]) == "keeps"
    assert budget.judge([11.8, 12.1, 12.2]) == "breaks"
    assert budget.judge([8.0, 11.0, 9.0]) == "undecided"
    assert budget.judge([8.0]) == "undecided"
    assert Budget("delivered > 10").judge([12.0, 12.1, 12.2]) == "keeps"


def test_budget_refuses_to_judge_one_replication():
    class One:
        def values(self, metric):
            return [12.0]

        def __getitem__(self, metric):
            return estimate([12.0])

    with pytest.raises(UsageError, match="one replication has no interval to judge it by; simulate two or more"):
        Budget("delivery.p99 < 10ms").fails(One())


def test_infinite_value_in_any_replication_breaks_an_upper_bound():
    assert Budget("delivery.p99 < 10ms").judge([8.0, math.inf]) == "breaks"
    assert Budget("delivery.p99 < 10ms").judge([8.0, math.nan]) == "undecided"


def test_one_lost_delivery_proves_that_the_mean_is_above_zero():
    assert Budget("lost <= 0").judge([0.0, 0.0, 1.0]) == "breaks"
    assert Budget("lost < 0").judge([0.0, 0.0]) == "breaks"
    assert Budget("lost <= 0").judge([0.0, 0.0]) == "keeps"
    assert Budget("lost > 0").judge([0.0, 1.0]) == "keeps"
    assert Budget("mine <= 0").judge([-5.0, 1.0, -5.0]) == "undecided", "a function of the user's may be negative"


@pytest.mark.parametrize(
    ("budget", "values", "verdict"),
    [
        ("delivery.p99 < 10ms", [8.0, 8.1, 8.2], "undecided"),  # the true p99 may be above 10 ms
        ("delivery.p99 < 10ms", [11.8, 12.1, 12.2], "breaks"),
        ("delivery.p99 > 10ms", [11.8, 12.1, 12.2], "keeps"),
        ("delivery.p99 > 10ms", [8.0, 8.1, 8.2], "undecided"),
    ],
)
def test_percentile_of_short_runs_is_too_low_to_keep_an_upper_bound(budget, values, verdict):
    assert Budget(budget).judge(values, Estimate(sum(values) / 3, None, None, 3)) == verdict
