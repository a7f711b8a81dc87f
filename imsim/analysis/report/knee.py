"""The knee: latency over the load, if the runs of a report differ in one number of their scenarios."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from imsim.analysis.intervals import estimate
from imsim.analysis.kinds import axis_label
from imsim.analysis.report.parts import Drawing, Section
from imsim.analysis.report.readings import Reading
from imsim.scenario.differences import differences

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEWEST = 3  # values, for a curve to have a bend
_METRICS = ("delivery.p50", "delivery.p99")


def knee(groups: Sequence[tuple[str, Sequence[Reading]]]) -> Section | None:
    """Return the section, or None if the designs do not differ in one number. groups: the sound runs of each design."""
    groups = [group for group in groups if group[1]]
    if len(groups) < _FEWEST:
        return None
    found = differences([group[0].run.scenario for _, group in groups])
    varied = {path: values for path, (values, _) in found.items() if path != "seed"}
    if len(varied) != 1:
        return None
    ((path, values),) = varied.items()
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    if len(set(values)) < len(values):  # one scenario in several places
        return None
    rows = []
    for value, (_, group) in zip(values, groups, strict=True):
        row: dict[str, object] = {path: value}
        for metric in _METRICS:
            one = estimate([reading.value(metric) for reading in group], 0.0)
            for end, number in (("", one.value), (".low", one.low), (".high", one.high)):
                row[metric + end] = math.nan if number is None else number
        rows.append(row)
    drawings = [Drawing(_caption(metric, path), _draw(rows, path, metric)) for metric in _METRICS]
    return Section("Latency over the load", drawings=drawings)


def _caption(metric: str, path: str) -> str:
    return f"{metric} over {path}: means over the runs of each design, with 95 % intervals where there are several."


def _draw(rows: Sequence[dict[str, object]], path: str, metric: str) -> Callable[[Axes], object]:
    def draw(ax: Axes) -> None:
        import pandas as pd

        from imsim.analysis import plots

        frame = pd.DataFrame(rows).sort_values(path)
        plots.trend(frame, path, metric, None, ax, title="", labels=(path, axis_label(metric)))

    return draw
