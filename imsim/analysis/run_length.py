"""Whether runs are long enough for their percentiles.

An interval over replications is about the mean of what runs give, and of a percentile short runs give too little: the
few messages beyond it come together, when a queue happens to be long, and most short runs see none of that. The
interval then closes in on the wrong number, the more surely the more replications there are. Two rules say so:

- `needed`: beyond the percentile lie at least ten latencies of each run (1,000 latencies for p99, 10,000 for p99.9).
- The two halves of a run, each by itself, give on average what the run gives: less by at most a fifth of the interval's
  width. For if halves are too short, whole runs are under suspicion; and what halving takes off is about what the runs
  themselves are off by. That is asked only where the load is steady and nothing fails: elsewhere halves differ as they
  should, and how long it goes on is part of the question.

Measured for p99 of an M/M/1 queue, 20 replications, 400 times over (`tests/analysis/test_run_length.py` holds it):

    load, latencies in a run           .5, 300  .8, 1,000  .8, 3,000 | .5, 1,000  .8, 10,000 | .5, 3,000  .8, 30,000
    p99 is too low by                    6 %      16 %        6 %    |    1 %        0 %     |    0 %        0 %
    95 % intervals that cover it         .69       .22        .73    |    .93        .93     |    .92        .92
    found too short (second rule)        .83       .97        .84    |    .25        .22     |    .01        .00

In the middle the rule is stricter than need be, the more so the more replications there are: there halves are wrong
and whole runs no longer are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from imsim.analysis.intervals import estimate
from imsim.analysis.latency import LATENCIES, is_latency, quantile
from imsim.results import RunData
from imsim.scenario import Scenario

#: So many latencies of each run lie beyond a percentile that means something.
BEYOND = 10

#: Of half the interval's width: by so much whole runs may give more than their halves.
SHARE = 0.4


@dataclass(frozen=True)
class Behind:
    """What stands behind a percentile of one run: how many latencies, and what the run's two halves give on average;
    nan where that does not matter, infinite where it falls among what never came."""

    latencies: int
    halves: float


def behind(run: RunData, metrics: Sequence[str]) -> dict[str, Behind]:
    """For those of the metrics that are percentiles."""
    found = {}
    for what, latencies in LATENCIES.items():
        shares = {metric: share for metric in metrics if metric.startswith(f"{what}.") and (share := share_of(metric))}
        if not shares:
            continue
        start, end = run.scenario.warmup, run.scenario.duration
        middle = round((start + end) / 2 * 1e9)
        parts = [latencies(run, until=middle), latencies(run, since=middle)]
        count = sum(map(len, parts))
        for metric, share in shares.items():
            halves = math.nan
            if is_steady(run.scenario) and all(map(len, parts)):
                halves = statistics.fmean(quantile(part, share * 100) for part in parts)
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
    """0.99 of delivery.p99; None if the metric is not a percentile of latencies."""
    statistic = metric.partition(".")[2]
    is_percentile = is_latency(metric) and statistic.startswith("p")
    return Fraction(statistic[1:]) / 100 if is_percentile else None


def needed(metric: str) -> int:
    """How many latencies of each run a percentile takes."""
    share = share_of(metric)
    return 1 if share is None else math.ceil(BEYOND / (1 - share))


def few_notes(run: RunData) -> list[str]:
    """A sentence about the percentiles of this one run for which it has too few latencies."""
    metrics = [f"{what}.{share}" for what in LATENCIES for share in ("p50", "p95", "p99")]
    few = [
        f"{metric} stands on {one.latencies:,} latencies, of {needed(metric):,} that it takes"
        for metric, one in behind(run, metrics).items()
        if 0 < one.latencies < needed(metric)  # of nothing there is no percentile
    ]
    return ["; ".join(few) + ": lengthen `duration`"] if few else []


Flaw = Literal["few", "short"]


def flaw(metric: str, values: Sequence[float], all_behind: Sequence[Mapping[str, Behind]]) -> Flaw | None:
    """What is wrong with the interval of a percentile over replications, if anything: `few` latencies in a run, or runs
    that are too `short`. More replications mend neither."""
    known = [one[metric] for one in all_behind if metric in one]
    if not known:
        return None
    if min(one.latencies for one in known) < needed(metric):
        return "few"
    half = estimate(values).half
    more = statistics.fmean(values) - statistics.fmean(one.halves for one in known)
    # Comparisons with nan are false.
    return "short" if half is not None and len(known) == len(values) and more > SHARE * half else None
