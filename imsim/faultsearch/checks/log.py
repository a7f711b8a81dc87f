"""Invariants of the log, its members and its states: what storage holds at the end, and in what order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from imsim.core import events
from imsim.faultsearch.evidence import Evidence
from imsim.faultsearch.model.reference import same_words
from imsim.faultsearch.model.view import conversation_of


def acks_survive(evidence: Evidence) -> Iterator[str]:
    """Every message that a client received an acknowledgement of is in storage, as acknowledged."""
    for instance in evidence.world.instances():
        for ack in evidence.acked(instance):
            log = evidence.world.logs.get(ack.conversation_id)
            if log is not None and not ack.seq:  # the sender cannot see the log, so the position is not reported
                stored = [one for one in log.messages if (one.id_client, one.sender) == (ack.id_client, instance.user)]
            else:
                stored = log.messages[ack.seq - 1 : ack.seq] if log is not None else []
            if [(message.id_client, message.sender) for message in stored] != [(ack.id_client, instance.user)]:
                yield f"{ack.id_client} was acknowledged as {ack.conversation_id}#{ack.seq}, but stored is {stored}"


def one_seq_for_each_message(evidence: Evidence) -> Iterator[str]:
    """A message is stored only once. (What devices receive is compared with it by other checks.)"""
    for conversation, log in evidence.world.logs.items():
        counts = Counter((message.sender, message.id_client) for message in log.messages)
        for (sender, id_client), count in counts.items():
            if count > 1:
                yield f"{id_client} of {sender} is stored {count} times in {conversation}"


def seqs_are_dense(evidence: Evidence) -> Iterator[str]:
    """seqs run from 1 to the last one, and storage holds each entry in its present form, without recalled contents."""
    for conversation, log in evidence.world.logs.items():
        seqs = [message.seq for message in log.messages]
        if seqs != list(range(1, len(seqs) + 1)):
            yield f"{conversation} has the seqs {seqs}"
        known = evidence.model.logs.get(conversation, [])
        if log.messages != known:
            wrong = [message.id for message in log.messages if message not in known]
            yield f"{conversation} differs from the model in {wrong}: {len(seqs)} entries, {len(known)} in the model"


def senders_keep_their_order(evidence: Evidence) -> Iterator[str]:
    """The messages of an instance are in each conversation in the order of sending.

    Left out: a send that was reported as failed, even if it was stored or sent again; and a conversation into which
    another device has sent the same idClient.
    """
    for instance in evidence.world.instances():
        failed = {event.id_client for event in instance.events if type(event) is events.SendFailed}
        orders: dict[str, list[tuple[int, str]]] = defaultdict(list)
        mixed = {conversation_of(instance.user, instance.sent[id]) for id in instance.sent if id in evidence.shared}
        for id_client, sent in instance.sent.items():
            conversation = conversation_of(instance.user, sent)
            stored = evidence.model.by_key.get((conversation, instance.user, id_client))
            if stored is not None and id_client not in failed and conversation not in mixed:
                orders[conversation].append((stored.seq, id_client))
        for conversation, order in orders.items():
            for (one, first), (other, second) in pairwise(order):
                if one > other:
                    yield f"{second} was sent after {first} and is stored before it in {conversation}"


def stored_messages_were_sent(evidence: Evidence) -> Iterator[str]:
    """Each stored message was sent with this content, or is a system message that follows from one.

    (Whether it was allowed is checked when it is stored.)
    """
    model = evidence.model
    sent = defaultdict(list)
    for instance in evidence.world.instances():
        for id, given in instance.sent.items():
            sent[conversation_of(instance.user, given), instance.user, id].append(given)
    for conversation, log in model.logs.items():
        for message in log:
            first = model.forms[conversation, message.seq][0]
            words = sent[conversation, message.sender, message.id_client]
            if (conversation, message.seq) not in model.notes and not any(same_words(first, one) for one in words):
                yield f"{message.id_client} in {conversation} was never sent with this content"


def members_agree_with_the_log(evidence: Evidence) -> Iterator[str]:
    """Storage agrees with a replay of the log about members and their roles, friends, and what each user may see."""
    for conversation, log in evidence.world.logs.items():
        members, state = evidence.model.members_of(conversation), evidence.model.states[conversation][-1]
        if sorted(log.members) != sorted(members):
            yield f"{conversation} has the members {log.members}, not {members}"
        if not state.matches(log.state):
            yield f"{conversation} has the state {log.state} in storage, not {state}"
        for user in evidence.world.case.users:
            seqs = [message.seq for message in evidence.model.view(user, conversation)]
            if log.seen.get(user, []) != seqs:
                yield f"{conversation} is seen by {user} as {log.seen.get(user, [])}, not {seqs}"


def states_are_kept(evidence: Evidence) -> Iterator[str]:
    """Each user's conversation state has exactly the requested changes. Its read mark is one that a device has sent."""
    for conversation, log in evidence.world.logs.items():
        for user, state in log.states.items():
            if state != evidence.model.user_state(user, conversation):
                yield f"{conversation} has the state {state} for {user}, which nobody requested"
            if state.read_seq > evidence.model.claimed[user, conversation]:
                yield f"{conversation} is read by {user} up to {state.read_seq}, which no device of the user has sent"
