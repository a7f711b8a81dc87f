"""Locust's statistics of a run: its tables, charts, and reports.

There are these rows:

- `send -> stored`: from the intended time of a message until its sender knows that it is stored,
- `send -> delivered`: until a device of a recipient has it, for each such device,
- `send -> last delivered`: until the last of these devices has it, for messages to groups and chatrooms,
- `login`: from the begin of a login until the server has accepted it.

Locust's row `Aggregated` contains only `send -> delivered`, and the requests of users that are not imsim's. As in the
rows of the run, messages of the warm-up do not count.

While the test runs, the statistics contain what has arrived so far. At its end, `rebuild` makes them from the rows of
the run: then `send -> last delivered` and the failures (lost deliveries, messages without an answer) are known, and
Locust's reports agree with the run to Locust's rounding.

Locust logs each request by an event, which takes several microseconds. So the reports of a quarter of a second are
logged together, with the same result. But if anything except Locust listens to the event, it gets an event for each
report.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar

import gevent
import locust.stats
import numpy as np
from locust.env import Environment
from locust.event import EventHook
from numpy.typing import NDArray

from imsim.analysis import Run
from imsim.analysis.availability import NEVER
from imsim.analysis.latency import Answers, Waits
from imsim.load.recording import DELIVERED, LOGIN, STORED
from imsim.results import Outcome

LAST = "send -> last delivered"

_TYPE = "WS"  # of the rows in Locust's table
_FROM_ROWS = (STORED, DELIVERED, LAST)
_APART = (STORED, LAST, LOGIN)  # not in the row Aggregated
_PERIOD = 0.25  # seconds

_LOST = "lost: not delivered before the end of the test"
_NO_ANSWER = "no answer from the server before the end of the test"
_UNSENT = "not sent before the end of the test"

_Reported = tuple[str, float | None, int, str | None, float]  # the arguments of `report`, and the time


class UndeliveredError(Exception):
    """A message was not acknowledged or not delivered, or a login failed. Locust lists it in its table of failures."""


class Statistics:
    """The statistics of a Locust environment. `report` is an `imsim.load.recording.Report`."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._reported: list[_Reported] = []
        self._is_open = True
        self._greenlet = gevent.spawn(self._run)

    def begin(self) -> None:
        """Accept reports for a new test."""
        self._reported.clear()
        self._is_open = True

    def report(self, name: str, ms: float | None, size: int, error: str | None) -> None:
        """Keep a report for the next `flush`. It may be called in the event loop."""
        if self._is_open:
            self._reported.append((name, ms, size, error, time.time()))

    def flush(self) -> None:
        """Log the reports so far. The listeners to Locust's event may wait."""
        reported, self._reported = self._reported, []
        if listeners := self._listeners():
            hook = EventHook()  # type: ignore[no-untyped-call]  # Locust has no types for it
            for listener in listeners:
                hook.add_listener(listener)  # type: ignore[no-untyped-call]
            for one in reported:
                _fire(hook, one)
        groups: dict[tuple[int, str], list[_Reported]] = {}
        for one in reported:
            groups.setdefault((int(one[4]), one[0]), []).append(one)
        stats = self._environment.stats
        for (second, name), some in groups.items():
            sums = _Sums(second, some)
            entries = [stats.get(name, _TYPE), *([] if name in _APART else [stats.total])]
            for entry in entries:
                sums.add_to(entry)
            for _, _, _, error, _ in some:
                if error is not None:
                    _log_error(stats, entries, UndeliveredError(error))

    def discard(self) -> None:
        """Accept no further report of this test, and remove what the master makes from the rows of the run."""
        self.flush()
        self._is_open = False
        stats = self._environment.stats
        for name in _FROM_ROWS:
            stats.entries.pop((name, _TYPE), None)
        for key in [key for key, error in stats.errors.items() if _is_from_rows(error)]:
            del stats.errors[key]
        self._sum_up()

    def rebuild(self, run: Run) -> None:
        """Replace the statistics of messages by those of the rows of the run. Accept no further report of this test."""
        self.discard()
        begin = datetime.fromisoformat(run.manifest["started"]).timestamp()
        answers, waits, last = Answers.of(run), Waits.of(run), Waits.last(run)
        sizes = run.integers("messages", "size")
        intents = run.integers("messages", "intent")
        outcome = run.words("messages", "outcome")

        is_unsent = outcome.equal(Outcome.UNSENT)[answers.row]
        missing = np.where(is_unsent, _UNSENT, _NO_ANSWER)
        refused = self._refused(run)
        if run.has_acks or len(refused):
            entry = self._entry(STORED, begin, answers.ms, answers.answered_at, sizes[answers.row], missing)
            self._fail(entry, begin, run.integers("messages", "intended_at")[refused], self._errors(run, refused))
            entry.total_content_length += int(sizes[refused].sum())
        for name, some in ((DELIVERED, waits), (LAST, last)):
            if name == DELIVERED or len(some.row):
                size = sizes[np.searchsorted(intents, some.intent)]
                self._entry(name, begin, some.ms, some.delivered_at, size, np.full(len(size), _LOST))
        self._sum_up(begin + run.scenario.warmup)

    @staticmethod
    def _refused(run: Run) -> NDArray[np.int64]:
        """Return the positions of the messages after the warm-up that the server has refused."""
        is_due = run.integers("messages", "intended_at") >= round(run.scenario.warmup * 1e9)
        return np.flatnonzero(is_due & run.words("messages", "outcome").equal(Outcome.REJECTED))

    @staticmethod
    def _errors(run: Run, rows: NDArray[np.int64]) -> NDArray[np.str_]:
        words = run.words("messages", "error")
        return np.array([*words.texts, "refused"])[words.index[rows]]

    def _entry(
        self,
        name: str,
        begin: float,
        ms: NDArray[np.float64],
        at: NDArray[np.int64],
        sizes: NDArray[np.int64],
        errors: NDArray[np.str_],
    ) -> Any:
        """Make the entry of these latencies. Infinite ones are failures, with these errors.

        begin: the wall time of the run's start. at: when a latency ended, in ns from that start.
        """
        entry: Any = self._environment.stats.get(name, _TYPE)
        is_finite = np.isfinite(ms)
        found = ms[is_finite]
        entry.num_requests = len(found)
        entry.total_response_time = float(found.sum())
        entry.total_content_length = int(sizes.sum())
        if len(found):
            entry.min_response_time, entry.max_response_time = float(found.min()), float(found.max())
            entry.response_times = defaultdict(int, _counts(_rounded(found)))
            arrived = begin + at[is_finite] / 1e9
            entry.num_reqs_per_sec = defaultdict(int, _counts(arrived.astype(np.int64)))
            entry.last_request_timestamp = float(arrived.max())
        self._fail(entry, begin, at[~is_finite], errors[~is_finite])
        return entry

    def _fail(self, entry: Any, begin: float, at: NDArray[np.int64], errors: NDArray[np.str_]) -> None:
        """Add failures without a latency. at: their times in ns from the run's start, or NEVER."""
        if not len(errors):
            return
        stats = self._environment.stats
        seen = begin + np.where(at == NEVER, 0, at) / 1e9
        if (at == NEVER).all():  # they are known only now
            seen[:] = time.time()
        entry.num_requests += len(errors)
        entry.num_none_requests += len(errors)
        entry.num_failures += len(errors)
        for second, count in _counts(seen.astype(np.int64)).items():
            entry.num_reqs_per_sec[second] += count
            entry.num_fail_per_sec[second] += count
        for text in np.unique(errors).tolist():
            error, times = UndeliveredError(text), seen[errors == text]
            key = locust.stats.StatsError.create_key(_TYPE, entry.name, error)
            kept = stats.errors[key] = locust.stats.StatsError(_TYPE, entry.name, error, len(times))
            kept.first_seen, kept.last_seen = float(times.min()), float(times.max())

    def _sum_up(self, since: float | None = None) -> None:
        """Make the row Aggregated from the entries. since: when it begins, for its rates."""
        stats = self._environment.stats
        stats.total.reset()  # type: ignore[no-untyped-call]  # Locust has no types for it
        for (name, kind), entry in stats.entries.items():
            if kind != _TYPE or name not in _APART:
                stats.total.extend(entry)
        if since is not None:
            stats.total.start_time = since

    @property
    def failures_of_others(self) -> int:
        """The count of failed requests of users that are not imsim's."""
        errors = self._environment.stats.errors.values()
        return sum(error.occurrences for error in errors if not _is_ours(error))

    def _run(self) -> None:
        while True:
            gevent.sleep(_PERIOD)
            self.flush()

    def _listeners(self) -> list[Any]:
        """Return what listens to Locust's event, except Locust's own statistics."""
        handlers = self._environment.events.request._handlers
        return [handler for handler in handlers if handler.__module__ != "locust.runners"]


