"""A picture of two designs side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from imsim.analysis.plots.style import COLORS, GREY, SIZE, decorate, legend_below, log_latency, titled

_COLORS = {"A": COLORS[0], "B": COLORS[1]}
_VERDICTS = {"A": (COLORS[0], "A is better"), "B": (COLORS[1], "B is better"), "?": (GREY, "undecided")}


def comparison(
    differences: pd.DataFrame,
    axes: Sequence[Axes] | None = None,
    *,
    labels: tuple[str, str],
    pairs: int,
    title: str,
) -> tuple[Axes, Axes]:
    """Draw each latency of A and B, and beside it the difference of B from A as a share of A, all with intervals.

    If the interval of the paired difference does not contain zero, one design is better.

    Args:
        differences: a row for each latency: `a`, `a_low`, `a_high`, the same of `b` (ms) and of `relative`; the verdict
            `better`; and `null`, the number of pairs in which the latency is null.
        axes: two axes; None makes a new pyplot figure.
        labels: the names of A and B.
        pairs: the number of pairs.
        title: the title of the picture.
    """
    values, shares = _new() if axes is None else axes
    ends = differences[["a", "a_high", "b", "b_high"]].to_numpy(float)
    known = ends[np.isfinite(ends)]
    for row, (_, one) in enumerate(differences.iterrows()):
        _point(values, one, "a", row - 0.13, 1, _COLORS["A"], f"A: {labels[0]}")
        _point(values, one, "b", row + 0.13, 1, _COLORS["B"], f"B: {labels[1]}")
        if one["null"]:
            shares.text(0, row, f" null in {one['null']} of {pairs} pairs", va="center", fontsize=8, color=GREY)
        else:
            color, verdict = _VERDICTS.get(one["better"], (GREY, "equal"))
            _point(shares, one, "relative", row, 100, color, verdict)
    if len(known):
        log_latency(values, "x", max(known.min() / 1.5, 0.001), known.max() * 1.8)
    values.set_xlabel("latency: mean over replications, 95 % interval")
    values.set_yticks(range(len(differences)), labels=list(differences.index))
    values.set_ylim(len(differences) - 0.5, -0.5)
    shares.axvline(0, color="#222222", linewidth=1)
    shares.set_xlabel(f"B against A (%): 95 % interval of {pairs} pairs")
    shares.tick_params(axis="y", length=0)
    titled(values, title)
    for ax in (values, shares):
        decorate(ax)
        legend_below(ax)
    return values, shares


def _new() -> tuple[Axes, Axes]:
    from matplotlib import pyplot as plt

    _, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(SIZE[0] * 1.4, SIZE[1]), layout="constrained")
    return left, right


def _point(ax: Axes, one: pd.Series[Any], column: str, row: float, times: float, color: str, label: str) -> None:
    """Draw a value with its interval, unless it is null. A label that the axes already have is not repeated."""
    value, low, high = (float(one[name]) for name in (column, f"{column}_low", f"{column}_high"))
    if math.isnan(value):
        return
    error = None if math.isnan(low) else [[(value - low) * times], [(high - value) * times]]
    is_new = label not in ax.get_legend_handles_labels()[1]
    ax.errorbar(
        value * times,
        row,
        xerr=error,
        fmt="o",
        markersize=5,
        capsize=2.5,
        elinewidth=1.2,
        color=color,
        label=label if is_new else None,
    )
