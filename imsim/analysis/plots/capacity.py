"""The picture of a capacity: a budget's metric and the utilisation of each tier, over the load."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from imsim.analysis.kinds import axis_label, kind_of
from imsim.analysis.plots.style import (
    COLORS,
    GREY,
    TIER_COLORS,
    busy_axis,
    decorate,
    errors,
    from_zero,
    legend_below,
    log_latency,
    new_pair,
    titled,
)


def capacity(
    frame: pd.DataFrame,
    over: str,
    metric: str,
    axes: Sequence[Axes] | None = None,
    *,
    budget: str,
    bound: float,
    bracket: tuple[float | None, float | None],
    title: str,
    currency: str = "",
) -> tuple[Axes, Axes]:
    """Draw two pictures over the load, in a new pyplot figure or in two `axes`.

    The upper one shows the metric of a budget, the lower one the utilisation of the busiest node of each tier. A line
    in both marks the lowest load that breaks the budget.

    frame: a row for each load that was tried, with the load, the metric and the ends of its interval (`ack.p99`,
        `ack.p99.low`, `ack.p99.high`), the verdict (`budget`), and the `utilisation.` of each tier.
    over: the load's column. budget, bound: the text and the bound of the budget. bracket: the loads between which the
        capacity is, each None if it was not found.
    """
    upper, lower = new_pair() if axes is None else axes
    drawn = frame.dropna(subset=[metric])
    upper.plot(drawn[over], drawn[metric], color="#999999", linewidth=1.2, zorder=1)
    colors = {"keeps": COLORS[2], "undecided": COLORS[4], "breaks": COLORS[1]}
    for verdict, color in colors.items():
        rows = drawn[drawn["budget"] == verdict]
        if len(rows):
            upper.errorbar(
                rows[over],
                rows[metric],
                yerr=errors(rows, metric),
                fmt="o",
                markersize=5,
                capsize=2,
                color=color,
                label=verdict,
            )
    upper.axhline(bound, color=GREY, linewidth=1, linestyle=":", label=budget)
    highest = float(frame[[metric, f"{metric}.high"]].max().max())
    limit_metric(upper, drawn, metric, bound, highest)
    for tier, color in TIER_COLORS.items():
        busy = frame.dropna(subset=[f"utilisation.{tier}"])
        lower.plot(busy[over], busy[f"utilisation.{tier}"], ".-", color=color, linewidth=1.4, label=tier)
    busy_axis(lower)
    keeps, breaks = bracket
    for ax in (upper, lower):
        if keeps is not None and breaks is not None:
            label = "the capacity is in here" if ax is upper else None
            ax.axvspan(keeps, breaks, color="#bbbbbb", alpha=0.5, linewidth=0, zorder=0, label=label)
        if breaks is not None:
            label = "breaks from here on" if ax is upper else None
            ax.axvline(breaks, color=COLORS[1], linewidth=1.4, linestyle="--", zorder=0, label=label)
        decorate(ax)
    load_axis(lower, frame[over].min(), frame[over].max())
    upper.tick_params(labelbottom=False)
    titled(upper, title)
    if len(drawn) < len(frame):
        lower.set_xlabel(f"{over}   ({len(frame) - len(drawn)} loads not drawn above: {metric} is null there)")
    else:
        lower.set_xlabel(over)
    if kind_of(metric).unit == "share":
        upper.yaxis.set_major_formatter(PercentFormatter(1))
    # A logarithmic axis has the unit at each number.
    upper.set_ylabel(axis_label(metric, currency) if upper.get_yscale() == "linear" else metric)
    legend_below(lower, upper)
    return upper, lower


def load_axis(ax: Axes, lowest: float, highest: float) -> None:
    """Make the x axis logarithmic if the loads differ by a factor of ten or more. Axes that share it change, too."""
    if highest >= 10 * lowest:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())


def limit_metric(ax: Axes, drawn: pd.DataFrame, metric: str, bound: float, highest: float) -> None:
    """Limit the y axis. It is logarithmic if some load breaks the budget by far, as all other loads would be at the
    bottom of a linear axis. highest: the highest number that is drawn, with the ends of intervals."""
    if not bound or not len(drawn) or drawn[metric].max() <= 5 * bound:
        from_zero(ax, bound)
        return
    ax.set_yscale("log")
    if kind_of(metric).unit == "ms":
        log_latency(ax, "y", min(bound, float(drawn[metric].min())) / 1.5, highest * 1.3)
