"""The cost of a design: nodes and workers by the hour, and storage and traffic by use.

The model is simple enough to be stated in full. The fixed cost of an hour is nodes x price of a node + workers x price
of a worker. Use costs by rows written, bytes stored and bytes delivered, at the rate of the run. The rate counts the
stored messages that were intended within `duration`; so `per_hour` is the price of the simulated load, busy or idle.
The prices are in the scenario's section `cost`.

`per_month` is the price of a whole month (730 hours). Nodes and workers cost the same at any load. Use is priced at the
month's *average* load, which is the run's load times `average_load`. Kept data cost `stored_gb_month`, at the size that
storage has once messages are as old as `retention_days`. The model leaves out discounts and nodes that start and stop
with the load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from imsim.core.exceptions import UsageError
from imsim.core.model import Scene
from imsim.results import DeliveryOutcome, Outcome, Role, RunData
from imsim.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd

_HOUR = 3600.0
_DAY = 24.0  # hours
_MONTH = 730.0  # hours, a twelfth of a year
_MILLION = 1e6
_GB = 1e9

#: Arrivals whose mean over a long time is `workload.rate`, even if the mean of a run differs.
_WITH_MEAN = ("curve", "bursts")


@dataclass(frozen=True)
class Storage:
    """The size and growth of stored data, in bytes, at the month's average load."""

    per_day: float
    retention_days: float | None
    size: float | None  # after `retention_days`; None if messages are never deleted

    def __str__(self) -> str:
        text = f"storage grows by {self.per_day / _GB:,.3g} GB a day"
        return text if self.size is None else f"{text} to {self.size / _GB:,.4g} GB after {self.retention_days:g} days"


@dataclass(frozen=True)
class Cost:
    """The cost of a run's design, in `currency`.

    `parts` are the components of `per_hour`, `monthly` those of `per_month`. `per_million` is the cost of a million
    stored messages, None if no message was stored. `average_load` is the month's load as a multiple of the run's.
    """

    currency: str
    per_hour: float
    per_million: float | None
    parts: Mapping[str, float]
    per_month: float
    monthly: Mapping[str, float]
    average_load: float
    storage: Storage

    def __str__(self) -> str:
        each = "" if self.per_million is None else f", {self.per_million:,.4g} per million messages"
        parts = ", ".join(f"{name} {value:,.4g}" for name, value in self.parts.items() if value)
        hour = f"{self.currency} {self.per_hour:,.4g} per hour{each}" + (f" ({parts} per hour)" if parts else "")
        return f"{hour}; {self._month} {self.per_month:,.4g}; {self.storage}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{self.parts.get(name, 0.0):,.4g}</td><td>{value:,.4g}</td></tr>"
            for name, value in self.monthly.items()
        )
        each = "–" if self.per_million is None else f"{self.per_million:,.4g}"
        return (
            f"<table><tr><th></th><th>{escape(self.currency)} per hour</th><th>{self._month}</th></tr>{rows}"
            f"<tr><th>all</th><th>{self.per_hour:,.4g}</th><th>{self.per_month:,.4g}</th></tr>"
            f"<tr><th>per million messages</th><th>{each}</th><th></th></tr></table><small>{self.storage}</small>"
        )

    @property
    def _month(self) -> str:
        return "per month" if self.average_load == 1 else f"per month at {self.average_load:.3g} of this load"


def fixed_per_hour(scenario: Scenario) -> dict[str, float]:
    """Return the hourly cost of a design's nodes and workers, which does not depend on the load."""
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
    """Return the cost of a run's design. Raises: UsageError if the scenario has no prices."""
    scenario: Scenario = run.scenario
    prices = scenario.cost
    if not prices.is_given:
        raise UsageError("cost: the scenario has no prices; set some in its section [cost], such as cost.router=0.10")
    messages, deliveries = run.messages, run.deliveries
    hours = scenario.duration / _HOUR
    stored = int((messages["outcome"] == Outcome.STORED).sum())
    kept = _kept(run)
    sizes = messages["size"].to_numpy(float)  # by intent, which is a message's position in the table
    delivered = deliveries["intent"][deliveries["outcome"] == DeliveryOutcome.DELIVERED].to_numpy(int)
    fixed = fixed_per_hour(scenario)
    used = {
        "rows_written": _rows(run, kept) / _MILLION * prices.stored_million / hours,
        "bytes_stored": float(kept["size"].sum()) / _GB * prices.stored_gb / hours,
        "bytes_delivered": float(sizes[delivered].sum()) / _GB * prices.delivered_gb / hours,
    }
    parts = {**fixed, **used}
    per_hour = sum(parts.values())
    per_million = per_hour * hours / stored * _MILLION if stored else None
    average, storage = average_load(run), storage_of(run)
    monthly = {name: value * _MONTH for name, value in fixed.items()}
    monthly |= {name: value * average * _MONTH for name, value in used.items()}
    monthly["bytes_kept"] = (storage.size or 0.0) / _GB * prices.stored_gb_month
    per_month = sum(monthly.values())
    return Cost(prices.currency, per_hour, per_million, parts, per_month, monthly, average, storage)


def storage_of(run: RunData) -> Storage:
    """Return how fast storage grows and how large it becomes."""
    prices = run.scenario.cost
    kept = _kept(run)
    stored = float(kept["size"].sum()) + _rows(run, kept) * prices.row_bytes
    per_day = stored * average_load(run) * _DAY * _HOUR / run.scenario.duration
    days = prices.retention_days
    return Storage(per_day, days, None if days is None else per_day * days)


def average_load(run: RunData) -> float:
    """Return the month's average load as a multiple of the run's: see the scenario's `cost.average_load`."""
    scenario, arrivals = run.scenario, run.scenario.workload.arrivals
    if scenario.cost.average_load is not None:
        return scenario.cost.average_load
    shape = arrivals.shape(run.seed, scenario.duration) if arrivals.kind in _WITH_MEAN else None
    if shape is None or not (expected := shape.expected(scenario.duration)):
        return 1.0
    return float(scenario.duration / expected)


def _kept(run: RunData) -> pd.DataFrame:
    """Return the messages that storage keeps: all stored messages except those to chatrooms."""
    messages = run.messages
    return messages[(messages["outcome"] == Outcome.STORED) & (messages["scene"] != Scene.CHATROOM)]


def _rows(run: RunData, kept: pd.DataFrame) -> int:
    """Return the number of rows that storage writes for these messages."""
    if not run.scenario.policies.fanout.keeps_inboxes:
        return len(kept)
    deliveries = run.deliveries
    inboxes = deliveries[(deliveries["role"] == Role.RECIPIENT) & deliveries["intent"].isin(kept["intent"])]
    members = len(inboxes.drop_duplicates(["intent", "recipient"])) + len(kept)  # the sender has an inbox, too
    return len(kept) + members
