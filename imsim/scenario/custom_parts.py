"""Custom parts: Python objects in place of a scenario's named ones, such as a distribution or a station.

A scenario with custom parts works like any other (`replace`, comparison, copies in other processes), but a file can
only name them: `to_toml` writes a reference, and reading a file refuses it, because the part itself is not there. Code
that reads a finished run without running it again may accept the name: see `names_only`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel

from imsim.core.exceptions import UsageError

_MARK = "custom part "
_names_only = ContextVar("custom parts by their names only", default=False)


def reference(part: object) -> str:
    """What a file says of a custom part: `custom part Bimodal(fast=0.001, slow=0.02)`."""
    known = getattr(part, "reference", None)
    if isinstance(known, str):
        return known
    if isinstance(part, BaseModel):
        return f"{_MARK}{part!r}"
    return _MARK + str(getattr(part, "__name__", type(part).__name__))


def is_reference(value: object) -> bool:
    return isinstance(value, str) and value.startswith(_MARK)


def resolved(value: Any, absent: Callable[[str], object]) -> Any:
    """The value; for a reference, what `absent` makes of it where names are enough.

    Raises: ValueError for a reference anywhere else, with what to do.
    """
    if not is_reference(value):
        return value
    if _names_only.get():
        return absent(value)
    raise ValueError(f"{value} exists only in Python, not in a file: put the object here, by Scenario.replace")


@contextmanager
def names_only() -> Iterator[None]:
    """Within it a file may name custom parts. They can be compared and written again; using one raises a UsageError."""
    token = _names_only.set(True)
    try:
        yield
    finally:
        _names_only.reset(token)


def not_here(reference: str) -> NoReturn:
    raise UsageError(f"{reference} is not here: a file only names it; put the object in its place, by Scenario.replace")


def broken(part: str, error: Exception) -> UsageError:
    """What is raised, from `error`, where a custom part raised it: a line that says which part it was."""
    text = " ".join(str(error).split())
    return UsageError(f"{part} raised {type(error).__name__}{f': {text}' if text else ''}")


@dataclass(frozen=True)
class AbsentPart:
    """Stands for a custom class or function of which only the name is known."""

    reference: str

    def __call__(self, *arguments: object) -> NoReturn:
        not_here(self.reference)
