"""A sweep: many designs under the same seeds, as a table with a row for each and as pictures of trade-offs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imsim.analysis.intervals import CONFIDENCE
from imsim.analysis.kinds import axis_label
from imsim.analysis.labels import design_labels, heading, title_of_all
from imsim.analysis.metrics import printed
from imsim.core.exceptions import UsageError
from imsim.experiments.comparison import difference
from imsim.experiments.replicate import Progress, Replications, Sampling, Store, replicate, to_json
from imsim.scenario import Scenario
from imsim.scenario.differences import text_of
from imsim.scenario.errors import suggestion

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: A design: values at dotted paths, a scenario, its name, or a function that makes a scenario from the base.
Design = Mapping[str, object] | Scenario | str | Callable[[Scenario], Scenario]

#: Dotted paths and their values (or a mapping of labels to values), for every combination; or a list of designs.
Over = Mapping[str, Iterable[object] | Mapping[str, object]] | Sequence[Design]

#: The column that names designs that are not given by values.
DESIGN = "design"

_COLOURS = 6  # the number of colours that can be distinguished
_COST = "cost.per_hour"
_LATENCY = "delivery.p99"
_SHOWN = (
    "delivery.p50",
    "delivery.p95",
    "delivery.p99",
    "confirmed.p99",
    "ack.p99",
    "lost",
    "received_lost",
    "cost.per_hour",
    "cost.per_million",
    "cost.per_month",
)


def sweep(
    base: Scenario,
    designs: Sequence[Variant],
    sampling: Sampling,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Simulate the designs that `variants` returns. See `imsim.sweep`."""
    found = replicate([one.scenario for one in designs], sampling, store=store, progress=progress)
    return Sweep(base, [one.labels for one in designs], found, sampling.asked)


