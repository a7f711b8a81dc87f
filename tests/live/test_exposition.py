"""Tests of scrapes: they are done in slices, and they get only a share of the server's time."""

from __future__ import annotations

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from imsim.live import exposition as module
from imsim.live.exposition import Exposition
from imsim.live.metrics import Metrics


@pytest.fixture
def exposition():
    return Exposition(
        Metrics(),
        connections=lambda: {"logged_in": 2},
        queues=lambda: {"router": (1, 2, 3, 4, 5), "storage": (), "send_bytes": (10, 20, 30)},
        problems=lambda: {"busy": True},
        is_ready=lambda: False,
    )


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sample.labels.values()): sample.value for family in parse(text) for sample in family.samples}


async def test_length_of_a_queue_is_the_sum_of_all_slices(exposition, monkeypatch):
    monkeypatch.setattr(module, "_SLICE", 2)
    text, _ = await exposition.scrape("")
    found = samples(text.decode())
    assert (found["imsim_queue_length", "router"], found["imsim_queue_length", "storage"]) == (15, 0)
    assert found["imsim_send_queue_bytes",] == 60


async def test_scrapes_wait_if_they_take_more_than_their_share(exposition, monkeypatch):
    monkeypatch.setattr(module, "_SHARE", 1e-9)
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.05)
    await exposition.scrape("")
    begun = time.monotonic()
    await exposition.scrape("")
    assert time.monotonic() - begun >= 0.04
