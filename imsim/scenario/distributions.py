"""Distributions of latencies, service times, sizes and other values that vary.

A distribution is an inverse CDF: it turns one uniform number into one value. The caller supplies the number (see
`draws`), so two designs that are compared under one seed use the same random numbers.

In TOML: `latency = { kind = "lognormal", median = "15ms", p99 = "60ms" }`, or `latency = "5ms"` for a constant.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from imsim.core.exceptions import ImsimError, UsageError
from imsim.scenario.custom_parts import broken, is_reference, not_here, reference, resolved
from imsim.scenario.errors import explain
from imsim.scenario.moments import durations
from imsim.scenario.quantities import DURATION, format_duration, parse_duration, shown
from imsim.scenario.quiet import QuietModel

Floats = npt.NDArray[np.float64]

# A parameter with the unit of the distribution's values: seconds (or a text such as "5ms"), bytes, users.
Quantity = Annotated[float, BeforeValidator(parse_duration)]


class _Distribution(QuietModel):
    """The base class of all distributions. Values are never negative.

    The argument `u` of `quantile` and `quantiles` is uniform in (0, 1), without 0 and 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @property
    def constant(self) -> float | None:
        """The value of a distribution that has only one, so that no number needs to be drawn; else None."""
        return None

    @property
    def upper(self) -> float:
        """The largest possible value, or infinity if there is no limit."""
        return math.inf


class Constant(_Distribution):
    """A distribution with a single value."""

    kind: Literal["constant"] = "constant"
    value: Quantity = Field(description="the value")

    @property
    def constant(self) -> float | None:
        return self.value

    @property
    def upper(self) -> float:
        return self.value

    @property
    def mean(self) -> float:
        return self.value

    def quantile(self, u: float) -> float:
        return self.value

    def quantiles(self, u: Floats) -> Floats:
        return np.full(np.shape(u), self.value)


class Uniform(_Distribution):
    """The uniform distribution: all values from `low` to `high` are equally likely."""

    kind: Literal["uniform"] = "uniform"
    low: Quantity = Field(description="the smallest value")
    high: Quantity = Field(description="the largest value")

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if self.high < self.low:
            raise ValueError(f"expected low <= high, got low = {self.low:g} and high = {self.high:g}")
        return self

    @property
    def constant(self) -> float | None:
        return self.low if self.low == self.high else None

    @property
    def upper(self) -> float:
        return self.high

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    def quantile(self, u: float) -> float:
        return self.low + (self.high - self.low) * u

    def quantiles(self, u: Floats) -> Floats:
        return self.low + (self.high - self.low) * u


class Exponential(_Distribution):
    """The exponential distribution, which is memoryless. Its 99th percentile is 4.6 times its mean.

    As a service time, it is the second M of M/M/1.
    """

    kind: Literal["exponential"] = "exponential"
    mean: Quantity = Field(gt=0, description="the mean")

    def quantile(self, u: float) -> float:
        return -self.mean * math.log1p(-u)

    def quantiles(self, u: Floats) -> Floats:
        return -self.mean * np.log1p(-u)


class Lognormal(_Distribution):
    """The lognormal distribution, a usual shape of latencies, given by its median and its 99th percentile.

    ln X is normal with mean ln(median) and standard deviation ln(p99 / median) / 2.326. Its tail is long: if the two
    numbers are far apart, rare values can be larger than any that was measured, such as seconds for one Wi-Fi frame in
    a hundred thousand. With `maximum`, the tail above it is cut off, and the other values become more likely in
    proportion.
    """

    kind: Literal["lognormal"] = "lognormal"
    median: Quantity = Field(gt=0, description="the median: half of the values are below it")
    p99: Quantity = Field(description="the 99th percentile: 99 % of the values are below it")
    maximum: Quantity | None = Field(default=None, description="the largest possible value; absent: no limit")

    @model_validator(mode="after")
    def _ordered(self) -> Lognormal:
        if self.p99 <= self.median:
            raise ValueError(
                f"expected p99 > median, got median = {self.median:g} and p99 = {self.p99:g}"
                " (for a value that does not vary, write the plain value)"
            )
        if self.maximum is not None and self.maximum <= self.p99:
            raise ValueError(f"expected maximum > p99, got p99 = {self.p99:g} and maximum = {self.maximum:g}")
        return self

    @cached_property
    def _kept(self) -> float:
        """The probability of values below `maximum` in the distribution without it."""
        return 1.0 if self.maximum is None else self._log.cdf(math.log(self.maximum))

    @cached_property
    def _log(self) -> NormalDist:
        return NormalDist(math.log(self.median), math.log(self.p99 / self.median) / NormalDist().inv_cdf(0.99))

    @property
    def mean(self) -> float:
        whole = math.exp(self._log.mean + self._log.variance / 2)
        if self.maximum is None:
            return whole
        return whole * self._log.cdf(math.log(self.maximum) - self._log.variance) / self._kept

    @property
    def upper(self) -> float:
        return math.inf if self.maximum is None else self.maximum

    def quantile(self, u: float) -> float:
        return math.exp(self._log.inv_cdf(u * self._kept))

    def quantiles(self, u: Floats) -> Floats:
        # The standard library's inverse normal is written in C: 0.15 us for each value.
        u = np.asarray(u, np.float64) * self._kept
        logs = np.fromiter(map(self._log.inv_cdf, u.ravel().tolist()), np.float64, u.size)
        return np.exp(logs).reshape(u.shape)


