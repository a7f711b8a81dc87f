"""Pictures. Matplotlib is imported with this module, and this module only when a picture is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from imsim.analysis.latency import ack_latencies, delivery_latencies, labels, percentile
from imsim.results import RunData

SIZE = (8.0, 4.8)  # inches
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)  # Okabe and Ito's: safe for the colour-blind
_LATENCIES = {"delivery": delivery_latencies, "ack": ack_latencies}
_STYLES = {"delivery": "-", "ack": (0, (4, 1.6))}
_GUIDES = (50, 99)
GREY = "#555555"
_SHORTEST_MS = 0.001  # a logarithmic axis has no zero
_POINTS = 1000  # of a curve: more cannot be seen, and would make an SVG of megabytes


def cdf(
    runs: RunData | Sequence[RunData],
    ax: Axes | None = None,
    what: Sequence[str] = ("delivery", "ack"),
) -> Axes:
    """Empirical distribution of latencies from one run or several, in a new pyplot figure or in `ax`.

    Each curve is a share of all that were due: what never came keeps it below 100 %. Colours are runs, line styles are
    latencies ("delivery", "ack"); dots stand at p50 and p99.

    Raises: ValueError for another word in `what`.
    """
    runs = [runs] if isinstance(runs, RunData) else list(runs)
    unknown = set(what) - _LATENCIES.keys()
    if unknown:
        raise ValueError(f"what: {', '.join(sorted(unknown))} is neither of {', '.join(_LATENCIES)}")
    if ax is None:
        ax = new_axes()

    names = labels(runs)
    curves = [
        (f"{name} {kind}", COLORS[number % len(COLORS)], kind, _LATENCIES[kind](run))
        for number, (name, run) in enumerate(zip(names, runs, strict=True))
        for kind in what
    ]
    right = _furthest([values for *_, values in curves])
    for label, color, kind, values in curves:
        _curve(ax, values, right, label=label, color=color, style=_STYLES[kind])
    _decorate(ax, right)
    ax.set_title(_title(runs), loc="left", fontsize=11)
    return ax


def save_cdf(runs: RunData | Sequence[RunData], path: Path | str) -> Path:
    """Write the picture of `cdf` to `path`, whose suffix chooses the format (.png, .svg, .pdf), without pyplot.

    Raises: ValueError for a suffix that matplotlib does not know, OSError if the file cannot be written.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    cdf(runs, figure.add_subplot())
    figure.savefig(path, dpi=150)
    return Path(path)


def new_axes() -> Axes:
    """In a new pyplot figure."""
    from matplotlib import pyplot as plt

    _, ax = plt.subplots(figsize=SIZE, layout="constrained")
    return ax


def _curve(ax: Axes, values: NDArray[np.float64], right: float, *, label: str, color: str, style: object) -> None:
    shown = np.maximum(values[np.isfinite(values)], _SHORTEST_MS)
    ranks = _ranks(len(shown))
    share = ranks / max(len(values), 1)
    # From 0 at the smallest latency, and on to the right edge at the height where it ends.
    x = np.concatenate([shown[:1], shown[ranks - 1], [right]])
    y = np.concatenate([[0.0] if len(shown) else [], share, share[-1:] if len(shown) else [0.0]])
    ax.plot(
        x,
        y,
        drawstyle="steps-post",
        color=color,
        linestyle=style,
        linewidth=1.8,
        label=f"{label}: {_legend(values)}",
    )
    for percent in _GUIDES:
        value = percentile(values, percent)
        if value is not None:
            ax.plot(max(value, _SHORTEST_MS), percent / 100, "o", color=color, markersize=4.5, zorder=4)


def _ranks(count: int) -> NDArray[np.int64]:
    """At most some _POINTS ranks (1-based) of a sample: evenly spread, and each of the slowest."""
    spread = np.linspace(1, count, min(count, _POINTS)).round().astype(np.int64)
    return np.union1d(spread, np.arange(max(count - 100, 0), count) + 1)


def _furthest(samples: list[NDArray[np.float64]]) -> float:
    """The right edge of the picture: a little beyond the largest finite latency, in ms."""
    finite = np.concatenate([np.array([_SHORTEST_MS]), *(values[np.isfinite(values)] for values in samples)])
    return float(finite.max()) * 1.6


def _legend(values: NDArray[np.float64]) -> str:
    if not len(values):
        return "none due"
    text = ", ".join(f"p{percent} {_ms(percentile(values, percent))}" for percent in _GUIDES)
    missing = np.count_nonzero(np.isinf(values))
    return text + (f" ({missing:,} of {len(values):,} never)" if missing else "")


def _ms(value: float | None) -> str:
    return "never" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def _decorate(ax: Axes, right: float) -> None:
    left = min(ax.dataLim.x0 / 1.2, right / 10)  # a decade at least, for the axis to have numbers
    ax.set_xscale("log")
    ax.set_xlim(left, right)
    # Few decades leave room for the numbers between the powers of ten.
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right / left < 1e4 else (1,)))
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 0.99], labels=["0", "25 %", "50 %", "75 %", "99 %"])
    ax.set_xlabel("latency since the intended time")
    ax.set_ylabel("share of all that were due")
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s")
    )
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(color="#dddddd", linewidth=0.6)
    for percent in _GUIDES:
        ax.axhline(percent / 100, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    # Below the axes: inside, it would cover a curve sooner or later.
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False, fontsize=9, columnspacing=1.5)


def _title(runs: list[RunData]) -> str:
    """What all runs have in common; what tells them apart stands in the legend."""
    scenarios = {run.scenario.name for run in runs}
    seeds = {f"seed {run.seed}" for run in runs}
    return ", ".join(["Latency", *(value for values in (scenarios, seeds) if len(values) == 1 for value in values)])
