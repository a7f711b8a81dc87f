"""Readings: the parts of a run that a report needs, which are counts, statistics, curves of latencies and texts.

A reading is small, so a report of many large runs needs the memory of one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from imsim.analysis import latency, timeline
from imsim.analysis.breakdown import tier_utilisation
from imsim.analysis.labels import group_labels, status_mark
from imsim.analysis.latency import Counts, Latency
from imsim.analysis.plots.curves import Curve
from imsim.analysis.report.rows import Loss, OfSize, by_size, losses
from imsim.analysis.run import Run
from imsim.scenario.sections.topology import TIERS

STATISTICS = ("p50", "p95", "p99", "max", "mean")


@dataclass(frozen=True)
class Kind:
    """The latencies of one kind, such as `ack`.

    count, lost: of the latencies after the warm-up, and of those that are infinite.
    """

    count: int
    lost: int
    statistics: Latency
    curve: Curve


@dataclass(frozen=True)
class Reading:
    """The data of one run for a report.

    label: what distinguishes it from the others. design: the letter of all runs that differ in their seeds only; empty
    if all do. mark: "INVALID", "partial" or empty. course: the middles of windows (s) and the p95 of deliveries in each
    (ms). busy: the utilisation of each tier of a simulated run.
    """

    run: Run
    label: str
    design: str
    mark: str
    counts: Counts
    kinds: dict[str, Kind]
    losses: list[Loss]
    sizes: list[OfSize]
    warnings: list[str]
    course: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    busy: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, label: str, design: str, *, has_course: bool) -> Reading:
        """Return the reading of a run. has_course: whether to compute `course`."""
        mark = status_mark(run)
        kinds = {}
        for name in latency.rows_of(run):
            values = latency.ROWS[name](run)
            lost = int(np.isinf(values).sum())
            kinds[name] = Kind(len(values), lost, Latency.of(values), Curve.of(values, name, bool(mark)))
        course = None
        if has_course:
            windows = timeline.windows(run, timeline.TimeAxis.of(run).end)
            middle = (windows["since"] + windows["until"]) / 2
            course = (middle.to_numpy(np.float64), windows["p95"].to_numpy(np.float64))
        busy = {tier: tier_utilisation(run, tier) for tier in TIERS}
        return cls(
            run,
            label,
            design,
            mark,
            latency.counts_of(run),
            kinds,
            losses(run),
            by_size(run),
            run.warnings[len(run.status) :],
            course,
            {tier: value for tier, value in busy.items() if not math.isnan(value)},
        )

    @property
    def is_sound(self) -> bool:
        """Whether its numbers may be averaged with those of other runs."""
        return not self.mark

    def value(self, metric: str) -> float:
        """Return a metric: infinite if it falls among messages that never arrived, nan if there is nothing."""
        what, _, statistic = metric.partition(".")
        if what == "utilisation":
            return self.busy.get(statistic, math.nan)
        if not statistic:
            return float(getattr(self.counts, metric))
        kind = self.kinds.get(what)
        if kind is None or not kind.count:
            return math.nan
        value: float | None = getattr(kind.statistics, statistic)
        return math.inf if value is None else value


def designs_of(runs: Sequence[Run]) -> tuple[list[str], dict[str, str]]:
    """Return the letter of each run's design, and the label of each letter.

    Runs that differ in nothing but their seeds have the same design. If all runs do, its letter is empty.
    """
    keys = [
        (run.world, run.server or "", str(run.manifest.get("url", "")), run.scenario.name, _without_seed(run))
        for run in runs
    ]
    first = dict(zip(reversed(keys), reversed(runs), strict=True))
    order = list(dict.fromkeys(keys))
    letters = {key: _letter(position) if len(order) > 1 else "" for position, key in enumerate(order)}
    labels = group_labels([first[key] for key in order])
    return [letters[key] for key in keys], dict(zip(letters.values(), labels, strict=True))


def _letter(position: int) -> str:
    """Return A to Z, and then A2 to Z2."""
    again, number = divmod(position, 26)
    return f"{chr(ord('A') + number)}{again + 1 if again else ''}"


def _without_seed(run: Run) -> str:
    return run.scenario.model_copy(update={"seed": 0}).model_dump_json()
