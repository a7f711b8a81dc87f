"""Locust's statistics of a run: its table, charts, and reports.

Locust logs each request by an event, which takes several microseconds. So the reports of a quarter of a second are
logged together, with the same result. But if anything except Locust listens to the event, it gets an event for each
report.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import gevent
import locust.stats
from locust.env import Environment

_TYPE = "WS"  # of the rows in Locust's table
_PERIOD = 0.25  # seconds

_Reported = tuple[str, float | None, int, str | None, float]  # the arguments of `report`, and the time


class UndeliveredError(Exception):
    """A message was not acknowledged or not delivered, or a login failed. Locust lists it in its table of failures."""


class Statistics:
    """The statistics of a Locust environment. `report` is an `imsim.load.recording.Report`."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._reported: list[_Reported] = []
        self._greenlet = gevent.spawn(self._run)

    def report(self, name: str, ms: float | None, size: int, error: str | None) -> None:
        """Keep a report for the next `flush`. It may be called in the event loop."""
        self._reported.append((name, ms, size, error, time.time()))

    def flush(self) -> None:
        """Log the reports so far. The listeners to Locust's event may wait."""
        reported, self._reported = self._reported, []
        if self._has_listeners():
            for one in reported:
                self._fire(one)
            return
        groups: dict[tuple[int, str], list[_Reported]] = {}
        for one in reported:
            groups.setdefault((int(one[4]), one[0]), []).append(one)
        stats = self._environment.stats
        for (second, name), some in groups.items():
            sums = _Sums(second, some)
            sums.add_to(stats.get(name, _TYPE))
            sums.add_to(stats.total)
            for _, _, _, error, _ in some:
                if error is not None:
                    stats.log_error(_TYPE, name, UndeliveredError(error))

    def _run(self) -> None:
        while True:
            gevent.sleep(_PERIOD)
            self.flush()

    def _has_listeners(self) -> bool:
        """Return whether anything except Locust's own statistics listens to the event."""
        listeners = self._environment.events.request._handlers
        return any(listener.__module__ != "locust.runners" for listener in listeners)

    def _fire(self, one: _Reported) -> None:
        name, ms, size, error, at = one
        request: Any = self._environment.events.request
        request.fire(
            request_type=_TYPE,
            name=name,
            response_time=ms,
            response_length=size,
            exception=None if error is None else UndeliveredError(error),
            context={},
            start_time=at - (ms or 0.0) / 1e3,
        )


class _Sums:
    """The sums of reports of one second. `add_to` does what `StatsEntry.log` does for each of them."""

    def __init__(self, second: int, some: list[_Reported]) -> None:
        self._second = second
        self._count = len(some)
        self._last = some[-1][4]
        self._size = sum(one[2] for one in some)
        self._latencies = [one[1] for one in some if one[1] is not None]
        self._buckets = Counter(map(locust.stats.bucket_response_time, self._latencies))

    def add_to(self, entry: Any) -> None:
        """Add the sums to a row of Locust's table."""
        latencies, last, buckets = self._latencies, entry.last_request_timestamp, entry.response_times
        if entry.use_response_times_cache and last and self._second > int(last):
            entry._cache_response_times(self._second - 1)
        entry.num_requests += self._count
        entry.num_reqs_per_sec[self._second] += self._count
        entry.last_request_timestamp = max(last or 0.0, self._last)
        entry.total_content_length += self._size
        entry.num_none_requests += self._count - len(latencies)
        for bucket, count in self._buckets.items():
            buckets[bucket] += count
        if latencies:
            entry.total_response_time += sum(latencies)
            least, most = min(latencies), max(latencies)
            entry.min_response_time = least if entry.min_response_time is None else min(least, entry.min_response_time)
            entry.max_response_time = max(most, entry.max_response_time)
