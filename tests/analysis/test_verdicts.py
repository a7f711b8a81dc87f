"""Verdicts: how evidence becomes held, breached or undecided, and how often a verdict is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from imsim.analysis.verdicts import LEVEL, NONE, Evidence, decide, evidence, worst


def test_evidence_grows_with_the_distance_from_the_bound():
    near, far = evidence([9.8, 10.1, 10.4], 10.0), evidence([11.8, 12.1, 12.4], 10.0)
    assert far.against < near.against < 0.5 < near.for_it < far.for_it


def test_evidence_of_equal_values_is_exact():
    assert evidence([3.0, 3.0, 3.0], 3.0) == Evidence(1.0, 0.0)
    assert evidence([3.1, 3.1, 3.1], 3.0) == Evidence(0.0, 1.0)


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [1.0, math.nan, 1.0]])
def test_too_few_or_undefined_values_are_no_evidence(values):
    assert evidence(values, 10.0) == NONE


def test_infinite_value_breaches_every_bound():
    assert evidence([1.0, math.inf, 1.0], 1e9) == Evidence(0.0, 1.0)


def test_one_value_above_a_bound_that_is_the_least_value_is_a_breach():
    assert evidence([0.0, 0.0, 1.0], 0.0, least=0.0) == Evidence(0.0, 1.0)
    assert evidence([0.0, 0.0, 0.0], 0.0, least=0.0) == Evidence(1.0, 0.0)


def test_values_that_are_too_low_can_only_breach():
    assert evidence([1.0, 1.1, 0.9], 5.0, is_too_low=True).for_it == 1.0
    assert evidence([9.0, 9.1, 8.9], 5.0, is_too_low=True).against < 0.01


def test_error_is_shared_over_the_budgets_of_a_check():
    weak = Evidence(0.02, 1.0)
    assert decide([weak]) == ["breached"]
    assert decide([weak, NONE, NONE]) == ["undecided"] * 3
    # Holm: once the strongest breach is found, the others share the error with one budget less.
    assert decide([weak, Evidence(0.01, 1.0), Evidence(0.001, 1.0)]) == ["breached"] * 3


def test_held_budget_needs_evidence_of_its_own():
    assert decide([Evidence(1.0, 0.01), Evidence(0.6, 0.4)]) == ["held", "undecided"]


def test_worst_verdict_is_that_of_the_check():
    assert worst(["held", "undecided", "invalid", "breached"]) == "breached"
    assert worst(["held", "undecided", "invalid"]) == "invalid"
    assert worst(["held", "undecided"]) == "undecided"
    assert worst([]) == "held"


def test_checks_of_budgets_at_their_bounds_rarely_report_a_breach():
    """Three budgets whose means are at the bound, the worst case, judged at four looks: at most `LEVEL` of checks."""
    random = np.random.default_rng(1)
    looks, checks, alarms = (4, 6, 8, 12), 2_000, 0
    for _ in range(checks):
        values = random.normal(0.0, 0.2, (3, looks[-1]))
        proofs = [[evidence(list(one[:count]), 0.0).at_looks(len(looks)) for one in values] for count in looks]
        alarms += any("breached" in decide(look) for look in proofs)
    assert alarms / checks <= LEVEL
    assert alarms, "the test must be able to see an alarm"
