"""What a situation is: a predicate with a name and a description, which counts the entries that it is true of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from imsim.core.model import Code
from imsim.faultsearch.dispatch import Types, on
from imsim.faultsearch.entries import Entry
from imsim.faultsearch.situations.memory import Memory

P = TypeVar("P", bound=Callable[..., int])


@dataclass(slots=True, eq=False)
class End(Entry):
    """The run has ended. (It is in no trace.)"""

    faults: int


class Situations:
    """Situations of one kind, as methods, and what they have to remember of a run.

    A method that only remembers is marked with `on`; it is called after all predicates have seen the entry."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.begin()

    def begin(self) -> None:
        """Make what it remembers."""


def situation(description: str, kind: Types, subject: Types = object, inner: Types = object) -> Callable[[P], P]:
    """Make a method the predicate of a situation, which is named as the method is, with spaces. It is called for the
    entries that match (see `Trigger`), and says how often the situation occurs in one, or whether."""

    def mark(predicate: P) -> P:
        predicate.__dict__["situation"] = description
        return on(kind, subject, inner)(predicate)

    return mark


def occurs(description: str, kind: Types, subject: Types = object, inner: Types = object) -> Callable[..., int]:
    """A situation that occurs in every such entry."""

    def predicate(situations: Situations, entry: Entry) -> int:
        return True

    return situation(description, kind, subject, inner)(predicate)


def has_code(code: Code, description: str, kind: Types, subject: Types) -> Callable[..., int]:
    """A situation that occurs in such an entry if its subject has this code."""

    def predicate(situations: Situations, entry: Entry) -> int:
        return bool(entry.subject.code == code)

    return situation(description, kind, subject)(predicate)
