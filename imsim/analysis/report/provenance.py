"""The sections about the load generator and about the origin of runs, from their manifests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from imsim.analysis.report.parts import MOST_ROWS, Cell, Section, Table, facts, scenario_section
from imsim.analysis.report.readings import Reading
from imsim.results import World
from imsim.scenario import Scenario

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
        "Late: from the intended time until the message was sent, and from its arrival until it was recorded. CPU: of "
        "one core. Stolen: CPU time that the hypervisor gave to other machines. Behind: the largest number of messages "
        "that were due and not yet sent."
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
    found = [{"world": one.run.world} | _facts(one.run.manifest) for one in readings]
    keys = list(dict.fromkeys(key for one in found for key in one))
    common = {key for key in keys if len({one.get(key, "") for one in found}) == 1}
    own = [key for key in keys if key not in common]
    tables = []
    runs = [one.run for one in readings]
    if len(runs) == 1:
        tables.append(facts({"run": runs[0].id, "digest": runs[0].digest, **found[0]}))
    else:
        columns = ["", "run", "seed", "digest", *(key for key in own if key != "seed")]
        rows = [
            [
                Cell(name),
                *(Cell(text, "id") for text in (run.id, str(run.seed), run.digest[:16])),
                *(Cell(one.get(key, ""), "id") for key in own if key != "seed"),
            ]
            for name, run, one in zip(names, runs, found, strict=True)
        ]
        tables.append(Table(columns, rows[:MOST_ROWS], "Runs", is_wide=True))
        if common:
            tables.append(facts({key: found[0][key] for key in keys if key in common}, "All runs"))
    designs: dict[str, Scenario] = {}
    for one in readings:
        designs.setdefault(one.design, one.run.scenario)
    return scenario_section(designs, tables)


def _facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return where the rows of a run come from, as texts by name."""
    server = manifest.get("server")
    found = {
        "server": " ".join(map(str, server.values())) if isinstance(server, Mapping) else server,
        "address": manifest.get("url"),
        "adapter": manifest.get("adapter"),
        "started": str(manifest.get("started", ""))[:19].replace("T", " "),
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
