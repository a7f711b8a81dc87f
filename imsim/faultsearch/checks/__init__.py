"""What must hold in every run.

A check follows the trace, and finds what only one moment shows: a class with a handler for each kind of entry that it
looks at. An invariant looks at the whole run: a function that yields what is wrong. In each text the first thing named
is the message, the conversation or the instance that it is about.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from imsim.faultsearch.checks import groups, log, senders, sessions, states, views
from imsim.faultsearch.checks.answers import Answers, Saved
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.checks.claims import Claims
from imsim.faultsearch.checks.connections import Connections
from imsim.faultsearch.checks.limits import Limits
from imsim.faultsearch.checks.logins import Logins
from imsim.faultsearch.checks.pages import Pages
from imsim.faultsearch.checks.presence import Presence, Sessions
from imsim.faultsearch.checks.quiescence import Quiescence
from imsim.faultsearch.checks.reference import Clients, Storage, Writers
from imsim.faultsearch.checks.refusals import Gaps, Refusals
from imsim.faultsearch.checks.repetitions import Repetitions
from imsim.faultsearch.checks.requests import Requests
from imsim.faultsearch.checks.rooms import Rooms
from imsim.faultsearch.checks.router_states import RouterStates
from imsim.faultsearch.dispatch import Dispatcher
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
    Connections,
    Rooms,
    Limits,
    Pages,
    Requests,
    Claims,
    Refusals,
    Gaps,
    Logins,
    Sessions,
    Presence,
    RouterStates,
    Quiescence,
    Answers,
    Saved,
    Repetitions,
    Writers,
    Storage,
    Clients,
)

INVARIANTS: tuple[Invariant, ...] = (
    log.acks_survive,
    log.one_seq_for_each_message,
    log.seqs_are_dense,
    log.senders_keep_their_order,
    log.nothing_is_made_up,
    log.amendments_are_stored,
    views.views_are_in_order,
    views.views_agree_with_the_log,
    senders.status_only_improves,
    senders.sent_is_stored_or_rejected,
    senders.requests_are_answered,
    senders.nothing_is_unavailable_without_a_fault,
    senders.said_in_rooms_is_heard_or_refused,
    groups.members_are_those_of_the_log,
    groups.every_group_has_one_owner,
    groups.friends_are_those_of_the_log,
    states.states_are_kept,
    states.marks_only_grow,
    sessions.queues_are_bounded,
    sessions.every_slot_is_online_once,
    sessions.one_more_login_takes_its_slot,
    sessions.revoked_tokens_stay_out,
    sessions.revocations_are_kept,
    views.every_device_holds_its_visible_set,
    views.amendments_show,
    views.system_messages_come_once,
    views.every_look_is_right,
    states.conversation_lists_are_right,
    states.totals_are_sums,
    states.sent_counts_are_right,
    sessions.waiting_machines_have_deadlines,
    sessions.it_comes_to_rest,
)


def _handlers() -> Iterator[tuple[Any, tuple[int, Callable[[Any, Any], None]]]]:
    for index, kind in enumerate(CHECKS):
        for function in vars(kind).values():
            for trigger in getattr(function, "triggers", ()):
                yield trigger, (index, function)


_DISPATCHER = Dispatcher(_handlers())


def check(evidence: Evidence) -> list[Violation]:
    """Everything that does not hold; empty if all is well."""
    checks: dict[type[Check], Check] = {}
    for kind in CHECKS:
        checks[kind] = kind(evidence, checks)
    running, handlers_of = list(checks.values()), _DISPATCHER.handlers_of
    for moment, entry in enumerate(evidence.world.trace, 1):
        evidence.moment = moment
        for index, handle in handlers_of(entry):
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
