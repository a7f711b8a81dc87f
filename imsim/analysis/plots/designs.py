"""Pictures of designs: a metric over what was varied, and latency against cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from imsim.analysis.kinds import kind_of
from imsim.analysis.labels import short, text_of
from imsim.analysis.plots.style import COLORS, GREY, decorate, errors, from_zero, legend_below, new_axes, titled


def trend(
    frame: pd.DataFrame, x: str, y: str, hue: str | None, ax: Axes | None = None, *, title: str, labels: tuple[str, str]
) -> Axes:
    """Draw lines of the metric `y` over a column that was varied, in a new pyplot figure or in `ax`.

    frame: a row for each design, with the columns that were varied, and each metric with the ends of its interval
        (`ack.p99`, `ack.p99.low`, `ack.p99.high`).
    hue: another column that was varied, shown by colour. labels: the labels of both axes.
    """
    ax = new_axes() if ax is None else ax
    drawn = frame.dropna(subset=[y])
    groups = list(_groups(frame, drawn, hue))
    for number, (rows, color, label) in enumerate(groups):
        _line(ax, frame, rows, x, y, color, label, shift=(number - (len(groups) - 1) / 2) * 0.012)
    return _finished(ax, title, labels, y, len(frame) - len(drawn), len(frame))


def tradeoff(
    frame: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None,
    ax: Axes | None = None,
    *,
    title: str,
    labels: tuple[str, str],
    varied: Sequence[str],
    front: Sequence[int],
    ties: Sequence[int],
) -> Axes:
    """Draw a point for each design at two of its metrics, in a new pyplot figure or in `ax`.

    frame, hue, labels: as for `trend`. varied: the columns that name a design. front: the rows on the Pareto front,
        by ascending `x`. ties: the rows that cannot be distinguished from the front; their points are hollow.
    """
    ax = new_axes() if ax is None else ax
    drawn = frame.dropna(subset=[x, y])
    for rows, color, label in _groups(frame, drawn, hue):
        tied = rows.index.isin(ties)
        _points(ax, rows[~tied], x, y, color, label)
        _points(ax, rows[tied], x, y, color, None if len(rows[~tied]) else label, hollow=True)
    _front(ax, frame.loc[list(front)], x, y, varied)
    if ties:
        label = "may be as good as the front"
        ax.plot([], [], "o", markersize=5, markerfacecolor="white", color=GREY, label=label)
    return _finished(ax, title, labels, y, len(frame) - len(drawn), len(frame))


def _groups(
    frame: pd.DataFrame, drawn: pd.DataFrame, hue: str | None
) -> Iterator[tuple[pd.DataFrame, str, str | None]]:
    """Yield the rows of each value of `hue`, their colour and their label."""
    if hue is None:
        yield drawn, COLORS[0], None
        return
    for number, value in enumerate(frame[hue].unique()):
        is_base = pd.isna(value)  # a design without a value has that of the base
        rows = drawn[drawn[hue].isna() if is_base else drawn[hue] == value]
        label = f"{short(hue)} as in the base" if is_base else f"{short(hue)} = {text_of(value)}"
        yield rows, COLORS[number % len(COLORS)], label


def _finished(ax: Axes, title: str, labels: tuple[str, str], y: str, missing: int, count: int) -> Axes:
    if missing:
        title += f"\n{missing} of {count} designs are not drawn: their {y} is null, because deliveries never arrived"
    titled(ax, title)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    if ax.dataLim.y0 >= 0:
        from_zero(ax)
    if kind_of(y).unit == "share":
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    decorate(ax)
    if ax.get_legend_handles_labels()[1]:
        legend_below(ax)
    return ax


def _points(ax: Axes, rows: pd.DataFrame, x: str, y: str, color: str, label: str | None, hollow: bool = False) -> None:
    if rows.empty:
        return
    ax.errorbar(
        rows[x],
        rows[y],
        xerr=errors(rows, x),
        yerr=errors(rows, y),
        fmt="o",
        markersize=5,
        markerfacecolor="white" if hollow else color,
        elinewidth=1,
        capsize=2,
        color=color,
        label=label,
    )


def _front(ax: Axes, front: pd.DataFrame, x: str, y: str, varied: Sequence[str]) -> None:
    """Join the designs of the front, write a letter into each point, and name the letters in the legend, where no name
    covers another."""
    ax.plot(front[x], front[y], drawstyle="steps-post", color=GREY, linewidth=1, linestyle="--", label="Pareto front")
    for number, (_, row) in enumerate(front.iterrows()):
        letter = chr(ord("A") + number % 26)
        ax.plot(row[x], row[y], "o", markersize=13, color=GREY, zorder=3)
        ax.annotate(
            letter, (row[x], row[y]), ha="center", va="center_baseline", fontsize=9, fontweight="bold", color="white"
        )
        given = [column for column in varied if not pd.isna(row[column])]
        name = ", ".join(f"{short(column)} = {text_of(row[column])}" for column in given)
        ax.plot([], [], " ", label=f"{letter}: {name or 'the base'}")


def _line(
    ax: Axes, frame: pd.DataFrame, rows: pd.DataFrame, x: str, y: str, color: str, label: str | None, shift: float
) -> None:
    """Draw one line. `shift`: as a share of the axis, so that intervals at one value are side by side."""
    values = list(frame[x].unique())
    is_number = all(isinstance(value, int | float | np.number) for value in values)
    # Values that are not numbers are drawn side by side, in the order in which the user gave them.
    at = rows[x] if is_number else rows[x].map({value: number for number, value in enumerate(values)})
    ends = [float(value) for value in values] if is_number else [0.0, len(values) - 1.0]
    rows = rows.assign(at=at + shift * (max(ends) - min(ends))).sort_values("at")
    ax.errorbar(
        rows["at"],
        rows[y],
        yerr=errors(rows, y),
        fmt="o-",
        markersize=4,
        elinewidth=1,
        capsize=2,
        color=color,
        label=label,
    )
    if not is_number:
        ax.set_xticks(range(len(values)), labels=[text_of(value) for value in values])
    elif all(float(value).is_integer() for value in values) and len(values) <= 12:
        ax.set_xticks(sorted(values))
