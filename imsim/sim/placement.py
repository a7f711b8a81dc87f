"""The placement strategy of a scenario (`topology.placement`)."""

from __future__ import annotations

from imsim.core.exceptions import ImsimError, UsageError
from imsim.core.placement import Spread, Strategy, by_hash, by_rendezvous
from imsim.scenario import Plan
from imsim.scenario.custom_parts import broken


def strategy_of(placement: str | Strategy, plan: Plan) -> Strategy:
    """Return the core's strategy for `placement`: the name of a strategy, or a custom function(name, nodes)."""
    if callable(placement):
        return _checked(placement)
    if placement == "spread":
        return Spread(plan.users, {one.id: len(one.members) for one in plan.conversations})
    return by_rendezvous if placement == "rendezvous" else by_hash


def _checked(custom: Strategy) -> Strategy:
    def place(name: str, nodes: int) -> int:
        try:
            node = custom(name, nodes)
        except ImsimError:
            raise
        except Exception as error:
            raise broken(f"custom placement({name!r}, {nodes})", error) from error
        if node not in range(nodes):
            raise UsageError(
                f"custom placement({name!r}, {nodes}): must return a number from 0 to {nodes - 1} (got {node!r})"
            )
        return int(node)

    return place
