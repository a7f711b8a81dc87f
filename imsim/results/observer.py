"""From events to facts, for every world: what the core's machines report becomes what a run's rows are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from imsim.core import events
from imsim.core.model import Message, MessageType, Scene
from imsim.results.recorder import Recorder
from imsim.scenario import Plan, actor

#: Called with the number of a device, an event of its client, and when it happened.
Translate = Callable[[int, Any, float], None]


class Observer:
    """Translates the events of clients and servers into facts about the plan's messages and devices.

    A world says when an event happened (`at`: seconds from the start of the plan) and on which device (its number in
    the plan). What is not of the plan leaves no fact. `prefix`: what the world puts before the names of the plan, as a
    live run does to tell its messages from those of others; in the simulation messages carry their number along.
    """

    def __init__(self, plan: Plan, recorder: Recorder, prefix: str = "") -> None:
        self._plan = plan
        self._recorder = recorder
        self._prefix = prefix
        #: The number of the message with this name; None for what is not of the plan.
        self._intent: Callable[[str], int | None] = self._read if prefix else actor.intent_of
        self._messages = len(plan)
        self._to_room = plan.to_room
        self._amended = plan.amended
        self._has_rooms = bool(plan.rooms)
        self.client_events: Mapping[type, Translate] = {
            events.Sent: self._sent,
            events.Received: self._received,
            events.Acked: self._acked,
            events.SendFailed: self._failed,
            events.Shown: self._shown,
            events.Repeated: self._repeated,
            events.Disconnected: self._disconnected,
            events.Entered: self._entered,
        }
        """By its type, what makes a fact of an event of a client; an event of another type leaves none."""
        self.seqs: dict[int, int] = {}
        """By intent, of the messages that are to be recalled or edited, and are stored: their seq."""
        self.foreign = 0
        """How often a device showed, or got again, a message of another run."""

    # --- clients ------------------------------------------------------------------------------------------------------

    def _sent(self, device: int, event: events.Sent, at: float) -> None:
        intent = self._intent(event.id_client)
        if intent is not None:
            self._recorder.sent(intent, at)

    def _received(self, device: int, event: events.Received, at: float) -> None:
        intent = self._intent(event.id_client)
        if intent is None:
            return
        if self._to_room[intent]:
            self._recorder.acked(intent, at)  # a chatroom gives no other answer
        else:
            self._recorder.received(intent, at)

    def _acked(self, device: int, event: events.Acked, at: float) -> None:
        intent = self._intent(event.id_client)
        if intent is None:
            self._changed(event.id_client, at)
            return
        if intent in self._amended:
            self.seqs[intent] = event.seq
        self._recorder.acked(intent, at)

    def _failed(self, device: int, event: events.SendFailed, at: float) -> None:
        intent = self._intent(event.id_client)
        if intent is not None:
            self._recorder.failed(intent, at, event.code, event.text)

    def _shown(self, device: int, event: events.Shown, at: float) -> None:
        intent = self._intent(event.message.id_client)
        if intent is not None:
            self._recorder.delivered(intent, device, at, event.route)
        else:
            self.foreign += _is_written(event.message)

    def _repeated(self, device: int, event: events.Repeated, at: float) -> None:
        intent = self._intent(event.message.id_client)
        if intent is not None:
            self._recorder.duplicate(intent, device, at)
        else:
            self.foreign += _is_written(event.message)

    def _disconnected(self, device: int, event: events.Disconnected, at: float) -> None:
        if self._has_rooms:  # elsewhere nothing depends on it
            self._recorder.disconnected(device, at)

    def _entered(self, device: int, event: events.Entered, at: float) -> None:
        self._recorder.entered(device, at)

    # --- servers, where they can be heard -----------------------------------------------------------------------------

    def committed(self, event: events.Committed, at: float) -> None:
        intent = self._intent(event.message.id_client)
        if intent is not None:
            self._recorder.stored(intent, at)
        else:
            self._changed(event.message.id_client, at)

    def pushed(self, event: events.Pushed | events.Shed, device: int, at: float) -> None:
        intent = self._intent(event.message.id_client)
        if intent is None:
            return
        if type(event) is events.Pushed:
            self._recorder.pushed(intent, device, at)
        else:
            self._recorder.shed(intent, device, at)

    # --- names --------------------------------------------------------------------------------------------------------

    def _read(self, id_client: str) -> int | None:
        """`_intent` where names have crossed a wire."""
        number = id_client.removeprefix(self._prefix)
        if number == id_client or not number.isdecimal():
            return None
        intent = int(number)
        return intent if intent < self._messages else None

    def _changed(self, id_client: str, at: float) -> None:
        """The change with this name stands in a log."""
        recalled = actor.recalled_by(self._plan, id_client.removeprefix(self._prefix))
        if recalled is not None:
            self._recorder.recalled(recalled, at)


def _is_written(message: Message) -> bool:
    """Whether a user wrote it: neither a notice of a change nor a message of the service."""
    return message.type != MessageType.NOTIFICATION and message.scene != Scene.SYSTEM
