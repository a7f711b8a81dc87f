"""Handlers by the kind of an entry: how checks and situations follow a trace, one table instead of long conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, Generic, NamedTuple, TypeVar

from imsim.core import internal_frames
from imsim.faultsearch.entries import Entry

F = TypeVar("F", bound=Callable[..., Any])
H = TypeVar("H")

Types = type | UnionType

_CARRIERS = (internal_frames.Up, internal_frames.Down, internal_frames.PresenceUpdate)  # of a frame of a client


class Trigger(NamedTuple):
    """The entries that a handler follows: of these kinds, about a subject of this type, which carries (as `Up` and
    `Down` do) a frame of the type `inner`."""

    kind: Types
    subject: Types = object
    inner: Types = object

    def matches(self, kind: type, subject: type, inner: type) -> bool:
        return issubclass(kind, self.kind) and issubclass(subject, self.subject) and issubclass(inner, self.inner)


def on(kind: Types, subject: Types = object, inner: Types = object) -> Callable[[F], F]:
    """Mark a method as the handler of such entries; one method may have several such marks."""

    def mark(function: F) -> F:
        function.__dict__.setdefault("triggers", []).insert(0, Trigger(kind, subject, inner))
        return function

    return mark


class Dispatcher(Generic[H]):
    """Finds the handlers of an entry, in their order."""

    def __init__(self, handlers: Iterable[tuple[Trigger, H]]) -> None:
        self._handlers = tuple(handlers)
        self._found: dict[tuple[type, ...], list[H]] = {}

    def handlers_of(self, entry: Entry) -> list[H]:
        subject = entry.subject
        kind, about = type(entry), type(subject)
        types = (kind, about, type(subject.frame)) if about in _CARRIERS else (kind, about)
        found = self._found.get(types)
        if found is None:
            inner = types[2] if len(types) > 2 else type(None)
            found = self._found[types] = [one for trigger, one in self._handlers if trigger.matches(kind, about, inner)]
        return found
