"""The networks between devices and nodes: their effect on the rows of runs."""

from __future__ import annotations

import numpy as np
import pytest

import imsim
from imsim.scenario import Scenario, plan
from imsim.scenario.sections import PROFILES
from imsim.sim import Experiment
from imsim.sim.sizes import FRAME_OVERHEAD

CONSTANT = {"network.client.latency": "10ms", "network.backend.latency": "1ms", "workload.rate": 0.02, "duration": 60.0}


def delivery_seconds(run: imsim.Run) -> np.ndarray:
    rows = run.deliveries.merge(run.messages[["intent", "intended_at", "size"]], on="intent")
    rows = rows[rows.role == "recipient"]
    assert rows.delivered_at.notna().all()
    return (rows.delivered_at - rows.intended_at).to_numpy(float) / 1e9


def test_upload_and_download_have_separate_bandwidths():
    scenario = Scenario().replace(
        CONSTANT | {"network.client.bandwidth": 10_000.0, "network.client.upload": 1_000.0, "workload.size": 300}
    )
    frame = FRAME_OVERHEAD + 300
    expected = 0.010 + frame / 1_000 + 4 * 0.001 + frame / 10_000 + 0.010
    seconds = delivery_seconds(imsim.simulate(scenario))
    assert np.median(seconds) == pytest.approx(expected, abs=1e-8)
    assert seconds.min() == pytest.approx(expected, abs=1e-8), "others waited for an earlier frame"
    both = delivery_seconds(imsim.simulate(scenario.replace({"network.client.upload": None})))
    assert np.median(both) == pytest.approx(0.024 + 2 * frame / 10_000, abs=1e-8)


def test_pair_of_tiers_can_have_its_own_link():
    scenario = Scenario().replace(CONSTANT | {"network.links": {"router-storage": {"latency": "20ms"}}})
    assert delivery_seconds(imsim.simulate(scenario)) == pytest.approx(0.020 + 2 * 0.001 + 2 * 0.020, abs=1e-8)


def test_users_are_distributed_over_networks_by_shares():
    scenario = Scenario().replace({"population.users": 2000, "network.clients": {"wifi": 6, "4g": 3, "mine": 1},
                                 "network.profiles": {"mine": {"latency": "1ms"}}})  # fmt: skip
    names = [name for name, _ in scenario.network.of_users(1, 2000)]
    shares = [names.count(name) / 2000 for name in ("wifi", "4g", "mine")]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=4 * 0.011)
    # Another user, and another order of the names, do not change the networks of the users.
    other = scenario.replace({"network.clients": {"mine": 1, "4g": 3, "wifi": 6}})
    assert [name for name, _ in other.network.of_users(1, 2001)][:2000] == names
    assert dict(scenario.network.of_users(1, 2000))["mine"].latency.constant == 0.001
    assert Scenario.from_toml(scenario.to_toml()).network == scenario.network


def test_all_devices_of_a_user_use_the_same_network():
    scenario = Scenario().replace({"population.devices": 2, "network.clients": {"wired": 1, "3g": 1}})
    experiment = Experiment(scenario, plan(scenario))
    networks = [client.network.fields for client in experiment.clients.values()]
    assert networks[::2] == networks[1::2]
    assert set(map(id, networks)) == {id(PROFILES["wired"]), id(PROFILES["3g"])}


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_run_over_each_network_delivers_everything(name):
    scenario = Scenario().replace({"network.clients": {name: 1}, "duration": 20.0, "drain": 60.0})
    run = imsim.simulate(scenario)
    assert (run.deliveries.outcome == "delivered").all()
    link = PROFILES[name]
    least = 2 * link.latency.constant
    assert least < delivery_seconds(run).min() < least + 0.2


def test_broken_connections_lose_no_message():
    scenario = Scenario().replace(
        {
            "population.users": 40,
            "workload.rate": 0.5,
            "duration": 20.0,
            "drain": 90.0,
            "network.client": {"latency": "20ms", "loss": 0.3, "retransmit": "200ms", "max_retransmits": 2},
        }
    )
    run = imsim.simulate(scenario)
    assert (run.deliveries.outcome == "delivered").all()
    assert (run.deliveries.route == "sync").sum() > 10, "few messages arrived by the sync after a new login"
    assert (run.messages.outcome == "stored").all()


def test_batched_pushes_are_one_operation():
    hot = {
        "network.client.latency": "10ms",
        "network.backend.latency": "1ms",
        "population.users": 4,
        "conversations": {"p2p_share": 0, "partners": 0, "groups": 1, "group_size": 4},
        "workload.rate": 10.0,
        "topology.gateway.service": {"push": "1us"},
    }
    scenario = Scenario().replace(hot | {"topology.gateway.batch_interval": "100ms"})
    alone, batched = imsim.simulate(Scenario().replace(hot), spans=True), imsim.simulate(scenario, spans=True)
    usual = 2 * 0.010 + 4 * 0.001
    assert delivery_seconds(alone).max() < usual + 0.001
    seconds = delivery_seconds(batched)
    assert len(seconds) == len(delivery_seconds(alone))
    assert usual <= seconds.min()
    assert seconds.max() == pytest.approx(usual + 0.1, abs=1e-3)
    pushes = [int(run.utilisation().jobs["gateway0"]) for run in (alone, batched)]
    # Each device receives 30 messages a second. A batch has the first message and the three of the next 100 ms.
    assert pushes[0] == len(seconds)
    assert pushes[0] / pushes[1] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"network.clients": {"wify": 1}},
            "network.clients.wify: unknown network (did you mean 'wifi'?); known here: ",
        ),
        ({"network.clients": {"wifi": -1}}, "network.clients.wifi: expected a share from 0 to 1e+09, got -1"),
        ({"network.clients": {"wifi": 0}}, "network.clients: expected at least one network with a share above 0"),
        (
            {"network.links": {"storage-router": {}}},
            "network.links.storage-router: unknown pair of tiers (did you mean",
        ),
        ({"network.client.bandwidth": 0}, "network.client.bandwidth: expected more than 0, got 0"),
        (
            {"network.profiles": {"x": {"latncy": 1}}},
            "network.profiles.x.latncy: unknown field (did you mean 'latency'?); known here: latency",
        ),
    ],
)
def test_wrong_field_is_reported_in_one_line(changes, problem):
    with pytest.raises(imsim.UsageError) as error:
        Scenario().replace(changes)
    assert problem in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", PROFILES)
def test_only_3g_stalls_for_seconds(name):
    """The lognormal distribution has an upper bound. Its two percentiles say nothing about one frame in 100,000."""
    jitter = PROFILES[name].jitter
    assert jitter.quantile(1 - 1e-9) <= jitter.upper == 4 * jitter.p99
    assert jitter.upper <= (2.0 if name == "3g" else 0.5)
    assert jitter.quantile(0.5) == pytest.approx(jitter.median, rel=0.01)
    assert jitter.quantile(0.99) == pytest.approx(jitter.p99, rel=0.1)
