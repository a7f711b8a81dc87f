"""Checks of what devices show at quiescence: before the second login, before the last messages, and at the end.

At the end they include devices without a memory. The first two show errors that a login or a message would correct.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from imsim.core.client.conversations import Conversation
from imsim.core.model import Scene, is_chatroom, p2p_members
from imsim.faultsearch.checks.facts import Check
from imsim.faultsearch.entries import Rested
from imsim.faultsearch.evidence import Evidence
from imsim.faultsearch.model.reference import Line, ReferenceModel, same_words
from imsim.faultsearch.model.rules import SILENT, event_of
from imsim.faultsearch.model.view import conversation_of
from imsim.faultsearch.nodes import Instance


class Quiescence(Check):
    """Checks that each device shows its list, its marks and its sends as storage holds them.

    Also checks that the other users know what it has received.
    """

    def begin(self) -> None:
        self._checked: set[str] = set()  # instances that have been checked before

    def rests(self, entry: Rested) -> None:
        instance, model = self.instances[entry.node], self.model
        lines = model.listed(instance.user)
        for view in entry.conversations:
            line = lines.get(view.id)
            # Left out: its own mark may be ahead, if the answer to its send was that of another device's send with its
            # idClient.
            if line and view.read_seq > line.state.read_seq and self._is_twin(instance, view.id):
                line.state, line.unread = replace(line.state, read_seq=view.read_seq), view.unread
        for wrong in _wrong_lines(model, instance.user, entry.conversations, lines):
            self.violated("conversation_lists_are_right", f"{instance.name} {wrong}")
        unread = model.unread(instance.user, f"{Scene.SYSTEM}:{instance.user}")
        if entry.system_unread != unread:
            text = f"{instance.name} counts {entry.system_unread} system messages unread, not {unread}"
            self.violated("system_messages_come_once", text)
        for id_client in entry.failed:
            if self._is_stored(instance, id_client):
                text = f"{instance.name} shows {id_client} as failed, although it is stored"
                self.violated("sent_is_stored_or_rejected", text)
        # An acknowledgement of messages that a device had fetched may have been lost; it repeats that at its next
        # login.
        if instance.name in self._checked:
            for text in _unknown_deliveries(self.evidence, instance):
                self.violated("states_are_kept", text)
        self._checked.add(instance.name)

    def _is_twin(self, instance: Instance, conversation: str) -> bool:
        """Return whether one of its idClients there was sent more than once, by itself or by another instance."""
        twins = {id for id in instance.sent if id in self.evidence.shared or id in instance.tapped}
        return any(conversation_of(instance.user, instance.sent[id]) == conversation for id in twins)

    def _is_stored(self, instance: Instance, id_client: str) -> bool:
        """Return whether a send that shows as failed is stored, unless another attempt or device may have stored it."""
        sent = instance.sent[id_client]
        conversation = conversation_of(instance.user, sent)
        if is_chatroom(conversation) or id_client in self.evidence.shared or id_client in instance.tapped:
            return False
        stored = self.model.first(conversation, instance.user, id_client)
        if stored is None or not same_words(stored, sent) or event_of(stored) in SILENT:
            return False
        return self.model.may_see(instance.user, conversation, stored.seq)


def _unknown_deliveries(evidence: Evidence, instance: Instance) -> Iterator[str]:
    """Yield p2p messages that this device has received, but whose delivery the other user does not know."""
    model, user = evidence.model, instance.user
    for conversation in model.logs if evidence.acknowledges else ():
        members = p2p_members(conversation) or ()
        for peer in [peer for peer in members if user in members and peer != user]:
            got, known = model.got(instance.name, user, conversation), model.user_state(peer, conversation)
            if known.peer_delivered_seq < got:
                yield f"{instance.name} has {conversation} up to {got}, but {peer} knows {known.peer_delivered_seq}"


def conversation_lists_are_right(evidence: Evidence) -> Iterator[str]:
    """Every device lists the right conversations with the right contents, even one without a memory.

    A conversation is listed if something has happened in it since it was hidden. lastMsg and updateTime follow the
    highest visible seq. unread is a recount by brute force, for exactly the mark in storage. The settings and the other
    user's marks are those in storage.
    """
    for instance in evidence.live:
        views, lines = instance.machine.conversations(), evidence.model.listed(instance.user)
        for view in views:
            if not instance.is_live and view.id in lines:
                # The login of a probe ended this session. Since then, the probe has acknowledged more messages.
                state = lines[view.id].state
                lines[view.id].state = replace(state, peer_delivered_seq=view.peer_delivered_seq)
        wrong_lines = _wrong_lines(evidence.model, instance.user, views, lines)
        yield from (f"{instance.name} {wrong}" for wrong in wrong_lines)


def deliveries_are_known(evidence: Evidence) -> Iterator[str]:
    """At the end the other user of each p2p conversation knows what the live devices have received."""
    for instance in evidence.world.final_instances:
        yield from _unknown_deliveries(evidence, instance)


def totals_are_sums(evidence: Evidence) -> Iterator[str]:
    """The total unread counts, with and without muted conversations, are recounts; and pinned conversations are
    first."""
    for instance in evidence.live:
        lines = evidence.model.listed(instance.user).values()
        if any(evidence.model.has_missed_amendments(instance.user, id) for id in evidence.model.logs):
            continue
        for muted in (True, False):
            total = sum(line.unread for line in lines if muted or not line.state.muted)
            if instance.machine.total_unread(muted) != total:
                yield f"{instance.name} counts {instance.machine.total_unread(muted)} unread in all, not {total}"
        order = [(not view.pinned, -view.update_time) for view in instance.machine.conversations()]
        if order != sorted(order):
            yield f"{instance.name} lists its conversations as {order}"


def _wrong_lines(
    model: ReferenceModel, user: str, views: Iterable[Conversation], lines: Mapping[str, Line]
) -> Iterator[str]:
    """Yield, as texts, the differences between a conversation list and the expected lines."""
    shown = {view.id: view for view in views}
    torn = {id for id in {*shown, *lines} if model.has_missed_amendments(user, id)}
    if set(shown) - torn != set(lines) - torn:
        yield f"lists {sorted(shown)}, not {sorted(lines)}"
        return
    for id, view in shown.items():
        if id not in lines:
            continue
        line, state, last = lines[id], lines[id].state, view.last_msg
        if id not in torn:
            if (last.seq, last.id) != (line.last_seq, line.last_id):
                yield f"has {last.id} last in {id}, not {line.last_id}"
            if view.update_time != line.update_time:
                yield f"has the update time {view.update_time} for {id}"
            if view.unread != line.unread and view.read_seq == state.read_seq:
                yield f"has {view.unread} unread in {id}, not {line.unread}"
        elif view.update_time != last.time:
            yield f"has the update time {view.update_time} for {id}"
        for name in ("read_seq", "pinned", "muted", "custom", "peer_read_seq", "peer_delivered_seq", "blocked"):
            if getattr(view, name) != getattr(state, name):
                yield f"has {name} {getattr(view, name)!r} for {id}, not {getattr(state, name)!r}"
