from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.limits import Bucket, Buckets


def test_a_burst_then_the_rate():
    bucket = Bucket(rate=2.0, burst=3, now=10.0)
    assert [bucket.take(10.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(10.0) == pytest.approx(0.5)
    assert bucket.take(10.25) == pytest.approx(0.25)
    assert bucket.take(10.5) == 0.0


def test_a_bucket_holds_at_most_its_burst():
    bucket = Bucket(rate=1.0, burst=2, now=0.0)
    assert [bucket.take(1000.0) == 0.0 for _ in range(3)] == [True, True, False]


def test_a_clock_that_stands_or_goes_back_gives_nothing():
    bucket = Bucket(rate=1.0, burst=1, now=5.0)
    bucket.take(5.0)
    assert bucket.take(4.0) > 0


@given(st.floats(0.1, 50), st.integers(1, 20), st.lists(st.floats(0, 1), max_size=60))
def test_a_caller_that_waits_gets_its_token_and_no_interval_exceeds_burst_and_rate(rate, burst, gaps):
    bucket, now, granted = Bucket(rate, burst, 0.0), 0.0, []
    for gap in gaps:
        now += gap
        wait = bucket.take(now)
        if wait:
            now += wait * (1 + 1e-9)
            wait = bucket.take(now)
        assert wait == pytest.approx(0.0, abs=1e-6)
        granted.append(now)
    for first, start in enumerate(granted):
        for last in range(first, len(granted)):
            assert last - first + 1 <= burst + rate * (granted[last] - start) + 1e-6


def test_the_shortest_wait_is_one_that_a_clock_can_measure():
    """A caller that came back at once would be refused again, for ever."""
    bucket = Bucket(rate=1.0, burst=1, now=0.0)
    bucket.take(0.0)
    assert bucket.take(1.0 - 1e-15) == 0.001


def test_buckets_in_use_are_swept_seldom(monkeypatch):
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
    assert len(buckets) <= 320  # those that nobody used any more are gone
