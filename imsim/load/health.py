"""The health of the load generator, and the judgement whether a run's latencies are those of the server.

A latency that a load test reports contains two delays of the generator itself: a message is sent later than intended,
and a delivery is recorded later than it arrived. `judge` compares these delays with the reported latencies. A slow
server makes the latencies longer and leaves the delays small; a slow generator makes both longer.

`sampler` measures in a Locust process. This module has the data and the judgement, without gevent and without Locust,
so the parent process and the master can judge.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

#: The run is invalid if the generator's own delays are more than this share of a latency. The latency of the server
#: alone would then be at most three quarters of what is reported.
LARGEST_SHARE = 0.25

#: Delays up to this many ms never make a run invalid, by percentile. A healthy generator has such delays on a computer
#: that it shares with other programs: it waits for a CPU now and then. Beyond the smaller ones there is a warning. On a
#: quiet computer with two cores, shared with the server only, they were 0.1 ms at p50 and 1 to 4 ms at p99; beside two
#: programs that used all of both cores, 0.1 to 0.6 ms and 5 to 12 ms.
FLOORS = {"p50": 3.0, "p95": 15.0, "p99": 25.0}
NOTED = {"p50": 1.0, "p95": 3.0, "p99": 5.0}

#: If a percentile falls among deliveries that never arrived, a delay of this many ms makes the run invalid. A generator
#: that pauses so long can lose connections and messages itself.
LONGEST_PAUSE = 1000.0

#: The generator was short of CPU time if it waited for a CPU this share of the time, or worked this share of the time.
_WAITING, _STOLEN, _BUSY = 0.1, 0.05, 0.8

_SMALLEST = 1e-5  # seconds; shorter delays have the same bucket
_GROWTH = math.log(1.05)  # a bucket's upper bound is 5 % above its lower one
_QUANTILE = 1.28  # of the normal distribution, at 10 %
_PERCENTS = {"p50": 50.0, "p95": 95.0, "p99": 99.0}


class Delays:
    """A histogram of delays with constant memory. Its percentiles are within 2.5 %; its maximum is exact.

    Delays are in seconds; a negative one counts as 0. Percentiles are in ms.
    """

    def __init__(self) -> None:
        self.counts: dict[int, float] = {}  # weight of each bucket, by its number
        self.longest = 0.0  # seconds

    @classmethod
    def of(cls, seconds: NDArray[np.float64] | Sequence[float]) -> Self:
        """Return the histogram of these delays."""
        delays = cls()
        values = np.asarray(seconds, np.float64)
        if len(values):
            numbers = np.log(np.maximum(values, _SMALLEST) / _SMALLEST) // _GROWTH
            found, counts = np.unique(numbers.astype(np.int64), return_counts=True)
            delays.counts = dict(zip(found.tolist(), counts.astype(float).tolist(), strict=True))
            delays.longest = max(0.0, float(values.max()))
        return delays

    @classmethod
    def merged(cls, parts: Sequence[Delays]) -> Self:
        """Return one histogram of all delays in `parts`."""
        delays = cls()
        for part in parts:
            for number, weight in part.counts.items():
                delays.counts[number] = delays.counts.get(number, 0.0) + weight
            delays.longest = max(delays.longest, part.longest)
        return delays

    def add(self, seconds: float, weight: float = 1.0) -> None:
        """Add a delay, `weight` times."""
        number = int(math.log(seconds / _SMALLEST) // _GROWTH) if seconds > _SMALLEST else 0
        self.counts[number] = self.counts.get(number, 0.0) + weight
        if seconds > self.longest:
            self.longest = seconds

    @property
    def weight(self) -> float:
        """The sum of the weights; without weights, the count of delays."""
        return sum(self.counts.values())

    def percentile(self, percent: float) -> float:
        """Return a percentile in ms; 0 without delays."""
        values, weights = self._columns()
        return _percentile(values, weights, percent)

    def plus(self, other: Delays, percent: float) -> float:
        """Return a percentile, in ms, of the sum of two independent delays: one of these and one of `other`."""
        if not self.counts or not other.counts:
            return (self if self.counts else other).percentile(percent)
        (values, weights), (others, other_weights) = self._columns(), other._columns()
        sums, products = np.add.outer(values, others).ravel(), np.multiply.outer(weights, other_weights).ravel()
        order = np.argsort(sums)
        return _percentile(sums[order], products[order], percent)

    def to_json_dict(self) -> dict[str, Any]:
        """Return p50, p95, p99 and max in ms, and the histogram."""
        found = {name: round(self.percentile(percent), 3) for name, percent in _PERCENTS.items()}
        buckets = {str(number): round(weight, 2) for number, weight in sorted(self.counts.items())}
        return {**found, "max": round(self.longest * 1e3, 3), "count": round(self.weight), "buckets": buckets}

    @classmethod
    def from_json_dict(cls, found: Mapping[str, Any]) -> Self:
        """Return the histogram that `to_json_dict` described."""
        delays = cls()
        delays.counts = {int(number): float(weight) for number, weight in found["buckets"].items()}
        delays.longest = found["max"] / 1e3
        return delays

    def _columns(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the middle of each bucket in ms, ascending, and the weights."""
        numbers = sorted(self.counts)
        middles = np.exp((np.array(numbers, np.float64) + 0.5) * _GROWTH) * _SMALLEST * 1e3
        return np.minimum(middles, self.longest * 1e3), np.array([self.counts[number] for number in numbers])


