"""A picture of the cumulative distribution of latencies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from imsim.analysis.latency import percentile
from imsim.analysis.plots.style import COLORS, GREY, decorate, legend_below, log_latency, ms, new_axes, titled

#: The dashes and the colour of each kind of latency, if there is one run.
STYLES = {
    "delivery": ("-", COLORS[0]),
    "delivery_push": ((0, (5, 1, 1, 1)), COLORS[5]),
    "delivery_sync": ((0, (5, 1, 1, 1, 1, 1)), COLORS[3]),
    "last": ((0, (1, 1)), COLORS[2]),
    "confirmed": ((0, (1, 2, 4, 2)), COLORS[4]),
    "ack": ((0, (4, 1.6)), COLORS[1]),
}
_NAMES = {"delivery_push": "delivery by push", "delivery_sync": "delivery by sync", "last": "last recipient"}
_GUIDES = (50, 99)
_SHORTEST_MS = 0.001  # a logarithmic axis has no zero
_POINTS = 1000  # points of a curve: more would be invisible, and would make an SVG of megabytes


def cdf(
    latencies: Mapping[str, Mapping[str, NDArray[np.float64]]],
    ax: Axes | None = None,
    *,
    title: str,
    since: str = "the intended time",
    points: int = _POINTS,
) -> Axes:
    """Draw the empirical distribution of latencies.

    Each curve is a share of all due messages, so messages that never arrived keep it below 100 %. Dots mark p50 and
    p99. The colour of a curve shows its kind if there is one run, and its run if there are several.

    Args:
        latencies: latencies in ms by the run's label, then by kind (`delivery`, `ack` ...): ascending, infinite for
            messages that never arrived.
        ax: the axes; None makes a new pyplot figure.
        title: the title of the picture.
        since: the time from which latencies count.
        points: the number of points of a curve.
    """
    ax = new_axes() if ax is None else ax
    right = _furthest([values for by_kind in latencies.values() for values in by_kind.values()])
    for number, (run, by_kind) in enumerate(latencies.items()):
        for kind, values in by_kind.items():
            style, color = STYLES[kind]
            color = color if len(latencies) == 1 else COLORS[number % len(COLORS)]
            name = _NAMES.get(kind, kind)
            label = f"{run}, {name}" if " " in run else f"{run} {name}"
            _curve(ax, values, right, points, label=label, color=color, style=style)
    log_latency(ax, "x", ax.dataLim.x0 / 1.2, right)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 0.99], labels=["0", "25 %", "50 %", "75 %", "99 %"])
    ax.set_xlabel(f"latency since {since}")
    ax.set_ylabel("share of all due messages")
    for percent in _GUIDES:
        ax.axhline(percent / 100, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    decorate(ax)
    legend_below(ax)
    titled(ax, title)
    return ax


def _curve(
    ax: Axes, values: NDArray[np.float64], right: float, points: int, *, label: str, color: str, style: object
) -> None:
    shown = np.maximum(values[np.isfinite(values)], _SHORTEST_MS)
    ranks = _ranks(len(shown), points)
    share = ranks / max(len(values), 1)
    # The curve starts from 0 at the smallest latency, and continues at its final height to the right edge.
    x = np.concatenate([shown[:1], shown[ranks - 1], [right]])
    y = np.concatenate([[0.0] if len(shown) else [], share, share[-1:] if len(shown) else [0.0]])
    ax.plot(
        x,
        y,
        drawstyle="steps-post",
        color=color,
        linestyle=style,
        linewidth=1.8,
        label=f"{label}: {_legend(values)}",
    )
    for percent in _GUIDES:
        value = percentile(values, percent)
        if value is not None:
            ax.plot(max(value, _SHORTEST_MS), percent / 100, "o", color=color, markersize=4.5, zorder=4)


def _ranks(count: int, points: int) -> NDArray[np.int64]:
    """Return about `points` ranks (1-based) of a sample: evenly spread, and each of the slowest ones."""
    spread = np.linspace(1, count, min(count, points)).round().astype(np.int64)
    return np.union1d(spread, np.arange(max(count - points // 10, 0), count) + 1)


def _furthest(samples: list[NDArray[np.float64]]) -> float:
    """Return the right edge of the picture: a little beyond the largest finite latency, in ms."""
    finite = np.concatenate([np.array([_SHORTEST_MS]), *(values[np.isfinite(values)] for values in samples)])
    return float(finite.max()) * 1.6


def _legend(values: NDArray[np.float64]) -> str:
    if not len(values):
        return "no messages"
    text = ", ".join(f"p{percent} {ms(percentile(values, percent))}" for percent in _GUIDES)
    missing = np.count_nonzero(np.isinf(values))
    return text + (f" ({missing:,} of {len(values):,} never)" if missing else "")
