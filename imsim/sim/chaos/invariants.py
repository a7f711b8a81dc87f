"""What must hold after every run, each as a small function over the evidence that yields what is wrong, in words.

In each text the first thing named is the message, the conversation or the instance that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from imsim.core import events, frames
from imsim.core.model import Code, Flow, MessageType, Status, conversation_id
from imsim.core.uplink import State
from imsim.sim.chaos.evidence import Evidence
from imsim.sim.chaos.nodes import Instance

Invariant = Callable[[Evidence], Iterator[str]]


class Violation(NamedTuple):
    invariant: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


def check(evidence: Evidence) -> list[Violation]:
    """Everything that does not hold; empty if all is well."""
    if evidence.world.broken is not None:
        return [Violation("no_machine_raises", evidence.world.broken)]
    found = [Violation(*found) for found in evidence.found]
    return found + [Violation(one.__name__, text) for one in INVARIANTS for text in one(evidence)]


# --- the log ---------------------------------------------------------------------------------------------------------


def acks_survive(evidence: Evidence) -> Iterator[str]:
    """Every acknowledgement that a client has had stands in storage, as it was told."""
    for instance in evidence.world.instances():
        for ack in evidence.acked(instance):
            log = evidence.world.logs.get(ack.conversation_id)
            if log is None or not 1 <= ack.seq <= len(log.messages):
                yield f"{ack.id_client} acknowledged as {ack.conversation_id}#{ack.seq} is not in storage"
                continue
            stored = log.messages[ack.seq - 1]
            if (stored.id_client, stored.sender) != (ack.id_client, instance.user):
                yield f"{ack.id_client} acknowledged as {stored.id}, where {stored.id_client} stands"


def one_place_for_each_message(evidence: Evidence) -> Iterator[str]:
    """One (id, seq, time) for each (conversation, sender, idClient), in storage and in all that was ever told."""
    for key, answers in evidence.answers.items():
        if len(answers) > 1:
            yield f"{key[2]} was told as {sorted(answers)}"
    for conversation, log in evidence.world.logs.items():
        keys = [(message.sender, message.id_client) for message in log.messages]
        for sender, id_client in sorted({key for key in keys if keys.count(key) > 1}):
            yield f"{id_client} of {sender} stands {keys.count((sender, id_client))} times in {conversation}"


def seqs_are_dense(evidence: Evidence) -> Iterator[str]:
    for conversation, log in evidence.world.logs.items():
        seqs = [message.seq for message in log.messages]
        if seqs != list(range(1, len(seqs) + 1)):
            yield f"{conversation} holds {seqs}"
        if log.messages != evidence.ledger.logs.get(conversation, []):
            yield f"{conversation} is not what storage was given and took"


def senders_keep_their_order(evidence: Evidence) -> Iterator[str]:
    """What an instance sent into a conversation stands there in the order of sending. A send that its application was
    told had failed is no part of that order, also if it was stored after all or sent again; and where an idClient is
    shared with another device, whose it is decides who came first."""
    shared = evidence.shared
    for instance in evidence.world.instances():
        failed = {event.id_client for event in instance.events if type(event) is events.SendFailed}
        places: dict[str, list[tuple[int, str]]] = {}
        mixed: set[str] = set()
        for id_client, sent in instance.sent.items():
            conversation = conversation_id(sent["scene"], instance.user, sent["to"])
            stored = evidence.ledger.by_key.get((conversation, instance.user, id_client))
            if id_client in shared:
                places[conversation] = []
                mixed.add(conversation)
            elif stored is not None and id_client not in failed and conversation not in mixed:
                places.setdefault(conversation, []).append((stored.seq, id_client))
        for conversation, order in places.items():
            for (one, first), (other, second) in pairwise(order):
                if one > other:
                    yield f"{second} was sent after {first} and stands before it in {conversation}"


def nothing_is_made_up(evidence: Evidence) -> Iterator[str]:
    """What is stored was sent, in these words, by a user who might."""
    sent = {
        (conversation_id(m["scene"], i.user, m["to"]), i.user, id, m["content"], m["type"])
        for i in evidence.world.instances()
        for id, m in i.sent.items()
    }
    for conversation, log in evidence.ledger.logs.items():
        for message in log:
            if (conversation, message.sender, message.id_client, message.content, message.type) not in sent:
                yield f"{message.id_client} in {conversation} was never sent so"
            if not evidence.ledger.may_see(message.sender, conversation):
                yield f"{message.id_client} in {conversation} is by {message.sender}, who is no member"


# --- the screens -----------------------------------------------------------------------------------------------------


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


def conversation_lists_are_right(evidence: Evidence) -> Iterator[str]:
    """lastMsg and updateTime follow the highest visible seq; unread is a recount by brute force, for the very mark that
    storage holds; on every device, one without a memory included."""
    for instance in evidence.live:
        views = {view.id: view for view in instance.machine.conversations()}
        visible = evidence.ledger.seen_by(instance.user)
        if set(views) != set(visible):
            yield f"{instance.name} lists {sorted(views)}, not {sorted(visible)}"
            continue
        for conversation, view in views.items():
            mark = evidence.ledger.marks.get((instance.user, conversation), 0)
            line = evidence.ledger.line(instance.user, conversation, mark)
            last = view.last_msg
            if last is None or (last.seq, last.id) != (line.last_seq, line.last_id):
                yield f"{instance.name} has {last.id if last else last} last in {conversation}, not {line.last_id}"
            if view.update_time != line.update_time:
                yield f"{instance.name} has the update time {view.update_time} for {conversation}"
            if view.read_seq != mark:
                yield f"{instance.name} has read {conversation} up to {view.read_seq}, storage says {mark}"
            elif view.unread != line.unread:
                yield f"{instance.name} counts {view.unread} unread in {conversation}, not {line.unread}"


def told_counts_are_right(evidence: Evidence) -> Iterator[str]:
    """What the server tells a fresh device of its marks is what storage holds, and counted right."""
    done = {e.node: e.thing for e in evidence.world.trace if e.what == "<-" and isinstance(e.thing, frames.SyncDone)}
    for probe in evidence.world.probes:
        marks = done[probe.name].places if probe.name in done else []
        for mark in marks:
            stored = evidence.ledger.marks.get((probe.user, mark.conversation_id), 0)
            unread = evidence.ledger.unread(probe.user, mark.conversation_id, stored)
            if (mark.read_seq, mark.unread) != (stored, unread):
                yield f"{probe.name} was told {mark}, not ({stored}, {unread})"


def marks_stand(evidence: Evidence) -> Iterator[str]:
    """0 <= mark <= the log's end; what a device that is still there has read is stored, and nobody else moves it."""
    for conversation, log in evidence.world.logs.items():
        for user, mark in log.marks.items():
            if not 0 <= mark <= len(log.messages):
                yield f"{conversation} is read by {user} up to {mark} of {len(log.messages)}"
            if mark != evidence.ledger.marks.get((user, conversation), 0):
                yield f"{conversation} is read by {user} up to {mark}, which storage was not told"
            if mark > evidence.ledger.claimed.get((user, conversation), 0):
                yield f"{conversation} is read by {user} up to {mark}, which no device of theirs has said"


