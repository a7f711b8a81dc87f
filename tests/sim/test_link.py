from __future__ import annotations

import statistics

import pytest

from imsim.scenario import Draws, Stream
from imsim.scenario.sections import Link as LinkFields
from imsim.sim import Link


def link(**fields) -> Link:
    return Link(LinkFields(**fields), Stream(Draws(1, "test"), 0))


def test_a_constant_latency_is_added():
    assert link(latency="20ms").arrival(1.0) == pytest.approx(1.02)


def test_frames_keep_their_order_whatever_their_latencies():
    wild = link(latency={"kind": "uniform", "low": 0, "high": 10})
    arrivals = [wild.arrival(second / 10) for second in range(200)]
    assert arrivals == sorted(arrivals)
    assert len(set(arrivals)) < len(arrivals), "some were held up behind a late one"


def test_each_lost_transmission_costs_a_retransmission():
    lossy = link(latency="10ms", loss=0.5, retransmit="1s")
    # Far apart, so that none is held up by the one before.
    delays = [lossy.arrival(at) - at for at in range(0, 3_000_000, 1000)]
    assert {round(delay % 1, 6) for delay in delays} == {0.01}
    # Geometric: one lost transmission on average; the standard error of the mean is sqrt(2 / 3000) = 0.026.
    assert statistics.mean(delays) == pytest.approx(1.01, abs=0.1)


def test_two_links_of_one_stream_draw_alike():
    fields = {"latency": {"kind": "exponential", "mean": "5ms"}}
    assert link(**fields).arrival(0.0) == link(**fields).arrival(0.0)