class _StatsCSVFileWriter(locust.stats.StatsCSVFileWriter):
    """A writer of CSV files that can also write the final statistics. Locust's own writes them up to 1 s earlier."""

    made: ClassVar[list[_StatsCSVFileWriter]] = []

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.made.append(self)

    def stats_writer(self) -> None:
        """Write the files until they are closed. With several processes, Locust closes them before it ends."""
        try:
            super().stats_writer()
        except ValueError:
            if not self.stats_history_csv_filehandle.closed:
                raise

    def write_final(self) -> None:
        for file, write, writer in (
            (self.requests_csv_filehandle, self.requests_csv, self.requests_csv_writer),
            (self.failures_csv_filehandle, self.failures_csv, self.failures_csv_writer),
            (self.exceptions_csv_filehandle, self.exceptions_csv, self.exceptions_csv_writer),
        ):
            file.seek(0)
            write(writer)
            file.truncate()
        self._stats_history_data_rows(self.stats_history_csv_writer, time.time())


locust.stats.StatsCSVFileWriter = _StatsCSVFileWriter  # type: ignore[misc]  # Locust makes its writer after this import


def write_csv() -> None:
    """Write the final statistics to the CSV files of `--csv`, if there are any."""
    for writer in _StatsCSVFileWriter.made:
        writer.write_final()


