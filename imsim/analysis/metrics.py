"""The numbers of a run by name: `delivery.p99`, `ack.mean`, `last.p50`, `cost.per_hour`, or a function of the user.

Within imsim, a number is infinite if it falls among deliveries that never arrived, and nan if there was nothing to
measure. In tables and JSON both are null.
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

from imsim.analysis.breakdown import tier_utilisation, tier_wait
from imsim.analysis.cost import cost_of
from imsim.analysis.kinds import KINDS, RECOVERY, SERVER_CPU, SHARE, THROUGHPUT, kind_of
from imsim.analysis.latency import LATENCIES, STATISTIC, Counts, counts_of, is_latency, quantile, split
from imsim.analysis.recovery import recovery_time
from imsim.analysis.run import Run
from imsim.core.exceptions import ImsimError, UsageError
from imsim.core.policies import Ack
from imsim.results import RunData
from imsim.scenario import Scenario
from imsim.scenario.custom_parts import broken
from imsim.scenario.sections.topology import TIERS

#: A function that returns a number of a run. None and nan mean that there was nothing to measure, infinity that the
#: number falls among deliveries that never arrived.
MetricFunction = Callable[[Run], float | None]

#: The metrics that a user requests: names, functions (by their own names), or a mapping of names to functions.
Metrics = str | MetricFunction | Sequence[str | MetricFunction] | Mapping[str, MetricFunction]


_COSTS = tuple(name for name, kind in KINDS.items() if kind.unit == "money")
_AT_THE_END = re.compile(rf"(.*?)[._ -]?({STATISTIC.pattern})", re.IGNORECASE)
_KNOWN = "delivery.p50, .p95, .p99.9, .mean, .max; ack., confirmed. and last. with the same; " + ", ".join(KINDS)

LATENCY_METRICS = tuple(f"{name}.{what}" for name in LATENCIES for what in ("mean", "p50", "p95", "p99", "max"))

#: The counts that a part of a run has, as in lost[scene=group].
_OF_PARTS = tuple(Counts.__dataclass_fields__)

_USUAL = ("messages", "delivered", "lost", "absent", "recalled", "shed", "duplicates", "received_lost")


def default_metrics(*scenarios: Scenario) -> tuple[str, ...]:
    """Return the metrics that are measured if the user requests no others: latencies, counts, and in all of the
    scenarios: costs if there are prices, the recovery time if there are faults, the last recipient if messages go to
    several."""
    to_many = all(scenario.conversations.p2p_share < 1 for scenario in scenarios)
    latencies = [name for name in LATENCY_METRICS if to_many or not name.startswith("last.")]
    costs = _COSTS if all(scenario.cost.is_given for scenario in scenarios) else ()
    return (*latencies, *_USUAL, *costs, *((RECOVERY,) if all(scenario.faults for scenario in scenarios) else ()))


def printed(names: Iterable[str], scenarios: Iterable[Scenario], asked: Iterable[str] = ()) -> list[str]:
    """Return the metrics that printed tables and notes contain.

    Where the sender gets no early acknowledgement, `confirmed` is the same as `ack`, and `received_lost` is 0: they are
    left out, except for those that the user requested (`asked`).
    """
    if any(scenario.policies.ack is Ack.AFTER_RECEIVE for scenario in scenarios):
        return list(names)
    return [name for name in names if name in asked or not name.startswith(("confirmed.", "received_lost"))]


def is_known(name: str) -> bool:
    """Return whether every run has a metric of this name."""
    return is_latency(name) or (name in KINDS if not split(name)[1] else split(name)[0] in _OF_PARTS)


def check_name(name: str, own: Iterable[str] = ()) -> str:
    """Return the name of a metric that every run has. `own`: the names of the user's functions, for the error.
    Raises: UsageError, with the nearest names and all known ones."""
    if not isinstance(name, str):
        raise UsageError(f"metrics: expected a name or a function, got {name!r}")
    if not is_known(name):
        raise UsageError(f"unknown metric {name!r}{did_you_mean(name, own)}; known: {_KNOWN}")
    return name


def check_measured(name: str, measured: Sequence[str]) -> str:
    """Return the name of a metric that was measured. Raises: UsageError, with the measured ones and the remedy."""
    if name in measured:
        return name
    known = ", ".join(measured)
    if not is_known(name):
        raise UsageError(f"unknown metric {name!r}{did_you_mean(name)}; measured: {known}")
    raise UsageError(f"metric {name!r} was not measured: name it in metrics=[...]; measured: {known}")


def did_you_mean(name: str, own: Iterable[str] = ()) -> str:
    """Return " (did you mean 'delivery.p99' or 'ack.p99'?)" if metrics, or names in `own`, are near; else ""."""
    near = difflib.get_close_matches(name, [*own, *KINDS, *LATENCY_METRICS], n=3, cutoff=0.7)
    if tiers := difflib.get_close_matches(name.lower(), TIERS, n=1, cutoff=0.8):
        near = [f"utilisation.{tiers[0]}"]
    if match := _AT_THE_END.fullmatch(name):
        family, statistic = match[1].lower(), match[2].lower()
        families = difflib.get_close_matches(family, LATENCIES, n=1) or LATENCIES
        near = list(dict.fromkeys((*near, *(f"{one}.{statistic}" for one in families))))
    if not near:
        return ""
    names = ", ".join(map(repr, near[:-1]))
    return f" (did you mean {names + ' or ' if names else ''}{near[-1]!r}?)"


@dataclass(frozen=True)
class Measures:
    """The metrics to measure in each replication: names of built-in metrics, and the user's own functions."""

    names: tuple[str, ...]
    functions: dict[str, MetricFunction] = field(default_factory=dict)

    @classmethod
    def of(cls, metrics: Metrics, *, also: Sequence[str] = ()) -> Measures:
        """Return the metrics in `also`, followed by those that the user requested. Raises: UsageError."""
        functions: dict[str, MetricFunction] = {}
        asked: list[str] = []
        if isinstance(metrics, str) or callable(metrics):
            metrics = [metrics]
        if not isinstance(metrics, Iterable):
            raise UsageError(f"metrics: expected names, functions, or a mapping of names to them, got {metrics!r}")
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
                raise UsageError(f"metric {name!r}: expected a function that takes a run, got {function!r}")
            if name in names:
                raise UsageError(f"metric {name!r}: imsim has a metric of this name; give your function another name")
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
            number = values[name] = _number(name, value)
            if kind_of(name) is SHARE and not 0 <= number <= 1 and not math.isnan(number):
                raise UsageError(
                    f"metric {name!r}: expected a number from 0 to 1, as the name ends in 'share', got {value!r}; "
                    "give it another name"
                )
        return values


