"""Ratios that hold on a busy machine: both sides run in turns in one process, and their CPU times are compared."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Row:
    """One measure and its goal. `unit` is the unit of `value`; "x" stands for a ratio."""

    measure: str
    goal: str
    value: float
    unit: str
    meets: bool
    detail: str


#: The measures of this test session, for the table at its end.
ROWS: list[Row] = []


def cpu(function: Callable[[], object]) -> float:
    """Return the seconds of CPU time that the function takes. Earlier garbage is collected first."""
    gc.collect()
    before = time.process_time()
    function()
    return time.process_time() - before


def race(
    benchmark: Any, subject: Callable[[], float], reference: Callable[[], float], rounds: int = 5
) -> tuple[float, float]:
    """Call both in turns, and return the median of each. Without benchmarks, call each once."""
    times: list[tuple[float, float]] = []
    rounds = rounds if benchmark.enabled else 1
    benchmark.pedantic(lambda: times.append((subject(), reference())), rounds=rounds, iterations=1)
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return ours, theirs


def note(benchmark: Any, measure: str, value: float, unit: str, *, least: float = 0.0, most: float = 0.0, detail: str):
    """Add a measure to the table and to pytest-benchmark's file.

    A missed goal does not fail the test, because a slower or busier machine may miss it.
    """
    if benchmark.enabled:
        goal = f">= {least:g}" if least else f"<= {most:g}"
        meets = value >= least if least else value <= most
        ROWS.append(Row(measure, goal, value, unit, meets, detail))
        benchmark.extra_info.update(measure=measure, goal=goal, value=value, unit=unit, detail=detail)
