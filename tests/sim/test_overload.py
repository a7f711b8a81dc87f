"""Overload in the simulation: a service above its capacity keeps serving at its capacity, and takes its users back."""

from __future__ import annotations

import pytest

import imsim
from imsim.core import events
from imsim.scenario import Scenario
from imsim.scenario import plan as make_plan
from imsim.sim import Experiment

#: Twenty users and a service that can store about 25 messages a second.
SMALL = Scenario(name="small", duration=12.0, warmup=0.0, drain=2.0).replace({"population.users": 20})
CAPACITY = 25.0
BOTTLENECKS = {
    "gateway": {"topology.gateway.service": {"send": "32ms", "stored": "4ms", "push": "4ms", "rejected": "2ms"}},
    "router": {"topology.router.service": {"send": "40ms"}},
    "storage": {"topology.storage.workers": 1, "topology.storage.service": {"append": "40ms"}},
}


def goodput(scenario: Scenario, load: float) -> tuple[float, float]:
    """Return the messages stored and delivered per second, at this multiple of the capacity."""
    run = imsim.simulate(scenario.replace({"workload.rate": load * CAPACITY / scenario.population.users}))
    assert (run.deliveries.duplicates == 0).all()
    times = (run.messages.acked_at.dropna().astype(float), run.deliveries.delivered_at.dropna().astype(float))
    stored, delivered = (((time > 4e9) & (time <= 12e9)).sum() / 8 for time in times)
    return stored, delivered


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_goodput_stays_near_its_peak_above_the_capacity(bottleneck):
    scenario = SMALL.replace(BOTTLENECKS[bottleneck])
    stored, delivered = zip(*(goodput(scenario, load) for load in (0.5, 1.0, 1.5, 3.0)), strict=True)
    assert max(stored) > 0.8 * CAPACITY
    assert min(stored[1:]) > 0.8 * max(stored)
    assert min(delivered[1:]) > 0.8 * max(delivered)


def test_goodput_collapses_without_the_limit_of_the_wait():
    """Then the service works on sends whose clients have repeated them."""
    impatient = {"policies.send_timeout": "1s", "policies.send_backoff": 1.0, "limits.longest_wait": "60s"}
    scenario = SMALL.replace({**BOTTLENECKS["gateway"], **impatient})
    assert goodput(scenario, 3.0)[0] < 0.5 * CAPACITY


def back_after(scenario: Scenario) -> list[float]:
    """Return the seconds after which each device is online again, in ascending order."""
    experiment = Experiment(scenario, make_plan(scenario))
    back: list[float] = []
    experiment.listeners.append(
        lambda device, event: back.append(device.now - 1.0) if type(event) is events.Ready and device.now > 1 else None
    )
    experiment.run(scenario.duration)
    experiment.finish()
    return sorted(back)


def test_storm_larger_than_the_patience_of_its_clients_ends_in_the_time_of_its_work():
    """The logins of 400 devices are 8 s of work, and a client gives up after 2 s."""
    storm = Scenario(name="storm", duration=60.0, drain=0.0).replace(
        {
            "population.users": 400,
            "workload.rate": 0.001,
            "faults": [{"kind": "mass_reconnect", "at": "1s", "share": 1.0}],
            "topology.gateway.service": {"login": "20ms"},
            "policies.login_timeout": "2s",
            "policies.reconnect_max": "4s",
        }
    )
    back = back_after(storm)
    assert len(back) >= 400
    assert back[399] < 2 * 8
    in_order_of_arrival = back_after(storm.replace({"limits.logins": 100_000}))
    assert len([at for at in in_order_of_arrival if at < 16]) < 300