def _percentile(values: NDArray[np.float64], weights: NDArray[np.float64], percent: float) -> float:
    if not len(values):
        return 0.0
    passed = np.cumsum(weights)
    return float(values[min(np.searchsorted(passed, passed[-1] * percent / 100), len(values) - 1)])


@dataclass
class Health:
    """The health of one Locust process, from the end of the warm-up to the end of the drain.

    receiving: how long a socket that has data waits until the process has read it, over time.
    receiving_by_message: the same, over what was recorded: moments in which much arrives count for more.
    timer: how late the event loop's timers are.
    lateness: from the intended time of each message until it was sent.
    backlog: the largest count of messages that were due and not yet sent.
    cpu: the process's CPU time, as a share of one core.
    waiting: the share of the time in which the main thread was ready to run and got no CPU; None if not known.
    steal: the share of the computer's CPU time that its hypervisor gave to others; None if not known.
    switches: involuntary context switches of the main thread per second; None if not known.
    series: what happened second by second (or in longer steps, `seconds`), from the start of the plan.
    """

    seconds: float = 0.0
    receiving: Delays = field(default_factory=Delays)
    receiving_by_message: Delays = field(default_factory=Delays)
    timer: Delays = field(default_factory=Delays)
    lateness: Delays = field(default_factory=Delays)
    backlog: int = 0
    cpu: float = 0.0
    waiting: float | None = None
    steal: float | None = None
    switches: float | None = None
    series: dict[str, Any] = field(default_factory=dict)

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain values for the manifest."""
        histograms = {name: getattr(self, name).to_json_dict() for name in _HISTOGRAMS}
        return {name: histograms.get(name, getattr(self, name)) for name in asdict(self)}

    @classmethod
    def from_json_dict(cls, found: Mapping[str, Any]) -> Self:
        """Return the health that `to_json_dict` described."""
        histograms = {name: Delays.from_json_dict(found[name]) for name in _HISTOGRAMS}
        return cls(**{**found, **histograms})

    @property
    def delays(self) -> dict[str, float]:
        """The generator's delays of a message in ms, from its intended time until it was sent and from its arrival
        until it was recorded, as p50, p95 and p99."""
        return delays_of([self])

    @property
    def cause(self) -> tuple[str, str]:
        """Why the process was slow, and the remedy."""
        if self.steal is not None and self.steal >= _STOLEN:
            return (
                f"the hypervisor gave {self.steal:.0%} of the CPU time to other machines",
                "run it on a machine with CPUs of its own",
            )
        if self.waiting is not None and self.waiting >= _WAITING:
            return (
                f"it waited for a CPU {self.waiting:.0%} of the time",
                "stop other programs there, or run it on a computer of its own",
            )
        if self.cpu >= _BUSY:
            return f"it used {self.cpu:.0%} of a core", "lower the load, or use more workers"
        longest = max(self.receiving.longest, self.lateness.longest)
        return (
            f"it paused for up to {longest * 1e3:,.0f} ms",
            "look for code that blocks its event loop, or a computer that was suspended or slowed down",
        )


_HISTOGRAMS = ("receiving", "receiving_by_message", "timer", "lateness")


@dataclass(frozen=True)
class Judgement:
    """Whether the latencies of a run are those of the server.

    reason: why not, in one line; "" if they are. warnings: delays of the generator that are worth knowing.
    """

    valid: bool
    reason: str = ""
    warnings: tuple[str, ...] = ()


def judge(workers: Mapping[int, Health], latencies: Mapping[str, float | None]) -> Judgement:
    """Judge a run by the health of its workers, by their numbers, and by its latencies.

    latencies: p50, p95 and p99 of the deliveries after the warm-up, in ms (any of them may be missing). None means that
        the percentile falls among deliveries that never arrived; nan that there was nothing to measure.
    """
    if not workers:
        return Judgement(False, "no Locust process lived to report its delays: they may explain any latency")
    delays = delays_of(workers.values())
    found = [_Part(name, delays[name], latency) for name, latency in latencies.items() if name in delays]
    parts = sorted((part for part in found if part.is_large), key=lambda part: part.share)
    if not parts:
        return Judgement(True)
    spoilt = [part for part in parts if part.delay > part.floor]
    if not spoilt:
        return Judgement(True, "", (f"the generator explains {parts[-1]}, so do not compare such short latencies",))
    worst = spoilt[-1]
    number, slowest = max(workers.items(), key=lambda one: one[1].delays[worst.name])
    cause, remedy = slowest.cause
    which = f"worker {number}: {cause}" if len(workers) > 1 else cause
    return Judgement(False, f"the generator, not the server, explains {worst}: {which}; {remedy}")


def workers_of(manifest: Mapping[str, Any]) -> dict[int, Health]:
    """Return the health of each worker in a run's manifest, by its number. A worker that died has none."""
    entries = manifest.get("workers", ())
    return {entry["index"]: Health.from_json_dict(entry["health"]) for entry in entries if entry.get("health")}


