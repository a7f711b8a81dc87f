"""The measurement of a Locust process's health: how late its event loop reads, and how much CPU time it gets.

The probe is a file descriptor that the kernel makes readable at random, known times (a Linux timerfd). The event loop
reads it as it reads a socket. So the delay of the probe is what a message of a server waits: until the process gets a
CPU, until the loop has finished its current work, and behind the other readable sockets. No thread and no other process
takes part, so neither Python's lock nor the scheduler distorts the times. (A thread that writes time stamps to a pipe
would miss a pause of the whole process, because it pauses too.)
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable
from typing import Any

import gevent
import numpy as np
from numpy.typing import NDArray

from imsim.load.health import Delays, Health, largest_backlog
from imsim.load.timer_file import open_timer, set_timer

_PROBES = 0.020  # seconds, the mean interval of the probes; exponential, so they meet the loop in its usual state
_TIMER = 0.25  # seconds between two measurements of a timer's lag
_STEP = 1.0  # seconds of a point of the series at first
_MOST_POINTS = 600  # of the series; then its steps are made twice as long

now = time.perf_counter


class Sampler:
    """The sampler of one process. `begin` starts it and `report` returns what it found; `stop` ends it.

    recorded: returns how many facts the process has recorded. So the delays are also known by message.
    """

    def __init__(self, recorded: Callable[[], int] = lambda: 0) -> None:
        self._recorded = recorded
        self._health = Health()
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._probe: _Probe | None = None
        self._series = _Series()
        self._from = 0.0
        self._first: _Usage | None = None
        self._taken: list[tuple[list[float], float, int]] = []  # probes that are not counted so far
        self._last = [0.0], 0.0  # the due times of the latest probes, and when they were read
        self._seen = 0

    def begin(self, t0: float, warmup: float = 0.0) -> None:
        """Begin to measure. The plan starts at `t0` (perf_counter), and what counts after `warmup` seconds of it."""
        self._from = t0 + warmup
        self._series.start(t0)
        file = open_timer()
        self._probe = None if file is None else _Probe(file, self._take)
        self._greenlets = [gevent.spawn(self._measure_timer), gevent.spawn(self._measure_usage)]

    def report(self, late: NDArray[np.float64] | None = None, due: NDArray[np.float64] | None = None) -> Health:
        """Return the health so far.

        late: seconds from the intended time of each message to its sending, after the warm-up. due: the intended times
            of the same messages and of those that were never sent.
        """
        self._count()
        health = self._health
        if late is not None:
            health.lateness = Delays.of(late)
            if due is not None:
                health.backlog = largest_backlog(due, late)
        if self._first is not None:
            used = _Usage()
            health.seconds = round(used.at - self._first.at, 3)
            share = used.since(self._first)
            health.cpu = share["cpu"] or 0.0
            health.waiting, health.steal, health.switches = share["waiting"], share["steal"], share["switches"]
        health.series = self._series.to_json_dict()
        return health

    def stop(self) -> None:
        """Stop measuring."""
        gevent.killall(self._greenlets)
        if self._probe is not None:
            self._probe.close()

    def _take(self, dues: list[float], at: float) -> None:
        """Take the probes that were due at these times and read at the time `at`."""
        self._taken.append((dues, at, self._recorded()))

    def _count(self) -> None:
        """Count the probes taken so far. Many at once cost less than each by itself, between messages."""
        taken, self._taken = self._taken, []
        receiving, start = self._health.receiving, self._from
        for dues, at, recorded in taken:
            self._weigh(dues, at, recorded)
            for due in dues:
                if due >= start:
                    receiving.add(at - due)
            self._series.receiving(at, at - dues[0])

    def _weigh(self, dues: list[float], at: float, recorded: int) -> None:
        """Give the facts since the probe before the delays of that probe or of this one, the longer ones.

        A burst is over within a few probes, and after a pause the loop reads the probe in the middle of all that has
        arrived. So facts count as delayed if they were recorded shortly before or after a delayed probe.
        """
        if recorded > self._seen:
            before, before_at = self._last
            chosen, read = (dues, at) if at - dues[0] >= before_at - before[0] else self._last
            weight = (recorded - self._seen) / len(chosen)
            for due in chosen:
                if due >= self._from:
                    self._health.receiving_by_message.add(read - due, weight)
        self._seen, self._last = recorded, (dues, at)

    def _measure_timer(self) -> None:
        times = _Times(_TIMER if self._probe is not None else _PROBES)
        while True:
            gevent.sleep(max(0.0, times.next - now()))
            at = now()
            dues = times.passed(at)
            for due in dues:
                if due >= self._from:
                    self._health.timer.add(at - due)
            if self._probe is None and dues:  # elsewhere than on Linux, where a timer is up to 1 ms late by itself
                self._take(dues, at)

    def _measure_usage(self) -> None:
        before = _Usage()
        gevent.sleep(max(0.0, self._from - now()))
        self._first = before if before.at >= self._from else _Usage()
        while True:
            gevent.sleep(_STEP)
            self._count()
            usage = _Usage()
            self._series.usage(usage.at, usage.since(before))
            before = usage


class _Usage:
    """The resources that the process and the computer have used so far.

    A number is None if the system does not have it.
    """

    def __init__(self) -> None:
        self.at = now()
        self._cpu = time.process_time()
        self._waited = _waited()
        self._steal = _steal()
        self._switches = _switches()

    def since(self, before: _Usage) -> dict[str, float | None]:
        """Return the use since `before`: `cpu` and `waiting` as shares of the time, `steal` of all CPUs' time, and
        `switches` per second."""
        seconds = max(self.at - before.at, 1e-9)
        waiting = steal = switches = None
        if self._waited is not None and before._waited is not None:
            waiting = round((self._waited - before._waited) / seconds, 4)
        if self._steal is not None and before._steal is not None:
            ticks = self._steal[1] - before._steal[1]
            steal = round((self._steal[0] - before._steal[0]) / ticks, 4) if ticks else 0.0
        if self._switches is not None and before._switches is not None:
            switches = round((self._switches - before._switches) / seconds, 1)
        cpu = round((self._cpu - before._cpu) / seconds, 4)
        return {"cpu": cpu, "waiting": waiting, "steal": steal, "switches": switches}


def _waited() -> float | None:
    """Return how many seconds the main thread has waited for a CPU."""
    try:
        with open("/proc/self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _steal() -> tuple[int, int] | None:
    """Return the stolen and all clock ticks of the computer's CPUs."""
    try:
        with open("/proc/stat", "rb") as file:
            ticks = [int(text) for text in file.readline().split()[1:9]]
        return ticks[7], sum(ticks)
    except (OSError, ValueError, IndexError):
        return None


