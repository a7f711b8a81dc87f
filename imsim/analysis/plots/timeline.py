"""A picture of latencies and of the number of messages over the time of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from imsim.analysis.plots.style import COLORS, RECOVERY, decorate, legend_below, log_latency, new_pair, over_time
from imsim.analysis.timeline import PERCENTS, TimeAxis

_COLORS = dict(zip(PERCENTS, (COLORS[0], COLORS[4], COLORS[1]), strict=True))


def timeline(
    windows: pd.DataFrame, time: TimeAxis, axes: Sequence[Axes] | None = None, *, title: str
) -> tuple[Axes, Axes]:
    """Draw delivery latencies over time, above the offered and delivered messages per second.

    The latencies are p50, p95 and the largest of each window. A triangle marks a window in which messages never
    arrived. From a fault to the recovery, a line shows the limit of p95. In a steady state the offered and the
    delivered messages are equal; if fewer are delivered, the service does not keep up.

    Args:
        windows: the frame that `imsim.analysis.timeline.windows` returns.
        time: the times to mark.
        axes: two axes; None makes a new pyplot figure.
        title: the title of the picture.
    """
    upper, lower = new_pair() if axes is None else axes
    edges = np.append(windows["since"].to_numpy(np.float64), windows["until"].to_numpy(np.float64)[-1:])
    drawn = _latencies(upper, windows)
    for number, one in enumerate(one for one in time.recoveries if one.time > 0):
        label = None if number else "limit of p95 for recovery"
        back = min(one.recovered_at, time.duration)
        upper.plot((one.at, back), (one.limit, one.limit), "--", color=RECOVERY, linewidth=1.8, label=label)
    over_time((upper, lower), time, title)
    log_latency(upper, "y", drawn.min() / 1.3, drawn.max() * 1.5)
    upper.set_ylabel("delivery latency")

    offered, delivered = (windows[name].to_numpy(np.float64) for name in ("offered", "delivered"))
    lower.stairs(offered, edges, fill=True, color="#cccccc", label="offered (intended)")
    lower.stairs(delivered, edges, color=COLORS[2], linewidth=1.6, baseline=None, label="delivered")
    lower.set_ylim(0, max(float(offered.max()), float(delivered.max()), 1e-9) * 1.08)
    lower.set_ylabel("messages/s")
    for ax in (upper, lower):
        decorate(ax)
    width = f"in windows of {edges[1] - edges[0]:g} s"
    lower.text(1, 1.02, width, transform=lower.transAxes, ha="right", fontsize=8, color="#555555")
    legend_below(lower, upper)
    return upper, lower


def _latencies(ax: Axes, windows: pd.DataFrame) -> np.ndarray:
    """Draw the latencies, and return all drawn values in ms."""
    middle = ((windows["since"] + windows["until"]) / 2).to_numpy(np.float64)
    found = []
    for label, color in _COLORS.items():
        values = windows[label].to_numpy(np.float64)
        values = np.where(np.isfinite(values), np.maximum(values, 0.001), np.nan)
        ax.plot(middle, values, ".-", color=color, linewidth=1.4, markersize=4, label=label)
        found.append(values[~np.isnan(values)])
    lost = np.isinf(windows["max"].to_numpy(np.float64))
    if lost.any():
        high = np.full(lost.sum(), 0.97)
        transform = ax.get_xaxis_transform()
        ax.plot(middle[lost], high, "^", color="#B10026", transform=transform, label="some never arrived")
    drawn = np.concatenate(found)
    return drawn if len(drawn) else np.array([1.0])
