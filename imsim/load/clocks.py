"""The clocks of the workers: how far each is ahead of the master's, and how well this is known.

Each process measures with its own monotonic clock. On one computer all processes have the same clock. Between two
computers the clocks differ by any amount, and they drift apart by up to about 0.1 ms each second.

The master sends probes to an idle worker. A worker answers each probe with the time of its clock. The answer with the
smallest round trip gives the offset; the error is at most half of that round trip, whatever the two directions took. An
offset that is not larger than its error is not applied: it would only add an error of the estimate to the latencies.

This module is pure: it has no clock and no connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_LARGEST_SHARE = 0.1  # of a latency, beyond which the error of a clock needs a warning


@dataclass(frozen=True, slots=True)
class Offset:
    """How far a worker's clock is ahead of the master's. The true value is between `seconds - error` and
    `seconds + error`.
    """

    seconds: float
    error: float

    @classmethod
    def estimate(cls, probes: Iterable[tuple[float, float, float]]) -> Self | None:
        """Return the offset that these probes show; None without probes.

        A probe is (sent, answered, received): the first and the last by the master's clock, the other by the worker's.
        """
        best = min(probes, key=lambda probe: probe[2] - probe[0], default=None)
        if best is None:
            return None
        sent, answered, received = best
        return cls(answered - (sent + received) / 2, (received - sent) / 2)

    @property
    def is_significant(self) -> bool:
        """Whether the offset is larger than its error."""
        return abs(self.seconds) > self.error

    @property
    def applied(self) -> float:
        """The offset to apply, in seconds: 0 unless it is larger than its error."""
        return self.seconds if self.is_significant else 0.0

    def between(self, other: Offset) -> Offset:
        """Return the offset during the time between this estimate and a later one.

        It covers both estimates, so its error includes a steady drift.
        """
        low = min(self.seconds - self.error, other.seconds - other.error)
        high = max(self.seconds + self.error, other.seconds + other.error)
        return Offset((low + high) / 2, (high - low) / 2)


class Clock:
    """The clock of one worker during a run.

    first: the estimate before the start of the plan; None: unknown.
    is_shared: whether the worker reports that it runs on the master's computer.
    """

    def __init__(self, first: Offset | None, is_shared: bool = False) -> None:
        self._first = self._offset = first
        self._is_shared = is_shared

    def __repr__(self) -> str:
        return f"Clock({self._offset}, is_shared={self._is_shared})"

    def finish(self, last: Offset | None) -> None:
        """Add the estimate after the end of the load, if there is one."""
        if self._first is None:
            self._offset = last
        elif last is not None:
            self._offset = self._first.between(last)

    @property
    def is_known(self) -> bool:
        """Whether there is an estimate."""
        return self._offset is not None

    @property
    def offset(self) -> Offset:
        """The offset between both estimates; 0 without error if the clock is unknown."""
        return self._offset or Offset(0.0, 0.0)

    @property
    def applied(self) -> float:
        """The seconds to add to a time of the master's clock before it is sent to the worker.

        They are those of the first estimate, because times are sent before the last one.
        """
        return self._first.applied if self._first is not None else 0.0

    @property
    def correction(self) -> int:
        """The ns to add to the times that the worker has recorded, in addition to what was applied."""
        rest = self.offset.seconds - self.applied
        return -round(rest * 1e9) if self._is_corrected(rest) else 0

    @property
    def error(self) -> float:
        """The largest error of the worker's times after the correction, in seconds.

        On the master's computer it is 0 unless the estimate shows that the clocks differ.
        """
        if self._is_shared and not self.offset.is_significant:
            return 0.0
        rest = self.offset.seconds - self.applied
        return self.offset.error + (0.0 if self._is_corrected(rest) else abs(rest))

    def _is_corrected(self, rest: float) -> bool:
        return abs(rest) > self.offset.error


def warning_of(error: float, latency: float) -> str | None:
    """Return a warning if the largest error of the clocks is not small against a latency (both in seconds).

    latency: the median latency of deliveries between workers.
    """
    if error <= _LARGEST_SHARE * latency:
        return None
    return (
        f"the clocks of the workers are known to {error * 1e3:.2f} ms, which is not small against the median latency of"
        f" deliveries between workers ({latency * 1e3:.2f} ms); connect the workers to the master by a faster network,"
        " or run them on one computer"
    )
