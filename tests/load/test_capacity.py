"""The capacity of a real server whose limit is known."""

from __future__ import annotations

import asyncio

import imsim
from imsim.core.storage import Append
from imsim.live import MemoryStore

SCENARIO = """
seed = 5
duration = "2500ms"
warmup = "500ms"
drain = "5s"
[population]
users = 20
[conversations]
p2p_share = 1
partners = 3
[workload]
rate = 4.0
"""


class SlowStore(MemoryStore):
    """A store that stores 100 messages a second, one after the other, and answers 20 ms later."""

    def __init__(self):
        super().__init__()
        self._free = 0.0
        self._waiting = 0

    def submit(self, request):
        loop = asyncio.get_running_loop()
        self._free = max(self._free, loop.time()) + (0.01 if type(request) is Append else 0.0)
        self._waiting += 1
        loop.call_at(self._free + 0.02, self._submit, request)

    def _submit(self, request):
        self._waiting -= 1
        super().submit(request)

    @property
    def idle(self):
        return not self._waiting and super().idle


def test_search_finds_the_limit_of_a_server(server_with, monkeypatch):
    """80 messages a second wait a moment; of 160 a second, the last wait 1.5 s. One run at each load is clear."""
    monkeypatch.setattr("imsim.experiments.live_runs.starved", lambda manifest: "")  # this server needs no CPU time
    scenario = imsim.Scenario.from_toml(SCENARIO, name="slow")
    with server_with(store=SlowStore()) as server:
        found = imsim.capacity(
            scenario, "delivery.p95 < 500ms", url=server.url, low=4, high=8, tolerance=1, replications=1, progress=False
        )
    assert (found.keeps, found.breaks) == (4.0, 8.0)
    assert found.gave_way == "server"
