"""A budget, the bound of a metric: `Budget("delivery.p99 < 200ms")`."""

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
        """Return the metric of each run."""
        ...


class Budget:
    """A metric and its bound: 'delivery.p99 < 200ms', 'ack.p95 <= 50ms' or 'lost <= 0'.

    Attributes:
        metric: the metric's name.
        bound: the bound as a number: ms for a latency, seconds for a time.
        text: the budget as a text.

    Args:
        text: a metric, one of < <= > >=, and a bound. The bound of a latency has a unit.

    Raises:
        UsageError: the text is not a budget.

    Example:
        >>> budget = imsim.Budget("delivery.p99 < 200ms")
        >>> budget.metric, budget.bound
        ('delivery.p99', 200.0)
        >>> budget.fails(imsim.simulate("office", duration="1s")) is None
        True
    """

    def __init__(self, text: str) -> None:
        match = _BUDGET.fullmatch(text) if isinstance(text, str) else None
        if not match or not match[1]:
            raise UsageError(f"budget {text!r}: expected a metric, one of < <= > >=, and a bound, such as {_EXAMPLES}")
        self.metric, self._operator, bound = match.groups()
        self.bound = self._bound(text, bound)
        self.text = f"{self.metric} {self._operator} {bound}"

    def _bound(self, text: str, bound: str) -> float:
        number = _number(bound)
        if is_latency(self.metric):
            if number is None:
                with suppress(ValueError):
                    return parse_duration(bound) * 1000
            raise UsageError(f"budget {text!r}: expected a duration with its unit, such as 200ms (got {bound!r})")
        if number is not None:
            return number
        if self.metric in IN_SECONDS:
            with suppress(ValueError):
                return parse_duration(bound)
            raise UsageError(f"budget {text!r}: expected a duration such as 10s (got {bound!r})")
        # An unknown metric may be a user's function, whose unit is unknown: its bound is a plain number.
        if not is_known(self.metric):
            raise UsageError(
                f"budget {text!r}: unknown metric {self.metric!r}{did_you_mean(self.metric)}; the bound of your own "
                "metric is a plain number"
            )
        raise UsageError(f"budget {text!r}: expected a plain number (got {bound!r})")

    def is_kept_by(self, value: float) -> bool:
        """Return whether a number keeps the bound.

        Infinity, the value of a message that never arrived, breaks every upper bound. nan breaks every bound.
        """
        return _OPERATORS[self._operator](value, self.bound)

    def judge(self, values: Sequence[float]) -> Verdict:
        """Judge the mean over replications by its 95 % interval: "keeps", "breaks", or "undecided".

        The verdict is undecided if the bound lies within the interval. An infinite value in some replication breaks an
        upper bound. If the bound is 0 and no value is negative, a single value above 0 decides.

        Args:
            values: the metric of each replication.
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
        """Return a line that says by how much the budget is broken, or None if it is kept.

        For replications, None also means that their interval does not decide.

        Args:
            subject: a run, or replications.

        Raises:
            UsageError: there is only one replication, which has no interval, or the metric was not measured.
        """
        if not isinstance(subject, RunData):
            values = subject.values(self.metric)
            if (verdict := self.judge(values)) == "undecided" and len(values) < 2:
                raise UsageError(
                    f"budget {self.text!r}: one replication has no interval; use two or more, preferably 20, or judge "
                    "a single run: budget.fails(imsim.simulate(scenario))"
                )
            if verdict != "breaks":
                return None
            found = estimate(values, *limits_of(self.metric))
            return f"{self.text}: measured {found}{self._unit} over {len(values)} replications"
        value = value_of(subject, self.metric)
        if self.is_kept_by(value):
            return None
        if math.isnan(value):
            return f"{self.text}: null, because there is nothing to measure"
        if math.isinf(value):
            return f"{self.text}: null, because it falls among messages that never arrived"
        return f"{self.text}: measured {value:.4g}{self._unit}"

    @property
    def _unit(self) -> str:
        return " ms" if is_latency(self.metric) else " s" if self.metric in IN_SECONDS else ""

    def __dir__(self) -> list[str]:
        return ["bound", "fails", "is_kept_by", "judge", "metric", "text"]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Budget({self.text!r})"


def _number(text: str) -> float | None:
    """Return the text's number, or None if the text is not a plain, finite number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
