"""A slice of a large system, to be simulated in its place."""

from __future__ import annotations

import math

from imsim.core.exceptions import UsageError
from imsim.scenario.arrivals import Replay
from imsim.scenario.fields import ScenarioFields

_TIERS = ("gateway", "router", "storage")


def sliced(scenario: ScenarioFields, share: float) -> dict[str, object]:
    """The fields, by dotted path, in which a slice of the scenario differs from it. See `Scenario.slice`."""
    if not 0 < share <= 1:
        raise UsageError(f"slice: expected a share above 0 and up to 1, got {share!r}")
    if isinstance(scenario.workload.arrivals, Replay):
        raise UsageError("slice: workload.arrivals is a replay, whose moments are all messages: give a part of them")
    people, topology, prices = scenario.conversations, scenario.topology, scenario.cost
    users = _part(scenario.population.users, share)
    for count, of, size in (
        (people.groups, "groups", people.group_size.upper),
        (people.rooms, "rooms", people.room_size.upper),
    ):
        if count and (most := min(size, scenario.population.users)) > users:
            raise UsageError(
                f"slice: conversations.{of} have up to {most:,.0f} members, but {share} of the users are {users:,}: "
                "take a larger share"
            )
    fields: dict[str, object] = {
        "population.users": users,
        "conversations.groups": _part(people.groups, share),
        "conversations.rooms": _part(people.rooms, share),
    }
    whole = part = 0
    for name in _TIERS:
        tier, nodes = getattr(topology, name), getattr(topology, f"{name}s")
        workers = max(1, math.floor(tier.workers * share + 1e-9))
        fields[f"topology.{name}.workers"] = workers
        fields[f"topology.{name}.speed"] = tier.speed * share * tier.workers / workers
        whole, part = whole + nodes * tier.workers, part + nodes * workers
        fields[f"cost.{name}"] = getattr(prices, name) * share
    fields["cost.worker"] = prices.worker * share * whole / part
    if (bandwidth := scenario.network.backend.bandwidth) is not None:
        fields["network.backend.bandwidth"] = bandwidth * share
    for pair, link in scenario.network.links.items():
        if link.bandwidth is not None:
            fields[f"network.links.{pair}.bandwidth"] = link.bandwidth * share
    return fields


def _part(count: int, share: float) -> int:
    return max(1, round(count * share)) if count else 0
