"""The deliveries that a run waits for. This module imports neither Locust nor gevent."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from imsim.scenario import Plan


class Awaited:
    """The deliveries of a plan that a run waits for: all but those to devices that the plan keeps offline."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._per_user = len(plan.devices)
        # Unlike arrays of numpy, these give plain integers, and take half the time for one.
        self._conversation, self._sender = plan.conversation.data, plan.sending_devices.data
        self._members: dict[int, frozenset[int]] = {}  # by conversation
        self._keys: NDArray[np.int64] | None = None  # device * messages + message, sorted; None: all
        if plan.online_periods is None:
            self.counts = plan.memberships[0][plan.conversation] * self._per_user - 1
            """Their number for each message."""
        else:
            intent, device, _ = (column.astype(np.int64) for column in plan.entitled())
            is_awaited = ~plan.is_excused(intent, device, np.ones(len(plan), bool))
            self._keys = np.sort(device[is_awaited] * len(plan) + intent[is_awaited])
            self._sorted = self._keys.data  # for `bisect`, which needs less time for one than `searchsorted`
            self.counts = np.bincount(intent[is_awaited], minlength=len(plan))

    def has(self, intent: int, device: int) -> bool:
        """Return whether the run waits for the delivery of this message to this device."""
        if self._keys is not None:
            key = device * len(self._plan) + intent
            place = bisect_left(self._sorted, key)
            return place < len(self._keys) and self._sorted[place] == key
        conversation = self._conversation[intent]
        members = self._members.get(conversation)
        if members is None:
            members = self._members[conversation] = frozenset(self._plan.conversations[conversation].members)
        return device // self._per_user in members and device != self._sender[intent]

    def counts_to(self, devices: Collection[int], messages: int) -> NDArray[np.int64]:
        """Return the number of deliveries to these devices, for each of the first messages of the plan."""
        plan = self._plan
        if self._keys is not None:
            first = np.array(sorted(devices), np.int64) * len(plan)
            parts = zip(*(np.searchsorted(self._keys, first + nth).tolist() for nth in (0, messages)), strict=True)
            intents = [self._keys[start:stop] % len(plan) for start, stop in parts]
            return np.bincount(np.concatenate([np.empty(0, np.int64), *intents]), minlength=messages)
        is_chosen = np.zeros(len(plan.users) * self._per_user, bool)
        is_chosen[list(devices)] = True
        sizes, members = plan.memberships
        before = np.append(0, np.cumsum(is_chosen.reshape(-1, self._per_user).sum(axis=1)[members]))
        last = np.cumsum(sizes)
        chosen = before[last] - before[last - sizes]  # in each conversation
        found: NDArray[np.int64] = chosen[plan.conversation[:messages]] - is_chosen[np.asarray(self._sender)[:messages]]
        return found
