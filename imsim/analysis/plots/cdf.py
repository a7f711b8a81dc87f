"""Latencies as shares of all that were due."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from imsim.analysis.latency import percentile
from imsim.analysis.plots.style import COLORS, GREY, decorate, legend_below, log_latency, ms, new_axes, titled

_STYLES = {
    "delivery": ("-", COLORS[0]),
    "delivery by push": ((0, (5, 1, 1, 1)), COLORS[5]),
    "delivery by sync": ((0, (5, 1, 1, 1, 1, 1)), COLORS[3]),
    "last recipient": ((0, (1, 1)), COLORS[2]),
    "confirmed": ((0, (1, 2, 4, 2)), COLORS[4]),
    "ack": ((0, (4, 1.6)), COLORS[1]),
}
_GUIDES = (50, 99)
_SHORTEST_MS = 0.001  # a logarithmic axis has no zero
_POINTS = 1000  # of a curve: more cannot be seen, and would make an SVG of megabytes


def cdf(
    latencies: Mapping[str, Mapping[str, NDArray[np.float64]]],
    ax: Axes | None = None,
    *,
    title: str,
    since: str = "the intended time",
) -> Axes:
    """Empirical distribution of latencies, in a new pyplot figure or in `ax`.

    latencies: by the run's label, then by what they are of (`delivery`, `ack` ...): ms, ascending, infinite for what
        never came. Of one run the colour shows what a curve is of, of several the run.
    since: what latencies count from.

    Each curve is a share of all that were due: what never came keeps it below 100 %. Dots stand at p50 and p99.
    """
    ax = new_axes() if ax is None else ax
    right = _furthest([values for by_kind in latencies.values() for values in by_kind.values()])
    for number, (run, by_kind) in enumerate(latencies.items()):
        for kind, values in by_kind.items():
            style, color = _STYLES[kind]
            color = color if len(latencies) == 1 else COLORS[number % len(COLORS)]
            _curve(
                ax, values, right, label=f"{run}, {kind}" if " " in run else f"{run} {kind}", color=color, style=style
            )
    log_latency(ax, "x", ax.dataLim.x0 / 1.2, right)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 0.99], labels=["0", "25 %", "50 %", "75 %", "99 %"])
    ax.set_xlabel(f"latency since {since}")
    ax.set_ylabel("share of all that were due")
    for percent in _GUIDES:
        ax.axhline(percent / 100, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    decorate(ax)
    legend_below(ax)
    titled(ax, title)
    return ax


def _curve(ax: Axes, values: NDArray[np.float64], right: float, *, label: str, color: str, style: object) -> None:
    shown = np.maximum(values[np.isfinite(values)], _SHORTEST_MS)
    ranks = _ranks(len(shown))
    share = ranks / max(len(values), 1)
    # From 0 at the smallest latency, and on to the right edge at the height where it ends.
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


def _ranks(count: int) -> NDArray[np.int64]:
    """At most some _POINTS ranks (1-based) of a sample: evenly spread, and each of the slowest."""
    spread = np.linspace(1, count, min(count, _POINTS)).round().astype(np.int64)
    return np.union1d(spread, np.arange(max(count - 100, 0), count) + 1)


def _furthest(samples: list[NDArray[np.float64]]) -> float:
    """The right edge of the picture: a little beyond the largest finite latency, in ms."""
    finite = np.concatenate([np.array([_SHORTEST_MS]), *(values[np.isfinite(values)] for values in samples)])
    return float(finite.max()) * 1.6


def _legend(values: NDArray[np.float64]) -> str:
    if not len(values):
        return "none due"
    text = ", ".join(f"p{percent} {ms(percentile(values, percent))}" for percent in _GUIDES)
    missing = np.count_nonzero(np.isinf(values))
    return text + (f" ({missing:,} of {len(values):,} never)" if missing else "")
