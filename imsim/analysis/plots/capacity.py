"""How much load a design bears."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from imsim.analysis.latency import is_latency
from imsim.analysis.plots.style import COLORS, GREY, decorate, errors, log_latency, new_axes, titled


def capacity(
    frame: pd.DataFrame,
    over: str,
    metric: str,
    ax: Axes | None = None,
    *,
    budget: str,
    bound: float,
    bracket: tuple[float, float] | None,
    title: str,
) -> Axes:
    """The metric of a budget over the load, in a new pyplot figure or in `ax`.

    frame: a row for each load that was tried: the load, the metric with the ends of its interval (`ack.p99`,
        `ack.p99.low`, `ack.p99.high`), and what became of the `budget`, whose `bound` is drawn. bracket: the loads
        between which the capacity is.
    """
    ax = new_axes() if ax is None else ax
    drawn = frame.dropna(subset=[metric])
    colors = {"keeps": COLORS[2], "undecided": COLORS[4], "breaks": COLORS[1]}
    for verdict, color in colors.items():
        rows = drawn[drawn["budget"] == verdict]
        if len(rows):
            ax.errorbar(
                rows[over],
                rows[metric],
                yerr=errors(rows, metric),
                fmt="o",
                markersize=5,
                capsize=2,
                color=color,
                label=verdict,
            )
    ax.axhline(bound, color=GREY, linewidth=1, linestyle=":", label=budget)
    if bracket is not None:
        ax.axvspan(*bracket, color="#bbbbbb", alpha=0.5, linewidth=0, label="the capacity is in here")
    # What broke it at many times the load would press all else to the floor.
    if bound and len(drawn) and drawn[metric].max() > 5 * bound:
        ax.set_yscale("log")
        if is_latency(metric):
            highest = float(frame[[metric, f"{metric}.high"]].max().max())
            lowest = min(bound, float(drawn[metric].min()))
            log_latency(ax, "y", lowest / 1.5, highest * 1.3)
    else:
        ax.set_ylim(bottom=0)
    if frame[over].max() >= 10 * frame[over].min():
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    titled(ax, title)
    if len(drawn) < len(frame):
        ax.set_xlabel(f"{over}   ({len(frame) - len(drawn)} loads not drawn: {metric} is null there)")
    else:
        ax.set_xlabel(over)
    has_unit = is_latency(metric) and ax.get_yscale() == "linear"  # a logarithmic axis has it at each number
    ax.set_ylabel(f"{metric} (ms)" if has_unit else metric)
    decorate(ax)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=5, frameon=False, fontsize=9)
    return ax
