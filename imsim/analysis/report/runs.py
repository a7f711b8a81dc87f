"""The part of a report about runs: one, two next to each other, or many."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from imsim.analysis import latency, recovery, run_length
from imsim.analysis.breakdown import utilisation
from imsim.analysis.intervals import Estimate, estimate
from imsim.analysis.kinds import kind_of
from imsim.analysis.labels import heading, run_labels
from imsim.analysis.report import provenance, run_figures
from imsim.analysis.report.knee import knee
from imsim.analysis.report.parts import Cell, Part, Section, Table, cell, number, with_unit
from imsim.analysis.report.readings import STATISTICS, Reading, designs_of
from imsim.analysis.run import Run
from imsim.core.model import Scene
from imsim.results import World

#: Up to this number of runs, each has columns of its own.
FEW = 2

_MOST_DESIGNS = 4  # that have columns of their own

_COUNTS = (
    "messages", "stored", "deliveries", "delivered", "lost", "absent", "recalled", "shed", "received_lost",
    "duplicates",
)  # fmt: skip
_ALWAYS = ("messages", "deliveries", "delivered", "lost", "duplicates")

_NEVER = "null: the number falls among messages that never arrived."
_NOTHING = "null: there was nothing to measure."


def part_of(runs: Sequence[Run], progress: Callable[[str, float], None] | None = None) -> Part:
    """Return the part about these runs. progress: receives the current activity and the share that is done."""
    labels, (designs, design_labels) = run_labels(runs), designs_of(runs)
    readings = []
    for position, (run, label, design) in enumerate(zip(runs, labels, designs, strict=True)):
        if progress:
            progress(f"reading run {position + 1} of {len(runs)}", position / len(runs))
        readings.append(Reading.of(run, label, design, has_course=len(runs) > FEW))
    return _few(readings) if len(readings) <= FEW else _many(readings, design_labels)


# --- one or two runs --------------------------------------------------------------------------------------------------


def _few(readings: Sequence[Reading]) -> Part:
    names = ["A", "B"] if len(readings) == 2 else [readings[0].label]
    runs = [one.run for one in readings]
    sections = [
        Section(
            "Summary",
            tables=[_statistics(readings[0]) if len(readings) == 1 else _against(readings)],
            drawings=run_figures.latencies(readings, names),
        ),
        Section("Latency over time", [*_recoveries(readings, names)], drawings=run_figures.courses(readings, names)),
        Section(
            "Where the time goes",
            _breakdown_texts(runs),
            [*_breakdown_tables(readings, names)],
            run_figures.breakdowns(readings, names),
        ),
        _losses([(name, [one]) for name, one in zip(names, readings, strict=True)]),
        _sizes([(name, [one]) for name, one in zip(names, readings, strict=True)]),
        provenance.generator(readings, names),
        provenance.provenance(readings, names),
    ]
    titles = list(dict.fromkeys(heading(run.scenario) for run in runs))
    return Part(
        "one run" if len(runs) == 1 else "two runs",
        " · ".join(titles),
        _headline_of_one(readings[0]) if len(runs) == 1 else _headline_of_two(readings),
        _status(readings, names),
        _tiles(readings[0]) if len(runs) == 1 else {f"{n}": one.label for n, one in zip(names, readings, strict=True)},
        _notes(readings, names),
        sections,
    )


def _headline_of_one(one: Reading) -> str:
    due = one.kinds["delivery"]
    never = f"{due.lost:,} of {due.count:,} deliveries never arrived" if due.lost else f"all {due.count:,} arrived"
    if not due.count:
        return "There are no deliveries after the warm-up."
    p50, p99 = (with_unit("delivery.p99", one.value(f"delivery.{name}")) for name in ("p50", "p99"))
    return f"Deliveries take {p50} at the median and {p99} at p99; {never}."


def _headline_of_two(readings: Sequence[Reading]) -> str:
    a, b = (one.value("delivery.p99") for one in readings)
    if readings[0].run.digest == readings[1].run.digest:
        return "The rows of A and B are equal: they have the same digest."
    text = f"Delivery p99 is {with_unit('delivery.p99', a)} in A and {with_unit('delivery.p99', b)} in B"
    change = f" ({b / a - 1:+.1%})" if math.isfinite(a) and math.isfinite(b) and a > 0 else ""
    lost = [one.counts.lost for one in readings]
    return f"{text}{change}; {lost[0]:,} and {lost[1]:,} deliveries were lost."


def _tiles(one: Reading) -> dict[str, str]:
    metrics = ["delivery.p50", "delivery.p99", *(["last.p99"] if "last" in one.kinds else [])]
    metrics += ["ack.p99"] if "ack" in one.kinds else []
    found = {name: with_unit(name, one.value(name)) for name in metrics}
    counts = {name: f"{getattr(one.counts, name):,}" for name in ("messages", "lost", "duplicates")}
    return found | counts


def _statistics(one: Reading) -> Table:
    """Return the latencies of one run with a column for each kind, which fits a phone, above the counts."""
    kinds = list(one.kinds.items())
    rows: list[list[object]] = [["latencies", *(kind.count for _, kind in kinds)]]
    rows.append(["never arrived", *(kind.lost for _, kind in kinds)])
    rows += [[f"{what} (ms)", *(_ms(one.value(f"{name}.{what}")) for name, _ in kinds)] for what in STATISTICS]
    counts = ", ".join(f"{getattr(one.counts, name):,} {name}" for name in _used([one]))
    notes = [
        "Latencies after the warm-up, since the intended time. One run has no intervals: "
        + ("imsim replicate gives them." if one.run.world == World.SIM else "a report of several runs has them."),
        f"All rows, with the warm-up: {counts.replace('_', ' and ')}.",
        *_null_notes([one], [f"{name}.{what}" for name, _ in kinds for what in STATISTICS]),
    ]
    if one.counts.shed:
        notes.append(f"{one.counts.shed_share:.1%} of all deliveries were shed, in addition to those above.")
    return Table.of(["", *(name.replace("_", " by ") for name, _ in kinds)], rows, notes=notes)


def _against(readings: Sequence[Reading]) -> Table:
    """Return the metrics of two runs, with the change from A to B."""
    rows = []
    metrics = _metrics(readings)
    for metric in metrics:
        a, b = (one.value(metric) for one in readings)
        is_known = math.isfinite(a) and math.isfinite(b)
        change = f"{b / a - 1:+.1%}" if is_known and a else ("0" if is_known and a == b else "–")
        rows.append([Cell(_named(metric)), *(_shown(metric, value) for value in (a, b)), Cell(change, "number")])
    notes = [
        f"A: {readings[0].label}. B: {readings[1].label}. Latencies after the warm-up; counts of all rows.",
        "One run of each cannot tell a difference from chance: imsim compare gives intervals.",
        *_null_notes(readings, metrics),
    ]
    return Table(["", "A", "B", "B against A"], rows, notes=notes)


def _breakdown_tables(readings: Sequence[Reading], names: Sequence[str]) -> Iterator[Table]:
    for name, one in zip(names, readings, strict=True):
        caption = f"{name}: " if len(readings) > 1 else ""
        if one.run.has("spans"):
            found = one.run.breakdown().head(12)
            rows = [
                [f"{kind}, {where}" if where else kind, row["mean"], row["p99"], Cell(f"{row['share']:.1%}", "number")]
                for (kind, where), row in zip(found.index, found.to_dict("records"), strict=True)
            ]
            yield Table.of(
                ["span", "mean (ms)", "p99 (ms)", "share"], rows, f"{caption}The longest parts of deliveries"
            )
        if one.busy:
            table = utilisation(one.run)
            rows = [
                [node, Cell(f"{row['busy']:.1%}", "number"), int(row["jobs"]), int(row["drops"])]
                for node, row in zip(table.index, table.to_dict("records"), strict=True)
            ]
            yield Table.of(["node", "workers busy", "jobs", "dropped"], rows, f"{caption}Nodes")


def _breakdown_texts(runs: Sequence[Run]) -> list[str]:
    if not any(run.world == World.SIM for run in runs) or any(run.has("spans") for run in runs):
        return []
    return ["The run recorded no spans. imsim simulate --spans records where the time of each delivery goes."]


def _recoveries(readings: Sequence[Reading], names: Sequence[str]) -> Iterator[str]:
    for name, one in zip(names, readings, strict=True):
        for found in recovery.recoveries(one.run):
            yield f"{name}: {found}" if len(readings) > 1 else str(found)


# --- many runs --------------------------------------------------------------------------------------------------------


def _many(readings: Sequence[Reading], labels: Mapping[str, str]) -> Part:
    names = [str(position + 1) for position in range(len(readings))]
    designs: dict[str, list[Reading]] = {}
    for one in readings:
        designs.setdefault(one.design, []).append(one)
    groups = list(designs.items())
    columns = groups if len(groups) <= _MOST_DESIGNS else [("all runs", list(readings))]
    knees = knee([(design, [one for one in group if one.is_sound]) for design, group in groups])
    sections = [
        Section(
            "Summary",
            tables=[*_designs(groups, labels), *_estimates(groups)],
            drawings=run_figures.of_design(groups),
        ),
        *([knees] if knees else []),
        Section("Latency", drawings=run_figures.many(readings)),
        Section("Latency over time", drawings=run_figures.course_of_many(readings)),
        Section("Where the time goes", _breakdown_texts_of_many(readings), [*_busy(groups)]),
        _losses(columns),
        _sizes(columns),
        Section("Runs", tables=[_runs(readings, names)]),
        provenance.generator(readings, names),
        provenance.provenance(readings, names),
    ]
    titles = list(dict.fromkeys(heading(one.run.scenario) for one in readings))
    return Part(
        f"{len(readings)} runs",
        " · ".join(titles[:3]) + (f" and {len(titles) - 3} more" if len(titles) > 3 else ""),
        _headline_of_many(groups),
        _status(readings, names),
        _tiles_of_many(readings, len(groups)),
        _notes(readings, names),
        sections,
    )


def _headline_of_many(groups: Sequence[tuple[str, list[Reading]]]) -> str:
    found = [(design, _estimate(group, "delivery.p99"), len(group)) for design, group in groups]
    if not any(one.replications for _, one, _ in found):
        return "All runs are invalid or partial, so no number is averaged."
    count = sum(runs for _, _, runs in found)
    if len(found) == 1:
        return (
            f"Delivery p99 is {_interval(found[0][1])} ms: the mean over {found[0][1].replications} runs of one design."
        )
    known = sorted((one.value, design) for design, one, _ in found if one.value is not None)
    if not known:
        return f"{count} runs of {len(found)} designs. Delivery p99 is null in each design."
    (low, best), (high, worst) = known[0], known[-1]
    text = f"Delivery p99 is from {number(low)} ms ({best}) to {number(high)} ms ({worst})"
    null = len(found) - len(known)
    more = f"; it is null in {null} of {len(found)} designs" if null else ""
    return f"{text} in {count} runs of {len(found)} designs{more}."


def _tiles_of_many(readings: Sequence[Reading], designs: int) -> dict[str, str]:
    found = {"runs": f"{len(readings):,}", "designs": f"{designs:,}"}
    found["invalid or partial"] = f"{sum(not one.is_sound for one in readings):,}"
    for name in ("messages", "lost", "duplicates"):
        found[name] = f"{sum(getattr(one.counts, name) for one in readings):,}"
    return found


def _estimate(group: Sequence[Reading], metric: str) -> Estimate:
    """Return the mean of a metric over the sound runs of a design. Runs that are too short give no interval."""
    sound = [one for one in group if one.is_sound]
    found = estimate([one.value(metric) for one in sound], *kind_of(metric).limits)
    needed = run_length.needed(metric) if run_length.share_of(metric) else 0
    fewest = min((one.kinds[kind].count for one in sound if (kind := metric.partition(".")[0]) in one.kinds), default=0)
    return Estimate(found.value, None, None, found.replications, found.undefined) if fewest < needed else found


def _interval(found: Estimate, unit: str = "") -> str:
    if found.value is None:
        return str(found)
    shown = (lambda value: f"{100 * value:.3g}") if unit == "share" else number
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f" [{shown(found.low)}, {shown(found.high)}]"
    return f"{shown(found.value)}{interval}{' %' if unit == 'share' else ''}"


def _designs(groups: Sequence[tuple[str, list[Reading]]], labels: Mapping[str, str]) -> Iterator[Table]:
    """Yield the table that explains the letters of designs."""
    if len(groups) > 1:
        rows = [[Cell(design), Cell(labels[design]), cell(len(group))] for design, group in groups]
        yield Table(["design", "", "runs"], rows)


def _estimates(groups: Sequence[tuple[str, list[Reading]]]) -> list[Table]:
    """Return the means with intervals: a column for each design, or a row if there are many designs."""
    readings = [one for _, group in groups for one in group]
    metrics = _metrics(readings)
    counts = {design: sum(one.is_sound for one in group) for design, group in groups}
    left_out = len(readings) - sum(counts.values())
    notes = ["Means over the runs of a design, with their 95 % t-intervals. The designs' runs differ in seeds only."]
    if left_out:
        notes.append(f"{left_out} of {len(readings)} runs are invalid or partial, and left out.")
    if min(counts.values()) < 2:
        notes.append("A design with one run has no interval.")
    found = {(design, metric): _estimate(group, metric) for design, group in groups for metric in metrics}
    if any(one.value is not None and one.low is None and one.replications > 1 for one in found.values()):
        notes.append("A percentile has no interval if a run has fewer than ten latencies beyond it.")
    if any(one.undefined for one in found.values()):
        notes.append(
            "null in n of m runs: there it falls among messages that never arrived, or there was nothing to measure."
        )
    if len(groups) <= _MOST_DESIGNS:
        rows = [
            [
                Cell(_named(metric)),
                *(cell(_interval(found[design, metric], kind_of(metric).unit)) for design, _ in groups),
            ]
            for metric in metrics
        ]
        heads = [f"{design} ({counts[design]} runs)" if design else f"{counts[design]} runs" for design, _ in groups]
        return [Table(["", *heads], rows, notes=notes)]
    shown = [m for m in metrics if m in ("delivery.p50", "delivery.p99", "last.p99", "ack.p99", "lost", "shed")]
    rows = [
        [Cell(design), *(cell(_interval(found[design, metric])) for metric in shown), cell(counts[design])]
        for design, _ in groups
    ]
    return [Table(["design", *map(_named, shown), "runs"], rows, notes=notes)]


def _busy(groups: Sequence[tuple[str, list[Reading]]]) -> Iterator[Table]:
    """Yield how busy each tier of simulated designs was."""
    tiers = list(dict.fromkeys(tier for _, group in groups for one in group for tier in one.busy))
    if tiers:
        rows = [
            [
                Cell(design or "all runs"),
                *(cell(_interval(_estimate(group, f"utilisation.{t}"), "share")) for t in tiers),
            ]
            for design, group in groups
        ]
        yield Table(["workers busy", *tiers], rows, notes=["Of the busiest node of each tier."])


def _breakdown_texts_of_many(readings: Sequence[Reading]) -> list[str]:
    spans = sum(one.run.has("spans") for one in readings)
    return [f"{spans} runs have spans: a report of one or two of them shows where the time goes."] if spans else []


def _runs(readings: Sequence[Reading], names: Sequence[str]) -> Table:
    metrics = ["delivery.p50", "delivery.p95", "delivery.p99", "delivery.max"]
    metrics += [name for name in ("last.p99", "ack.p99") if any(name.split(".")[0] in one.kinds for one in readings)]
    has_letters = any(one.design for one in readings)
    rows = [
        [
            Cell(name),
            *([Cell(text, "id") for text in (one.design, str(one.run.seed))] if has_letters else [Cell(one.label)]),
            *([Cell(one.mark or "ok")] if any(other.mark for other in readings) else []),
            cell(one.counts.messages),
            cell(one.counts.lost),
            *(_shown(metric, one.value(metric)) for metric in metrics),
        ]
        for name, one in zip(names, readings, strict=True)
    ]
    marks = ["status"] if any(one.mark for one in readings) else []
    columns = ["", *(["design", "seed"] if has_letters else ["run"]), *marks, "messages", "lost", *map(_named, metrics)]
    return Table.of(columns, rows, notes=_null_notes(readings, metrics))


# --- for any number of runs -------------------------------------------------------------------------------------------


def _status(readings: Sequence[Reading], names: Sequence[str]) -> list[str]:
    if len(readings) == 1:
        return readings[0].run.status
    found = [
        f"{name} ({one.label}): {line}" for name, one in zip(names, readings, strict=True) for line in one.run.status
    ]
    count = sum(bool(one.run.status) for one in readings)
    more = [f"... and {len(found) - 10} more lines like these: see the table of runs"] if len(found) > 10 else []
    counted = [f"{count} of {len(readings)} runs are invalid or partial."] if len(readings) > FEW and count else []
    return [*counted, *found[:10], *more]


def _notes(readings: Sequence[Reading], names: Sequence[str]) -> list[str]:
    """Return the warnings of the runs; one that several runs have stands once."""
    found: dict[str, dict[str, str]] = {}  # by the text without its numbers: the run and its text
    for name, one in zip(names, readings, strict=True):
        for warning in [*one.warnings, *(run_length.few_notes(one.run) if len(readings) <= FEW else [])]:
            found.setdefault(re.sub(r"[\d.,]+", "#", warning), {})[name] = warning
    lines = []
    for of in found.values():
        name, line = next(iter(of.items()))
        if len(readings) == 1 or (len(of) == len(readings) and len(set(of.values())) == 1):
            lines.append(line)
            continue
        others = list(of)[1:]
        more = f"; similar: {', '.join(others[:20])}{' ...' if len(others) > 20 else ''}" if others else ""
        lines.append(f"{line} (run {name}{more})")
    return [*lines[:30], *([f"... and {len(lines) - 30} more"] if len(lines) > 30 else [])]


def _metrics(readings: Sequence[Reading]) -> list[str]:
    kinds = [name for name in latency.ROWS if any(name in one.kinds for one in readings)]
    return [*(f"{name}.{what}" for name in kinds for what in STATISTICS), *_used(readings)]


def _used(readings: Sequence[Reading]) -> list[str]:
    return [name for name in _COUNTS if name in _ALWAYS or any(getattr(one.counts, name) for one in readings)]


def _named(metric: str) -> str:
    what, _, statistic = metric.partition(".")
    return f"{what.replace('_', ' by ')} {statistic} (ms)" if statistic else metric.replace("_", " and ")


def _shown(metric: str, value: float) -> Cell:
    return _ms(value) if "." in metric else cell(int(value))


def _ms(value: float) -> Cell:
    return cell(value)


def _null_notes(readings: Sequence[Reading], metrics: Sequence[str]) -> list[str]:
    values = [one.value(metric) for one in readings for metric in metrics if "." in metric]
    found = [_NEVER] if any(map(math.isinf, values)) else []
    return [*found, _NOTHING] if any(map(math.isnan, values)) else found


def _losses(columns: Sequence[tuple[str, Sequence[Reading]]]) -> Section:
    """Return why messages and deliveries did not arrive, with a column for each run or design."""
    counts: dict[tuple[str, str, str], list[int]] = {}
    totals = {"messages": [0] * len(columns), "deliveries": [0] * len(columns)}
    for position, (_, group) in enumerate(columns):
        totals["messages"][position] = sum(one.counts.messages for one in group)
        totals["deliveries"][position] = sum(one.counts.deliveries for one in group)
        for loss in (loss for one in group for loss in one.losses):
            key = (loss.what, str(loss.outcome), loss.reason)
            counts.setdefault(key, [0] * len(columns))[position] += loss.count
    if not counts:
        due = sum(totals["deliveries"])
        return Section("Losses by reason", [f"Nothing was lost: all {due:,} deliveries arrived."])
    tables = []
    for what, total in totals.items():
        chosen = {key: of for key, of in counts.items() if key[0] == what}
        if chosen:
            rows = [
                [Cell(outcome), Cell(reason), *(_share(n, all_) for n, all_ in zip(of, total, strict=True))]
                for (_, outcome, reason), of in sorted(chosen.items(), key=lambda item: -sum(item[1]))
            ]
            heads = [name or "count" for name, _ in columns] if len(columns) > 1 else ["count"]
            tables.append(Table(["outcome", "reason", *heads], rows, f"Of {sum(total):,} {what}"))
    return Section("Losses by reason", tables=tables)


def _share(count: int, total: int) -> Cell:
    return Cell(f"{count:,} ({count / total:.2%})" if count and total else f"{count:,}", "number")


def _sizes(columns: Sequence[tuple[str, Sequence[Reading]]]) -> Section:
    """Return latencies by the number of receiving devices: sums of counts, and means of percentiles over runs."""
    found: dict[int, str] = {}
    cells: dict[tuple[int, int], list[object]] = {}
    for position, (_, group) in enumerate(columns):
        sizes = [size for one in group for size in one.sizes]
        for order, name in sorted({(size.order, size.name) for size in sizes}):
            same = [size for size in sizes if size.order == order]
            found[order] = name
            counts = [sum(size.messages for size in same), sum(size.lost for size in same)]
            nulls = [[getattr(size, what) for size in same] for what in ("p50", "p99", "last_p99")]
            means: list[object] = [None if None in values else sum(values) / len(values) for values in nulls]
            if name == Scene.P2P:
                means[2] = Cell("–", "number")
            cells[order, position] = [*counts, *means]
    if not found:
        return Section("Groups by size")
    heads = ["messages", "never arrived", "p50 (ms)", "p99 (ms)", "last p99 (ms)"]
    tables = []
    for position, (name, group) in enumerate(columns):
        rows = [[found[order], *cells[order, position]] for order in sorted(found) if (order, position) in cells]
        if rows:
            tables.append(Table.of(["receivers", *heads], rows, name if len(columns) > 1 else ""))
        is_mean = len(group) > 1
    notes = ["By the number of receiving devices of a message. last: until the last recipient has it."]
    if is_mean:
        notes.append("Counts are sums over the runs, percentiles are means over them.")
    if any(value is None for one in cells.values() for value in one):
        notes.append("null: it falls among messages that never arrived, or there is no such message.")
    return Section("Groups by size", notes, tables)
