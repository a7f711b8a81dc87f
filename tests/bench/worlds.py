"""The scenarios of the benchmarks, with default policies."""

from __future__ import annotations

from typing import Any

from bench.tandem import LOAD, WORKERS

from imsim.scenario import Scenario


def private(messages: int, users: int = 1000, rate: float = 1000.0, **more: Any) -> Scenario:
    """Return a scenario with about `messages` p2p messages, `rate` per second in total.

    It has four stations with the same utilization as the tandem's: two gateways, a router and a storage. Each message
    needs four services: at its sender's gateway, the router, the storage and its recipient's gateway.

    The latencies of links are constant (15 ms and 300 us), because the tandem draws no numbers while it runs.
    """
    service = {"kind": "exponential", "mean": WORKERS * LOAD / rate}
    tier = {"workers": WORKERS}
    return Scenario().replace(
        {
            "name": "private",
            "duration": messages / rate,
            "population.users": users,
            "conversations.p2p_share": 1.0,
            "conversations.groups": 0,
            "workload.rate": rate / users,
            "network.client.latency": "15ms",
            "network.backend.latency": "300us",
            "topology.gateways": 2,
            "topology.gateway": {**tier, "service": {"send": service, "push": service}},
            "topology.router": {**tier, "service": {"send": service}},
            "topology.storage": {**tier, "service": {"append": service}},
            **more,
        }
    )


def group(messages: int, size: int = 1000) -> Scenario:
    """Return a scenario with messages to one group of `size` members, with the service times of `private`.

    The service time of a push is divided by `size`, so that the stations have the same utilization.
    """
    rate = 10.0
    scenario = private(messages, size, rate)
    push = {"kind": "exponential", "mean": WORKERS * LOAD / rate / size}
    return scenario.replace(
        {
            "name": "group",
            "conversations.p2p_share": 0.0,
            "conversations.partners": 0,
            "conversations.groups": 1,
            "conversations.group_size": size,
            "topology.gateway.service": {**scenario.topology.gateway.service, "push": push},
        }
    )
