"""The recovery time of a fault: how long until deliveries are as fast as before it.

The recovery time runs from the *start* of the fault, as an operator counts an incident: it contains the outage itself.
It ends when the p95 of the delivery latency over a sliding window is within a factor of its level before:

- The level before is a p95, too: of the deliveries that began to wait after the warm-up and arrived before the first
  fault.
- Windows begin at every moment after the fault's start. A window holds each delivery that is under way at some time in
  it. So a message that waits to be sent again delays the recovery until it arrives, and messages that the fault never
  hit do not hide it. A message that never arrives counts only where its wait began: `lost` counts it.
- A window ends early where the next fault begins or the run's duration ends. A window shorter than half of the usual
  length does not count.
- While the fault lasts, windows that exceed the limit may follow windows that do not. The recovery is the first window
  within the limit after all of those that exceed it.

The time is 0 if no window exceeds the limit, and infinite if deliveries are still slow when the run ends. It is nan
(unknown) if too few deliveries arrived before the first fault, and if the run ends too soon after the fault: no window
that counts is within the limit, but either none begins after the fault's end, or the run's last 20 deliveries or more
were fast.

The faults of a simulated run are its scenario's. A live run has them in its manifest, in the entry `faults`: a list of
[since, until, name] in seconds. The faults of its scenario happen in the simulation only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imsim.analysis import breakdown
from imsim.analysis.availability import NEVER
from imsim.analysis.latency import Waits, quantile
from imsim.core.exceptions import UsageError
from imsim.results import RunData, World
from imsim.scenario import Scenario
from imsim.scenario.quantities import parse_duration, shown

if TYPE_CHECKING:
    import pandas as pd

#: The start and the end of a fault (seconds from the run's start), and its name.
Fault = tuple[float, float, str]

FACTOR = 2.0
_PERCENT = 95
_MESSAGES = 60  # planned in a window, on average
_LONGEST = 0.1  # share of the duration that a window has at most
_ENOUGH = 20  # deliveries; fewer have no p95

#: `Recovery.waited_for` if no wait outlasted the fault by more than the limit.
THE_FAULT = "the fault itself"


@dataclass(frozen=True)
class Recovery:
    """The recovery from one fault. Times are in seconds from the run's start, latencies in ms.

    before: the p95 before the first fault. limit: a delivery that takes longer is slow. time: seconds from `at`; see
    the module for 0, infinity and nan. slow: the number of slow deliveries that were under way between `at` and the
    recovery. waited_for: the longest wait of these after the fault's end (a policy, a stage, or `THE_FAULT`); None
    if that is not known. waits: ms, the mean over the slow deliveries of each wait, the longest first.
    """

    name: str
    at: float
    until: float
    before: float
    limit: float
    time: float
    slow: int
    waited_for: str | None = None
    waits: Mapping[str, float] = field(default_factory=dict)

    @property
    def recovered_at(self) -> float:
        return self.at + self.time

    @property
    def outcome(self) -> str:
        if math.isnan(self.time):
            return "recovery unknown"
        if not self.time:
            return f"delivery p95 stayed within {self.limit:,.3g} ms"
        return "not recovered" if math.isinf(self.time) else f"recovered after {self.time:.3g} s"

    def __str__(self) -> str:
        text = f"{self.name} at {self.at:g} s: {self.outcome}"
        if math.isnan(self.before):
            return f"{text}: too few deliveries arrived before the first fault"
        if math.isnan(self.time):
            return f"{text}: the run ends too soon after the fault"
        if not self.time:
            return f"{text} (before {self.before:,.3g} ms)"
        text += f" (delivery p95 within {self.limit:,.3g} ms, before {self.before:,.3g} ms)"
        if self.waited_for is None:
            return text
        text += f"; {self.slow:,} slow deliveries waited for {self.waited_for}"
        if self.waited_for in self.waits:
            ms, total = self.waits[self.waited_for], sum(self.waits.values())
            text += f", {ms:,.0f} of {total:,.0f} ms on average"
        return text


def faults_of(run: RunData) -> list[Fault]:
    """Return the faults of a run, in the order of time."""
    if run.world == World.LIVE:
        return _checked(run.manifest.get("faults", ()), "faults of the manifest")
    return sorted((fault.at, fault.at + getattr(fault, "duration", 0.0), _name(fault)) for fault in run.scenario.faults)


def recoveries(
    run: RunData, *, window: object = None, factor: float = FACTOR, faults: Sequence[Fault] | None = None
) -> list[Recovery]:
    """Return the recovery from each fault, in the order of time. See `Run.recovery`."""
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not is_number or not 1 < factor < math.inf:
        raise UsageError(f"factor: expected a number above 1, as in {FACTOR:g}, got {shown(factor)}")
    seconds = None if window is None else _seconds("window", window)
    if seconds == 0:
        raise UsageError("window: expected a duration above 0, as in '2s', got 0")
    faults = faults_of(run) if faults is None else _checked(faults, "faults")
    if not faults:
        return []
    waits = _Waits.of(run)
    before = waits.level(_ns(faults[0][0]))
    limit = factor * before
    width = _ns(_width(run.scenario, faults[0][0]) if seconds is None else seconds)
    duration = _ns(run.scenario.duration)
    ends = np.array(sorted({duration, *(at for at in (_ns(fault[0]) for fault in faults) if at < duration)}), np.int64)
    found = []
    for at, until, name in faults:
        back = waits.back(_ns(at), _ns(until), limit, width, ends)
        time = (back - _ns(at)) / 1e9
        is_slow = waits.between(_ns(at), math.inf if math.isnan(back) else back, limit)
        count = int(is_slow.sum()) if time else 0
        why, of_policies = _why(run, waits.number[is_slow], at, until, at + time, limit) if count else (None, {})
        found.append(Recovery(name, at, until, before, limit, time, count, why, of_policies))
    return found


def recovery_time(run: RunData) -> float:
    """Return the longest recovery time of all faults, in seconds; nan without faults, or if one is unknown and none
    infinite."""
    times = [one.time for one in recoveries(run)]
    if math.inf in times:
        return math.inf
    return math.nan if any(map(math.isnan, times)) else max(times, default=math.nan)


def frame(found: Sequence[Recovery]) -> pd.DataFrame:
    """Return a table with a row for each fault."""
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
    """Return plain values; None for a time that is infinite or unknown."""
    return {name: _finite(value) if isinstance(value, float) else value for name, value in _row(one).items()}


def _checked(faults: object, name: str) -> list[Fault]:
    """Return the faults that a user gave, in the order of time. Raises: UsageError."""
    if isinstance(faults, str) or not isinstance(faults, Sequence):
        raise UsageError(f"{name}: expected a list of (since, until, name), got {shown(faults)}")
    found = []
    for number, fault in enumerate(faults):
        if isinstance(fault, str) or not isinstance(fault, Sequence) or len(fault) != 3:
            raise UsageError(f"{name}[{number}]: expected (since, until, name), as in (5, 8, 'restart'), got {fault!r}")
        since, until = (_seconds(f"{name}[{number}]", time) for time in fault[:2])
        if until < since:
            raise UsageError(f"{name}[{number}]: expected since <= until, got {since:g} s and {until:g} s")
        found.append((since, until, str(fault[2])))
    return sorted(found)


def _seconds(name: str, value: object) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


@dataclass(frozen=True)
class _Waits:
    """The deliveries that count, a row each.

    since: when the wait began (ns). came: when it arrived (ns); `since` if it never did. ms: the latency; infinite if
    it never arrived. number: its number among those that arrived.
    """

    since: NDArray[np.int64]
    came: NDArray[np.int64]
    ms: NDArray[np.float64]
    number: NDArray[np.int64]

    @classmethod
    def of(cls, run: RunData) -> _Waits:
        waits = Waits.of(run)
        has_come = waits.delivered_at != NEVER
        came = np.where(has_come, waits.delivered_at, waits.since)
        return cls(waits.since, came, waits.ms, np.cumsum(has_come) - 1)

    def level(self, until: int) -> float:
        """Return the p95 of the deliveries that arrived before a time (ns); nan of too few."""
        ms = np.sort(self.ms[(self.came < until) & np.isfinite(self.ms)])
        return quantile(ms, _PERCENT) if len(ms) >= _ENOUGH else math.nan

    def back(self, at: int, until: int, limit: float, width: int, ends: NDArray[np.int64]) -> float:
        """Return when the first window is back within the limit (ns); infinity if none is, nan if that is unknown.

        at, until: of the fault. ends: a window ends at the next of these moments, or before.
        """
        if math.isnan(limit):
            return math.nan
        # Windows change only where a delivery leaves or enters them.
        starts = np.unique(np.concatenate(([at], self.came + 1, self.since - width + 1)))
        starts = starts[(starts >= at) & (starts < ends[-1])]
        following = ends[np.searchsorted(ends, starts, "right")]
        end = np.minimum(starts + width, following)
        counts = end - starts >= width / 2
        starts, end, following = starts[counts], end[counts], following[counts]
        is_slow = self.ms > limit
        slow = _under_way(self.since[is_slow], self.came[is_slow], starts, end)
        every = _under_way(self.since, self.came, starts, end)
        # The p95 here is the least latency that 95 in 100 do not exceed.
        is_beyond = slow * 100 > every * (100 - _PERCENT)
        lasts = (starts <= until) & (following == following[:1])
        first = int(np.max(np.nonzero(is_beyond & lasts)[0], initial=-1)) + 1
        found = starts[first:][(~is_beyond & (every > 0))[first:]]
        if len(found):
            return float(found[0])
        fast_at_the_end = self.since > np.max(self.since[is_slow], initial=at)
        is_known = bool((starts >= until).any()) and int(fast_at_the_end.sum()) < _ENOUGH
        return math.inf if is_known else math.nan

    def between(self, at: int, back: float, limit: float) -> NDArray[np.bool_]:
        """Return which deliveries took longer than `limit`, and were under way at some time from `at` to `back`.

        The limit is in ms, the times are in ns.
        """
        return np.isfinite(self.ms) & (self.ms > limit) & (self.came >= at) & (self.since < back)


def _under_way(
    since: NDArray[np.int64], came: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the number of waits under way in each window.

    It is the number of waits that begin before the window's end, minus the number that end before its start.
    """
    begun: NDArray[np.int64] = np.searchsorted(np.sort(since), ends)
    return begun - np.searchsorted(np.sort(came), starts)


