"""Dispatch of trace entries to handlers by type. Checks and situations share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import UnionType
from typing import Any, Generic, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from imsim.core import frames, internal_frames
from imsim.faultsearch.entries import Entry

H = TypeVar("H")
Routed = TypeVar("Routed", bound=frames.Routed)
ToClient = TypeVar("ToClient", bound=frames.ToClient)

Types = type | UnionType


class Up(internal_frames.Up, Generic[Routed]):
    """An `Up` that carries a frame of this type. It is used in annotations only: no entry holds one."""

    frame: Routed


class Down(internal_frames.Down, Generic[ToClient]):
    """A `Down` that carries a frame of this type. It is used in annotations only."""

    frame: ToClient


_CARRIERS: dict[Any, type] = {Up: internal_frames.Up, Down: internal_frames.Down}
_CARRYING = frozenset(_CARRIERS.values())


class Trigger(NamedTuple):
    """A filter of entries: by their kind, by the type of their subject, and by the type `inner` of the frame in the
    subject.

    Only `Up` and `Down` carry an inner frame.
    """

    kind: type
    subject: Types = object
    inner: Types = object

    def matches(self, kind: type, subject: type, inner: type) -> bool:
        return issubclass(kind, self.kind) and issubclass(subject, self.subject) and issubclass(inner, self.inner)


def triggers_of(followed: Any) -> Iterator[Trigger]:
    """Yield the triggers of a type of entries.

    The type is one such as `Started`, `Stored[storage.Append]`, `RouterSent[Down[frames.Push]]`, or a union of them.
    """
    origin, arguments = get_origin(followed), get_args(followed)
    if origin in (Union, UnionType):
        for one in arguments:
            yield from triggers_of(one)
    elif not arguments or arguments[0] is Any:
        yield Trigger(origin or followed)
    elif (carrier := _CARRIERS.get(get_origin(arguments[0]))) is not None:
        yield Trigger(origin, carrier, *get_args(arguments[0]))
    else:
        yield Trigger(origin, arguments[0])


def handlers_in(kind: type) -> Iterator[tuple[Trigger, Callable[..., Any]]]:
    """Yield the public methods of a class that take an `entry`, each with the triggers in its annotation."""
    for name, function in vars(kind).items():
        if not name.startswith("_") and "entry" in getattr(function, "__annotations__", ()):
            for trigger in triggers_of(get_type_hints(function)["entry"]):
                yield trigger, function


class Dispatcher(Generic[H]):
    """A lookup of the handlers of an entry. It keeps their order."""

    def __init__(self, handlers: Iterable[tuple[Trigger, H]]) -> None:
        self._handlers = tuple(handlers)
        self._found: dict[tuple[type, ...], list[H]] = {}

    def handlers_of(self, entry: Entry) -> list[H]:
        subject = entry.subject
        kind, about = type(entry), type(subject)
        types = (kind, about, type(subject.frame)) if about in _CARRYING else (kind, about, type(None))
        found = self._found.get(types)
        if found is None:
            found = self._found[types] = [one for trigger, one in self._handlers if trigger.matches(*types)]
        return found
