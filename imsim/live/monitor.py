"""The monitor of a server: its metrics, whether it is ready, and its problems.

It looks at the server once a second. Its timer also measures how late the event loop is.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from imsim.core.model import Code
from imsim.live.auth import Answer
from imsim.live.exposition import Exposition
from imsim.live.metrics import INVALID_OP, NO_FILES, Metrics
from imsim.live.problems import QUIET, Counted, Watched
from imsim.live.storage_health import StorageHealth
from imsim.live.stores import Store

TICK = 0.25  # seconds between measurements of the event loop's lag
CHECK = 1.0  # seconds between checks for problems
LAG = 1.0  # seconds; if the event loop is later, that is a problem
_MANY = 10  # occurrences a second that are a problem, of errors that single clients may cause


class Watchable(Protocol):
    """The part of a server that its monitor reads."""

    def not_serving(self) -> str:
        """Return why the server takes no logins, or ""."""
        ...

    def connection_counts(self) -> Mapping[str, int]:
        """Return the count of connections by state."""
        ...

    def queues(self) -> Mapping[str, Iterable[int]]:
        """Return the parts of the length of each queue."""
        ...


class Monitor:
    """The monitor of a server. It works from `start` to `stop`.

    `clock` returns monotonic seconds. If it is not `time.monotonic`, call `check` from time to time.
    """

    def __init__(self, server: Watchable, store: Store, clock: Callable[[], float]) -> None:
        self._server = server
        self._store = store
        self._clock = clock
        self.metrics = Metrics()
        self.storage = StorageHealth(store, self.metrics)
        self._late = 0  # ticks that were later than LAG
        self._watched = [Counted(watched) for watched in self._counts()]
        self._exposition = Exposition(
            self.metrics,
            connections=server.connection_counts,
            queues=self._queues,
            problems=self._problems,
            is_ready=lambda: not (server.not_serving() or self.storage.reason),
        )
        self.registry = self._exposition.registry
        self._overloads_before = 0
        self._is_overloaded = False
        self._checked_at = clock()
        self._due = 0.0  # when the next tick should be, by the clock of the event loop
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to check by itself, if the clock is real."""
        self._checked_at = self._clock()
        if self._clock is time.monotonic:
            self._tick_later()

    def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()

    # --- for the server ---------------------------------------------------------------------------------------------

    async def ready(self) -> Answer:
        """Return the answer to `GET /readyz`."""
        reasons = [self._server.not_serving()]
        if not reasons[0]:
            reasons.append(await self.storage.probed_reason(self._clock()))
            reasons.append(self._server.not_serving())  # it may have changed during the probe
            if self._is_overloaded:
                reasons.append("the queue of storage is full")
        reasons = [reason for reason in reasons if reason]
        body = {"status": "not ready", "reasons": reasons} if reasons else {"status": "ready"}
        return Answer(503 if reasons else 200, json.dumps(body).encode(), {})

    async def scrape(self, accept: str) -> Answer:
        """Return the answer to `GET /metrics`. `accept` is the HTTP header of that name."""
        text, content_type = await self._exposition.scrape(accept)
        return Answer(200, text, {"Content-Type": content_type})

    # --- checks -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look for problems that began or ended since the last check."""
        now = self._clock()
        seconds, self._checked_at = now - self._checked_at, now
        self.storage.check(now)
        overloads = self.metrics.storage_overloads
        self._is_overloaded, self._overloads_before = overloads > self._overloads_before, overloads
        is_storage = self.storage.silent.is_active or now - self.storage.failed_at < QUIET
        for one in self._watched:
            one.check(now, seconds, is_explained=is_storage and one.problem.name == "unavailable")

    def _tick_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + TICK
        self._timer = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        lag = max(0.0, asyncio.get_running_loop().time() - self._due)
        self.metrics.loop_lag.recent.append(lag)
        self.metrics.sort()
        self._late += lag > LAG
        if self._clock() - self._checked_at >= CHECK - TICK / 2:
            self.check()
        self._tick_later()

    def _problems(self) -> dict[str, bool]:
        problems = [self.storage.failing, self.storage.silent, *(one.problem for one in self._watched)]
        return {problem.name: problem.is_active for problem in problems}

    def _queues(self) -> dict[str, Iterable[int]]:
        return {"storage": (self._store.waiting,), **self._server.queues()}

    def _counts(self) -> list[Watched]:
        """Return the counts that are problems if they grow."""
        metrics = self.metrics

        def refused(*codes: Code) -> int:
            return sum(metrics.rejected[code] + metrics.disconnects[code] for code in codes)

        def bad_tokens() -> int:
            keys = sum(count for (_, status), count in metrics.http.items() if status == 401)
            return keys + sum(metrics.logins[c] for c in (Code.BAD_TOKEN, Code.TOKEN_EXPIRED, Code.TOKEN_REVOKED))

        def invalid() -> int:
            return metrics.received[INVALID_OP] + refused(Code.BAD_FRAME, Code.TOO_LARGE)

        return [
            Watched(
                "storage_queue_full", lambda: metrics.storage_overloads,
                "the queue of storage is full: {count} requests failed in the last second",
                "the queue of storage has room again; {count} requests failed in {lasted}",
            ),
            Watched(
                "unavailable", lambda: refused(Code.UNAVAILABLE),
                "clients get `unavailable`: {count} times in the last second",
                "clients no longer get `unavailable`; they got it {count} times in {lasted}",
            ),
            Watched(
                "busy", lambda: refused(Code.BUSY),
                "the server is above its capacity: it answered `busy` {count} times in the last second",
                "the server is no longer above its capacity; it answered `busy` {count} times in {lasted}",
            ),
            Watched(
                "slow_readers", lambda: metrics.disconnects[Code.SLOW_READER],
                "clients read too slowly: {count} disconnected in the last second",
                "clients no longer read too slowly; {count} were disconnected in {lasted}",
            ),
            Watched(
                "bad_tokens", bad_tokens,
                "many tokens or keys are refused: {count} in the last second",
                "few tokens or keys are refused now; {count} were in {lasted}",
                _MANY,
            ),
            Watched(
                "login_timeouts", lambda: metrics.disconnects[Code.LOGIN_TIMEOUT],
                "many clients connect but do not log in: {count} disconnected in the last second",
                "few clients connect without logging in now; {count} were disconnected in {lasted}",
                _MANY,
            ),
            Watched(
                "invalid_frames", invalid,
                "many messages of clients are not valid frames: {count} in the last second",
                "few messages of clients are invalid now; {count} were in {lasted}",
                _MANY,
            ),
            Watched(
                "rate_limited", lambda: refused(Code.RATE_LIMITED),
                "many requests exceed the rate limits: {count} in the last second",
                "few requests exceed the rate limits now; {count} did in {lasted}",
                _MANY,
            ),
            Watched(
                "shed", lambda: metrics.shed,
                "chatroom messages are shed (limits.room_rate): {count} pushes in the last second",
                "chatroom messages are no longer shed; {count} pushes were in {lasted}",
            ),
            Watched(
                "no_file_descriptors", lambda: metrics.failures["accept"] + metrics.disconnects[NO_FILES],
                "cannot accept connections: the process has no file descriptor left; raise the limit (ulimit -n)",
                "connections are accepted again; {count} attempts failed in {lasted}",
            ),
            Watched(
                "tls_handshakes", lambda: metrics.failures["handshake"],
                "TLS handshakes fail: {count} in the last second",
                "TLS handshakes no longer fail; {count} did in {lasted}",
            ),
            Watched(
                "event_loop_late", lambda: self._late,
                f"the event loop is more than {LAG:g} s late: the server or its machine is overloaded",
                "the event loop is on time again; it was late {count} times in {lasted}",
            ),
        ]  # fmt: skip
