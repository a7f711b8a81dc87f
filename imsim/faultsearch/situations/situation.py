"""What a situation is: a predicate with a name and a description, which counts the entries that it is true of."""

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
    """The run has ended. (It is in no trace.)"""

    faults: int


class Situation(NamedTuple):
    """`followed`: the type of entries that the predicate is called for, with what was before the entry. It returns
    how often the situation occurs in the entry, or whether."""

    name: str
    followed: Any
    description: str
    predicate: Callable[[Any, Memory], int]


def when(name: str, followed: type[E], description: str, predicate: Callable[[E, Memory], int]) -> Situation:
    return Situation(name, followed, description, predicate)


def occurs(name: str, followed: type[Entry], description: str) -> Situation:
    """A situation that occurs in every such entry."""
    return Situation(name, followed, description, lambda entry, past: True)


def has_code(name: str, code: Code, followed: Any, description: str) -> Situation:
    """A situation that occurs in such an entry if its subject has this code."""
    return Situation(name, followed, description, lambda entry, past: entry.subject.code == code)
