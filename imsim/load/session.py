"""A run inside a Locust process: it logs the devices in, creates the groups, plays the plan, and drains."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from imsim.core.exceptions import ImsimError, RunError
from imsim.core.model import Code, Scene
from imsim.load.collect import spool_name, write_status
from imsim.load.devices import Device, now
from imsim.load.recording import Recording, Report, lateness_warnings, summarize_lateness
from imsim.load.target import Target
from imsim.scenario import Draws, Scenario, Stream, actor, plan

logger = logging.getLogger("imsim.load")

_LOGINS_AT_ONCE = 32  # more logins would only wait in the server, until they time out
_GROUPS_AT_ONCE = 200
_HEAD_START = 0.1  # seconds from the last preparation to t = 0
_WAKE_EARLY = 0.0012  # seconds; the event loop's timers have a precision of only a millisecond
_SHORTEST_SLEEP = 1e-6  # seconds; it lets other greenlets run; with 0 the event loop would not check for input


def setup_timeout(count: int) -> float:
    """Return how many seconds this many logins, groups or chatroom entries may take."""
    return 30 + 0.02 * count


class Session:
    """A run of `scenario` against `target`. It writes its spool and status to `folder`.

    The names of users, groups and messages start with `namespace`. Otherwise, in a second run on the same database,
    every message would be a duplicate. `report` feeds Locust's statistics. The session calls `finished` once it has
    played the plan, or has failed. Then stop the Locust test; this calls `end`.
    """

    def __init__(
        self,
        scenario: Scenario,
        target: Target,
        key: str,
        namespace: str,
        folder: Path,
        report: Report,
        finished: Callable[[], None],
        manifest: dict[str, Any],
    ) -> None:
        self.scenario = scenario
        self.failure: str | None = None
        self._target = target
        self._key = key
        self._namespace = namespace
        self._folder = folder
        self._report = report
        self._finished = finished
        self._manifest = manifest | {"url": target.url, "namespace": namespace}
        self._plan = plan(scenario)
        self._prefix = f"{namespace}:"  # of the idClient of each message and action
        self._policies = scenario.core_policies()
        first_sync = self._policies.first_sync
        self._recording = Recording(self._plan, self._prefix, folder / spool_name(0), report, first_sync)
        self._devices: list[Device] = []
        self._expected = len(self._plan.users) * len(self._plan.devices)
        self._online: set[int] = set()
        self._gate = BoundedSemaphore(_LOGINS_AT_ONCE)
        self._groups: set[str] = set()  # names of the groups that the server has not yet created
        self._rooms: set[tuple[int, str]] = set()  # (device, chatroom) of each pending entry
        self._changed = Event()  # set when `_online`, `_groups`, `_rooms` or `failure` has changed
        self._trouble = ""  # the latest reason why a device was offline
        self._warnings: list[str] = []
        self._t0: float | None = None
        self._played = 0.0  # seconds of the plan
        self._next_due: float | None = None  # the intended time of the next message; None: there is no further message
        self._stopped = math.inf  # the time at which the load was stopped; messages due later are not sent
        self._cpu = 0.0  # CPU seconds of this process at t = 0
        self._ending = False
        self._ended = Event()
        self._status: dict[str, Any] = {}
        self._update_status(phase="login")
        self._director = gevent.spawn(self._direct)

    # --- for the Locust users ---------------------------------------------------------------------------------------

    def admit(self) -> Device | None:
        """Return the next device of the population, for `log_in`; None if there is no further device."""
        number = len(self._devices)
        if number == self._expected or self._ending:
            return None
        user, device = divmod(number, len(self._plan.devices))
        draw = Stream(Draws(self.scenario.seed, "reconnect"), number).next
        admitted = Device(
            number,
            self._named(self._plan.users[user]),
            self._plan.devices[device],
            self._target,
            self._key,
            self._policies,
            draw,
            self._recording,
            self,
        )
        self._devices.append(admitted)
        return admitted

    def log_in(self, device: Device) -> None:
        """Start the device, and wait until the server has answered its login, or until `policies.login_timeout`.

        Only a limited count of devices log in at the same time. The device continues to retry after the timeout.
        """
        with self._gate:
            if not self._ending:
                device.start()
                device.answered.wait(timeout=self._policies.login_timeout)

    # --- for the devices (the lobby) --------------------------------------------------------------------------------

    def online(self, number: int, after: float) -> None:
        self._online.add(number)
        self._report("login", after * 1e3, 0, None)
        self._changed.set()

    def offline(self, number: int, why: str) -> None:
        self._online.discard(number)
        self._trouble = why
        self._report("login", None, 0, why)

    def ended(self, number: int, why: str) -> None:
        self._online.discard(number)
        self._trouble = why
        self._report("login", None, 0, why)
        if self._t0 is None:
            self._fail(why)

    def crashed(self, error: BaseException | None) -> None:
        # For example, the spool has no space left.
        self._fail(str(error) if isinstance(error, ImsimError) else f"internal error in imsim: {error!r}")
        gevent.spawn(self._finished)

    def group_made(self, name: str) -> None:
        self._groups.discard(name)
        self._changed.set()

    def group_failed(self, name: str, code: Code, text: str) -> None:
        if code == Code.TIMEOUT:
            self._fail(f"the server did not create the group {name} in time")
        else:
            self._fail(f"the server refused to create the group {name}: {code}: {text}")

    def room_entered(self, number: int, name: str) -> None:
        self._rooms.discard((number, name))
        self._changed.set()

    def room_failed(self, name: str, code: Code, text: str) -> None:
        self._fail(f"the server did not let a device into the chatroom {name}: {code}: {text}")

    # --- the run, in a greenlet of its own --------------------------------------------------------------------------

    def _direct(self) -> None:
        try:
            self._wait_for_logins()
            self._create_groups()
            self._enter_rooms()
            self._play()
        except RunError as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("playing the plan failed")
            self._fail(f"internal error in imsim: {error!r}")
        self._finished()

    def _wait_for_logins(self) -> None:
        timeout = setup_timeout(self._expected)
        if not self._wait(lambda: len(self._online) == self._expected, timeout):
            count = f"{len(self._online)} of {self._expected} devices were online after {timeout:.0f} s"
            text = f"{count} ({self._trouble or 'Locust did not start more users'})"
            if not self._online:
                raise RunError(text)
            self._warn(text)

    def _create_groups(self) -> None:
        """Create the groups in which the plan sends or changes something.

        The first online member of each group creates it, and so owns it. Its client resends a lost request.
        """
        plan = self._plan
        used = set(plan.conversation.tolist()) | {action.conversation for action in plan.actions}
        groups = [c for number, c in enumerate(plan.conversations) if number in used and c.scene is Scene.GROUP]
        deadline = now() + setup_timeout(len(groups))
        for start in range(0, len(groups), _GROUPS_AT_ONCE):
            for group in groups[start : start + _GROUPS_AT_ONCE]:
                name, creator = self._named(group.name), next(self._online_of(group.members), None)
                if creator is not None:  # otherwise no device can send to the group
                    self._groups.add(name)
                    creator.create_group(name, [self._named(self._plan.users[user]) for user in group.members])
            if not self._wait(lambda: not self._groups, deadline - now()):
                raise RunError(f"the server did not create the group {min(self._groups)} in time")

    def _enter_rooms(self) -> None:
        """Make every online device enter the chatrooms of its user."""
        for room in self._plan.rooms:
            name = self._named(room.name)
            for device in self._online_of(room.members):
                self._rooms.add((device.number, name))
                device.enter(name)
        if not self._wait(lambda: not self._rooms, setup_timeout(len(self._rooms))):
            raise RunError(f"the server did not let every device into the chatroom {min(self._rooms)[1]} in time")

    def _online_of(self, users: tuple[int, ...]) -> Iterator[Device]:
        """Iterate over the online devices of these users, in the order of the users."""
        for user in users:
            for device in range(len(self._plan.devices)):
                number = self._plan.device_index(user, device)
                if number in self._online:
                    yield self._devices[number]

    def _play(self) -> None:
        """Play the plan, for the scenario's duration."""
        self._log_out_absent_devices()
        gc.collect()
        gc.freeze()  # all present objects live until the end: the collector must not pause the run to scan them again
        self._cpu = time.process_time()
        t0 = self._t0 = now() + _HEAD_START
        self._recording.begin(t0)
        started = datetime.now(UTC).timestamp() + _HEAD_START
        self._update_status(phase="playing", started=datetime.fromtimestamp(started, UTC).isoformat())

        give_up = t0 + self.scenario.duration + self.scenario.drain
        others = [gevent.spawn(self._play_actions, t0), gevent.spawn(self._play_online_periods, t0)]
        try:
            self._send_messages(t0, give_up)
            gevent.joinall(others, raise_error=True)
        finally:
            gevent.killall(others)
        _sleep_until(t0 + self.scenario.duration)

    def _send_messages(self, t0: float, give_up: float) -> None:
        """Send each message at its intended time, or as soon as possible if this process is late.

        Messages that are not sent at the time `give_up` are left out.
        """
        plan, recording, devices = self._plan, self._recording, self._devices
        for intent, (at, number) in enumerate(zip(plan.at.tolist(), self._senders(), strict=True)):
            due = self._next_due = t0 + at / 1e9
            _sleep_until(due)
            if due >= self._stopped:
                break
            if now() > give_up:
                self._warn(f"{len(plan) - intent} of {len(plan)} messages were never sent: the sender was too late")
                break
            if number < len(devices):
                recording.asked(intent, now() - due)
                device, id_client = devices[number], actor.IdClient(intent, self._prefix)
                device.do(partial(actor.send, device.client, plan, self._named, id_client))
        self._next_due = None

    def _senders(self) -> list[int]:
        """Return the number of the sending device of each message."""
        plan = self._plan
        numbers: list[int] = (plan.sender.astype(int) * len(plan.devices) + plan.device).tolist()
        return numbers

    def _play_actions(self, t0: float) -> None:
        """Play the actions of the plan, such as recalls and edits.

        They may be a millisecond late, because no latency is measured from them.
        """
        plan, seq_of = self._plan, self._recording.seqs.get
        for number, action in enumerate(plan.actions):
            gevent.sleep(max(0.0, t0 + action.at / 1e9 - now()))
            first = plan.device_index(action.user, 0)
            if first < len(self._devices):
                device, id_client = self._devices[first], actor.action_id(number, self._prefix)
                device.do(partial(actor.act, device.client, plan, action, seq_of, self._named, id_client))

    def _log_out_absent_devices(self) -> None:
        """Log out the devices that the plan has offline at its start."""
        if self._plan.online_periods is not None:
            for device in self._devices:
                if not self._plan.online_periods.is_online_first[device.number]:
                    self._leave(device)
                    gevent.sleep(0)

    def _play_online_periods(self, t0: float) -> None:
        """Log devices in and out at the times of the plan."""
        for ns, number, comes in self._plan.online_periods.changes() if self._plan.online_periods is not None else ():
            gevent.sleep(max(0.0, t0 + ns / 1e9 - now()))
            if number < len(self._devices):
                device = self._devices[number]
                device.start() if comes else self._leave(device)

    def _leave(self, device: Device) -> None:
        self._online.discard(device.number)
        device.leave()

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Stop sending, wait for what is in flight (`drain` seconds at most), and write the final status.

        The devices remain online until the caller stops them. A second call waits for the end of the first.
        """
        if self._ending:
            self._ended.wait()
            return
        self._ending = True
        self._stopped = now()
        try:
            if self._director is not gevent.getcurrent():
                self._wait_for_late_messages()
                self._director.kill()
            if self.failure is None and self._t0 is not None and self._stopped > self._t0:
                self._played = min(self._stopped - self._t0, self.scenario.duration)
                self._drain()
            elif self.failure is None:
                self.failure = "the load was stopped before sending began"
            try:
                self._recording.close()
            except RunError as error:
                self._fail(str(error))
            self._conclude()
        finally:
            gc.unfreeze()
            self._ended.set()

    def _wait_for_late_messages(self) -> None:
        """Wait until all messages that were due before the stop are sent, `drain` seconds at most.

        The director may be late; its lateness must not remove messages from the run.
        """
        while not self._director.dead and self._next_due is not None and self._next_due < self._stopped:
            if now() > self._stopped + self.scenario.drain:
                break
            gevent.sleep(0.001)

    def _drain(self) -> None:
        self._update_status(phase="draining")
        deadline = now() + self.scenario.drain
        while self._recording.in_flight > 0 and now() < deadline:
            gevent.sleep(0.005)
        online_periods, numbers = self._plan.online_periods, np.arange(len(self._devices))
        expected = (
            len(numbers)
            if online_periods is None
            else int(online_periods.is_online(numbers, round(self._played * 1e9)).sum())
        )
        if not self._online and expected:
            self.failure = f"the server went away: all {self._expected} devices are offline ({self._trouble})"
        elif len(self._online) < expected:
            count = expected - len(self._online)
            self._warn(f"{count} of {len(self._devices)} devices were offline at the end ({self._trouble})")

    def _conclude(self) -> None:
        if self.failure is not None:
            self._update_status(phase="failed", reason=self.failure)
            return
        if missing := self._recording.missing_in_rooms():
            self._warn(
                f"{missing} deliveries of chatroom messages never arrived: they were lost, or shed by the server"
                " (clients cannot distinguish the two)"
            )
        lateness = summarize_lateness(self._recording.lateness)
        for warning in lateness_warnings(lateness):
            self._warn(warning)
        self._manifest |= {
            "lateness_ms": lateness,
            "foreign": self._recording.foreign,
            "locust_cpu": round((time.process_time() - self._cpu) / max(now() - (self._t0 or 0.0), 1e-9), 3),
            "warnings": self._warnings,
        }
        self._update_status(phase="done", played=self._played, manifest=self._manifest)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _named(self, name: str) -> str:
        """Return the name of a user, group or chatroom within the namespace."""
        return f"{self._namespace}.{name}"

    def _update_status(self, **status: Any) -> None:
        self._status |= status
        write_status(self._folder, self._status)

    def _warn(self, text: str) -> None:
        logger.warning(text)
        self._warnings.append(text)

    def _fail(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
        self._changed.set()

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait until `done()` is true, for this many seconds at most, and return whether it is.

        Raises: RunError if the run has failed meanwhile.
        """
        deadline = now() + seconds
        while True:
            self._changed.clear()
            if self.failure is not None:
                raise RunError(self.failure)
            if done():
                return True
            if now() >= deadline:
                return False
            self._changed.wait(timeout=deadline - now())


def _sleep_until(due: float) -> None:
    # Timers wake up to a millisecond late, and this delay would count as latency of the server. So the last moment is
    # spent in the event loop, in which the other greenlets run as usual.
    if now() >= due:
        gevent.sleep(_SHORTEST_SLEEP)  # the sender is late, but the greenlets that receive must run, too
        return
    while (left := due - now()) > 0:
        gevent.sleep(left - _WAKE_EARLY if left > _WAKE_EARLY else _SHORTEST_SLEEP)
