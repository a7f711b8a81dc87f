"""One run inside a Locust process: everybody logs in, groups are made, the plan is played, what is under way drains."""

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

from imsim.core.exceptions import RunError
from imsim.core.model import Code, Scene
from imsim.load.devices import Device, now
from imsim.load.recording import SPOOL, Recording, Report, lateness_warnings, summarize_lateness, write_status
from imsim.load.target import Target
from imsim.scenario import Draws, Scenario, Stream, actor, plan

logger = logging.getLogger("imsim.load")

_LOGINS_AT_ONCE = 32  # more only queue up in the server, until they time out
_GROUPS_AT_ONCE = 200
_HEAD_START = 0.1  # seconds from the last preparation to t = 0
_WAKE_EARLY = 0.0012  # seconds; the event loop's timers are only good to a millisecond
_SHORTEST_SLEEP = 1e-6  # gives everybody else a turn; 0 would not let the event loop look for input


def login_allowance(devices: int) -> float:
    """Seconds that this many devices may take to come online."""
    return 30 + 0.02 * devices


class Session:
    """One run of `scenario` against `target`. It leaves spool and status in `folder`.

    Users and groups live in a `namespace` of their own, so that a second run on one database is not all duplicates.
    `report` feeds Locust's statistics; `finished` is called when the plan has been played, or could not be: stop the
    test then, which calls `end`.
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
        self._prefix = f"{namespace}:"  # of what messages and actions are called
        self._recording = Recording(self._plan, self._prefix, folder / SPOOL, report)
        self._policies = scenario.core_policies()
        self._devices: list[Device] = []
        self._expected = len(self._plan.users) * len(self._plan.devices)
        self._online: set[int] = set()
        self._gate = BoundedSemaphore(_LOGINS_AT_ONCE)
        self._groups: set[str] = set()  # still to be made
        self._rooms: set[tuple[int, str]] = set()  # still to be entered, by device
        self._changed = Event()  # look again at who is online, at groups, at the failure
        self._trouble = ""  # the last reason why a device was offline
        self._warnings: list[str] = []
        self._t0: float | None = None
        self._played = 0.0  # seconds of the plan
        self._next_due: float | None = None  # the intended time of the message to be sent next; None: no more
        self._stopped = math.inf  # when the load was stopped; what is due from then on is not sent
        self._cpu = 0.0  # seconds of this process at t = 0
        self._ending = False
        self._ended = Event()
        self._status: dict[str, Any] = {}
        self._tell(phase="login")
        self._director = gevent.spawn(self._direct)

    # --- for the Locust users ---------------------------------------------------------------------------------------

    def admit(self) -> Device | None:
        """The next device of the population, to be logged in; None when all are taken."""
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
        """Take its turn at the server, and wait until that has answered, for a while. The device goes on trying."""
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

    def crashed(self, why: str) -> None:
        self._fail(f"imsim itself failed: {why}")
        gevent.spawn(self._finished)

    def group_made(self, name: str) -> None:
        self._groups.discard(name)
        self._changed.set()

    def group_failed(self, name: str, code: Code, text: str) -> None:
        if code == Code.TIMEOUT:
            self._fail(f"the server did not make the group {name} in time")
        else:
            self._fail(f"the server refused to make the group {name}: {code}: {text}")

    def room_entered(self, number: int, name: str) -> None:
        self._rooms.discard((number, name))
        self._changed.set()

    def room_failed(self, name: str, code: Code, text: str) -> None:
        self._fail(f"the server did not let a device into the chatroom {name}: {code}: {text}")

    # --- the run, in a greenlet of its own --------------------------------------------------------------------------

    def _direct(self) -> None:
        try:
            self._gather()
            self._make_groups()
            self._fill_rooms()
            self._play()
        except RunError as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("playing the plan failed")
            self._fail(f"imsim itself failed: {error!r}")
        self._finished()

    def _gather(self) -> None:
        allowance = login_allowance(self._expected)
        if not self._wait(lambda: len(self._online) == self._expected, allowance):
            count = f"{len(self._online)} of {self._expected} devices were online after {allowance:.0f} s"
            text = f"{count} ({self._trouble or 'Locust started no more'})"
            if not self._online:
                raise RunError(text)
            self._warn(text)

    def _make_groups(self) -> None:
        """Those to which something will be sent, or that will change, each by the first of its members who is there (so
        it is the owner), whose client repeats what was lost."""
        plan = self._plan
        used = set(plan.conversation.tolist()) | {action.conversation for action in plan.actions}
        groups = [c for number, c in enumerate(plan.conversations) if number in used and c.scene is Scene.GROUP]
        deadline = now() + login_allowance(len(groups))
        for start in range(0, len(groups), _GROUPS_AT_ONCE):
            for group in groups[start : start + _GROUPS_AT_ONCE]:
                name, maker = self._named(group.name), next(self._online_of(group.members), None)
                if maker is not None:  # else nobody will send to it
                    self._groups.add(name)
                    maker.create_group(name, [self._named(self._plan.users[user]) for user in group.members])
            if not self._wait(lambda: not self._groups, deadline - now()):
                raise RunError(f"the server did not make the group {min(self._groups)} in time")

    def _fill_rooms(self) -> None:
        """Everybody enters the chatrooms of whose audience they are."""
        for room in self._plan.rooms:
            name = self._named(room.name)
            for device in self._online_of(room.members):
                self._rooms.add((device.number, name))
                device.enter(name)
        if not self._wait(lambda: not self._rooms, login_allowance(len(self._rooms))):
            raise RunError(f"the server did not let everybody into the chatroom {min(self._rooms)[1]} in time")

    def _online_of(self, users: tuple[int, ...]) -> Iterator[Device]:
        """The devices of these users that are online, in the users' order."""
        for user in users:
            for device in range(len(self._plan.devices)):
                number = self._plan.device_index(user, device)
                if number in self._online:
                    yield self._devices[number]

    def _play(self) -> None:
        """Have users do what the plan says, for the scenario's duration."""
        self._empty()
        gc.collect()
        gc.freeze()  # what is here by now stays: no pause to look through it again while the plan is played
        self._cpu = time.process_time()
        t0 = self._t0 = now() + _HEAD_START
        self._recording.begin(t0)
        started = datetime.now(UTC).timestamp() + _HEAD_START
        self._tell(phase="playing", started=datetime.fromtimestamp(started, UTC).isoformat())

        give_up = t0 + self.scenario.duration + self.scenario.drain
        others = [gevent.spawn(self._act, t0), gevent.spawn(self._come_and_leave, t0)]
        try:
            self._write(t0, give_up)
            gevent.joinall(others, raise_error=True)
        finally:
            gevent.killall(others)
        _sleep_until(t0 + self.scenario.duration)

    def _write(self, t0: float, give_up: float) -> None:
        """Send each message at its intended time, and as soon as possible thereafter if this process is late; whatever
        is not sent by `give_up` is left out."""
        plan, recording, devices = self._plan, self._recording, self._devices
        for intent, (at, number) in enumerate(zip(plan.at.tolist(), self._senders(), strict=True)):
            due = self._next_due = t0 + at / 1e9
            _sleep_until(due)
            if due >= self._stopped:
                break
            if now() > give_up:
                self._warn(f"{len(plan) - intent} of {len(plan)} messages were never sent: there was no time left")
                break
            if number < len(devices):
                recording.asked(intent, now() - due)
                device, id_client = devices[number], actor.IdClient(intent, self._prefix)
                device.do(partial(actor.send, device.client, plan, self._named, id_client))
        self._next_due = None

    def _senders(self) -> list[int]:
        """The number of the device that sends each message."""
        plan = self._plan
        numbers: list[int] = (plan.sender.astype(int) * len(plan.devices) + plan.device).tolist()
        return numbers

    def _act(self, t0: float) -> None:
        """Have users do what they do besides writing. A millisecond late does no harm: no latency counts from it."""
        plan, seq_of = self._plan, self._recording.seqs.get
        for number, action in enumerate(plan.actions):
            gevent.sleep(max(0.0, t0 + action.at / 1e9 - now()))
            first = plan.device_index(action.user, 0)
            if first < len(self._devices):
                device, id_client = self._devices[first], actor.action_id(number, self._prefix)
                device.do(partial(actor.act, device.client, plan, action, seq_of, self._named, id_client))

    def _empty(self) -> None:
        """Who is to be away when the plan begins leaves."""
        if self._plan.online_periods is not None:
            for device in self._devices:
                if not self._plan.online_periods.is_online_first[device.number]:
                    self._leave(device)
                    gevent.sleep(0)

    def _come_and_leave(self, t0: float) -> None:
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
        """Send no more, wait for what is under way (`drain` seconds at most), and say how it went. The devices stay
        online until the caller stops them. Whoever calls it once more waits for the first."""
        if self._ending:
            self._ended.wait()
            return
        self._ending = True
        self._stopped = now()
        try:
            if self._director is not gevent.getcurrent():
                self._catch_up()
                self._director.kill()
            if self.failure is None and self._t0 is not None and self._stopped > self._t0:
                self._played = min(self._stopped - self._t0, self.scenario.duration)
                self._drain()
            elif self.failure is None:
                self.failure = "stopped before sending began"
            self._recording.close()
            self._conclude()
        finally:
            gc.unfreeze()
            self._ended.set()

    def _catch_up(self) -> None:
        """What was to be sent by now still is, `drain` seconds at most: a director who is late is no reason to leave it
        out."""
        while not self._director.dead and self._next_due is not None and self._next_due < self._stopped:
            if now() > self._stopped + self.scenario.drain:
                break
            gevent.sleep(0.001)

    def _drain(self) -> None:
        self._tell(phase="draining")
        deadline = now() + self.scenario.drain
        while self._recording.under_way > 0 and now() < deadline:
            gevent.sleep(0.005)
        online_periods, numbers = self._plan.online_periods, np.arange(len(self._devices))
        there = (
            len(numbers)
            if online_periods is None
            else int(online_periods.is_online(numbers, round(self._played * 1e9)).sum())
        )
        if not self._online and there:
            self.failure = f"the server went away: all {self._expected} devices are offline ({self._trouble})"
        elif len(self._online) < there:
            count = there - len(self._online)
            self._warn(f"{count} of {len(self._devices)} devices were offline at the end ({self._trouble})")

    def _conclude(self) -> None:
        if self.failure is not None:
            self._tell(phase="failed", reason=self.failure)
            return
        if missing := self._recording.missing_in_rooms():
            self._warn(
                f"{missing} deliveries of chatrooms never came: lost, or shed by the server; clients cannot tell"
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
        self._tell(phase="done", played=self._played, manifest=self._manifest)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _named(self, name: str) -> str:
        return f"{self._namespace}.{name}"

    def _tell(self, **status: Any) -> None:
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
        """Whether it is done within these seconds. Raises: RunError if the run has failed meanwhile."""
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
    # Timers wake up to a millisecond late, which would be counted as the server's latency: the last moment is spent in
    # turns of the event loop, in which everybody else goes on as usual.
    if now() >= due:
        gevent.sleep(_SHORTEST_SLEEP)  # late: but those who receive must have their turn
        return
    while (left := due - now()) > 0:
        gevent.sleep(left - _WAKE_EARLY if left > _WAKE_EARLY else _SHORTEST_SLEEP)