class Pareto(_Distribution):
    """The Pareto distribution, with a heavy tail: most values are near `minimum` and a few are very large. Group sizes
    are an example.

    P(X > x) = (minimum / x) ** alpha. With `maximum`, the tail above it is cut off, and the other values become more
    likely in proportion (so the values do not pile up at the maximum).
    """

    kind: Literal["pareto"] = "pareto"
    minimum: Quantity = Field(gt=0, description="the smallest value")
    alpha: float = Field(gt=0, description="the index of the tail: a smaller one is heavier; 1.16 is the 80/20 rule")
    maximum: Quantity | None = Field(default=None, description="the largest possible value; absent: no limit")

    @model_validator(mode="after")
    def _possible(self) -> Pareto:
        if self.maximum is None and self.alpha <= 1:
            raise ValueError(f"expected alpha > 1, or a maximum, to have a finite mean, got {self.alpha:g}")
        if self.maximum is not None and self.maximum <= self.minimum:
            raise ValueError(
                f"expected minimum < maximum, got minimum = {self.minimum:g} and maximum = {self.maximum:g}"
            )
        return self

    @cached_property
    def _kept(self) -> float:
        """The probability of values below `maximum` in the distribution without it."""
        return 1.0 if self.maximum is None else -math.expm1(self.alpha * math.log(self.minimum / self.maximum))

    @cached_property
    def _exponent(self) -> float:
        return -1 / self.alpha

    @property
    def upper(self) -> float:
        return math.inf if self.maximum is None else self.maximum

    @property
    def mean(self) -> float:
        if self.maximum is None:
            return self.minimum * self.alpha / (self.alpha - 1)
        # minimum + the integral of P(X > x), in a form that does not divide by zero for alpha = 1.
        a, ratio = self.alpha, math.log(self.maximum / self.minimum)
        growth = ratio if a == 1 else math.expm1((1 - a) * ratio) / (1 - a)
        return self.minimum * a * growth / self._kept

    def quantile(self, u: float) -> float:
        return math.pow(1 - u * self._kept, self._exponent) * self.minimum

    def quantiles(self, u: Floats) -> Floats:
        return self.minimum * (1 - u * self._kept) ** self._exponent


