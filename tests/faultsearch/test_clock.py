"""The clocks of nodes in the fault search."""

from __future__ import annotations

import pytest

from imsim.faultsearch.clock import OwnClock
from imsim.sim.clock import Clock


@pytest.fixture
def world() -> Clock:
    return Clock()


def test_clock_jumps_and_drifts(world):
    clock = OwnClock(world)
    world.run(until=10.0)
    clock.jump(5.0, 0.5)
    assert clock.now == 15.0
    world.run(until=12.0)
    assert clock.now == 18.0


def test_alarm_rings_at_the_time_of_its_own_clock(world):
    clock, rang = OwnClock(world), []
    clock.jump(5.0, 1.0)
    clock.alarm_at(7.0, lambda _: rang.append(world.now), None)
    world.run(until=10.0)
    assert rang == [1.0]


def test_call_at_the_present_time_runs_at_once(world):
    clock, at = OwnClock(world), []
    clock.jump(0.3, 0.1)
    world.run(until=0.7)
    clock.call_at(clock.now, lambda _: at.append(world.now), None)
    world.run_until_idle()
    assert at == [0.7]


def test_clock_reaches_its_deadline_despite_rounding_and_never_goes_back(world):
    clock = OwnClock(world)
    world.run(until=1.0)
    clock.reach(1.0000001)
    assert clock.now == 1.0000001
    clock.reach(0.5)
    assert clock.now == 1.0000001
