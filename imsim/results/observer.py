"""The observer of a run: it translates events of clients and servers into facts, in simulated and in live runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from imsim.core import events
from imsim.core.model import Message, MessageType, Scene
from imsim.results.recorder import Recorder
from imsim.scenario import Plan, actor

_NAMES = 1024  # names of messages whose numbers are kept
_DIGITS = 10  # facts have 32 bits for an intent

#: Called with the number of a device, an event of its client, and the time of the event.
Translate = Callable[[int, Any, float], None]


class Observer:
    """A translator from events of clients and servers to facts about the messages and devices of a plan.

    The caller gives each event with its time (`at`: seconds from the start of the plan) and its device (the number in
    the plan). Events about other messages leave no fact.

    first_sync: how many messages of each conversation the first sync of a device fetches; 0 for all.
    prefix: the text before the message names. A live run uses it to distinguish its messages from those of other runs.
        It is empty in a simulated run, whose messages contain their number.
    """

    def __init__(self, plan: Plan, recorder: Recorder, prefix: str = "", first_sync: int = 0) -> None:
        self._plan = plan
        self._recorder = recorder
        self._prefix = prefix
        # Each name is read several times within a short time, by its sender and by all recipients.
        self.intent: Callable[[str], int | None] = lru_cache(_NAMES)(self._read) if prefix else actor.intent_of
        """Returns the intent of the message with this `id_client`, or None if it is not from this run."""
        self._messages = len(plan)
        self._to_room = plan.to_room
        self._amended = plan.amended
        self._has_rooms = bool(plan.rooms)
        self._first_sync = first_sync > 0
        #: By conversation: the intents of the acknowledged messages by seq, and the devices that left messages out,
        #: each with the seq of the last one. Empty unless first syncs leave messages out.
        self._stored: dict[str, dict[int, int]] = {}
        self._left_out: dict[str, list[tuple[int, int]]] = {}
        self.client_events: Mapping[type, Translate] = {
            events.Sent: self._sent,
            events.Received: self._received,
            events.Acked: self._acked,
            events.SendFailed: self._failed,
            events.Shown: self._shown,
            events.Repeated: self._repeated,
            events.Disconnected: self._disconnected,
            events.Entered: self._entered,
            events.Skipped: self._skipped,
        }
        """The method that records events of each type. Events of other types leave no fact."""
        self.seqs: dict[int, int] = {}
        """The seq by intent of each stored message that the plan recalls or edits."""
        self.foreign = 0
        """The number of times that a device showed or received again a message of another run."""

    # --- clients ------------------------------------------------------------------------------------------------------

    def _sent(self, device: int, event: events.Sent, at: float) -> None:
        intent = self.intent(event.id_client)
        if intent is not None:
            self._recorder.sent(intent, at)

    def _received(self, device: int, event: events.Received, at: float) -> None:
        intent = self.intent(event.id_client)
        if intent is None:
            return
        if intent < self._messages and self._to_room[intent]:
            self._recorder.acked(intent, at)  # a chatroom stores nothing, so its sender receives no later answer
        else:
            self._recorder.received(intent, at)

    def _acked(self, device: int, event: events.Acked, at: float) -> None:
        intent = self.intent(event.id_client)
        if intent is None:
            self._changed(event.id_client, at)
            return
        if intent in self._amended:
            self.seqs[intent] = event.seq
        self._recorder.acked(intent, at)
        if self._first_sync:
            self._stored.setdefault(event.conversation_id, {})[event.seq] = intent
            for device, seq in self._left_out.get(event.conversation_id, ()):
                if event.seq <= seq:
                    self._recorder.left_out(intent, device, at)

    def _skipped(self, device: int, event: events.Skipped, at: float) -> None:
        if self._first_sync:
            self._left_out.setdefault(event.conversation_id, []).append((device, event.seq))
            for seq, intent in self._stored.get(event.conversation_id, {}).items():
                if seq <= event.seq:
                    self._recorder.left_out(intent, device, at)

    def _failed(self, device: int, event: events.SendFailed, at: float) -> None:
        intent = self.intent(event.id_client)
        if intent is not None:
            self._recorder.failed(intent, at, event.code, event.text)

    def _shown(self, device: int, event: events.Shown, at: float) -> None:
        intent = self.intent(event.message.id_client)
        if intent is not None:
            self._recorder.delivered(intent, device, at, event.route)
        else:
            self.foreign += _is_written(event.message)

    def _repeated(self, device: int, event: events.Repeated, at: float) -> None:
        intent = self.intent(event.message.id_client)
        if intent is not None:
            self._recorder.duplicate(intent, device, at)
        else:
            self.foreign += _is_written(event.message)

    def _disconnected(self, device: int, event: events.Disconnected, at: float) -> None:
        if self._has_rooms:  # only deliveries to chatrooms depend on it
            self._recorder.disconnected(device, at)

    def _entered(self, device: int, event: events.Entered, at: float) -> None:
        self._recorder.entered(device, at)

    # --- servers, whose events only the simulation has ----------------------------------------------------------------

    def committed(self, event: events.Committed, at: float) -> None:
        """Record that storage has a message or a change."""
        intent = self.intent(event.message.id_client)
        if intent is not None:
            self._recorder.stored(intent, at)
        else:
            self._changed(event.message.id_client, at)

    def pushed(self, event: events.Pushed | events.Shed, device: int, at: float) -> None:
        """Record that a gateway pushed a message to a device, or left the device out."""
        intent = self.intent(event.message.id_client)
        if intent is None:
            return
        if type(event) is events.Pushed:
            self._recorder.pushed(intent, device, at)
        else:
            self._recorder.shed(intent, device, at)

    # --- names --------------------------------------------------------------------------------------------------------

    def _read(self, id_client: str) -> int | None:
        """Return the intent in a name of a live run, or None if the name is not from this run.

        A run can have messages beyond its plan.
        """
        number = id_client.removeprefix(self._prefix)
        return int(number) if number != id_client and number.isdecimal() and len(number) < _DIGITS else None

    def _changed(self, id_client: str, at: float) -> None:
        """Record a recall when it is in a log. Edits leave no fact."""
        recalled = actor.recalled_by(self._plan, id_client.removeprefix(self._prefix))
        if recalled is not None:
            self._recorder.recalled(recalled, at)


def _is_written(message: Message) -> bool:
    """Return whether a user wrote the message: it is not a notice of a change, and not from the service."""
    return message.type != MessageType.NOTIFICATION and message.scene != Scene.SYSTEM
