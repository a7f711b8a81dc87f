"""The cost of a design: of nodes and workers by the hour, and of use.

The model is simple, so that it can be stated in full. Fixed, by the hour: nodes x price of a node + workers x price of
a worker. By use: rows written, bytes stored and bytes delivered. `per_hour` is the price of the load that was
simulated: the use of the messages that were intended in `duration`. Prices are the scenario's section `cost`.

`per_month` is the price of a month of 730 hours. Nodes and workers cost the same at any load. Use is that of the
month's *average* load, which is the load of the run times `average_load`. Bytes kept cost `stored_gb_month`, at the
size that storage has once messages are as old as `retention_days`. Discounts are left out, and so are nodes that are
added and removed with the load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from imsim.core.exceptions import UsageError
from imsim.core.model import Scene
from imsim.results import DeliveryOutcome, Outcome, Role, RunData
from imsim.scenario import Scenario
from imsim.scenario.arrivals import Ramp

if TYPE_CHECKING:
    import pandas as pd

_HOUR = 3600.0
_DAY = 24.0  # hours
_MONTH = 730.0  # hours, a twelfth of a year
_MILLION = 1e6
_GB = 1e9


@dataclass(frozen=True)
class Storage:
    """The bytes that storage keeps, at the month's average load.

    per_day: how much it grows; nan if the month's load is unknown. size: once messages are as old as `retention_days`;
    None if they are kept without end.
    """

    per_day: float
    retention_days: float | None
    size: float | None

    def __str__(self) -> str:
        if math.isnan(self.per_day):
            return "the growth of storage is unknown"
        text = f"storage grows by {self.per_day / _GB:,.3g} GB a day"
        return text if self.size is None else f"{text} to {self.size / _GB:,.4g} GB after {self.retention_days:g} days"


@dataclass(frozen=True)
class Cost:
    """The cost of a run's design, as money in `currency`.

    per_hour: the sum of `parts`. per_million: per million stored messages; None if no message was stored. per_month:
    the sum of `monthly`; nan if the month's load is unknown. average_load: of the month, as a multiple of the run's;
    nan if the run has no load and the month has. month: the load of the month, in words.
    """

    currency: str
    per_hour: float
    per_million: float | None
    parts: Mapping[str, float]
    per_month: float
    monthly: Mapping[str, float]
    average_load: float
    storage: Storage
    month: str = "per month"

    def __str__(self) -> str:
        each = "" if self.per_million is None else f", {self.per_million:,.4g} per million messages"
        parts = ", ".join(f"{name} {value:,.4g}" for name, value in self.parts.items() if value)
        hour = f"{self.currency} {self.per_hour:,.4g} per hour{each}" + (f" ({parts} per hour)" if parts else "")
        return f"{hour}; {self.month} {_money(self.per_month)}; {self.storage}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{self.parts.get(name, 0.0):,.4g}</td><td>{_money(value)}</td></tr>"
            for name, value in self.monthly.items()
        )
        each = "–" if self.per_million is None else f"{self.per_million:,.4g}"
        return (
            f"<table><tr><th></th><th>{escape(self.currency)} per hour</th><th>{self.month}</th></tr>{rows}"
            f"<tr><th>all</th><th>{self.per_hour:,.4g}</th><th>{_money(self.per_month)}</th></tr>"
            f"<tr><th>per million messages</th><th>{each}</th><th></th></tr></table><small>{self.storage}</small>"
        )


def fixed_per_hour(scenario: Scenario) -> dict[str, float]:
    """Return the hourly cost of a design's nodes and workers. It is known before a run."""
    prices, tiers = scenario.cost, scenario.topology.tiers()
    nodes = {f"{name}s": count * getattr(prices, name) for name, (count, _) in tiers.items()}
    return {**nodes, "workers": sum(count * tier.workers for count, tier in tiers.values()) * prices.worker}