@dataclass(frozen=True)
class _Part:
    """The generator's part of a percentile: `delay` of `latency`, in ms."""

    name: str
    delay: float
    latency: float | None

    @property
    def is_lost(self) -> bool:
        return self.latency is None or math.isinf(self.latency)

    @property
    def floor(self) -> float:
        return LONGEST_PAUSE if self.is_lost else FLOORS[self.name]

    @property
    def share(self) -> float:
        if self.latency is None or math.isinf(self.latency):
            return 1.0 if self.delay > LONGEST_PAUSE else 0.0
        return self.delay / self.latency if self.latency > 0 else 0.0

    @property
    def is_large(self) -> bool:
        return self.share > LARGEST_SHARE and self.delay > NOTED[self.name]  # false for nan

    def __str__(self) -> str:
        if self.latency is None or math.isinf(self.latency):
            return f"pauses of {_ms(self.delay)} at {self.name}, which can lose messages"
        part = min(self.delay, self.latency)
        return f"{part / self.latency:.0%} of {self.name} ({_ms(part)} of {_ms(self.latency)})"


def delays_of(workers: Collection[Health]) -> dict[str, float]:
    """Return p50, p95 and p99 in ms of the sum of the delays of sending and receiving.

    The two are independent: a pause delays a message when it is sent, or when it arrives, but rarely the same message
    at both. Receiving counts by message: a burst that arrives within a moment delays many messages, and a pause at a
    time without messages delays none. A short run has few probes. So a percentile of receiving is the lower end of its
    80 % interval: the delays are at least as long as this says, and a run is not invalid by chance.
    """
    lateness = Delays.merged([worker.lateness for worker in workers])
    over_time = Delays.merged([worker.receiving for worker in workers])
    by_message = Delays.merged([worker.receiving_by_message for worker in workers])
    probes = max(over_time.weight, 1.0)
    found = {}
    for name, percent in _PERCENTS.items():
        share = percent / 100
        lower = max(0.0, percent - 100 * _QUANTILE * math.sqrt(share * (1 - share) / probes))
        receiving = by_message if by_message.counts else over_time
        found[name] = max(lateness.percentile(percent), receiving.plus(lateness, lower))
    return found


def largest_backlog(due: NDArray[np.float64], late: NDArray[np.float64]) -> int:
    """Return the largest count of messages that were due and not yet sent, at the moments when one was sent.

    due: the intended times in seconds, ascending. late: the lateness of the first messages of them.
    """
    if not len(late):
        return 0
    sent = due[: len(late)] + late
    # At the moment a message is sent, all later messages that are due wait behind it.
    return int((np.searchsorted(due, sent, side="right") - np.arange(1, len(late) + 1)).max())


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms"
