"""Devices that log in and log out during a simulated run: the rows of the run."""

from __future__ import annotations

import numpy as np
import pytest
from mixed_workload import SCENARIO

import imsim
from imsim.core import frames
from imsim.core.client import client
from imsim.core.client.connection import State
from imsim.scenario import Scenario, plan
from imsim.sim import Experiment

SESSIONS = {"online": {"kind": "exponential", "mean": "3s"}, "offline": {"kind": "exponential", "mean": "1.5s"}}
SCENARIO_WITH_SESSIONS = Scenario.load("office").replace(
    {"population.sessions": SESSIONS, "duration": 20.0, "population.users": 40, "workload.rate": 1.0}
)


@pytest.fixture(scope="module")
def run():
    return imsim.simulate(SCENARIO_WITH_SESSIONS)


def test_every_delivery_arrives_or_is_absent(run):
    deliveries = run.deliveries
    assert set(run.messages.outcome) == {"stored"}
    assert set(deliveries.outcome) == {"delivered", "absent"}
    assert run.manifest["stray"] == 0
    online_periods = plan(SCENARIO_WITH_SESSIONS).online_periods
    away = {f"u{user}" for user in np.flatnonzero(~online_periods.is_online_at_end(np.arange(40)))}
    assert 5 < len(away) < 25
    assert set(deliveries[deliveries.outcome == "absent"].recipient) <= away


def test_device_fetches_missed_messages_after_return(run):
    rows = run.deliveries.merge(run.messages[["intent", "intended_at"]], on="intent")
    rows = rows[rows.outcome == "delivered"]
    device, intended = rows.recipient.str[1:].astype(int).to_numpy(), rows.intended_at.to_numpy(np.int64)
    online_periods = plan(SCENARIO_WITH_SESSIONS).online_periods
    was_away = ~online_periods.is_online(device, intended)
    assert was_away.sum() > 100
    assert (rows.route[was_away] == "sync").mean() > 0.9  # the other messages arrived during the login
    waited = (rows.delivered_at.to_numpy(np.int64) - online_periods.online_from(device, intended)) / 1e9
    assert waited.min() > 0
    assert np.median(waited[was_away]) < 0.5
    assert run.summary().loc["delivery_sync", "p50"] < 500
    assert online_periods.is_online(device, rows.delivered_at.to_numpy(np.int64)).all(), (
        "a device received a message while it was offline"
    )


def test_same_seed_gives_same_rows(run):
    assert imsim.simulate(SCENARIO_WITH_SESSIONS).digest == run.digest
    assert imsim.simulate(SCENARIO_WITH_SESSIONS, seed=2).digest != run.digest


def test_mixed_workload_loses_nothing_with_online_periods():
    scenario = SCENARIO.replace({"population.sessions": SESSIONS, "duration": 10.0})
    run = imsim.simulate(scenario)
    rows = run.deliveries.merge(run.messages[["intent", "scene"]], on="intent")
    assert set(rows.outcome) == {"delivered", "absent", "recalled"}
    assert set(rows[rows.outcome == "recalled"].intent) < plan(scenario).amended
    assert {"absent"} < set(rows[rows.scene == "chatroom"].outcome), "a chatroom keeps no messages for offline devices"
    assert run.manifest["stray"] == 0


def test_devices_are_online_as_planned():
    scenario = SCENARIO_WITH_SESSIONS.replace({"population.sessions.start": 0.5})
    experiment = Experiment(scenario, plan(scenario))
    online_periods, seen = experiment.plan.online_periods, []

    def check(at: float) -> None:
        online = np.array([client.machine.state != State.ENDED for client in experiment.clients.values()])
        seen.append((online == online_periods.is_online(np.arange(40), round(at * 1e9))).all())

    for at in (-1e-6, 0.0005, 5.0, 12.0, 19.9, 24.0):
        experiment.clock.call_at(at, check, max(at, 0.0))
    experiment.run(scenario.duration)
    assert seen == [True] * 6


def test_missing_delivery_to_online_device_is_lost(monkeypatch):
    monkeypatch.setitem(client._HANDLERS, frames.Push, lambda self, frame, now: None)
    experiment = Experiment(SCENARIO_WITH_SESSIONS, plan(SCENARIO_WITH_SESSIONS, duration=5.0))
    experiment.run(5.0)
    outcomes = experiment.tables().deliveries.column("outcome").to_pylist()
    assert outcomes.count("lost") > outcomes.count("absent") > 0
