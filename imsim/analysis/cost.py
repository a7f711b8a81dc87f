"""What a design costs: nodes and workers by the hour, and what each message costs on top.

A simple model, so that it can be stated in full. Fixed, by the hour: nodes x price of a node + workers x price of a
worker. By use, at the rate of the run: rows written, bytes stored, bytes delivered. The rate is what was stored of the
messages that were intended in `duration`, so the prices are those of the load that was simulated, busy or idle; nothing
is known of nights, discounts or idle reserves. Prices are the scenario's section `cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from imsim.core.exceptions import UsageError
from imsim.core.model import Scene
from imsim.results import DeliveryOutcome, Outcome, Role, RunData
from imsim.scenario import Scenario

_HOUR = 3600.0
_MILLION = 1e6
_GB = 1e9


@dataclass(frozen=True)
class Cost:
    """Money in `currency`. `parts` is what `per_hour` consists of; `per_million` stored messages is None if none
    was."""

    currency: str
    per_hour: float
    per_million: float | None
    parts: Mapping[str, float]

    def __str__(self) -> str:
        each = "" if self.per_million is None else f", {self.per_million:,.4g} per million messages"
        parts = ", ".join(f"{name} {value:,.4g}" for name, value in self.parts.items() if value)
        return f"{self.currency} {self.per_hour:,.4g} per hour{each}" + (f" ({parts} per hour)" if parts else "")

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(name)}</td><td>{value:,.4g}</td></tr>" for name, value in self.parts.items())
        each = "–" if self.per_million is None else f"{self.per_million:,.4g}"
        return (
            f"<table><tr><th></th><th>{escape(self.currency)} per hour</th></tr>{rows}"
            f"<tr><th>all</th><th>{self.per_hour:,.4g}</th></tr>"
            f"<tr><th>per million messages</th><th>{each}</th></tr></table>"
        )


def fixed_per_hour(scenario: Scenario) -> dict[str, float]:
    """What the nodes and workers of a design cost by the hour, whatever they do: known before anything is run."""
    topology, prices = scenario.topology, scenario.cost
    tiers = (
        (topology.gateways, topology.gateway, prices.gateway),
        (topology.routers, topology.router, prices.router),
        (topology.storages, topology.storage, prices.storage),
    )
    gateways, routers, storages = (nodes * price for nodes, _, price in tiers)
    workers = sum(nodes * tier.workers for nodes, tier, _ in tiers) * prices.worker
    return {"gateways": gateways, "routers": routers, "storages": storages, "workers": workers}


def cost_of(run: RunData) -> Cost:
    """Raises: UsageError if the scenario has no prices."""
    scenario: Scenario = run.scenario
    prices = scenario.cost
    if not prices.is_given:
        raise UsageError("cost: the scenario has no prices; give some in its section [cost], as in cost.router=0.10")
    messages, deliveries = run.messages, run.deliveries
    hours = scenario.duration / _HOUR
    stored = messages[messages["outcome"] == Outcome.STORED]
    kept = stored[stored["scene"] != Scene.CHATROOM]  # a chatroom stores nothing
    rows = len(kept)
    if scenario.policies.fanout.keeps_inboxes:
        inboxes = deliveries[(deliveries["role"] == Role.RECIPIENT) & deliveries["intent"].isin(kept["intent"])]
        members = len(inboxes.drop_duplicates(["intent", "recipient"])) + len(kept)  # the sender is one
        rows += members
    sizes = messages["size"].to_numpy(float)  # by intent, which is a message's place in the table
    delivered = deliveries["intent"][deliveries["outcome"] == DeliveryOutcome.DELIVERED].to_numpy(int)
    parts = {
        **fixed_per_hour(scenario),
        "rows written": rows / _MILLION * prices.stored_million / hours,
        "bytes stored": float(kept["size"].sum()) / _GB * prices.stored_gb / hours,
        "bytes delivered": float(sizes[delivered].sum()) / _GB * prices.delivered_gb / hours,
    }
    per_hour = sum(parts.values())
    per_million = per_hour * hours / len(stored) * _MILLION if len(stored) else None
    return Cost(prices.currency, per_hour, per_million, parts)
