"""The senders: what they are told of what they sent and asked for."""

from __future__ import annotations

from collections.abc import Iterator

from imsim.core import events
from imsim.core.model import Flow, Status, conversation_id
from imsim.sim.chaos.evidence import Evidence


def status_only_improves(evidence: Evidence) -> Iterator[str]:
    """sending, then success for ever; or fail, until it is sent again or proves stored after all."""
    for instance in evidence.world.instances():
        acked: set[str] = set()
        for event in instance.events:
            if isinstance(event, events.Acked | events.SendFailed | events.Sent):
                if event.id_client in acked:
                    yield f"{event.id_client} on {instance.name}: {type(event).__name__} after success"
                if type(event) is events.Acked:
                    acked.add(event.id_client)


def sent_is_stored_or_rejected(evidence: Evidence) -> Iterator[str]:
    """sent = stored + rejected + unknown, where unknown is only what died with its application: success exactly where
    it is stored in these words, and a refusal only for a reason."""
    limit = evidence.world.case.policies.content_bytes
    for instance in evidence.world.instances():
        codes = {e.id_client: e.code for e in instance.events if type(e) is events.SendFailed}
        # What another device of the user had sent under this idClient may have been on the screen before.
        shown = {e.message.id_client for e in instance.events if type(e) is events.Shown and e.flow == Flow.OUT}
        shown &= evidence.shared
        for id_client, sent in instance.sent.items():
            conversation = conversation_id(sent["scene"], instance.user, sent["to"])
            stored = evidence.ledger.by_key.get((conversation, instance.user, id_client))
            same = stored is not None and (stored.content, stored.type) == (sent["content"], sent["type"])
            status = instance.machine.status(id_client)
            is_there = instance in evidence.world.finalists
            allowed = evidence.ledger.verdict(instance.user, conversation, sent, limit)
            if status == Status.SUCCESS and not same:
                yield f"{id_client} on {instance.name} has the status success and is not stored so"
            elif is_there and status != Status.SUCCESS and same and id_client not in shown:
                yield f"{id_client} on {instance.name} has the status {status} and is stored"
            elif is_there and status == Status.SENDING:
                yield f"{id_client} on {instance.name} is still being sent"
            if id_client in codes and codes[id_client] not in allowed | {"timeout"}:
                yield f"{id_client} on {instance.name} was refused: {codes[id_client]}, not {sorted(allowed)}"


def groups_are_what_was_asked_for(evidence: Evidence) -> Iterator[str]:
    for instance in evidence.world.instances():
        for event in instance.events:
            if type(event) is events.GroupMade and instance.user not in evidence.ledger.members_of(
                event.conversation_id
            ):
                yield f"{event.conversation_id} was made for {instance.name} without its founder"


def requests_are_answered(evidence: Evidence) -> Iterator[str]:
    """By what is true, or with a reason: that is seen when it happens (see `witnesses`)."""
    for instance in evidence.world.finalists:
        for op, ref in sorted(instance.asked):
            yield f"{instance.name} has no answer to its {op} {ref}"
