"""The log: what is stored, and in what order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from imsim.core import events
from imsim.core.model import conversation_id
from imsim.faultsearch.evidence import Evidence
from imsim.faultsearch.model.reference import same_words


def acks_survive(evidence: Evidence) -> Iterator[str]:
    """Every acknowledgement that a client has had stands in storage, as it was sent."""
    for instance in evidence.world.instances():
        for ack in evidence.acked(instance):
            log = evidence.world.logs.get(ack.conversation_id)
            if log is None or not 1 <= ack.seq <= len(log.messages):
                yield f"{ack.id_client} acknowledged as {ack.conversation_id}#{ack.seq} is not in storage"
                continue
            stored = log.messages[ack.seq - 1]
            if (stored.id_client, stored.sender) != (ack.id_client, instance.user):
                yield f"{ack.id_client} acknowledged as {stored.id}, where {stored.id_client} stands"


def one_seq_for_each_message(evidence: Evidence) -> Iterator[str]:
    """One (id, seq, time) for each (conversation, sender, idClient), in storage and in all that was ever sent."""
    for key, answers in evidence.answers.items():
        if len(answers) > 1:
            yield f"{key[2]} was answered as {sorted(answers)}"
    for conversation, log in evidence.world.logs.items():
        keys = [(message.sender, message.id_client) for message in log.messages]
        for sender, id_client in sorted({key for key in keys if keys.count(key) > 1}):
            yield f"{id_client} of {sender} stands {keys.count((sender, id_client))} times in {conversation}"


def seqs_are_dense(evidence: Evidence) -> Iterator[str]:
    for conversation, log in evidence.world.logs.items():
        seqs = [message.seq for message in log.messages]
        if seqs != list(range(1, len(seqs) + 1)):
            yield f"{conversation} holds {seqs}"
        if log.messages != evidence.model.logs.get(conversation, []):
            yield f"{conversation} is not what storage was given and took"


def senders_keep_their_order(evidence: Evidence) -> Iterator[str]:
    """What an instance sent into a conversation stands there in the order of sending. A send that was
    reported as failed is not part of that order, also if it was stored after all or sent again; and where an idClient
    is shared with another device, whose it is decides who came first."""
    shared = evidence.shared
    for instance in evidence.world.instances():
        failed = {event.id_client for event in instance.events if type(event) is events.SendFailed}
        states: dict[str, list[tuple[int, str]]] = {}
        mixed: set[str] = set()
        for id_client, sent in instance.sent.items():
            conversation = conversation_id(sent["scene"], instance.user, sent["to"])
            stored = evidence.model.by_key.get((conversation, instance.user, id_client))
            if id_client in shared:
                states[conversation] = []
                mixed.add(conversation)
            elif stored is not None and id_client not in failed and conversation not in mixed:
                states.setdefault(conversation, []).append((stored.seq, id_client))
        for conversation, order in states.items():
            for (one, first), (other, second) in pairwise(order):
                if one > other:
                    yield f"{second} was sent after {first} and stands before it in {conversation}"


def amendments_are_stored(evidence: Evidence) -> Iterator[str]:
    """In the end storage holds each entry as it became, and nothing of what was taken back."""
    for conversation, log in evidence.world.logs.items():
        for message, known in zip(log.messages, evidence.model.logs[conversation], strict=False):
            if message != known:
                yield f"{message.id} stands as {message}, not {known}"


def nothing_is_made_up(evidence: Evidence) -> Iterator[str]:
    """What is stored was sent, in these words; or is a system message that follows from what was. (Whether it might be
    sent is judged when it is stored.)"""
    model = evidence.model
    sent = defaultdict(list)
    for instance in evidence.world.instances():
        for id, given in instance.sent.items():
            key = (conversation_id(given["scene"], instance.user, given["to"]), instance.user, id)
            sent[key].append(given)
    for conversation, log in model.logs.items():
        for message in log:
            if (conversation, message.seq) in model.notes:
                continue
            first = model.forms[conversation, message.seq][0]
            if not any(same_words(first, one) for one in sent[conversation, message.sender, message.id_client]):
                yield f"{message.id_client} in {conversation} was never sent so"
