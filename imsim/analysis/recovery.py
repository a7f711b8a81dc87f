"""The recovery time of a fault: how long until deliveries are as fast as before it.

The recovery time starts with the *start* of the fault, as an operator counts an incident: it includes the outage. It
ends when the p95 of the delivery latency over a sliding window is within a factor of its level before the fault:

- The level before is the p95 of the deliveries that began to wait after the warm-up and had arrived before the first
  fault.
- A window begins at each moment after the start of the fault. It contains every delivery that is on its way at some
  time in the window. So a message that waits for a resend delays the recovery until it arrives, and messages that the
  fault did not affect do not hide it. A message that never arrives counts only where its wait began; `lost` counts it.
- The recovery is the first window within the limit after all windows that exceed the limit while the fault lasts. A
  window ends early where the next fault begins or the sending stops. A window shorter than half its length is ignored.

The time is 0 if no window exceeds the limit, and infinite if no window is within the limit again before the run's
duration ends. A simulated run has the faults of its scenario. A live run has the faults in its manifest's entry
`faults`, a list of [since, until, name] in seconds, because a scenario's faults happen in the simulation only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imsim.analysis import breakdown
from imsim.analysis.latency import counted_deliveries, quantile
from imsim.core.exceptions import UsageError
from imsim.results import RunData, World

if TYPE_CHECKING:
    import pandas as pd

#: The start and the end of a fault (seconds from the run's start), and its name.
Fault = tuple[float, float, str]

FACTOR = 2.0
_PERCENT = 95
_MESSAGES = 60  # mean number of messages in a window, unless the window would exceed this share of the run
_LONGEST = 0.1
_LEAST_BEFORE = 20  # deliveries; fewer have no p95

#: The cause if no wait outlasted the fault by more than the limit: not a policy.
THE_FAULT = "the fault itself"


@dataclass(frozen=True)
class Recovery:
    """The recovery from one fault. Times are in seconds from the run's start, latencies in ms."""

    name: str
    at: float
    until: float
    before: float  # p95
    limit: float
    time: float  # seconds from `at`; infinite if it never recovered, nan without a level before the fault
    slow: int  # deliveries beyond the limit that were under way between `at` and the recovery
    waits: Mapping[str, float] = field(default_factory=dict)  # ms, the mean over slow deliveries; the longest first

    @property
    def recovered_at(self) -> float:
        """The time of the recovery, in seconds from the run's start."""
        return self.at + self.time

    @property
    def waited_for(self) -> str | None:
        """The longest wait of the slow deliveries after the end of the fault; None if it is unknown."""
        return next(iter(self.waits), None)

    @property
    def outcome(self) -> str:
        """The result in a few words."""
        if math.isnan(self.time):
            return "recovery unknown"
        return "not recovered" if math.isinf(self.time) else f"recovered after {self.time:.3g} s"

    def __str__(self) -> str:
        text = f"{self.name} at {self.at:g} s: {self.outcome}"
        if math.isnan(self.time):
            return f"{text}, because too few deliveries arrived before the fault"
        text += f" (delivery p95 within {self.limit:,.3g} ms, before {self.before:,.3g} ms)"
        if self.waited_for is None or not self.slow:
            return text
        ms = self.waits[self.waited_for]
        each = "" if math.isnan(ms) else f", {ms:,.0f} of {sum(self.waits.values()):,.0f} ms on average"
        return f"{text}; {self.slow:,} slow deliveries waited for {self.waited_for}{each}"


def faults_of(run: RunData) -> list[Fault]:
    """Return the faults of a run in the order of time."""
    if run.world == World.LIVE:
        return sorted((float(since), float(until), str(name)) for since, until, name in run.manifest.get("faults", ()))
    return sorted((fault.at, fault.at + getattr(fault, "duration", 0.0), _name(fault)) for fault in run.scenario.faults)


def recoveries(
    run: RunData, *, window: float | None = None, factor: float = FACTOR, faults: Sequence[Fault] | None = None
) -> list[Recovery]:
    """Return the recovery from each fault, in the order of time. See `Run.recovery`."""
    if not isinstance(factor, int | float) or not 1 < factor < math.inf:
        raise UsageError(f"factor: expected a number above 1, such as {FACTOR:g} (got {factor!r})")
    if window is not None and not (isinstance(window, int | float) and 0 < window < math.inf):
        raise UsageError(f"window: expected a number of seconds above 0 (got {window!r})")
    faults = faults_of(run) if faults is None else sorted(faults)
    if not faults:
        return []
    waits = _Waits.of(run)
    before = waits.level(_ns(faults[0][0]))
    limit = factor * before
    width = _ns(_width(run, faults[0][0]) if window is None else window)
    duration = _ns(run.scenario.duration)
    ends = np.array(sorted({duration, *(at for at in (_ns(fault[0]) for fault in faults) if at < duration)}), np.int64)
    found = []
    for at, until, name in faults:
        back = waits.back(_ns(at), _ns(until), limit, width, ends)
        time = (back - _ns(at)) / 1e9
        slow = waits.between(_ns(at), back, limit) if time else np.zeros(len(waits.ms), bool)
        why = _why(run, waits.number[slow], at, until, at + time, limit) if slow.any() else {}
        found.append(Recovery(name, at, until, before, limit, time, int(slow.sum()), why))
    return found


def recovery_time(run: RunData) -> float:
    """Return the longest recovery time in seconds; nan without faults, or if the level before is unknown."""
    return max((one.time for one in recoveries(run)), default=math.nan)


