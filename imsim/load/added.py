"""Users whom the tester adds beyond the scenario's population, while the plan is played.

The plan has no messages for them. They send those that they send to another user in the plan of a larger population.
"""

from __future__ import annotations

import heapq

import gevent
import numpy as np

from imsim.core.model import Scene
from imsim.load.context import Context
from imsim.load.device import now
from imsim.load.devices import Devices
from imsim.load.playing import Schedule
from imsim.scenario import plan
from imsim.scenario.workload import Plan

_ADDING_SECONDS = 0.2  # in which added users gather, so that one plan has them all


class Added(Schedule):
    """The devices of added users, and their messages. An entry of the heap: time, intent in a larger plan, device,
    that plan.
    """

    def __init__(self, context: Context, devices: Devices) -> None:
        super().__init__(context, devices)
        self._new: set[int] = set()  # numbers of devices whose messages are not drawn so far

    def begin(self) -> None:
        super().begin()
        self._context.spawn(self._draw_messages)

    def add(self, number: int) -> None:
        """Add a device, by its number."""
        self._new.add(number)

    def _draw_messages(self) -> None:
        while True:
            gevent.sleep(_ADDING_SECONDS)
            if not self._new:
                continue
            numbers, self._new = self._new, set()
            users = self._context.plan.user_and_device(max(numbers))[0] + 1
            scenario = self._context.job.scenario.replace({"population.users": users})
            # In a thread, because a large plan takes many seconds.
            larger: Plan = gevent.get_hub().threadpool.apply(plan, (scenario,))
            number_of = larger.sending_devices
            is_p2p = np.array([one.scene is Scene.P2P for one in larger.conversations])[larger.conversation]
            is_due = larger.at >= round((now() - self._context.t0) * 1e9)
            for intent in np.flatnonzero(is_p2p & is_due & np.isin(number_of, list(numbers))).tolist():
                heapq.heappush(self._due, (int(larger.at[intent]), intent, int(number_of[intent]), larger))
            self._look()

    def _send_first(self, due: float) -> None:
        at, intent, number, larger = heapq.heappop(self._due)
        device = self._sender(number)
        if device is None:
            return
        conversation = larger.conversations[larger.conversation[intent]]
        type, size = larger.types[larger.type[intent]], int(larger.size[intent])
        pending = self._context.add_extra(number, conversation, at, type, size)
        id = self._context.job.id_of(pending.extra.intent)
        device.send_message(self._composed(id, conversation, pending.extra.sender, type, size))
