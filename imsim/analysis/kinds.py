"""The kinds of metrics by name: unit, limits, label, and whether less is better."""

from __future__ import annotations

import math
from dataclasses import dataclass

from imsim.analysis.latency import is_latency, split
from imsim.scenario.sections.topology import TIERS


@dataclass(frozen=True)
class MetricKind:
    """The kind of a metric, as its name implies.

    unit: "ms", "s", "money", "share" (0 to 1), or "" for counts and unknown metrics. least, most: the values that it
    can have. less_is_better: None if neither less nor more is better, or that is not known. label: the label of an
    axis, without the unit, where it is not the name.
    """

    unit: str = ""
    least: float = 0.0
    most: float = math.inf
    less_is_better: bool | None = None
    label: str = ""

    @property
    def limits(self) -> tuple[float, float]:
        return self.least, self.most

    @property
    def suffix(self) -> str:
        """The unit as it follows a number in a text."""
        return f" {self.unit}" if self.unit in ("ms", "s") else ""

    @property
    def is_duration(self) -> bool:
        return self.unit in ("ms", "s")


_LATENCY = MetricKind("ms", less_is_better=True)
SHARE = MetricKind("share", most=1.0)
_FEWER = MetricKind(less_is_better=True)
_UNKNOWN = MetricKind(least=-math.inf)

#: The busiest node of each tier (`imsim.analysis.breakdown`), 0 to 1; nan in a live run.
UTILISATIONS = tuple(f"utilisation.{tier}" for tier in TIERS)

#: The mean time that the operations of a message waited for workers of each tier; nan in a live run.
WAITS = tuple(f"wait.{tier}" for tier in TIERS)
RECOVERY = "recovery.time"

#: Deliveries per second of the time in which messages were sent.
THROUGHPUT = "throughput"

#: The CPU time of the server's processes per message, login included; nan unless a check started the server.
SERVER_CPU = "server.cpu"

KINDS = {
    "messages": MetricKind(),
    "stored": MetricKind(),
    "deliveries": MetricKind(),
    "delivered": MetricKind(),
    "lost": _FEWER,
    "absent": MetricKind(),
    "recalled": MetricKind(),
    "shed": _FEWER,
    "duplicates": _FEWER,
    "received_lost": _FEWER,
    "cost.per_hour": MetricKind("money", less_is_better=True, label="cost per hour"),
    "cost.per_million": MetricKind("money", less_is_better=True, label="cost per million messages"),
    "cost.per_month": MetricKind("money", less_is_better=True, label="cost per month"),
    RECOVERY: MetricKind("s", less_is_better=True),
    THROUGHPUT: MetricKind(label="deliveries per second"),
    SERVER_CPU: MetricKind("ms", less_is_better=True, label="server CPU per message"),
    **dict.fromkeys(UTILISATIONS, SHARE),
    **dict.fromkeys(WAITS, MetricKind("ms")),
}


def kind_of(name: str) -> MetricKind:
    """Return what is known about a metric. A function whose name ends in `share` returns a share, as in
    `late_share`."""
    if is_latency(name):
        return _LATENCY
    name, _ = split(name)
    if name in KINDS:
        return KINDS[name]
    return SHARE if name.endswith("share") else _UNKNOWN


def axis_label(name: str, currency: str = "") -> str:
    """Return the label of an axis, with the unit. `currency` is the unit of costs."""
    kind = kind_of(name)
    unit = {"money": currency, "share": "", "": ""}.get(kind.unit, kind.unit)
    label = kind.label or name
    return f"{label} ({unit})" if unit else label
