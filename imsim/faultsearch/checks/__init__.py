"""What must hold in every run.

A check follows the trace, and finds what only one moment shows: a class with a public method for each type of entry
that it looks at. An invariant looks at the whole run: a function that yields what is wrong. In each text the first
thing named is the message, the conversation or the instance that it is about.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from inspect import isfunction
from typing import NamedTuple

from imsim.faultsearch.checks import ending, log, quiescence, senders, views
from imsim.faultsearch.checks.clients import Claims, Connections
from imsim.faultsearch.checks.deliveries import Given, Repetitions, RouterStates
from imsim.faultsearch.checks.facts import Check, Facts
from imsim.faultsearch.checks.limits import Gateways, Limits
from imsim.faultsearch.checks.quiescence import Quiescence
from imsim.faultsearch.checks.requests import Refusals, Requests
from imsim.faultsearch.checks.rooms import Rooms
from imsim.faultsearch.checks.sessions import Answers, Logins, Presence
from imsim.faultsearch.checks.storage import Saved, Storage, Writers
from imsim.faultsearch.dispatch import Dispatcher, handlers_in
from imsim.faultsearch.evidence import Evidence
from imsim.faultsearch.world import World

Invariant = Callable[[Evidence], Iterator[str]]


class Violation(NamedTuple):
    """`at`: how many entries the trace had when it was seen; None: only the whole run shows it."""

    invariant: str
    text: str
    at: int | None = None

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


#: In the order in which they see an entry: what feeds the reference model comes after what judges by it as it was.
CHECKS: tuple[type[Check], ...] = (
    Facts, Connections, Rooms, Gateways, Limits, RouterStates, Requests, Refusals, Logins, Presence, Quiescence,
    Answers, Saved, Repetitions, Writers, Storage, Claims, Given,
)  # fmt: skip

#: The public functions of these modules.
INVARIANTS: tuple[Invariant, ...] = tuple(
    function
    for module in (log, views, senders, quiescence, ending)
    for name, function in vars(module).items()
    if isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
)

_HANDLERS = Dispatcher(
    (trigger, (index, function)) for index, kind in enumerate(CHECKS) for trigger, function in handlers_in(kind)
)


def check(evidence: Evidence) -> list[Violation]:
    """Everything that does not hold; empty if all is well."""
    running = [kind(evidence) for kind in CHECKS]
    for moment, entry in enumerate(evidence.world.trace, 1):
        evidence.moment = moment
        for index, handle in _HANDLERS.handlers_of(entry):
            handle(running[index], entry)
    evidence.moment = None
    for one in running:
        one.finish()
    found = [Violation(*what) for what in evidence.found]
    return found + [Violation(one.__name__, text) for one in INVARIANTS for text in one(evidence)]


def judge(world: World) -> list[Violation]:
    """The same of a run that may have ended in any way. A core that is broken enough confuses its judge as well: that,
    too, is a finding about this run, and does not end the search."""
    if world.broken is not None:
        return [Violation("no_machine_raises", world.broken)]
    evidence = Evidence(world)
    try:
        return check(evidence)
    except Exception:
        return [*(Violation(*what) for what in evidence.found), judge_raises()]


def judge_raises() -> Violation:
    """For the exception that is being handled."""
    return Violation("judge_raises", traceback.format_exc(limit=-6))
