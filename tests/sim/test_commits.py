"""Group commit in the node of a storage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_rows import delivery_seconds

import imsim
from imsim.core import storage
from imsim.core.model import Message, Scene
from imsim.scenario import Scenario
from imsim.scenario.sections.topology import Commit, StorageTier
from imsim.sim import Clock
from imsim.sim.nodes.commits import GroupCommit
from imsim.sim.nodes.work import Work


def append(number: int) -> storage.Append:
    message = Message("p2p:ann:bob", number + 1, "", str(number), Scene.P2P, "text", "ann", "bob", 0)
    return storage.Append(1, message, 0)


def commits_at(arrivals: list[int], fields: Commit, commit: float, each: float, workers: int = 1) -> list[float]:
    """Return the time at which each append is done."""
    clock = Clock()
    tier = StorageTier(workers=workers, service={"append": each, "commit": commit}, commit=fields)
    work = Work(tier, 1, "storage", 0, clock)
    group = GroupCommit(fields, work, clock, lambda request: storage.Appended())
    done: dict[int, float] = {}

    def arrive(number: int) -> None:
        group.add(append(number), lambda result, at: done.__setitem__(number, at))

    for number, arrival in enumerate(arrivals):
        clock.call_at(float(arrival), arrive, number)
    clock.run()
    assert len(group) == 0
    return [done[number] for number in range(len(arrivals))]


def by_definition(arrivals: list[int], fields: Commit, commit: float, each: float) -> list[float]:
    """Return the time at which each append is done, by the definition of a group commit."""
    done: list[float] = []
    free = 0.0
    while len(done) < len(arrivals):
        waiting = arrivals[len(done) :]
        full = waiting[fields.batch - 1] if len(waiting) >= fields.batch else float("inf")
        start = max(free, min(waiting[0] + fields.linger, full))
        taken = sum(arrival <= start for arrival in waiting[: fields.batch])
        free = start + commit + taken * each
        done += [free] * taken
    return done


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=40).map(sorted),
    st.integers(1, 6),
    st.sampled_from([0.0, 1.5, 7.5]),
    st.sampled_from([0.25, 2.25, 9.25]),
)
def test_commit_starts_when_batch_is_full_or_linger_is_over_and_previous_is_done(arrivals, batch, linger, commit):
    fields, each = Commit(batch=batch, linger=linger), 1 / 256  # 1/256 s: no commit ends at the time of an arrival
    if linger == 0:  # without linger, the first of several appends at one time would be committed alone
        arrivals = sorted(set(arrivals))
    assert commits_at(arrivals, fields, commit, each) == by_definition(arrivals, fields, commit, each)


def test_commit_times_of_an_example():
    fields = Commit(batch=3, linger=5.0)
    # 0 and 1 linger until 5, and their commit takes until 5 + 4 + 2. 6 to 8 are a full batch, which waits for it until
    # 11. 9 waits for their commit until 18.
    assert commits_at([0, 1, 6, 7, 8, 9], fields, 4.0, 1.0) == [11.0, 11.0, 18.0, 18.0, 18.0, 23.0]


def test_commits_run_one_at_a_time_with_several_workers():
    assert commits_at([0, 1], Commit(), 4.0, 1.0, workers=4) == [5.0, 10.0]


# --- in a run -------------------------------------------------------------------------------------------------------

DESIGN = {
    "network.client.latency": "1ms",
    "network.backend.latency": "2ms",
    "population.users": 60,
    "workload.rate": 5.0,
    "duration": 3.0,
    "warmup": 1.0,
    "topology.storage.service": {"append": "200us", "commit": "5ms"},
}
CONSTANT = 2 * 0.001 + 4 * 0.002


def test_message_on_idle_storage_waits_for_linger_and_one_commit():
    alone = Scenario().replace({**DESIGN, "workload.rate": 0.005, "duration": 30.0, "warmup": 0.0})
    for commit, seconds in ((None, 0.0052), ({"linger": "3ms"}, 0.0082), ({"batch": 1, "linger": "3ms"}, 0.0052)):
        run = imsim.simulate(alone.replace({"topology.storage.commit": commit}))
        assert len(run.deliveries) > 3
        assert delivery_seconds(run) == pytest.approx(CONSTANT + seconds, abs=1e-8)


def test_group_commit_sustains_load_that_single_commits_cannot():
    """300 appends a second that take 5.2 ms each are too many for one worker. Groups share the time of a commit."""
    design = Scenario().replace(DESIGN)
    alone = imsim.simulate(design).to_json_dict()
    grouped = imsim.simulate(design.replace({"topology.storage.commit": {"batch": 50, "linger": "1ms"}}))
    assert alone["delivery_ms"]["p99"] is None or alone["delivery_ms"]["p99"] > 300
    summary = grouped.to_json_dict()
    assert summary["lost"] == 0
    # An append waits at most for the commit before, the linger, and its own commit with some appends.
    assert delivery_seconds(grouped).max() < CONSTANT + 2 * (0.005 + 20 * 0.0002) + 0.001
    assert imsim.simulate(grouped.scenario).digest == grouped.digest
    assert grouped.messages.intended_at.equals(imsim.simulate(design).messages.intended_at)


def test_appends_that_wait_for_commit_take_room_in_queue():
    full = Scenario().replace({**DESIGN, "topology.storage": {"commit": {"linger": "100ms"}, "queue": 3}})
    service = {"append": 0, "commit": 0}
    run = imsim.simulate(full.replace({"topology.storage.service": service, "policies.send_attempts": 1}))
    assert 0.05 < (run.messages.outcome != "stored").mean() < 1


def test_commit_refuses_custom_station_and_empty_batch():
    with pytest.raises(imsim.UsageError, match=r"^scenario custom: topology.storage.commit: expected no commit with a"):
        Scenario().replace({"topology.storage.commit": {}, "topology.storage.station": object})
    with pytest.raises(imsim.UsageError, match=r"topology.storage.commit.batch: expected at least 1, got 0$"):
        Scenario().replace({"topology.storage.commit": {"batch": 0}})
