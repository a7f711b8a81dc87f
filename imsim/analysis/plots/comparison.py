"""Two designs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from imsim.analysis.metrics import is_latency
from imsim.analysis.plots.style import COLORS, GREY, SIZE, decorate, legend_below, log_latency
from imsim.core.exceptions import UsageError

if TYPE_CHECKING:
    from imsim.analysis.comparison import Comparison
    from imsim.analysis.intervals import Estimate

_COLORS = {"A": COLORS[0], "B": COLORS[1]}
_TOLD = {"A": (COLORS[0], "A is better"), "B": (COLORS[1], "B is better"), "?": (GREY, "not told apart")}


def comparison(found: Comparison, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
    """Two pictures, in a new pyplot figure or in two `axes`: each latency that was measured, of A and B, with its 95 %
    interval; and by how much B differs from A, as a share of A, with the interval of the paired difference. Where that
    does not reach zero, the two are told apart.

    Raises: UsageError if no latency was measured.
    """
    metrics = [metric for metric in found.differences if is_latency(metric)]
    if not metrics:
        raise UsageError("plot: no latency was measured in both; name one in metrics=[...]")
    values, shares = _new() if axes is None else axes
    known = [
        value
        for metric in metrics
        for one in (found[metric].a, found[metric].b)
        for value in (one.value, one.high)
        if value is not None
    ]
    for row, metric in enumerate(metrics):
        one = found[metric]
        _point(values, one.a, row - 0.13, 1, _COLORS["A"], "A")
        _point(values, one.b, row + 0.13, 1, _COLORS["B"], "B")
        if one.absolute.value is None:
            told = f" null in {one.absolute.undefined} of {found.pairs} pairs"
            shares.text(0, row, told, va="center", fontsize=8, color=GREY)
        else:
            color, told = _TOLD.get(one.better, (GREY, "equal"))
            _point(shares, one.relative, row, 100, color, told)
    if known:
        log_latency(values, "x", max(min(known) / 1.5, 0.001), max(known) * 1.8)
    values.set_xlabel("latency: mean over replications, 95 % interval")
    values.set_yticks(range(len(metrics)), labels=metrics)
    values.set_ylim(len(metrics) - 0.5, -0.5)
    shares.axvline(0, color="#222222", linewidth=1)
    shares.set_xlabel(f"B against A (%): 95 % interval of {found.pairs} pairs")
    shares.tick_params(axis="y", length=0)
    differ = ", ".join(found.changes) or "nothing"
    title = f"A: {found.a.scenario.name}, B: {found.b.scenario.name}; they differ in {differ}"
    values.set_title(title if len(title) < 110 else title[:107] + "...", loc="left", fontsize=11)
    for ax in (values, shares):
        decorate(ax)
        legend_below(ax)
    return values, shares


def _new() -> tuple[Axes, Axes]:
    from matplotlib import pyplot as plt

    _, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(SIZE[0] * 1.4, SIZE[1]), layout="constrained")
    return left, right


def _point(ax: Axes, one: Estimate, row: float, times: float, color: str, label: str) -> None:
    """With its interval; what is null is left out. A label that is there already is not given again."""
    if one.value is None:
        return
    error = None
    if one.low is not None and one.high is not None:
        error = [[(one.value - one.low) * times], [(one.high - one.value) * times]]
    is_new = label not in ax.get_legend_handles_labels()[1]
    ax.errorbar(
        one.value * times,
        row,
        xerr=error,
        fmt="o",
        markersize=5,
        capsize=2.5,
        elinewidth=1.2,
        color=color,
        label=label if is_new else None,
    )
