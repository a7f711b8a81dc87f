"""A picture of the nodes over the time of a run: how busy they are, and how many jobs wait."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from imsim.analysis.plots.style import TIER_COLORS, busy_axis, decorate, legend_below, new_pair, over_time
from imsim.analysis.timeline import TimeAxis

_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_NAMED = 12  # if there are more nodes, the legend names tiers


def nodes(table: pd.DataFrame, time: TimeAxis, axes: Sequence[Axes] | None = None, *, title: str) -> tuple[Axes, Axes]:
    """Draw the busy share of each node's workers over time, above the mean number of waiting jobs.

    Crosses mark dropped jobs. A tier has a colour, and each of its nodes a shade and dashes.

    Args:
        table: the run's `nodes`.
        time: the times to mark.
        axes: two axes; None makes a new pyplot figure.
        title: the title of the picture.
    """
    upper, lower = new_pair() if axes is None else axes
    count = table["node"].nunique()
    for tier, of_tier in table.groupby("tier", sort=True):
        names = sorted(of_tier["node"].unique(), key=lambda name: int(name[len(str(tier)) :]))
        for number, name in enumerate(names):
            series = of_tier[of_tier["node"] == name]
            color = _shade(TIER_COLORS[str(tier)], number / len(names))
            label = name if count <= _NAMED else f"{tier} (each of {len(names)})" if number == 0 else None
            seconds = series["at"].to_numpy(float) / 1e9
            for ax, column in ((upper, "busy"), (lower, "queue")):
                ax.plot(
                    seconds,
                    series[column].to_numpy(float),
                    color=color,
                    linestyle=_DASHES[number % len(_DASHES)],
                    linewidth=1.4,
                    drawstyle="steps-post",
                    label=label if ax is upper else None,
                )
    dropped = table[table["drops"] > 0]
    if len(dropped):
        label = f"jobs were dropped ({dropped['drops'].sum():,} in all)"
        seconds = dropped["at"].to_numpy(float) / 1e9
        lower.plot(seconds, dropped["queue"], "x", color="#B10026", markersize=6, zorder=4, label=label)
    over_time((upper, lower), time, title)
    busy_axis(upper)
    lower.set_ylim(0, max(1.0, float(table["queue"].max()) * 1.08))
    lower.set_ylabel("jobs waiting")
    for ax in (upper, lower):
        decorate(ax)
    legend_below(lower, upper)
    return upper, lower


def _shade(color: str, share: float) -> tuple[float, ...]:
    """Return a lighter colour; a share of 1 is half way to white."""
    return tuple(part + (1 - part) * share / 2 for part in to_rgb(color))
