"""The parts of a report as plain data: texts, tables and drawings. The template only arranges them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from imsim.analysis.kinds import kind_of
from imsim.scenario.differences import differences

if TYPE_CHECKING:
    import pandas as pd

    from imsim.scenario import Scenario

NULL = "null"

_NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?(?: ?%)?(?: \[[^\]]*\])?(?: ?%)?")  # and its interval

_MOST_SCENARIOS = 6  # next to each other

MOST_ROWS = 200  # of a table: a page with more is too large for a phone


@dataclass(frozen=True)
class Drawing:
    """A figure that is not drawn yet.

    caption: what it shows and how to read it. draw: draws into the axes. shape: "single" (one axes), "pair" (two over
    the same x axis) or "stacked" (two over each other with the same y axis). height: inches.
    """

    caption: str
    draw: Callable[[Any], object]
    shape: Literal["single", "pair", "stacked"] = "single"
    height: float = 3.6


@dataclass(frozen=True)
class Verdict:
    """The verdict on one budget, as a report shows it.

    name: the budget. verdict: "held", "breached", "undecided" or "invalid". value, interval, limit: texts; an empty one
    is left out. reason: why the verdict is not "held". drawing: a figure of it, or None.
    """

    name: str
    verdict: str
    value: str = ""
    interval: str = ""
    limit: str = ""
    reason: str = ""
    drawing: Drawing | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of a table. kind: "number", "text", "null", or "id" for a text that is broken on paper only."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """A table. The first cell of each row is its heading. notes: sentences below the table. is_wide: it gets the whole
    width of the page."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    notes: Sequence[str] = ()
    is_wide: bool = False

    def is_numeric(self, column: int) -> bool:
        """Return whether a column has numbers; then its heading stands above their right ends."""
        kinds = {row[column].kind for row in self.rows}
        return "number" in kinds and "text" not in kinds

    @classmethod
    def of(
        cls,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        caption: str = "",
        notes: Sequence[str] = (),
    ) -> Table:
        """Return a table of plain values: numbers become texts, None and nan become "null"."""
        cells = [[cell(value) for value in row] for row in rows]
        if len(cells) > MOST_ROWS:
            notes = [*notes, f"The first {MOST_ROWS:,} of {len(cells):,} rows."]
        return cls(columns, cells[:MOST_ROWS], caption, notes, is_wide=len(columns) > 7)

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, caption: str = "", notes: Sequence[str] = ()) -> Table:
        """Return a table of a frame, without its index."""
        return cls.of([str(column) for column in frame.columns], frame.itertuples(index=False), caption, notes)


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading. texts stand above the tables, the tables above the figures.

    code: long texts by their names, which are folded on a screen.
    """

    title: str
    texts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    code: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.texts or self.tables or self.drawings or self.code)


@dataclass(frozen=True)
class Part:
    """The part of a report about one subject: the runs, or an experiment.

    kind: what the subject is, such as "comparison". title: of the scenario. headline: the answer in one sentence.
    status: the facts without which no number must be read: runs that are invalid or partial. tiles: the most important
    numbers, by name. notes: facts to know before the numbers are used. sections: the rest.
    """

    kind: str
    title: str
    headline: str
    status: Sequence[str] = ()
    tiles: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    sections: Sequence[Section] = ()


def cell(value: object) -> Cell:
    """Return the cell of a plain value."""
    if isinstance(value, Cell):
        return value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Cell(NULL, "null")
    if isinstance(value, bool) or (kind := getattr(getattr(value, "dtype", None), "kind", "")) == "b":
        return Cell("yes" if value else "no")
    if isinstance(value, int) or kind in ("i", "u"):
        return Cell(f"{value:,}", "number")
    if isinstance(value, float):
        return Cell(number(value), "number")
    text = str(value)
    return Cell(text, "null" if text.startswith(NULL) else "number" if _NUMBER.fullmatch(text) else "text")


def facts(texts: Mapping[str, str], caption: str = "") -> Table:
    """Return a table with a row for each fact."""
    return Table(["", ""], [[Cell(name), Cell(text)] for name, text in texts.items()], caption)


def number(value: float) -> str:
    """Return a number with four digits, and without an exponent where people read one badly."""
    if abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.2e}"


def with_unit(metric: str, value: float | None) -> str:
    """Return a value of a metric with its unit; "null" for None, nan and infinity."""
    if value is None or not math.isfinite(value):
        return NULL
    return f"{value:.1%}" if kind_of(metric).unit == "share" else f"{number(value)}{kind_of(metric).suffix}"


def scenario_section(scenarios: Mapping[str, Scenario], tables: Sequence[Table]) -> Section:
    """Return the section of scenarios and provenance, with the first scenario as TOML that imsim can load.

    The others follow from the table of the fields in which they differ, for up to six scenarios.
    """
    tables = [*tables]
    if 1 < len(scenarios) <= _MOST_SCENARIOS:
        fields = differences(list(scenarios.values()))
        rows = [[Cell(path), *map(Cell, texts)] for path, (_, texts) in fields.items() if path != "seed"]
        if rows:
            tables.insert(0, Table(["field", *scenarios], rows, "The scenarios differ in", is_wide=len(scenarios) > 2))
    name, first = next(iter(scenarios.items()))
    title = f"scenario {name}" if len(scenarios) > 1 else "scenario"
    return Section("Scenario and provenance", tables=tables, code={title: _shortened(first)})


def _shortened(scenario: Scenario, most: int = 12_000) -> str:
    text = scenario.to_toml()
    if len(text) <= most:
        return text
    kept = text[:most].rpartition("\n")[0]
    return f"{kept}\n# ... and {text.count(chr(10)) - kept.count(chr(10)):,} more lines"
