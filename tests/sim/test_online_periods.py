"""Devices that come and leave in the simulated world, through its rows."""

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
COMING = Scenario.load("office").replace(
    {"population.sessions": SESSIONS, "duration": 20.0, "population.users": 40, "workload.rate": 1.0}
)


@pytest.fixture(scope="module")
def run():
    return imsim.simulate(COMING)


def test_everything_arrives_or_is_owed_to_the_absent(run):
    deliveries = run.deliveries
    assert set(run.messages.outcome) == {"stored"}
    assert set(deliveries.outcome) == {"delivered", "absent"}
    assert run.manifest["stray"] == 0
    online_periods = plan(COMING).online_periods
    away = {f"u{user}" for user in np.flatnonzero(~online_periods.is_online_at_end(np.arange(40)))}
    assert 5 < len(away) < 25
    assert set(deliveries[deliveries.outcome == "absent"].recipient) <= away


def test_who_was_away_fetches_it_when_back(run):
    rows = run.deliveries.merge(run.messages[["intent", "intended_at"]], on="intent")
    rows = rows[rows.outcome == "delivered"]
    device, intended = rows.recipient.str[1:].astype(int).to_numpy(), rows.intended_at.to_numpy(np.int64)
    online_periods = plan(COMING).online_periods
    was_away = ~online_periods.is_online(device, intended)
    assert was_away.sum() > 100
    assert (rows.route[was_away] == "sync").mean() > 0.9  # the others came while it was logging in
    waited = (rows.delivered_at.to_numpy(np.int64) - online_periods.online_from(device, intended)) / 1e9
    assert waited.min() > 0
    assert np.median(waited[was_away]) < 0.5
    assert run.summary().loc["delivery_sync", "p50"] < 500
    assert online_periods.is_online(device, rows.delivered_at.to_numpy(np.int64)).all(), (
        "nobody gets anything while away"
    )


def test_same_seed_same_rows(run):
    assert imsim.simulate(COMING).digest == run.digest
    assert imsim.simulate(COMING, seed=2).digest != run.digest


def test_all_that_users_do_goes_on_while_devices_come_and_leave():
    scenario = SCENARIO.replace({"population.sessions": SESSIONS, "duration": 10.0})
    run = imsim.simulate(scenario)
    rows = run.deliveries.merge(run.messages[["intent", "scene"]], on="intent")
    assert set(rows.outcome) == {"delivered", "absent", "recalled"}
    assert set(rows[rows.outcome == "recalled"].intent) < plan(scenario).amended
    assert {"absent"} < set(rows[rows.scene == "chatroom"].outcome), "nothing is kept there for the absent"
    assert run.manifest["stray"] == 0


def test_devices_are_online_when_the_plan_says_so():
    scenario = COMING.replace({"population.sessions.start": 0.5})
    experiment = Experiment(scenario, plan(scenario))
    online_periods, seen = experiment.plan.online_periods, []

    def look(at: float) -> None:
        online = np.array([client.machine.state != State.ENDED for client in experiment.clients.values()])
        seen.append((online == online_periods.is_online(np.arange(40), round(at * 1e9))).all())

    for at in (-1e-6, 0.0005, 5.0, 12.0, 19.9, 24.0):
        experiment.clock.call_at(at, look, max(at, 0.0))
    experiment.run(scenario.duration)
    assert seen == [True] * 6


def test_a_server_that_delivers_nothing_to_who_is_there_loses_it(monkeypatch):
    monkeypatch.setitem(client._HANDLERS, frames.Push, lambda self, frame, now: None)
    experiment = Experiment(COMING, plan(COMING, duration=5.0))
    experiment.run(5.0)
    outcomes = experiment.tables().deliveries.column("outcome").to_pylist()
    assert outcomes.count("lost") > outcomes.count("absent") > 0
