"""The log, its members and its states: what storage holds in the end, and in what order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from imsim.core import events
from imsim.faultsearch.evidence import Evidence
from imsim.faultsearch.model.reference import same_words
from imsim.faultsearch.model.view import conversation_of


def acks_survive(evidence: Evidence) -> Iterator[str]:
    """Every acknowledgement that a client has had stands in storage, as it was sent."""
    for instance in evidence.world.instances():
        for ack in evidence.acked(instance):
            log = evidence.world.logs.get(ack.conversation_id)
            stored = log.messages[ack.seq - 1 : ack.seq] if log is not None and ack.seq else []
            if [(message.id_client, message.sender) for message in stored] != [(ack.id_client, instance.user)]:
                yield f"{ack.id_client} acknowledged as {ack.conversation_id}#{ack.seq}, where {stored} stands"


def one_seq_for_each_message(evidence: Evidence) -> Iterator[str]:
    """A message stands once in storage. (What is sent of it is compared with that when it is sent.)"""
    for conversation, log in evidence.world.logs.items():
        counts = Counter((message.sender, message.id_client) for message in log.messages)
        for (sender, id_client), count in counts.items():
            if count > 1:
                yield f"{id_client} of {sender} stands {count} times in {conversation}"


def seqs_are_dense(evidence: Evidence) -> Iterator[str]:
    """They run from 1 to the last; and storage holds each entry as it became, and nothing of what was taken back."""
    for conversation, log in evidence.world.logs.items():
        seqs = [message.seq for message in log.messages]
        if seqs != list(range(1, len(seqs) + 1)):
            yield f"{conversation} holds {seqs}"
        known = evidence.model.logs.get(conversation, [])
        if log.messages != known:
            wrong = [message.id for message in log.messages if message not in known]
            yield f"{conversation} is not what storage was given and took: {wrong} of {len(seqs)} for {len(known)}"


def senders_keep_their_order(evidence: Evidence) -> Iterator[str]:
    """What an instance sent into a conversation stands there in the order of sending. Left out: a send that was
    reported as failed, also if it was stored after all or sent again; and a conversation into which another device has
    sent the same idClient."""
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
                    yield f"{second} was sent after {first} and stands before it in {conversation}"


def nothing_is_made_up(evidence: Evidence) -> Iterator[str]:
    """What is stored was sent, in these words; or is a system message that follows from what was. (Whether it might be
    sent is judged when it is stored.)"""
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
                yield f"{message.id_client} in {conversation} was never sent so"


def members_are_those_of_the_log(evidence: Evidence) -> Iterator[str]:
    """Storage agrees with a replay of the log, about members and who of them is what, about friends, and about who may
    see what."""
    for conversation, log in evidence.world.logs.items():
        members, state = evidence.model.members_of(conversation), evidence.model.states[conversation][-1]
        if sorted(log.members) != sorted(members):
            yield f"{conversation} has the members {log.members}, not {members}"
        if not state.stands_in(log.state):
            yield f"{conversation} has the state {log.state}, not {state}"
        for user in evidence.world.case.users:
            seqs = [message.seq for message in evidence.model.view(user, conversation)]
            if log.seen.get(user, []) != seqs:
                yield f"{conversation} is seen by {user} as {log.seen.get(user, [])}, not {seqs}"


def states_are_kept(evidence: Evidence) -> Iterator[str]:
    """Where each user stands is what storage was asked for, and no further than a device of the user has said."""
    for conversation, log in evidence.world.logs.items():
        for user, state in log.states.items():
            if state != evidence.model.user_state(user, conversation):
                yield f"{conversation} has the state {state} for {user}, which storage was not asked for"
            if state.read_seq > evidence.model.claimed[user, conversation]:
                yield f"{conversation} is read by {user} up to {state.read_seq}, which no device of theirs has said"