def value_of(run: RunData, name: str) -> float:
    """Return one metric of one run, in the unit of its kind; infinite if it falls among deliveries that never arrived,
    nan if there was nothing to measure."""
    return _Numbers(run).value(check_name(name))


class _Numbers:
    """The metrics of one run. Latencies and counts are computed once."""

    def __init__(self, run: RunData) -> None:
        self._run = run
        self._latencies: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
        self._counts: dict[str, int] = {}
        self._parts: dict[tuple[tuple[str, str], ...], _Numbers] = {}

    def value(self, name: str) -> float:
        name, where = split(name)
        if where:
            part = tuple(sorted(where.items()))
            if part not in self._parts:
                self._parts[part] = _Numbers(self._run.where(**where))
            return self._parts[part].value(name)
        what, _, statistic = name.partition(".")
        if what in LATENCIES:
            if what not in self._latencies:
                self._latencies[what] = LATENCIES[what](self._run)
            return _statistic(self._latencies[what], statistic)
        if what == "cost":
            cost = cost_of(self._run)
            value: float | None = getattr(cost, statistic)
            return math.nan if value is None else value
        if name == RECOVERY:
            return recovery_time(self._run)
        if name == THROUGHPUT:
            return self.value("delivered") / float(self._run.manifest.get("played", self._run.scenario.duration))
        if name == SERVER_CPU:
            messages = self.value("messages")
            return 1e3 * float(self._run.manifest.get("server_cpu", math.nan)) / messages if messages else math.nan
        if what == "utilisation":
            return tier_utilisation(self._run, statistic)
        if what == "wait":
            return tier_wait(self._run, statistic)
        if not self._counts:
            self._counts = vars(counts_of(self._run))
        return float(self._counts[name])


def _statistic(values: np.ndarray[Any, np.dtype[np.float64]], name: str) -> float:
    """Return a statistic of latencies in ascending order."""
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
        raise UsageError(f"metric {name!r}: expected a number for each run, got {value!r}") from None
