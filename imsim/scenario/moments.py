"""Columns of moments, as they come from a list, a file, numpy or pandas: seconds from the start of a run."""

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

#: Epoch seconds of the year 5138. Numbers from here on are epoch times in a smaller unit.
_LAST_EPOCH = 1e11
_UNITS = ((1e14, "milliseconds", "1e3"), (1e17, "microseconds", "1e6"), (float("inf"), "nanoseconds", "1e9"))


def moments(source: Any) -> tuple[float, ...]:
    """Seconds from the start, ascending.

    - Numbers from 0 to 1e9 are seconds from the start, and so are timedeltas.
    - Numbers that are all above 1e9, which is September 2001, are epoch seconds: the first of them is 0.
    - Of datetimes, the first is 0. Those without a time zone are taken as if they were UTC: an hour that a clock was
      put forward or back stays in them.

    Raises: ValueError, one line that says what was expected.
    """
    at = np.sort(_since_the_first(column(source)))
    if not len(at):
        raise ValueError("expected at least one moment, got none")
    if np.isnan(at[-1]):  # sorted last
        raise ValueError(f"expected {MOMENTS}, got one that is missing")
    first, last = float(at[0]), float(at[-1])
    if first > LONGEST:
        if last >= _LAST_EPOCH:
            unit, divisor = next((unit, divisor) for end, unit, divisor in _UNITS if first < end)
            raise ValueError(f"expected {MOMENTS}, got {last:.4g}: if these are {unit}, divide them by {divisor}")
        at = at - first
    if first == 0 and last > LONGEST and column(source).dtype != np.float64:
        years = last / (365.25 * 86_400)
        expected = "expected datetimes less than 1e9 s (31 years) apart"
        raise ValueError(f"{expected}, got some that are {years:.0f} years apart")
    if first < 0 or at[-1] > LONGEST:
        raise ValueError(f"expected {MOMENTS}, got numbers from {first:.6g} to {last:.6g}")
    return tuple(at.tolist())


def durations(source: Any) -> Floats:
    """A column of numbers, in whatever unit, or of timedeltas, then in seconds. Raises: ValueError."""
    values = column(np.asarray(source).ravel())
    if values.dtype != np.float64:
        raise ValueError("expected numbers, or timedeltas, got datetimes")
    return values


def column(source: Any) -> npt.NDArray[Any]:
    """A one-dimensional array: float64 of numbers, and of timedeltas (seconds); datetime64 or datetimes as they are.
    Raises: ValueError for anything else."""
    if hasattr(source, "columns"):  # a DataFrame
        names = [str(name) for name in source.columns]
        raise ValueError(
            f"expected one column of numbers or times, got a table with the column{'s' if len(names) > 1 else ''} "
            f"{', '.join(names)}; pass one column, as in table[{shown(names[0] if names else 'name')}]"
        )
    try:
        values = np.asarray(source)
    except ValueError:  # lists of several lengths in a list
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
    """Of a list, or of a pandas column that is no plain array: times with a zone, numbers of which one is missing."""
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
    """Numbers as they are; datetimes as seconds since the first of them, nan where one is missing."""
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
