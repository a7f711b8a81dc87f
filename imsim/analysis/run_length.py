"""Rules that decide whether runs are long enough for their percentiles.

An interval over replications covers the mean of the values that runs give, and short runs give too small a percentile:
the few messages beyond it arrive together, when a queue happens to be long, and most short runs have no such queue. The
interval then converges to the wrong number as replications are added. Two rules detect this:

- `needed`: at least ten latencies of each run lie beyond the percentile (1,000 latencies for p99, 10,000 for p99.9).
- The two halves of a run, taken separately, give on average the value of the whole run: less by at most a fifth of the
  interval's width. If halves are too short, whole runs may be, too; and the error of the whole runs is about as large
  as the loss by halving. The rule applies only if the load is steady and there are no faults: otherwise halves differ
  for good reason, and the length of the run is part of the question.

Measured for p99 of an M/M/1 queue, 20 replications, 400 times over (`tests/analysis/test_run_length.py` holds it):

    load, latencies in a run           .5, 300  .8, 1,000  .8, 3,000 | .5, 1,000  .8, 10,000 | .5, 3,000  .8, 30,000
    p99 is too low by                    6 %      16 %        6 %    |    1 %        0 %     |    0 %        0 %
    95 % intervals that cover it         .69       .22        .73    |    .93        .93     |    .92        .92
    found too short (second rule)        .83       .97        .84    |    .25        .22     |    .01        .00

In the middle column the rule is stricter than necessary, more so with more replications: there halves are too short,
but whole runs are not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from imsim.analysis.intervals import estimate
from imsim.analysis.latency import LATENCIES, has_early_acks, is_latency, quantile
from imsim.results import RunData
from imsim.scenario import Scenario

#: The smallest number of latencies beyond a percentile in each run.
BEYOND = 10

#: The largest accepted difference between whole runs and their halves, as a share of half the interval's width.
SHARE = 0.4


@dataclass(frozen=True)
class Behind:
    """The data behind a percentile of one run: the number of latencies, and the mean of the run's two halves.

    `halves` is nan if the second rule does not apply, and infinite if it falls among messages that never arrived.
    """

    latencies: int
    halves: float


def behind(run: RunData, metrics: Sequence[str]) -> dict[str, Behind]:
    """Return the data behind each metric that is a percentile."""
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


def is_steady(scenario: Scenario) -> bool:
    """Return whether all parts of a run are alike, except for chance."""
    sessions = scenario.population.sessions
    comes_together = sessions is not None and sessions.start is not None
    return scenario.workload.arrivals.kind in ("poisson", "bursts") and not scenario.faults and not comes_together


def share_of(metric: str) -> Fraction | None:
    """Return 0.99 for delivery.p99, and None if the metric is not a percentile of latencies."""
    statistic = metric.partition(".")[2]
    is_percentile = is_latency(metric) and statistic.startswith("p")
    return Fraction(statistic[1:]) / 100 if is_percentile else None


def needed(metric: str) -> int:
    """Return the number of latencies that a percentile needs in each run."""
    share = share_of(metric)
    return 1 if share is None else math.ceil(BEYOND / (1 - share))


def few_notes(run: RunData) -> list[str]:
    """Return a sentence about the percentiles for which this run has too few latencies."""
    shown = [what for what in LATENCIES if what != "confirmed" or has_early_acks(run)]
    metrics = [f"{what}.{share}" for what in shown for share in ("p50", "p95", "p99")]
    few = [
        f"{metric} ({one.latencies:,} of {needed(metric):,})"
        for metric, one in behind(run, metrics).items()
        if 0 < one.latencies < needed(metric)  # without latencies there is no percentile
    ]
    return [f"too few latencies for {', '.join(few)}: lengthen `duration`"] if few else []


Flaw = Literal["few", "short"]


def flaw(metric: str, values: Sequence[float], all_behind: Sequence[Mapping[str, Behind]]) -> Flaw | None:
    """Return the flaw of a percentile's interval: "few" latencies in a run, or "short" runs; None without a flaw.

    More replications do not repair either.
    """
    known = [one[metric] for one in all_behind if metric in one]
    if not known:
        return None
    if min(one.latencies for one in known) < needed(metric):
        return "few"
    half = estimate(values).half
    more = statistics.fmean(values) - statistics.fmean(one.halves for one in known)
    # Comparisons with nan are false.
    return "short" if half is not None and len(known) == len(values) and more > SHARE * half else None
