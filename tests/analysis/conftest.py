"""Runs from hand-written rows: `build(messages=[...], deliveries=[...])`. Columns that do not matter have defaults."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from imsim.analysis import Run
from imsim.results import DELIVERIES, MESSAGES, Tables
from imsim.scenario import Scenario

MS = 1_000_000

MESSAGE = {
    "sender": "ann",
    "device": "d0",
    "conversation": "p2p:ann:bob",
    "scene": "p2p",
    "type": "text",
    "size": 1,
    "intended_at": 0,
    "attempts": 1,
    "outcome": "stored",
}
DELIVERY = {
    "intent": 0,
    "recipient": "bob",
    "device": "d0",
    "role": "recipient",
    "duplicates": 0,
    "outcome": "lost",
}


@pytest.fixture
def build():
    def build(messages=(), deliveries=(), *, world="sim", seed=1, **scenario) -> Run:
        messages = [MESSAGE | {"intent": intent} | row for intent, row in enumerate(messages)]
        deliveries = [
            DELIVERY | ({"outcome": "delivered"} if "delivered_at" in row else {}) | row for row in deliveries
        ]
        tables = Tables(
            pa.Table.from_pylist(messages, schema=MESSAGES), pa.Table.from_pylist(deliveries, schema=DELIVERIES)
        )
        return Run.make(
            tables,
            Scenario(**{"name": "tiny"} | scenario),
            world=world,
            seed=seed,
            started=datetime(2026, 2, 3, tzinfo=UTC),
        )

    return build


@pytest.fixture
def delivered(build):
    """Build a run with one message for each latency in ms (None: never delivered). The ack has the same latency."""

    def delivered(*latencies, **options) -> Run:
        times = [None if latency is None else round(latency * MS) for latency in latencies]
        return build(
            [{"acked_at": time} for time in times],
            [
                {"intent": intent} | ({} if time is None else {"delivered_at": time})
                for intent, time in enumerate(times)
            ],
            **options,
        )

    return delivered
