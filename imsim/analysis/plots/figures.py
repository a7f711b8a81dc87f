"""Whole figures, written to a file without pyplot. The suffix of the file chooses the format (.png, .svg, .pdf).

All raise UsageError if the file cannot be written, or for a suffix that matplotlib does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imsim.analysis.plots.style import PAIR, SIZE, pair
from imsim.core.exceptions import UsageError

_WIDTH, _HEIGHT = 15.0, 6.0  # inches, of a row of two

Pair = Callable[[tuple[Axes, Axes]], object]


def save(draw: Callable[[Axes], object], path: Path | str) -> Path:
    """A picture of one axes."""
    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure.add_subplot())
    return _write(figure, path)


def save_pair(draw: Pair, path: Path | str) -> Path:
    """A picture of two axes, one above the other."""
    figure = Figure(figsize=PAIR, layout="constrained")
    draw(pair(figure))
    return _write(figure, path)


def save_side_by_side(draw: Pair, path: Path | str) -> Path:
    """A picture of two axes, side by side."""
    figure = Figure(figsize=(_WIDTH * 0.8, _HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw((left, right))
    return _write(figure, path)


def save_rows(rows: Sequence[tuple[Callable[[Axes], object], Pair]], path: Path | str) -> Path:
    """Rows of a picture of one axes, and one of two, one above the other over the same time."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 2, squeeze=False, wspace=0.03, hspace=0.03)
    for (left, right), (draw, draw_pair) in zip(parts, rows, strict=True):
        draw(left.subplots())
        draw_pair(pair(right))
    return _write(figure, path)


def _write(figure: Figure, path: Path | str) -> Path:
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"plot: cannot write {path}: {error}") from None
    return Path(path)