def _switches() -> int | None:
    try:
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (AttributeError, ValueError):
        return None


class _Series:
    """A point for each step of time, with twice as long steps whenever there are too many points."""

    def __init__(self) -> None:
        self._t0 = 0.0
        self._step = _STEP
        self._receiving: list[float] = []  # seconds, the longest delay
        self._usage: list[list[float | None]] = []  # cpu, waiting, steal

    def start(self, t0: float) -> None:
        self._t0 = t0

    def receiving(self, at: float, delay: float) -> None:
        number = self._number(at)
        if number is not None:
            self._receiving[number] = max(self._receiving[number], delay)

    def usage(self, at: float, usage: dict[str, float | None]) -> None:
        number = self._number(at - _STEP / 2)  # the middle of the second that it describes
        if number is not None:
            self._usage[number] = [usage["cpu"], usage["waiting"], usage["steal"]]

    def _number(self, at: float) -> int | None:
        if at < self._t0:
            return None
        while (at - self._t0) >= self._step * _MOST_POINTS:
            self._step *= 2
            self._receiving = [max(pair) for pair in _pairs(self._receiving)]
            self._usage = [_mean(pair) for pair in _pairs(self._usage)]
        number = int((at - self._t0) / self._step)
        while len(self._receiving) <= number:
            self._receiving.append(0.0)
            self._usage.append([None, None, None])
        return number

    def to_json_dict(self) -> dict[str, Any]:
        cpu, waiting, steal = ([point[i] for point in self._usage] for i in range(3))
        longest = [round(delay * 1e3, 2) for delay in self._receiving]
        return {"seconds": self._step, "receiving_max_ms": longest, "cpu": cpu, "waiting": waiting, "steal": steal}


def _pairs(points: list[Any]) -> list[list[Any]]:
    return [points[i : i + 2] for i in range(0, len(points), 2)]


def _mean(points: list[list[float | None]]) -> list[float | None]:
    columns = ([value for value in column if value is not None] for column in zip(*points, strict=True))
    return [round(sum(column) / len(column), 4) if column else None for column in columns]


# --- the probe ------------------------------------------------------------------------------------------------------


class _Times:
    """Random times at which something is due, a Poisson process. They do not depend on when anything is read.

    So a pause meets as many of them as any other time of the same length.
    """

    def __init__(self, mean: float) -> None:
        self._random = random.Random()
        self._rate = 1 / mean
        self.next = now() + self._random.expovariate(self._rate)

    def passed(self, at: float) -> list[float]:
        """Return the times up to `at` since the last call."""
        dues = []
        while self.next <= at:
            dues.append(self.next)
            self.next += self._random.expovariate(self._rate)
        return dues


class _Probe:
    """A timer file in the event loop. `take(dues, at)` receives the times at which it was due, or would have been."""

    def __init__(self, file: int, take: Callable[[list[float], float], None]) -> None:
        self._take = take
        self._times = _Times(_PROBES)
        self._file = file
        set_timer(file, self._times.next)
        self._watcher = gevent.get_hub().loop.io(file, 1)
        self._watcher.start(self._read)

    def _read(self) -> None:
        at = now()
        dues = self._times.passed(at)
        set_timer(self._file, self._times.next)  # now it is no longer readable, so there is nothing to read
        if dues:
            self._take(dues, at)

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        os.close(self._file)
