"""Two designs whose difference is known."""

from __future__ import annotations

import pytest

import imsim

# A storage that is an M/M/1 queue, with 60 messages a second; all else is constant.
BASE = imsim.Scenario(seed=5, duration=7.0, warmup=1.0).with_(
    {
        "network.client.latency": "1ms",
        "network.backend.latency": "2ms",
        "population.users": 60,
        "workload.rate": 1.0,
        "topology.storage.service": {"append": {"kind": "exponential", "mean": "8ms"}},
    }
)
SLOW = BASE.with_({"topology.storage.service": {"append": {"kind": "exponential", "mean": "10ms"}}})


@pytest.fixture(scope="module")
def told():
    return imsim.compare(BASE, SLOW, replications=8, jobs=2)


def test_the_difference_is_that_of_theory_and_common_random_numbers_save_variance(told):
    expected = 10 / (1 - 0.6) - 8 / (1 - 0.48)  # ms
    found = told["delivery.mean"]
    assert found.absolute.low < expected < found.absolute.high
    assert found.absolute.half < expected / 2
    links = 10.0
    relative = expected / (8 / (1 - 0.48) + links)
    assert found.relative.low < relative < found.relative.high
    assert found.better == "A"
    assert found.saved > 2


def test_replications_of_one_seed_compare_as_their_scenarios_do(told):
    designs = [design.with_({"duration": 2.0}) for design in (BASE, SLOW)]
    again = imsim.compare(*(imsim.simulate(design, replications=2, jobs=1) for design in designs))
    assert again["delivery.p99"] == imsim.compare(*designs, replications=2, jobs=1)["delivery.p99"]
    assert again.pairs == 2


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ((BASE,), "expected two scenarios"),
        ((BASE, BASE, BASE), "expected two scenarios"),
        ((BASE, BASE.with_({"seed": 6})), r"different seeds \(5, 6\)"),
        (("office", "ofice"), "did you mean 'office'"),
    ],
)
def test_bad_input(what, words):
    with pytest.raises(imsim.UsageError, match=words):
        imsim.compare(*what, replications=2)


def test_one_of_each_kind_is_refused():
    run = imsim.simulate(BASE, duration=0.5)
    with pytest.raises(imsim.UsageError, match="or runs alone"):
        imsim.compare(run, BASE)
