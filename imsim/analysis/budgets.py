"""A bound that a metric must keep: `Budget("delivery.p99 < 200ms")`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, Protocol

from imsim.analysis.intervals import Estimate, estimate
from imsim.analysis.kinds import kind_of
from imsim.analysis.metrics import did_you_mean, is_known, value_of
from imsim.core.exceptions import UsageError
from imsim.results import RunData
from imsim.scenario.quantities import parse_duration

Verdict = Literal["keeps", "breaks", "undecided"]

_BUDGET = re.compile(r"\s*([^<>=\[\]]*?(?:\[[^\]]*\])?)\s*(<=|>=|<|>)\s*(\S+(?: \w+)?)\s*")
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
        """Return one number for each run."""
        ...

    def __getitem__(self, metric: str) -> Estimate:
        """Return the mean over the runs, with its interval if the runs are long enough for one."""
        ...


class Budget:
    """A metric and the bound that it must keep: 'delivery.p99 < 200ms', 'ack.p95 <= 50ms' or 'lost <= 0'.

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
            raise UsageError(f"budget {text!r}: expected a metric, one of < <= > >=, and a bound, as in {_EXAMPLES}")
        self.metric, self._operator, bound = match.groups()
        self.bound = self._bound(text, bound)
        self.text = f"{self.metric} {self._operator} {bound}"

    def _bound(self, text: str, bound: str) -> float:
        number, kind = _number(bound), kind_of(self.metric)
        if kind.is_duration and (number is None or kind.unit == "ms"):
            # A latency needs its unit: a plain number may be meant as ms or as seconds.
            if number is None:
                with suppress(ValueError):
                    return parse_duration(bound) * (1000 if kind.unit == "ms" else 1)
            raise UsageError(
                f"budget {text!r}: expected a duration with its unit, as in {'200ms' if kind.unit == 'ms' else '10s'}, "
                f"got {bound!r}"
            )
        if number is not None:
            return number
        # Of an unknown metric, which may be a function of the user, only a plain number makes sense.
        if not is_known(self.metric):
            raise UsageError(
                f"budget {text!r}: unknown metric {self.metric!r}{did_you_mean(self.metric)}; the bound of a metric of "
                f"your own must be a plain number, got {bound!r}"
            )
        raise UsageError(f"budget {text!r}: expected a plain number, got {bound!r}")

    def is_kept_by(self, value: float) -> bool:
        """Return whether one number keeps the bound. Infinity keeps no upper bound, and nan keeps none at all.

        Args:
            value: the number, in the unit of `bound`.
        """
        return _OPERATORS[self._operator](value, self.bound)

    def judge(self, values: Sequence[float], found: Estimate | None = None) -> Verdict:
        """Return whether the *mean over replications* keeps the bound; undecided if the bound is in its 95 % interval.

        Args:
            values: the number of each replication. If one is infinite, an upper bound is broken. If none is negative,
                one above 0 proves that the mean is above 0.
            found: their estimate. If it has no interval, because the runs are too short for a percentile, the numbers
                are too low: they can still break an upper bound or keep a lower one.
        """
        if any(map(math.isnan, values)):
            return "undecided"
        if any(map(math.isinf, values)):
            return "keeps" if self.is_kept_by(math.inf) else "breaks"
        if self.bound == 0 and any(values) and min(values) >= 0:
            return "keeps" if self.is_kept_by(max(values)) else "breaks"
        interval = estimate(values)
        if interval.low is None or interval.high is None:
            return "undecided"
        ends = {self.is_kept_by(interval.low), self.is_kept_by(interval.high)}
        verdict: Verdict = "undecided" if len(ends) == 2 else "keeps" if ends == {True} else "breaks"
        is_too_low = found is not None and found.low is None
        return "undecided" if is_too_low and (verdict == "keeps") != self.is_kept_by(math.inf) else verdict

    def fails(self, subject: RunData | Replicated) -> str | None:
        """Return a line that says by how much the budget is broken, or None if it is kept.

        An invalid run keeps no budget. For replications, None also means that their interval does not decide.

        Args:
            subject: a run, or replications.

        Raises:
            UsageError: there is only one replication, which has no interval.
        """
        kind = kind_of(self.metric)
        if not isinstance(subject, RunData):
            values = subject.values(self.metric)
            if len(values) < 2 and self.judge(values) == "undecided":
                raise UsageError(
                    f"budget {self.text!r}: one replication has no interval to judge it by; simulate two or more, "
                    "better 20, or judge a run: budget.fails(imsim.simulate(scenario))"
                )
            found = subject[self.metric]
            if self.judge(values, found) != "breaks":
                return None
            return f"{self.text}: it is {found}{kind.suffix} over {len(values)} replications"
        if not subject.valid:
            return f"{self.text}: it is unknown: the run is invalid: {subject.invalid_because}"
        value = value_of(subject, self.metric)
        if self.is_kept_by(value):
            return None
        if math.isnan(value):
            return f"{self.text}: it is null: there is nothing to measure"
        if math.isinf(value):
            return f"{self.text}: it is null: it falls among deliveries that never arrived"
        return f"{self.text}: it is {value:.4g}{kind.suffix}"

    def __dir__(self) -> list[str]:
        return ["bound", "fails", "is_kept_by", "judge", "metric", "text"]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Budget({self.text!r})"


def _number(text: str) -> float | None:
    """Return the number in a text; None unless it is a plain, finite one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
