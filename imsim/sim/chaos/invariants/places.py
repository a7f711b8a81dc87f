"""Places: where each user stands in each conversation, in storage and on every device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from imsim.core import events, frames
from imsim.core.model import Place
from imsim.core.screen import Conversation
from imsim.sim.chaos.evidence import Evidence
from imsim.sim.chaos.ledger import Line


def conversation_lists_are_right(evidence: Evidence) -> Iterator[str]:
    """On every device, one without a memory included: listed is what has happened in since it was hidden; lastMsg and
    updateTime follow the highest visible seq; unread is a recount by brute force, for the very mark that storage holds;
    pinned, muted, custom and what the other has read are what storage holds."""
    for instance in evidence.live:
        views = {view.id: view for view in instance.machine.conversations()}
        lines = evidence.ledger.listed(instance.user)
        torn = {id for id in {*views, *lines} if evidence.ledger.is_torn(instance.user, id)}
        if set(views) - torn != set(lines) - torn:
            yield f"{instance.name} lists {sorted(views)}, not {sorted(lines)}"
            continue
        for conversation, view in views.items():
            if conversation not in lines:
                continue
            line = lines[conversation]
            if evidence.ledger.is_torn(instance.user, conversation):
                last = view.last_msg
                line.last_seq, line.last_id, line.update_time, line.unread = last.seq, last.id, last.time, view.unread
            if not instance.is_live:  # it was ended by a probe, which has told its peers since what it got
                line.place = replace(line.place, peer_delivered_seq=view.peer_delivered_seq)
            yield from (f"{instance.name} has {wrong}" for wrong in _differences(view, line))


def _differences(view: Conversation, line: Line) -> Iterator[str]:
    last, place = view.last_msg, line.place
    if (last.seq, last.id) != (line.last_seq, line.last_id):
        yield f"{last.id} last in {view.id}, not {line.last_id}"
    if view.update_time != line.update_time:
        yield f"the update time {view.update_time} for {view.id}"
    if view.read_seq != place.read_seq:
        yield f"read {view.id} up to {view.read_seq}, storage says {place.read_seq}"
    elif view.unread != line.unread:
        yield f"{view.unread} unread in {view.id}, not {line.unread}"
    for name in ("pinned", "muted", "custom", "peer_read_seq", "peer_delivered_seq", "blocked"):
        if getattr(view, name) != getattr(place, name):
            yield f"{name} {getattr(view, name)!r} for {view.id}, not {getattr(place, name)!r}"


def totals_are_sums(evidence: Evidence) -> Iterator[str]:
    """The total unread count, with and without what is muted, is a recount; and what is pinned stands first."""
    for instance in evidence.live:
        lines = evidence.ledger.listed(instance.user).values()
        if any(evidence.ledger.is_torn(instance.user, id) for id in evidence.ledger.logs):
            continue
        for muted in (True, False):
            total = sum(line.unread for line in lines if muted or not line.place.muted)
            if instance.machine.total_unread(muted) != total:
                yield f"{instance.name} counts {instance.machine.total_unread(muted)} unread in all, not {total}"
        order = [(not view.pinned, -view.update_time) for view in instance.machine.conversations()]
        if order != sorted(order):
            yield f"{instance.name} lists its conversations as {order}"


def told_counts_are_right(evidence: Evidence) -> Iterator[str]:
    """What the server tells a fresh device of its places is what storage holds, and counted right."""
    done = {e.node: e.thing for e in evidence.world.trace if e.what == "<-" and isinstance(e.thing, frames.SyncDone)}
    for probe in evidence.world.probes:
        for place in done[probe.name].places if probe.name in done else []:
            unread = evidence.ledger.unread(probe.user, place.conversation_id)
            if evidence.ledger.is_torn(probe.user, place.conversation_id):
                continue
            if place.unread != unread:
                yield f"{probe.name} was told {place}, not {unread} unread"


def places_stand(evidence: Evidence) -> Iterator[str]:
    """0 <= mark <= the log's end; what a device that is still there has read is stored, and nobody else moves it; and
    how far one has read is known to the other."""
    for conversation, log in evidence.world.logs.items():
        for user, place in log.places.items():
            if not 0 <= place.hidden_seq <= place.read_seq <= len(log.messages):
                yield f"{conversation} has the place {place} for {user}, of {len(log.messages)}"
            if place != evidence.ledger.place(user, conversation):
                yield f"{conversation} has the place {place} for {user}, which storage was not told"
            if place.read_seq > evidence.ledger.claimed.get((user, conversation), 0):
                yield f"{conversation} is read by {user} up to {place.read_seq}, which no device of theirs has said"
            if conversation.startswith("p2p:"):
                peers = [log.places[peer] for peer in log.members if peer != user]
                if place.peer_read_seq != sum(peer.read_seq for peer in peers):
                    yield f"{conversation} is told to {user} as read up to {place.peer_read_seq} by {peers}"
                yield from _wrongly_delivered(evidence, conversation, user, place, len(log.messages))


def _wrongly_delivered(evidence: Evidence, conversation: str, user: str, place: Place, end: int) -> Iterator[str]:
    """What one user is told that the other has got: no more than a device of the other said, and what one said who is
    still there."""
    ledger, got = evidence.ledger, place.peer_delivered_seq
    least = most = place.peer_read_seq
    if evidence.acknowledges:
        peers = [peer for peer in ledger.members_of(conversation) if peer != user]
        most = max([place.peer_read_seq, *(min(end, ledger.held.get((peer, conversation), 0)) for peer in peers)])
        there = [i for i in evidence.world.finalists if i.user in peers]
        heard = [ledger.heard.get((i.name, conversation), 0) for i in there]
        log = ledger.logs[conversation]
        for i in there:
            heard += [n for n in ledger.given[i.name][conversation] if log[n - 1].sender != i.user]
        least = max([least, *heard])
    if not least <= got <= most:
        yield f"{conversation} is told to {user} as delivered up to {got}, not {least} to {most}"


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