def _why(
    run: RunData, numbers: NDArray[np.int64], at: float, until: float, recovered: float, limit: float
) -> tuple[str | None, dict[str, float]]:
    """Return `Recovery.waited_for` and `Recovery.waits` of these slow deliveries.

    A wait counts from the fault's end, or from its start if the recovery came before its end. Its name is the policy
    field that sets its length, or else its stage.
    """
    if until <= recovered <= until + limit / 1000:
        return THE_FAULT, {}
    if not run.has("spans"):
        return None, {}
    since = at if recovered <= until else until
    spans, _ = breakdown.counted_spans(run)
    spans = spans[spans["delivery"].isin(numbers)]
    ms = (spans["end"] - spans["start"].clip(lower=_ns(since))).clip(lower=0) / 1e6
    policy = breakdown.policy_of(run, spans)
    sums = ms.groupby(policy.where(policy != "", breakdown.stage_of(spans))).sum() / len(numbers)
    waits = {str(name): float(value) for name, value in sums.sort_values(ascending=False).items() if value > 0}
    return next(iter(waits), None), waits


def _width(scenario: Scenario, until: float) -> float:
    """Return a round number of seconds for which the scenario plans 60 messages or a little less, by its average rate
    up to a time; at most a tenth of the duration."""
    longest = _LONGEST * float(scenario.duration)
    rate = scenario.population.users * scenario.workload.rate
    planned = scenario.workload.arrivals.expected(until, rate)
    width = min(_MESSAGES * until / planned, longest) if planned else longest
    power = 10.0 ** math.floor(math.log10(width))
    return max(power * step for step in (1, 2, 5) if step == 1 or power * step <= width * (1 + 1e-9))


def _name(fault: object) -> str:
    name = str(getattr(fault, "kind", "")).replace("_", " ")
    sides = [getattr(fault, side, "") for side in ("target", "other")]
    return name + "".join(f" {side}" for side in sides if side and side not in name)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
