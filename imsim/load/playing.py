"""The plan of a Locust process: its devices send their messages at the intended times, and act as the plan says.

`Schedule` sends anything at its intended time; `added` uses it, too. `Playing` plays the plan.
"""

from __future__ import annotations

import heapq
import json
from functools import partial
from typing import Any

import gevent
import numpy as np

from imsim.load.adapters import Feature, Message
from imsim.load.alarm import Alarm
from imsim.load.context import Context
from imsim.load.device import Device, now
from imsim.load.devices import Devices
from imsim.scenario import actor
from imsim.scenario.workload import PlannedConversation

_SENDS_AT_ONCE = 8  # late messages that are sent before the devices receive


class Schedule:
    """Sends messages at their intended times. A subclass has the messages.

    It sends neither what is due after the load was stopped, nor anything that is late by more than the rest of the
    duration and `drain`.
    """

    def __init__(self, context: Context, devices: Devices) -> None:
        self._context = context
        self._devices = devices
        self._due: list[Any] = []  # a heap: tuples that begin with the intended time (ns)
        self._give_up = 0.0
        self._alarm: Alarm | None = None  # for the next message; None before the plan begins and after its end

    def begin(self) -> None:
        """Begin, now that the start of the plan is known."""
        scenario = self._context.job.scenario
        self._give_up = self._context.t0 + scenario.duration + scenario.drain
        self._alarm = Alarm(self._send_due)

    def close(self) -> None:
        """Send nothing any longer."""
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None

    def _look(self) -> None:
        """Look at the heap again, because it has changed."""
        if self._alarm is not None:
            self._alarm.set(0.0)

    def _send_due(self) -> None:
        """Send the messages that are due, and set the alarm for the next one. The alarm calls this."""
        context, alarm, queue = self._context, self._alarm, self._due
        assert alarm is not None
        for _ in range(_SENDS_AT_ONCE):
            if not queue:
                return
            due, moment = context.t0 + queue[0][0] / 1e9, now()
            if due >= context.stopped or moment > self._give_up:
                return
            if moment < due:
                alarm.set(due)
                return
            try:
                self._send_first(due)
            except Exception as error:  # in the event loop, no caller would handle it
                context.crashed(error)
                return
        alarm.set(0.0)  # once the devices have received

    def _send_first(self, due: float) -> None:
        """Take the first message from the heap, and send it if its device can do so."""
        raise NotImplementedError

    def _sender(self, number: int) -> Device | None:
        """Return the device with this number; None if it has no user here, or a task has logged it out."""
        return None if number in self._devices.away else self._devices.present.get(number)

    def _composed(self, id: str, conversation: PlannedConversation, sender: int, type: str, size: int) -> Message:
        content, file, custom = actor.body(type, size)
        if type != "text" and Feature.TYPES not in self._context.adapter.features:
            content, type, file, custom = custom or json.dumps(file), "text", None, None
        return Message(id, self._context.job.place(conversation, sender), content, type, file, custom)


class Playing(Schedule):
    """The plan, as far as it concerns the devices of this process: messages, actions and online periods."""

    def __init__(self, context: Context, devices: Devices) -> None:
        super().__init__(context, devices)
        plan = self._plan = context.plan
        self._first, self._intents = self._messages_by_device()
        # Unlike arrays of numpy, these give plain integers, and take half the time for one.
        self._at, self._intent_at = plan.at.data, self._intents.data
        self._conversation, self._user = plan.conversation.data, plan.sender.data
        self._type, self._size = plan.type.data, plan.size.data

    def begin(self) -> None:
        super().begin()
        for number in self._devices.present:
            self.schedule(number, self._context.t0)
        self._context.spawn(self._play_actions)
        self._context.spawn(self._play_online_periods)

    @property
    def is_behind(self) -> bool:
        """Whether a message is not sent so far that was due before now and before the stop."""
        t0, stopped = self._context.t0, self._context.stopped
        return bool(self._due) and t0 + self._due[0][0] / 1e9 < min(stopped, now())

    # --- messages ---------------------------------------------------------------------------------------------------

    def _messages_by_device(self) -> tuple[list[int], Any]:
        """Return the messages of each device: the start of its part in the second list, which has the intents."""
        plan = self._plan
        numbers = plan.sending_devices
        order = np.argsort(numbers, kind="stable")
        counts = np.bincount(numbers, minlength=len(plan.users) * len(plan.devices))
        return [0, *np.cumsum(counts).tolist()], order

    def schedule(self, number: int, since: float) -> None:
        """Schedule the messages of a device that are due after this time."""
        first, last = self._first[number], self._first[number + 1]
        at = self._plan.at[self._intents[first:last]]
        position = first + int(np.searchsorted(at, round((since - self._context.t0) * 1e9)))
        if position < last:
            heapq.heappush(self._due, (self._at[self._intent_at[position]], number, position))
        self._look()

    def _send_first(self, due: float) -> None:
        _, number, position = self._due[0]
        device = self._sender(number)
        if number not in self._devices.present or position + 1 == self._first[number + 1]:
            heapq.heappop(self._due)
        else:
            heapq.heapreplace(self._due, (self._at[self._intent_at[position + 1]], number, position + 1))
        if device is None:
            return
        intent = self._intent_at[position]
        conversation = self._plan.conversations[self._conversation[intent]]
        type, id = self._plan.types[self._type[intent]], self._context.job.id_of(intent)
        message = self._composed(id, conversation, self._user[intent], type, self._size[intent])
        self._context.recording.asked(intent, now() - due)
        device.send_message(message)

    # --- actions and online periods ---------------------------------------------------------------------------------

    def _play_actions(self) -> None:
        """Play the actions of the plan, such as recalls and edits.

        They may be a millisecond late, because no latency is measured from them.
        """
        if Feature.ACTIONS not in self._context.adapter.features:
            return
        plan, job, seq_of = self._plan, self._context.job, self._context.recording.seqs.get
        for number, action in enumerate(plan.actions):
            self._context.sleep_until(action.at)
            device = self._devices.present.get(plan.device_index(action.user, 0))
            if device is not None:
                session: Any = device.session
                step = partial(_act, plan, action, seq_of, job.named, actor.action_id(number, job.prefix))
                device.do(partial(session.act, step))

    def log_out_absent(self) -> None:
        """Log out the devices that the plan has offline at its start."""
        if self._plan.online_periods is not None:
            for device in list(self._devices.present.values()):
                if not self._plan.online_periods.is_online_first[device.number]:
                    self._devices.leave(device)
                    gevent.sleep(0)

    def _play_online_periods(self) -> None:
        """Log devices in and out at the times of the plan."""
        for ns, number, comes in self._plan.online_periods.changes() if self._plan.online_periods is not None else ():
            self._context.sleep_until(ns)
            device = self._devices.present.get(number)
            if device is not None:
                device.start() if comes else self._devices.leave(device)


def _act(plan: Any, action: Any, seq_of: Any, named: Any, id_client: str, client: Any, now: float) -> None:
    actor.act(client, plan, action, seq_of, named, id_client, now)
