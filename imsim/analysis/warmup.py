"""When does a run stop showing how it began? A suggestion for the scenario's `warmup`.

MSER-5 (K. P. White, M. J. Cobb and S. C. Spratt, "A comparison of five steady-state truncation heuristics for
simulation", WSC 2000): of means of five, cut as many from the front as makes the standard error of what is left
smallest. It is used on the latencies averaged over replications; on the series of single replications it cuts at
random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imsim.analysis.availability import waits_since
from imsim.results import Role, RunData

_BINS = 500
_BATCH = 5


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
