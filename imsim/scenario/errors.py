"""Error messages about invalid scenarios. They name a field as its file does:
`policies.ack: expected 'after_store' or ..., got 'never'`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from imsim.scenario.quantities import shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class FieldError(ValueError):
    """An error that a validator raises about one field of its table. `path` is relative to that table."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(text)
        self.path = path


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line for each problem: the field's dotted path, the expected value and the given one."""
    return [_line(details, model) for details in error.errors(include_url=False)]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" if a known name is similar, else an empty text."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


# pydantic's name of a problem -> the expected value. The placeholders are pydantic's parameters of that problem.
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "enum": "{expected}",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "union_tag_invalid": "a kind of {kinds}",
    "list_type": "a list",
}


def _line(details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = details["type"], details.get("ctx", {})
    path, models = _path_in_file(model, details["loc"])
    kinds = ", ".join(name for one in models if (name := _kind_of(one)))
    if kind == "value_error":
        problem: Any = context["error"]
        if isinstance(problem, FieldError):
            path.append(problem.path)
        text = str(problem)
    elif kind == "extra_forbidden":
        _, (table, *_) = _path_in_file(model, details["loc"][:-1])
        known = [name for name, field in table.model_fields.items() if field.exclude is not True]
        name = str(details["loc"][-1])
        text = f"unknown field{suggestion(name, known)}; known here: {', '.join(known)}"
    elif kind == "missing":
        text = "missing"
    elif kind == "union_tag_not_found":
        text = f"expected a kind of {kinds}, got a table without 'kind'"
    else:
        found = details["input"]
        if kind == "union_tag_invalid":
            found = context["tag"]
            path.append("kind")
        expected = _EXPECTED.get(kind, "another kind of value").format(**context, kinds=kinds)
        text = f"expected {expected}, got {shown(found)}"
    return f"{'.'.join(path)}: {text}" if path else text


def _path_in_file(model: type[BaseModel], location: Iterable[str | int]) -> tuple[list[str], list[type[BaseModel]]]:
    """Return a location's path in the file, and the models that are possible there.

    pydantic's location also names the chosen branch of a union; a file has no such level.
    """
    path: list[str] = []
    models = [model]
    for part in map(str, location):
        if branch := [one for one in models if _kind_of(one) == part]:
            models = branch
            continue
        path.append(part)
        if fields := [one.model_fields[part] for one in models if part in one.model_fields]:
            models = [one for field in fields for one in _tables_of(field.annotation)]
    return path, models


def _tables_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a field can contain: directly, in a list or in a table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables_of(argument)


def _kind_of(model: type[BaseModel]) -> str | None:
    """Return the `kind` that selects this model in a union, or None if it has no kind."""
    kind = model.model_fields.get("kind")
    return None if kind is None else str(kind.default)
