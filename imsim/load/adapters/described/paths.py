"""Paths: the places of values in a JSON document, such as `message.from` or `args.0.id`.

A path is a list of steps, separated by dots:

- a name is a key of an object (in double quotes if it has a dot, a quotation mark or only digits);
- a number is a position in a list, from 0;
- `$json` decodes the string at this place as JSON;
- `$id` takes the message id in front of the text at this place, and `$rest` the text behind it (the last step only);
- `$frame` is the whole frame (the first step only, where other paths begin at the elements of a list);
- `$` alone is the document itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import msgspec

from imsim.load.adapters.text import id_in, without_id

Getter = Callable[[Any], Any]

MISSING = (LookupError, TypeError, ValueError)
"""The errors of a getter if the document has no such value. `msgspec.DecodeError` is a ValueError."""

_STEP = re.compile(r'"((?:[^"\\]|\\.)*)"|([^."]+)')
_decode = msgspec.json.Decoder().decode


class PathError(ValueError):
    """A text that is not a path."""


def parsed(path: str, *, items: bool = False) -> list[str | int]:
    """Return the steps of a path. Special steps begin with `$`, and keys that are in quotes never do.

    items: whether `*` (each element of a list) is allowed.
    """
    if path == "$":
        return []
    steps: list[str | int] = []
    at = 0
    while True:
        match = _STEP.match(path, at)
        if match is None:
            raise PathError(f"expected a path such as 'message.id', got {path!r}")
        quoted, plain = match.groups()
        if quoted is not None:
            steps.append(_Key(re.sub(r"\\(.)", r"\1", quoted)))
        elif plain.isdecimal():
            steps.append(int(plain))
        else:
            steps.append(plain)
        at = match.end()
        if at == len(path):
            break
        if path[at] != ".":
            raise PathError(f"expected a dot in the path {path!r} at character {at + 1}")
        at += 1
    for number, step in enumerate(steps):
        if isinstance(step, _Key | int):
            continue
        if step == "*" and not items:
            raise PathError(f"{path!r}: * is allowed only in 'each'")
        if step.startswith("$"):
            if step not in ("$json", "$id", "$rest", "$frame"):
                raise PathError(f"{path!r}: unknown step {step!r}; there are $json, $id, $rest and $frame")
            if step in ("$id", "$rest") and number != len(steps) - 1:
                raise PathError(f"{path!r}: {step} must be the last step")
            if step == "$frame" and number:
                raise PathError(f"{path!r}: $frame must be the first step")
    return steps


class _Key(str):
    """A key that was in quotes."""

    __slots__ = ()


def _is(step: str | int, special: str) -> bool:
    return step == special and not isinstance(step, _Key)


def begins_at_frame(path: str) -> bool:
    """Return whether the path begins with `$frame`."""
    return bool(steps := parsed(path)) and _is(steps[0], "$frame")


def getter(path: str) -> Getter:
    """Return a function that takes the value at this path from a document. It raises one of MISSING without one."""
    steps = parsed(path)
    return _getter(steps[1:] if steps and _is(steps[0], "$frame") else steps)


def _getter(steps: list[str | int]) -> Getter:
    for number, step in enumerate(steps):
        if _is(step, "$json"):
            before, after = _getter(steps[:number]), _getter(steps[number + 1 :])
            return lambda document: after(_decode(before(document)))
        if _is(step, "$id") or _is(step, "$rest"):
            whole, part = _getter(steps[:number]), id_in if step == "$id" else without_id
            return lambda document: part(_text(whole(document)))
    match [str(step) if isinstance(step, _Key) else step for step in steps]:
        case []:
            return lambda document: document
        case [a]:
            return itemgetter(a)
        case [a, b]:
            return lambda document: document[a][b]
        case [a, b, c]:
            return lambda document: document[a][b][c]
        case keys:
            return lambda document: _walk(document, keys)


def _walk(document: Any, keys: list[str | int]) -> Any:
    for key in keys:
        document = document[key]
    return document


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def items_getter(path: str) -> Callable[[Any], Iterator[Any]]:
    """Return a function that yields the elements of the list at this path. A `*` goes through a list on the way."""
    levels: list[list[str | int]] = [[]]
    for step in parsed(path, items=True):
        if _is(step, "*"):
            levels.append([])
        else:
            levels[-1].append(step)
    getters = [_getter(level) for level in levels]

    def items(document: Any, level: int = 0) -> Iterator[Any]:
        found = getters[level](document)
        if not isinstance(found, list):
            return
        if level == len(getters) - 1:
            yield from found
            return
        for one in found:
            yield from items(one, level + 1)

    return items