def frame(found: Sequence[Recovery]) -> pd.DataFrame:
    """Return a frame with a row for each fault."""
    import pandas as pd

    rows = [_row(one) for one in found]
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype({"slow": int, "waited_for": object})


_COLUMNS = (
    "fault", "at_seconds", "until_seconds", "before_ms", "limit_ms", "recovery_seconds", "slow", "waited_for",
)  # fmt: skip


def _row(one: Recovery) -> dict[str, object]:
    values = (one.name, one.at, one.until, one.before, one.limit, one.time, one.slow, one.waited_for)
    return dict(zip(_COLUMNS, values, strict=True))


def to_json(one: Recovery) -> dict[str, object]:
    """Return the row as plain values; None for a number that is infinite or unknown."""
    return {name: _finite(value) if isinstance(value, float) else value for name, value in _row(one).items()}


@dataclass(frozen=True)
class _Waits:
    """The deliveries that have a latency: their starts and arrivals in ns, and their latencies in ms.

    A message that never arrived has its start as its arrival, and an infinite latency. `number` counts the deliveries
    that arrived.
    """

    since: NDArray[np.int64]
    came: NDArray[np.int64]
    ms: NDArray[np.float64]
    number: NDArray[np.int64]

    @classmethod
    def of(cls, run: RunData) -> _Waits:
        rows = counted_deliveries(run)
        since = rows["since"].to_numpy(np.int64)
        has_come = rows["delivered_at"].notna().to_numpy(bool)
        came = np.where(has_come, rows["delivered_at"].fillna(0).to_numpy(np.int64), since)
        ms = np.where(has_come, (came - since) / 1e6, np.inf)
        return cls(since, came, ms, np.cumsum(has_come) - 1)

    def level(self, until: int) -> float:
        """Return the p95 of the deliveries that arrived before a time; nan if they are too few."""
        ms = np.sort(self.ms[(self.came < until) & np.isfinite(self.ms)])
        return quantile(ms, _PERCENT) if len(ms) >= _LEAST_BEFORE else math.nan

    def back(self, at: int, until: int, limit: float, width: int, ends: NDArray[np.int64]) -> float:
        """Return when the windows that begin from `at` on are within the limit again, in ns.

        ends: no window extends beyond the next of these times.
        """
        if math.isnan(limit):
            return math.nan
        # The content of a window changes only where a delivery leaves or enters it.
        starts = np.unique(np.concatenate(([at], self.came + 1, self.since - width + 1)))
        starts = starts[(starts >= at) & (starts < ends[-1])]
        following = ends[np.searchsorted(ends, starts, "right")]
        end = np.minimum(starts + width, following)
        says = end - starts >= width / 2
        starts, end, following = starts[says], end[says], following[says]
        is_slow = self.ms > limit
        slow = _under_way(self.since[is_slow], self.came[is_slow], starts, end)
        every = _under_way(self.since, self.came, starts, end)
        # Counted this way, p95 is the smallest latency that 95 in 100 do not exceed.
        is_beyond = slow * 100 > every * (100 - _PERCENT)
        lasts = (starts <= until) & (following == following[:1])
        first = int(np.max(np.nonzero(is_beyond & lasts)[0], initial=-1)) + 1
        found = starts[first:][(~is_beyond & (every > 0))[first:]]
        return float(found[0]) if len(found) else math.inf

    def between(self, at: int, back: float, limit: float) -> NDArray[np.bool_]:
        """Return which deliveries exceeded the limit and were on their way at some time from `at` to `back`."""
        return np.isfinite(self.ms) & (self.ms > limit) & (self.came >= at) & (self.since < back)


def _under_way(
    since: NDArray[np.int64], came: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the number of waits in each window: those that begin before its end and end after its start."""
    begun: NDArray[np.int64] = np.searchsorted(np.sort(since), ends)
    return begun - np.searchsorted(np.sort(came), starts)


def _why(
    run: RunData, numbers: NDArray[np.int64], at: float, until: float, recovered: float, limit: float
) -> dict[str, float]:
    """Return the mean wait of these slow deliveries in ms, by cause, the longest first.

    Waits count from the end of the fault or, if the run recovered before it, from its start. The cause is the policy
    field that sets the length of the wait, or else the stage.
    """
    if until <= recovered <= until + limit / 1000:
        return {THE_FAULT: math.nan}
    if run.tables.spans is None:
        return {}
    since = until if recovered > until else at
    spans, _ = breakdown.counted_spans(run)
    spans = spans[spans["delivery"].isin(numbers)]
    ms = (spans["end"] - spans["start"].clip(lower=_ns(since))).clip(lower=0) / 1e6
    policy = breakdown.policy_of(run, spans)
    sums = ms.groupby(policy.where(policy != "", breakdown.stage_of(spans))).sum() / len(numbers)
    return {str(name): float(value) for name, value in sums.sort_values(ascending=False).items() if value > 0}


def _width(run: RunData, until: float) -> float:
    """Return a round number of seconds in which 60 messages were sent on average before the first fault."""
    duration = float(run.scenario.duration)
    sent = int((run.messages["intended_at"] < _ns(until)).sum())
    least = _LONGEST * duration
    if until:
        least = min(_MESSAGES * until / max(sent, 1), least)
    power = 10.0 ** math.floor(math.log10(least))
    return min(next(power * step for step in (1, 2, 5, 10) if power * step >= least * (1 - 1e-9)), duration / 5)


def _name(fault: object) -> str:
    name = str(getattr(fault, "kind", "")).replace("_", " ")
    sides = [getattr(fault, side, "") for side in ("target", "other")]
    return name + "".join(f" {side}" for side in sides if side and side not in name)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
