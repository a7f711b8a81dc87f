"""Conversion of moments from a list, a file, numpy or pandas to seconds from the start of a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from imsim.scenario.quantities import LONGEST, shown

Floats = npt.NDArray[np.float64]

MOMENTS = (
    f"seconds from the start (0 to {LONGEST:.0e}), epoch seconds (all of them above {LONGEST:.0e}), or datetimes: those"
    " of Python, numpy or pandas, or ISO 8601 texts such as '2026-02-03T04:05:06Z', all with a time zone or all without"
).replace("e+09", "e9")

#: Epoch seconds of the year 5138. Larger numbers are epoch times in a smaller unit.
_LAST_EPOCH = 1e11
_UNITS = ((1e14, "milliseconds", "1e3"), (1e17, "microseconds", "1e6"), (float("inf"), "nanoseconds", "1e9"))


def moments(source: Any) -> tuple[float, ...]:
    """Return moments as seconds from the start of a run, in ascending order.

    - Numbers from 0 to 1e9, and timedeltas, are seconds from the start.
    - Numbers that are all above 1e9 (September 2001) are epoch seconds. The first of them becomes 0.
    - The first of several datetimes becomes 0. Datetimes without a time zone are read as UTC, so they still contain
      the hour by which a clock was put forward or back.

    Raises: ValueError with one line about the expected values.
    """
    at = np.sort(_since_the_first(column(source)))
    if not len(at):
        raise ValueError("expected at least one moment, got none")
    if np.isnan(at[-1]):  # np.sort puts nan last
        raise ValueError(f"expected {MOMENTS}, got a missing value")
    first, last = float(at[0]), float(at[-1])
    if first > LONGEST:
        if last >= _LAST_EPOCH:
            unit, divisor = next((unit, divisor) for end, unit, divisor in _UNITS if first < end)
            raise ValueError(f"expected {MOMENTS}, got {last:.4g}; if these are {unit}, divide them by {divisor}")
        at = at - first
    if first == 0 and last > LONGEST and column(source).dtype != np.float64:
        years = last / (365.25 * 86_400)
        expected = "expected datetimes less than 1e9 s (31 years) apart"
        raise ValueError(f"{expected}, got some that are {years:.0f} years apart")
    if first < 0 or at[-1] > LONGEST:
        raise ValueError(f"expected {MOMENTS}, got numbers from {first:.6g} to {last:.6g}")
    return tuple(at.tolist())


def durations(source: Any) -> Floats:
    """Return a column of numbers unchanged, or a column of timedeltas in seconds. Raises: ValueError for others."""
    values = column(np.asarray(source).ravel())
    if values.dtype != np.float64:
        raise ValueError("expected numbers or timedeltas, got datetimes")
    return values


def column(source: Any) -> npt.NDArray[Any]:
    """Return a one-dimensional array: numbers as float64, timedeltas as float64 seconds, and datetimes unchanged.

    Raises: ValueError for anything else.
    """
    if hasattr(source, "columns"):  # a DataFrame
        names = [str(name) for name in source.columns]
        raise ValueError(
            f"expected one column of numbers or times, got a table with the column{'s' if len(names) > 1 else ''} "
            f"{', '.join(names)}; pass one column, as in table[{shown(names[0] if names else 'name')}]"
        )
    try:
        values = np.asarray(source)
    except ValueError:  # a list of lists with different lengths
        raise ValueError(f"expected one column of numbers or times, got {shown(source)}") from None
    if values.ndim != 1:
        raise ValueError(f"expected one column of numbers or times, got {shown(source)}")
    kind = values.dtype.kind
    if kind == "m":
        return np.where(np.isnat(values), np.nan, values / np.timedelta64(1, "s"))
    if kind == "M":
        return values
    if kind in "OU":
        return _of_objects(values.tolist())
    if kind not in "iuf":
        raise ValueError(f"expected numbers or times, got {shown(values[:1].tolist()[0])}")
    return values.astype(np.float64)


def _of_objects(items: Sequence[object]) -> npt.NDArray[Any]:
    """Convert a list, or a pandas column with time zones or missing values, to an array."""
    if items and all(isinstance(item, str) for item in items):
        items = [_from_text(str(item)) for item in items]
    if items and all(isinstance(item, timedelta) for item in items):
        return np.array([item / timedelta(seconds=1) for item in items if isinstance(item, timedelta)])
    is_time = [isinstance(item, datetime) for item in items]
    if any(is_time):
        if not all(is_time):
            raise ValueError(f"expected {MOMENTS}, got {shown(items[is_time.index(False)])} among datetimes")
        return np.array(items, dtype=object)
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | float | np.number):
            raise ValueError(f"expected {MOMENTS}, got {shown(item)}")
    return np.array(items, np.float64)


def _from_text(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"expected {MOMENTS}, got {shown(text)}") from None


def _since_the_first(values: npt.NDArray[Any]) -> Floats:
    """Return numbers unchanged, and datetimes as seconds since the first of them. A missing datetime becomes nan."""
    if values.dtype.kind == "M":
        since: Floats = np.where(np.isnat(values), np.nan, (values - np.nanmin(values)) / np.timedelta64(1, "s"))
        return since
    if values.dtype != object:
        return values
    try:
        first = min(values)
        return np.array([(value - first) / timedelta(seconds=1) for value in values], np.float64)
    except TypeError:
        raise ValueError(f"expected {MOMENTS}, got some with a time zone and some without") from None
