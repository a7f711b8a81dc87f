"""The figures of runs, as drawings with captions. Matplotlib is loaded when they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from imsim.analysis import breakdown, latency, timeline
from imsim.analysis.intervals import estimate
from imsim.analysis.report.parts import Drawing
from imsim.analysis.report.readings import Reading
from imsim.analysis.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 160  # of a curve: enough at the size of a phone or of half a page
_MOST_COLOURS = 26  # of designs; with more, all runs look alike
_MOST_ROWS = 120  # of a figure with a row for each run


def latencies(readings: Sequence[Reading], names: Sequence[str]) -> list[Drawing]:
    """Return the distribution of one or two runs, and its tail."""
    from imsim.analysis import plots

    def cdf(ax: Axes) -> None:
        values = {}
        for name, one in zip(names, readings, strict=True):
            kinds = one.kinds if len(readings) == 1 else [k for k in ("delivery", "confirmed", "ack") if k in one.kinds]
            label = f"{name} ({one.mark})" if one.mark else name
            values[label] = {kind: latency.ROWS[kind](one.run) for kind in kinds}
        plots.cdf(values, ax, title="", points=_POINTS)

    def tail(ax: Axes) -> None:
        curves = []
        for number, (name, one) in enumerate(zip(names, readings, strict=True)):
            for what, kind in one.kinds.items():
                if len(readings) == 1 or what in ("delivery", "ack"):
                    dash, color = plots.STYLES[what]
                    color = color if len(readings) == 1 else plots.COLORS[number]
                    label = f"{name} {what}" if len(readings) > 1 else what.replace("_", " by ")
                    curves.append(replace(kind.curve, name=label, color=color, dash=dash))
        plots.tail(curves, ax, title="")

    return [
        Drawing(
            "Latency: the share of all due messages that has arrived after each time. Dots are p50 and p99; a curve "
            "that ends below 100 % has messages that never arrived.",
            cdf,
            height=4.0,
        ),
        Drawing(
            "The tail: the share of messages that takes longer than each time, on logarithmic axes. The dotted line is "
            "p99; a curve that ends in a horizontal line has messages that never arrived.",
            tail,
            height=4.0,
        ),
    ]


def courses(readings: Sequence[Reading], names: Sequence[str]) -> list[Drawing]:
    """Return the latencies and the load over the time of each run."""
    return [
        Drawing(
            f"Delivery latency over time{f' ({name})' if len(readings) > 1 else ''}, above the messages per second "
            "that were offered and delivered.",
            partial(_timeline, one.run),
            "pair",
            4.6,
        )
        for name, one in zip(names, readings, strict=True)
    ]


def _timeline(run: Run, axes: tuple[Axes, Axes]) -> None:
    from imsim.analysis import plots

    time = timeline.TimeAxis.of(run)
    plots.timeline(timeline.windows(run, time.end), time, axes, title="")


def breakdowns(readings: Sequence[Reading], names: Sequence[str]) -> list[Drawing]:
    """Return where the time of deliveries goes, and how busy the nodes are, for runs with spans."""
    found = []
    for name, one in zip(names, readings, strict=True):
        if one.run.has("spans"):
            of = f" ({name})" if len(readings) > 1 else ""
            text = f"Where the time of a delivery goes{of}: all, the middle half and the slowest 1 % of deliveries."
            found.append(Drawing(text, partial(_stages, one.run), height=3.8))
            text = f"How busy the nodes are over time{of}, above the number of waiting jobs."
            found.append(Drawing(text, one.run.plot.nodes, "pair", 4.6))
    return found


def _stages(run: Run, ax: Axes) -> None:
    from imsim.analysis import plots

    plots.breakdown(breakdown.stages(run), ax, title="")


def of_design(groups: Sequence[tuple[str, Sequence[Reading]]]) -> list[Drawing]:
    """Return the metrics of each run and their means, if all runs are of one design."""
    if len(groups) != 1:
        return []
    sound = [one for one in groups[0][1] if one.is_sound]
    kinds = [name for name in ("delivery", "last", "ack") if all(name in one.kinds for one in sound)]
    values = {f"{k}.{s}": [one.value(f"{k}.{s}") for one in sound] for k in kinds for s in ("p50", "p95", "p99")}
    return [replications(values)] if len(sound) > 1 else []


def replications(values: dict[str, list[float]]) -> Drawing:
    """Return the values of each run, and their means with intervals."""

    def draw(ax: Axes) -> None:
        from imsim.analysis import plots

        plots.replications(values, {name: estimate(of_runs, 0.0) for name, of_runs in values.items()}, ax, title="")

    return Drawing("Latencies of each run, and their means with 95 % intervals.", draw, height=1.4 + 0.28 * len(values))


def many(readings: Sequence[Reading]) -> list[Drawing]:
    """Return the percentiles of each run, and the distributions and tails of all runs."""
    return [*_percentiles(readings), *_distributions(readings)]


def _percentiles(readings: Sequence[Reading]) -> Iterator[Drawing]:
    shown = readings[:_MOST_ROWS]

    def draw(ax: Axes) -> None:
        from imsim.analysis import plots

        rows = []
        for position, one in enumerate(shown):
            statistics = one.kinds["delivery"].statistics
            values = {"p50": statistics.p50, "p95": statistics.p95, "p99": statistics.p99, "max": statistics.max}
            mark = f" {one.mark}" if one.mark else ""
            rows.append((f"{position + 1}{mark}", values, _colour(one, readings)))
        plots.percentiles(rows, ax, title="")

    more = f" The first {len(shown)} of {len(readings)} runs." if len(shown) < len(readings) else ""
    text = f"Delivery latency of each run: p50 (circle), p95 (square), p99 (diamond) and the largest (bar).{more}"
    yield Drawing(text, draw, height=1.4 + 0.14 * max(len(shown), 8))


def _distributions(readings: Sequence[Reading]) -> Iterator[Drawing]:
    from imsim.analysis import plots

    shown = readings[:_MOST_ROWS]
    curves = [
        replace(one.kinds["delivery"].curve, name=_colour(one, readings)) for one in shown if "delivery" in one.kinds
    ]
    dotted = " Runs that are invalid or partial are dotted." if any(one.mark for one in shown) else ""
    yield Drawing(
        f"Delivery latency: a curve for each run, with the share of all due messages that has arrived.{dotted}",
        lambda ax: plots.shares(curves, ax, title=""),
        height=4.0,
    )
    yield Drawing(
        f"The tail: the share of deliveries that takes longer, on logarithmic axes.{dotted}",
        lambda ax: plots.tail(curves, ax, title=""),
        height=4.0,
    )


def course_of_many(readings: Sequence[Reading]) -> list[Drawing]:
    """Return p95 over the time of all runs."""
    shown = readings[:40]

    def draw(ax: Axes) -> None:
        from imsim.analysis import plots

        lines = [(_colour(one, readings), *one.course) for one in shown if one.course is not None]
        plots.courses(lines, ax, title="", what="delivery p95")

    more = f" The first {len(shown)} runs." if len(shown) < len(readings) else ""
    text = f"p95 of deliveries over time: a line for each run. Gaps are windows whose p95 never arrived.{more}"
    return [Drawing(text, draw, height=3.8)]


def _colour(one: Reading, readings: Sequence[Reading]) -> str:
    """Return the name by which a run gets its colour: its design, or its own label if there are few runs."""
    designs = {other.design for other in readings}
    if len(designs) == 1:
        return one.label if len(readings) <= 6 else "a run"
    return one.design if len(designs) <= _MOST_COLOURS else "a run"
