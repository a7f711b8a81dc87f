"""A picture of where the time of deliveries goes, as bars."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from imsim.analysis.plots.style import legend_below, ms, new_axes, titled

#: The stages in the order in which a message passes them: name, label and colour.
_STAGES = (
    ("left", "device offline by plan", "#CFCFCF"),
    ("disconnected", "not connected", "#8C8C8C"),
    ("retry", "sent or pushed again", "#000000"),
    ("uplink", "client link up", "#56B4E9"),
    ("link_queue", "behind other frames on a client link", "#2F4B7C"),
    ("retransmit", "lost on a link and resent", "#B10026"),
    ("gateway queue", "gateway: queue", "#E69F00"),
    ("gateway service", "gateway: service", "#F0C75E"),
    ("backend", "links between servers", "#CC79A7"),
    ("router queue", "router: queue", "#009E73"),
    ("router service", "router: service", "#7CCBB0"),
    ("storage queue", "storage: queue", "#D55E00"),
    ("storage service", "storage: service", "#F0996B"),
    ("commit", "storage: commit", "#A04600"),
    ("hold", "held: a turn, a stall, a gap", "#6A4C93"),
    ("downlink", "client link down", "#0072B2"),
)


_LEAST = 0.004  # the smallest share of a bar: a stage that is shorter in every bar is not drawn

_NAMES = {"middle_half": "middle half", "slowest_hundredth": "slowest 1 %"}


def breakdown(stages: pd.DataFrame, ax: Axes | None = None, *, title: str) -> Axes:
    """Draw stacked bars of where the time went: a bar for each row of `imsim.analysis.breakdown.stages`."""
    ax = new_axes() if ax is None else ax
    bars = list(stages.index)
    heights = list(range(len(bars)))[::-1]
    totals = stages.sum(axis=1)
    shares = stages.div(totals.clip(lower=1e-12), axis=0)
    left = np.zeros(len(bars))
    for stage, label, color in _STAGES:
        widths = shares[stage].to_numpy(float) if stage in shares else np.zeros(len(bars))
        if widths.max() >= _LEAST:
            ax.barh(heights, widths, left=left, color=color, label=label, height=0.62)
            left = left + widths
    rest = 1 - left
    if rest.max() > 1e-9:
        ax.barh(heights, rest, left=left, color="#eeeeee", label="other", height=0.62)
    for total, height in list(zip(totals, heights, strict=True))[::-1]:
        ax.text(1.01, height, ms(total), va="center", fontsize=9, color="#555555")
    ax.set_yticks(heights[::-1], labels=[_NAMES.get(bar, bar) for bar in bars[::-1]])
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_xlabel("share of the latency; the mean is on the right")
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    titled(ax, title)
    legend_below(ax)
    return ax
