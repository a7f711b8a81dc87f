"""The coordinator of a run: it leads the players through login, provision, play and drain, and ends the run.

There is one for each test, in the process of Locust's master, or in the only process. It sees the players only through
messages, so it does not matter where they are. A player on another process may end at any time: `lose` handles that.

This module has the phases and their waits. `roster` has the players and their clocks, `population` the devices,
`openings` the groups of tasks, `flight` what is in flight, `status` the file and the progress of the test, `conclusion`
what its manifest says.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from gevent.event import Event

from imsim.core.exceptions import RunError
from imsim.load.collect import spool_name
from imsim.load.conclusion import conclude
from imsim.load.device import now
from imsim.load.flight import Flight
from imsim.load.job import Job
from imsim.load.openings import Openings
from imsim.load.population import Population
from imsim.load.roster import Roster
from imsim.load.status import Status

logger = logging.getLogger("imsim.load")

_HEAD_START = 0.1  # seconds from the last preparation to t = 0
_REMOTE_HEAD_START = 0.5  # the same if the players are on other processes
_SETTLE_SECONDS = 6.0  # after the loss of a worker, in which Locust may start its users elsewhere
_WATCH_SECONDS = 0.5  # between two looks at the count of devices that are online
_FAILED_PATIENCE = 1.0  # seconds that a failed test may take to end
_LAST_PROBING = 0.2  # seconds that the last look at the clocks may take at an end that must be fast
_FINISH_TIMEOUT = 30.0  # seconds that a player may take to report its end
_HURRIED_FINISH = 2.0  # the same at an end that must be fast


def setup_timeout(count: int) -> float:
    """Return how many seconds this many logins, groups or chatroom entries may take."""
    return 30 + 0.02 * count


class Coordinator:
    """The leader of a run.

    send: sends a message to a player: `send(index, kind, **values)`.
    count: the count of players at the start, which have the numbers from 0.
    folder: the folder for the status of the run.
    finished: called once the plan is played, or the run has failed. Then stop the Locust test; this calls `end`.
    spawning: the seconds that Locust needs to start all users.
    about: what `describe` returns in this process, if the players are on others; None: the player is on this one.
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
        about: dict[str, Any] | None = None,
    ) -> None:
        self.job = job
        self.failure: str | None = None
        """Why the run ended early or is incomplete; None if it is complete."""
        self._send = send
        self._finished = finished
        adapter = job.make_adapter()
        described = manifest | {
            "url": job.url,
            "namespace": job.namespace,
            "adapter": Path(job.adapter).name,
            "features": sorted(adapter.features),
        }
        self._plan = job.plan
        job.check(adapter)
        self._population = Population(self._plan, folder / spool_name(count))
        self._roster = Roster(count, about, send, partial(self._wait, raises=False))
        self._spawning = spawning
        self._has_spawned = False
        self._incomplete: str | None = None  # why a part of the run is missing
        self._with_spawned: set[int] = set()  # players on whose process Locust has started all users
        self._provisioned: set[int] = set()  # players that have done the current step of provisioning
        self._openings = Openings(lambda: self._roster.present, send)
        self._flight = Flight(lambda: self._roster.present)
        self._ends: dict[int, dict[str, Any]] = {}  # the last report of each player
        self._changed = Event()  # set when one of these has changed
        self.warnings: list[str] = []
        self._t0: float | None = None
        self._cpu = 0.0  # CPU seconds of this process at t = 0
        self._stopped: float | None = None
        self._is_played = False
        self._deadline = math.inf  # of the waits at the end
        self._cutting = ""  # why the drain must not take its time
        self._undecided_since: float | None = None  # see `imsim.load.collect.collect`
        self._ending = False
        self._ended = Event()
        self._status = Status(folder, described, job.scenario.duration, lambda: self.elapsed)

    @property
    def phase(self) -> str:
        """The phase of the run: login, provision, play, drain or done."""
        return self._status.phase

    @property
    def elapsed(self) -> float:
        """The seconds since the plan began; 0 before that."""
        return 0.0 if self._t0 is None else max(0.0, now() - self._t0)

    @property
    def is_ending(self) -> bool:
        """Whether `end` was called."""
        return self._ending

    def start(self) -> None:
        """Begin the run, in a greenlet of its own."""
        self._director = gevent.spawn(self._direct)
        self._status.start()

    def handle(self, index: int, kind: str, **values: Any) -> None:
        """Handle a message of player number `index`."""
        if not self.is_lost(index):
            getattr(self, f"_on_{kind}")(index, **values)
            self._changed.set()

    def add(self, index: int) -> bool | None:
        """Add a player that comes late.

        Return true if it takes part like the others, false if it gets devices only once it has received `play`, and
        None if it cannot take part.
        """
        if self._ending or self.failure is not None:
            return None
        takes_part = self.phase == "login"
        self._roster.add(index, takes_part=takes_part)
        return takes_part

    def is_lost(self, index: int) -> bool:
        """Return whether this player was lost, or cannot take part."""
        return self._roster.is_lost(index)

    def lose(self, index: int, reason: str, heard: float = math.inf) -> None:
        """Handle the loss of a player: it sends nothing any longer. Its devices are withdrawn; the others play on.

        heard: when its last message arrived.
        """
        if self.is_lost(index):
            return
        at = 0.0 if self._t0 is None else max(0.0, min(now(), heard) - self._t0)
        numbers = self._population.owned(index)
        self._roster.lose(index, at, self.phase, len(numbers))
        for number in numbers:
            self._population.take_back(index, number)
        self._announce(numbers, are_present=False)
        if self._t0 is not None:
            self._population.withdraw(numbers, at)
        when = f"during {self.phase}" if self._t0 is None else f"during {self.phase}, at {at:.1f} s of the plan"
        name = self._roster.name(index)
        text = f"{name} was lost {when}: {reason}; its {len(numbers)} devices are withdrawn from then on"
        self._warn(text)
        self._incomplete = self._incomplete or text
        if not self._roster.present and not self._ending:
            self._on_failed(index, f"all workers were lost; the last one: {reason}")
        self._openings.report()
        self._changed.set()
        gevent.spawn_later(_SETTLE_SECONDS, self._changed.set)  # for `_awaited`

    # --- messages of the players ------------------------------------------------------------------------------------

    def _on_hello(self, index: int, **about: Any) -> None:
        self._roster.describe(index, about)
        if (objection := self._roster.objection(index)) is not None:
            self._on_refused(index, objection)
        elif self._t0 is not None and index not in self._roster.present:
            gevent.spawn(self._bring_in, index)

    def _on_refused(self, index: int, reason: str, **about: Any) -> None:
        self._roster.describe(index, about)
        text = f"{self._roster.name(index)} cannot take part: {reason}"
        self._roster.remove(index)
        if self._t0 is None:
            self._fail(text)
        else:
            self._warn(text)

    def _on_probed(self, index: int, sent: float, at: float) -> None:
        self._roster.probed(index, sent, at)

    def _on_want(self, index: int) -> None:
        population, number = self._population, None
        if not self._ending:
            if not population.free:
                if self._t0 is None or not self.job.scenario.conversations.p2p_share:
                    population.refused += 1
                else:
                    population.add_user()
            number = population.lease(index)
            if number is not None:
                self._announce([number], are_present=True)
        self._send(index, "lease", number=number)

    def _on_release(self, index: int, number: int) -> None:
        has_lost_user = self._population.take_back(index, number)
        if has_lost_user and self._roster.are_remote and self._t0 is not None and not self._ending:
            # The player records this, too, but it may be lost before its record arrives here.
            self._population.withdraw([number], self.elapsed)
        if has_lost_user:
            self._announce([number], are_present=False)

    def _announce(self, numbers: list[int], are_present: bool) -> None:
        """Tell the players which devices have lost or got a user: they must not wait for a device without one."""
        if self._t0 is not None and not self._ending:
            self._send_all("users", numbers=numbers, are_present=are_present)

    def _on_online(self, index: int, number: int) -> None:
        self._population.came_online(number)

    def _on_offline(self, index: int, number: int, reason: str, is_final: bool) -> None:
        self._population.went_offline(number, reason)
        if is_final and self._t0 is None:
            self._fail(reason)

    def _on_provisioned(self, index: int) -> None:
        self._provisioned.add(index)

    def _on_seen(self, index: int, owner: int, **values: Any) -> None:
        if owner in self._roster.present:
            self._send(owner, "seen", **values)

    def _on_opened(self, index: int, **group: Any) -> None:
        self._openings.opened(index, **group)

    def _on_entered(self, index: int, name: str, error: str | None) -> None:
        self._openings.entered(index, name, error)

    def _on_spawned(self, index: int) -> None:
        self._with_spawned.add(index)
        if self._with_spawned >= self._roster.present:
            self.spawned()

    def _on_state(self, index: int, **state: Any) -> None:
        if state["is_stopped"] or not self._ending:  # a state from before the stop may arrive after it
            self._flight.report(index, state)

    def _on_progress(self, index: int, report: dict[str, Any]) -> None:
        self._status.progressed(index, report)

    def _on_failed(self, index: int, reason: str) -> None:
        is_first = self.failure is None
        self._fail(reason)
        if is_first and self._t0 is not None:
            # A player that cannot record receives nothing, either: to wait for what is in flight would be useless.
            self._deadline, self._cutting = min(self._deadline, now() + _FAILED_PATIENCE), reason
            gevent.spawn(self._finished)

    def _on_finished(self, index: int, **end: Any) -> None:
        self._ends[index] = end

    # --- the run ----------------------------------------------------------------------------------------------------

    def _direct(self) -> None:
        try:
            self._wait_for_logins()
            self._status.enter("provision")
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
        timeout = setup_timeout(self._population.size) + self._spawning
        online = self._population.online
        if not self._wait(lambda: len(online) >= self._awaited(), timeout):
            count = f"{len(online)} of {self._awaited()} devices were online after {timeout:.0f} s"
            text = f"{count} ({self._population.trouble or 'Locust did not start more users'})"
            if not online:
                raise RunError(text)
            self._warn(text)

    def _awaited(self) -> int:
        """Return the count of devices that must be online before the plan begins."""
        population = self._population
        is_settled = now() - self._roster.lost_at >= _SETTLE_SECONDS and self._roster.losses and population.leased
        return population.leased if self._has_spawned or is_settled else population.size

    def spawned(self) -> None:
        """Do not wait for more users: Locust has started as many as it will start before the plan begins."""
        self._has_spawned = True
        self._changed.set()

    def _provision(self, creates: bool) -> None:
        """Let the first online member of each group and chatroom create it, or all others join it."""
        is_online = np.zeros(self._population.size, np.uint8)
        is_online[list(self._population.online)] = 1
        self._provisioned.clear()
        self._send_all("provision", creates=creates, online=np.packbits(is_online).tobytes())
        if not self._wait(
            lambda: self._provisioned >= self._roster.present, setup_timeout(len(self._plan.conversations))
        ):
            step = "create every group" if creates else "let every device into its groups and chatrooms"
            raise RunError(f"the server did not {step} in time")

    def _play(self) -> None:
        """Play the plan, for the scenario's duration."""
        for index in sorted(self._roster.present):
            self._roster.measure_clock(index)
        head_start = _REMOTE_HEAD_START if self._roster.are_remote else _HEAD_START
        t0 = self._t0 = now() + head_start
        self._status.started = datetime.fromtimestamp(datetime.now(UTC).timestamp() + head_start, UTC).isoformat()
        self._cpu = time.process_time()
        self._status.enter("play")
        players = sorted(self._roster.present)
        for index in players:
            absent = self._population.free if index == players[0] else []
            self._send(index, "play", t0=t0 + self._roster.ahead(index), absent=absent)
        self._announce(self._population.free, are_present=False)
        for index in self._roster.waiting():  # they came while the others created groups
            gevent.spawn(self._bring_in, index)
        end = t0 + self.job.scenario.duration
        if self.job.has_tasks:
            seconds = f"{self.job.scenario.duration:g} s"
            logger.info(f"tasks run for {seconds} (-t, or the duration of the scenario)")
        while (left := end - now()) > 0:
            gevent.sleep(min(left, _WATCH_SECONDS))
            self._population.watch()
        if self.job.has_tasks:
            logger.info(f"tasks end, because {seconds} have passed (-t, or the duration of the scenario)")
        self._is_played = True

    def _bring_in(self, index: int) -> None:
        """Let a player that came late take part."""
        assert self._t0 is not None
        self._roster.measure_clock(index)
        if not self._ending and not self.is_lost(index):
            self._roster.bring_in(index)
            self._send(index, "play", t0=self._t0 + self._roster.ahead(index), absent=[])
            self._send(index, "users", numbers=self._population.free, are_present=False)

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self, reason: str = "", *, is_complete: bool = False, patience: float = math.inf) -> None:
        """Stop sending, wait for what is in flight (`drain` seconds at most), and write the final status.

        The devices remain online until the caller stops them. A second call waits for the end of the first.

        reason: why the test ends, if it ends before the plan is played.
        is_complete: whether this end is what the tester planned, so the run is complete although it is shorter.
        patience: seconds that the wait may take at most.
        """
        self._deadline = min(self._deadline, now() + patience)
        if patience < math.inf:
            self._cutting = self._cutting or reason
        self._changed.set()
        if self._ending:
            self._ended.wait()
            return
        self._ending = True
        self._stopped = now()
        ended = {"reason": reason, "phase": self.phase}
        if not reason or self._is_played:
            ended = {"reason": "the plan was played", "phase": "done"}
        elif not is_complete:
            self._fail(reason)
        try:
            for index in self._roster.present:
                self._send(index, "stop", at=self._stopped + self._roster.ahead(index))
            if self._director is not gevent.getcurrent():
                self._director.kill()
            if self._t0 is not None:
                self._wait_until_sent()
                self._drain()
            self._deadline = now() + _LAST_PROBING if self._cutting else math.inf
            self._roster.finish_clocks()
            self._deadline = math.inf
            self._status.stop()
            self._send_all("finish")
            timeout = _HURRIED_FINISH if self._cutting else _FINISH_TIMEOUT
            self._wait(lambda: self._ends.keys() >= self._roster.present, timeout, raises=False)
            for index in self._roster.present - self._ends.keys():
                self.lose(index, f"it did not report its end within {timeout:.0f} s")
            self._conclude(ended)
        finally:
            self._population.close()
            self._ended.set()

    def _wait_until_sent(self) -> None:
        """Wait until all messages that were due so far are sent.

        A player may be late; its lateness must not remove messages from the run.
        """
        self._flight.forget()
        self._wait(lambda: self._flight.is_sent, self.job.scenario.drain, raises=False)

    def _drain(self) -> None:
        self._status.enter("drain")
        self._flight.forget()
        since, drain = now(), self.job.scenario.drain
        if not self._wait(self._is_drained, drain, raises=False) and now() - since < drain:
            assert self._t0 is not None
            self._undecided_since = max(0.0, now() - self._t0 - drain)
            self._fail(self._cutting)
        population = self._population
        missing = population.expected - len(population.online)
        if not population.online and missing:
            self._fail(f"the server went away: all {population.leased} devices are offline ({population.trouble})")
        elif missing > 0:
            self._warn(f"{missing} of {population.leased} devices were offline at the end ({population.trouble})")

    def _is_drained(self) -> bool:
        """Return whether nothing is in flight. After the loss of a player nobody knows."""
        return not self._roster.present if self._roster.losses else self._flight.is_over

    def _played(self) -> float:
        """Return how many seconds of the plan were played."""
        if self._t0 is None or self._stopped is None:
            return 0.0
        return max(0.0, min(self._stopped - self._t0, self.job.scenario.duration))

    def _conclude(self, ended: dict[str, str]) -> None:
        for end in self._ends.values():
            if end["failure"]:
                self._fail(end["failure"])
        if self._t0 is None:
            self._fail("the load was stopped before sending began")
        if self.failure is None and self._incomplete is not None:
            self.failure, ended = self._incomplete, ended | {"phase": min(self._roster.losses.values())[1]}
        if self.failure is not None:
            ended = {"reason": self.failure, "phase": ended["phase"] if ended["phase"] != "done" else self.phase}
        entries, warnings = conclude(self._ends, self._roster, self._population, self._own_cpu())
        for text in warnings:
            self._warn(text)
        self._status.manifest |= {**entries, "warnings": self.warnings}
        clocks = self._roster.corrections
        phase = self.phase if self.failure is not None else "done"
        undecided = {} if self._undecided_since is None else {"undecided_since": self._undecided_since}
        self._status.enter(phase, played=self._played(), ended=ended, clocks=clocks, **undecided)

    def _own_cpu(self) -> float:
        """Return the CPU time of this process per second since the start of the plan, unless a player counts it."""
        if self._t0 is None or not self._roster.are_remote:
            return 0.0
        return (time.process_time() - self._cpu) / max(now() - self._t0, 1e-9)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _send_all(self, kind: str, **values: Any) -> None:
        for index in sorted(self._roster.present):
            self._send(index, kind, **values)

    def _warn(self, text: str) -> None:
        logger.warning(text)
        self.warnings.append(text)

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
