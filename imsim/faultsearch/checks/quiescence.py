"""What devices show at quiescence: before all log in again, and once more before anybody says a word. What a login or a
message would put right shows here, or nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from imsim.core.client.conversations import Conversation
from imsim.core.model import Scene, is_chatroom, p2p_members
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import Rested
from imsim.faultsearch.model.reference import Line, ReferenceModel, same_words
from imsim.faultsearch.model.rules import SILENT, event_of
from imsim.faultsearch.model.view import conversation_of
from imsim.faultsearch.nodes import Instance


class Quiescence(Check):
    """Each device shows what storage holds of its list, its marks and what it has sent; and the other users know what
    it has got."""

    def begin(self) -> None:
        self._stood: set[str] = set()  # instances that have been looked at before

    @on(Rested)
    def rests(self, entry: Rested) -> None:
        instance = self.instances[entry.node]
        self._list(instance, entry)
        self._failures(instance, entry)
        # What a device said that it has, of what it had asked for, may have been lost; it says so again at its login.
        if self.evidence.acknowledges and instance.name in self._stood:
            self._delivered(instance)
        self._stood.add(instance.name)

    def _list(self, instance: Instance, standing: Rested) -> None:
        model, user = self.model, instance.user
        lines = model.listed(user)
        for view in standing.conversations:
            line = lines.get(view.id)
            # Left out: its own mark may be ahead, where the answer to its send was that of another device's twin.
            if line and view.read_seq > line.state.read_seq and self._is_twin(instance, view.id):
                line.state, line.unread = replace(line.state, read_seq=view.read_seq), view.unread
        for wrong in wrong_lines(model, user, standing.conversations, lines):
            self._wrong("conversation_lists_are_right", instance, wrong)
        unread = model.unread(user, f"{Scene.SYSTEM}:{user}")
        if standing.system_unread != unread:
            text = f"counts {standing.system_unread} system messages unread, not {unread}"
            self._wrong("system_messages_come_once", instance, text)

    def _is_twin(self, instance: Instance, conversation: str) -> bool:
        """Whether it has sent something there that another instance has sent as well, or the same twice."""
        twins = {id for id in instance.sent if id in self.evidence.shared or id in instance.tapped}
        return any(conversation_of(instance.user, instance.sent[id]) == conversation for id in twins)

    def _failures(self, instance: Instance, standing: Rested) -> None:
        """No lasting fail on a stored message."""
        for id_client in standing.failed:
            sent = instance.sent[id_client]
            conversation = conversation_of(instance.user, sent)
            if is_chatroom(conversation) or id_client in self.evidence.shared or id_client in instance.tapped:
                continue
            stored = self.model.first(conversation, instance.user, id_client)
            if stored is None or not same_words(stored, sent) or event_of(stored) in SILENT:
                continue
            if self.model.may_see(instance.user, conversation, stored.seq):
                self._wrong("sent_is_stored_or_rejected", instance, f"shows {id_client} as failed, and it is stored")

    def _delivered(self, instance: Instance) -> None:
        """The other user of each p2p conversation knows what this device has got."""
        model, user = self.model, instance.user
        for conversation in model.logs:
            for peer in p2p_members(conversation) or ():
                got, known = model.got(instance.name, user, conversation), model.user_state(peer, conversation)
                if peer != user and user in (p2p_members(conversation) or ()) and known.peer_delivered_seq < got:
                    text = f"has {conversation} up to {got}, and {peer} knows of {known.peer_delivered_seq}"
                    self._wrong("states_are_kept", instance, text)

    def _wrong(self, invariant: str, instance: Instance, text: str) -> None:
        self.violated(invariant, f"{instance.name} {text}")


def wrong_lines(
    model: ReferenceModel, user: str, views: Iterable[Conversation], lines: Mapping[str, Line]
) -> Iterator[str]:
    """What is wrong, in words, in a conversation list that should have these lines."""
    shown = {view.id: view for view in views}
    torn = {id for id in {*shown, *lines} if model.is_torn(user, id)}
    if set(shown) - torn != set(lines) - torn:
        yield f"lists {sorted(shown)}, not {sorted(lines)}"
        return
    for conversation, view in shown.items():
        if conversation not in lines:
            continue
        line = lines[conversation]
        if conversation in torn:
            last = view.last_msg
            line.last_seq, line.last_id, line.update_time, line.unread = last.seq, last.id, last.time, view.unread
        yield from (f"has {wrong}" for wrong in _differences(view, line))


def _differences(view: Conversation, line: Line) -> Iterator[str]:
    last, state = view.last_msg, line.state
    if (last.seq, last.id) != (line.last_seq, line.last_id):
        yield f"{last.id} last in {view.id}, not {line.last_id}"
    if view.update_time != line.update_time:
        yield f"the update time {view.update_time} for {view.id}"
    if view.read_seq != state.read_seq:
        yield f"read {view.id} up to {view.read_seq}, storage says {state.read_seq}"
    elif view.unread != line.unread:
        yield f"{view.unread} unread in {view.id}, not {line.unread}"
    for name in ("pinned", "muted", "custom", "peer_read_seq", "peer_delivered_seq", "blocked"):
        if getattr(view, name) != getattr(state, name):
            yield f"{name} {getattr(view, name)!r} for {view.id}, not {getattr(state, name)!r}"
