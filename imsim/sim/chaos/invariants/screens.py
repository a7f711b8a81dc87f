"""The screens: what each device has shown, and holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from imsim.core import events
from imsim.core.model import Flow, MessageType
from imsim.sim.chaos.evidence import Evidence


def screens_are_in_order(evidence: Evidence) -> Iterator[str]:
    """Each device shows each message once, by strictly increasing seq."""
    for instance in (*evidence.world.instances(), *evidence.world.probes):
        for conversation, messages in evidence.shown(instance).items():
            for one, other in pairwise(messages):
                if one.seq >= other.seq:
                    yield f"{other.id_client} shown on {instance.name} after {one.id_client} in {conversation}"
            own = {ack.id_client for ack in evidence.acked(instance) if ack.conversation_id == conversation}
            own -= evidence.shared  # there the other device's may be shown before this one sends its own
            for message in messages:
                if message.sender == instance.user and message.id_client in own:
                    yield f"{message.id_client} is both shown and acknowledged on {instance.name}"


def screens_agree_with_the_log(evidence: Evidence) -> Iterator[str]:
    for instance in (*evidence.world.instances(), *evidence.world.probes):
        for event in instance.events:
            if type(event) is events.Shown:
                message, log = event.message, evidence.ledger.logs.get(event.message.conversation_id, [])
                if not (1 <= message.seq <= len(log) and log[message.seq - 1] == message):
                    yield f"{message.id_client} shown on {instance.name} as {message.id} is not what stands there"
                if (event.flow == Flow.OUT) != (message.sender == instance.user):
                    yield f"{message.id_client} shown on {instance.name} as flow {event.flow}"


def everybody_holds_what_is_theirs(evidence: Evidence) -> Iterator[str]:
    """Delivered = stored x eligible devices: each holds its whole visible set, and was given it."""
    for lack in evidence.world.deaf:
        if lack:
            yield f"{lack} before it has logged in once more"
    for instance in evidence.live:
        held: dict[str, set[int]] = {}
        for conversation, messages in evidence.shown(instance).items():
            held.setdefault(conversation, set()).update(message.seq for message in messages)
        for ack in evidence.acked(instance):
            held.setdefault(ack.conversation_id, set()).add(ack.seq)
        visible = evidence.ledger.seen_by(instance.user)
        given = evidence.ledger.given[instance.name]
        for conversation in sorted({*held, *visible}):
            seqs = [message.seq for message in visible.get(conversation, [])]
            has = held.get(conversation, set())
            if sorted(has) != seqs:
                yield f"{instance.name} holds {sorted(has)} of {conversation}, not {seqs}"
            if not given[conversation] >= has:
                yield f"{instance.name} holds of {conversation} what it was never given"


def every_look_is_right(evidence: Evidence) -> Iterator[str]:
    """Whenever a user looks: unread is what the screen has shown beyond the read mark, lastMsg the highest of it."""
    for instance in evidence.world.instances():
        last: dict[str, int] = {}
        counted: dict[str, list[int]] = {}
        at = 0
        for until, views in instance.looks:
            for event in instance.events[at:until]:
                if type(event) is events.Shown:
                    message = event.message
                    last[message.conversation_id] = max(message.seq, last.get(message.conversation_id, 0))
                    if event.flow == Flow.IN and message.type != MessageType.NOTIFICATION:
                        counted.setdefault(message.conversation_id, []).append(message.seq)
                elif type(event) is events.Acked:
                    last[event.conversation_id] = max(event.seq, last.get(event.conversation_id, 0))
            at = until
            for view in views:
                unread = sum(seq > view.read_seq for seq in counted.get(view.id, ()))
                if view.unread != unread:
                    yield f"{instance.name} counted {view.unread} unread in {view.id}, not {unread}"
                if (view.last_msg.seq if view.last_msg else 0) != last.get(view.id, 0):
                    yield f"{instance.name} had {view.last_msg} last in {view.id}, not {last.get(view.id, 0)}"
