"""Pictures of many distributions in little space: their curves with few points, their tails, their percentiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from imsim.analysis.plots.style import COLORS, GREY, decorate, legend_below, log_latency, new_axes, titled

_SHORTEST_MS = 0.001  # a logarithmic axis has no zero
_POINTS = 60  # of the curve, and again of its tail
_MARKS = {"p50": "o", "p95": "s", "p99": "D", "max": "|"}


@dataclass(frozen=True)
class Curve:
    """A distribution of latencies, at a few of its points.

    name: the entry of the legend. ms: ascending. rank: of each point, from 1. count: of all latencies, with those of
    messages that never arrived. is_doubtful: the line is dotted. color, dash: of the line; without a colour, curves
    with the same name have the same one.
    """

    name: str
    ms: NDArray[np.float64]
    rank: NDArray[np.int64]
    count: int
    is_doubtful: bool = False
    color: str = ""
    dash: object = "-"

    @classmethod
    def of(cls, values: NDArray[np.float64], name: str, is_doubtful: bool = False) -> Curve:
        """Return the curve of latencies in ms, ascending; infinite ones at the end."""
        finite = int(np.searchsorted(values, np.inf))
        spread = np.linspace(1, finite, min(finite, _POINTS))
        tail = finite + 1 - np.geomspace(1, max(finite, 1), min(finite, _POINTS))
        rank = np.unique(np.concatenate([spread, tail]).round().astype(np.int64))
        return cls(name, np.maximum(values[rank - 1], _SHORTEST_MS), rank, len(values), is_doubtful)


def shares(curves: Sequence[Curve], ax: Axes | None = None, *, title: str) -> Axes:
    """Draw the cumulative distribution of each curve."""
    ax = new_axes() if ax is None else ax
    for curve, style in _styled(curves):
        ax.plot(curve.ms, curve.rank / max(curve.count, 1), **style)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 0.99], labels=["0", "25 %", "50 %", "75 %", "99 %"])
    ax.set_ylabel("share of all due messages")
    return _finished(ax, curves, title)


def tail(curves: Sequence[Curve], ax: Axes | None = None, *, title: str) -> Axes:
    """Draw the share of messages that take at least as long as each latency, on logarithmic axes.

    A curve that ends above the bottom has messages that never arrived: a horizontal line shows their share.
    """
    ax = new_axes() if ax is None else ax
    right = _right(curves)
    lowest = 1.0
    for curve, style in _styled(curves):
        if not curve.count:
            continue
        finite = int(curve.rank[-1]) if len(curve.rank) else 0
        lost = curve.count - finite
        share = (curve.count + 1 - curve.rank) / curve.count
        x = np.concatenate([curve.ms, [right] if lost else []])
        y = np.concatenate([share, [lost / curve.count] if lost else []])
        lowest = min(lowest, float(y.min()))
        ax.plot(x, y, **style)
    ax.set_yscale("log")
    ax.set_ylim(min(lowest, 0.01) / 1.5, 1.3)
    ax.yaxis.set_major_locator(LogLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel("share that takes longer")
    ax.axhline(0.01, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    return _finished(ax, curves, title)


def percentiles(rows: Sequence[tuple[str, Mapping[str, float | None], str]], ax: Axes, *, title: str) -> Axes:
    """Draw a row for each run, with its percentiles as marks on an axis of latencies.

    rows: the label of each run, its statistics in ms by the names of `_MARKS` (None if null), and its colour's name.
    """
    colors = _colors([row[2] for row in rows])
    known = [value for _, values, _ in rows for value in values.values() if value is not None]
    low, high = max(min(known, default=1.0), _SHORTEST_MS), max(known, default=10.0)
    for row, (_, values, name) in enumerate(rows):
        found = {what: value for what, value in values.items() if value is not None and what in _MARKS}
        if found:
            ax.plot([max(min(found.values()), _SHORTEST_MS), max(found.values())], [row, row], color="#bbbbbb", lw=0.8)
        for what, value in found.items():
            filled = what in ("p99", "max")
            ax.plot(
                max(value, _SHORTEST_MS),
                row,
                _MARKS[what],
                color=colors[name],
                markerfacecolor=colors[name] if filled else "white",
                markersize=4.5,
                label=f"{what}" if row == 0 and len(colors) == 1 else None,
            )
        if len(found) < len(values):
            label = "a percentile is null: deliveries never arrived"
            first = label not in ax.get_legend_handles_labels()[1]
            ax.plot(high * 1.5, row, ">", color="#B10026", markersize=4.5, label=label if first else None)
    if len(colors) > 1:
        for name, color in colors.items():
            ax.plot([], [], "D", color=color, markersize=4.5, label=name)
    step = max(1, len(rows) // 40)
    ax.set_yticks(range(0, len(rows), step), labels=[row[0] for row in rows[::step]], fontsize=8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    log_latency(ax, "x", low / 1.4, high * 1.8)
    decorate(ax)
    legend_below(ax)
    titled(ax, title)
    return ax


def courses(
    lines: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]], ax: Axes, *, title: str, what: str
) -> Axes:
    """Draw a latency over the time of each run: its name, the middles of its windows (s), and the latencies (ms).

    A window without a latency, or whose latency is infinite, is left out.
    """
    colors = _colors([name for name, _, _ in lines])
    seen: set[str] = set()
    drawn = [math.inf, _SHORTEST_MS]
    for name, at, ms in lines:
        values = np.where(np.isfinite(ms), np.maximum(ms, _SHORTEST_MS), np.nan)
        if not np.isnan(values).all():
            drawn = [min(drawn[0], float(np.nanmin(values))), max(drawn[1], float(np.nanmax(values)))]
        ax.plot(at, values, color=colors[name], label=None if name in seen else name,
                linewidth=1.4 if len(lines) <= 6 else 0.7, alpha=1 if len(lines) <= 6 else 0.6)  # fmt: skip
        seen.add(name)
    log_latency(ax, "y", min(drawn) / 1.3, drawn[1] * 1.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("seconds from the start")
    ax.set_ylabel(what)
    decorate(ax)
    if len(colors) > 1:
        legend_below(ax)
    titled(ax, title)
    return ax


def _colors(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name. Many names get a gradient in their order, which may be that of a load."""
    different = list(dict.fromkeys(names))
    if len(different) <= len(COLORS):
        return dict(zip(different, COLORS, strict=False))
    gradient = LinearSegmentedColormap.from_list("order", ["#2b83cc", "#8a5fc7", "#d4447c", "#d55e00"])
    return {name: to_hex(gradient(number / (len(different) - 1))) for number, name in enumerate(different)}