def marks_only_grow(evidence: Evidence) -> Iterator[str]:
    for instance in evidence.world.instances():
        marks: dict[str, int] = {}
        for event in instance.events:
            if type(event) is events.ReadMoved:
                if event.read_seq <= marks.get(event.conversation_id, 0):
                    yield f"{instance.name} moved its mark in {event.conversation_id} back to {event.read_seq}"
                if event.unread < 0:
                    yield f"{instance.name} counts {event.unread} unread in {event.conversation_id}"
                marks[event.conversation_id] = event.read_seq


# --- the senders -----------------------------------------------------------------------------------------------------


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
            allowed = evidence.ledger.verdict(instance.user, conversation, sent, limit)
            if status == Status.SUCCESS and not same:
                yield f"{id_client} on {instance.name} has the status success and is not stored so"
            elif instance.is_live and status != Status.SUCCESS and same and id_client not in shown:
                yield f"{id_client} on {instance.name} has the status {status} and is stored"
            elif instance.is_live and status == Status.SENDING:
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


# --- sessions, queues ------------------------------------------------------------------------------------------------


def everybody_is_online_once(evidence: Evidence) -> Iterator[str]:
    """In the end each device has one session, and only one."""
    for app in evidence.world.apps.values():
        online = [instance for instance in app.instances if instance.machine.state == State.ONLINE and instance.up]
        if len(online) != 1:
            yield f"{app.key} is online {len(online)} times"
    yield from (f"{p.name} does not get online" for p in evidence.world.probes if p.machine.state != State.ONLINE)


def nobody_is_thrown_out(evidence: Evidence) -> Iterator[str]:
    """The server ends a session for good only if the device logged in elsewhere or its token is no good."""
    for instance in evidence.world.instances():
        for event in instance.events:
            if type(event) is events.Ended:
                if event.code not in (Code.REPLACED, Code.BAD_TOKEN, Code.TOKEN_EXPIRED):
                    yield f"{instance.name} was ended: {event.code} {event.text}"
                elif event.code == Code.REPLACED and not _has_twin(evidence, instance):
                    yield f"{instance.name} was replaced by nobody"


def _has_twin(evidence: Evidence, instance: Instance) -> bool:
    return len(evidence.world.apps[f"{instance.user}/{instance.device}"].instances) > 1


def queues_are_bounded(evidence: Evidence) -> Iterator[str]:
    longest, limit = evidence.world.longest_queue, evidence.world.case.policies.send_queue
    if longest > limit:
        yield f"a connection had {longest} unacknowledged pushes, more than {limit}"


def it_comes_to_rest(evidence: Evidence) -> Iterator[str]:
    """Once nothing goes wrong any more, everybody gets an answer, in bounded time and with bounded traffic."""
    yield from evidence.world.restless


INVARIANTS: tuple[Invariant, ...] = (
    acks_survive,
    one_place_for_each_message,
    seqs_are_dense,
    senders_keep_their_order,
    nothing_is_made_up,
    screens_are_in_order,
    screens_agree_with_the_log,
    status_only_improves,
    sent_is_stored_or_rejected,
    marks_stand,
    marks_only_grow,
    groups_are_what_was_asked_for,
    queues_are_bounded,
    nobody_is_thrown_out,
    everybody_is_online_once,
    everybody_holds_what_is_theirs,
    every_look_is_right,
    conversation_lists_are_right,
    told_counts_are_right,
    it_comes_to_rest,
)
