"""Places: where each user stands in each conversation, in storage and on every device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from imsim.core import events, frames
from imsim.core.model import ConversationState
from imsim.faultsearch.checks.quiescence import wrong_lines
from imsim.faultsearch.entries import ClientReceived
from imsim.faultsearch.evidence import Evidence


def conversation_lists_are_right(evidence: Evidence) -> Iterator[str]:
    """On every device, one without a memory included: listed is what has happened in since it was hidden; lastMsg and
    updateTime follow the highest visible seq; unread is a recount by brute force, for the very mark that storage holds;
    pinned, muted, custom and what the other has read are what storage holds."""
    for instance in evidence.live:
        views, lines = instance.machine.conversations(), evidence.model.listed(instance.user)
        for view in views:
            if not instance.is_live and view.id in lines:
                # It was ended by a probe, which has since acknowledged what it got.
                state = lines[view.id].state
                lines[view.id].state = replace(state, peer_delivered_seq=view.peer_delivered_seq)
        wrong_lines_of = wrong_lines(evidence.model, instance.user, views, lines)
        yield from (f"{instance.name} {wrong}" for wrong in wrong_lines_of)


def totals_are_sums(evidence: Evidence) -> Iterator[str]:
    """The total unread count, with and without what is muted, is a recount; and what is pinned stands first."""
    for instance in evidence.live:
        lines = evidence.model.listed(instance.user).values()
        if any(evidence.model.is_torn(instance.user, id) for id in evidence.model.logs):
            continue
        for muted in (True, False):
            total = sum(line.unread for line in lines if muted or not line.state.muted)
            if instance.machine.total_unread(muted) != total:
                yield f"{instance.name} counts {instance.machine.total_unread(muted)} unread in all, not {total}"
        order = [(not view.pinned, -view.update_time) for view in instance.machine.conversations()]
        if order != sorted(order):
            yield f"{instance.name} lists its conversations as {order}"


def sent_counts_are_right(evidence: Evidence) -> Iterator[str]:
    """The states that a fresh device gets are what storage holds, and counted right."""
    received = (entry for entry in evidence.world.trace if type(entry) is ClientReceived)
    done = {entry.node: entry.frame for entry in received if type(entry.frame) is frames.SyncDone}
    for probe in evidence.world.probes:
        for state in done[probe.name].states if probe.name in done else []:
            unread = evidence.model.unread(probe.user, state.conversation_id)
            if evidence.model.is_torn(probe.user, state.conversation_id):
                continue
            if state.unread != unread:
                yield f"{probe.name} was sent {state}, not {unread} unread"


def states_are_kept(evidence: Evidence) -> Iterator[str]:
    """0 <= mark <= the log's end; what a device that is still there has read is stored, and nobody else moves it; and
    how far one has read is known to the other."""
    for conversation, log in evidence.world.logs.items():
        for user, state in log.states.items():
            if not 0 <= state.hidden_seq <= state.read_seq <= len(log.messages):
                yield f"{conversation} has the state {state} for {user}, of {len(log.messages)}"
            if state != evidence.model.user_state(user, conversation):
                yield f"{conversation} has the state {state} for {user}, which storage was not asked for"
            if state.read_seq > evidence.model.claimed.get((user, conversation), 0):
                yield f"{conversation} is read by {user} up to {state.read_seq}, which no device of theirs has said"
            if conversation.startswith("p2p:"):
                peers = [log.states[peer] for peer in log.members if peer != user]
                if state.peer_read_seq != sum(peer.read_seq for peer in peers):
                    yield f"{conversation} is shown to {user} as read up to {state.peer_read_seq} by {peers}"
                yield from _wrongly_delivered(evidence, conversation, user, state, len(log.messages))


def _wrongly_delivered(
    evidence: Evidence, conversation: str, user: str, state: ConversationState, end: int
) -> Iterator[str]:
    """What one user hears that the other has got: no more than a device of the other said, and what one said who is
    still there."""
    model, got = evidence.model, state.peer_delivered_seq
    least = most = state.peer_read_seq
    if evidence.acknowledges:
        peers = [peer for peer in model.members_of(conversation) if peer != user]
        most = max([state.peer_read_seq, *(min(end, model.held.get((peer, conversation), 0)) for peer in peers)])
        there = [i for i in evidence.world.finalists if i.user in peers]
        least = max([least, *(model.got(i.name, i.user, conversation) for i in there)])
    if not least <= got <= most:
        yield f"{conversation} is shown to {user} as delivered up to {got}, not {least} to {most}"


def marks_only_grow(evidence: Evidence) -> Iterator[str]:
    """One's own and the other's, on each device."""
    for instance in evidence.world.instances():
        marks: dict[tuple[type, str], int] = {}
        for event in instance.events:
            if isinstance(event, events.ReadMoved | events.PeerRead | events.PeerDelivered):
                seq = event.read_seq if isinstance(event, events.ReadMoved) else event.seq
                key = (type(event), event.conversation_id)
                if seq <= marks.get(key, 0):
                    yield f"{instance.name} moved a mark back, from {marks[key]} to {event}"
                if isinstance(event, events.ReadMoved) and event.unread < 0:
                    yield f"{instance.name} counts {event.unread} unread in {event.conversation_id}"
                marks[key] = seq
