"""How late messages are, and how many come and go, over the time of a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from imsim.analysis.latency import counted_deliveries, quantile
from imsim.analysis.plots.style import COLORS, decorate, end_of, legend_below, log_latency, new_pair, over_time
from imsim.results import DeliveryOutcome, Role, RunData

_WINDOWS = 100  # at most, while people send
_MESSAGES = 3  # in each, on average, if that leaves ten windows
_PERCENTS = (("p50", 50, COLORS[0]), ("p95", 95, COLORS[4]), ("max", 100, COLORS[1]))


def timeline(run: RunData, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
    """Two pictures over the time of the run, in a new pyplot figure or in two `axes`.

    Above, the delivery latency by window of time: p50, p95 and the largest, of what began to wait in it (at its
    intended time or, to a device that was away, at its return). A triangle: some of that never came. Below, messages a
    second: offered, by their intended times, and delivered, by when they were shown; of a message to many each device
    is a part. In the steady state both are equal; where the second stays below the first, the service does not keep up.
    """
    upper, lower = new_pair() if axes is None else axes
    width = _window(run)
    edges = np.arange(0, end_of(run) + width, width)
    shown = _latencies(upper, run, edges)
    over_time((upper, lower), run, f"Latency and load over time, {run.scenario.name}, seed {run.seed}")
    log_latency(upper, "y", shown.min() / 1.3, shown.max() * 1.5)
    upper.set_ylabel("delivery latency")

    sent = run.messages["intended_at"].to_numpy(np.float64) / 1e9
    due = run.deliveries[
        (run.deliveries["role"] == Role.RECIPIENT)
        & run.deliveries["outcome"].isin([DeliveryOutcome.DELIVERED, DeliveryOutcome.PENDING, DeliveryOutcome.SHED])
    ]
    parts = 1 / due.groupby("intent")["intent"].transform("size").to_numpy(np.float64)
    came = due["delivered_at"].to_numpy(np.float64, na_value=np.nan) / 1e9
    offered = np.histogram(sent, edges)[0] / width
    delivered = np.histogram(came[~np.isnan(came)], edges, weights=parts[~np.isnan(came)])[0] / width
    lower.stairs(offered, edges, fill=True, color="#cccccc", label="offered: intended")
    lower.stairs(delivered, edges, color=COLORS[2], linewidth=1.6, baseline=None, label="delivered")
    lower.set_ylim(0, max(float(offered.max()), float(delivered.max()), 1e-9) * 1.08)
    lower.set_ylabel("messages/s")
    for ax in (upper, lower):
        decorate(ax)
    lower.text(
        1, 1.02, f"in windows of {width:g} s", transform=lower.transAxes, ha="right", fontsize=8, color="#555555"
    )
    legend_below(lower, upper, gap=0.3)
    return upper, lower


def _window(run: RunData) -> float:
    """Its width in seconds, a round number."""
    duration = run.scenario.duration
    fair = min(_MESSAGES / max(len(run.messages), 1), 0.1) * duration
    least = max(duration / _WINDOWS, fair)
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(power * step for step in (1, 2, 5, 10) if power * step >= least * (1 - 1e-9)))


def _latencies(ax: Axes, run: RunData, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw them; all that are drawn, in ms."""
    rows = counted_deliveries(run)
    since = rows["since"].to_numpy(np.int64)
    late = (rows["delivered_at"] - rows["since"]).to_numpy(np.float64, na_value=np.inf) / 1e6
    window = np.searchsorted(edges, since / 1e9, side="right") - 1
    order = np.lexsort((late, window))
    starts = np.searchsorted(window[order], np.arange(len(edges)))
    samples = [late[order][a:b] for a, b in pairwise(starts)]
    middle = (edges[:-1] + edges[1:]) / 2
    found = [np.array([1.0])] if not len(late) else []
    for label, percent, color in _PERCENTS:
        values = np.array([quantile(sample, percent) if len(sample) else np.nan for sample in samples])
        values = np.where(np.isfinite(values), np.maximum(values, 0.001), np.nan)
        ax.plot(middle, values, ".-", color=color, linewidth=1.4, markersize=4, label=label)
        found.append(values[~np.isnan(values)])
    lost = [bool(len(sample)) and np.isinf(sample[-1]) for sample in samples]
    if any(lost):
        transform = ax.get_xaxis_transform()
        ax.plot(
            middle[lost], np.full(sum(lost), 0.97), "^", color="#B10026", transform=transform, label="some never came"
        )
    drawn = np.concatenate(found)
    return drawn if len(drawn) else np.array([1.0])
