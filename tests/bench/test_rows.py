"""Benchmark of assembling rows. Run it with `pytest tests/bench --benchmark-enable`."""

from __future__ import annotations

import numpy as np

from imsim.core.model import Scene
from imsim.results import Recorder, assemble
from imsim.scenario import Plan
from imsim.scenario.workload.planned import conversation_of


def test_assemble_a_million_facts(benchmark):
    count, users = (250_000, 10_000) if benchmark.enabled else (5_000, 500)
    rng = np.random.default_rng(1)
    sender = rng.integers(0, users, count).astype(np.int32)
    receiver = (sender + 1) % users
    plan = Plan(
        at=np.arange(count) * 1000,
        sender=sender,
        device=np.zeros(count, np.int8),
        conversation=sender,
        type=np.zeros(count, np.int8),
        size=np.full(count, 100, np.int32),
        users=[f"u{number}" for number in range(users)],
        devices=["d0"],
        types=["text"],
        conversations=[conversation_of(Scene.P2P, "", (user, (user + 1) % users)) for user in range(users)],
        actions=[],
    )
    intents = np.arange(count)
    facts = np.zeros(4 * count, Recorder().facts().dtype)
    for number, (kind, device) in enumerate(((0, -1), (2, -1), (4, receiver), (5, receiver))):
        part = facts[number * count : (number + 1) * count]
        part["kind"], part["intent"], part["device"], part["at"] = kind, intents, device, intents * 1000 + kind
    rng.shuffle(facts)
    tables = benchmark(lambda: assemble(plan, facts))
    assert tables.deliveries.column("outcome").to_pylist().count("delivered") == count
