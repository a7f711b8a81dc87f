"""The invariants that must hold in every run.

A check follows the trace, and finds violations that show only at one moment. It is a class with a public method for
each type of entry that it needs. An invariant is a function over the whole run, which yields the violations as texts.
Each text first names the message, the conversation or the instance that it is about.
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
    """A broken invariant.

    `at`: the number of trace entries when it was found; None: only the whole run shows it.
    """

    invariant: str
    text: str
    at: int | None = None

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


#: The checks, in the order in which they see an entry. Checks that compare with the reference model come before those
#: that update it.
CHECKS: tuple[type[Check], ...] = (
    Facts, Connections, Rooms, Gateways, Limits, RouterStates, Requests, Refusals, Logins, Presence, Quiescence,
    Answers, Saved, Repetitions, Writers, Storage, Claims, Given,
)  # fmt: skip

#: The invariants: the public functions of these modules.
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
    """Return all violations; [] if there are none."""
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
    """Return all violations of a run that may have ended in any way.

    If the core is so broken that a check raises an exception, that too is a violation of this run. It does not end the
    search.
    """
    if world.broken is not None:
        return [Violation("no_machine_raises", world.broken)]
    evidence = Evidence(world)
    try:
        return check(evidence)
    except Exception:
        return [*(Violation(*what) for what in evidence.found), check_raises()]


def check_raises() -> Violation:
    """Return a violation for the exception that is being handled."""
    return Violation("check_raises", traceback.format_exc(limit=-6))
