from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest

from imsim.core import frames
from imsim.core.model import Scene
from imsim.scenario import Draws, Streams
from imsim.scenario.sections import BackendLink, ClientLink
from imsim.sim import Clock, Link
from imsim.sim.link import Medium, NodeLink
from imsim.sim.sizes import FRAME_OVERHEAD


class Wire:
    """A link, with the arrival times of its frames."""

    def __init__(self, kind=Link, fields=ClientLink, seed=1, **values):
        values = {"latency": "10ms", **values}
        self.clock = Clock(0.0)
        made = fields(**values)
        draws = Draws(seed, "test"), Draws(seed, "luck")
        self.link = kind(Medium(made, self.clock, Streams(draws[0], np.array([0])), draws[1], made.bandwidth), 0)
        self.arrived = {}

    def carry(self, leaves, name=None, frame=None):
        name = leaves if name is None else name
        self.link.carry(leaves, lambda frame: self.arrived.setdefault(name, self.clock.now), frame)

    def delays(self, times):
        for at in times:
            self.carry(at)
        self.clock.run()
        return [self.arrived[at] - at for at in times]


FAR_APART = range(0, 3_000_000, 1000)  # seconds; no frame waits for the one before
EXPONENTIAL = {"kind": "exponential", "mean": "5ms"}


def text(size: int) -> frames.Send:
    return frames.Send("1", Scene.P2P, "bob", "x" * size)


def test_link_adds_constant_latency():
    assert Wire(latency="20ms").delays([1.0]) == [pytest.approx(0.02)]


@pytest.mark.parametrize("kind", [Link, NodeLink])
def test_frames_keep_their_order_with_random_latencies(kind):
    wild = Wire(kind, latency={"kind": "uniform", "low": 0, "high": 10})
    times = [second / 10 for second in range(200)]
    wild.delays(times)
    arrivals = [wild.arrived[at] for at in times]
    assert arrivals == sorted(arrivals)
    assert len(set(arrivals)) < len(arrivals), "no frame had to wait for an earlier one"


def test_each_lost_transmission_costs_a_retransmission():
    delays = Wire(loss=0.5, retransmit="1s").delays(FAR_APART)
    assert {round(delay % 1, 6) for delay in delays} == {0.01}
    # Geometric: one lost transmission on average; the standard error of the mean is sqrt(2 / 3000) = 0.026.
    assert statistics.mean(delays) == pytest.approx(1.01, abs=0.1)
    # Half of all frames meet no loss, a quarter one, an eighth two: 4 standard errors are 0.036.
    counts = np.bincount([int(delay) for delay in delays]) / len(delays)
    assert counts[:3] == pytest.approx([0.5, 0.25, 0.125], abs=0.036)


def test_jitter_is_added_to_latency():
    delays = Wire(jitter=EXPONENTIAL).delays(FAR_APART)
    assert min(delays) >= 0.01
    assert statistics.mean(delays) == pytest.approx(0.015, abs=4 * 0.005 / 3000**0.5)


def test_loss_and_jitter_do_not_change_latencies_of_frames():
    plain = Wire(latency=EXPONENTIAL).delays(FAR_APART)
    jitter = Wire(latency=EXPONENTIAL, jitter="1ms").delays(FAR_APART)
    lossy = Wire(latency=EXPONENTIAL, jitter="1ms", loss=0.3, retransmit="1s").delays(FAR_APART)
    assert jitter == pytest.approx([delay + 0.001 for delay in plain])
    assert [delay % 1 for delay in lossy] == pytest.approx(jitter, abs=1e-6)
    more = Wire(latency=EXPONENTIAL, jitter="1ms", loss=0.5, retransmit="1s").delays(FAR_APART)
    assert all(a >= b - 1e-9 for a, b in zip(more, lossy, strict=True)), "more loss makes no frame faster"


def test_frame_that_is_lost_too_often_breaks_connection():
    wire = Wire(loss=0.5, retransmit="1s", max_retransmits=2)
    broken = []
    wire.link.on_broken = broken.append
    for at in FAR_APART:
        wire.carry(at)
    wire.clock.run()
    assert {round(arrived - at, 6) for at, arrived in wire.arrived.items()} == {0.01, 1.01, 2.01}
    # The connection breaks if the frame and its two retransmissions are lost. It is noticed after the third wait.
    assert len(broken) == len(FAR_APART) - len(wire.arrived)
    assert len(broken) / len(FAR_APART) == pytest.approx(1 / 8, abs=4 * (7 / 64 / 3000) ** 0.5)
    assert {at % 1000 for at in broken} == {3.0}


def test_frame_waits_until_previous_frame_is_sent():
    wire = Wire(bandwidth=1000.0)
    seconds = (FRAME_OVERHEAD + 300) / 1000
    for number in range(3):
        wire.carry(1.0, number, text(300))
    wire.carry(10.0, "later", text(0))
    wire.clock.run()
    assert [wire.arrived[n] for n in range(3)] == pytest.approx([1.01 + seconds * n for n in (1, 2, 3)])
    assert wire.arrived["later"] == pytest.approx(10.01 + FRAME_OVERHEAD / 1000)


# --- between servers --------------------------------------------------------------------------------------------------


def test_frame_that_leaves_earlier_does_not_wait_for_frame_carried_earlier():
    """One of two workers takes long. The frames of the other leave first, although `carry` was called later."""
    for latency in ("10ms", {"kind": "uniform", "low": "9ms", "high": "11ms"}):
        wire = Wire(NodeLink, BackendLink, latency=latency)
        wire.carry(5.0, "long")
        wire.carry(1.0, "short")
        wire.clock.run()
        assert wire.arrived["short"] < 1.02 < 5.0 < wire.arrived["long"]


def test_frames_between_servers_arrive_in_order_of_departure():
    rng = np.random.default_rng(1)
    wire = Wire(NodeLink, BackendLink, latency={"kind": "uniform", "low": 0, "high": "50ms"})
    flows = {flow: itertools.count() for flow in range(5)}
    done = dict.fromkeys(flows, 0.0)

    def submit(now):
        flow = int(rng.integers(5))
        done[flow] = max(done[flow], now + float(rng.exponential(0.05)))  # the frames of a flow leave in order
        wire.carry(done[flow], (flow, next(flows[flow])))

    for number in range(2000):
        wire.clock.call_at(number / 100, submit, number / 100)
    wire.clock.run()
    for flow in flows:
        arrivals = [at for (of, _), at in sorted(wire.arrived.items()) if of == flow]
        assert arrivals == sorted(arrivals)
    assert len(wire.arrived) == 2000
    assert len(wire.link._latest) < 100, "the link keeps frames that have left"
