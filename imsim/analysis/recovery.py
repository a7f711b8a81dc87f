"""How long after a fault deliveries are as fast again as before it.

Recovery time runs from the *start* of the fault, as an operator counts an incident: the outage itself is part of it. It
ends where the p95 of the delivery latency over a sliding window is within a factor of its level before:

- The level before is the p95 of the deliveries that began to wait between the warm-up's end and the first fault, and
  had come by then.
- A window begins at each moment after the fault's start. It holds every delivery that is under way at some time in it.
  So a message that waits to be sent again delays the recovery until it has come, and messages that were never hit do
  not hide it. A message that never comes counts only where its wait began: it is lost, and `lost` counts it.
- The recovery is the first window within the limit behind all that exceed it while the fault lasts. A window ends where
  the next fault begins or nobody sends any more; below half of its length it says nothing.

The time is 0 where no window exceeds the limit, and infinite where none is back within it before the run's duration
ends. Faults are the scenario's in a simulated run; a live run has those in its manifest's entry `faults`, a list of
[since, until, name] (seconds), as a scenario's faults happen in the simulation only.
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

#: When a fault began, when it was over (seconds from the run's start), and its name.
Fault = tuple[float, float, str]

FACTOR = 2.0
_PERCENT = 95
_MESSAGES = 60  # sent in a window, on average, unless it would be longer than this share of the run
_LONGEST = 0.1
_LEAST_BEFORE = 20  # deliveries; fewer have no p95

#: In place of a policy: no wait outlasted the fault by more than the limit.
THE_FAULT = "the fault itself"


@dataclass(frozen=True)
class Recovery:
    """Of one fault. Times in seconds from the run's start, latencies in ms."""

    name: str
    at: float
    until: float
    before: float  # p95
    limit: float
    time: float  # seconds from `at`; infinite if it never recovered, nan without a level before the fault
    slow: int  # deliveries beyond the limit that were under way between `at` and the recovery
    waits: Mapping[str, float] = field(default_factory=dict)  # ms, each slow delivery's mean; the longest first

    @property
    def recovered_at(self) -> float:
        return self.at + self.time

    @property
    def waited_for(self) -> str | None:
        """What the slow deliveries waited for longest once the fault was over; None if nothing shows it."""
        return next(iter(self.waits), None)

    @property
    def outcome(self) -> str:
        if math.isnan(self.time):
            return "recovery unknown"
        return "not recovered" if math.isinf(self.time) else f"recovered after {self.time:.3g} s"

    def __str__(self) -> str:
        text = f"{self.name} at {self.at:g} s: {self.outcome}"
        if math.isnan(self.time):
            return f"{text}, as too few deliveries came before it"
        text += f" (delivery p95 within {self.limit:,.3g} ms, before {self.before:,.3g} ms)"
        if self.waited_for is None or not self.slow:
            return text
        ms = self.waits[self.waited_for]
        each = "" if math.isnan(ms) else f", {ms:,.0f} of {sum(self.waits.values()):,.0f} ms on average"
        return f"{text}; {self.slow:,} slow deliveries waited for {self.waited_for}{each}"


def faults_of(run: RunData) -> list[Fault]:
    """In the order of time."""
    if run.world == World.LIVE:
        return sorted((float(since), float(until), str(name)) for since, until, name in run.manifest.get("faults", ()))
    return sorted((fault.at, fault.at + getattr(fault, "duration", 0.0), _name(fault)) for fault in run.scenario.faults)


def recoveries(
    run: RunData, *, window: float | None = None, factor: float = FACTOR, faults: Sequence[Fault] | None = None
) -> list[Recovery]:
    """Of each fault, in the order of time. See `Run.recovery`."""
    if not factor > 1 or not math.isfinite(factor):
        raise UsageError(f"factor: expected a number above 1, as in {FACTOR:g}, got {factor!r}")
    if window is not None and not 0 < window < math.inf:
        raise UsageError(f"window: expected a number of seconds above 0, got {window!r}")
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
    """The longest of all faults, in seconds; nan without faults, or if the level before is unknown."""
    return max((one.time for one in recoveries(run)), default=math.nan)


def frame(found: Sequence[Recovery]) -> pd.DataFrame:
    """A row for each fault."""
    import pandas as pd

    columns = ("at", "until", "before", "limit", "time", "slow", "waited_for")
    rows = [{"fault": one.name, **{column: getattr(one, column) for column in columns}} for one in found]
    return pd.DataFrame(rows, columns=["fault", *columns]).astype({"slow": int, "waited_for": object})


def to_json(one: Recovery) -> dict[str, object]:
    """Plain values; None for a time that is infinite or not known."""
    return {
        "fault": one.name,
        "at": one.at,
        "until": one.until,
        "before_ms": _finite(one.before),
        "limit_ms": _finite(one.limit),
        "time": _finite(one.time),
        "slow": one.slow,
        "waited_for": one.waited_for,
    }


@dataclass(frozen=True)
class _Waits:
    """The deliveries that count: when each began to wait and when it came (ns; one that never did, where it began),
    its latency (ms, infinite), and its number among those that came."""

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
        """The p95 of what had come by then."""
        ms = np.sort(self.ms[(self.came < until) & np.isfinite(self.ms)])
        return quantile(ms, _PERCENT) if len(ms) >= _LEAST_BEFORE else math.nan

    def back(self, at: int, until: int, limit: float, width: int, ends: NDArray[np.int64]) -> float:
        """When the windows that begin from `at` on are back within the limit (ns). `ends`: none goes beyond the next
        of these."""
        if math.isnan(limit):
            return math.nan
        # Windows change only where a delivery leaves or enters them.
        starts = np.unique(np.concatenate(([at], self.came + 1, self.since - width + 1)))
        starts = starts[(starts >= at) & (starts < ends[-1])]
        following = ends[np.searchsorted(ends, starts, "right")]
        end = np.minimum(starts + width, following)
        says = end - starts >= width / 2
        starts, end, following = starts[says], end[says], following[says]
        is_slow = self.ms > limit
        slow = _under_way(self.since[is_slow], self.came[is_slow], starts, end)
        every = _under_way(self.since, self.came, starts, end)
        # Counted so, p95 is the least latency that 95 in 100 do not exceed.
        is_beyond = slow * 100 > every * (100 - _PERCENT)
        lasts = (starts <= until) & (following == following[:1])
        first = int(np.max(np.nonzero(is_beyond & lasts)[0], initial=-1)) + 1
        found = starts[first:][(~is_beyond & (every > 0))[first:]]
        return float(found[0]) if len(found) else math.inf

    def between(self, at: int, back: float, limit: float) -> NDArray[np.bool_]:
        """Which came later than the limit and were under way at some time between the two."""
        return np.isfinite(self.ms) & (self.ms > limit) & (self.came >= at) & (self.since < back)


def _under_way(
    since: NDArray[np.int64], came: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The number of waits in each window: all that begin before its end, less those that are over before its start."""
    begun: NDArray[np.int64] = np.searchsorted(np.sort(since), ends)
    return begun - np.searchsorted(np.sort(came), starts)


def _why(
    run: RunData, numbers: NDArray[np.int64], at: float, until: float, recovered: float, limit: float
) -> dict[str, float]:
    """What these slow deliveries waited for, in ms on average: from the fault's end on or, if they recovered before it,
    from its start. Each wait is named by the policy field that sets its length, or else by its stage."""
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
    """A round number of seconds in which 60 messages were sent on average before the first fault."""
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
