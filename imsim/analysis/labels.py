"""What designs, runs and pictures are called: designs by what they differ in, pictures by the scenario's title."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from imsim.results import RunData
from imsim.scenario import LIVE_IGNORES, Scenario

#: How long it goes on is named only where nothing else tells two designs apart.
_LENGTHS = ("duration", "warmup", "drain")

_UNNAMED = ("name", "title")
_KEPT_SECTIONS = ("cost", "faults")  # whose fields say too little by themselves
_MOST_FIELDS = 3
_MOST_ENTRIES = 3
_LONGEST = 40


def title_of(scenario: Scenario) -> str:
    """The scenario's title, or else its name."""
    return scenario.title or scenario.name


def heading(scenario: Scenario) -> str:
    """Its name, and its title if it has one."""
    return f"{scenario.name}: {scenario.title}" if scenario.title else scenario.name


def title_of_all(what: str, scenarios: Sequence[Scenario], *more: str) -> str:
    """The title of a picture: the scenarios' own, if they have the same, above `what` it shows, and what else is to be
    said, which may be empty."""
    titles = {title_of(scenario) for scenario in scenarios}
    line = ", ".join(part for part in (what, *more) if part)
    return f"{titles.pop()}\n{line}" if len(titles) == 1 else line


def changes(a: Scenario, b: Scenario) -> dict[str, tuple[object, object]]:
    """The fields in which two scenarios differ, by dotted path; what they are called is not of interest."""
    return {path: (values[0], values[1]) for path, (values, _) in _differing([a, b]).items()}


def change_texts(a: Scenario, b: Scenario) -> dict[str, tuple[str, str]]:
    """The same as texts: durations with their units."""
    return {path: (texts[0], texts[1]) for path, (_, texts) in _differing([a, b]).items()}


def design_labels(scenarios: Sequence[Scenario]) -> list[str]:
    """A name for each design: that of its scenario, if no other has it, or else what it differs in."""
    names = [scenario.name for scenario in scenarios]
    if _are_distinct(names):
        return names
    fields = {path: texts for path, (_, texts) in _differing(scenarios).items() if path != "seed"}
    return _numbered(_joined([names, *_columns(fields)]), "design")


def run_labels(runs: Sequence[RunData]) -> list[str]:
    """A name for each run: its world, its scenario's name, what that differs in, and its seed, each where not all runs
    have the same."""
    if len(runs) == 1:
        return [runs[0].world]
    worlds = [run.world for run in runs]
    names = [run.scenario.name for run in runs]
    fields = {path: texts for path, (_, texts) in _differing([run.scenario for run in runs]).items() if path != "seed"}
    skipped = (*_LENGTHS, *(LIVE_IGNORES if len(set(worlds)) > 1 else ()))
    minor = {path: texts for path, texts in fields.items() if path.partition(".")[0] in skipped}
    major = {path: texts for path, texts in fields.items() if path not in minor}
    columns = [worlds, names]
    if not _are_distinct(names):
        columns += _columns(major)
    columns.append([f"seed {run.seed}" for run in runs])
    labels = _joined(columns)
    return labels if _are_distinct(labels) else _numbered(_joined([*columns, *_columns(minor)]), "run")


def short(path: str) -> str:
    """`routers` for topology.routers, `storage.workers` for topology.storage.workers."""
    section, _, rest = path.partition(".")
    return path if section in _KEPT_SECTIONS else rest or path


def text_of(value: object) -> str:
    """A value of a scenario's field as it stands in a label: short, numbers without needless digits, distributions as
    their kind and parameters."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, BaseModel):
        parts = {name: below for name, below in value if name != "kind"}
        return _cut(f"{getattr(value, 'kind', type(value).__name__)}{_parameters(parts)}")
    if isinstance(value, Mapping):
        parts = {str(name): below for name, below in value.items() if name != "kind"}
        return _cut(f"{value.get('kind', '')}{_parameters(parts)}".strip())
    if isinstance(value, list | tuple):
        return f"{len(value)} entries" if len(value) > _MOST_ENTRIES else _cut(", ".join(map(text_of, value)) or "none")
    return _cut(str(value).removeprefix("custom part "))


def _parameters(parts: Mapping[str, object]) -> str:
    return "".join(f" {name}={text_of(value)}" for name, value in parts.items() if value is not None)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


_Found = dict[str, tuple[list[Any], list[str]]]


def _differing(scenarios: Sequence[Scenario]) -> _Found:
    """The fields in which scenarios differ, by dotted path: the values, and as texts."""
    found: _Found = {}
    dumps = [scenario.model_dump(mode="json") for scenario in scenarios]
    for name in Scenario.model_fields:
        if name not in _UNNAMED:
            _walk(name, [getattr(one, name) for one in scenarios], [dump.get(name) for dump in dumps], found)
    return found


def _walk(path: str, values: list[Any], dumps: list[Any], found: _Found) -> None:
    """`dumps`: the same values as they stand in a file, with units."""
    first = values[0]
    if all(value == first for value in values):
        return
    if (below := _below(values)) is None:
        found[path] = (values, [text_of(dump) for dump in dumps])
        return
    for name, inner in below.items():
        _walk(f"{path}.{name}", inner, [_at(dump, name) for dump in dumps], found)


def _below(values: list[Any]) -> dict[str, list[Any]] | None:
    """What the values consist of, by name, where all consist of the same; None for what is compared as a whole, such
    as distributions."""
    first = values[0]
    if all(isinstance(value, Mapping) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: [value.get(key) for value in values] for key in keys}
    if all(isinstance(value, list) and len(value) == len(first) for value in values):
        entries = list(zip(*values, strict=True))
        if all(len({type(one) for one in entry}) == 1 and isinstance(entry[0], BaseModel) for entry in entries):
            return {
                f"{number}.{name}": [getattr(one, name) for one in entry]
                for number, entry in enumerate(entries)
                for name in type(entry[0]).model_fields
            }
    if len({type(value) for value in values}) == 1 and isinstance(first, BaseModel):
        fields = type(first).model_fields
        if "kind" not in fields:
            return {name: [getattr(value, name) for value in values] for name in fields}
    return None


def _at(dump: Any, path: str) -> Any:
    for part in path.split(".") if isinstance(dump, list) else [path]:
        dump = dump[int(part)] if isinstance(dump, list) else (dump or {}).get(part)
    return dump


def _columns(fields: Mapping[str, list[str]]) -> list[list[str]]:
    """`routers = 2` of each design: of a few fields, and of more as long as that takes to tell all apart."""
    columns: list[list[str]] = []
    names = [short(path) for path in fields]
    for path, texts in fields.items():
        if len(columns) >= _MOST_FIELDS and _are_distinct(_joined(columns)):
            return [*columns, ["..."] * len(texts)]
        name = short(path) if names.count(short(path)) == 1 else path
        columns.append([f"{name} = {text}" for text in texts])
    return columns


def _joined(columns: Sequence[Sequence[str]]) -> list[str]:
    """One label of each, of the columns that say something."""
    said = [column for column in columns if len(set(column)) > 1 or column[0] == "..."]
    return [", ".join(parts) for parts in zip(*said, strict=True)] if said else [""] * len(columns[0])


def _numbered(labels: Sequence[str], what: str) -> list[str]:
    """The labels, with a number each if two are the same."""
    if _are_distinct(labels):
        return list(labels)
    numbers = [f"{what} {number}" for number in range(1, len(labels) + 1)]
    return [f"{label}, {number}" if label else number for label, number in zip(labels, numbers, strict=True)]


def _are_distinct(labels: Sequence[str]) -> bool:
    return len(set(labels)) == len(labels)
