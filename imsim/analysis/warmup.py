"""The beginning of a run: a suggestion for the scenario's `warmup`, and notes if it does not begin in steady state.

`suggest` is MSER-5 (K. P. White, M. J. Cobb and S. C. Spratt, "A comparison of five steady-state truncation heuristics
for simulation", WSC 2000). Of means of five values, it cuts as many from the front as makes the standard error of the
rest smallest. imsim applies it to the latencies averaged over replications. On single replications it cuts at random.

`notes` compares the beginning of the measured part with its second half. The measured part ends before the first fault
and has 20 blocks of equal length. The note about latencies needs an even load; the note about lost deliveries does not.

Latencies differ by chance, too. So there is a note only if the mean of the first tenth and that of the second half
differ by a factor of two, the first tenth lies beyond every block of the second half, and they differ by more standard
errors than chance explains. The same factor must hold for the medians: a queue moves both, but a few devices that were
offline for long move only the mean. Measured on M/M/1 queues, as in `tests/analysis/test_warmup.py`:

    load, messages in a run                   .5, 1,000  .8, 3,000  .8, 30,000  .9, 3,000  .9, 10,000  .9, 30,000
    a note though it begins in steady state      .01        .04        .00         .08         .04         .01
    a note if it begins with ten times its
    mean queue, and it lasts
    for a tenth of the run or more              1.00        .97       1.00         .93         .88        1.00
    for a fifth of the run or more              1.00       1.00       1.00         .96        1.00        1.00
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imsim.analysis.availability import NEVER, waits_since
from imsim.analysis.intervals import estimate
from imsim.analysis.latency import intended_at
from imsim.analysis.recovery import faults_of
from imsim.analysis.run_length import has_even_load
from imsim.results import DeliveryOutcome, Role, RunData

_BINS = 500
_BATCH = 5

_BLOCKS = 20
_LEAST = 5  # values in a block; with fewer there is no note
_FACTOR = 2.0
_FACTOR_OF_MANY = 1.5  # replications show a difference more surely
_LOST = 5.0  # %
_ERRORS = {"high": 5.0, "low": 3.0}  # latencies have a long tail above, and none below


@dataclass(frozen=True)
class Series:
    """The delivery latencies of a run over their intended times, warm-up included.

    sums, counts: of the latencies (ms) in equal bins of `duration` (s). Deliveries that never arrived are left out, and
    so is the time for which a device was offline by plan.
    """

    duration: float
    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, run: RunData) -> Series:
        duration = run.scenario.duration
        at, latency = _latencies(run)
        bins = np.minimum((at * (_BINS / duration)).astype(np.int64), _BINS - 1)
        counts = np.bincount(bins, minlength=_BINS).astype(np.float64)
        return cls(duration, np.asarray(np.bincount(bins, latency, _BINS), np.float64), counts)


def suggest(series: Sequence[Series]) -> float | None:
    """Return the seconds to cut, by MSER-5 on the mean latency over all replications.

    None if there are too few latencies, or if half or more would be cut: such a run is too short to show a steady
    state.
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
    """The means of a quantity in the `first` tenth of a run, and in each block of the second half (`later`).

    medians: the medians of the first tenth and of the second half; None if they say nothing about the quantity.
    """

    first: float
    later: tuple[float, ...]
    medians: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        at: NDArray[np.float64],
        values: NDArray[np.float64],
        since: float,
        until: float,
        *,
        has_medians: bool = True,
    ) -> Beginning | None:
        """Return the beginning of what was measured between two times (s); None if a block has too few values.

        at, values: a time (s) and a value of each.
        """
        edges = np.linspace(since, until, _BLOCKS + 1)
        block = np.searchsorted(edges, at, side="right") - 1
        is_measured = (block >= 0) & (block < _BLOCKS)
        block, values = block[is_measured], values[is_measured]
        counts = np.bincount(block, minlength=_BLOCKS)
        if counts.min() < _LEAST:
            return None
        sums = np.bincount(block, values, _BLOCKS)
        medians = None
        if has_medians:
            medians = (float(np.median(values[block < 2])), float(np.median(values[block >= _BLOCKS // 2])))
        return cls(float(sums[:2].sum() / counts[:2].sum()), tuple((sums / counts)[_BLOCKS // 2 :].tolist()), medians)

    @property
    def level(self) -> float:
        """The mean of the second half."""
        return math.fsum(self.later) / len(self.later)

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the first tenth differs from the second half by more than chance explains."""
        error = float(np.std(self.later, ddof=1)) / math.sqrt(2)
        if self.first > self.level:
            return self.first > max(self.later) and self.first - self.level > _ERRORS["high"] * error
        return self.first < min(self.later) and self.level - self.first > _ERRORS["low"] * error


@dataclass(frozen=True)
class Steadiness:
    """The measurements that show whether a run is in steady state.

    latency: ms; None if the load is not even or there are too few deliveries. lost: the percentage of deliveries that
    never arrived; None of too few. drops: the operations that each node dropped.
    """

    latency: Beginning | None = None
    lost: Beginning | None = None
    drops: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunData) -> Steadiness:
        since, duration = float(run.scenario.warmup), float(run.scenario.duration)
        until = min((fault[0] for fault in faults_of(run)), default=duration)
        latency = None
        if since < until and has_even_load(run.scenario, since, until):
            latency = Beginning.of(*_latencies(run), since, until)
        at, is_lost = _lost(run)
        lost = Beginning.of(at, np.where(is_lost, 100.0, 0.0), since, duration, has_medians=False)
        nodes = run.manifest.get("utilisation", {})
        return cls(latency, lost, {node: int(one["drops"]) for node, one in nodes.items() if one["drops"]})

    @classmethod
    def from_json_dict(cls, values: dict[str, Any]) -> Steadiness:
        """Return what `dataclasses.asdict` made plain."""

        def beginning(one: dict[str, Any] | None) -> Beginning | None:
            if one is None:
                return None
            return Beginning(one["first"], tuple(one["later"]), one["medians"] and tuple(one["medians"]))

        return cls(beginning(values["latency"]), beginning(values["lost"]), values["drops"])


def notes(runs: Sequence[Steadiness], *, has_faults: bool) -> list[str]:
    """Return a sentence if the service cannot keep up, or if a run does not begin in steady state.

    runs: a run, or the replications of one scenario, which show it more surely.
    """
    lost = [one.lost for one in runs if one.lost is not None]
    latency = [one.latency for one in runs if one.latency is not None]
    return _overload(lost, has_faults) or _unsteady(latency)


def drop_notes(runs: Sequence[Steadiness]) -> list[str]:
    """Return a sentence for each node that dropped operations in replications."""
    drops: dict[str, int] = {}
    for one in runs:
        for node, count in one.drops.items():
            drops[node] = drops.get(node, 0) + count
    return [
        f"{node} dropped {count / len(runs):,.4g} operations a run on average, as its queue was full: deliveries may "
        "be late or lost"
        for node, count in sorted(drops.items())
    ]


def _overload(lost: Sequence[Beginning], has_faults: bool) -> list[str]:
    if not lost:
        return []
    first, level = _means(lost)
    if level < _LOST or level < _FACTOR * first:
        return []
    cause = ", or its faults lose deliveries" if has_faults else ""
    return [
        f"{level:.0f} % of the deliveries in the second half of the run never arrived, {first:.0f} % in its first "
        f"tenth: the service cannot keep up with this load{cause}"
    ]


def _unsteady(latency: Sequence[Beginning]) -> list[str]:
    if not latency:
        return []
    first, level = _means(latency)
    is_one = len(latency) == 1
    factor = _FACTOR if is_one else _FACTOR_OF_MANY
    medians = [one.medians for one in latency if one.medians is not None]
    pairs = [(first, level), *([_mean_pair(medians)] if medians else [])]
    falls, rises = all(a > factor * b for a, b in pairs), all(b > factor * a for a, b in pairs)
    if not (falls or rises):
        return []
    if is_one:
        is_sure = latency[0].is_beyond_chance
    else:
        difference = estimate([one.first - one.level for one in latency])
        is_sure = difference.half is not None and abs(first - level) > 2 * difference.half
    if not is_sure:
        return []
    of = "" if is_one else f" of {len(latency)} replications"
    compared = f"mean delivery latency{of}: {first:,.3g} ms in the first tenth, {level:,.3g} ms in the second half"
    if falls:
        return [f"the run does not begin in steady state ({compared}): lengthen `warmup`"]
    return [
        f"latency rises during the run ({compared}): the service cannot keep up with this load, or `warmup` is too "
        "short for its queues to fill"
    ]


def _means(found: Sequence[Beginning]) -> tuple[float, float]:
    return _mean_pair([(one.first, one.level) for one in found])


def _mean_pair(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    first, later = (math.fsum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return first, later


def _latencies(run: RunData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the intended time (s) and the latency (ms) of each delivery to a recipient that arrived."""
    delivered_at = run.integers("deliveries", "delivered_at", NEVER)
    row = np.flatnonzero(run.words("deliveries", "role").equal(Role.RECIPIENT) & (delivered_at != NEVER))
    intended, delivered_at = intended_at(run, run.integers("deliveries", "intent")[row]), delivered_at[row]
    waited = delivered_at - waits_since(run, row, delivered_at, intended)
    return np.asarray(intended / 1e9, np.float64), np.asarray(waited / 1e6, np.float64)


def _lost(run: RunData) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the intended time (s) of each delivery to a recipient, and whether it was lost."""
    row = run.words("deliveries", "role").equal(Role.RECIPIENT)
    intended = intended_at(run, run.integers("deliveries", "intent")[row])
    is_lost = run.words("deliveries", "outcome").equal(DeliveryOutcome.LOST)[row]
    return np.asarray(intended / 1e9, np.float64), is_lost


def mser5(values: NDArray[np.float64]) -> int | None:
    """Return how many values to cut from the front; None if the best cut is in the second half, where the rest is too
    short to trust it."""
    batches = values[: len(values) // _BATCH * _BATCH].reshape(-1, _BATCH).mean(axis=1)
    count = len(batches)
    if count < 2:
        return None
    # The variance after each cut follows from the sums from there to the end.
    centred = batches - batches.mean()  # prevents the cancellation of large squares
    left = np.arange(count, 0, -1)
    total = np.cumsum(centred[::-1])[::-1]
    squares = np.cumsum((centred**2)[::-1])[::-1]
    error = np.maximum(squares - total**2 / left, 0) / left**2
    # The last few batches are always alike, so five at least are left.
    best = int(np.argmin(error[: max(count - _BATCH, 1)]))
    return None if best * 2 >= count else best * _BATCH