class Sweep:
    """The result of `imsim.sweep`: many designs under the same seeds.

    `sweep[3]` is the `Replications` of the fourth design, `len(sweep)` the number of designs.

    Attributes:
        base: the scenario from which the designs are made.
        labels: the values that identify each design: column -> value.
        replications: the `Replications` of each design.

    Example:
        >>> found = imsim.sweep("office", {"topology.routers": [1, 2]}, replications=2, duration="1s")
        >>> found.varied, len(found), len(found.samples)
        (['topology.routers'], 2, 4)
    """

    def __init__(
        self,
        base: Scenario,
        labels: Sequence[dict[str, object]],
        found: Sequence[Replications],
        asked: Sequence[str] = (),
    ) -> None:
        self.base = base
        self.labels = list(labels)
        self.replications = list(found)
        self._asked = asked

    def __dir__(self) -> list[str]:
        return [
            "base", "frame", "labels", "metrics", "notes", "pareto", "plot", "replications", "samples", "save_plot",
            "summary", "ties", "to_json_dict", "varied",
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self.replications)

    def __getitem__(self, number: int) -> Replications:
        return self.replications[number]

    @property
    def varied(self) -> list[str]:
        """The columns in which the designs differ."""
        return list(dict.fromkeys(column for labels in self.labels for column in labels))

    @property
    def metrics(self) -> list[str]:
        """The names of the measured metrics."""
        return self.replications[0].metrics

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row for each design: the varied columns, and the mean of every metric with the ends of its interval.

        `delivery.p99.low` and `delivery.p99.high` are the ends of the interval of delivery.p99. `replications` is the
        number of runs, `null` the number of runs in which some metric is null.
        """
        import pandas as pd

        return pd.DataFrame(
            [
                {**{column: labels.get(column) for column in self.varied}, **one.row()}
                for labels, one in zip(self.labels, self.replications, strict=True)
            ]
        )

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row for each replication of each design: the varied columns, then those of `Replications.frame`."""
        import pandas as pd

        parts = []
        for labels, one in zip(self.labels, self.replications, strict=True):
            part = one.frame.copy()
            for position, column in enumerate(self.varied):
                part.insert(position, column, [labels.get(column)] * len(part))
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def pareto(self, x: str = _COST, y: str = _LATENCY) -> pd.DataFrame:
        """Return the Pareto front: the rows of `frame`, by ascending `x`, each with less `y` than the row before.

        The 95 % interval of the paired difference must exclude chance; `ties` returns the rows for which it does not.

        Args:
            x: a metric, usually a cost.
            y: a metric, usually a latency.

        Raises:
            UsageError: a metric was not measured.
        """
        return self.frame.loc[self._front(x, y)[0]]

    def ties(self, x: str = _COST, y: str = _LATENCY) -> pd.DataFrame:
        """Return the rows of `frame` that may be as good as the Pareto front.

        Their `y` cannot be distinguished from that of a row on the front whose `x` is not larger. So it is not known
        whether their larger `x` pays.

        Args:
            x: a metric, usually a cost.
            y: a metric, usually a latency.

        Raises:
            UsageError: a metric was not measured.
        """
        return self.frame.loc[self._front(x, y)[1]]

    def _front(self, x: str, y: str) -> tuple[list[int], list[int]]:
        """Return the numbers of the designs on the front, and of those tied with it."""
        for metric in (x, y):
            self._check(metric, self.metrics)
        front: list[int] = []
        ties: list[int] = []
        for number in self.frame.dropna(subset=[x, y]).sort_values([x, y]).index:
            if not front or (against := self._against(front[-1], number, y)) < 0:
                front.append(number)
            elif against == 0:
                ties.append(number)
        return front, ties

    def _against(self, a: int, b: int, metric: str) -> int:
        """Return -1 if b has less of the metric than a, 1 if it has more, 0 if the interval does not decide.

        Under common random numbers the paired differences decide more than two separate intervals. Nothing is decided
        if the runs of a or b are too short for this percentile.
        """
        if self[a].flaw(metric) or self[b].flaw(metric):
            return 0
        count = min(len(self[a]), len(self[b]))
        found = difference(metric, self[a].values(metric)[:count], self[b].values(metric)[:count]).absolute
        assert found.value is not None
        low = found.value if found.low is None else found.low
        high = found.value if found.high is None else found.high
        return (low > 0) - (high < 0)

    def plot(self, x: str | None = None, y: str = _LATENCY, hue: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw a metric of each design over another metric, or over a varied column.

        Args:
            x: a metric draws a point for each design, and the Pareto front; points of `ties` are hollow. A varied
                column draws lines. None means the cost if the scenario has prices, or else the first varied column.
            y: a metric.
            hue: another varied column, shown by colour. None means the first that has few values.
            ax: the axes to draw in; None makes a new figure.

        Raises:
            UsageError: there is no such metric or column.
        """
        from imsim.analysis import plots

        x, y, hue = self._axes(x, y, hue)
        title = title_of_all(f"{y} against {x}", [self.base])
        labels = axis_label(x, self.base.cost.currency), axis_label(y, self.base.cost.currency)
        if x not in self.metrics:
            return plots.trend(self.frame, x, y, hue, ax, title=title, labels=labels)
        front, ties = self._front(x, y)
        return plots.tradeoff(
            self.frame, x, y, hue, ax, title=title, labels=labels, varied=self.varied, front=front, ties=ties
        )

    def save_plot(
        self, path: str | PathLike[str], x: str | None = None, y: str = _LATENCY, hue: str | None = None
    ) -> Path:
        """Write the picture that `plot` draws to a file and return its path.

        Args:
            path: the file; its suffix chooses the format (.png, .svg, .pdf).
            x: as for `plot`.
            y: as for `plot`.
            hue: as for `plot`.

        Raises:
            UsageError: the file cannot be written, or there is no such metric or column.
        """
        from imsim.analysis import plots

        return plots.save(partial(self.plot, x, y, hue), path)

    def _axes(self, x: str | None, y: str, hue: str | None) -> tuple[str, str, str | None]:
        x = x or (_COST if _COST in self.metrics else self.varied[0])
        self._check(x, [*self.varied, *self.metrics])
        self._check(y, self.metrics)
        if hue is None:
            others = [
                column
                for column in self.varied
                if column != x and 1 < self.frame[column].nunique(dropna=False) <= _COLOURS
            ]
            hue = others[0] if others else None
        else:
            self._check(hue, self.varied)
        return x, y, hue

    def _check(self, column: str, known: Sequence[str]) -> None:
        if column not in known:
            raise UsageError(
                f"sweep: unknown column {column!r}{suggestion(str(column), known)}; known: {', '.join(known)}"
            )

    def to_json_dict(self) -> dict[str, Any]:
        """Return the object that `imsim sweep --json` prints."""
        return {
            "scenario": self.base.name,
            "seed": self.base.seed,
            "confidence": CONFIDENCE,
            "points": [
                {
                    "values": labels,
                    "replications": len(one),
                    "metrics": {metric: to_json(one[metric]) for metric in self.metrics},
                }
                for labels, one in zip(self.labels, self.replications, strict=True)
            ],
            "notes": self.notes,
        }

    @cached_property
    def notes(self) -> list[str]:
        """Facts to know before the numbers are used, one sentence each."""
        notes: dict[str, list[int]] = {}
        for number, one in enumerate(self.replications):
            for note in one.notes:
                notes.setdefault(note, []).append(number)
        return [
            note if len(numbers) == len(self) else f"{note} (in row {', '.join(map(str, numbers))})"
            for note, numbers in notes.items()
        ]

    def summary(self) -> pd.DataFrame:
        """Return a row for each design, as texts: the most important metrics and the requested ones with intervals."""
        import pandas as pd

        said = printed(self.metrics, [one.scenario for one in self.replications], self._asked)
        shown = [metric for metric in said if metric in _SHOWN or metric in self._asked]
        return pd.DataFrame(
            [
                {
                    **{column: labels.get(column, "") for column in self.varied},
                    **{metric: str(one[metric]) for metric in shown},
                    "replications": len(one),
                }
                for labels, one in zip(self.labels, self.replications, strict=True)
            ]
        )

    def __str__(self) -> str:
        text: str = self.summary().to_string()
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<Sweep of {self.base.name} over {', '.join(self.varied)}: {len(self)} designs>"

    def _repr_html_(self) -> str:
        html = self.summary().to_html(border=0)
        notes = "".join(f"<br><small>{escape(note)}</small>" for note in self.notes)
        title = f"<b>{escape(heading(self.base))}</b> · {len(self)} designs from seed {self.base.seed}"
        return f"<div>{title}{html}<small>means over replications, with their 95 % intervals</small>{notes}</div>"


@dataclass(frozen=True)
class Variant:
    """A design with its labels: column -> value."""

    labels: dict[str, object]
    scenario: Scenario


def variants(base: Scenario, over: Over) -> list[Variant]:
    """Return the designs of a sweep. Raises: UsageError if an entry is not a design."""
    if isinstance(over, Mapping):
        found = _grid(base, over)
    elif isinstance(over, str) or not isinstance(over, Iterable):
        raise UsageError(f"over: expected a mapping of paths to values, or a list of designs (got {over!r})")
    else:
        found = _named([_variant(base, design) for design in over])
    if not found:
        raise UsageError("over: there is nothing to vary")
    columns = dict.fromkeys(column for one in found for column in one.labels)
    for column in columns:
        if column in ("replication", "replications", "seed", "digest"):
            raise UsageError(f"over: {column} cannot be varied: replications set their own seeds")
    return found


def _grid(base: Scenario, over: Mapping[str, Iterable[object] | Mapping[str, object]]) -> list[Variant]:
    axes: list[list[tuple[str, object, object]]] = []
    for path, values in over.items():
        if isinstance(values, Mapping):
            axes.append([(path, label, value) for label, value in values.items()])
            continue
        # A sequence, or an array or a Series. A set has no order, and a text would be taken apart.
        if isinstance(values, str) or not (isinstance(values, Sequence) or getattr(values, "ndim", 0) == 1):
            raise UsageError(f"over: {path}: expected a list of values (got {values!r})")
        listed = [_plain(value) for value in values]
        labels = _numbered([_label(value) for value in listed])
        axes.append([(path, label, value) for label, value in zip(labels, listed, strict=True)])
    return (
        [
            Variant(
                {path: label for path, label, _ in combination},
                base.replace({path: value for path, _, value in combination}),
            )
            for combination in itertools.product(*axes)
        ]
        if axes
        else []
    )


def _numbered(labels: Sequence[object]) -> list[object]:
    """Return the labels, with a number after each text that repeats, such as those of functions without a name."""
    return [
        f"{label} #{labels[:number].count(label) + 1}" if isinstance(label, str) and label in labels[:number] else label
        for number, label in enumerate(labels)
    ]


def _named(found: list[Variant]) -> list[Variant]:
    """Return the designs; if several have the same name, their labels are their differing fields."""
    names = [one.labels.get(DESIGN) for one in found]
    same = [number for number, name in enumerate(names) if name is not None and names.count(name) > 1]
    labels = design_labels([found[number].scenario for number in same])
    for number, label in zip(same, labels, strict=True):
        found[number] = Variant({DESIGN: label}, found[number].scenario)
    return found


def _variant(base: Scenario, design: Design) -> Variant:
    if isinstance(design, Scenario):
        return Variant({DESIGN: design.name}, design.model_copy(update={"seed": base.seed}))
    if isinstance(design, str):
        return _variant(base, Scenario.load(design))
    if isinstance(design, Mapping):
        return Variant({path: _label(value) for path, value in design.items()}, base.replace(design))
    if callable(design):
        made = design(base)
        if not isinstance(made, Scenario):
            raise UsageError(f"over: {_label(design)} must return a Scenario (got {made!r})")
        return Variant({DESIGN: _label(design)}, made.model_copy(update={"seed": base.seed}))
    raise UsageError(f"over: expected a mapping of paths to values, a scenario or a function (got {design!r})")


def _plain(value: object) -> object:
    """Return a number of NumPy as a plain number, which a scenario takes."""
    return value.item() if isinstance(value, np.generic) else value


def _label(value: object) -> object:
    value = _plain(value)
    if isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__name__", None) or text_of(value)
