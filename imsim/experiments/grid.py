"""The designs of a sweep: every combination of some values, or just those that are listed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imsim.core.exceptions import UsageError
from imsim.scenario import Scenario

#: A design: values at dotted paths, a scenario of its own, or a function that makes one from the base.
Design = Mapping[str, object] | Scenario | str | Callable[[Scenario], Scenario]

#: Dotted path -> its values, or names for them -> its values: every combination. Or a list of designs.
Over = Mapping[str, Sequence[object] | Mapping[str, object]] | Sequence[Design]

#: The column of designs that are not given by values.
DESIGN = "design"


@dataclass(frozen=True)
class Point:
    """A design, and what tells it from the others: column -> value."""

    labels: dict[str, object]
    scenario: Scenario


def grid_points(base: Scenario, over: Over) -> list[Point]:
    """Raises: UsageError for what is no design, before anything is run."""
    if isinstance(over, Mapping):
        found = _grid(base, over)
    elif isinstance(over, str):
        raise UsageError(f"sweep: expected a mapping of paths to values or a list of designs, got {over!r}")
    else:
        found = [_point(base, design) for design in over]
    if not found:
        raise UsageError("sweep: there is nothing to vary")
    columns = dict.fromkeys(column for point in found for column in point.labels)
    for column in columns:
        if column in ("replication", "replications", "seed", "digest"):
            raise UsageError(f"sweep: {column} is not for varying: replications have seeds of their own")
    return found


def _grid(base: Scenario, over: Mapping[str, Sequence[object] | Mapping[str, object]]) -> list[Point]:
    axes: list[list[tuple[str, object, object]]] = []
    for path, values in over.items():
        if isinstance(values, Mapping):
            axes.append([(path, label, value) for label, value in values.items()])
        elif isinstance(values, str) or not isinstance(values, Sequence | np.ndarray | range):
            raise UsageError(f"sweep: {path}: expected a list of values, got {values!r}")
        else:
            axes.append([(path, _label(value), value) for value in values])
    return (
        [
            Point(
                {path: label for path, label, _ in combination},
                base.with_({path: value for path, _, value in combination}),
            )
            for combination in itertools.product(*axes)
        ]
        if axes
        else []
    )


def _point(base: Scenario, design: Design) -> Point:
    if isinstance(design, Scenario):
        return Point({DESIGN: design.name}, design.model_copy(update={"seed": base.seed}))
    if isinstance(design, str):
        return _point(base, Scenario.load(design))
    if isinstance(design, Mapping):
        return Point({path: _label(value) for path, value in design.items()}, base.with_(design))
    if callable(design):
        made = design(base)
        if not isinstance(made, Scenario):
            raise UsageError(f"sweep: {_label(design)} was to make a scenario from the base, and made {made!r}")
        return Point({DESIGN: _label(design)}, made.model_copy(update={"seed": base.seed}))
    raise UsageError(f"sweep: expected a mapping of paths to values, a scenario or a function, got {design!r}")


def _label(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and "kind" in value:
        return " ".join([str(value["kind"]), *(f"{key}={item}" for key, item in value.items() if key != "kind")])
    return getattr(value, "__name__", None) or str(value)
