"""Situations that a search must have met. A situation that never occurs is one that no test covers."""

from __future__ import annotations

from collections import Counter

from imsim.faultsearch.dispatch import Dispatcher, handlers_in, triggers_of
from imsim.faultsearch.entries import Struck
from imsim.faultsearch.faults import KINDS
from imsim.faultsearch.situations import changes, messages, sessions, states
from imsim.faultsearch.situations.memory import Memory
from imsim.faultsearch.situations.situation import End
from imsim.faultsearch.world import World

_ALL = (*messages.SITUATIONS, *states.SITUATIONS, *sessions.SITUATIONS, *changes.SITUATIONS)

#: name -> description.
SITUATIONS = {situation.name: situation.description for situation in _ALL}

#: Everything that a long search must have met: the kinds of faults, as "fault: KIND", and the situations.
SOMETIMES = (*(f"fault: {kind}" for kind in KINDS), *SITUATIONS)

_PREDICATES = Dispatcher((trigger, one) for one in _ALL for trigger in triggers_of(one.followed))
_MEMORY = Dispatcher(handlers_in(Memory))


def met(world: World) -> Counter[str]:
    """Count how often each of `SOMETIMES` occurred in a run."""
    memory = Memory({instance.name: instance.sent for instance in (*world.instances(), *world.probes)})
    seen: Counter[str] = Counter()
    for entry in (*world.trace, End(world.clock.now, "", len(world.case.faults))):
        for situation in _PREDICATES.handlers_of(entry):
            if count := situation.predicate(entry, memory):
                seen[situation.name] += count
        for remember in _MEMORY.handlers_of(entry):
            remember(memory, entry)
        if type(entry) is Struck:
            seen[f"fault: {entry.kind}"] += 1
    return seen
