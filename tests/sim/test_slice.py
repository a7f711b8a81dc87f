"""A slice of a system, simulated in its place: how far off it is."""

import pytest

import imsim
from imsim.core.exceptions import UsageError
from imsim.scenario import Scenario

LARGE = Scenario.load(
    "office",
    {
        "population.users": 1_000,
        "conversations.groups": 200,
        "workload.rate": 1.0,
        "duration": 12.0,
        "warmup": 2.0,
        "topology.storage.workers": 4,
        "topology.gateway.workers": 4,
        "topology.router.workers": 4,
    },
)


def test_a_slice_has_a_share_of_what_there_is():
    prices = {"cost.router": 4.0, "cost.worker": 1.0, "network.backend.bandwidth": 1000.0, "conversations.rooms": 3}
    scenario = LARGE.replace({**prices, "topology.router.workers": 1, "topology.router.speed": 2.0})
    part = scenario.slice(0.3)
    assert (part.population.users, part.conversations.groups, part.conversations.rooms) == (300, 60, 1)
    assert part.workload == scenario.workload
    storage, router = part.topology.storage, part.topology.router
    assert (storage.workers, storage.speed) == (1, pytest.approx(1.2))
    assert (router.workers, router.speed) == (1, pytest.approx(0.6))
    assert part.topology.routers == scenario.topology.routers
    assert part.network.backend.bandwidth == 300.0
    # 2 gateways and 1 storage of four workers, 2 routers of one: 14 workers; now one each: 5.
    assert part.cost.router == pytest.approx(1.2)
    assert part.cost.worker == pytest.approx(0.3 * 14 / 5)
    assert scenario.slice(1.0).replace({"title": scenario.title}) == scenario


@pytest.mark.parametrize(
    ("share", "change", "error"),
    [
        (0.0, {}, "slice: expected a share above 0 and up to 1, got 0.0"),
        (25, {}, "slice: expected a share above 0 and up to 1, got 25"),
        (0.5, {"workload.arrivals": [0.0, 1.0]}, r"slice: workload\.arrivals is a replay"),
        (
            0.01,
            {"conversations.group_size": 200},
            "groups have up to 200 members, but 0.01 of the users are 10",
        ),
    ],
)
def test_what_cannot_be_sliced_is_refused(share, change, error):
    with pytest.raises(UsageError, match=error):
        LARGE.replace(change).slice(share)


@pytest.mark.parametrize(
    ("workers", "share", "most"),
    [
        (4, 0.5, 0.05),  # two workers
        (4, 0.25, 0.12),  # one
        (1, 0.25, 0.45),  # one of a quarter of the speed: each operation takes four times as long
    ],
)
def test_a_slice_is_as_busy_and_its_latencies_are_off_by_this_much(workers, share, most):
    whole = LARGE.replace(
        {f"topology.{tier}.workers": workers for tier in ("gateway", "router", "storage")}
        | {"workload.rate": workers / 4}
    )
    runs = [imsim.simulate(scenario) for scenario in (whole, whole.slice(share))]
    busy = [run.utilisation()["busy"] for run in runs]
    assert busy[0].max() > 0.2
    assert (busy[1] / busy[0]).between(0.85, 1.15).all()
    medians = [run.summary().loc["delivery", "p50"] for run in runs]
    assert abs(medians[1] / medians[0] - 1) < most


def test_a_worker_of_twice_the_speed_takes_half_as_long():
    slow = LARGE.replace(
        {"topology.storage.service": {"append": "2ms"}, "topology.storage.per_byte": {"append": "2us"}}
    )
    fast = slow.replace({"topology.storage.speed": 2.0})
    busy = [imsim.simulate(one, duration=4.0).utilisation()["busy"]["storage0"] for one in (slow, fast)]
    assert busy[1] == pytest.approx(busy[0] / 2, rel=0.02)
