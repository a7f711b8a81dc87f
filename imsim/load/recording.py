"""The recording of a load test: the facts of one process. `imsim.load.collect` makes the run of them afterwards.

This module imports neither Locust nor gevent.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imsim.core.model import Code, Route
from imsim.load.adapters.interface import Acked, Delivered, Event, Failed, Offline, Read, Received, Sent
from imsim.load.awaited import Awaited
from imsim.load.extras import Extras, Pending
from imsim.load.progress import Meter, overdue_before
from imsim.results import Observer, Recorder, SpooledFacts
from imsim.results.recorder import FACT_BYTES, Kind, decode_facts
from imsim.scenario import Plan

STORED, DELIVERED, LOGIN = "send -> stored", "send -> delivered", "login"  # names of reports

Report = Callable[[str, float | None, int, str | None], None]
"""The callback that feeds Locust's statistics.

Its arguments are a name, the latency in ms from the intended time (None: never delivered), the size in bytes, and the
error, if any.
"""

Forward = Callable[[int, int, float], None]
"""The callback for deliveries of messages beyond the plan that another process has sent: (intent, device, seconds)."""

_CODES = frozenset(Code)

_PLANNED, _ASKED, _STORED, _FAILED, _RECALLED = range(5)

_LATEST_PIECES = 20  # of the spool, that the latency between processes is taken from


class Recording(Recorder):
    """A recorder of the facts of one process. An `Observer` makes the facts from the events of the devices.

    resumes: whether the server keeps messages for devices that are offline.

    It also feeds Locust's statistics, counts what is still in flight, so that a drain can end early, and keeps the
    sender's lateness.
    """

    def __init__(
        self,
        plan: Plan,
        prefix: str,
        spool: Path,
        report: Report,
        extras: Extras,
        forward: Forward,
        first_sync: int = 0,
        resumes: bool = True,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(spool)
        self._extras = extras
        self._forward = forward
        self._planned = len(plan)
        self._observer = Observer(plan, self, prefix, first_sync)
        self._intent = self._observer.intent
        self._translate: dict[type, Callable[[int, Any, float], None]] = {
            **self._observer.client_events,
            Sent: self._on_sent,
            Received: self._on_received,
            Acked: self._on_acked,
            Failed: self._on_failed,
            Delivered: self._on_delivered,
            Read: self._on_read,
        }
        if not resumes:  # only then it matters for deliveries when a device was connected
            self._translate[Offline] = lambda device, event, at: self.disconnected(device, at)
        self._report = report
        self._warmup = warmup  # seconds; messages before its end are not reported
        self._t0: float | None = None
        self._intended: list[float] = (plan.at / 1e9).tolist()
        self._size: list[int] = plan.size.tolist()
        self._per_user = len(plan.devices)
        self._sender: list[int] = plan.sending_devices.tolist()
        self._awaited = Awaited(plan)
        self._is_awaited = self._awaited.has
        self._missing: list[int] = self._awaited.counts.tolist()
        self._meter = Meter(plan.at, self._awaited.counts)
        self._metered = 0  # count of the facts that the meter has received
        self._reported = 0  # count of the messages whose lateness was reported
        self._state = bytearray(len(plan))
        self._expected_in_rooms = {intent: self._missing[intent] for intent in np.flatnonzero(plan.to_room).tolist()}
        self.in_flight = 0
        """The count of acknowledgements and deliveries that are missing, less those that messages of other processes
        caused here. So the sum over all processes counts what is missing anywhere."""
        self._absent: dict[int, float] = {}  # devices of any process without a user, and since when (seconds)
        self._recallable = frozenset(action.intent for action in plan.actions if action.kind == "recall")
        self._arrived = [0] * (len(plan.users) * self._per_user)  # deliveries to each device, for `_undeliverable`
        self._due = array("d")  # the intended times of the messages of `lateness`, in seconds
        self.lateness = array("d")
        """Seconds from the intended time of each message to the request to its device to send it."""

    @property
    def seqs(self) -> dict[int, int]:
        """The seq of each stored message that the plan recalls or edits, by intent."""
        return self._observer.seqs

    @property
    def foreign(self) -> int:
        """The count of messages of other runs that the devices have shown."""
        return self._observer.foreign

    def begin(self, t0: float) -> None:
        """Start recording. The plan starts at `t0`, by the clock of the devices."""
        self._t0 = t0

    def event(self, device: int, event: Event, at: float) -> None:
        """Record an event of a device at the time `at`, by the clock of the devices.

        Events before the start of the plan are not recorded.
        """
        translate = self._translate.get(type(event))
        if translate is not None and self._t0 is not None:
            translate(device, event, at - self._t0)

    def asked(self, intent: int, late: float) -> None:
        """Record that the device was requested to send the message, `late` seconds after the intended time.

        The device may have to connect first.
        """
        self.lateness.append(late)
        self._due.append(self._intended[intent])
        if self._state[intent] == _PLANNED:
            self._state[intent] = _ASKED
            self.in_flight += 1 + self._missing[intent]

    def sendings(self, since: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lateness and the intended time, in seconds, of the messages that were sent, from `since` on."""
        late, due = np.array(self.lateness), np.array(self._due)
        return late[due >= since], due[due >= since]

    def asked_extra(self, pending: Pending) -> None:
        """Record that a device was requested to send a message beyond the plan."""
        self.in_flight += 1 + len(pending.missing)

    def users_changed(self, numbers: Iterable[int], are_present: bool, at: float) -> None:
        """Note that devices, of any process, have lost their users or have new ones."""
        for number in numbers:
            if are_present:
                self._absent.pop(number, None)
            else:
                self._absent.setdefault(number, at)

    def unreachable(self) -> int:
        """Return how much of `in_flight` cannot arrive, because the devices have no user. Add it up, too."""
        absent = self._absent.keys()
        if not absent:
            return 0
        extras = (one.missing & absent for one in self._extras.pending.values() if one.missing and one.error is None)
        return sum(map(len, extras)) + self._unanswerable() + self._undeliverable(absent, self._planned)

    def _unanswerable(self) -> int:
        """Return how many acknowledgements are missing whose senders' devices have no user."""
        asked = np.flatnonzero(np.frombuffer(self._state, np.uint8) == _ASKED).tolist() if self._planned else []
        return sum(self._sender[intent] in self._absent for intent in asked)

    def _undeliverable(self, devices: Collection[int], messages: int) -> int:
        """Return how many deliveries of the first messages of the plan to these devices are missing.

        Messages that the plan recalls do not count: nothing tells which devices had them before.
        """
        devices = [device for device in devices if device < len(self._arrived)]
        if not devices or not messages:
            return 0
        state = np.frombuffer(self._state, np.uint8, messages)
        counts = self._awaited.counts_to(devices, messages) * ((state == _ASKED) | (state == _STORED))
        counts[[intent for intent in self._recallable if intent < messages]] = 0
        return int(counts.sum()) - sum(self._arrived[device] for device in devices)

    def progress(self, seconds: float) -> dict[str, Any]:
        """Return the counts of this process for `Progress.add`. seconds: the time in the plan."""
        self._count_facts()
        late = max(self.lateness[self._reported :], default=0.0)
        self._reported = len(self.lateness)
        report = self._meter.report(seconds, len(self.lateness) + self._extras.count, late)
        before = overdue_before(seconds)
        absent = [device for device, since in self._absent.items() if since <= before]
        undeliverable = self._undeliverable(absent, bisect_left(self._intended, before))
        return report | {"overdue": report["overdue"] - undeliverable}

    def _count_facts(self) -> None:
        if self._flushed % FACT_BYTES:
            return  # the spool could not be written, which ends the test
        before = self._metered - self._flushed // FACT_BYTES
        self._meter.add(decode_facts(self._buffer[before * FACT_BYTES :]))
        self._metered = self.recorded

    def flush(self) -> None:
        self._count_facts()
        super().flush()
        self._extras.flush()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._extras.close()

    def missing_in_rooms(self) -> int:
        """Return the count of deliveries in chatrooms that have not arrived in this process.

        Deliveries of messages that another process has sent count as -1. So the sum over all processes counts what has
        not arrived anywhere.
        """
        missing = 0
        for intent, expected in self._expected_in_rooms.items():
            if self._state[intent] == _STORED:
                missing += self._missing[intent]
            elif self._state[intent] == _PLANNED:
                missing += self._missing[intent] - expected
        return missing

    def between_ms(self) -> float | None:
        """Return the median latency (ms) of the latest deliveries of messages from other processes; None if there is
        none. The recording must be closed.
        """
        if self._path is None:
            return None
        pieces, latencies = SpooledFacts([(self._path, 0)]), []
        for piece in pieces[-_LATEST_PIECES:]:
            facts = piece[(piece["kind"] == Kind.DELIVERED) & (piece["intent"] < len(self._state))]
            intent = facts["intent"]
            is_foreign = np.frombuffer(self._state, np.uint8)[intent] == _PLANNED
            latencies.append(facts["at"][is_foreign] / 1e6 - np.array(self._intended)[intent[is_foreign]] * 1e3)
        found = np.concatenate(latencies) if latencies else np.empty(0)
        return round(float(np.median(found)), 3) if len(found) else None

    # --- events of adapters; those of the core's client go to the observer ------------------------------------------

    def _on_sent(self, device: int, event: Sent, at: float) -> None:
        if (intent := self._intent(event.id)) is not None:
            self.sent(intent, at)

    def _on_received(self, device: int, event: Received, at: float) -> None:
        if (intent := self._intent(event.id)) is not None:
            self.received(intent, at)

    def _on_acked(self, device: int, event: Acked, at: float) -> None:
        if (intent := self._intent(event.id)) is not None:
            self.acked(intent, at)

    def _on_failed(self, device: int, event: Failed, at: float) -> None:
        if (intent := self._intent(event.id)) is not None:
            code = Code(event.code) if event.code in _CODES else Code.BAD_REQUEST
            self.failed(intent, at, code, event.text)

    def _on_delivered(self, device: int, event: Delivered, at: float) -> None:
        if (intent := self._intent(event.id)) is not None:
            self.delivered(intent, device, at, Route.SYNC if event.synced else Route.PUSH)
        else:
            self._observer.foreign += 1

    def _on_read(self, device: int, event: Read, at: float) -> None:
        if (intent := self._intent(event.id)) is not None:
            self.read(intent, device, at)

    # --- facts that change the count of what is in flight -----------------------------------------------------------

    def acked(self, intent: int, at: float) -> None:
        super().acked(intent, at)
        if intent >= self._planned:
            self._answered_extra(intent, at, None)
            return
        state = self._state[intent]
        if state == _ASKED:  # as nearly always; `_move` would do the same
            self._state[intent] = _STORED
            self.in_flight -= 1
        elif state not in (_STORED, _RECALLED):
            self._move(intent, _STORED)
        else:
            return
        if (since := self._intended[intent]) >= self._warmup:
            self._report(STORED, (at - since) * 1e3, self._size[intent], None)

    def failed(self, intent: int, at: float, code: Code, text: str = "") -> None:
        super().failed(intent, at, code)
        if intent >= self._planned:
            self._answered_extra(intent, at, f"{code}: {text}")
            return
        self._move(intent, _FAILED)
        if (since := self._intended[intent]) >= self._warmup:
            self._report(STORED, (at - since) * 1e3, self._size[intent], f"{code}: {text}")

    def delivered(self, intent: int, device: int, at: float, route: Route) -> None:
        super().delivered(intent, device, at, route)
        if intent >= self._planned:
            self.delivered_extra(intent, device, at)
        elif self._is_awaited(intent, device):
            self._missing[intent] -= 1
            if self._state[intent] not in (_FAILED, _RECALLED):
                self.in_flight -= 1
                if intent not in self._recallable:
                    self._arrived[device] += 1
            since = self._intended[intent]
            if since >= self._warmup and device // self._per_user != self._sender[intent] // self._per_user:
                self._report(DELIVERED, (at - since) * 1e3, self._size[intent], None)

    def recalled(self, intent: int, at: float) -> None:
        super().recalled(intent, at)
        if intent < self._planned:
            self._move(intent, _RECALLED)  # a device that has not shown the message so far will never show it

    def _answered_extra(self, intent: int, at: float, error: str | None) -> None:
        pending = self._extras.pending.get(intent)
        if pending is None or pending.is_stored:
            return
        if (since := pending.extra.at / 1e9) >= self._warmup:
            self._report(STORED, (at - since) * 1e3, pending.extra.size, error)
        if not pending.is_answered:
            self.in_flight -= 1 if error is None else 1 + len(pending.missing)
        pending.is_answered, pending.is_stored, pending.error = True, error is None, error
        self._extras.changed(pending)

    def delivered_extra(self, intent: int, device: int, at: float) -> None:
        """Count the delivery of a message beyond the plan, to a device of this process or of another one."""
        pending = self._extras.pending.get(intent)
        if pending is None:
            self._forward(intent, device, at)  # another process has sent it
        elif device in pending.missing:
            pending.missing.discard(device)
            if pending.error is None:
                self.in_flight -= 1
            since, sender = pending.extra.at / 1e9, pending.extra.sender
            if since >= self._warmup and device // self._per_user != sender:
                self._report(DELIVERED, (at - since) * 1e3, pending.extra.size, None)
            self._extras.changed(pending)

    def _move(self, intent: int, state: int) -> None:
        self.in_flight -= self._expects(intent)
        self._state[intent] = state
        self.in_flight += self._expects(intent)

    def _expects(self, intent: int) -> int:
        state = self._state[intent]
        if state == _ASKED:
            return 1 + self._missing[intent]
        return self._missing[intent] if state == _STORED else 0
