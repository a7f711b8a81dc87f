"""Whether a design is the very same as one that was run before, in another process: a digest of all that its rows
follow from."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from imsim.scenario import Scenario

# What rows and numbers are made by; pictures and tables may change without a run becoming another one.
_SOURCES = ("core", "scenario", "sim", "results", "analysis/latency.py", "analysis/metrics.py", "analysis/cost.py")

# Of these the rows do not depend on, or they are told apart otherwise.
_ASIDE = {"name", "title", "seed"}


def design(scenario: Scenario) -> str:
    """Of everything in the scenario but its name and seed. A part of one's own (a distribution, a policy, a station)
    counts by its source and its values; what it calls is not looked into."""
    fields = {name: _plain(getattr(scenario, name)) for name in type(scenario).model_fields if name not in _ASIDE}
    return _digest(fields)


def function(one: Callable[..., object]) -> str:
    """Of a function of one's own: its source, defaults, and what it has closed over."""
    return _digest(_plain(one))


@functools.cache
def program() -> str:
    """Of the code by which runs are made: another version or commit, or a changed file, is another program."""
    root = Path(__file__).parents[1]
    sha = hashlib.sha256()
    for name in _SOURCES:
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            sha.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> object:
    """As JSON can hold it; equal for equal things, in whichever process."""
    if value is None or isinstance(value, bool | int | str) or type(value) is float:
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        # Equal in whatever order they stand.
        return sorted(([_plain(key), _plain(item)] for key, item in value.items()), key=repr)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return ["set", *sorted((_plain(item) for item in value), key=repr)]
    if inspect.iscode(value):
        return ["code", value.co_code.hex(), list(value.co_names), _plain(value.co_consts)]
    if isinstance(value, functools.partial):
        return ["partial", _plain(value.func), _plain(value.args), _plain(value.keywords)]
    if isinstance(value, type):
        return _class(value)
    if inspect.ismethod(value):
        return ["method", _plain(value.__self__), value.__name__]
    if inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        closed = [_plain(item) for item in cells if item is not value]  # it may call itself
        return ["function", *_function(value), _plain(value.__defaults__), _plain(value.__kwdefaults__), closed]
    kind = type(value)
    if isinstance(value, BaseModel):
        fields = {name: _plain(getattr(value, name)) for name in kind.model_fields}
        return [*_class(kind), fields]
    if hasattr(value, "__dict__"):
        return [*_class(kind), _plain(vars(value))]
    return [kind.__qualname__, repr(value)]


def _is_ours(one: Any) -> bool:
    """What imsim defines is covered by `program`."""
    return str(one.__module__).partition(".")[0] == "imsim"


def _function(one: Any) -> list[object]:
    one = inspect.unwrap(one)  # the methods of own distributions are wrapped, all alike
    # By the code, not the source: of two lambdas in one line that is the same.
    return [f"{one.__module__}.{one.__qualname__}"] if _is_ours(one) else [one.__qualname__, _plain(one.__code__)]


def _class(one: type) -> list[object]:
    """By the source, and that of its bases; by the code of its functions where there is no source."""
    if _is_ours(one) or one.__module__ == "builtins":
        return ["class", f"{one.__module__}.{one.__qualname__}"]
    try:
        source: object = inspect.getsource(one)
    except (OSError, TypeError):
        # As in a notebook: its functions, and its plain values.
        source = [
            [name, _function(item) if inspect.isfunction(item) else _plain(item)]
            for name, item in sorted(vars(one).items())
            if inspect.isfunction(item) or (isinstance(item, bool | int | float | str) and not name.startswith("__"))
        ]
    return ["class", one.__qualname__, source, *(_class(base) for base in one.__bases__)]
