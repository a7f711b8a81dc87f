"""Situations of chatrooms."""

from __future__ import annotations

from imsim.core import events, frames
from imsim.core.model import Code, Scene, is_chatroom
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import Event, Said, Shed
from imsim.faultsearch.situations.situation import Situations, occurs, situation


class Rooms(Situations):
    def begin(self) -> None:
        self.said: dict[str, int] = {}  # by chatroom, the latest seq
        self.entered: set[tuple[str, str]] = set()  # (instance, chatroom)
        self.gone: set[tuple[str, str]] = set()  # the same of those that were left

    room_entered = occurs("a device came into a chatroom", Event, events.Entered)
    room_shed = occurs("a device was not sent what was too much for it", Shed)

    @situation("an `enter` was refused because the room is full", Event, events.RequestFailed)
    def room_full(self, entry: Event[events.RequestFailed]) -> bool:
        return (entry.event.request, entry.event.code) == (frames.Enter.op, Code.TOO_LARGE)

    @situation("a device came into a chatroom again, by itself, after a new login", Event, events.Entered)
    def room_entered_again(self, entry: Event[events.Entered]) -> bool:
        return (entry.node, entry.event.name) in self.entered

    @situation("a device came into a chatroom again that it had left", Event, events.Entered)
    def room_entered_that_was_left(self, entry: Event[events.Entered]) -> bool:
        return (entry.node, entry.event.name) in self.gone

    @situation("a device was shown what was said in a chatroom", Event, events.Shown)
    def room_heard(self, entry: Event[events.Shown]) -> bool:
        return is_chatroom(entry.event.message.conversation_id)

    @situation("a device was shown what had been said before it came", Event, events.Shown)
    def room_showed_what_was_said(self, entry: Event[events.Shown]) -> bool:
        is_of_a_room = is_chatroom(entry.event.message.conversation_id)
        return is_of_a_room and self.memory.has_got(entry.node, frames.Entered)

    @situation("a send into a room that the device is not in", Event, events.SendFailed)
    def said_from_outside(self, entry: Event[events.SendFailed]) -> bool:
        sent = self.memory.sent[entry.node][entry.event.id_client]
        return bool(entry.event.code == Code.NOT_MEMBER and sent["scene"] == Scene.CHATROOM)

    @situation("a device heard that something said in a chatroom was recalled", Event, events.Recalled)
    def room_took_back(self, entry: Event[events.Recalled]) -> bool:
        return is_chatroom(entry.event.conversation_id)

    @situation("a device heard that something said in a chatroom was edited", Event, events.Edited)
    def room_edited(self, entry: Event[events.Edited]) -> bool:
        return is_chatroom(entry.event.conversation_id)

    @situation("a room that was lost began again with lower numbers", Said)
    def room_counts_from_below(self, entry: Said) -> bool:
        return entry.message.seq < self.said.get(entry.message.to, 0)

    # --- what they remember ---

    @on(Said)
    def remember(self, entry: Said) -> None:
        self.said[entry.message.to] = entry.message.seq

    @on(Event, events.Entered)
    def came(self, entry: Event[events.Entered]) -> None:
        self.entered.add((entry.node, entry.event.name))

    @on(Event, events.RequestDone | events.RequestFailed)
    def left(self, entry: Event[events.RequestDone | events.RequestFailed]) -> None:
        if entry.event.request == frames.Leave.op:
            self.gone.add((entry.node, entry.event.ref))
