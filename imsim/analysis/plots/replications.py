"""A picture of metrics over replications: the value of each run, and the mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from imsim.analysis.intervals import Estimate
from imsim.analysis.plots.style import COLORS, GREY, decorate, legend_below, log_latency, new_axes, titled

_SHORTEST_MS = 0.001


def replications(
    values: Mapping[str, Sequence[float]],
    estimates: Mapping[str, Estimate],
    ax: Axes | None = None,
    *,
    title: str,
) -> Axes:
    """Draw a row for each latency: a grey dot for each run, and the mean with its 95 % interval.

    values: in ms, by the metric's name: one for each run, infinite or nan if it is null. estimates: their means.
    """
    ax = new_axes() if ax is None else ax
    known = [value for row in values.values() for value in row if math.isfinite(value)]
    for row, (metric, of_runs) in enumerate(values.items()):
        finite = np.maximum([value for value in of_runs if math.isfinite(value)], _SHORTEST_MS)
        label = "a run" if not row else None
        ax.plot(finite, np.full(len(finite), row + 0.15), "o", color=GREY, alpha=0.35, markersize=3, label=label)
        found = estimates[metric]
        if found.value is None:
            text = f" null in {found.undefined} of {found.replications} runs"
            ax.annotate(text, (1, row - 0.2), xycoords=("axes fraction", "data"), ha="right", fontsize=8, color=GREY)
            continue
        ends = None
        if found.low is not None and found.high is not None:
            ends = [[found.value - max(found.low, _SHORTEST_MS)], [found.high - found.value]]
        label = "mean, 95 % interval" if not row else None
        ax.errorbar(
            found.value, row - 0.15, xerr=ends, fmt="D", markersize=4, capsize=2.5, elinewidth=1.4, color=COLORS[0],
            label=label,
        )  # fmt: skip
    ax.set_yticks(range(len(values)), labels=list(values))
    ax.set_ylim(len(values) - 0.5, -0.5)
    log_latency(ax, "x", max(min(known, default=1.0) / 1.4, _SHORTEST_MS), max(known, default=10.0) * 1.6)
    decorate(ax)
    legend_below(ax)
    titled(ax, title)
    return ax
