"""What is wrong with a scenario, in its own terms: `policies.ack: expected 'after_store' or ..., got 'never'`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from imsim.scenario.distributions import KINDS
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


#: Names of the branches of unions: they stand in pydantic's paths, and not in the file. Of faults: see their module.
BRANCHES: dict[str, type[BaseModel]] = dict(KINDS)

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
    # pydantic names the branch taken in a union; in the file there is no such level.
    path = [str(part) for part in details["loc"] if part not in BRANCHES]
    kinds = [kind for kind in BRANCHES if (kind in KINDS) != (details["loc"][:1] == ("faults",))]
    if kind == "value_error":
        problem: Any = context["error"]
        if isinstance(problem, FieldError):
            path.append(problem.path)
        text = str(problem)
    elif kind == "extra_forbidden":
        known = _fields_at(model, details["loc"][:-1])
        name = str(details["loc"][-1])
        text = f"unknown field{suggestion(name, known)}; known here: {', '.join(known)}"
    elif kind == "missing":
        text = "missing"
    elif kind == "union_tag_not_found":
        text = f"expected a kind of {', '.join(kinds)}, got a table without 'kind'"
    else:
        found = details["input"]
        if kind == "union_tag_invalid":
            found = context["tag"]
            path.append("kind")
        expected = _EXPECTED.get(kind, "another value").format(**context, kinds=", ".join(kinds))
        text = f"expected {expected}, got {shown(found)}"
    return f"{'.'.join(path)}: {text}" if path else text


def _fields_at(model: type[BaseModel], location: Iterable[str | int]) -> list[str]:
    """The fields that exist at a location."""
    for part in location:
        if part in BRANCHES:
            model = BRANCHES[str(part)]
        elif (field := model.model_fields.get(str(part))) is not None:
            for below in (field.annotation, *get_args(field.annotation)):  # the values of a table, too
                if isinstance(below, type) and issubclass(below, BaseModel):
                    model = below
    return [name for name, field in model.model_fields.items() if field.exclude is not True]
