"""A small plan: Ann, Bob and Cyd with two devices each, in one p2p conversation and one group."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from imsim.results import Recorder, RunData, Tables, assemble
from imsim.scenario import Scenario


@dataclass
class FakePlan:
    """A plan of three messages: 0 (p2p, from ann's d0), 1 (group, from bob's d1) and 2 (p2p, from ann's d1)."""

    at: np.ndarray = field(default_factory=lambda: np.array([100, 200, 300], np.int64))
    sender: np.ndarray = field(default_factory=lambda: np.array([0, 1, 0], np.int32))
    device: np.ndarray = field(default_factory=lambda: np.array([0, 1, 1], np.int8))
    conversation: np.ndarray = field(default_factory=lambda: np.array([0, 1, 0], np.int32))
    size: np.ndarray = field(default_factory=lambda: np.array([10, 20, 30], np.int32))
    type: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int8))
    types: list[str] = field(default_factory=lambda: ["text"])
    guests: frozenset[tuple[int, int]] = frozenset()
    users: list[str] = field(default_factory=lambda: ["ann", "bob", "cyd"])
    devices: list[str] = field(default_factory=lambda: ["d0", "d1"])
    conversations: list = field(
        default_factory=lambda: [
            SimpleNamespace(id="p2p:ann:bob", scene="p2p", members=(0, 1)),
            SimpleNamespace(id="group:all", scene="group", members=(0, 1, 2)),
        ]
    )

    to_room: np.ndarray = field(default_factory=lambda: np.zeros(3, bool))
    room_patience: int = 0

    def is_excused(self, intent, device, is_stored):
        return np.zeros(len(intent), bool)

    def entitled(self):
        """Return the expected deliveries. The numbers of devices are 0 and 1 (ann), 2 and 3 (bob), 4 and 5 (cyd)."""
        rows = [
            (intent, user * 2 + device, user == self.sender[intent])
            for intent in range(len(self.at))
            for user in self.conversations[self.conversation[intent]].members
            for device in (0, 1)
            if (user, device) != (self.sender[intent], self.device[intent])
        ]
        intent, device, is_own = zip(*rows, strict=True)
        return np.array(intent, np.int64), np.array(device, np.int32), np.array(is_own)


@pytest.fixture(scope="session")
def plan() -> FakePlan:
    """Return a plan. No test changes it, so all tests and all examples of hypothesis share one."""
    return FakePlan()


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
    return assemble(plan, recorder.facts(), knows_server=True)


@pytest.fixture
def run(tables, scenario) -> RunData:
    started = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    return RunData.make(tables, scenario, world="sim", seed=7, started=started)
