"""A sweep: many designs under the same seeds, a row for each, and what is traded for what."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imsim.analysis.intervals import CONFIDENCE
from imsim.analysis.kinds import axis_label
from imsim.analysis.labels import design_labels, heading, text_of, title_of_all
from imsim.analysis.metrics import printed
from imsim.core.exceptions import UsageError
from imsim.experiments.comparison import difference
from imsim.experiments.replicate import Progress, Replications, Sampling, Store, replicate, to_json
from imsim.scenario import Scenario
from imsim.scenario.errors import suggestion

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: A design: values at dotted paths, a scenario of its own, or a function that makes one from the base.
Design = Mapping[str, object] | Scenario | str | Callable[[Scenario], Scenario]

#: Dotted path -> its values, or names for them -> its values: every combination. Or a list of designs.
Over = Mapping[str, Sequence[object] | Mapping[str, object]] | Sequence[Design]

#: The column of designs that are not given by values.
DESIGN = "design"

_COLOURS = 6  # that can be distinguished
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
    """See `imsim.sweep`; `variants` makes the designs."""
    found = replicate([one.scenario for one in designs], sampling, store=store, progress=progress)
    return Sweep(base, [one.labels for one in designs], found, sampling.asked)


class Sweep:
    """`frame`: a row for each design; `samples`: a row for each replication of each; `plot()`: what is traded for what;
    `sweep[3]`: all that is known of the fourth. Printed is a part of it (see `table`).

    asked: the metrics that the user named.
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
        return self.replications[0].metrics

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row for each design: what was varied, then as in `Replications.row`: every metric that
        `simulate(replications=...)` measures, with its interval."""
        import pandas as pd

        return pd.DataFrame(
            [
                {**{column: labels.get(column) for column in self.varied}, **one.row()}
                for labels, one in zip(self.labels, self.replications, strict=True)
            ]
        )

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row for each replication of each design: what was varied, then as in `Replications.frame`."""
        import pandas as pd

        parts = []
        for labels, one in zip(self.labels, self.replications, strict=True):
            part = one.frame.copy()
            for position, column in enumerate(self.varied):
                part.insert(position, column, [labels.get(column)] * len(part))
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def pareto(self, x: str = _COST, y: str = _LATENCY) -> pd.DataFrame:
        """The Pareto front: the rows of `frame`, by ascending `x`, that have less `y` than the one before, and by more
        than luck: the 95 % interval of the paired difference says so. See `ties` for the others that may be as
        good."""
        return self.frame.loc[self._front(x, y)[0]]

    def ties(self, x: str = _COST, y: str = _LATENCY) -> pd.DataFrame:
        """The rows of `frame` whose `y` is not told apart from that of the row on the front that has no more `x`: what
        they have more of `x` is not known to be worth it."""
        return self.frame.loc[self._front(x, y)[1]]

    def _front(self, x: str, y: str) -> tuple[list[int], list[int]]:
        """The numbers of the designs on the front, and of those tied with it."""
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
        """-1 if b has less than a, 1 if it has more, 0 if that is not known: under common random numbers the difference
        in each replication says more than two intervals side by side. It is not known if the runs of one are too short
        for this percentile."""
        if self[a].flaw(metric) or self[b].flaw(metric):
            return 0
        count = min(len(self[a]), len(self[b]))
        found = difference(metric, self[a].values(metric)[:count], self[b].values(metric)[:count]).absolute
        assert found.value is not None
        low = found.value if found.low is None else found.low
        high = found.value if found.high is None else found.high
        return (low > 0) - (high < 0)

    def plot(self, x: str | None = None, y: str = _LATENCY, hue: str | None = None, ax: Axes | None = None) -> Axes:
        """What is traded for what.

        x: a metric (what it costs, if there are prices): a point for each design, with intervals and the Pareto front;
            hollow where it is not told apart from the front (`ties`). Or what was varied: lines.
        hue: what else was varied, by colour. y: a metric.
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

    def save_plot(self, path: str | Path, x: str | None = None, y: str = _LATENCY, hue: str | None = None) -> Path:
        """The same as a file, whose suffix chooses the format (.png, .svg, .pdf). Raises: UsageError if it cannot be
        written."""
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
                f"sweep: there is no {column!r} here{suggestion(column, known)}; known: {', '.join(known)}"
            )

    def to_json_dict(self) -> dict[str, Any]:
        """What `imsim sweep --json` prints."""
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

    @property
    def notes(self) -> list[str]:
        """What to know before these numbers are used, each once."""
        notes: dict[str, list[int]] = {}
        for number, one in enumerate(self.replications):
            for note in one.notes:
                notes.setdefault(note, []).append(number)
        return [
            note if len(numbers) == len(self) else f"{note} (in row {', '.join(map(str, numbers))})"
            for note, numbers in notes.items()
        ]

    @property
    def table(self) -> pd.DataFrame:
        """The frame for reading: the usual metrics and those that were asked for, each number with its interval in one
        cell."""
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
        text: str = self.table.to_string()
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<Sweep of {self.base.name} over {', '.join(self.varied)}: {len(self)} designs>"

    def _repr_html_(self) -> str:
        html = self.table.to_html(border=0)
        notes = "".join(f"<br><small>{escape(note)}</small>" for note in self.notes)
        title = f"<b>{escape(heading(self.base))}</b> · {len(self)} designs from seed {self.base.seed}"
        return f"<div>{title}{html}<small>means over replications, with their 95 % intervals</small>{notes}</div>"


@dataclass(frozen=True)
class Variant:
    """A design, and its labels: column -> value."""

    labels: dict[str, object]
    scenario: Scenario


def variants(base: Scenario, over: Over) -> list[Variant]:
    """The designs of a sweep. Raises: UsageError for what is not a design."""
    if isinstance(over, Mapping):
        found = _grid(base, over)
    elif isinstance(over, str):
        raise UsageError(f"sweep: expected a mapping of paths to values or a list of designs, got {over!r}")
    else:
        found = _named([_variant(base, design) for design in over])
    if not found:
        raise UsageError("sweep: there is nothing to vary")
    columns = dict.fromkeys(column for one in found for column in one.labels)
    for column in columns:
        if column in ("replication", "replications", "seed", "digest"):
            raise UsageError(f"sweep: {column} is not for varying: replications have seeds of their own")
    return found


def _grid(base: Scenario, over: Mapping[str, Sequence[object] | Mapping[str, object]]) -> list[Variant]:
    axes: list[list[tuple[str, object, object]]] = []
    for path, values in over.items():
        if isinstance(values, Mapping):
            axes.append([(path, label, value) for label, value in values.items()])
        elif isinstance(values, str) or not isinstance(values, Sequence | np.ndarray | range):
            raise UsageError(f"sweep: {path}: expected a list of values, got {values!r}")
        else:
            labels = _numbered([_label(value) for value in values])
            axes.append([(path, label, value) for label, value in zip(labels, values, strict=True)])
    return (
        [
            Variant(
                {path: label for path, label, _ in combination},
                base.with_({path: value for path, _, value in combination}),
            )
            for combination in itertools.product(*axes)
        ]
        if axes
        else []
    )


def _numbered(labels: Sequence[object]) -> list[object]:
    """With a number at each but the first of the texts that are the same: functions without a name, say."""
    return [
        f"{label} #{labels[:number].count(label) + 1}" if isinstance(label, str) and label in labels[:number] else label
        for number, label in enumerate(labels)
    ]


def _named(found: list[Variant]) -> list[Variant]:
    """Designs of one name (scenarios that `with_` made, lambdas) are called by what they differ in."""
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
        return Variant({path: _label(value) for path, value in design.items()}, base.with_(design))
    if callable(design):
        made = design(base)
        if not isinstance(made, Scenario):
            raise UsageError(f"sweep: {_label(design)} was to make a scenario from the base, and made {made!r}")
        return Variant({DESIGN: _label(design)}, made.model_copy(update={"seed": base.seed}))
    raise UsageError(f"sweep: expected a mapping of paths to values, a scenario or a function, got {design!r}")


def _label(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__name__", None) or text_of(value)
