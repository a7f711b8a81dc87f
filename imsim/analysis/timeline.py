"""The course of a run over time: latency and load in windows, and its warm-up and faults."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np

from imsim.analysis.availability import NEVER
from imsim.analysis.latency import Waits, quantile
from imsim.analysis.recovery import Fault, Recovery, faults_of, recoveries
from imsim.results import DeliveryOutcome, Role, RunData

if TYPE_CHECKING:
    import pandas as pd

#: The columns of latencies that `windows` returns, and their percentiles.
PERCENTS = {"p50": 50, "p95": 95, "max": 100}

_WINDOWS = 100  # the largest number of windows while messages are sent
_MESSAGES = 3  # the mean number of messages in a window, if that leaves ten windows


@dataclass(frozen=True)
class TimeAxis:
    """The times to mark in a picture, in seconds from the run's start.

    `duration` is the end of sending, `end` the last arrival. `special` has the warm-up and the faults (since, until,
    name) in the order of time.
    """

    duration: float
    end: float
    special: tuple[tuple[float, float, str], ...] = ()
    recoveries: tuple[Recovery, ...] = ()

    @classmethod
    def of(cls, run: RunData) -> Self:
        duration = float(run.scenario.duration)
        last = [duration]
        for times in (run.integers("messages", "acked_at", -1), run.integers("deliveries", "delivered_at", -1)):
            last.append(float(times.max(initial=-1)) / 1e9)
        return cls(duration, max(last), tuple(_special(run)), tuple(recoveries(run)))


def _special(run: RunData) -> list[Fault]:
    warmup = run.scenario.warmup
    return sorted([*([(0.0, warmup, "warm-up")] if warmup else []), *faults_of(run)])


def windows(run: RunData, end: float) -> pd.DataFrame:
    """Return one row for each window of time up to `end`, with these columns.

    - `since`, `until`: seconds.
    - The names in `PERCENTS`: latencies (ms) of the deliveries whose wait began in the window: at the intended time or,
      if the device was offline, at its return. Infinite if they fall among messages that never arrived, null if there
      are none.
    - `offered`, `delivered`: messages per second, by the intended times and by the times at which they were shown. A
      message to several devices counts in equal parts.
    """
    import pandas as pd

    width = _width(run)
    edges = np.arange(0, end + width, width)

    waits = Waits.of(run)
    latencies = waits.ms
    window = np.searchsorted(edges, waits.since / 1e9, side="right") - 1
    order = np.lexsort((latencies, window))
    latencies = latencies[order]
    starts = np.searchsorted(window[order], np.arange(len(edges)))
    samples = [latencies[a:b] for a, b in pairwise(starts)]

    sent = run.integers("messages", "intended_at") / 1e9
    is_due = run.words("deliveries", "role").equal(Role.RECIPIENT) & run.words("deliveries", "outcome").equal(
        DeliveryOutcome.DELIVERED, DeliveryOutcome.LOST, DeliveryOutcome.SHED
    )
    _, message, sizes = np.unique(run.integers("deliveries", "intent")[is_due], return_inverse=True, return_counts=True)
    came = run.integers("deliveries", "delivered_at", NEVER)[is_due]
    has_come = came != NEVER
    return pd.DataFrame(
        {
            "since": edges[:-1],
            "until": edges[1:],
            **{
                name: [quantile(sample, percent) if len(sample) else np.nan for sample in samples]
                for name, percent in PERCENTS.items()
            },
            "offered": np.histogram(sent, edges)[0] / width,
            "delivered": np.histogram(came[has_come] / 1e9, edges, weights=1 / sizes[message[has_come]])[0] / width,
        }
    )


def _width(run: RunData) -> float:
    """Return the width of a window in seconds, a round number."""
    duration = run.scenario.duration
    fair = min(_MESSAGES / max(len(run.integers("messages", "intent")), 1), 0.1) * duration
    least = max(duration / _WINDOWS, fair)
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(power * step for step in (1, 2, 5, 10) if power * step >= least * (1 - 1e-9)))
