"""The style of all pictures: sizes, colours, titles, legends, and axes of latencies, shares and time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

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
)  # by Okabe and Ito: colour-blind people can distinguish them
GREY = "#555555"
RECOVERY = COLORS[3]
TIER_COLORS = {"gateway": "#E69F00", "router": "#009E73", "storage": "#D55E00"}
_SHADE = "#bbbbbb"
_LABEL = 8  # points
_ROW = _LABEL + 3
_LEGEND = 9
_TITLE = 11
_MARGIN = 80  # points beside the axes: the tick labels and the label of the y axis, and some to the right of it
_BELOW = 30  # points from the axes to the legend, for the tick labels and the name of the x axis
_HANDLE = 3.0  # font sizes: the line of a legend's entry and the gap before its text
_GAP = 1.5  # font sizes between the columns of a legend


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
    """Return two axes, one above the other over the same x axis, in a figure."""
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    return upper, lower


def errors(rows: pd.DataFrame, metric: str) -> np.ndarray | None:
    """Return how far the interval of a metric reaches below and above it, nan in rows without an interval; None if
    no row has one."""
    low, high = rows[f"{metric}.low"], rows[f"{metric}.high"]
    if low.isna().all():
        return None
    return np.array([rows[metric] - low, high - rows[metric]])


def titled(ax: Axes, title: str, pad: float | None = None) -> None:
    """Write the title above the axes, from their left. A line that is too long for the figure is wrapped."""
    lines = [part for line in title.splitlines() for part in _wrapped(line, _TITLE, _points(ax) - _MARGIN)]
    ax.set_title("\n".join(lines), loc="left", fontsize=_TITLE, pad=pad)


def from_zero(ax: Axes, *others: float) -> None:
    """Begin the y axis at 0, with room above the highest of what is drawn and of these `others`."""
    ax.set_ylim(0, max(ax.dataLim.y1, *others, 0.0) * 1.08 or 1.0)


def decorate(ax: Axes) -> None:
    """Draw a grid below everything else, and no frame above and at the right."""
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def ms(value: float | None) -> str:
    """Return a latency as a text of three digits."""
    return "never" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def log_latency(ax: Axes, which: str, low: float, high: float) -> None:
    """Make the axis "x" or "y" one of latencies in ms, logarithmic, from `low` to `high`: a decade at least, for it to
    have numbers."""
    low = min(low, high / 10)
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    (ax.set_xlim if which == "x" else ax.set_ylim)(low, high)
    # Few decades leave room for the numbers between the powers of ten.
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1e3 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s"))
    axis.set_minor_formatter(NullFormatter())


def busy_axis(ax: Axes) -> None:
    """Make the y axis one of the workers' time, from 0 to all of it, so that an idle system looks idle."""
    ax.set_ylim(0, 1.05)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25 %", "50 %", "75 %", "100 %"])
    ax.set_ylabel("workers busy")


def over_time(axes: tuple[Axes, Axes], time: TimeAxis, title: str) -> None:
    """Make the x axes of two pictures, one above the other, axes of time.

    Faults and the warm-up are shaded, and their names are above the axes, where they cover no curve. The moment of each
    recovery is a line with a name.
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
        if one.time > 0:  # a fault without a recovery has its name where the run's duration ends
            name = one.outcome if len(time.recoveries) == 1 else f"{one.name}: {one.outcome}"
            names.append((min(one.recovered_at, time.duration), name))
    rows = _labels(upper, sorted([*names, (time.duration, "end of sending")]), end)
    titled(upper, title, pad=6 + _ROW * rows)
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("seconds from the start")


def _labels(ax: Axes, names: Sequence[tuple[float, str]], end: float) -> int:
    """Write each name above the axes at its time, in enough rows to keep the names apart. Return the number of
    rows."""
    width = ax.bbox.width * 72 / ax.figure.dpi  # points; not exact, as the layout is not final yet
    taken: list[list[tuple[float, float]]] = []
    for since, name in names:
        length = text_width(name, _LABEL)
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


def legend_below(ax: Axes, *others: Axes) -> None:
    """Write one legend for all of these axes below the first, where it covers no curve.

    It has as many columns as fit below the axes: a legend wider than these would squeeze them. Its distance from the
    axes does not depend on their height, because a long title makes them low.
    """
    handles, labels = [], []
    for one in (*others, ax):
        more = one.get_legend_handles_labels()
        handles += more[0]
        labels += more[1]
    room = _width(ax) - _MARGIN
    labels = ["\n".join(_wrapped(label, _LEGEND, room - (_HANDLE + 1) * _LEGEND)) for label in labels]
    columns = next(n for n in range(max(len(labels), 1), 0, -1) if n == 1 or _legend_width(labels, n) <= room)
    ax.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=ax.transAxes + ScaledTranslation(0, -_BELOW / 72, ax.figure.dpi_scale_trans),
        ncols=columns,
        frameon=False,
        fontsize=_LEGEND,
        columnspacing=_GAP,
    )


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Return the width of a line of text, in points."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(width)


def _width(ax: Axes) -> float:
    """Return the width of the part of the figure that the axes share with none beside them, in points."""
    spec = ax.get_subplotspec()
    columns: int = 1 if spec is None else spec.get_gridspec().ncols
    return _points(ax) / columns


def _points(ax: Axes) -> float:
    """Return the width of the figure, in points."""
    return float(ax.figure.bbox.width) * 72 / float(ax.figure.dpi)


def _wrapped(line: str, size: float, room: float) -> Iterator[str]:
    """Yield the parts of a line that fit into this many points; a word that is longer is a part of its own."""
    part = ""
    for word in line.split():
        longer = f"{part} {word}" if part else word
        if part and text_width(longer, size) > room:
            yield part
            longer = word
        part = longer
    yield part


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Return the width of a legend with this number of columns, in points. Matplotlib fills it column by column."""
    widths = [max(text_width(line, _LEGEND) for line in label.splitlines() or [""]) for label in labels]
    parts = [float(max(part)) for part in np.array_split(widths, columns) if len(part)]
    return sum(parts) + (columns * _HANDLE + (columns - 1) * _GAP + 1) * _LEGEND
