"""The fields in which scenarios differ, by dotted path, as values and as short texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from imsim.scenario.fields import ScenarioFields

_UNNAMED = ("name", "title")
_MOST_ENTRIES = 3
_LONGEST = 40

#: Dotted path -> (the value of each scenario, the same as texts).
Differences = dict[str, tuple[list[Any], list[str]]]


def differences(scenarios: Sequence[ScenarioFields]) -> Differences:
    """Return the fields whose values are not equal in all scenarios. Names and titles do not count."""
    found: Differences = {}
    dumps = [scenario.model_dump(mode="json") for scenario in scenarios]
    for name in type(scenarios[0]).model_fields:
        if name not in _UNNAMED:
            _walk(name, [getattr(one, name) for one in scenarios], [dump.get(name) for dump in dumps], found)
    return found


def text_of(value: object) -> str:
    """Return a field's value as a short text: numbers without needless digits, distributions as kind and parameters."""
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


def _walk(path: str, values: list[Any], dumps: list[Any], found: Differences) -> None:
    """Collect the differences at and below a path.

    dumps: the same values as a scenario file contains them, with units.
    """
    first = values[0]
    if all(value == first for value in values):
        return
    if (below := _below(values)) is None:
        found[path] = (values, [text_of(dump) for dump in dumps])
        return
    for name, inner in below.items():
        _walk(f"{path}.{name}", inner, [_at(dump, name) for dump in dumps], found)


def _below(values: list[Any]) -> dict[str, list[Any]] | None:
    """Return the parts of the values by name, or None if they are compared as a whole.

    Values of one shape have parts: tables, models of one type, lists of one length. A distribution is compared as a
    whole.
    """
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
