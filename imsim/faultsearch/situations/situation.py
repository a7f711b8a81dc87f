"""The type of a situation: a name, a description, and a predicate that counts its occurrences in entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from imsim.core.model import Code
from imsim.faultsearch.entries import Entry
from imsim.faultsearch.situations.memory import Memory

E = TypeVar("E", bound=Entry)


@dataclass(slots=True, eq=False)
class End(Entry):
    """The end of the run. No trace contains it."""

    faults: int


class Situation(NamedTuple):
    """A situation.

    `followed`: the type of the entries that the predicate is called for. `predicate`: takes an entry and the memory of
    the earlier entries, and returns how often, or whether, the situation occurs.
    """

    name: str
    followed: Any
    description: str
    predicate: Callable[[Any, Memory], int]


def when(name: str, followed: type[E], description: str, predicate: Callable[[E, Memory], int]) -> Situation:
    return Situation(name, followed, description, predicate)


def occurs(name: str, followed: type[Entry], description: str) -> Situation:
    """Make a situation that occurs in every entry of this type."""
    return Situation(name, followed, description, lambda entry, past: True)


def has_code(name: str, code: Code, followed: Any, description: str) -> Situation:
    """Make a situation that occurs in an entry of this type if its subject has this code."""
    return Situation(name, followed, description, lambda entry, past: entry.subject.code == code)
