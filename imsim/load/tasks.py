"""The part of a player that serves the tasks of custom users: `imsim.load.im` calls it."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from gevent.event import Event

from imsim.load.adapters import Message
from imsim.load.context import Context
from imsim.load.device import Device, now
from imsim.load.devices import Devices
from imsim.load.extras import Pending
from imsim.load.groups import Groups
from imsim.scenario.workload import PlannedConversation, conversation_of, user_name

_OURS = f"{Path(__file__).parents[1]}/"


class StoppedError(Exception):
    """A task wanted to send a message before the plan began or after the load was stopped."""


class Tasks:
    """The tasks of the custom users of one Locust process."""

    def __init__(self, context: Context, devices: Devices, groups: Groups) -> None:
        self.job = context.job
        self.devices = devices
        self.groups = groups
        self.sent = 0
        """The count of messages that tasks have sent."""
        self.exceptions: dict[tuple[str, str], dict[str, Any]] = {}
        """The exceptions of tasks by type and place: `error`, `place`, the first `message` and their `count`."""
        self.absent: set[int] = set()
        """The devices of all processes that have no user."""
        self.waiting: set[Event] = set()
        """Set when a device has lost its user."""
        self._context = context

    def send(self, device: Device, conversation: PlannedConversation, text: str) -> Pending:
        """Send a message beyond the plan, now.

        Raises: StoppedError if the plan has not begun or the load was stopped.
        """
        at = now()
        if not self._context.t0 <= at < self._context.stopped:
            raise StoppedError
        ns = round((at - self._context.t0) * 1e9)
        pending = self._context.add_extra(device.number, conversation, ns, "text", len(text.encode()))
        pending.text = text
        place = self.job.place(conversation, pending.extra.sender)
        device.send_message(Message(self.job.id_of(pending.extra.intent), place, text))
        self.sent += 1
        return pending

    def failed(self, error: BaseException, trace: TracebackType | None) -> None:
        """Count an exception that a user's code has raised. Its place is in that code, not in `self.im`."""
        frames = traceback.extract_tb(trace)
        last = next((frame for frame in reversed(frames) if not frame.filename.startswith(_OURS)), None)
        place = "" if last is None else f"{Path(last.filename).name}:{last.lineno}, in {last.name}"
        name = type(error).__name__
        message = str(error).strip().partition("\n")[0]
        first = {"error": name, "place": place, "message": message, "count": 0}
        self.exceptions.setdefault((name, place), first)["count"] += 1

    def users_changed(self, numbers: list[int], are_present: bool) -> None:
        """Note that devices, of any process, have lost their users or have new ones."""
        if are_present:
            self.absent.difference_update(numbers)
        else:
            self.absent.update(numbers)
            for event in self.waiting:
                event.set()

    def name_of(self, number: int) -> str:
        """Return the name of the device with this number, with that of its user."""
        user, nth = self.job.plan.user_and_device(number)
        return f"{user_name(user)}/{self.job.plan.devices[nth]}"

    def origin(self, id: str) -> tuple[int, PlannedConversation, str | None] | None:
        """Return the sender (a user index), the conversation and the text of a message.

        None if another process has sent it from a task, if all its devices have had it before, or if it is not of this
        run. The text of a planned message is None.
        """
        number, plan = id.removeprefix(self.job.prefix), self.job.plan
        if number == id or not (number.isascii() and number.isdecimal()):
            return None
        intent = int(number)
        if intent < len(plan):
            return int(plan.sender[intent]), plan.conversations[int(plan.conversation[intent])], None
        if (pending := self._context.extras.pending.get(intent)) is None:
            return None
        extra = pending.extra
        return extra.sender, conversation_of(extra.scene, extra.name, extra.members), pending.text
