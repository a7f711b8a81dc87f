"""A small plan: Ann, Bob and Cyd with two devices each, in one p2p conversation and one group."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from imsim.core.model import Scene
from imsim.results import Recorder, RunData, Tables, assemble
from imsim.scenario import Plan, PlannedConversation, Scenario


@pytest.fixture(scope="session")
def plan() -> Plan:
    """Return a plan of three messages: 0 (p2p, from ann's d0), 1 (group, from bob's d1) and 2 (p2p, from ann's d1).

    The numbers of devices are 0 and 1 (ann), 2 and 3 (bob), 4 and 5 (cyd). No test changes the plan, so all tests and
    all examples of hypothesis share one.
    """
    return Plan(
        at=np.array([100, 200, 300], np.int64),
        sender=np.array([0, 1, 0], np.int32),
        device=np.array([0, 1, 1], np.int8),
        conversation=np.array([0, 1, 0], np.int32),
        type=np.zeros(3, np.int8),
        size=np.array([10, 20, 30], np.int32),
        users=["ann", "bob", "cyd"],
        devices=["d0", "d1"],
        types=["text"],
        conversations=[
            PlannedConversation("p2p:ann:bob", Scene.P2P, "", (0, 1)),
            PlannedConversation("group:all", Scene.GROUP, "all", (0, 1, 2)),
        ],
        actions=[],
    )


@pytest.fixture
def scenario() -> Scenario:
    return Scenario(name="tiny", duration=1.0)


@pytest.fixture
def tables(plan) -> Tables:
    """Return tables in which message 0 is delivered to all devices, 1 to none, and 2 is rejected."""
    recorder = Recorder()
    for intent, at in enumerate((150e-9, 250e-9, 350e-9)):
        recorder.sent(intent, at)
    recorder.acked(0, 400e-9)
    recorder.acked(1, 500e-9)
    recorder.failed(2, 600e-9, "not_member")
    for device in (1, 2, 3):
        recorder.delivered(0, device, 700e-9, "push")
    return assemble(plan, recorder.facts())


@pytest.fixture
def run(tables, scenario) -> RunData:
    started = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    return RunData.make(tables, scenario, world="sim", seed=7, started=started)