def cost_of(run: RunData) -> Cost:
    """Return the cost of a run's design at its load. Raises: UsageError if the scenario has no prices."""
    scenario: Scenario = run.scenario
    prices = scenario.cost
    if not prices.is_given:
        raise UsageError("cost: the scenario has no prices; add some to its section [cost], as in cost.router=0.10")
    messages, deliveries = run.messages, run.deliveries
    hours = scenario.duration / _HOUR
    stored = int((messages["outcome"] == Outcome.STORED).sum())
    kept = _Kept.of(run)
    sizes = messages["size"].to_numpy(float)  # in the order of `intent`
    delivered = deliveries["intent"][deliveries["outcome"] == DeliveryOutcome.DELIVERED].to_numpy(int)
    fixed = fixed_per_hour(scenario)
    used = {
        "rows written": kept.rows / _MILLION * prices.stored_million / hours,
        "bytes stored": kept.content / _GB * prices.stored_gb / hours,
        "bytes delivered": float(sizes[delivered].sum()) / _GB * prices.delivered_gb / hours,
    }
    are_priced = (prices.stored_million, prices.stored_gb, prices.delivered_gb)
    parts = {**fixed, **used}
    per_hour = sum(parts.values())
    per_million = per_hour * hours / stored * _MILLION if stored else None
    average, storage = average_load(run), _storage(run, kept)
    monthly = {name: value * _MONTH for name, value in fixed.items()}
    for (name, value), is_priced in zip(used.items(), are_priced, strict=True):
        monthly[name] = value * average * _MONTH if is_priced else 0.0
    monthly["bytes kept"] = (storage.size or 0.0) / _GB * prices.stored_gb_month if prices.stored_gb_month else 0.0
    per_month = sum(monthly.values())
    return Cost(
        prices.currency, per_hour, per_million, parts, per_month, monthly, average, storage, _month(scenario, average)
    )


def storage_of(run: RunData) -> Storage:
    """Return how much storage grows, and how large it becomes."""
    return _storage(run, _Kept.of(run))


def average_load(run: RunData) -> float:
    """Return the month's average load as a multiple of the run's: see the scenario's `cost.average_load`. It is nan if
    the run is a part of a curve in which nothing is sent."""
    scenario = run.scenario
    if scenario.cost.average_load is not None:
        return scenario.cost.average_load
    return float(scenario.workload.arrivals.average(run.seed, scenario.duration))


def _month(scenario: Scenario, average: float) -> str:
    """Return the load of the month in words."""
    if math.isnan(average):
        return "per month (the run has no load, as the simulated part of its curve is 0: simulate another part)"
    if scenario.cost.average_load is None and isinstance(scenario.workload.arrivals, Ramp):
        return "per month at the average load of this ramp"
    return "per month" if average == 1 else f"per month at {average:.3g} of this load"


def _money(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:,.4g}"


@dataclass(frozen=True)
class _Kept:
    """The messages of a run that storage keeps: the bytes of their content, and the rows written for them."""

    content: float
    rows: int

    @classmethod
    def of(cls, run: RunData) -> _Kept:
        messages = run.messages
        # A chatroom stores nothing.
        kept = messages[(messages["outcome"] == Outcome.STORED) & (messages["scene"] != Scene.CHATROOM)]
        return cls(float(kept["size"].sum()), _rows(run, kept))


def _storage(run: RunData, kept: _Kept) -> Storage:
    prices = run.scenario.cost
    stored = kept.content + kept.rows * prices.row_bytes
    per_day = stored * average_load(run) * _DAY * _HOUR / run.scenario.duration
    days = prices.retention_days
    return Storage(per_day, days, None if days is None else per_day * days)


def _rows(run: RunData, kept: pd.DataFrame) -> int:
    """Return the number of rows written for these messages."""
    if not run.scenario.policies.fanout.keeps_inboxes:
        return len(kept)
    deliveries = run.deliveries
    inboxes = deliveries[(deliveries["role"] == Role.RECIPIENT) & deliveries["intent"].isin(kept["intent"])]
    members = len(inboxes.drop_duplicates(["intent", "recipient"])) + len(kept)  # the sender is one
    return len(kept) + members
