"""Invariants of senders: the status of their messages, and the answers to their requests."""

from __future__ import annotations

from collections.abc import Iterator

from imsim.core import events, frames
from imsim.core.model import Code, Flow, Status, is_chatroom
from imsim.faultsearch.entries import GatewaySent, Shed
from imsim.faultsearch.evidence import Evidence
from imsim.faultsearch.model.reference import same_words
from imsim.faultsearch.model.rules import SILENT, event_of
from imsim.faultsearch.model.view import conversation_of
from imsim.faultsearch.nodes import Instance


def status_only_improves(evidence: Evidence) -> Iterator[str]:
    """A status goes from sending to success, which is final, or to fail, until the message is sent again or found
    stored.

    (Left out: a message that its application sent again although it had succeeded.)
    """
    for instance in evidence.world.instances():
        acked: set[str] = set()
        for event in instance.events:
            if isinstance(event, events.Acked | events.SendFailed | events.Sent):
                if event.id_client in acked - instance.tapped:
                    yield f"{event.id_client} on {instance.name}: {type(event).__name__} after success"
                if type(event) is events.Acked:
                    acked.add(event.id_client)


def sent_is_stored_or_rejected(evidence: Evidence) -> Iterator[str]:
    """sent = stored + rejected + unknown. Only messages that were lost with their application are unknown.

    The status is success exactly if the message is stored with this content, or received by a chatroom. (Another check
    covers the reasons of refusals. This check leaves out a message that its application sent again although it had
    succeeded, if the second send got no answer.)
    """
    for instance in evidence.world.instances():
        # A message that another device of the user sent with this idClient may have been shown before.
        shown = {e.message.id_client for e in instance.events if type(e) is events.Shown and e.flow == Flow.OUT}
        again = instance.tapped & {event.id_client for event in evidence.acked(instance)}
        received = {event.id_client for event in instance.events if type(event) is events.Received}
        is_there = instance in evidence.world.final_instances
        for id_client, sent in instance.sent.items():
            conversation, status = conversation_of(instance.user, sent), instance.machine.status(id_client)
            if is_there and status == Status.SENDING:
                yield f"{id_client} on {instance.name} is still being sent"
            if is_chatroom(conversation):
                if status == Status.SUCCESS and id_client not in received:
                    yield f"{id_client} on {instance.name} has the status success, but its chatroom has not received it"
                continue
            stored = evidence.model.first(conversation, instance.user, id_client)
            same = stored is not None and same_words(stored, sent)
            if status == Status.SUCCESS:
                # An amended message cannot be compared.
                if not same and not (stored and evidence.model.logs[conversation][stored.seq - 1].amended):
                    yield f"{id_client} on {instance.name} has the status success, but is not stored with this content"
            elif is_there and same and id_client not in (shown & evidence.shared) | again:
                if _may_not_know(evidence, instance, conversation, id_client):
                    continue
                yield f"{id_client} on {instance.name} has the status {status}, but is stored"


def _may_not_know(evidence: Evidence, instance: Instance, conversation: str, id_client: str) -> bool:
    """Return whether the sender may rightly not know that its message is stored.

    There are two such cases. The user cannot see the message, and the answers to all attempts were lost. Or another
    device has sent it and no device shows it: without the mark of a repetition, the writer judges the send as a new
    one, and the rules may refuse it by now.
    """
    stored = evidence.model.by_key[conversation, instance.user, id_client]
    is_recalled = evidence.model.logs[conversation][stored.seq - 1].recalled
    unseen = (event_of(stored) in SILENT or is_recalled) and id_client in evidence.shared
    return unseen or not evidence.model.may_see(instance.user, conversation, stored.seq)


def last_messages_reach_rooms(evidence: Evidence) -> Iterator[str]:
    """At the end, each device in a chatroom receives its last messages once, and no other device receives them."""
    for room, last_words in evidence.world.last_room_messages.items():
        for instance in evidence.world.final_instances:
            shown = [event.message for event in instance.events if type(event) is events.Shown]
            heard = [message.id_client for message in shown if is_chatroom(message.conversation_id)]
            for speaker, id_client in last_words:
                is_inside, count = instance.name != speaker and room in instance.rooms, heard.count(id_client)
                if count != int(is_inside) and not _is_shed(evidence, instance):
                    yield f"{id_client} in {room} was shown {count} times by {instance.name}"


def _is_shed(evidence: Evidence, instance: Instance) -> bool:
    is_shed = any(type(entry) is Shed and entry.device == instance.key for entry in evidence.world.trace)
    return evidence.policies.room_rate > 0 and is_shed


def nothing_is_unavailable_without_a_fault(evidence: Evidence) -> Iterator[str]:
    """A request is refused as unavailable only if a fault occurred."""
    for entry in evidence.world.trace if not evidence.world.case.faults else ():
        frame = entry.frame if isinstance(entry, GatewaySent) else None
        if isinstance(frame, frames.Rejected | frames.Refused) and frame.code == Code.UNAVAILABLE:
            yield f"{entry} without a fault"


def requests_are_answered(evidence: Evidence) -> Iterator[str]:
    """At the end, every request has an answer. (Whether it is right is checked when it arrives: see `Requests`.)"""
    for instance in evidence.world.final_instances:
        for op, ref in sorted(instance.asked):
            yield f"{instance.name} has no answer to its {op} {ref}"
