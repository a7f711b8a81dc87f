"""The sources of scenarios: presets, files, and `path=value` overrides of a command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from imsim.core.exceptions import UsageError
from imsim.scenario.distributions import CustomDistribution
from imsim.scenario.errors import suggestion

Overrides = Mapping[str, object] | Sequence[str]

_PRESETS = resources.files("imsim.scenario") / "presets"


def preset_names() -> list[str]:
    """Return the names of the presets, sorted."""
    return sorted(entry.name[:-5] for entry in _PRESETS.iterdir() if entry.name.endswith(".toml"))


def preset_text(name: str) -> str:
    if name not in preset_names():
        raise _unknown(name, "no such preset")
    return (_PRESETS / f"{name}.toml").read_text(encoding="utf-8")


def read(name_or_path: str | PathLike[str]) -> tuple[str, str]:
    """Return a scenario's name and its TOML text. If a preset and a file have the same name, the preset is read;
    ./name reads the file."""
    if isinstance(name_or_path, str) and name_or_path in preset_names():
        return name_or_path, preset_text(name_or_path)
    path = Path(name_or_path)
    try:
        return path.stem, path.read_text(encoding="utf-8-sig")  # editors may add a byte order mark
    except FileNotFoundError:
        raise _unknown(str(name_or_path), "no such preset or file") from None
    except IsADirectoryError:
        hint = "; a run's folder is opened by imsim.read_run" if (path / "manifest.json").exists() else ""
        raise UsageError(f"scenario {path}: a folder, not a TOML file{hint}") from None
    except UnicodeDecodeError:
        raise UsageError(f"scenario {path}: not a TOML file: it is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"scenario {path}: cannot be read: {reason}") from None


def _unknown(name: str, problem: str) -> UsageError:
    known = preset_names()
    hint = suggestion(Path(name).stem, known)
    return UsageError(f"scenario {name}: {problem}{hint}; presets: {', '.join(known)}")


def parse(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # the error's text ends with the line and column
        raise UsageError(f"scenario {name}: not valid TOML: {error}") from None


def changes(overrides: Overrides, name: str) -> dict[str, object]:
    """Return overrides as a mapping of dotted paths to values."""
    if isinstance(overrides, Mapping):
        return dict(overrides)
    found: dict[str, object] = {}
    for override in [overrides] if isinstance(overrides, str) else overrides:
        path, equals, value = override.partition("=")
        if not equals or not path.strip():
            raise UsageError(f"scenario {name}: override {override!r}: expected path=value, as in population.users=500")
        found[path.strip()] = _value(value.strip())
    return found


def choices(texts: Sequence[str], name: str) -> dict[str, list[object]]:
    """Read fields and their values from `path=1,2,4` texts: values in TOML or plain text, separated by commas."""
    found: dict[str, list[object]] = {}
    for text in texts:
        path, equals, values = text.partition("=")
        if not equals or not path.strip() or not values.strip():
            raise UsageError(f"scenario {name}: {text!r}: expected path=value,value,..., as in topology.routers=1,2,4")
        try:
            found[path.strip()] = tomllib.loads(f"value = [{values}]")["value"]
        except tomllib.TOMLDecodeError:
            found[path.strip()] = [_value(value.strip()) for value in values.split(",")]
    return found


def _value(text: str) -> object:
    """Read a value as TOML, or as plain text if it is not TOML (so 5ms and after_store need no quotes)."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def as_tables(value: Any) -> Any:
    """Convert a model to nested tables. Custom parts stay objects, because no table describes them."""
    if isinstance(value, BaseModel) and not isinstance(value, CustomDistribution):
        return {name: as_tables(below) for name, below in value}
    if isinstance(value, dict):
        return {name: as_tables(below) for name, below in value.items()}
    if isinstance(value, list):
        return [as_tables(below) for below in value]
    return value


def put(fields: dict[str, Any], path: str, value: object, name: str) -> None:
    """Set the value at a dotted path of nested tables. Validation later checks whether the path exists."""
    *tables, last = path.split(".")
    for depth, part in enumerate(tables, start=1):
        if (below := fields.get(part)) is None:  # a table that the file can omit
            below = fields[part] = {}
        if isinstance(below, list):
            # The entries of a list are numbered from 0, as in faults.0.at
            entries = {str(number): entry for number, entry in enumerate(below)}
            entry_number = path.split(".")[depth]
            if entry_number not in entries:
                raise UsageError(
                    f"scenario {name}: {path}: there is no entry {entry_number}; the list has {len(below)}"
                )
            put(entries, path.split(".", depth)[depth], value, name)
            below[:] = entries.values()
            return
        if isinstance(below, BaseModel):  # another override has set the whole section
            below = fields[part] = as_tables(below)
        if not isinstance(below, dict):
            raise UsageError(f"scenario {name}: {path}: unknown field; {'.'.join(tables[:depth])} is not a table")
        fields = below
    # Sweeps pass numpy numbers; a scenario contains plain ones.
    fields[last] = value.item() if isinstance(value, np.generic) else value
