"""The senders: what they hear of what they sent and asked for."""

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
    """sending, then success for ever; or fail, until it is sent again or proves stored after all. (Left out: what its
    application sent again although it had succeeded.)"""
    for instance in evidence.world.instances():
        acked: set[str] = set()
        for event in instance.events:
            if isinstance(event, events.Acked | events.SendFailed | events.Sent):
                if event.id_client in acked - instance.tapped:
                    yield f"{event.id_client} on {instance.name}: {type(event).__name__} after success"
                if type(event) is events.Acked:
                    acked.add(event.id_client)


def sent_is_stored_or_rejected(evidence: Evidence) -> Iterator[str]:
    """sent = stored + rejected + unknown, where unknown is only what died with its application: success exactly where
    it is stored in these words. (Whether a refusal has a reason is judged when it is sent. Left out: what its
    application sent again although it had succeeded, and got no answer.)"""
    for instance in evidence.world.instances():
        # What another device of the user had sent under this idClient may have been shown before.
        shown = {e.message.id_client for e in instance.events if type(e) is events.Shown and e.flow == Flow.OUT}
        shown &= evidence.shared
        again = instance.tapped & {event.id_client for event in instance.events if type(event) is events.Acked}
        is_there = instance in evidence.world.finalists
        for id_client, sent in instance.sent.items():
            conversation = conversation_of(instance.user, sent)
            if is_chatroom(conversation):
                continue
            stored = evidence.model.first(conversation, instance.user, id_client)
            same = stored is not None and same_words(stored, sent)
            status = instance.machine.status(id_client)
            if is_there and status == Status.SENDING:
                yield f"{id_client} on {instance.name} is still being sent"
            if status == Status.SUCCESS and not same:
                # What was amended cannot be compared any more.
                amended = stored and evidence.model.logs[conversation][stored.seq - 1].amended
                if not amended:
                    yield f"{id_client} on {instance.name} has the status success and is not stored so"
            elif is_there and status != Status.SUCCESS and same and id_client not in shown | again:
                if _may_not_know(evidence, instance, conversation, id_client):
                    continue
                yield f"{id_client} on {instance.name} has the status {status} and is stored"


def _may_not_know(evidence: Evidence, instance: Instance, conversation: str, id_client: str) -> bool:
    """Whether it is stored where its sender does not see it, and the answers to all attempts were lost. Or another
    device has sent it, and what stands there never shows: then the rule may refuse it by now that let it in before, as
    only who says that it comes again has it looked for."""
    stored = evidence.model.by_key[conversation, instance.user, id_client]
    is_recalled = evidence.model.logs[conversation][stored.seq - 1].recalled
    unseen = (event_of(stored) in SILENT or is_recalled) and id_client in evidence.shared
    return unseen or not evidence.model.may_see(instance.user, conversation, stored.seq)


def said_in_rooms_is_heard_or_refused(evidence: Evidence) -> Iterator[str]:
    """What is sent into a chatroom is received or failed; after rest, who is in a room hears a last word once."""
    heard: dict[str, list[str]] = {}
    for instance in evidence.world.instances():
        received = {event.id_client for event in instance.events if type(event) is events.Received}
        shown = [e.message for e in instance.events if type(e) is events.Shown]
        heard[instance.name] = [m.id_client for m in shown if is_chatroom(m.conversation_id)]
        for id_client, sent in instance.sent.items():
            if is_chatroom(conversation_of(instance.user, sent)):
                status = instance.machine.status(id_client)
                if status == Status.SUCCESS and id_client not in received:
                    yield f"{id_client} on {instance.name} has the status success and nobody has received it"
                if status == Status.SENDING and instance in evidence.world.finalists:
                    yield f"{id_client} on {instance.name} is still being sent"
    for room, last_words in evidence.world.last_in_rooms.items():
        for speaker, id_client in last_words:
            for instance in evidence.world.finalists:
                is_inside = instance.name != speaker and room in instance.rooms
                count = heard[instance.name].count(id_client)
                if count != int(is_inside) and not _is_shed(evidence, instance, id_client):
                    yield f"{id_client} in {room} was heard {count} times by {instance.name}"


def _is_shed(evidence: Evidence, instance: Instance, id_client: str) -> bool:
    is_shed = any(type(entry) is Shed and entry.device == instance.key for entry in evidence.world.trace)
    return evidence.policies.room_rate > 0 and is_shed


def nothing_is_unavailable_without_a_fault(evidence: Evidence) -> Iterator[str]:
    """To be sent away until later takes a reason: something that broke, or was slow."""
    if evidence.world.case.faults:
        return
    for entry in evidence.world.trace:
        if not isinstance(entry, GatewaySent) or not isinstance(entry.frame, frames.Rejected | frames.Refused):
            continue
        if entry.frame.code == Code.UNAVAILABLE:
            yield f"{entry.peer} was sent {entry.frame}"


def requests_are_answered(evidence: Evidence) -> Iterator[str]:
    """By what is true, or with a reason: that is seen when it happens (see `Requests`)."""
    for instance in evidence.world.finalists:
        for op, ref in sorted(instance.asked):
            yield f"{instance.name} has no answer to its {op} {ref}"
