"""Arrivals: the rate of messages over time, or recorded moments that are replayed.

Each user sends by a Poisson process. The process is drawn at a steady rate. A shape then moves each moment to the time
by which the varying rate has the same expected number of messages (a change of time). So two shapes that are compared
under one seed have the same messages, with the same sizes and partners, at different times. A shape is common to all
users: in a burst, everybody sends more.

In TOML: `arrivals = { kind = "bursts", factor = 10, every = "60s", lasting = "2s" }`, or `arrivals = "poisson"`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from imsim.core.exceptions import UsageError
from imsim.scenario.draws import Draws
from imsim.scenario.moments import moments
from imsim.scenario.quantities import PositiveSeconds, Seconds, shown

Floats = npt.NDArray[np.float64]
_MOST_BURSTS = 10_000_000

_BLOCKS = 20  # of equal length, to judge whether a load is even
_UNEVEN = 0.1  # of the mean: a block of an even load differs by no more, except for
_CHANCE = 3.0  # standard deviations of its count


class Shape:
    """A rate over time, as a sequence of straight lines.

    Line i runs from level `left[i]` at time `start[i]` to level `right[i]` at the start of the next line. The first
    line starts at 0. The last one ends with the `period`, after which the lines repeat; without a period, the level of
    the last line stays constant.
    """

    def __init__(self, start: Floats, left: Floats, right: Floats, period: float = math.inf) -> None:
        length = np.diff(start, append=period)
        self._start, self._left, self._period = start, left, period
        self._slope = (right - left) / length
        through = np.cumsum(length[:-1] * (left + right)[:-1] / 2)
        self._before = np.concatenate(([0.0], through))  # the expected number before each line
        self._of_period = math.inf
        if math.isfinite(period):
            self._of_period = float(self._before[-1] + length[-1] * (left[-1] + right[-1]) / 2)

    def expected(self, at: float) -> float:
        """Return the expected number from time 0 to `at`: the integral of the rate."""
        if at == math.inf:
            return math.inf
        periods, rest = divmod(at, self._period)
        line = np.searchsorted(self._start, rest, side="right") - 1
        along = rest - self._start[line]
        within = self._before[line] + along * (self._left[line] + along * self._slope[line] / 2)
        return float(within + (periods * self._of_period if periods else 0.0))

    def when(self, expected: Floats) -> Floats:
        """Return the times by which these numbers are expected (the inverse of `expected`); inf if they never are."""
        periods, rest = np.divmod(expected, self._of_period)
        line = np.searchsorted(self._before, rest, side="right") - 1
        missing, level = rest - self._before[line], self._left[line]
        level_then = np.sqrt(np.maximum(level**2 + 2 * self._slope[line] * missing, 0.0))
        along = np.where(missing > 0, math.inf, 0.0)
        np.divide(2 * missing, level + level_then, out=along, where=level + level_then > 0)
        whole = periods * self._period if math.isfinite(self._period) else 0.0
        at: Floats = whole + self._start[line] + along
        return at


class _Arrivals(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def shape(self, seed: int, duration: float) -> Shape | None:
        """Return the rate until `duration` or later, as multiples of workload.rate. None: a steady rate."""
        return None

    def expected(self, until: float, rate: float) -> float:
        """Return how many messages the scenario plans up to a time, at this average `rate` (messages a second). Where
        chance shapes the rate, it is the mean."""
        return rate * until

    def is_even(self, since: float, until: float) -> bool:
        """Return whether the load is about the same all the time between the two, except for chance."""
        return True

    def average(self, seed: int, duration: float) -> float:
        """Return the average load of a long time as a multiple of that of a run; nan if the run has no load."""
        return 1.0

    def until(self, duration: float) -> Any:
        """Return these arrivals without moments from `duration` on. Raises: UsageError if none is left."""
        return self


class Poisson(_Arrivals):
    """A steady rate, with messages at random moments."""

    kind: Literal["poisson"] = "poisson"


class _WithMean(_Arrivals):
    """Arrivals whose mean rate over a long time is workload.rate, while that of a run may differ."""

    def average(self, seed: int, duration: float) -> float:
        shape = self.shape(seed, duration)
        assert shape is not None
        expected = shape.expected(duration)
        return duration / expected if expected else math.nan


class _Declared(_Arrivals):
    """Arrivals whose rate over time is given, and not drawn."""

    def expected(self, until: float, rate: float) -> float:
        shape = self.shape(0, until)
        assert shape is not None
        return rate * shape.expected(until)

    def is_even(self, since: float, until: float) -> bool:
        return _are_even([self.expected(float(at), 1.0) for at in np.linspace(since, until, _BLOCKS + 1)], 0.0)


class Bursts(_WithMean):
    """Quiet times and bursts in turn, with random (exponential) lengths: a Markov-modulated Poisson process."""

    kind: Literal["bursts"] = "bursts"
    factor: float = Field(gt=1, le=1e6, description="rate in a burst, as a multiple of the rate in quiet times")
    every: PositiveSeconds = Field(description="mean time between the starts of two bursts")
    lasting: PositiveSeconds = Field(description="mean length of a burst; less than `every`")

    @model_validator(mode="after")
    def _ordered(self) -> Bursts:
        if self.lasting >= self.every:
            raise ValueError(f"expected lasting < every, got lasting = {self.lasting:g} s and every = {self.every:g} s")
        return self

    def shape(self, seed: int, duration: float) -> Shape:
        draws, share = Draws(seed, "bursts"), self.lasting / self.every
        quiet = 1 / (1 + (self.factor - 1) * share)
        levels = [quiet, quiet * self.factor]
        if draws.at(0) < share:  # start in a burst, as in the steady state
            levels.reverse()
        means = np.where(np.array(levels) > quiet, self.lasting, self.every - self.lasting)
        pairs = math.ceil(duration / self.every) + 1
        if pairs > _MOST_BURSTS:
            raise UsageError(
                f"workload.arrivals: expected at most {_MOST_BURSTS:.2g} bursts in a run, got {pairs:.2g}; raise every"
            )
        while True:
            length = -np.log1p(-draws.array(np.arange(1, 2 * pairs + 1))) * np.tile(means, pairs)
            start = np.concatenate(
                ([0.0], np.cumsum(length))
            )  # each start depends only on earlier lengths: more pairs do not change it
            if start[-1] > duration:
                break
            pairs *= 2
        level = np.append(np.tile(levels, pairs), levels[0])
        return Shape(start, level, level)


class Curve(_WithMean, _Declared):
    """A daily pattern: straight lines between points, repeated after each period. Its mean is workload.rate."""

    kind: Literal["curve"] = "curve"
    points: tuple[tuple[Seconds, float], ...] = Field(
        description="[time, level] pairs, ordered by time, with levels in any unit; two points at one time are a step"
    )
    period: PositiveSeconds = Field(default=86_400.0, description="time after which the pattern repeats")

    @model_validator(mode="before")
    @classmethod
    def _paired(cls, fields: Any) -> Any:
        """Convert the lists of a TOML file to tuples."""
        if isinstance(fields, dict) and isinstance(points := fields.get("points"), list | tuple):
            pairs = [tuple(point) if isinstance(point, list) else point for point in points]
            for pair in pairs:
                if not (isinstance(pair, tuple) and len(pair) == 2 and _is_number(pair[1]) and 0 <= pair[1] <= 1e9):
                    raise ValueError(f"expected points such as ['12h', 1.0], with levels from 0 to 1e9, got {pair!r}")
            return fields | {"points": tuple((time, float(level)) for time, level in pairs)}
        return fields

    @model_validator(mode="after")
    def _possible(self) -> Curve:
        times = [time for time, _ in self.points]
        if not times or times != sorted(times) or times[-1] > self.period:
            raise ValueError(f"expected points ordered by time, from 0 to the period ({self.period:g} s)")
        if not any(level for _, level in self.points):
            raise ValueError("expected at least one point with a level above 0")
        return self

    def shape(self, seed: int, duration: float) -> Shape:
        times, levels = np.array(self.points).T
        # The line from the last point leads to the first point of the next period.
        at_the_turn = np.interp(self.period, [times[-1], times[0] + self.period], [levels[-1], levels[0]])
        if times[0] > 0:
            times, levels = np.append(0.0, times), np.append(at_the_turn, levels)
        if times[-1] < self.period:
            times, levels = np.append(times, self.period), np.append(levels, at_the_turn)
        is_line = np.diff(times) > 0
        start, left, right = times[:-1][is_line], levels[:-1][is_line], levels[1:][is_line]
        mean = (np.diff(times)[is_line] * (left + right) / 2).sum() / self.period
        return Shape(start, left / mean, right / mean, self.period)


class Ramp(_Declared):
    """A rate that changes evenly from one level to another and then stays constant. It shows which load is too high."""

    kind: Literal["ramp"] = "ramp"
    start: float = Field(ge=0, le=1e6, description="rate at the start, as a multiple of workload.rate")
    end: float = Field(ge=0, le=1e6, description="rate after the time `over`, as a multiple of workload.rate")
    over: PositiveSeconds = Field(description="time of the change from one rate to the other")

    @model_validator(mode="after")
    def _possible(self) -> Ramp:
        if self.start == self.end == 0:
            raise ValueError("expected start or end above 0")
        return self

    def shape(self, seed: int, duration: float) -> Shape:
        end = self.end
        return Shape(np.array([0.0, self.over]), np.array([self.start, end]), np.array([end, end]))


class Replay(_Arrivals):
    """Recorded moments, from a run or a log. At each of them, a random user sends a message."""

    kind: Literal["replay"] = "replay"
    at: tuple[float, ...] = Field(
        description="seconds from the start; or epoch seconds (above 1e9) or datetimes, whose first becomes 0"
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, fields: Any) -> Any:
        """Read the moments of `run` (a run's folder) or `file` (a text file with one moment on each line).

        They are read at once, so a scenario is complete without these files. `imsim.scenario.moments` describes the
        formats of moments.
        """
        if not isinstance(fields, dict):
            return fields
        given = [name for name in ("at", "run", "file") if name in fields]
        if len(given) != 1:
            raise ValueError("expected one of at (moments), run (a run's folder) and file (one moment on each line)")
        fields = dict(fields)
        source = fields.pop(given[0])
        if given != ["at"]:
            if not isinstance(source, str | Path):
                raise ValueError(f"expected the path of a {given[0]}, got {shown(source)}")
            source = _intended_in(Path(source)) if given == ["run"] else _lines_of(Path(source))
        return fields | {"at": moments(source)}

    def expected(self, until: float, rate: float) -> float:
        return float(np.searchsorted(self.at, until))

    def is_even(self, since: float, until: float) -> bool:
        edges = np.linspace(since, until, _BLOCKS + 1)
        return _are_even(np.searchsorted(self.at, edges), _CHANCE)

    def until(self, duration: float) -> Replay:
        at = tuple(moment for moment in self.at if moment < duration)
        if not at:
            raise UsageError(
                f"workload.arrivals: expected a moment before duration ({duration:g} s), but the first is at"
                f" {self.at[0]:g} s"
            )
        return self if len(at) == len(self.at) else Replay(at=at)


Arrivals = Poisson | Bursts | Curve | Ramp | Replay
ARRIVALS: dict[str, type[BaseModel]] = {kind.model_fields["kind"].default: kind for kind in get_args(Arrivals)}


def _are_even(counts_until: npt.ArrayLike, chance: float) -> bool:
    """Return whether blocks of time have about the same number of messages. `chance`: the standard deviations of a
    Poisson distribution by which a block may differ besides."""
    counts = np.diff(np.asarray(counts_until, np.float64))
    mean = counts.mean()
    return bool(mean and (np.abs(counts - mean) <= _UNEVEN * mean + chance * math.sqrt(mean)).all())


def _intended_in(folder: Path) -> Floats:
    import pandas as pd

    try:
        intended = pd.read_parquet(folder / "messages.parquet", columns=["intended_at"])["intended_at"]
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a run's folder, but {folder} contains no messages.parquet ({error})") from None
    return intended.to_numpy(np.float64) / 1e9


def _lines_of(file: Path) -> list[float] | list[str]:
    """Return the lines of a file: as numbers if all of them are numbers, else as texts."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a text file with one moment on each line, but {file}: {error}") from None
    try:
        return [float(line) for line in lines]
    except ValueError:
        return lines


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_EXPECTED = f"a kind of {', '.join(ARRIVALS)}, or a column of moments"


def _shorthand(value: object) -> object:
    """Convert a plain kind to a table, and a list, an array or a column to a replay of its moments."""
    if isinstance(value, str):
        value = {"kind": value}
    elif not isinstance(value, dict | _Arrivals) and hasattr(value, "__len__"):
        value = {"kind": "replay", "at": value}
    if isinstance(value, dict):
        if "kind" not in value:
            raise ValueError(f"expected {_EXPECTED}, got a table without 'kind'")
        if value["kind"] not in ARRIVALS:
            raise ValueError(f"expected {_EXPECTED}, got {shown(value['kind'])}")
    elif not isinstance(value, _Arrivals):
        raise ValueError(f"expected {_EXPECTED}, got {shown(value)}")
    return value


ArrivalsField = Annotated[Arrivals, Field(discriminator="kind"), BeforeValidator(_shorthand)]
