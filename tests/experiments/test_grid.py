import numpy as np
import pytest

import imsim
from imsim.experiments import grid_points
from imsim.scenario import Scenario
from imsim.scenario.files import choices

BASE = Scenario(name="base", seed=7)


def test_a_mapping_is_every_combination():
    found = grid_points(BASE, {"topology.routers": [1, 2], "workload.rate": np.array([0.5, 1.0])})
    assert [tuple(point.labels.values()) for point in found] == [(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)]
    assert [point.scenario.topology.routers for point in found] == [1, 1, 2, 2]
    assert {point.scenario.seed for point in found} == {7}


def test_values_may_have_names():
    slow = {"kind": "exponential", "mean": "5ms"}
    found = grid_points(BASE, {"topology.storage.service.append": {"fast": "1ms", "slow": slow}})
    assert [point.labels["topology.storage.service.append"] for point in found] == ["fast", "slow"]
    assert found[1].scenario.topology.storage.service["append"].mean == 0.005


def test_values_without_names_are_told_apart_by_what_they_are():
    path = "topology.storage.service.append"
    found = grid_points(BASE, {path: ["1ms", {"kind": "exponential", "mean": "5ms"}]})
    assert [point.labels[path] for point in found] == ["1ms", "exponential mean=5ms"]


def test_a_list_is_of_values_scenarios_and_functions():
    def busier(scenario):
        return scenario.with_({"workload.rate": 9.0, "seed": 1})

    found = grid_points(BASE, [{"topology.routers": 3}, Scenario(name="other"), "office", busier])
    assert [point.labels for point in found] == [
        {"topology.routers": 3},
        {"design": "other"},
        {"design": "office"},
        {"design": "busier"},
    ]
    assert {point.scenario.seed for point in found} == {7}, "all under the same luck"
    assert found[3].scenario.workload.rate == 9.0


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({}, "nothing to vary"),
        ([], "nothing to vary"),
        ({"topology.routers": []}, "nothing to vary"),
        ("topology.routers", "a mapping of paths"),
        ({"topology.routers": 4}, "topology.routers: expected a list of values, got 4"),
        ({"topology.routers": "124"}, "expected a list"),
        ({"topology.router": [1]}, "topology.router"),
        ({"topology.routers": [0]}, "topology.routers: expected at least 1"),
        ({"seed": [1, 2]}, "seeds of their own"),
        ([7], "expected a mapping"),
        ([lambda scenario: 7], "to make a scenario"),
    ],
)
def test_what_is_no_design_is_refused_at_once(over, words):
    with pytest.raises(imsim.UsageError, match=words):
        grid_points(BASE, over)


def test_choices_on_the_command_line():
    assert choices(["a.b=1,2,4", "c=5ms,10ms"], "x") == {"a.b": [1, 2, 4], "c": ["5ms", "10ms"]}
    assert choices(["a={kind='exponential', mean='5ms'},3"], "x") == {"a": [{"kind": "exponential", "mean": "5ms"}, 3]}
    for text in ("a", "a=", "=1"):
        with pytest.raises(imsim.UsageError, match=r"topology\.routers=1,2,4"):
            choices([text], "x")
