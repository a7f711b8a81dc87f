"""Metrics of a run by name: `delivery.p99`, `ack.mean`, `last.p50`, `cost.per_hour`, or a user's function.

Inside imsim a metric that falls among messages that never arrived is infinite, and a metric without any values is nan.
Results show both as null.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from imsim.analysis.breakdown import tier_utilisation
from imsim.analysis.cost import cost_of
from imsim.analysis.latency import LATENCIES, STATISTIC, is_latency, is_share, quantile, summarize
from imsim.analysis.recovery import recovery_time
from imsim.analysis.run import Run
from imsim.core.exceptions import ImsimError, UsageError
from imsim.core.policies import Ack
from imsim.results import RunData
from imsim.scenario import Scenario
from imsim.scenario.custom_parts import broken
from imsim.scenario.sections.faults import TIERS

#: A function that returns a number of a run. None and nan mean that there was nothing to measure, infinity that the
#: number falls among messages that never arrived.
MetricFunction = Callable[[Run], float | None]

#: Metrics as a user requests them: names, functions (under their own names), or a mapping of names to functions.
Metrics = str | MetricFunction | Sequence[str | MetricFunction] | Mapping[str, MetricFunction]

_COUNTS = (
    "messages",
    "stored",
    "deliveries",
    "delivered",
    "lost",
    "absent",
    "recalled",
    "shed",
    "duplicates",
    "received_lost",
)
_COSTS = ("cost.per_hour", "cost.per_million")
_PER_MONTH = "cost.per_month"
IN_SECONDS = ("recovery.time",)  # see `imsim.analysis.recovery`
#: The utilisation of the busiest node of a tier (`imsim.analysis.breakdown`), 0 to 1; nan in a live run.
UTILISATIONS = tuple(f"utilisation.{tier}" for tier in TIERS)
_OTHERS = (*_COUNTS, *_COSTS, _PER_MONTH, *IN_SECONDS, *UTILISATIONS)  # all metrics that are not latencies
_AT_THE_END = re.compile(rf"(.*?)[._ -]?({STATISTIC.pattern})", re.IGNORECASE)
_KNOWN = "delivery.p50, .p95, .p99.9, .mean, .max; ack., confirmed. and last. with the same; " + ", ".join(_OTHERS)

LATENCY_METRICS = tuple(f"{name}.{what}" for name in LATENCIES for what in ("mean", "p50", "p95", "p99", "max"))

_USUAL = ("messages", "delivered", "lost", "absent", "recalled", "shed", "duplicates")


def default_metrics(*scenarios: Scenario) -> tuple[str, ...]:
    """Return the metrics that are always measured for these scenarios.

    `last.*` is included if all scenarios have messages to groups or chatrooms, costs if all have prices, the recovery
    time if all have faults. `confirmed.*` and `received_lost` are included if one of them acknowledges early.
    """
    to_many = all(scenario.conversations.p2p_share < 1 for scenario in scenarios)
    early = any(scenario.policies.ack is Ack.AFTER_RECEIVE for scenario in scenarios)
    left_out = (*(() if to_many else ("last.",)), *(() if early else ("confirmed.",)))
    latencies = [name for name in LATENCY_METRICS if not name.startswith(left_out)]
    counts = (*_USUAL, "received_lost") if early else _USUAL
    costs = _COSTS if all(scenario.cost.is_given for scenario in scenarios) else ()
    return (*latencies, *counts, *costs, *(IN_SECONDS if all(scenario.faults for scenario in scenarios) else ()))


def is_known(name: str) -> bool:
    """Return whether this is the name of a metric that every run has."""
    return is_latency(name) or name in _OTHERS


def check_name(name: str, own: Iterable[str] = ()) -> str:
    """Return the name if every run has such a metric.

    own: names of the user's functions, for suggestions. Raises: UsageError with the nearest names and all known ones.
    """
    if not isinstance(name, str) or not is_known(name):
        hint = did_you_mean(name, own) if isinstance(name, str) else ""
        raise UsageError(f"metric {name!r}: unknown{hint}; known: {_KNOWN}")
    return name


def check_measured(name: str, measured: Sequence[str]) -> str:
    """Return the name if this metric was measured. Raises: UsageError, which says how to measure it."""
    if name not in measured:
        how = "request it with metrics=[...]" if is_known(name) else f"unknown{did_you_mean(name)}"
        raise UsageError(f"metric {name!r} was not measured: {how}. Measured: {', '.join(measured)}")
    return name


def did_you_mean(name: str, own: Iterable[str] = ()) -> str:
    """Return " (did you mean 'delivery.p99' or 'ack.p99'?)", or "" if no metric or name in `own` is similar."""
    near = difflib.get_close_matches(name, [*own, *_OTHERS, *LATENCY_METRICS], n=3, cutoff=0.7)
    if match := _AT_THE_END.fullmatch(name):
        family, statistic = match[1].lower(), match[2].lower()
        families = difflib.get_close_matches(family, LATENCIES, n=1) or LATENCIES
        near = list(dict.fromkeys((*near, *(f"{one}.{statistic}" for one in families))))
    if not near:
        return ""
    names = ", ".join(map(repr, near[:-1]))
    return f" (did you mean {names + ' or ' if names else ''}{near[-1]!r}?)"


def limits_of(name: str) -> tuple[float, float]:
    """Return the smallest and the largest possible value of a metric.

    Latencies, counts, costs and times are at least 0; shares are from 0 to 1. A user's function has no known bounds.
    """
    has_most = is_share(name) or name in UTILISATIONS
    return (0.0 if is_known(name) or is_share(name) else -math.inf, 1.0 if has_most else math.inf)


@dataclass(frozen=True)
class Measures:
    """The metrics that are measured in each replication: known metrics by name, and the user's functions."""

    names: tuple[str, ...]
    functions: dict[str, MetricFunction] = field(default_factory=dict)

    @classmethod
    def of(cls, metrics: Metrics, *, also: Sequence[str] = ()) -> Measures:
        """Return the metrics that a user requested, after those in `also`. Raises: UsageError."""
        functions: dict[str, MetricFunction] = {}
        asked: list[str] = []
        if isinstance(metrics, str) or callable(metrics):
            metrics = [metrics]
        if not isinstance(metrics, Iterable):
            raise UsageError(
                f"metrics: expected names, functions, or a mapping of names to functions (got {metrics!r})"
            )
        if isinstance(metrics, Mapping):
            functions.update(metrics)
        else:
            for metric in metrics:
                if callable(metric):
                    functions[getattr(metric, "__name__", type(metric).__name__)] = metric
                else:
                    asked.append(metric)
        names = [check_name(name, functions) for name in (*also, *asked)]
        for name, function in functions.items():
            if not callable(function):
                raise UsageError(f"metric {name!r}: expected a function of a run (got {function!r})")
            if name in names:
                raise UsageError(f"metric {name!r}: imsim has a metric of this name; rename your function")
        return cls(tuple(dict.fromkeys(names)), functions)

    @property
    def all(self) -> tuple[str, ...]:
        """The names of all metrics."""
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
            number = values[name] = _number(name, value)
            if is_share(name) and not 0 <= number <= 1 and not math.isnan(number):
                raise UsageError(
                    f"metric {name!r}: a name that ends in 'share' promises a number from 0 to 1 (got {value!r}); "
                    "rename the function"
                )
        return values


def value_of(run: RunData, name: str) -> float:
    """Return one metric of a run: ms, a count, money, seconds (recovery.time) or a share (utilisation).

    It is infinite if it falls among messages that never arrived, and nan if there are no values.
    """
    return _Numbers(run).value(check_name(name))


class _Numbers:
    """The metrics of one run. Values that several metrics need are computed once."""

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
    """Return a statistic of ascending latencies."""
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
        raise UsageError(f"metric {name!r}: the function must return a number (got {value!r})") from None