def _tuple(value: object) -> object:
    """Convert a list from TOML to a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _percentile(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"expected a percentile and its value, as in [99, '8ms'], got {shown(value)}")
    return tuple(value)


class Empirical(_Distribution):
    """A measured distribution: equally likely `values`, or `percentiles` with linear interpolation between them.

    `percentiles` are pairs of a percentile and its value. In TOML:

        { kind = "empirical", values = ["1ms", "1.2ms", "9ms"] }
        { kind = "empirical", percentiles = [[0, "1ms"], [50, "2ms"], [99, "9ms"], [100, "30ms"]] }

    `Empirical.of` makes a distribution from an array.

    Attributes:
        values: the measured values, in seconds or in the unit of the field.
        percentiles: pairs of a percentile and its value.

    Example:
        >>> imsim.Empirical(values=("1ms", "1ms", "10ms")).mean
        0.004
    """

    kind: Literal["empirical"] = "empirical"
    values: Annotated[tuple[Quantity, ...], BeforeValidator(_tuple)] = Field(
        default=(), description="equally likely values; a value that is listed twice is twice as likely"
    )
    percentiles: Annotated[
        tuple[Annotated[tuple[float, Quantity], BeforeValidator(_percentile)], ...], BeforeValidator(_tuple)
    ] = Field(
        default=(),
        description="pairs of a percentile and its value, from [0, smallest] to [100, largest], interpolated linearly",
    )

    @classmethod
    def of(cls, samples: npt.ArrayLike, most: int = 1000) -> Empirical:
        """Return the distribution of samples.

        Args:
            samples: an array of seconds, timedeltas or bytes.
            most: more samples than this are reduced to this many percentiles.
        """
        values = np.sort(durations(samples))
        if len(values) <= most:
            return cls(values=tuple(values.tolist()))
        percent = np.linspace(0, 100, most)
        return cls(percentiles=tuple(zip(percent.tolist(), np.percentile(values, percent).tolist(), strict=True)))

    @model_validator(mode="after")
    def _possible(self) -> Empirical:
        if bool(self.values) == bool(self.percentiles):
            raise ValueError("expected either values or percentiles, and not empty")
        if self.percentiles:
            percents, values = zip(*self.percentiles, strict=True)
            if percents[0] != 0 or percents[-1] != 100:
                raise ValueError(
                    "expected [0, smallest value] as the first and [100, largest value] as the last percentile"
                )
            if any(low >= high for low, high in pairwise(percents)):
                raise ValueError("expected percentiles in ascending order, without repetition")
            if any(low > high for low, high in pairwise(values)):
                raise ValueError("expected values that do not decrease from one percentile to the next")
        return self

    @cached_property
    def _sorted(self) -> list[float]:
        return sorted(self.values) if self.values else [value for _, value in self.percentiles]

    @cached_property
    def _shares(self) -> list[float]:
        return [percent / 100 for percent, _ in self.percentiles]

    @property
    def constant(self) -> float | None:
        return self._sorted[0] if self._sorted[0] == self._sorted[-1] else None

    @property
    def upper(self) -> float:
        return self._sorted[-1]

    @property
    def mean(self) -> float:
        """The mean of the values."""
        if self.values:
            return math.fsum(self.values) / len(self.values)
        points = list(zip(self._shares, self._sorted, strict=True))
        return math.fsum((q - p) * (low + high) / 2 for (p, low), (q, high) in pairwise(points))

    def quantile(self, u: float) -> float:
        """Return the value below which the share `u` of all values lies.

        Args:
            u: a share above 0 and below 1.
        """
        ordered = self._sorted
        if self.values:
            return ordered[int(u * len(ordered))]
        shares = self._shares
        at = bisect_right(shares, u) - 1
        low, share = ordered[at], shares[at]
        return low + (ordered[at + 1] - low) * ((u - share) / (shares[at + 1] - share))

    def quantiles(self, u: Floats) -> Floats:
        """Return `quantile` of each number of an array.

        Args:
            u: shares above 0 and below 1.
        """
        ordered, u = np.array(self._sorted), np.asarray(u, np.float64)
        if self.values:
            return ordered[(u * len(ordered)).astype(np.int64)]
        shares = np.array(self._shares)
        at = np.searchsorted(shares, u, side="right") - 1
        low, share = ordered[at], shares[at]
        values: Floats = low + (ordered[at + 1] - low) * ((u - share) / (shares[at + 1] - share))
        return values


class CustomDistribution(_Distribution):
    """The base class of custom distributions. Define a subclass in a notebook or a module.

    Only `quantile(u)` is required. It returns the value below which the share `u` of all values lies: 0 or more, in
    seconds or in the unit of the field. Any exception from it becomes a UsageError that names the class.

    Two members are optional. A property `upper` returns the largest value, which is then checked against the limits
    before a run. A method `quantiles` does the same as `quantile` for whole arrays, faster.

    Raises:
        UsageError: a field is unknown or has a wrong value, or `quantile` does not return 0 or more.

    Example:
        >>> class Bimodal(imsim.CustomDistribution):
        ...     fast: float
        ...     slow: float
        ...     def quantile(self, u):
        ...         return self.fast if u < 0.9 else self.slow
        >>> office = imsim.Scenario.load("office")
        >>> slow = office.replace({"topology.storage.service.append": Bimodal(fast=0.001, slow=0.02)})
    """

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            part, lines = f"custom distribution {type(self).__name__}", explain(error, type(self))
            raise UsageError("\n".join(f"{part}: {line}" for line in lines)) from error

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("quantile", "quantiles"):
            if name in vars(cls):
                setattr(cls, name, _checked(vars(cls)[name]))

    def quantile(self, u: float) -> float:
        """Return the value below which the share `u` of all values lies.

        Each subclass must define this method.

        Args:
            u: a share above 0 and below 1.
        """
        raise UsageError(f"custom distribution {type(self).__name__}: expected a method quantile(u), but it has none")

    def quantiles(self, u: Floats) -> Floats:
        """Return `quantile` of each number of an array.

        Args:
            u: shares above 0 and below 1.
        """
        u = np.asarray(u, np.float64)
        return np.fromiter(map(self.quantile, u.ravel().tolist()), np.float64, u.size).reshape(u.shape)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        for u in (0.001, 0.5, 0.999):
            value = self.quantile(u)
            if not isinstance(value, int | float | np.number) or not 0 <= value < math.inf:
                raise ValueError(
                    f"expected {type(self).__name__}.quantile({u}) to return 0 or more, got {shown(value)}"
                )
        return self


def _checked(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(method)
    def call(self: CustomDistribution, u: Any) -> Any:
        try:
            return method(self, u)
        except ImsimError:
            raise
        except Exception as error:
            share = f"{u:g}" if isinstance(u, float) else "..."
            raise broken(f"custom distribution {type(self).__name__}: {method.__name__}({share})", error) from error

    return call


class AbsentDistribution(CustomDistribution):
    """A placeholder for a custom distribution of which only the name is known."""

    reference: str

    @classmethod
    def named(cls, reference: str) -> AbsentDistribution:
        return cls(reference=reference)

    def quantile(self, u: float) -> float:
        not_here(self.reference)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        return self


Named = Constant | Uniform | Exponential | Lognormal | Pareto | Empirical
Distribution = Named | CustomDistribution


def mean_of(distribution: Distribution) -> float:
    """Return the mean of a distribution.

    It is exact, except for a custom distribution: there it is the mean of 10,000 evenly spaced quantiles.
    """
    if isinstance(distribution, CustomDistribution):
        return float(distribution.quantiles((np.arange(10_000) + 0.5) / 10_000).mean())
    return distribution.mean


# --- as fields of a scenario ----------------------------------------------------------------------------------------


def _shorthand(expected: str) -> Callable[[object], object]:
    """Return a validator that accepts a plain value as a constant distribution."""

    def read(value: object) -> object:
        value = resolved(value, AbsentDistribution.named)
        if isinstance(value, dict | _Distribution):
            return value
        try:
            return Constant(value=parse_duration(value))
        except ValueError:
            raise ValueError(f"expected {expected}, got {shown(value)}") from None

    return read


def _unitless(value: object) -> object:
    """Refuse durations where counts or bytes are expected: "5ms" bytes is a mistake, not 0.005."""
    if is_reference(value):
        return value
    given = [v for k, v in value.items() if k != "kind"] if isinstance(value, dict) else [value]
    while given:
        one = given.pop()
        if isinstance(one, str):
            raise ValueError(f"expected plain numbers, 0 or more, got {shown(one)}")
        if isinstance(one, list | tuple):
            given += one
    return value


def _dump(write: Callable[[float], object]) -> Callable[[Distribution], object]:
    def dump(distribution: Distribution) -> object:
        if isinstance(distribution, CustomDistribution):
            return reference(distribution)
        if isinstance(distribution, Constant):
            return write(distribution.value)
        if isinstance(distribution, Empirical):
            if distribution.values:
                return {"kind": "empirical", "values": [write(value) for value in distribution.values]}
            pairs = [[_plain(percent), write(value)] for percent, value in distribution.percentiles]
            return {"kind": "empirical", "percentiles": pairs}
        # alpha is the only parameter without the unit of the values.
        values = distribution.model_dump(exclude_none=True)
        return {k: v if k in ("kind", "alpha") else write(v) for k, v in values.items()}

    return dump


def _plain(value: float) -> Any:
    return int(value) if value.is_integer() else value


class _NamedOrCustom:
    """A pydantic schema: the `kind` of a table selects its class; a custom distribution is accepted as it is."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        named = handler.generate_schema(Annotated[Named, Field(discriminator="kind")])
        return core_schema.no_info_wrap_validator_function(
            lambda value, read: value if isinstance(value, CustomDistribution) else read(value), named
        )


_Any = Annotated[Distribution, _NamedOrCustom()]

SecondsDistribution = Annotated[
    _Any,
    BeforeValidator(_shorthand(f"{DURATION}, or a table such as {{ kind = 'exponential', mean = '5ms' }}")),
    PlainSerializer(_dump(format_duration), when_used="json"),
]
NumberDistribution = Annotated[
    _Any,
    BeforeValidator(_shorthand("a number, 0 or more, or a table such as { kind = 'uniform', low = 3, high = 20 }")),
    BeforeValidator(_unitless),  # runs first, because pydantic calls the last validator first
    PlainSerializer(_dump(_plain), when_used="json"),
]
