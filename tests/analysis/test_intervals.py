import math
import statistics

import numpy as np
import pytest
from scipy import stats

from imsim.analysis.intervals import Estimate, estimate, is_precise, next_count, t_quantile


def test_t_quantile_matches_table():
    for degrees in (1, 2, 19, 200):
        assert t_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees))


def test_interval_matches_textbook():
    values = [4.1, 5.2, 3.9, 4.8, 5.0]
    low, high = stats.t.interval(0.95, 4, statistics.fmean(values), stats.sem(values))
    found = estimate(values)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.value, found.replications, found.undefined) == (statistics.fmean(values), 5, 0)
    assert found.relative == pytest.approx((high - low) / 2 / found.value)


def test_intervals_cover_mean_of_skewed_values():
    """Means of ten exponentials are about as skewed as a run's mean wait; .946 of 100,000 intervals cover."""
    rng = np.random.default_rng(1)
    means = rng.exponential(1.0, (2000, 20, 10)).mean(axis=2)
    covered = [found.low < 1 < found.high for found in (estimate(list(row)) for row in means)]
    assert 0.93 < statistics.fmean(covered) < 0.96


def test_one_value_has_no_interval_and_no_values_have_no_mean():
    assert estimate([3.0]) == Estimate(3.0, None, None, 1)
    assert estimate([]) == Estimate(None, None, None, 0)
    assert estimate([3.0]).relative is None


def test_undefined_value_in_one_replication_leaves_no_mean():
    assert estimate([1.0, math.inf, 2.0, math.nan]) == Estimate(None, None, None, 4, 2)
    assert "2 of 4" in str(estimate([1.0, math.inf, 2.0, math.nan]))


def test_precision_is_relative_to_true_value():
    """If the true value is at the end of the interval, the error is gamma times it."""
    gamma = 0.1
    edge = Estimate(100.0, 100 - 100 * gamma / (1 + gamma), 100 + 100 * gamma / (1 + gamma), 20)
    assert edge.low == pytest.approx(100 / (1 + gamma))
    assert is_precise(edge, gamma * 1.0001)
    assert not is_precise(edge, gamma * 0.9999)


def test_constant_zero_is_precise():
    assert is_precise(estimate([0.0] * 5), 0.01)
    assert not is_precise(estimate([0.0]), 0.5)
    assert estimate([-1.0, 1.0]).relative == math.inf
    assert not is_precise(estimate([1.0, math.inf]), 0.5)


def test_next_count_grows_up_to_limit():
    assert [next_count(count, 100) for count in (2, 20, 90, 100)] == [6, 25, 100, 100]


def test_sequential_stopping_keeps_coverage_and_reaches_precision():
    """In 1,500 trials .945 of the intervals cover, and .97 of the values have the requested precision."""
    rng = np.random.default_rng(3)
    covered, close = [], []
    for _ in range(200):
        values = rng.exponential(1.0, (20, 10)).mean(axis=1).tolist()
        while not is_precise(found := estimate(values), 0.1):
            more = next_count(len(values), 1000) - len(values)
            values += rng.exponential(1.0, (more, 10)).mean(axis=1).tolist()
        covered.append(found.low < 1 < found.high)
        close.append(abs(found.value - 1) <= 0.1)
    assert statistics.fmean(covered) > 0.91
    assert statistics.fmean(close) > 0.94
