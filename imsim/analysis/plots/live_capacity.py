"""The picture of a server's capacity: every run's metric over the load, and the part of the load generator in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from imsim.analysis.kinds import axis_label, kind_of
from imsim.analysis.plots.capacity import limit_metric, load_axis
from imsim.analysis.plots.style import COLORS, GREY, decorate, legend_below, new_pair, titled

_COLORS = {"keeps": COLORS[2], "undecided": COLORS[4], "breaks": COLORS[1]}
_SHARE = 0.25  # as in imsim.load.health: beyond it, a run is not valid


def live_capacity(
    runs: pd.DataFrame,
    over: str,
    metric: str,
    axes: Sequence[Axes] | None = None,
    *,
    budget: str,
    bound: float,
    bracket: tuple[float | None, float | None],
    gave_way: str | None,
    title: str,
) -> tuple[Axes, Axes]:
    """Draw two pictures over the load, in a new pyplot figure or in two `axes`.

    The upper one shows the metric of a budget in each run, the lower one the health of the load generator: its delays
    as a share of p99, and its CPU.

    runs: a row for each run with the load, the metric, `valid`, the verdict on its load (`budget`), `delivery.p99`,
        `generator.p99` and `generator.cpu`.
    bracket: the loads between which the capacity is, each None if it was not found. gave_way: "server", "generator" or
        None, at the upper one. If it is the generator, the capacity is anywhere above the lower one.
    """
    upper, lower = new_pair() if axes is None else axes
    drawn = runs.dropna(subset=[metric])
    judged = drawn[drawn["valid"]]
    decided = judged[judged["budget"] != "spoilt"]
    if len(decided):
        middle = decided.groupby(over)[metric].median()
        upper.plot(middle.index, middle, color="#999999", linewidth=1.2, zorder=1, label="median of the runs")
    verdicts = runs["budget"].replace("spoilt", "undecided")  # of the few runs at such a load that were judged
    for verdict, color in _COLORS.items():
        rows = judged[verdicts[judged.index] == verdict]
        if len(rows):
            upper.plot(rows[over], rows[metric], "o", markersize=5, color=color, alpha=0.8, label=verdict)
    spoilt = drawn[~drawn["valid"]]
    if len(spoilt):
        label = "spoilt by the generator or other programs"
        upper.plot(spoilt[over], spoilt[metric], "x", markersize=6, color=GREY, label=label)
    upper.axhline(bound, color=GREY, linewidth=1, linestyle=":", label=budget)
    limit_metric(upper, drawn, metric, bound, float(drawn[metric].max()))
    missing = runs[runs[metric].isna()]
    if len(missing):
        top = [upper.get_ylim()[1]] * len(missing)
        colors = [_COLORS[verdict] for verdict in verdicts[missing.index]]
        label = f"{metric} is null (among lost messages, or a failed run)"
        upper.scatter(missing[over], top, marker="^", color=colors, clip_on=False, zorder=3, label=label)

    share = runs["generator.p99"] / runs["delivery.p99"]
    lower.plot(runs[over], np.minimum(share, 1), "o", markersize=4, color=COLORS[3], label="generator's part of p99")
    lower.plot(runs[over], runs["generator.cpu"], ".", color=COLORS[0], label="generator's CPU (of a core)")
    label = f"{_SHARE:.0%}: more can spoil a run that breaks the budget"
    lower.axhline(_SHARE, color=COLORS[3], linewidth=1, linestyle=":", label=label)
    lower.set_ylim(0, 1.05)
    lower.yaxis.set_major_formatter(PercentFormatter(1))
    lower.set_ylabel("generator")

    for ax in (upper, lower):
        decorate(ax)
    load_axis(lower, float(runs[over].min()), float(runs[over].max()))
    keeps, end = bracket
    if keeps is not None and end is not None:
        is_found = gave_way == "server"
        text = f"the capacity: {keeps:.4g} to {end:.4g}" if is_found else f"the capacity is above {keeps:.4g}"
        left, right = lower.get_xlim()
        for ax in (upper, lower):
            band = ax.axvspan(keeps, end if is_found else right, color="#bbbbbb", alpha=0.5, linewidth=0, zorder=0)
            band.set_label(text if ax is upper else "_")
            ax.set_xlim(left, right)
    upper.tick_params(labelbottom=False)
    titled(upper, title)
    lower.set_xlabel(over)
    if kind_of(metric).unit == "share":
        upper.yaxis.set_major_formatter(PercentFormatter(1))
    upper.set_ylabel(axis_label(metric, "") if upper.get_yscale() == "linear" else metric)
    legend_below(lower, upper)
    return upper, lower
