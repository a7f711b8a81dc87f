"""Custom parts: Python objects that replace built-in parts of a scenario, such as a distribution or a station.

A scenario with custom parts works like any other (`replace`, comparison, copies in other processes). But a file can
contain only their names: `to_toml` writes a reference, and reading that file fails, because the object is missing.
Code that opens a finished run without running it again can accept references: see `names_only`.
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
    """Return the text that represents a custom part in a file: `custom part Bimodal(fast=0.001, slow=0.02)`."""
    known = getattr(part, "reference", None)
    if isinstance(known, str):
        return known
    if isinstance(part, BaseModel):
        return f"{_MARK}{part!r}"
    return _MARK + str(getattr(part, "__name__", type(part).__name__))


def is_reference(value: object) -> bool:
    return isinstance(value, str) and value.startswith(_MARK)


def resolved(value: Any, absent: Callable[[str], object]) -> Any:
    """Return the value; for a reference within `names_only`, return the placeholder that `absent` makes of it.

    Raises: ValueError for a reference outside `names_only`, with the remedy.
    """
    if not is_reference(value):
        return value
    if _names_only.get():
        return absent(value)
    raise ValueError(
        f"{value} exists only in Python; a file contains only its name: pass the object with Scenario.replace"
    )


@contextmanager
def names_only() -> Iterator[None]:
    """Accept references to custom parts while the context lasts.

    The placeholders can be compared and written to a file again. Using one in a run raises a UsageError.
    """
    token = _names_only.set(True)
    try:
        yield
    finally:
        _names_only.reset(token)


def not_here(reference: str) -> NoReturn:
    raise UsageError(f"{reference} is missing: the file contains only its name; pass the object with Scenario.replace")


def broken(part: str, error: Exception) -> UsageError:
    """Return the UsageError to raise when a custom part raised `error`: one line that names the part."""
    text = " ".join(str(error).split())
    return UsageError(f"{part} raised {type(error).__name__}{f': {text}' if text else ''}")


@dataclass(frozen=True)
class AbsentPart:
    """A placeholder for a custom class or function of which only the name is known."""

    reference: str

    def __call__(self, *arguments: object) -> NoReturn:
        not_here(self.reference)
