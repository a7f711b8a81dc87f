"""What happened in a run, in the order in which it happened: the evidence of every check, and text on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from imsim.core.model import Message, Session


class Entry(NamedTuple):
    """`at`: seconds of the world's own time. `what`: "<-" (`node` received `thing` from `peer`), "->" (sent it to),
    "event" (a client told its application), "asked" / "stored" (storage), or a word for what was done to the node."""

    at: float
    node: str
    what: str
    peer: str
    thing: Any

    def __str__(self) -> str:
        return f"{self.at:12.6f} {self.node:<10} {self.what:<6} {self.peer:<10} {describe(self.thing)}".rstrip()


def digest(entries: Iterable[Entry]) -> str:
    """The trace as one short word: equal exactly if the traces are equal, byte for byte."""
    sha = hashlib.sha256()
    told: dict[int, str] = {}  # what the trace holds stays where it is, and most of it stands there several times
    for at, node, what, peer, thing in entries:
        words = told.get(id(thing))
        if words is None:
            words = told[id(thing)] = describe(thing)
        sha.update(f"{at!r} {node} {what} {peer} {words}\n".encode())
    return sha.hexdigest()[:16]


_SHORT = 24
_names: dict[type, tuple[str, ...]] = {}


def describe(thing: Any) -> str:
    """A frame, an event, a request as one short line: its name and what is not empty in it."""
    kind = type(thing)
    if kind is str:
        return thing if len(thing) <= _SHORT else f"{thing[:_SHORT]}...({len(thing)})"
    if thing is None or kind in (int, bool, float):
        return str(thing)
    if kind is Message:
        return f"{thing.conversation_id}#{thing.seq}[{thing.id_client}]"
    if kind is Session:
        return f"{thing.user}/{thing.device}@{thing.epoch}:{thing.gateway}:{thing.connection}"
    if kind in (list, tuple):
        return f"({', '.join([describe(part) for part in thing])})"
    if kind is frozenset:  # of names, in an order of their own in each process
        return f"{{{', '.join(sorted(thing))}}}"
    if kind is dict:
        return f"{{{', '.join([f'{key}: {describe(value)}' for key, value in thing.items()])}}}"
    names = _names.get(kind)
    if names is None:
        names = tuple(field.name for field in fields(thing)) if is_dataclass(thing) else ()
        _names[kind] = names
        if not names and not is_dataclass(thing):
            return str(thing)
    parts = [
        f"{name}={describe(value)}"
        for name in names
        if (value := getattr(thing, name)) is not None and value != "" and value is not False
    ]
    return f"{kind.__name__}({', '.join(parts)})" if is_dataclass(thing) else str(thing)
