"""The progress of a load test: what it has sent and received in the last moments, as one line.

A `Meter` counts in each Locust process, a `Progress` adds the counts of all processes up. This module imports neither
Locust nor gevent.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imsim.results import Facts, Kind

OVERDUE_SECONDS = 5.0
"""A delivery is overdue if it has not arrived this long after the intended time of its message."""

_WINDOW = 1.3  # seconds of the rates and percentiles; a process reports its counts twice a second
_BASE = 1.05  # the ratio of two buckets of latencies: a percentile is exact to 2.5 %
_SMALLEST = 0.01  # ms


def overdue_before(seconds: float) -> int:
    """Return the second of the plan before which messages must be intended for their deliveries to be overdue now."""
    return max(0, int(seconds - OVERDUE_SECONDS))


class Meter:
    """The counts of one Locust process, from its facts.

    intended: the intended time of each message of the plan, in ns. expected: its number of deliveries.
    """

    def __init__(self, intended: NDArray[np.int64], expected: NDArray[np.int64]) -> None:
        self._intended = intended
        self._expected = expected
        self._is_sent = np.zeros(len(intended), bool)
        seconds = int(intended[-1] // 1_000_000_000) + 1 if len(intended) else 0
        self._open = np.zeros(seconds, np.int64)  # by the second of the intended time: deliveries that are missing here
        self._delivered = self._errors = 0
        self._latencies: Counter[int] = Counter()  # since the last report, by bucket

    def add(self, facts: Facts) -> None:
        """Count these facts."""
        kind, intent = facts["kind"], facts["intent"]
        is_planned = (intent >= 0) & (intent < len(self._intended))
        is_delivered = kind == Kind.DELIVERED
        self._delivered += int(is_delivered.sum())
        failed = intent[(kind == Kind.FAILED) & is_planned]
        self._errors += int((kind == Kind.FAILED).sum())

        sent = np.unique(intent[(kind == Kind.SENT) & is_planned])
        sent = sent[~self._is_sent[sent]]
        self._is_sent[sent] = True
        np.add.at(self._open, self._second(sent), self._expected[sent])
        np.subtract.at(self._open, self._second(failed), self._expected[failed])
        arrived = facts[is_delivered & is_planned]
        np.subtract.at(self._open, self._second(arrived["intent"]), 1)
        ms = (arrived["at"] - self._intended[arrived["intent"]]) / 1e6
        buckets = np.rint(np.log(np.maximum(ms, _SMALLEST)) / np.log(_BASE)).astype(np.int64)
        self._latencies.update(buckets.tolist())

    def _second(self, intent: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._intended[intent] // 1_000_000_000

    def report(self, seconds: float, offered: int, late: float) -> dict[str, Any]:
        """Return the counts for `Progress.add`, and forget the latencies.

        seconds: the time in the plan. offered: the number of messages that the devices were requested to send so far.
        late: the largest lateness (seconds) since the last report.
        """
        latencies, self._latencies = self._latencies, Counter()
        before = overdue_before(seconds)
        return {
            "offered": offered,
            "delivered": self._delivered,
            "errors": self._errors,
            "overdue": int(self._open[:before].sum()),
            "late_ms": round(late * 1e3, 3),
            "latencies": list(latencies.items()),
        }


class Progress:
    """The counts of all processes of a test."""

    def __init__(self) -> None:
        self._reports: dict[int, deque[tuple[float, dict[str, Any]]]] = {}

    def add(self, process: int, report: dict[str, Any], at: float) -> None:
        """Add the report of a process at the time `at` (seconds)."""
        reports = self._reports.setdefault(process, deque())
        reports.append((at, report))
        while len(reports) > 2 and at - reports[0][0] > _WINDOW:
            reports.popleft()

    def to_dict(self) -> dict[str, Any]:
        """Return the progress: rates per second and latencies in ms of the last second or so, and counts so far.

        p50 and p99 are None if nothing was delivered. `overdue` is the number of deliveries that have not arrived
        within `OVERDUE_SECONDS`, without those to devices that have no user.
        """
        found: dict[str, Any] = {"offered": 0.0, "delivered": 0.0, "p50": None, "p99": None}
        found |= {"late": 0.0, "overdue": 0, "errors": 0}
        latencies: Counter[int] = Counter()
        for reports in self._reports.values():
            (since, first), (until, last) = reports[0], reports[-1]
            if until > since:
                for name in ("offered", "delivered"):
                    found[name] += (last[name] - first[name]) / (until - since)
            for name in ("overdue", "errors"):
                found[name] += last[name]
            for _, report in list(reports)[1:]:
                found["late"] = max(found["late"], report["late_ms"])
                for bucket, count in report["latencies"]:
                    latencies[bucket] += count
        if latencies:
            buckets = np.array(sorted(latencies))
            ranks = np.cumsum([latencies[bucket] for bucket in buckets.tolist()])
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                found[name] = float(_BASE ** buckets[np.searchsorted(ranks, share * ranks[-1])])
        found["overdue"] = max(0, found["overdue"])
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


def line(live: Mapping[str, Any], seconds: float, duration: float) -> str:
    """Return the progress (`Progress.to_dict`) as a line of text."""
    p50, p99 = ("-" if live[name] is None else _short(live[name]) for name in ("p50", "p99"))
    return (  # a narrow terminal cuts the end
        f"{min(seconds, duration):.0f} of {duration:g} s: offered {_short(live['offered'])}/s,"
        f" delivered {_short(live['delivered'])}/s, overdue {live['overdue']:,}, errors {live['errors']:,},"
        f" p50 {p50}, p99 {p99}, late {_short(live['late'])} ms"
    )


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
