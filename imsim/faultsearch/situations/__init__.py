"""Situations: what a search must have met at least sometimes. What never occurs is what nobody tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from imsim.faultsearch.dispatch import Dispatcher
from imsim.faultsearch.entries import Struck
from imsim.faultsearch.faults import KINDS
from imsim.faultsearch.situations.changes import Amendments, Changes
from imsim.faultsearch.situations.memory import Memory
from imsim.faultsearch.situations.messages import Deliveries, Sends
from imsim.faultsearch.situations.rooms import Rooms
from imsim.faultsearch.situations.sessions import Sessions
from imsim.faultsearch.situations.situation import End, Situations
from imsim.faultsearch.situations.states import Marks, Settings
from imsim.faultsearch.world import World

_KINDS: tuple[type[Situations], ...] = (Sends, Deliveries, Settings, Marks, Sessions, Changes, Amendments, Rooms)


def _methods() -> Iterator[tuple[int, str, Any]]:
    """(which of `_KINDS`, or its length for the memory that they share, name, method)"""
    for index, kind in enumerate((*_KINDS, Memory)):
        for name, method in vars(kind).items():
            if hasattr(method, "triggers"):
                yield index, name.replace("_", " ") if hasattr(method, "situation") else "", method


#: By name: what each means.
SITUATIONS: dict[str, str] = {name: method.situation for _, name, method in _methods() if name}

#: Everything that a whole search must have met: the faults, as "fault: kind", and the situations.
SOMETIMES = (*(f"fault: {kind}" for kind in KINDS), *SITUATIONS)


#: First the predicates, as they ask what was before an entry; then what remembers it, which has no name.
_HANDLERS = Dispatcher(
    (trigger, one) for one in sorted(_methods(), key=lambda one: not one[1]) for trigger in one[2].triggers
)


def met(world: World) -> Counter[str]:
    """How often each of `SOMETIMES` occurred in a run."""
    memory = Memory({instance.name: instance.sent for instance in (*world.instances(), *world.probes)})
    whose: list[Any] = [*(kind(memory) for kind in _KINDS), memory]
    seen: Counter[str] = Counter()
    for entry in (*world.trace, End(world.clock.now, "", len(world.case.faults))):
        for index, name, handle in _HANDLERS.handlers_of(entry):
            if count := handle(whose[index], entry):
                seen[name] += count
        if type(entry) is Struck:
            seen[f"fault: {entry.kind}"] += 1
    return seen
