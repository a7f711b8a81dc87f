"""Invariants of the end of a run: logins, revocations, and quiescence."""

from __future__ import annotations

from collections.abc import Iterator

from imsim.core import events, storage
from imsim.core.client.connection import State
from imsim.core.model import Code
from imsim.faultsearch.entries import Crashed, Revoked, Stored
from imsim.faultsearch.evidence import Evidence


def every_slot_is_online_once(evidence: Evidence) -> Iterator[str]:
    """At the end of the run, exactly one device of each slot is logged in."""
    world = evidence.world
    online = [world.case.slot(instance.key) for instance in world.final_instances if instance.name in world.online]
    for slot in sorted({world.case.slot(device) for device in world.case.devices}):
        if online.count(slot) != 1:
            yield f"{'/'.join(slot)} is online {online.count(slot)} times"
    yield from (
        f"{instance.name} is not online" for instance in world.final_instances if instance.name not in world.online
    )


def new_login_takes_its_slot(evidence: Evidence) -> Iterator[str]:
    """Every probe logs in successfully, and the device in its slot is kicked."""
    world = evidence.world
    yield from (f"{p.name} is not online" for p in world.probes if p.machine.state != State.ONLINE)
    taken = {world.case.slot(probe.key) for probe in world.probes}
    for instance in world.final_instances:
        kicked = [event.code for event in instance.events if type(event) is events.Ended][-1:] == [Code.KICKED]
        state = instance.machine.state
        if world.case.slot(instance.key) in taken:
            if not (state == State.ENDED and kicked):
                yield f"{instance.name} is {state} although another device took its slot"
        elif state != State.ONLINE:
            yield f"{instance.name} is {state} at the end of the run"


def revoked_tokens_stay_out(evidence: Evidence) -> Iterator[str]:
    """A device that is logged in at quiescence has a token that is not revoked in storage."""
    for name, token in evidence.world.tokens_in_use:
        user, issued = token.split("@")
        if float(issued) < evidence.model.revoked.get(user, 0.0):
            yield f"{name} has a token of {issued}; those before {evidence.model.revoked[user]} are revoked"


def revocations_are_kept(evidence: Evidence) -> Iterator[str]:
    """Each revocation that a router was asked for is in storage at the end, unless the router crashed before."""
    open: dict[tuple[str, str], float] = {}  # (user, router) -> issued before
    for entry in evidence.world.trace:
        if isinstance(entry, Revoked):
            whose = (entry.node, entry.peer)
            open[whose] = max(entry.before, open.get(whose, 0.0))
        elif isinstance(entry, Crashed):
            open = {whose: before for whose, before in open.items() if whose[1] != entry.node}
        elif isinstance(entry, Stored) and isinstance(request := entry.request, storage.RevokeTokens):
            done = {whose for whose, before in open.items() if whose[0] == request.user and before <= request.before}
            open = {whose: before for whose, before in open.items() if whose not in done}
    for (user, router), before in open.items():
        yield f"{user}'s tokens from before {before} are not revoked, although {router} was asked to"


def queues_are_bounded(evidence: Evidence) -> Iterator[str]:
    """No connection ever has more unacknowledged pushes than the policy `send_queue`."""
    longest, limit = evidence.world.longest_queue, evidence.world.case.policies.send_queue
    if longest > limit:
        yield f"a connection had {longest} unacknowledged pushes, more than {limit}"


def run_becomes_quiescent(evidence: Evidence) -> Iterator[str]:
    """After the last fault, every request is answered, in bounded time and with bounded traffic."""
    yield from evidence.world.never_idle


def waiting_machines_have_deadlines(evidence: Evidence) -> Iterator[str]:
    """A machine that waits for another one always has a deadline that is not far away."""
    yield from (f"{name}: {text}" for name, text in evidence.world.without_deadline.items())
