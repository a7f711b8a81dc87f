"""Tests of the estimates of clocks, without a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.load.clocks import Clock, Offset, warning_of

delays = st.floats(1e-5, 0.05)
offsets = st.floats(-1e5, 1e5)


@given(offsets, st.lists(st.tuples(st.floats(0, 100), delays, delays), min_size=1, max_size=30))
def test_offset_lies_within_its_error_for_any_delays(offset, trips):
    """The two directions of a probe may take different times."""
    probes = [(sent, sent + there + offset, sent + there + back) for sent, there, back in trips]
    found = Offset.estimate(probes)
    assert abs(found.seconds - offset) <= found.error + 1e-9
    assert found.error <= min(there + back for _, there, back in trips) / 2 + 1e-9


def test_offset_without_probe_is_unknown():
    assert Offset.estimate([]) is None


def test_offset_smaller_than_its_error_is_not_applied():
    assert Offset(0.0002, 0.0003).applied == 0
    assert Offset(-0.05, 0.0003).applied == -0.05


def test_two_estimates_give_an_offset_that_covers_both():
    between = Offset(10.000, 0.001).between(Offset(10.006, 0.001))
    assert (between.seconds, between.error) == pytest.approx((10.003, 0.004))


@given(offsets, st.floats(-1e-4, 1e-4), st.floats(0, 600), delays, delays)
def test_times_are_within_the_error_after_the_correction(offset, drift, seconds, first, last):
    """Drift is seconds per second. Times of the worker count from the t = 0 that it received."""
    clock = Clock(Offset(offset, first))
    clock.finish(Offset(offset + drift * seconds, last))
    for at in (0.0, seconds / 2, seconds):
        recorded = at + offset + drift * at - clock.applied
        assert abs(recorded + clock.correction / 1e9 - at) <= clock.error + 1e-8


def test_clock_of_the_same_computer_has_no_error_unless_the_clocks_differ():
    same = Clock(Offset(0.0001, 0.0003), is_shared=True)
    assert (same.applied, same.correction, same.error) == (0, 0, 0)
    shifted = Clock(Offset(0.05, 0.0003), is_shared=True)
    assert (shifted.applied, shifted.error) == (0.05, 0.0003)


def test_unknown_clock_is_not_corrected():
    clock = Clock(None)
    clock.finish(None)
    assert (clock.is_known, clock.applied, clock.correction) == (False, 0, 0)


def test_late_estimate_of_an_unknown_clock_corrects_its_times():
    clock = Clock(None)
    clock.finish(Offset(0.05, 0.001))
    assert (clock.is_known, clock.applied, clock.correction) == (True, 0, -50_000_000)


def test_warning_compares_the_error_with_the_latency():
    assert warning_of(0.0002, 0.004) is None
    assert "known to 2.00 ms" in warning_of(0.002, 0.004)
