"""What must hold after every run, each as a small function over the evidence that yields what is wrong, in words.

In each text the first thing named is the message, the conversation or the instance that it is about. What only one
moment shows is found by the `witnesses` (and in `connections`, `online`, `rooms`, `limits`, `rest`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import NamedTuple

from imsim.faultsearch.checks import groups, log, senders, sessions, states, views
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


INVARIANTS: tuple[Invariant, ...] = (
    log.acks_survive,
    log.one_place_for_each_message,
    log.seqs_are_dense,
    log.senders_keep_their_order,
    log.nothing_is_made_up,
    log.what_was_amended_stands_so,
    views.screens_are_in_order,
    views.screens_agree_with_the_log,
    senders.status_only_improves,
    senders.sent_is_stored_or_rejected,
    senders.requests_are_answered,
    senders.nothing_is_unavailable_without_a_fault,
    senders.said_in_rooms_is_heard_or_refused,
    groups.members_are_what_the_log_says,
    groups.every_group_has_one_owner,
    groups.friends_are_what_the_log_says,
    states.places_stand,
    states.marks_only_grow,
    sessions.queues_are_bounded,
    sessions.everybody_is_online_once,
    sessions.one_more_login_takes_its_slot,
    sessions.the_revoked_stay_out,
    sessions.revocations_are_kept,
    sessions.sessions_end_with_their_connections,
    views.everybody_holds_what_is_theirs,
    views.amendments_show,
    views.system_messages_come_once,
    views.every_look_is_right,
    states.conversation_lists_are_right,
    states.totals_are_sums,
    states.told_counts_are_right,
    sessions.it_comes_to_rest,
)


def check(evidence: Evidence) -> list[Violation]:
    """Everything that does not hold; empty if all is well."""
    moments = chain(evidence.moments, repeat(None))
    found = [Violation(*what, at) for what, at in zip(evidence.found, moments, strict=False)]
    return found + [Violation(one.__name__, text) for one in INVARIANTS for text in one(evidence)]


def judge(world: World) -> list[Violation]:
    """The same of a run that may have ended in any way. A core that is broken enough confuses its judge as well: that,
    too, is a finding about this run, and no end of the search."""
    if world.broken is not None:
        return [Violation("no_machine_raises", world.broken)]
    try:
        return check(Evidence(world))
    except Exception:
        return [judge_raises()]


def judge_raises() -> Violation:
    """For the exception that is being handled."""
    return Violation("judge_raises", traceback.format_exc(limit=-6))
