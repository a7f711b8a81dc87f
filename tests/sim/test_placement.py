"""The strategies that place users and conversations on nodes."""

from __future__ import annotations

import pytest

import imsim
from imsim.scenario import Scenario, plan
from imsim.sim import Experiment
from imsim.sim.placement import strategy_of

GROUPS = Scenario().replace(
    {
        "population.users": 300,
        "duration": 1.0,
        "conversations": {"p2p_share": 0.2, "groups": 30},
        "conversations.group_size": {"kind": "pareto", "minimum": 8, "alpha": 1.0, "maximum": 200},
        "topology.routers": 4,
        "topology.storages": 3,
    }
)
PLAN = plan(GROUPS)


def by_first_letter(name: str, nodes: int) -> int:
    return ord(name[0]) % nodes


@pytest.mark.parametrize("strategy", ["rendezvous", "spread", by_first_letter], ids=["rendezvous", "spread", "own"])
def test_strategy_moves_work_and_keeps_messages(strategy):
    scenario = GROUPS.replace({"topology.placement": strategy})
    experiment = Experiment(scenario, PLAN)
    owner = strategy_of(strategy, PLAN)
    for name in (*PLAN.users, *(one.id for one in PLAN.conversations)):
        assert experiment.cluster.router_of(name).index == owner(name, 4)
        assert experiment.cluster.storage_placement.owner(name) == f"storage{owner(name, 3)}"
    run, by_default = imsim.simulate(scenario), imsim.simulate(GROUPS)
    assert set(run.deliveries.outcome) == {"delivered"}
    for column in ("intent", "conversation", "size", "intended_at"):
        assert run.messages[column].equals(by_default.messages[column])
    assert run.digest != by_default.digest


def test_custom_placement_must_return_number_of_node():
    scenario = GROUPS.replace({"topology.placement": lambda name, nodes: nodes})
    with pytest.raises(
        imsim.UsageError, match=r"custom placement\('.*', 4\): must return a number from 0 to 3 \(got 4\)"
    ):
        imsim.simulate(scenario)


def test_exception_in_custom_placement_is_usage_error():
    scenario = GROUPS.replace({"topology.placement": lambda name, nodes: {}[nodes]})
    with pytest.raises(imsim.UsageError, match=r"custom placement\('.*', 4\) raised KeyError: 4") as caught:
        imsim.simulate(scenario)
    assert isinstance(caught.value.__cause__, KeyError)


def test_placement_is_read_and_written():
    assert Scenario().topology.placement == "hash"
    spread = Scenario().replace({"topology.placement": "spread"})
    assert Scenario.from_toml(spread.to_toml()) == spread
    own = Scenario().replace({"topology.placement": by_first_letter})
    assert own.replace({"seed": 3}).topology.placement is by_first_letter
    with pytest.raises(imsim.UsageError, match="custom part by_first_letter exists only in Python"):
        Scenario.from_toml(own.to_toml())
    with pytest.raises(imsim.UsageError) as error:
        Scenario().replace({"topology.placement": "speard"})
    assert str(error.value) == (
        "scenario custom: topology.placement: expected 'hash', 'rendezvous', 'spread' or a Python function, got"
        " 'speard'"
    )
