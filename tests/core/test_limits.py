"""Token buckets, compared with the definition of a rate limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.limits import Bucket, Buckets

RATES = st.floats(0.1, 50)
BURSTS = st.integers(1, 20)
GAPS = st.lists(st.floats(-0.5, 1), max_size=60)  # seconds between two takes; negative: the clock goes back
ROUNDING = 1e-6


@given(RATES, BURSTS, GAPS)
def test_bucket_grants_exactly_the_takes_that_keep_every_window_within_burst_and_rate(rate, burst, gaps):
    bucket, now, at, grants = Bucket(rate, burst, 0.0), 0.0, 0.0, []
    for gap in gaps:
        now += gap
        at = max(at, now)
        is_granted = bucket.take(now) == 0.0
        would_be = [*grants, at]
        excess = max(len(would_be) - first - burst - rate * (at - start) for first, start in enumerate(would_be))
        if is_granted:
            grants = would_be
            assert excess <= ROUNDING
        else:
            assert excess > -ROUNDING


@given(RATES, BURSTS, GAPS)
def test_wait_is_as_long_as_necessary_and_not_longer(rate, burst, gaps):
    def made():
        bucket, now = Bucket(rate, burst, 0.0), 0.0
        for gap in gaps:
            now = max(now, now + gap)
            bucket.take(now)
        return bucket, now

    bucket, now = made()
    wait = bucket.take(now)
    if wait:
        assert bucket.take(now + wait * (1 + 1e-9) + 1e-12) == 0.0
        bucket, now = made()
        assert wait == 0.001 or bucket.take(now + wait * 0.999) > 0.0


@given(RATES, BURSTS, GAPS, st.floats(0, 10))
def test_bucket_is_full_exactly_if_it_grants_its_burst_at_once(rate, burst, gaps, pause):
    bucket, now = Bucket(rate, burst, 0.0), 0.0
    for gap in gaps:
        now = max(now, now + gap)
        bucket.take(now)
    is_full = bucket.is_full(now + pause)
    assert all(bucket.take(now + pause) == 0.0 for _ in range(burst)) == is_full
    assert bucket.take(now + pause) > 0.0  # it never holds more


@given(RATES, BURSTS, st.integers(0, 20), st.floats(0, 10))
def test_bucket_gains_no_tokens_while_the_clock_stands_still_or_goes_back(rate, burst, taken, back):
    bucket = Bucket(rate, burst, 5.0)
    for number in range(taken):
        assert (bucket.take(5.0) == 0.0) == (number < burst)
    assert (bucket.take(5.0 - back) == 0.0) == (taken < burst)


@given(RATES, BURSTS, st.lists(st.tuples(st.integers(0, 5), st.floats(0, 0.3)), max_size=80))
def test_each_key_has_a_bucket_of_its_own_and_loses_nothing_when_idle_ones_are_dropped(rate, burst, takes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imsim.core.limits._BUCKETS", 2)
        buckets, alone, now = Buckets(rate, burst), {}, 0.0
        for whose, gap in takes:
            now += gap
            own = alone.setdefault(whose, Bucket(rate, burst, now))
            assert buckets.take(whose, now) == pytest.approx(own.take(now))


def test_rate_zero_means_no_limit():
    buckets = Buckets(0.0, 1)
    assert [buckets.take("alice", 0.0) for _ in range(5)] == [0.0] * 5


def test_a_wait_is_never_less_than_a_clock_can_measure():
    """A client that repeats its request after a wait of 0 would be rejected again, without end."""
    bucket = Bucket(rate=1.0, burst=1, now=0.0)
    bucket.take(0.0)
    assert bucket.take(1.0 - 1e-15) == 0.001


def test_sweeps_of_buckets_are_rare_for_any_count_of_buckets(monkeypatch):
    monkeypatch.setattr("imsim.core.limits._BUCKETS", 10)
    looks = 0

    class Watched(Bucket):
        def is_full(self, now):
            nonlocal looks
            looks += 1
            return super().is_full(now)

    monkeypatch.setattr("imsim.core.limits.Bucket", Watched)
    buckets = Buckets(rate=1.0, burst=2)
    for whose in range(1_000):
        buckets.take(whose, 0.0)
    assert len(buckets) == 1_000
    assert looks < 2_000
    for whose in range(1_000, 1_300):
        buckets.take(whose, 100.0)
    assert len(buckets) <= 320  # the idle ones were removed
