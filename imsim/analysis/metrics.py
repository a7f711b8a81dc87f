"""Numbers of a run by name: `delivery.p99`, `ack.mean`, `last.p50`, `cost.per_hour`, or a function of the user's.

Within imsim a number that falls among what never came is infinite, and one of nothing at all is nan; both are null to
those who read them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from imsim.analysis.breakdown import tier_utilisation
from imsim.analysis.cost import cost_of
from imsim.analysis.latency import LATENCIES, quantile, summarize
from imsim.analysis.recovery import recovery_time
from imsim.analysis.run import Run
from imsim.core.exceptions import ImsimError, UsageError
from imsim.results import RunData
from imsim.scenario import Scenario
from imsim.scenario.custom_parts import broken
from imsim.scenario.sections.faults import TIERS

#: A number of a run. None and nan mean that there was nothing to measure, infinity that it never came.
MetricFunction = Callable[[Run], float | None]

#: Metrics as they are asked for: names, functions (named as they are), or a mapping of names to functions.
Metrics = Sequence[str | MetricFunction] | Mapping[str, MetricFunction]

_STATISTIC = re.compile(r"mean|max|p(\d{1,2}(?:\.\d{1,4})?)")
_COUNTS = ("messages", "stored", "deliveries", "delivered", "lost", "absent", "recalled", "shed", "duplicates")
_COSTS = ("cost.per_hour", "cost.per_million")
_PER_MONTH = "cost.per_month"
IN_SECONDS = ("recovery.time",)  # see `imsim.analysis.recovery`
#: How busy the busiest node of a tier was (`imsim.analysis.breakdown`), 0 to 1; nan in a live run.
UTILISATIONS = tuple(f"utilisation.{tier}" for tier in TIERS)
_KNOWN = "delivery.p50, .p95, .p99.9, .mean, .max; ack. and last. with the same; " + ", ".join(
    (*_COUNTS, *_COSTS, _PER_MONTH, *IN_SECONDS, *UTILISATIONS)
)

LATENCY_METRICS = tuple(f"{name}.{what}" for name in LATENCIES for what in ("mean", "p50", "p95", "p99", "max"))

_USUAL = ("messages", "delivered", "lost", "absent", "recalled", "shed", "duplicates")


def default_metrics(*scenarios: Scenario) -> tuple[str, ...]:
    """What is measured unless something else is asked for: the last recipient only where messages go to several, and
    costs only where there are prices, recovery only where there are faults, in all of the scenarios."""
    to_many = all(scenario.conversations.p2p_share < 1 for scenario in scenarios)
    latencies = [name for name in LATENCY_METRICS if to_many or not name.startswith("last.")]
    costs = _COSTS if all(scenario.cost.is_given for scenario in scenarios) else ()
    return (*latencies, *_USUAL, *costs, *(IN_SECONDS if all(scenario.faults for scenario in scenarios) else ()))


def check_name(name: str) -> str:
    """The name of a metric that every run has. Raises: UsageError, which names those that there are."""
    what, _, statistic = name.partition(".")
    latency = what in LATENCIES and _STATISTIC.fullmatch(statistic)
    if not latency and name not in (*_COUNTS, *_COSTS, _PER_MONTH, *IN_SECONDS, *UTILISATIONS):
        raise UsageError(f"metric {name!r}: there is none of this name; known: {_KNOWN}")
    return name


def least_of(name: str) -> float:
    """What the metric is never below: 0 for latencies, counts and costs; of the user's functions nothing is known."""
    try:
        check_name(name)
    except UsageError:
        return -math.inf
    return 0.0


@dataclass(frozen=True)
class Measures:
    """What is measured in each replication: metrics by name, and functions of the user's own."""

    names: tuple[str, ...]
    functions: dict[str, MetricFunction] = field(default_factory=dict)

    @classmethod
    def of(cls, metrics: Metrics, *, also: Sequence[str] = ()) -> Measures:
        """The metrics that a user asked for, behind those in `also`. Raises: UsageError."""
        names = [check_name(name) for name in also]
        functions: dict[str, MetricFunction] = {}
        if isinstance(metrics, str):
            metrics = [metrics]
        if isinstance(metrics, Mapping):
            functions.update(metrics)
        else:
            for metric in metrics:
                if callable(metric):
                    functions[getattr(metric, "__name__", type(metric).__name__)] = metric
                else:
                    names.append(check_name(metric))
        for name, function in functions.items():
            if not callable(function):
                raise UsageError(f"metric {name!r}: expected a function of a run, got {function!r}")
            if name in names:
                raise UsageError(f"metric {name!r}: there is one of this name already; call yours something else")
        return cls(tuple(dict.fromkeys(names)), functions)

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.names, *self.functions)

    def __call__(self, run: Run) -> dict[str, float]:
        numbers = _Numbers(run)
        values = {name: numbers.value(name) for name in self.names}
        for name, function in self.functions.items():
            try:
                value = function(run)
            except ImsimError:
                raise
            except Exception as error:
                raise broken(f"metric {name!r}: the function", error) from error
            values[name] = _number(name, value)
        return values


def value_of(run: RunData, name: str) -> float:
    """One metric of one run: ms, a count, money, seconds (recovery.time) or a share (utilisation); infinite where it
    falls among what never came, nan of nothing."""
    return _Numbers(run).value(check_name(name))


class _Numbers:
    """The metrics of one run; what several have in common is worked out once."""

    def __init__(self, run: RunData) -> None:
        self._run = run
        self._latencies: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
        self._counts: dict[str, int] = {}

    def value(self, name: str) -> float:
        what, _, statistic = name.partition(".")
        if what in LATENCIES:
            if what not in self._latencies:
                self._latencies[what] = LATENCIES[what](self._run)
            return _statistic(self._latencies[what], statistic)
        if what == "cost":
            cost = cost_of(self._run)
            value: float | None = getattr(cost, statistic)
            return math.nan if value is None else value
        if name == "recovery.time":
            return recovery_time(self._run)
        if what == "utilisation":
            return tier_utilisation(self._run, statistic)
        if not self._counts:
            self._counts = vars(summarize(self._run).counts)
        return float(self._counts[name])


def _statistic(values: np.ndarray[Any, np.dtype[np.float64]], name: str) -> float:
    """Of latencies in ascending order."""
    if not len(values):
        return math.nan
    if name == "mean":
        return round(float(values.mean()), 6)
    return round(float(values[-1]) if name == "max" else quantile(values, Fraction(name[1:])), 6)


def _number(name: str, value: object) -> float:
    if value is None:
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UsageError(f"metric {name!r}: expected a number of each run, got {value!r}") from None
