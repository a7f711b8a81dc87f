"""How long a run shows how it began: a suggestion for the scenario's `warmup`, and a note where that is too short.

`suggest` is MSER-5 (K. P. White, M. J. Cobb and S. C. Spratt, "A comparison of five steady-state truncation heuristics
for simulation", WSC 2000): of means of five, cut as many from the front as makes the standard error of what is left
smallest. It is used on the latencies averaged over replications; on the series of single replications it cuts at
random.

`unsteady_note` looks at one run. Its measured part is cut into 20 blocks of equal length, and the mean latencies of the
first tenth and of the second half are compared. They differ by chance, too; a note is made if the one is at least twice
the other, lies beyond every block of the other, and differs by more standard errors than chance explains. Measured on
M/M/1 queues, 1,000 runs of each kind, as in `tests/analysis/test_warmup.py`:

    load, messages in a run                     .5, 1,000  .8, 3,000  .8, 30,000  .9, 3,000  .9, 10,000  .9, 30,000
    a note though it begins in steady state        .01        .02        .00         .07         .04         .02
    a note if it begins with ten times its
    mean queue, for a tenth of the run or more    1.00       1.00       1.00         .96        1.00        1.00
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imsim.analysis.availability import waits_since
from imsim.analysis.intervals import estimate
from imsim.analysis.run_length import is_steady
from imsim.results import DeliveryOutcome, Role, RunData

_BINS = 500
_BATCH = 5

_BLOCKS = 20
_LEAST = 5  # latencies in a block: with fewer, nothing is said
_FACTOR = 2.0
_FACTOR_OF_MANY = 1.5
_LOST = 5.0  # %
_ERRORS = {"high": 5.0, "low": 3.0}  # latencies have a long tail above, and none below


@dataclass(frozen=True)
class Series:
    """A run's delivery latencies over the time at which they were intended, warm-up included: sums (ms) and counts in
    equal bins of `duration`. What never came is left out, and so is the time that a device was offline by plan."""

    duration: float
    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, run: RunData) -> Series:
        duration = run.scenario.duration
        rows = run.deliveries[(run.deliveries["role"] == Role.RECIPIENT) & run.deliveries["delivered_at"].notna()]
        intended = run.messages["intended_at"].to_numpy(np.int64)[rows["intent"].to_numpy(np.int64)]
        latency = (rows["delivered_at"].to_numpy(np.int64) - waits_since(run, rows, intended)) / 1e6
        bins = np.minimum((intended * (_BINS / (duration * 1e9))).astype(np.int64), _BINS - 1)
        counts = np.bincount(bins, minlength=_BINS).astype(np.float64)
        sums = np.asarray(np.bincount(bins, latency, _BINS), np.float64)
        return cls(duration, sums, counts)


def suggest(series: Sequence[Series]) -> float | None:
    """Seconds to cut, by MSER-5 on the mean latency over all replications. None if it would cut half or more, or there
    is too little to judge by: then the run is too short for a steady state to show."""
    counts = np.sum([one.counts for one in series], axis=0)
    seen = counts > 0
    if seen.sum() < 2 * _BATCH:
        return None
    means = np.sum([one.sums for one in series], axis=0)[seen] / counts[seen]
    cut = mser5(means)
    if cut is None:
        return None
    starts = np.flatnonzero(seen) * (series[0].duration / _BINS)
    return round(float(starts[cut]), 6) if cut else 0.0


@dataclass(frozen=True)
class Beginning:
    """How the measured part of a run begins, as mean delivery latencies in ms: in its `first` tenth, and in each block
    of its second half, `later`."""

    first: float
    later: tuple[float, ...]

    @classmethod
    def of(cls, run: RunData) -> Beginning | None:
        """None where one part of a run is not as another anyway, or there is too little in it."""
        return cls.in_series(Series.of(run), run.scenario.warmup) if is_steady(run.scenario) else None

    @classmethod
    def of_lost(cls, run: RunData) -> Beginning | None:
        """The same with the percentage of deliveries that never came in place of latencies."""
        if not is_steady(run.scenario):
            return None
        duration, bins = run.scenario.duration, np.arange(_BINS + 1)
        rows = run.deliveries[run.deliveries["role"] == Role.RECIPIENT]
        at = run.messages["intended_at"].to_numpy(np.int64)[rows["intent"].to_numpy(np.int64)] / 1e9
        is_lost = (rows["outcome"] == DeliveryOutcome.LOST).to_numpy()
        all_, lost = (np.histogram(times, bins * duration / _BINS)[0] for times in (at, at[is_lost]))
        return cls.in_series(Series(duration, 100.0 * lost, all_.astype(np.float64)), run.scenario.warmup)

    @classmethod
    def in_series(cls, series: Series, warmup: float) -> Beginning | None:
        """`warmup`: seconds."""
        cut = math.ceil(warmup / series.duration * _BINS)
        width = (_BINS - cut) // _BLOCKS
        if not width:
            return None
        measured = slice(cut, cut + width * _BLOCKS)
        counts = series.counts[measured].reshape(_BLOCKS, width).sum(axis=1)
        sums = series.sums[measured].reshape(_BLOCKS, width).sum(axis=1)
        if counts.min() < _LEAST:
            return None
        return cls(float(sums[:2].sum() / counts[:2].sum()), tuple((sums / counts)[_BLOCKS // 2 :].tolist()))

    @property
    def level(self) -> float:
        return math.fsum(self.later) / len(self.later)


def unsteady_note(beginning: Beginning | None) -> list[str]:
    """A sentence, if a run does not begin as it goes on."""
    if beginning is None:
        return []
    first, level, later = beginning.first, beginning.level, beginning.later
    error = float(np.std(later, ddof=1)) / math.sqrt(2)
    if first > _FACTOR * level and first > max(later) and first - level > _ERRORS["high"] * error:
        return [_note(first, level)]
    if level > _FACTOR * first and first < min(later) and level - first > _ERRORS["low"] * error:
        return [_note(first, level)]
    return []


def overload_note(lost: Beginning | None) -> list[str]:
    """A sentence, if more and more of the deliveries never come. `lost`: as `Beginning.of_lost` has it."""
    if lost is None or lost.level < _LOST or lost.level < _FACTOR * lost.first:
        return []
    return [
        f"{lost.level:.0f} % of the deliveries in the second half of the run never came, {lost.first:.0f} % in its "
        "first tenth: the service cannot keep up with this load"
    ]


def unsteady_notes(beginnings: Sequence[Beginning | None]) -> list[str]:
    """The same about the replications of one scenario, which show it more surely: half as large a difference counts,
    if it is beyond twice its 95 % interval."""
    known = [one for one in beginnings if one is not None]
    if len(known) < 2:
        return unsteady_note(known[0]) if known else []
    first, level = (math.fsum(values) / len(known) for values in zip(*((b.first, b.level) for b in known), strict=True))
    difference = estimate([one.first - one.level for one in known])
    is_sure = difference.half is not None and abs(first - level) > 2 * difference.half
    is_large = max(first, level) > _FACTOR_OF_MANY * min(first, level)
    return [_note(first, level, f" of {len(known)} replications")] if is_sure and is_large else []


def _note(first: float, level: float, of: str = "") -> str:
    compared = f"mean delivery latency{of}: {first:,.3g} ms in the first tenth, {level:,.3g} ms in the second half"
    if first > level:
        return f"the run does not begin in steady state ({compared}): lengthen `warmup`"
    return (
        f"latency rises during the run ({compared}): the service cannot keep up with this load; or `warmup` is too "
        "short for its queues to fill"
    )


def mser5(values: NDArray[np.float64]) -> int | None:
    """How many values to cut from the front; None if the best cut lies in the second half, where there is too little
    left to trust it."""
    batches = values[: len(values) // _BATCH * _BATCH].reshape(-1, _BATCH).mean(axis=1)
    count = len(batches)
    if count < 2:
        return None
    # Sums from each place to the end; the variance of what is left after a cut follows from them.
    centred = batches - batches.mean()  # or squares of large numbers would cancel
    left = np.arange(count, 0, -1)
    total = np.cumsum(centred[::-1])[::-1]
    squares = np.cumsum((centred**2)[::-1])[::-1]
    error = np.maximum(squares - total**2 / left, 0) / left**2
    # The last few always look alike: five batches at least.
    best = int(np.argmin(error[: max(count - _BATCH, 1)]))
    return None if best * 2 >= count else best * _BATCH
