"""Rules that decide whether runs are long enough for their percentiles.

An interval over replications is about the mean of what runs give, and short runs give too low a percentile. The few
latencies beyond it occur together, when a queue happens to be long, and most short runs have no such queue. The
interval then converges to the wrong number as replications are added. Two rules find this:

- `needed`: each run has at least ten latencies beyond the percentile (1,000 latencies for p99, 10,000 for p99.9).
- The two halves of a run, each by itself, give on average what the run gives, less at most a fifth of the interval's
  width. If halves are too short, whole runs may be, too: what halving takes off is about the error of the whole runs.
  The rule applies only if the load is even and nothing fails. Otherwise halves differ because they should, and the
  length of a run is part of the question.

Measured for p99 of an M/M/1 queue, 20 replications, 400 times over (`tests/analysis/test_run_length.py` holds it):

    load, latencies in a run           .5, 300  .8, 1,000  .8, 3,000 | .5, 1,000  .8, 10,000 | .5, 3,000  .8, 30,000
    p99 is too low by                    6 %      16 %        6 %    |    1 %        0 %     |    0 %        0 %
    95 % intervals that cover it         .69       .22        .73    |    .93        .93     |    .92        .92
    found too short (second rule)        .83       .97        .84    |    .25        .22     |    .01        .00

In the middle columns the rule is stricter than necessary, and more so with more replications: there halves are too
short, but whole runs are not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from imsim.analysis.intervals import estimate
from imsim.analysis.latency import LATENCIES, is_latency, latencies, quantile, split
from imsim.results import RunData
from imsim.scenario import Scenario

#: The least number of latencies of each run beyond a percentile.
BEYOND = 10

#: The most by which whole runs may exceed their halves, as a share of half the interval's width.
SHARE = 0.4


@dataclass(frozen=True)
class Behind:
    """The data on which a percentile of one run is based.

    latencies: the number of latencies. halves: the mean of the percentiles of the run's two halves; nan if the second
    rule does not apply, infinite if one falls among deliveries that never arrived.
    """

    latencies: int
    halves: float


def behind(run: RunData, metrics: Sequence[str]) -> dict[str, Behind]:
    """Return what the percentiles among the metrics are based on."""
    found = {}
    shares_of: dict[tuple[str, str], dict[str, Fraction]] = {}  # by the kind of latency and the part of the run
    for metric in metrics:
        if share := share_of(metric):
            what, _, rest = metric.partition(".")
            shares_of.setdefault((what, rest.partition("[")[2]), {})[metric] = share
    for (what, _), shares in shares_of.items():
        values_of = LATENCIES[what]
        where = split(next(iter(shares)))[1]
        part = run.where(**where) if where else run
        start, end = run.scenario.warmup, run.scenario.duration
        middle = round((start + end) / 2 * 1e9)
        parts = [values_of(part, until=middle), values_of(part, since=middle)]
        count = sum(map(len, parts))
        for metric, share in shares.items():
            halves = math.nan
            if is_steady(run.scenario) and all(map(len, parts)):
                halves = statistics.fmean(quantile(half, share * 100) for half in parts)
            found[metric] = Behind(count, halves)
    return found


def has_even_load(scenario: Scenario, since: float, until: float) -> bool:
    """Return whether the load is about the same all the time between the two (s), except for chance."""
    sessions = scenario.population.sessions
    come_together = sessions is not None and sessions.start is not None
    return not come_together and scenario.workload.arrivals.is_even(since, until)


def is_steady(scenario: Scenario) -> bool:
    """Return whether all parts of a run are alike, except for chance: its load is even, and nothing fails."""
    return not scenario.faults and has_even_load(scenario, scenario.warmup, scenario.duration)


def share_of(metric: str) -> Fraction | None:
    """Return 0.99 for delivery.p99; None if the metric is not a percentile of latencies."""
    statistic = split(metric)[0].partition(".")[2]
    is_percentile = is_latency(metric) and statistic.startswith("p")
    return Fraction(statistic[1:]) / 100 if is_percentile else None


def needed(metric: str) -> int:
    """Return how many latencies of each run a percentile needs."""
    share = share_of(metric)
    return 1 if share is None else math.ceil(BEYOND / (1 - share))


def few_notes(run: RunData) -> list[str]:
    """Return a sentence about the percentiles for which this run has too few latencies."""
    few = [
        f"{what}.{share} is based on {len(values):,} latencies and needs {needed(f'{what}.{share}'):,}"
        for what, values in latencies(run, LATENCIES)
        for share in ("p50", "p95", "p99")
        if 0 < len(values) < needed(f"{what}.{share}")  # without latencies the percentile is null anyway
    ]
    return ["; ".join(few) + ": lengthen `duration`"] if few else []


Flaw = Literal["few", "short"]


def flaw(metric: str, values: Sequence[float], all_behind: Sequence[Mapping[str, Behind]]) -> Flaw | None:
    """Return why the interval of a percentile over replications is wrong: a run has too `few` latencies, or the runs
    are too `short` (the two rules). None if it is not. More replications do not help."""
    known = [one[metric] for one in all_behind if metric in one]
    if not known:
        return None
    if min(one.latencies for one in known) < needed(metric):
        return "few"
    half = estimate(values).half
    more = statistics.fmean(values) - statistics.fmean(one.halves for one in known)
    # A comparison with nan is false: then nothing is wrong.
    return "short" if half is not None and len(known) == len(values) and more > SHARE * half else None
