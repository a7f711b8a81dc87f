"""Names of designs, runs and pictures.

A design is named after the fields in which it differs, a picture after the scenario's title.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from imsim.results import RunData, World
from imsim.scenario import LIVE_IGNORES, Scenario
from imsim.scenario.differences import differences
from imsim.scenario.differences import text_of as text_of  # for the pictures, which import no scenario

#: The lengths of a run are part of a label only if nothing else distinguishes two designs.
_LENGTHS = ("duration", "warmup", "drain")

_KEPT_SECTIONS = ("cost", "faults")  # their fields mean too little without the section's name
_MOST_FIELDS = 3


def title_of(scenario: Scenario) -> str:
    """Return the scenario's title, or its name if it has no title."""
    return scenario.title or scenario.name


def heading(scenario: Scenario) -> str:
    """Return the scenario's name, followed by its title if it has one."""
    return f"{scenario.name}: {scenario.title}" if scenario.title else scenario.name


def title_of_all(what: str, scenarios: Sequence[Scenario], *more: str) -> str:
    """Return the title of a picture: the scenarios' common title, if they share one, above a line of text.

    The line consists of `what`, the content of the picture, and the texts in `more` that are not empty.
    """
    titles = {title_of(scenario) for scenario in scenarios}
    line = ", ".join(part for part in (what, *more) if part)
    return f"{titles.pop()}\n{line}" if len(titles) == 1 else line


def changes(a: Scenario, b: Scenario) -> dict[str, tuple[object, object]]:
    """Return the fields in which two scenarios differ: dotted path -> (a's value, b's value)."""
    return {path: (values[0], values[1]) for path, (values, _) in differences([a, b]).items()}


def change_texts(a: Scenario, b: Scenario) -> dict[str, tuple[str, str]]:
    """Return `changes` as texts; durations have units."""
    return {path: (texts[0], texts[1]) for path, (_, texts) in differences([a, b]).items()}


def design_labels(scenarios: Sequence[Scenario]) -> list[str]:
    """Return a label for each design: its scenario's name, or its differing fields if names repeat."""
    names = [scenario.name for scenario in scenarios]
    if _are_distinct(names):
        return names
    fields = {path: texts for path, (_, texts) in differences(scenarios).items() if path != "seed"}
    return _numbered(_joined([names, *_columns(fields)]), "design")


def run_labels(runs: Sequence[RunData]) -> list[str]:
    """Return a label for each run.

    It consists of the world or the server, the scenario's name, the differing fields and the seed. Parts that all runs
    have in common are left out. The address of the server is part of the label if nothing else distinguishes two runs.
    """
    return _labels(runs, [f"seed {run.seed}" for run in runs], "run")


def group_labels(runs: Sequence[RunData]) -> list[str]:
    """Return a label for each group of runs that differ in their seeds only, from one run of each group."""
    return _labels(runs, [""] * len(runs), "design")


def _labels(runs: Sequence[RunData], seeds: list[str], what: str) -> list[str]:
    if len(runs) == 1:
        return [runs[0].server or runs[0].world]
    worlds = [run.world for run in runs]
    names = [run.scenario.name for run in runs]
    fields = {path: texts for path, (_, texts) in differences([run.scenario for run in runs]).items() if path != "seed"}
    skipped = (*_LENGTHS, *(LIVE_IGNORES if len(set(worlds)) > 1 else ()))
    minor = {path: texts for path, texts in fields.items() if path.partition(".")[0] in skipped}
    major = {path: texts for path, texts in fields.items() if path not in minor}
    columns = [_places(runs), names]
    if not _are_distinct(names):
        columns += _columns(major)
    columns.append(seeds)
    labels = _joined(columns)
    for more in ([[_address(run) for run in runs]], _columns(minor)):
        if not _are_distinct(labels):
            columns += more
            labels = _joined(columns)
    return _numbered(labels, what)


def status_lines(runs: Sequence[RunData]) -> list[str]:
    """Return which runs are invalid or partial, and why: the lines that a picture of these runs must have."""
    if len(runs) == 1:
        return runs[0].status
    return [f"{label}: {line}" for label, run in zip(run_labels(runs), runs, strict=True) for line in run.status]


def status_mark(run: RunData) -> str:
    """Return "INVALID" or "partial", or an empty text: what follows the label of the run in a legend."""
    return "" if run.valid and not run.partial else "partial" if run.valid else "INVALID"


def _places(runs: Sequence[RunData]) -> list[str]:
    """Return where each run took place: sim, live, or the kind of server if it is not imsim's own."""
    servers = {run.server for run in runs if run.world == World.LIVE}
    own = "live" if len(servers) == 1 else "imsim"
    return [run.world if run.world == World.SIM else run.server or own for run in runs]


def _address(run: RunData) -> str:
    return urlsplit(str(run.manifest.get("url", ""))).netloc


def short(path: str) -> str:
    """Return a field's path without its section: `routers` for topology.routers."""
    section, _, rest = path.partition(".")
    return path if section in _KEPT_SECTIONS else rest or path


def _columns(fields: Mapping[str, list[str]]) -> list[list[str]]:
    """Return the columns of labels: for each field the text `routers = 2` of each design.

    There are a few fields, or as many as it takes to distinguish all designs.
    """
    columns: list[list[str]] = []
    names = [short(path) for path in fields]
    for path, texts in fields.items():
        if len(columns) >= _MOST_FIELDS and _are_distinct(_joined(columns)):
            return [*columns, ["..."] * len(texts)]
        name = short(path) if names.count(short(path)) == 1 else path
        columns.append([f"{name} = {text}" for text in texts])
    return columns


def _joined(columns: Sequence[Sequence[str]]) -> list[str]:
    """Return one label for each design, joined from the columns that have more than one value."""
    said = [column for column in columns if len(set(column)) > 1 or column[0] == "..."]
    return [", ".join(filter(None, parts)) for parts in zip(*said, strict=True)] if said else [""] * len(columns[0])


def _numbered(labels: Sequence[str], what: str) -> list[str]:
    """Return the labels; if two are equal, with a number after each."""
    if _are_distinct(labels):
        return list(labels)
    numbers = [f"{what} {number}" for number in range(1, len(labels) + 1)]
    return [f"{label}, {number}" if label else number for label, number in zip(labels, numbers, strict=True)]


def _are_distinct(labels: Sequence[str]) -> bool:
    return len(set(labels)) == len(labels)
