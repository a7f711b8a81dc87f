"""What must hold: `Budget("delivery.p99 < 200ms")`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, Protocol

from imsim.analysis.intervals import estimate
from imsim.analysis.latency import is_latency
from imsim.analysis.metrics import IN_SECONDS, did_you_mean, is_known, limits_of, value_of
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
        number = _number(bound)
        if is_latency(self.metric):
            if number is None:
                with suppress(ValueError):
                    return parse_duration(bound) * 1000
            raise UsageError(f"budget {text!r}: expected a duration with its unit, as in 200ms, got {bound!r}")
        if number is not None:
            return number
        if self.metric in IN_SECONDS:
            with suppress(ValueError):
                return parse_duration(bound)
            raise UsageError(f"budget {text!r}: expected a duration, as in 10s, got {bound!r}")
        # Of an unknown metric, which may be a function of the user's, only a plain number makes sense.
        if not is_known(self.metric):
            raise UsageError(
                f"budget {text!r}: metric {self.metric!r}: there is none of this name{did_you_mean(self.metric)}; "
                "a metric of your own has a plain number as its bound"
            )
        raise UsageError(f"budget {text!r}: expected a plain number, got {bound!r}")

    def is_kept_by(self, value: float) -> bool:
        """By one number; what never came (infinity) keeps no upper bound, and nothing at all (nan) keeps none."""
        return _OPERATORS[self._operator](value, self.bound)

    def judge(self, values: Sequence[float]) -> Verdict:
        """By one number of each replication: whether the *mean over replications* keeps the bound, as far as its 95 %
        interval can tell; undecided where the bound lies within it.

        A number that never came in any replication breaks an upper bound. Where none is negative, one above 0 is proof
        enough that the mean is.
        """
        if any(map(math.isnan, values)):
            return "undecided"
        if any(map(math.isinf, values)):
            return "keeps" if self.is_kept_by(math.inf) else "breaks"
        if self.bound == 0 and any(values) and min(values) >= 0:
            return "keeps" if self.is_kept_by(max(values)) else "breaks"
        found = estimate(values)
        if found.low is None or found.high is None:
            return "undecided"
        ends = {self.is_kept_by(found.low), self.is_kept_by(found.high)}
        return "undecided" if len(ends) == 2 else "keeps" if ends == {True} else "breaks"

    def fails(self, subject: RunData | Replicated) -> str | None:
        """One line that says by how much the budget is broken; None if it is kept, or, of replications, if their
        interval does not tell. Raises: UsageError for a single replication, which has no interval."""
        if not isinstance(subject, RunData):
            values = subject.values(self.metric)
            if (verdict := self.judge(values)) == "undecided" and len(values) < 2:
                raise UsageError(
                    f"budget {self.text!r}: one replication has no interval to judge it by; simulate two or more, "
                    "better 20, or ask a run: budget.fails(imsim.simulate(scenario))"
                )
            if verdict != "breaks":
                return None
            found = estimate(values, *limits_of(self.metric))
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


def _number(text: str) -> float | None:
    """The number that the text holds; None unless it is a plain, finite one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
