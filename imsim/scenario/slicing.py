"""A slice of a large system: a smaller scenario that is as busy."""

from __future__ import annotations

import math

from imsim.core.exceptions import UsageError
from imsim.scenario.arrivals import Replay
from imsim.scenario.fields import ScenarioFields
from imsim.scenario.quantities import shown
from imsim.scenario.sections.topology import Tier


def sliced(scenario: ScenarioFields, share: float) -> dict[str, object]:
    """Return the fields, by dotted path, in which a slice differs from the scenario. See `Scenario.slice`."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise UsageError(f"slice: expected a share above 0 and up to 1, as in 0.1 for a tenth, got {shown(share)}")
    if isinstance(scenario.workload.arrivals, Replay):
        raise UsageError(
            "slice: workload.arrivals is a replay: each moment is one message, and imsim cannot choose which to leave "
            "out; replay a part of the moments instead"
        )
    people, topology, prices = scenario.conversations, scenario.topology, scenario.cost
    users = _scaled(scenario.population.users, share)
    for count, field, size in (
        (people.groups, "groups", people.group_size.upper),
        (people.rooms, "rooms", people.room_size.upper),
    ):
        if count and (most := min(size, scenario.population.users)) > users:
            raise UsageError(
                f"slice: conversations.{field} have up to {most:,.0f} members, but {share} of the users are only "
                f"{users:,}; take a larger share"
            )
    fields: dict[str, object] = {
        "population.users": users,
        "conversations.groups": _scaled(people.groups, share),
        "conversations.rooms": _scaled(people.rooms, share),
    }
    before = after = 0
    for name, (nodes, tier) in topology.tiers().items():
        workers = _workers(tier, share)
        fields[f"topology.{name}.workers"] = workers
        fields[f"topology.{name}.speed"] = tier.speed * share * tier.workers / workers
        if tier.queue is not None:
            fields[f"topology.{name}.queue"] = _queue(tier, workers, share)
        fields[f"cost.{name}"] = getattr(prices, name) * share
        before, after = before + nodes * tier.workers, after + nodes * workers
    fields["cost.worker"] = prices.worker * share * before / after
    if (commit := topology.storage.commit) is not None:
        # The slice has as many commits a second, so each takes fewer appends. With slower workers it has fewer commits,
        # which take as many appends as before.
        workers = _workers(topology.storage, share)
        fields["topology.storage.commit.batch"] = _scaled(commit.batch, workers / topology.storage.workers)
    if (bandwidth := scenario.network.backend.bandwidth) is not None:
        fields["network.backend.bandwidth"] = bandwidth * share
    for pair, link in scenario.network.links.items():
        if link.bandwidth is not None:
            fields[f"network.links.{pair}.bandwidth"] = link.bandwidth * share
    return fields


def _workers(tier: Tier, share: float) -> int:
    return max(1, math.floor(tier.workers * share + 1e-9))


def _queue(tier: Tier, workers: int, share: float) -> int:
    """Return the queue of a sliced node. The time until it is full, and an operation's wait in a full one, stay."""
    assert tier.queue is not None
    return max(workers, workers + round((tier.queue - tier.workers) * share))


def _scaled(count: int, share: float) -> int:
    """Return a share of a count: at least 1, or 0 of 0."""
    return max(1, round(count * share)) if count else 0
