"""Figures that are written to a file without pyplot. The file's suffix chooses the format (.png, .svg, .pdf).

All functions raise UsageError if matplotlib does not know the suffix, and UsageError or RunError if the file cannot be
written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imsim import disk
from imsim.analysis.plots.style import PAIR, SIZE, pair
from imsim.core.exceptions import UsageError

_WIDTH, _HEIGHT = 15.0, 6.0  # inches, for a row of two pictures

Pair = Callable[[tuple[Axes, Axes]], object]


def save(draw: Callable[[Axes], object], path: str | PathLike[str]) -> Path:
    """Write a figure with one axes."""
    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure.add_subplot())
    return _write(figure, path)


def save_pair(draw: Pair, path: str | PathLike[str]) -> Path:
    """Write a figure with two axes, one above the other."""
    figure = Figure(figsize=PAIR, layout="constrained")
    draw(pair(figure))
    return _write(figure, path)


def save_side_by_side(draw: Pair, path: str | PathLike[str]) -> Path:
    """Write a figure with two axes, side by side."""
    figure = Figure(figsize=(_WIDTH * 0.8, _HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw((left, right))
    return _write(figure, path)


def save_rows(rows: Sequence[tuple[Callable[[Axes], object], Pair]], path: str | PathLike[str]) -> Path:
    """Write a figure with rows: in each, one axes on the left, and a pair of axes on the right."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 2, squeeze=False, wspace=0.03, hspace=0.03)
    for (left, right), (draw, draw_pair) in zip(parts, rows, strict=True):
        draw(left.subplots())
        draw_pair(pair(right))
    return _write(figure, path)


def _write(figure: Figure, path: str | PathLike[str]) -> Path:
    picture = BytesIO()
    try:
        figure.savefig(picture, format=Path(path).suffix.removeprefix(".") or None, dpi=150)
    except (ValueError, TypeError) as error:
        raise UsageError(f"plot: cannot write {path}: {error}") from None
    return disk.write(path, picture.getvalue(), name="plot")
