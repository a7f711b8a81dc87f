"""Each preset answers the question in its title. Some are made smaller here, which does not change the answer."""

from __future__ import annotations

import pandas as pd
import pytest

import imsim


def latencies_ms(run: imsim.Run, since: float, until: float) -> pd.Series:
    """Return the latencies in ms of the deliveries intended between these seconds. Null: not delivered."""
    rows = run.deliveries.merge(run.messages[["intent", "intended_at"]], on="intent")
    rows = rows[rows.intended_at.between(since * 1e9, until * 1e9)]
    return (rows.delivered_at - rows.intended_at) / 1e6


@pytest.mark.parametrize("name", imsim.Scenario.presets())
def test_preset_has_question_and_runs(name):
    preset = imsim.Scenario.load(name)
    run = imsim.simulate(preset.replace({"population.users": 60, "workload.rate": 2.0}), duration=3)
    assert preset.title.endswith("?")
    assert len(run.deliveries)
    assert run.manifest["stray"] == 0
    assert "lost" not in set(run.deliveries.outcome)


def test_mobile_sync_is_slower_than_push():
    run = imsim.simulate("mobile", duration=30)
    summary = run.summary()
    assert set(run.deliveries.outcome) == {"delivered", "absent"}
    assert summary.loc["delivery_sync", "p50"] > 1.5 * summary.loc["delivery_push", "p50"]
    assert summary.loc["delivery_sync", "count"] > 0.2 * summary.loc["delivery", "count"]


def test_reconnect_storm_delays_messages_during_storm_only():
    storm = imsim.Scenario.load("reconnect-storm").replace({"population.users": 800, "workload.rate": 0.1})
    run = imsim.simulate(storm, duration=13)
    assert set(run.deliveries.outcome) == {"delivered"}
    assert latencies_ms(run, 1, 9).quantile(0.99) < 200
    assert latencies_ms(run, 10.0, 10.3).median() > 200
    assert latencies_ms(run, 12, 13).quantile(0.9) < 200, "the storm is not over"


def test_chatroom_sheds_messages_after_a_goal():
    smaller = {"population.users": 300, "conversations.room_size": 300, "workload.rate": 0.013}
    run = imsim.simulate(imsim.Scenario.load("chatroom").replace(smaller))
    assert set(run.deliveries.outcome) == {"delivered", "shed"}
    assert latencies_ms(run, 0, 10).notna().mean() > 0.99
    assert 0.2 < latencies_ms(run, 10, 12).isna().mean() < 0.8


def test_night_sync_is_faster_with_fanout_on_write():
    fewer = {"population.sessions.offline": "30s", "population.users": 150, "topology.storage.workers": 1}
    night = imsim.Scenario.load("night-sync").replace(fewer)
    read, write = (imsim.simulate(night.replace({"policies.fanout": fanout})).summary() for fanout in ("read", "write"))
    assert write.loc["delivery_sync", "p95"] < 0.7 * read.loc["delivery_sync", "p95"]
    assert write.loc["delivery_push", "p50"] > read.loc["delivery_push", "p50"]


def test_capacity_breaks_at_calculated_load():
    """The test halves the load and the storage of the preset."""
    half = {"workload.rate": 0.3125, "topology.storage.workers": 1}
    run = imsim.simulate(imsim.Scenario.load("capacity").replace(half))
    assert latencies_ms(run, 0, 30).quantile(0.95) < 150
    assert latencies_ms(run, 55, 60).median() > 500
    assert set(run.deliveries.outcome) == {"delivered"}


def test_hot_group_of_one_delivers_to_own_devices():
    """The smallest group that the preset allows has one member, whose other devices show the messages."""
    alone = imsim.Scenario.load("hot-group", {"population.users": 1, "population.devices": 3, "workload.rate": 10})
    run = imsim.simulate(alone, duration=3)
    assert len(run.messages) > 10
    assert len(run.deliveries) == 2 * len(run.messages)
    assert set(run.deliveries.role) == {"own"}
    assert set(run.deliveries.outcome) == {"delivered"}
    assert run.to_json_dict()["delivery_ms"]["p50"] is None
    assert run.to_json_dict()["ack_ms"]["p50"] > 0
    with pytest.raises(
        imsim.UsageError, match=r"conversations.friend_requests: expected 0, because population.users is 1"
    ):
        alone.replace({"conversations.friend_requests": 1})


def test_hot_group_delivers_to_all_members():
    hot = imsim.Scenario.load("hot-group")
    for members in (2, 30):
        run = imsim.simulate(hot.replace({"population.users": members, "workload.rate": 10 / members}), duration=2)
        assert len(run.deliveries) == len(run.messages) * (members - 1)
