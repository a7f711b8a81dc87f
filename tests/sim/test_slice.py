"""Slices of scenarios: their fields, and the distance of their results from those of the whole."""

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


def test_slice_scales_users_workers_bandwidths_and_prices():
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
    # The whole has 14 workers: 4 in each of 2 gateways and 1 storage, 1 in each of 2 routers. The slice has 5, 1 per
    # node.
    assert part.cost.router == pytest.approx(1.2)
    assert part.cost.worker == pytest.approx(0.3 * 14 / 5)
    assert scenario.slice(1.0).replace({"title": scenario.title}) == scenario


def test_slice_scales_bandwidths_between_tiers():
    links = {"network.links.router-storage.bandwidth": 4000.0, "network.links.gateway-router.latency": "1ms"}
    part = LARGE.replace(links).slice(0.25)
    assert part.network.links["router-storage"].bandwidth == 1000.0
    assert part.network.links["gateway-router"].bandwidth is None


@pytest.mark.parametrize(
    ("workers", "queue", "share", "sliced"),
    [
        (10, 200, 0.2, 40),  # 2 of 10 workers are left
        (10, 200, 0.1, 20),
        (4, 10, 0.25, 3),  # 6 jobs wait for 4 workers, so 1.5 wait for one
        (1, 9, 0.25, 3),  # at a quarter of the speed, 2 jobs wait as long as 8
        (1, 1, 0.5, 1),
        (4, 4, 0.5, 2),
    ],
)
def test_slice_keeps_wait_in_full_queue(workers, queue, share, sliced):
    fields = {"topology.storage.workers": workers, "topology.storage.queue": queue}
    part = LARGE.replace(fields).slice(share).topology
    assert part.storage.queue == sliced
    assert part.router.queue is None


def test_overloaded_slice_drops_same_share_as_whole():
    """The load is 1.28 times the capacity of the storage, so its queue is full after a part of the run."""
    fields = {
        "workload.arrivals": "poisson",
        "workload.rate": 3.2,
        "topology.storage.workers": 10,
        "topology.storage.queue": 400,
        "policies.send_attempts": 1,
        "duration": 5.0,
        "drain": 2.0,
    }
    whole = Scenario.load("capacity", fields)
    shares = []
    for scenario in (whole, whole.slice(0.2)):
        storage = imsim.simulate(scenario).utilisation().loc["storage0"]
        shares.append(storage["drops"] / (storage["drops"] + storage["jobs"]))
    assert shares[0] > 0.05
    assert shares[1] == pytest.approx(shares[0], abs=0.03)


def test_slice_keeps_commits_per_second():
    commit = {"topology.storage.workers": 4, "topology.storage.commit": {"batch": 100, "linger": "2ms"}}
    assert LARGE.replace(commit).slice(0.5).topology.storage.commit.batch == 50
    single = LARGE.replace({**commit, "topology.storage.workers": 1}).slice(0.5).topology.storage
    assert (single.commit.batch, single.commit.linger, single.speed) == (100, 0.002, 0.5)


@pytest.mark.parametrize(
    ("share", "change", "error"),
    [
        (0.0, {}, r"slice: expected a share above 0 and up to 1, .* got 0\.0"),
        (25, {}, "slice: expected a share above 0 and up to 1, as in 0.1 for a tenth, got 25"),
        ("a", {}, "slice: expected a share above 0 and up to 1, as in 0.1 for a tenth, got 'a'"),
        (None, {}, "slice: expected a share .*, got None"),
        (True, {}, "slice: expected a share .*, got true"),
        (0.5, {"workload.arrivals": [0.0, 1.0]}, r"slice: workload\.arrivals is a replay"),
        (
            0.01,
            {"conversations.group_size": 200},
            r"conversations\.groups have up to 200 members, but 0\.01 of the users are only 10; take a larger share",
        ),
    ],
)
def test_slice_refuses_bad_shares_replays_and_too_large_groups(share, change, error):
    with pytest.raises(UsageError, match=error):
        LARGE.replace(change).slice(share)


RUNS: dict[str, imsim.Run] = {}


def simulated(scenario: Scenario) -> imsim.Run:
    """Simulate a scenario, but only once in all tests."""
    key = scenario.to_toml()
    if key not in RUNS:
        RUNS[key] = imsim.simulate(scenario)
    return RUNS[key]


@pytest.mark.parametrize(
    ("workers", "share", "most"),
    [
        (4, 0.5, 0.05),  # 2 of 4 workers
        (4, 0.25, 0.12),  # 1 of 4 workers
        (1, 0.25, 0.45),  # one worker at a quarter of the speed: each operation takes four times as long
    ],
)
def test_slice_is_as_busy_as_whole_with_similar_median(workers, share, most):
    whole = LARGE.replace(
        {f"topology.{tier}.workers": workers for tier in ("gateway", "router", "storage")}
        | {"workload.rate": workers / 4, "duration": 4.0, "warmup": 1.0}
    )
    runs = [simulated(whole), imsim.simulate(whole.slice(share))]
    busy = [run.utilisation()["busy"] for run in runs]
    assert busy[0].max() > 0.2
    assert (busy[1] / busy[0]).between(0.85, 1.15).all()
    medians = [run.summary().loc["delivery", "p50"] for run in runs]
    assert abs(medians[1] / medians[0] - 1) < most


def test_worker_of_twice_the_speed_takes_half_as_long():
    slow = LARGE.replace(
        {"topology.storage.service": {"append": "2ms"}, "topology.storage.per_byte": {"append": "2us"}}
    )
    fast = slow.replace({"topology.storage.speed": 2.0})
    busy = [imsim.simulate(one, duration=2.0).utilisation()["busy"]["storage0"] for one in (slow, fast)]
    assert busy[1] == pytest.approx(busy[0] / 2, rel=0.02)
