"""The initial transient of a run: a suggestion for the scenario's `warmup`, and a note if `warmup` is too short.

`suggest` is MSER-5 (K. P. White, M. J. Cobb and S. C. Spratt, "A comparison of five steady-state truncation heuristics
for simulation", WSC 2000): it averages the series in groups of five, and cuts as many groups from the front as minimize
the standard error of the rest. It is applied to the latencies averaged over replications; on the series of a single
replication the cut is random.

`unsteady_note` examines one run. It divides the measured part into 20 blocks of equal length, and compares the mean
latencies of the first tenth and of the second half. They also differ by chance. A note is made if one is at least twice
the other, lies beyond every block of the other, and differs by more standard errors than chance explains. The table
shows results for M/M/1 queues, 1,000 runs of each kind, as in `tests/analysis/test_warmup.py`:

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
    """A run's delivery latencies over their intended times, warm-up included: sums (ms) and counts in equal bins.

    Messages that never arrived are left out, and so is the time for which a device was offline by plan.
    """

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
    """Return the seconds to cut, by MSER-5 on the mean latency over all replications.

    None means that the cut would take half of the run or more, or that there are too few values: the run is too short
    to show a steady state.
    """
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
    """The mean delivery latencies in ms of the measured part of a run.

    `first` is the mean of its first tenth, `later` the mean of each block of its second half.
    """

    first: float
    later: tuple[float, ...]

    @classmethod
    def of(cls, run: RunData) -> Beginning | None:
        """Return the beginning of a run, or None if its load is not steady or it has too few latencies."""
        return cls.in_series(Series.of(run), run.scenario.warmup) if is_steady(run.scenario) else None

    @classmethod
    def of_lost(cls, run: RunData) -> Beginning | None:
        """Return the beginning of a run in terms of the percentage of deliveries that never arrived."""
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
        """Return the beginning of a series, or None if a block has too few values. `warmup` is in seconds."""
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
        """The mean of the second half."""
        return math.fsum(self.later) / len(self.later)


def unsteady_note(beginning: Beginning | None) -> list[str]:
    """Return a sentence if the beginning of a run differs from its second half."""
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
    """Return a sentence if a growing share of the deliveries never arrives. `lost`: from `Beginning.of_lost`."""
    if lost is None or lost.level < _LOST or lost.level < _FACTOR * lost.first:
        return []
    return [
        f"{lost.level:.0f} % of the deliveries in the second half of the run never arrived, {lost.first:.0f} % in its "
        "first tenth: the service cannot keep up with this load"
    ]


def unsteady_notes(beginnings: Sequence[Beginning | None]) -> list[str]:
    """Return a sentence if the beginning of the replications of one scenario differs from their second half.

    Replications show a difference more reliably than one run: a factor of 1.5 suffices, if the difference exceeds twice
    its 95 % interval.
    """
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
        return f"the measured part does not begin in steady state ({compared}): lengthen `warmup`"
    return (
        f"latency rises during the run ({compared}): the service cannot keep up with this load, or `warmup` is too "
        "short for the queues to fill"
    )


def mser5(values: NDArray[np.float64]) -> int | None:
    """Return the number of values to cut from the front, or None if the best cut lies in the second half.

    A cut in the second half leaves too few values to be trusted.
    """
    batches = values[: len(values) // _BATCH * _BATCH].reshape(-1, _BATCH).mean(axis=1)
    count = len(batches)
    if count < 2:
        return None
    # The variance of the rest after each cut follows from the sums from each position to the end.
    centred = batches - batches.mean()  # prevents the cancellation of large squares
    left = np.arange(count, 0, -1)
    total = np.cumsum(centred[::-1])[::-1]
    squares = np.cumsum((centred**2)[::-1])[::-1]
    error = np.maximum(squares - total**2 / left, 0) / left**2
    # The last few batches always look alike, so at least five must remain.
    best = int(np.argmin(error[: max(count - _BATCH, 1)]))
    return None if best * 2 >= count else best * _BATCH
