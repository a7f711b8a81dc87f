"""The pictures of designs: latency against what was varied, and against what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from imsim.analysis.metrics import is_latency
from imsim.analysis.plots import COLORS, GREY, SIZE, log_latency, new_axes
from imsim.core.exceptions import UsageError

if TYPE_CHECKING:
    from imsim.analysis.capacity import Capacity
    from imsim.analysis.sweep import Sweep


def draw(sweep: Sweep, x: str, y: str, hue: str | None, ax: Axes | None) -> Axes:
    """See `Sweep.plot`."""
    ax = new_axes() if ax is None else ax
    frame = sweep.frame
    drawn = frame.dropna(subset=[y, *([x] if x in sweep.metrics else [])])
    groups = [(None, drawn)] if hue is None else [(value, drawn[drawn[hue] == value]) for value in frame[hue].unique()]
    is_objective = x in sweep.metrics
    ties = set(sweep.ties(x, y).index) if is_objective else set()
    for number, (value, rows) in enumerate(groups):
        color = COLORS[number % len(COLORS)]
        label = None if value is None else f"{_short(hue)} = {_text(value)}"
        if is_objective:
            tied = rows.index.isin(ties)
            _points(ax, rows[~tied], x, y, color, label)
            _points(ax, rows[tied], x, y, color, None if len(rows[~tied]) else label, hollow=True)
        else:
            _line(ax, frame, rows, x, y, color, label, aside=(number - (len(groups) - 1) / 2) * 0.012)
    if is_objective:
        _front(ax, sweep, x, y)
        if ties:
            label = "not told apart from the front"
            ax.plot([], [], "o", markersize=5, markerfacecolor="white", color=GREY, label=label)
    missing = len(frame) - len(drawn)
    title = f"{sweep.base.name}: {y} against {x}"
    if missing:
        title += f"\n{missing} of {len(frame)} designs are not drawn: there {y} falls among what never came"
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel(_axis(x, sweep))
    ax.set_ylabel(_axis(y, sweep))
    ax.set_ylim(bottom=0)
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[1]:
        # Below the axes: inside, it would cover a point sooner or later.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False, fontsize=9)
    return ax


def save(sweep: Sweep, x: str, y: str, hue: str | None, path: Path) -> Path:
    """Without pyplot. Raises: UsageError if the file cannot be written, or as what it is called."""
    figure = Figure(figsize=SIZE, layout="constrained")
    draw(sweep, x, y, hue, figure.add_subplot())
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"plot: cannot write {path}: {error}") from None
    return path


def draw_capacity(capacity: Capacity, ax: Axes | None) -> Axes:
    """See `Capacity.plot`."""
    ax = new_axes() if ax is None else ax
    budget, over = capacity.budget, capacity.over
    frame = capacity.frame.rename(columns={"low": f"{budget.metric}.low", "high": f"{budget.metric}.high"})
    drawn = frame.dropna(subset=[budget.metric])
    colors = {"keeps": COLORS[2], "undecided": COLORS[4], "breaks": COLORS[1]}
    for verdict, color in colors.items():
        rows = drawn[drawn["budget"] == verdict]
        if len(rows):
            errors = _errors(rows, budget.metric)
            ax.errorbar(
                rows[over],
                rows[budget.metric],
                yerr=errors,
                fmt="o",
                markersize=5,
                capsize=2,
                color=color,
                label=verdict,
            )
    ax.axhline(budget.bound, color=GREY, linewidth=1, linestyle=":", label=str(budget))
    if capacity.keeps is not None and capacity.breaks is not None:
        ax.axvspan(
            capacity.keeps, capacity.breaks, color="#bbbbbb", alpha=0.5, linewidth=0, label="the capacity is in here"
        )
    # What broke it at many times the load would press all else to the floor.
    if budget.bound and len(drawn) and drawn[budget.metric].max() > 5 * budget.bound:
        ax.set_yscale("log")
        if is_latency(budget.metric):
            highest = float(frame[[budget.metric, f"{budget.metric}.high"]].max().max())
            lowest = min(budget.bound, float(drawn[budget.metric].min()))
            log_latency(ax, "y", lowest / 1.5, highest * 1.3)
    else:
        ax.set_ylim(bottom=0)
    if frame[over].max() >= 10 * frame[over].min():
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_title(f"{capacity.scenario.name}:\n{capacity.verdict}", loc="left", fontsize=11)
    if len(drawn) < len(frame):
        ax.set_xlabel(f"{over}   ({len(frame) - len(drawn)} loads not drawn: {budget.metric} is null there)")
    else:
        ax.set_xlabel(over)
    has_unit = is_latency(budget.metric) and ax.get_yscale() == "linear"  # a logarithmic axis has it at each number
    ax.set_ylabel(f"{budget.metric} (ms)" if has_unit else budget.metric)
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=5, frameon=False, fontsize=9)
    return ax


def _points(ax: Axes, rows: pd.DataFrame, x: str, y: str, color: str, label: str | None, hollow: bool = False) -> None:
    if rows.empty:
        return
    ax.errorbar(
        rows[x],
        rows[y],
        xerr=_errors(rows, x),
        yerr=_errors(rows, y),
        fmt="o",
        markersize=5,
        markerfacecolor="white" if hollow else color,
        elinewidth=1,
        capsize=2,
        color=color,
        label=label,
    )


def _front(ax: Axes, sweep: Sweep, x: str, y: str) -> None:
    """The designs of the front, joined, with letters in their points, and named in the legend, where no name covers
    another."""
    front = sweep.pareto(x, y)
    ax.plot(front[x], front[y], drawstyle="steps-post", color=GREY, linewidth=1, linestyle="--", label="Pareto front")
    for number, (_, row) in enumerate(front.iterrows()):
        letter = chr(ord("A") + number % 26)
        ax.plot(row[x], row[y], "o", markersize=13, color=GREY, zorder=3)
        ax.annotate(
            letter, (row[x], row[y]), ha="center", va="center_baseline", fontsize=9, fontweight="bold", color="white"
        )
        text = ", ".join(f"{_short(column)} = {_text(row[column])}" for column in sweep.varied)
        ax.plot([], [], " ", label=f"{letter}: {text}")


def _line(
    ax: Axes, frame: pd.DataFrame, rows: pd.DataFrame, x: str, y: str, color: str, label: str | None, aside: float
) -> None:
    """`aside` is a share of the axis: intervals at one value stand side by side, not on each other."""
    values = list(frame[x].unique())
    is_number = all(isinstance(value, int | float | np.number) for value in values)
    # What is no number stands side by side in the order in which it was given.
    place = rows[x] if is_number else rows[x].map({value: number for number, value in enumerate(values)})
    ends = [float(value) for value in values] if is_number else [0.0, len(values) - 1.0]
    rows = rows.assign(at=place + aside * (max(ends) - min(ends))).sort_values("at")
    ax.errorbar(
        rows["at"],
        rows[y],
        yerr=_errors(rows, y),
        fmt="o-",
        markersize=4,
        elinewidth=1,
        capsize=2,
        color=color,
        label=label,
    )
    if not is_number:
        ax.set_xticks(range(len(values)), labels=[_text(value) for value in values])
    elif all(float(value).is_integer() for value in values) and len(values) <= 12:
        ax.set_xticks(sorted(values))


def _errors(rows: pd.DataFrame, metric: str) -> np.ndarray | None:
    """Below and above; None where there is no interval."""
    low, high = rows[f"{metric}.low"], rows[f"{metric}.high"]
    if low.isna().any():
        return None
    return np.array([rows[metric] - low, high - rows[metric]])


def _axis(column: str, sweep: Sweep) -> str:
    if is_latency(column):
        return f"{column} (ms)"
    if column.startswith("cost."):
        per = {"cost.per_hour": "per hour", "cost.per_million": "per million messages"}[column]
        return f"cost, {sweep.base.cost.currency} {per}"
    return column


def _short(column: str | None) -> str:
    """`routers` for topology.routers, `storage.workers` for topology.storage.workers."""
    *above, last = (column or "").split(".")
    return f"{above[-1]}.{last}" if len(above) > 1 else last


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
