"""The coordinator of a run: it leads the players through login, provision, play and drain, and ends the run.

There is one for each test, in the process of Locust's master, or in the only process. It sees the players only through
messages, so it does not matter where they are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from gevent.event import Event

from imsim.core.exceptions import RunError
from imsim.load.collect import write_status
from imsim.load.device import now
from imsim.load.job import Job
from imsim.load.recording import lateness_warnings
from imsim.scenario import plan

logger = logging.getLogger("imsim.load")

_HEAD_START = 0.1  # seconds from the last preparation to t = 0
_WATCH_SECONDS = 0.5  # between two looks at the count of devices that are online
_GONE_SECONDS = 30.0  # without any device online, after which the server counts as gone
_FINISH_TIMEOUT = 30.0  # seconds that a player may take to report its end


def setup_timeout(count: int) -> float:
    """Return how many seconds this many logins, groups or chatroom entries may take."""
    return 30 + 0.02 * count


class Coordinator:
    """The leader of a run.

    send: sends a message to a player: `send(index, kind, **values)`.
    count: the count of players.
    folder: the folder for the status of the run.
    finished: called once the plan is played, or the run has failed. Then stop the Locust test; this calls `end`.
    spawning: the seconds that Locust needs to start all users.
    """

    def __init__(
        self,
        job: Job,
        send: Callable[..., None],
        count: int,
        folder: Path,
        finished: Callable[[], None],
        manifest: dict[str, Any],
        spawning: float = 0.0,
    ) -> None:
        self.job = job
        self.failure: str | None = None
        """Why the run ended early or is incomplete; None if it is complete."""
        self._send = send
        self._count = count
        self._folder = folder
        self._finished = finished
        adapter = job.make_adapter()
        self._manifest = manifest | {
            "url": job.url,
            "namespace": job.namespace,
            "adapter": Path(job.adapter).name,
            "features": sorted(adapter.features),
        }
        self._plan = plan(job.scenario)
        job.check(self._plan, adapter)
        self._expected = len(self._plan.users) * len(self._plan.devices)
        self._spawning = spawning
        self._has_spawned = False
        self._free = list(range(self._expected - 1, -1, -1))  # numbers of devices without a user, the lowest last
        self._away: set[int] = set()  # devices that the plan or a task has logged out
        self._refused = 0  # count of users for whom there was no device
        self._online: set[int] = set()
        self._provisioned = 0  # count of players that have done the current step of provisioning
        self._opened: dict[str, list[int]] = {}  # of each group of a task: the player, and how many have joined it
        self._states: dict[int, dict[str, Any]] = {}  # the latest report of each player
        self._ends: dict[int, dict[str, Any]] = {}  # the last report of each player
        self._changed = Event()  # set when one of these has changed
        self._trouble = ""  # the latest reason why a device was offline
        self._warnings: list[str] = []
        self._phase = "login"
        self._t0: float | None = None
        self._started = ""
        self._stopped: float | None = None
        self._is_played = False
        self._seen = math.inf  # when a device was online, the last time that `_watch` looked
        self._deadline = math.inf  # of the waits at the end
        self._ending = False
        self._ended = Event()
        self._update_status()

    @property
    def elapsed(self) -> float:
        """The seconds since the plan began; 0 before that."""
        return 0.0 if self._t0 is None else max(0.0, now() - self._t0)

    def start(self) -> None:
        """Begin the run, in a greenlet of its own."""
        self._director = gevent.spawn(self._direct)

    def handle(self, index: int, kind: str, **values: Any) -> None:
        """Handle a message of player number `index`."""
        getattr(self, f"_on_{kind}")(index, **values)
        self._changed.set()

    # --- messages of the players ------------------------------------------------------------------------------------

    def _on_want(self, index: int) -> None:
        self._refused += not self._free
        is_over = self._ending or not self._free
        self._send(index, "lease", number=None if is_over else self._free.pop())

    def _on_release(self, index: int, number: int) -> None:
        self._online.discard(number)
        self._free.append(number)
        self._free.sort(reverse=True)

    def _on_online(self, index: int, number: int) -> None:
        self._online.add(number)
        self._away.discard(number)

    def _on_offline(self, index: int, number: int, reason: str, is_final: bool) -> None:
        self._online.discard(number)
        if not reason:  # the plan or a task has logged it out
            self._away.add(number)
        self._trouble = reason or self._trouble
        if is_final and self._t0 is None:
            self._fail(reason)

    def _on_provisioned(self, index: int) -> None:
        self._provisioned += 1

    def _on_seen(self, index: int, owner: int, **values: Any) -> None:
        self._send(owner, "seen", **values)

    def _on_opened(self, index: int, name: str, members: list[int], creator: int) -> None:
        self._opened[name] = [index, 0]
        self._tell_all("opened", name=name, members=members, creator=creator)

    def _on_entered(self, index: int, name: str) -> None:
        opened = self._opened[name]
        opened[1] += 1
        if opened[1] == self._count:
            self._send(opened[0], "ready", name=name)

    def _on_state(self, index: int, **state: Any) -> None:
        self._states[index] = state

    def _on_failed(self, index: int, reason: str) -> None:
        is_first = self.failure is None
        self._fail(reason)
        if is_first and self._t0 is not None:
            gevent.spawn(self._finished)

    def _on_finished(self, index: int, **end: Any) -> None:
        self._ends[index] = end

    # --- the run ----------------------------------------------------------------------------------------------------

    def _direct(self) -> None:
        try:
            self._wait_for_logins()
            self._enter("provision")
            self._provision(creates=True)
            self._provision(creates=False)
            self._play()
        except RunError as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("leading the run failed")
            self._fail(f"internal error in imsim: {error!r}")
        self._finished()

    def _wait_for_logins(self) -> None:
        timeout = setup_timeout(self._expected) + self._spawning
        if not self._wait(lambda: len(self._online) >= self._awaited(), timeout):
            count = f"{len(self._online)} of {self._awaited()} devices were online after {timeout:.0f} s"
            text = f"{count} ({self._trouble or 'Locust did not start more users'})"
            if not self._online:
                raise RunError(text)
            self._warn(text)

    def _awaited(self) -> int:
        """Return the count of devices that must be online before the plan begins."""
        return self._expected - len(self._free) if self._has_spawned else self._expected

    def spawned(self) -> None:
        """Do not wait for more users: Locust has started as many as it will start before the plan begins."""
        self._has_spawned = True
        self._changed.set()

    def _provision(self, creates: bool) -> None:
        """Let the first online member of each group and chatroom create it, or all others join it."""
        is_online = np.zeros(self._expected, np.uint8)
        is_online[list(self._online)] = 1
        self._provisioned = 0
        self._tell_all("provision", creates=creates, online=np.packbits(is_online).tobytes())
        if not self._wait(lambda: self._provisioned == self._count, setup_timeout(len(self._plan.conversations))):
            step = "create every group" if creates else "let every device into its groups and chatrooms"
            raise RunError(f"the server did not {step} in time")

    def _play(self) -> None:
        """Play the plan, for the scenario's duration."""
        t0 = self._t0 = now() + _HEAD_START
        self._started = datetime.fromtimestamp(datetime.now(UTC).timestamp() + _HEAD_START, UTC).isoformat()
        self._seen = now()
        self._enter("play")
        for index in range(self._count):
            self._send(index, "play", t0=t0, absent=list(self._free) if index == 0 else [])
        end = t0 + self.job.scenario.duration
        while (left := end - now()) > 0:
            gevent.sleep(min(left, _WATCH_SECONDS))
            self._watch()
        self._is_played = True

    def _watch(self) -> None:
        """End the run if the server has gone away and does not come back.

        Raises: RunError if no device was online for a long time.
        """
        leased = self._expected - len(self._free)
        if self._online or self._away or not leased:
            self._seen = now()
        elif now() - self._seen > _GONE_SECONDS:
            raise RunError(
                f"the server went away: all {leased} devices were offline for {_GONE_SECONDS:.0f} s ({self._trouble})"
            )

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self, reason: str = "", *, is_complete: bool = False, patience: float = math.inf) -> None:
        """Stop sending, wait for what is in flight (`drain` seconds at most), and write the final status.

        The devices remain online until the caller stops them. A second call waits for the end of the first.

        reason: why the test ends, if it ends before the plan is played.
        is_complete: whether this end is what the tester planned, so the run is complete although it is shorter.
        patience: seconds that the wait may take at most.
        """
        self._deadline = min(self._deadline, now() + patience)
        self._changed.set()
        if self._ending:
            self._ended.wait()
            return
        self._ending = True
        self._stopped = now()
        ended = {"reason": reason, "phase": self._phase}
        if not reason or self._is_played:
            ended = {"reason": "the plan was played", "phase": "done"}
        elif not is_complete:
            self._fail(reason)
        try:
            self._tell_all("stop", at=self._stopped)
            if self._director is not gevent.getcurrent():
                self._director.kill()
            if self._t0 is not None:
                self._wait_until_sent()
                self._drain()
            self._deadline = math.inf
            self._tell_all("finish")
            self._wait(lambda: len(self._ends) == self._count, _FINISH_TIMEOUT, raises=False)
            self._conclude(ended)
        finally:
            self._ended.set()

    def _wait_until_sent(self) -> None:
        """Wait until all messages that were due so far are sent.

        A player may be late; its lateness must not remove messages from the run.
        """
        self._states.clear()
        self._wait(lambda: self._has_states() and not self._is_behind(), self.job.scenario.drain, raises=False)

    def _has_states(self) -> bool:
        return len(self._states) == self._count

    def _is_behind(self) -> bool:
        return any(state["is_behind"] for state in self._states.values())

    def _drain(self) -> None:
        self._enter("drain")
        self._states.clear()
        self._wait(lambda: self._has_states() and self._in_flight() <= 0, self.job.scenario.drain, raises=False)
        leased = self._expected - len(self._free)
        expected = leased - len(self._away.difference(self._free))
        if not self._online and expected:
            self._fail(f"the server went away: all {leased} devices are offline ({self._trouble})")
        elif len(self._online) < expected:
            count = expected - len(self._online)
            self._warn(f"{count} of {leased} devices were offline at the end ({self._trouble})")

    def _in_flight(self) -> int:
        return sum(state["in_flight"] for state in self._states.values())

    def _played(self) -> float:
        """Return how many seconds of the plan were played."""
        if self._t0 is None or self._stopped is None:
            return 0.0
        return max(0.0, min(self._stopped - self._t0, self.job.scenario.duration))

    def _conclude(self, ended: dict[str, str]) -> None:
        ends = list(self._ends.values())
        for end in ends:
            if end["failure"]:
                self._fail(end["failure"])
        if self._t0 is None:
            self._fail("the load was stopped before sending began")
        if self.failure is not None:
            ended = {"reason": self.failure, "phase": ended["phase"] if ended["phase"] != "done" else self._phase}
        if count := sum(end["from_tasks"] for end in ends):
            self._warn(
                f"{count} messages come from tasks, which are a closed model: a task waits for the server before it"
                " sends the next message, so a slow server gets less load, and these latencies look better than they"
                " are"
            )
        if self._refused:
            self._warn(
                f"{self._refused} users of Locust took no part, because the scenario has only {self._expected} devices;"
                " raise population.users, or start the test with the largest number of users"
            )
        if missing := sum(end["missing_in_rooms"] for end in ends):
            self._warn(
                f"{missing} deliveries of chatroom messages never arrived: they were lost, or shed by the server"
                " (clients cannot distinguish the two)"
            )
        lateness = {
            name: max(end["lateness_ms"][name] for end in ends if end["lateness_ms"])
            for name in ("p50", "p99", "max")
            if any(end["lateness_ms"] for end in ends)
        }
        for warning in lateness_warnings(lateness):
            self._warn(warning)
        self._manifest |= {
            "lateness_ms": lateness,
            "foreign": sum(end["foreign"] for end in ends),
            "locust_cpu": round(sum(end["cpu"] for end in ends), 3),
            "warnings": self._warnings,
        }
        self._enter(self._phase if self.failure is not None else "done", played=self._played(), ended=ended)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _enter(self, phase: str, **status: Any) -> None:
        self._phase = phase
        self._update_status(**status)

    def _update_status(self, **status: Any) -> None:
        started = {"started": self._started} if self._started else {}
        write_status(self._folder, {"phase": self._phase, "manifest": self._manifest, **started, **status})

    def _tell_all(self, kind: str, **values: Any) -> None:
        for index in range(self._count):
            self._send(index, kind, **values)

    def _warn(self, text: str) -> None:
        logger.warning(text)
        self._warnings.append(text)

    def _fail(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
        self._changed.set()

    def _wait(self, done: Callable[[], bool], seconds: float, raises: bool = True) -> bool:
        """Wait until `done()` is true, for this many seconds at most, and return whether it is.

        The patience of the caller of `end` limits the wait, too.

        Raises: RunError if the run has failed meanwhile, unless `raises` is false.
        """
        until = now() + seconds
        while True:
            self._changed.clear()
            if raises and self.failure is not None:
                raise RunError(self.failure)
            if done():
                return True
            left = min(until, self._deadline) - now()
            if left <= 0:
                return False
            self._changed.wait(timeout=left)