def _styled(curves: Sequence[Curve]) -> list[tuple[Curve, dict[str, Any]]]:
    """Return how each curve is drawn: a colour for each name, and thin lines if there are many."""
    colors = _colors([curve.name for curve in curves])
    seen: set[str] = set()
    found = []
    for curve in curves:
        style: dict[str, Any] = {
            "color": curve.color or colors[curve.name],
            "linewidth": 1.6 if len(curves) <= 6 else 0.7,
            "alpha": 1.0 if len(curves) <= 6 else 0.6,
            "linestyle": ":" if curve.is_doubtful else curve.dash,
            "label": None if curve.name in seen else curve.name,
        }
        seen.add(curve.name)
        found.append((curve, style))
    return found


def _right(curves: Sequence[Curve]) -> float:
    return max((float(curve.ms[-1]) for curve in curves if len(curve.ms)), default=1.0) * 1.6


def _finished(ax: Axes, curves: Sequence[Curve], title: str) -> Axes:
    left = min((float(curve.ms[0]) for curve in curves if len(curve.ms)), default=_SHORTEST_MS)
    log_latency(ax, "x", left / 1.2, _right(curves))
    ax.set_xlabel("latency since the intended time")
    decorate(ax)
    if len({curve.name for curve in curves}) > 1:
        legend_below(ax)
    titled(ax, title)
    return ax
