"""The parts of a report that experiments offer: each result's answer first, then its numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, singledispatch
from typing import Any

from imsim.analysis.intervals import CONFIDENCE
from imsim.analysis.kinds import kind_of
from imsim.analysis.labels import heading
from imsim.analysis.latency import is_latency
from imsim.analysis.report.parts import Cell, Drawing, Part, Section, Table, cell, facts, number, scenario_section
from imsim.analysis.report.provenance import origin_texts
from imsim.analysis.report.run_figures import replications
from imsim.experiments.capacity import Capacity
from imsim.experiments.comparison import Comparison
from imsim.experiments.live_capacity import LiveCapacity
from imsim.experiments.replicate import Replications
from imsim.experiments.sweep import Sweep
from imsim.results.run import origin
from imsim.scenario import Scenario

_FIRST = "delivery.p99"  # the metric of a headline

#: The results that a report can show.
Experiment = Replications | Comparison | Sweep | Capacity


@singledispatch
def part_of(found: object) -> Part:
    """Return the part of a report about an experiment. Raises: TypeError for anything else."""
    raise TypeError(type(found).__name__)


@part_of.register
def _(found: Replications) -> Part:
    first = _FIRST if _FIRST in found.metrics else found.printed[0]
    rows = []
    summary = found.summary()
    for metric in found.printed:
        one = found[metric]
        rows.append(
            [
                Cell(_named(metric)),
                cell(str(one)),
                *(cell(float(summary[end][metric])) for end in ("smallest", "largest")),
            ]
        )
    notes = [f"Means over {len(found)} replications with their {CONFIDENCE:.0%} t-intervals.", *_null_note(rows)]
    values = {
        name: found.values(name)
        for name in found.printed
        if is_latency(name) and name.partition(".")[2] in ("p50", "p95", "p99")
    }
    return Part(
        f"{len(found)} replications",
        heading(found.scenario),
        f"{_named(first)} is {found[first]}: the mean over {len(found)} replications.",
        notes=found.notes,
        sections=[
            Section(
                "Summary",
                tables=[Table(["metric", "mean", "smallest", "largest"], rows, notes=notes)],
                drawings=[replications(values)] if values else [],
            ),
            _provenance({"scenario": found.scenario}, found.samples),
        ],
    )


@part_of.register
def _(found: Comparison) -> Part:
    metrics = found._printed
    rows = []
    for metric in metrics:
        one = found[metric]
        known = {"A": "A", "B": "B", "=": "equal", "?": "undecided"}
        relative = one.relative
        share = "–" if relative.value is None else f"{relative.value:+.1%}"
        if relative.low is not None and relative.high is not None:
            share += f" [{relative.low:+.1%}, {relative.high:+.1%}]"
        texts = map(cell, (str(one.absolute), str(one.a), str(one.b)))
        rows.append([Cell(_named(metric)), Cell(known.get(one.better, "–")), Cell(share, "number"), *texts])
    columns = ["metric", "better", "B against A", "B - A", "A", "B"]
    notes = [f"Means over {found.pairs} pairs with their {CONFIDENCE:.0%} intervals; those of B - A are paired."]
    a, b = found.labels
    tables = [Table(columns, rows, notes=[f"A: {a}. B: {b}.", *notes, *_null_note(rows)])]
    has_latency = any(map(is_latency, metrics))
    caption = "Each latency of A and B, and below it the difference of B from A as a share of A, with 95 % intervals."
    height = 2.6 + 0.32 * sum(map(is_latency, metrics))
    first = _FIRST if _FIRST in found.differences else metrics[0]
    return Part(
        "comparison of two designs",
        heading(found.a.scenario),
        f"{found[first]}.",
        tiles={"A": a, "B": b, "pairs": str(found.pairs)},
        notes=found.notes,
        sections=[
            Section(
                "Summary",
                tables=tables,
                drawings=[Drawing(caption, found.plot, "stacked", height)] if has_latency else [],
            ),
            _provenance({"A": found.a.scenario, "B": found.b.scenario}, found.a.samples),
        ],
    )


@part_of.register
def _(found: Sweep) -> Part:
    y = _FIRST if _FIRST in found.metrics else found.metrics[0]
    table = Table.of_frame(found.summary(), notes=["Means over replications with their 95 % intervals."])
    known = found.frame.dropna(subset=[y])
    headline = f"{_named(y)} is null in all {len(found)} designs."
    if len(known):
        rows = sorted(known.to_dict("records"), key=lambda row: row[y])
        low, high = (
            f"{number(row[y])}{kind_of(y).suffix} ({_design(row, found.varied)})" for row in (rows[0], rows[-1])
        )
        null = len(found) - len(known)
        more = f"; it is null in {null} of {len(found)} designs" if null else ""
        headline = f"{_named(y)} is from {low} to {high}{more}."
    drawings = [
        Drawing(
            f"{y} over {column}: means with 95 % intervals.",
            partial(_over, found, column, y),
            height=4.0,
        )
        for column in found.varied[:3]
        if found.frame[column].nunique(dropna=False) > 1
    ]
    if "cost.per_hour" in found.metrics:
        caption = f"{y} against the cost per hour. No design is better than those on the Pareto front in both."
        drawings.insert(0, Drawing(caption, lambda ax: found.plot("cost.per_hour", y, ax=ax), height=4.6))
    return Part(
        f"sweep of {len(found)} designs",
        heading(found.base),
        headline,
        tiles={"designs": str(len(found)), "runs": f"{sum(map(len, found.replications)):,}"},
        notes=found.notes,
        sections=[
            Section("Latency over what was varied", drawings=drawings),
            Section("Designs", tables=[table]),
            _provenance({"base scenario": found.base}, found[0].samples),
        ],
    )


@part_of.register
def _(found: Capacity) -> Part:
    is_live = isinstance(found, LiveCapacity)
    where = "the load generator" if is_live else "each tier's busiest node"
    caption = f"The knee: {found.budget.metric} over {found.over}, above how busy {where} was. The bracket is shaded."
    table = Table.of_frame(found.summary(), notes=["A load keeps or breaks the budget, or is undecided."])
    sections = [
        Section("The knee", drawings=[Drawing(caption, found.plot, "pair", 5.2)], tables=[table]),
        *([_live_runs(found)] if isinstance(found, LiveCapacity) else []),
        _provenance({"scenario": found.scenario}, (), {"server": found.url} if isinstance(found, LiveCapacity) else {}),
    ]
    tiles = {"budget": str(found.budget), "keeps": _load(found.keeps), "breaks": _load(found.breaks)}
    status = []
    if isinstance(found, LiveCapacity):
        status = ["partial: the time was over before the loads were close enough"] if not found.is_complete else []
    return Part(
        "capacity of a server" if is_live else "capacity of a simulated design",
        heading(found.scenario),
        f"{found.verdict}.",
        status=status,
        tiles=tiles,
        notes=found.notes,
        sections=sections,
    )


def _over(found: Sweep, column: str, y: str, ax: Any) -> None:
    found.plot(column, y, ax=ax)


def _live_runs(found: LiveCapacity) -> Section:
    """Return every run of a search with the health of the load generator."""
    metric = found.budget.metric
    runs = found.runs
    rows = [
        [
            Cell(number(float(row[found.over]))),
            cell(int(row["seed"])),
            cell(float(row[metric])),
            *(cell(float(row[f"generator.{name}"])) for name in ("p50", "p99", "cpu")),
            Cell("yes" if row["valid"] else "NO"),
            Cell(str(row["reason"] or "")),
        ]
        for row in runs.to_dict("records")
    ]
    columns = [found.over, "seed", _named(metric), "late p50 (ms)", "late p99 (ms)", "CPU (cores)", "valid", "reason"]
    notes = ["Late: the generator's own delays. A run that the generator spoilt is not judged."]
    return Section("Load generator", tables=[Table(columns, rows, notes=notes)])


def _provenance(scenarios: Mapping[str, Scenario], samples: Sequence[Any], more: Mapping[str, str] = {}) -> Section:
    """Return the scenarios, the seeds and digests of the first replications, and this installation."""
    tables = [facts({**more, **origin_texts(origin())})]
    if samples:
        rows = [
            [Cell(str(one.replication)), Cell(str(one.seed), "id"), Cell(one.digest[:16], "id")] for one in samples[:40]
        ]
        tables.append(Table(["replication", "seed", "digest"], rows, "Replications"))
    return scenario_section(scenarios, tables)


def _design(row: Any, varied: Sequence[str]) -> str:
    return ", ".join(f"{column} = {row[column]}" for column in varied)


def _load(load: float | None) -> str:
    return "none known" if load is None else number(load)


def _named(metric: str) -> str:
    unit = kind_of(metric).suffix.strip()
    return f"{metric} ({unit})" if unit else metric


def _null_note(rows: Sequence[Sequence[Cell]]) -> list[str]:
    if not any(one.kind == "null" for row in rows for one in row):
        return []
    return ["null: in some replication it falls among messages that never arrived, or there was nothing to measure."]
