"""Who owns what."""

from __future__ import annotations

from collections import Counter

import pytest

import imsim
from imsim.scenario import Scenario, plan
from imsim.sim import Experiment
from imsim.sim.placement import by_hash, by_rendezvous, placement

NAMES = [f"u{number}" for number in range(4000)]
GROUPS = Scenario().with_(
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


def test_names_are_spread_evenly():
    for strategy in (by_hash, by_rendezvous):
        for nodes in (1, 2, 3, 7):
            counts = Counter(strategy(name, nodes) for name in NAMES)
            assert set(counts) == set(range(nodes))
            assert max(counts.values()) < 1.15 * len(NAMES) / nodes


def test_a_further_node_takes_only_its_share():
    moved = [name for name in NAMES if by_rendezvous(name, 4) != by_rendezvous(name, 5)]
    assert {by_rendezvous(name, 5) for name in moved} == {4}
    assert len(moved) < 1.15 * len(NAMES) / 5
    assert sum(by_hash(name, 4) != by_hash(name, 5) for name in NAMES) > 0.7 * len(NAMES)


def members_of(place, nodes):
    loads = [0] * nodes
    for conversation in PLAN.conversations:
        loads[place(conversation.id, nodes)] += len(conversation.members)
    return loads


def test_large_groups_do_not_meet():
    spread = placement("spread", PLAN)
    assert max(members_of(spread, 4)) < 0.85 * max(members_of(by_hash, 4))
    assert max(members_of(spread, 4)) - min(members_of(spread, 4)) <= 2
    largest = sorted(PLAN.conversations, key=lambda one: -len(one.members))[:4]
    assert {spread(one.id, 4) for one in largest} == {0, 1, 2, 3}
    assert Counter(spread(user, 3) for user in PLAN.users) == {0: 100, 1: 100, 2: 100}
    assert spread("system:u7", 4) == by_hash("system:u7", 4)  # the plan does not know it


def by_first_letter(name: str, nodes: int) -> int:
    return ord(name[0]) % nodes


@pytest.mark.parametrize("strategy", ["rendezvous", "spread", by_first_letter], ids=["rendezvous", "spread", "own"])
def test_a_strategy_moves_the_work_and_nothing_else(strategy):
    scenario = GROUPS.with_({"topology.placement": strategy})
    experiment = Experiment(scenario, PLAN)
    place = placement(strategy, PLAN)
    for name in (*PLAN.users, *(one.id for one in PLAN.conversations)):
        assert experiment.cluster.router_of(name).index == place(name, 4)
        assert experiment.cluster.storage_index(name) == place(name, 3)
    run, by_default = imsim.simulate(scenario), imsim.simulate(GROUPS)
    assert set(run.deliveries.outcome) == {"delivered"}
    for column in ("intent", "conversation", "size", "intended_at"):
        assert run.messages[column].equals(by_default.messages[column])
    assert run.digest != by_default.digest


def test_a_custom_placement_must_name_a_node():
    scenario = GROUPS.with_({"topology.placement": lambda name, nodes: nodes})
    with pytest.raises(imsim.UsageError, match=r"custom placement: '.*', 4: expected a number from 0 to 3, got 4"):
        imsim.simulate(scenario)


def test_what_goes_wrong_in_a_custom_placement_is_reported_as_its_own():
    scenario = GROUPS.with_({"topology.placement": lambda name, nodes: {}[nodes]})
    with pytest.raises(imsim.UsageError, match=r"custom placement: '.*', 4: raised KeyError: 4") as caught:
        imsim.simulate(scenario)
    assert isinstance(caught.value.__cause__, KeyError)


def test_it_is_read_and_written():
    assert Scenario().topology.placement == "hash"
    spread = Scenario().with_({"topology.placement": "spread"})
    assert Scenario.from_toml(spread.to_toml()) == spread
    own = Scenario().with_({"topology.placement": by_first_letter})
    assert own.with_({"seed": 3}).topology.placement is by_first_letter
    with pytest.raises(imsim.UsageError, match="custom part by_first_letter exists only in Python"):
        Scenario.from_toml(own.to_toml())
    with pytest.raises(imsim.UsageError) as error:
        Scenario().with_({"topology.placement": "speard"})
    assert str(error.value) == (
        "scenario custom: topology.placement: expected 'hash', 'rendezvous', 'spread' or a function of your own, got"
        " 'speard'"
    )
