"""The common style of all pictures: sizes, colours, axes of latencies and of time, shaded times, legends."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from imsim.analysis.timeline import TimeAxis

SIZE = (8.0, 4.8)  # inches
PAIR = (SIZE[0], 5.6)
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)  # Okabe and Ito's: safe for the colour-blind
GREY = "#555555"
RECOVERY = COLORS[3]
TIER_COLORS = {"gateway": "#E69F00", "router": "#009E73", "storage": "#D55E00"}
_SHADE = "#bbbbbb"
_LABEL = 8  # points
_ROW = _LABEL + 3
_LEGEND = 9
_TITLE = 11
_MARGIN = 70  # points left of the axes, roughly


def new_axes() -> Axes:
    """Return axes in a new pyplot figure."""
    from matplotlib import pyplot as plt

    _, ax = plt.subplots(figsize=SIZE, layout="constrained")
    return ax


def new_pair() -> tuple[Axes, Axes]:
    """Return two axes, one above the other over the same x axis, in a new pyplot figure."""
    from matplotlib import pyplot as plt

    return pair(plt.figure(figsize=PAIR, layout="constrained"))


def pair(figure: Figure) -> tuple[Axes, Axes]:
    """Return two axes of a figure, one above the other over the same x axis."""
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    return upper, lower


def errors(rows: pd.DataFrame, metric: str) -> np.ndarray | None:
    """Return the distances of a metric from the ends of its interval; None without an interval."""
    low, high = rows[f"{metric}.low"], rows[f"{metric}.high"]
    if low.isna().any():
        return None
    return np.array([rows[metric] - low, high - rows[metric]])


def titled(ax: Axes, title: str, pad: float | None = None) -> None:
    """Set the title above the axes, at the left, and wrap its lines to the width of the figure."""
    room = int((ax.figure.bbox.width * 72 / ax.figure.dpi - _MARGIN) / (_TITLE * 0.53))
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, room)]
    ax.set_title("\n".join(lines), loc="left", fontsize=_TITLE, pad=pad)


def decorate(ax: Axes) -> None:
    """Add a light grid, and remove the upper and the right edge."""
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def ms(value: float | None) -> str:
    """Return a latency as a text of three digits with its unit."""
    return "never" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def log_latency(ax: Axes, which: str, low: float, high: float) -> None:
    """Make the axis "x" or "y" a logarithmic axis of latencies in ms from `low` to `high`.

    It spans at least a decade; otherwise it would have no numbers.
    """
    low = min(low, high / 10)
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    (ax.set_xlim if which == "x" else ax.set_ylim)(low, high)
    # If there are few decades, there is room for numbers between the powers of ten.
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1e3 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s"))
    axis.set_minor_formatter(NullFormatter())


def busy_axis(ax: Axes) -> None:
    """Make the y axis show shares of the workers' time from 0 to 100 %, so that an idle system looks idle."""
    ax.set_ylim(0, 1.05)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25 %", "50 %", "75 %", "100 %"])
    ax.set_ylabel("workers busy")


def over_time(axes: tuple[Axes, Axes], time: TimeAxis, title: str) -> None:
    """Prepare the time axes of two pictures, one above the other.

    The warm-up and the faults are shaded, and recoveries are marked. Their names are above the axes, where they cover
    no curve.
    """
    upper, lower = axes
    end = time.end * 1.01
    for ax in axes:
        for since, until, _ in time.special:
            ax.axvspan(since, until, color=_SHADE, alpha=0.35, linewidth=0, zorder=0)
            ax.axvline(since, color="#888888", linewidth=0.8, zorder=0)
        for one in time.recoveries:
            if 0 < one.time < math.inf:
                ax.axvline(one.recovered_at, color=RECOVERY, linewidth=1.2, linestyle="--", zorder=1)
        ax.axvline(time.duration, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        ax.set_xlim(0, end)
    names = [(since, name) for since, _, name in time.special]
    for one in time.recoveries:
        if one.time > 0:  # without a recovery, the name is at the end of the run's duration
            name = one.outcome if len(time.recoveries) == 1 else f"{one.name}: {one.outcome}"
            names.append((min(one.recovered_at, time.duration), name))
    rows = _labels(upper, sorted([*names, (time.duration, "end of sending")]), end)
    titled(upper, title, pad=6 + _ROW * rows)
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("seconds from the start")


def _labels(ax: Axes, names: Sequence[tuple[float, str]], end: float) -> int:
    """Write each name above the axes at its time, in rows that keep names apart. Return the number of rows."""
    width = ax.bbox.width * 72 / ax.figure.dpi  # points, roughly, because the layout is not final yet
    taken: list[list[tuple[float, float]]] = []
    for since, name in names:
        length = len(name) * _LABEL * 0.6
        at = since / end * width
        is_right = at + length > width
        low, high = (at - length, at) if is_right else (at, at + length)
        is_free = [all(high < a or low > b for a, b in others) for others in taken]
        row = is_free.index(True) if True in is_free else len(taken)
        if row == len(taken):
            taken.append([])
        taken[row].append((low, high + _LABEL))
        ax.annotate(
            name,
            (since, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-1 if is_right else 1, 3 + row * _ROW),
            textcoords="offset points",
            ha="right" if is_right else "left",
            fontsize=_LABEL,
            color=GREY,
            annotation_clip=False,
        )
    return len(taken)


def legend_below(ax: Axes, *others: Axes, gap: float = 0.13) -> None:
    """Draw one legend for all these axes, below the first.

    Inside the axes it could cover a curve. It has as many columns as fit, because a legend wider than the figure would
    squeeze the axes.
    """
    handles, labels = [], []
    for one in (*others, ax):
        more = one.get_legend_handles_labels()
        handles += more[0]
        labels += more[1]
    spec = ax.get_subplotspec()
    room = ax.figure.bbox.width * 72 / ax.figure.dpi / (1 if spec is None else spec.get_gridspec().ncols)
    labels = [textwrap.fill(label, int((room - 8 * _LEGEND) / (_LEGEND * 0.5))) for label in labels]
    widths = [max(map(len, label.splitlines())) * _LEGEND * 0.5 + 4 * _LEGEND for label in labels] or [room]
    columns = len(widths) if sum(widths) <= 0.85 * room else max(int(room / max(widths)), 1)
    ax.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, -gap),
        ncols=columns,
        frameon=False,
        fontsize=_LEGEND,
        columnspacing=1.5,
    )
