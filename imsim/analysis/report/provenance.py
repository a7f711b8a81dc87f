"""The sections about the load generator and about the origin of runs, from their manifests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from imsim.analysis.labels import change_texts
from imsim.analysis.report.parts import Cell, Section, Table, scenario_section
from imsim.analysis.report.readings import Reading
from imsim.results import World

_HEALTH = (
    ("sent late, p99 ms", "lateness", "p99"),
    ("sent late, max ms", "lateness", "max"),
    ("received late, p99 ms", "receiving", "p99"),
    ("received late, max ms", "receiving", "max"),
)
_SHARES = (("CPU", "cpu"), ("waited for a CPU", "waiting"), ("stolen", "steal"))


def generator(readings: Sequence[Reading], names: Sequence[str]) -> Section:
    """Return the section about the load generator: a row for each Locust process of each live run."""
    live = [(name, one.run) for name, one in zip(names, readings, strict=True) if one.run.world == World.LIVE]
    texts, rows = [], []
    for name, run in live:
        if len(live) <= 6:
            judged = "valid: the latencies are those of the server" if run.valid else f"INVALID: {run.invalid_because}"
            texts.append(f"{name}: {judged}." if len(live) > 1 else f"{judged[0].upper()}{judged[1:]}.")
        workers = run.manifest.get("workers", ())
        for number, worker in enumerate(workers):
            health = worker.get("health")
            who = name if len(workers) == 1 else f"{name}, worker {worker.get('index', number)}"
            rows.append([who, *_health(health or {}), "yes" if run.valid else "NO"])
    columns = ["run", *(name for name, _, _ in _HEALTH), *(name for name, _ in _SHARES), "behind", "valid"]
    notes = [
        "Late: from the intended time until the message was sent, and from its arrival until it was recorded. CPU: of one "
        "core. Stolen: CPU time that the hypervisor gave to other machines. Behind: the largest number of messages that "
        "were due and not yet sent."
    ]
    if any(cell is None for row in rows for cell in row):
        notes.append("null: not known on this computer, or the process died.")
    tables = [Table.of(columns, rows, notes=notes)] if rows else []
    if live and not rows:
        texts.append("The runs recorded nothing about the health of the generator.")
    return Section("Load generator", texts if rows or len(live) <= 6 else texts[-1:], tables)


def _health(health: Mapping[str, Any]) -> list[object]:
    delays: list[object] = []
    for _, name, statistic in _HEALTH:
        value = health.get(name, {}).get(statistic)
        delays.append(None if value is None else float(value))
    for _, name in _SHARES:
        share = health.get(name)
        delays.append(None if share is None else Cell(f"{share:.0%}", "number"))
    return [*delays, health.get("backlog")]


def provenance(readings: Sequence[Reading], names: Sequence[str]) -> Section:
    """Return the section with the scenarios, and where the rows come from."""
    facts = [_facts(one.run.manifest) | {"world": one.run.world} for one in readings]
    keys = list(dict.fromkeys(key for one in facts for key in one))
    common = {key for key in keys if len({one.get(key, "") for one in facts}) == 1}
    own = [key for key in keys if key not in common]
    tables = []
    runs = [one.run for one in readings]
    if len(runs) == 1:
        rows = [[key, facts[0][key]] for key in keys]
        tables.append(Table.of(["", ""], [["run", runs[0].id], ["digest", runs[0].digest], *rows]))
    else:
        columns = ["", "run", "seed", "digest", *(key for key in own if key != "seed")]
        rows = [
            [name, run.id, run.seed, run.digest[:16], *(one.get(key, "") for key in own if key != "seed")]
            for name, run, one in zip(names, runs, facts, strict=True)
        ]
        tables.append(Table.of(columns, rows, "Runs"))
        if common:
            tables.append(Table.of(["", ""], [[key, facts[0][key]] for key in keys if key in common], "All runs"))
    designs = {one.design: one.run.scenario for one in reversed(readings)}
    designs = {one.design: designs[one.design] for one in readings}
    if len(designs) == 2:
        a, b = designs
        changes = change_texts(designs[a], designs[b])
        changes.pop("seed", None)
        if changes:
            rows = [[Cell(path), Cell(first), Cell(second)] for path, (first, second) in changes.items()]
            tables.insert(0, Table(["field", a, b], rows, "The scenarios differ in"))
    return scenario_section(
        {f"scenario of {name}" if len(designs) > 1 else "scenario": one for name, one in designs.items()}, tables
    )


def _facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return where the rows of a run come from, as texts by name."""
    server = manifest.get("server")
    found = {
        "world": "",
        "server": " ".join(map(str, server.values())) if isinstance(server, Mapping) else server,
        "address": manifest.get("url"),
        "adapter": manifest.get("adapter"),
        "started": manifest.get("started"),
        "played": f"{manifest['played']:.4g} s" if isinstance(manifest.get("played"), int | float) else None,
        "ended": manifest.get("ended", {}).get("reason"),
        "seed": manifest.get("seed"),
        "engine": manifest.get("engine"),
        **origin_texts(manifest),
        "Locust": manifest.get("locust"),
        "clocks": _clocks(manifest.get("workers", ())),
    }
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def origin_texts(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the version of imsim, its commit and the machine, as texts by name."""
    machine = manifest.get("machine") or {}
    known = {"platform": "{}", "python": "Python {}", "cpus": "{} CPUs"}
    texts = [form.format(machine[name]) for name, form in known.items() if machine.get(name)]
    found = {"imsim": manifest.get("imsim"), "commit": (manifest.get("commit") or "")[:12], "machine": ", ".join(texts)}
    return {name: str(text) for name, text in found.items() if text}


def _clocks(workers: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the offsets of the workers' clocks that were applied, or that none was."""
    if len(workers) < 2:
        return None
    offsets = [(one.get("offset_ms"), one.get("offset_error_ms"), one.get("offset_applied")) for one in workers]
    applied = [f"{ms:+.3g} ms (error {error:.2g} ms)" for ms, error, is_applied in offsets if is_applied and ms]
    largest = max((error for _, error, _ in offsets if isinstance(error, int | float)), default=math.nan)
    if applied:
        return f"offsets applied: {', '.join(applied)}"
    return "no offset applied" + ("" if math.isnan(largest) else f" (errors up to {largest:.2g} ms)")
