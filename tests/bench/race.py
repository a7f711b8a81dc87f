"""Ratios that mean something on a busy machine: both sides in turns in one process, by the CPU time that each took."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Row:
    """One measure against its goal. `unit`: what `value` is in ("x": a ratio)."""

    measure: str
    goal: str
    value: float
    unit: str
    meets: bool
    detail: str


#: What this session has measured, for the table at its end.
ROWS: list[Row] = []


def cpu(function: Callable[[], object]) -> float:
    """Seconds of CPU time that it takes. Starts with no garbage of others, whose collection would be charged to it."""
    gc.collect()
    before = time.process_time()
    function()
    return time.process_time() - before


def race(
    benchmark: Any, subject: Callable[[], float], reference: Callable[[], float], rounds: int = 5
) -> tuple[float, float]:
    """Medians of what the two return, taken in turns; once each where benchmarks are disabled."""
    times: list[tuple[float, float]] = []
    rounds = rounds if benchmark.enabled else 1
    benchmark.pedantic(lambda: times.append((subject(), reference())), rounds=rounds, iterations=1)
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return ours, theirs


def note(benchmark: Any, measure: str, value: float, unit: str, *, least: float = 0.0, most: float = 0.0, detail: str):
    """Put a measure into the table, and into pytest-benchmark's file. Nothing is asserted: a goal that another
    machine, or a busy one, misses is no failure."""
    if benchmark.enabled:
        goal = f">= {least:g}" if least else f"<= {most:g}"
        meets = value >= least if least else value <= most
        ROWS.append(Row(measure, goal, value, unit, meets, detail))
        benchmark.extra_info.update(measure=measure, goal=goal, value=value, unit=unit, detail=detail)
