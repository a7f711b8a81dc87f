"""What is wrong with a scenario, in its own terms: `policies.ack: expected 'after_store' or ..., got 'never'`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from imsim.scenario.quantities import shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class FieldError(ValueError):
    """Raised by a validator about one field below it: `path` is relative to where the validator stands."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(text)
        self.path = path


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem: the field's dotted path, what was expected, what was found."""
    return [_line(details, model) for details in error.errors(include_url=False)]


def suggestion(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" where something known is near, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


# What pydantic calls the mistake -> what was expected, with pydantic's own parameters of it.
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
    path, models = _in_the_file(model, details["loc"])
    kinds = ", ".join(name for one in models if (name := _kind_of(one)))
    if kind == "value_error":
        problem: Any = context["error"]
        if isinstance(problem, FieldError):
            path.append(problem.path)
        text = str(problem)
    elif kind == "extra_forbidden":
        _, (table, *_) = _in_the_file(model, details["loc"][:-1])
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
        expected = _EXPECTED.get(kind, "another value").format(**context, kinds=kinds)
        text = f"expected {expected}, got {shown(found)}"
    return f"{'.'.join(path)}: {text}" if path else text


def _in_the_file(model: type[BaseModel], location: Iterable[str | int]) -> tuple[list[str], list[type[BaseModel]]]:
    """The path of a location in the file, and the tables that may stand there. pydantic's location also names the
    branch taken in a union; the file has no such level."""
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
    """The models that a field may hold, by themselves or in a list or a table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables_of(argument)


def _kind_of(model: type[BaseModel]) -> str | None:
    """The kind by which a union's branch is chosen."""
    kind = model.model_fields.get("kind")
    return None if kind is None else str(kind.default)
