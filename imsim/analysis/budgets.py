"""What must hold: `Budget("delivery.p99 < 200ms")`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from imsim.analysis.intervals import estimate
from imsim.analysis.latency import is_latency
from imsim.analysis.metrics import IN_SECONDS, least_of, value_of
from imsim.core.exceptions import UsageError
from imsim.results import RunData
from imsim.scenario.quantities import parse_duration

Verdict = Literal["keeps", "breaks", "undecided"]

_BUDGET = re.compile(r"\s*([^<>=]*?)\s*(<=|>=|<|>)\s*(\S+(?: \w+)?)\s*")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EXAMPLES = "'delivery.p99 < 200ms', 'ack.p95 <= 50ms' or 'lost <= 0'"


class Replicated(Protocol):
    """Runs of one design under several seeds."""

    def values(self, metric: str) -> list[float]:
        """One number of each run."""
        ...


class Budget:
    """A metric and the bound that it must keep, as a text: 'delivery.p99 < 200ms', 'ack.p95 <= 50ms', 'lost <= 0'.

    `metric` is its name, `bound` in ms where that is a latency, in seconds where it is a time. `fails(run)` says what
    is wrong, or None. Raises: UsageError for a text that is none.
    """

    def __init__(self, text: str) -> None:
        match = _BUDGET.fullmatch(text)
        if not match or not match[1]:
            raise UsageError(f"budget {text!r}: expected a metric, one of < <= > >=, and a bound, as in {_EXAMPLES}")
        self.metric, self._operator, bound = match.groups()
        self.bound = self._bound(text, bound)
        self.text = f"{self.metric} {self._operator} {bound}"

    def _bound(self, text: str, bound: str) -> float:
        if is_latency(self.metric):
            try:
                float(bound)
            except ValueError:
                try:
                    return parse_duration(bound) * 1000
                except ValueError:
                    pass
            raise UsageError(f"budget {text!r}: expected a duration with its unit, as in 200ms, got {bound!r}")
        try:
            return float(bound)
        except ValueError:
            if self.metric not in IN_SECONDS:
                raise UsageError(f"budget {text!r}: expected a plain number, got {bound!r}") from None
        try:
            return parse_duration(bound)
        except ValueError:
            raise UsageError(f"budget {text!r}: expected a duration, as in 10s, got {bound!r}") from None

    def is_kept_by(self, value: float) -> bool:
        """By one number; what never came (infinity) keeps no upper bound, and nothing at all (nan) keeps none."""
        return _OPERATORS[self._operator](value, self.bound)

    def judge(self, values: Sequence[float]) -> Verdict:
        """By one number of each replication: whether the *mean over replications* keeps the bound, as far as its 95 %
        interval can tell; undecided where the bound lies within it.

        A number that never came in any replication breaks an upper bound. Numbers are never negative, so one above 0 is
        proof enough that the mean is.
        """
        if any(map(math.isnan, values)):
            return "undecided"
        if any(map(math.isinf, values)):
            return "keeps" if self.is_kept_by(math.inf) else "breaks"
        if self.bound == 0 and any(values):
            return "keeps" if self.is_kept_by(max(values)) else "breaks"
        found = estimate(values)
        if found.low is None or found.high is None:
            return "undecided"
        ends = {self.is_kept_by(found.low), self.is_kept_by(found.high)}
        return "undecided" if len(ends) == 2 else "keeps" if ends == {True} else "breaks"

    def fails(self, subject: RunData | Replicated) -> str | None:
        """One line that says by how much the budget is broken; None if it is kept, or, of replications, if their
        interval does not tell."""
        if not isinstance(subject, RunData):
            values = subject.values(self.metric)
            if self.judge(values) != "breaks":
                return None
            found = estimate(values, least_of(self.metric))
            return f"{self.text}: it is {found}{self._unit} over {len(values)} replications"
        value = value_of(subject, self.metric)
        if self.is_kept_by(value):
            return None
        if math.isnan(value):
            return f"{self.text}: it is null: there is nothing to measure"
        if math.isinf(value):
            return f"{self.text}: it is null: what it falls among never came"
        return f"{self.text}: it is {value:.4g}{self._unit}"

    @property
    def _unit(self) -> str:
        return " ms" if is_latency(self.metric) else " s" if self.metric in IN_SECONDS else ""

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Budget({self.text!r})"
