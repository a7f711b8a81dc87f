"""Whole figures: what a command reports, in one file. Made without pyplot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imsim.analysis.plots.breakdown import breakdown
from imsim.analysis.plots.cdf import cdf
from imsim.analysis.plots.comparison import comparison
from imsim.analysis.plots.nodes import nodes
from imsim.analysis.plots.style import SIZE, pair, save
from imsim.analysis.plots.timeline import timeline

if TYPE_CHECKING:
    from imsim.analysis.comparison import Comparison
    from imsim.results import RunData

_WIDTH, _HEIGHT = 15.0, 6.0  # inches, of a row of two


def save_run(run: RunData, path: Path | str) -> Path:
    """Latencies, and how they and the load were over time; of a run with spans also where the time went and how busy
    the nodes were. Raises: UsageError if the file cannot be written."""
    has_spans = run.tables.spans is not None
    figure = Figure(figsize=(_WIDTH, _HEIGHT * (1 + has_spans)), layout="constrained")
    parts = figure.subfigures(1 + has_spans, 2, squeeze=False, wspace=0.03, hspace=0.03)
    cdf(run, parts[0, 0].subplots())
    timeline(run, pair(parts[0, 1]))
    if has_spans:
        breakdown(run, parts[1, 0].subplots())
        nodes(run, pair(parts[1, 1]))
    return save(figure, path)


def save_axes(draw: Callable[[Axes], object], path: Path | str) -> Path:
    """A picture of one axes. Raises: UsageError if the file cannot be written."""
    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure.add_subplot())
    return save(figure, path)


def save_comparison(found: Comparison, path: Path | str) -> Path:
    """Both designs. Raises: UsageError if the file cannot be written, or no latency was measured."""
    figure = Figure(figsize=(_WIDTH * 0.8, _HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    comparison(found, (left, right))
    return save(figure, path)