def _is_from_rows(error: locust.stats.StatsError) -> bool:
    return error.method == _TYPE and error.name in _FROM_ROWS


def _is_ours(error: locust.stats.StatsError) -> bool:
    return _is_from_rows(error) or (error.method, error.name) == (_TYPE, LOGIN)


def _fire(hook: Any, one: _Reported) -> None:
    name, ms, size, error, at = one
    hook.fire(
        request_type=_TYPE,
        name=name,
        response_time=ms,
        response_length=size,
        exception=None if error is None else UndeliveredError(error),
        context={},
        start_time=at - (ms or 0.0) / 1e3,
    )


def _log_error(stats: Any, entries: Iterable[Any], error: UndeliveredError) -> None:
    """Do what `RequestStats.log_error` does, for these entries: the first one and perhaps the total."""
    first, *others = entries
    for entry in (first, *others):
        entry.log_error(error)
    key = locust.stats.StatsError.create_key(_TYPE, first.name, error)
    if key not in stats.errors:
        stats.errors[key] = locust.stats.StatsError(_TYPE, first.name, error)
    stats.errors[key].occurred()


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


_bucket = locust.stats.bucket_response_time


def _rounded(ms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return what `bucket_response_time` of Locust, or of the user, returns for each of these latencies."""
    bucket = locust.stats.bucket_response_time
    if bucket is not _bucket:
        return np.array([bucket(one) for one in ms.tolist()], np.int64)
    unit = np.select([ms < 100, ms < 1000, ms < 10_000], [1, 10, 100], 1000)
    rounded: NDArray[np.int64] = (np.rint(ms / unit) * unit).astype(np.int64)
    return rounded


def _counts(values: NDArray[np.int64]) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
