"""Whether storage works: the monitor's view of it, from its answers and from probes.

A request that fails does not say enough: perhaps storage cannot store this one value. So a failure is followed by a
probe, a write of some size. If that fails too, storage fails, until a later probe succeeds. Other requests do not count
as a recovery, because a full disk may have space for a small write.
"""

from __future__ import annotations

import asyncio
import logging

from imsim.core.model import Code
from imsim.core.storage import Failed, Request, Result
from imsim.live.metrics import Metrics
from imsim.live.problems import APART, Problem, report
from imsim.live.stores import OVERLOADED, Probe, Store

PROBE_AFTER = 5.0  # seconds between two probes, at least, while storage works
PROBE_AGAIN = 1.0  # seconds between two probes, at least, while it fails
ANSWER_WITHIN = 1.0  # seconds that a request for the state waits for its probe
SILENT = 3.0  # seconds after which storage that answers nothing is a problem


class StorageHealth:
    """The state of a store. The server passes in the failures and the results of probes. `check` runs once a second.

    Times are monotonic seconds, passed in as `now`.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self.failed_at = float("-inf")  # the time of the latest result that is Failed
        self.failing = Problem("storage_failing")
        self.silent = Problem("storage_silent")
        self._store = store
        self._metrics = metrics
        self._is_failing = False  # since a probe failed
        self._is_suspect = False  # since a request failed, until its probe is answered
        self._reason = ""
        self._rejected_before = 0  # requests and logins that clients had been refused when storage began to fail
        self._refusal_reported_at = float("-inf")
        self._probe: Probe | None = None
        self._probed_at = float("-inf")
        self._waiting: list[asyncio.Future[None]] = []
        self._answered_before = -1  # when storage last made progress; at the first check, it counts as progress
        self._progress_at = 0.0

    # --- for the server ---------------------------------------------------------------------------------------------

    def failed(self, request: Request, result: Failed, now: float) -> None:
        """Note a request that failed."""
        self.failed_at = now
        if isinstance(request, Probe):
            return
        if result.text == OVERLOADED:
            self._metrics.storage_overloads += 1
            return
        self._metrics.storage_failures += 1
        if not self._is_failing and not self._is_suspect:
            self._is_suspect = True
            self._rejected_before = self._rejected()
            self._reason = result.text
            self._send_probe(now)

    def probed(self, probe: Probe, result: Result, now: float) -> None:
        """Note the result of a probe."""
        if probe is not self._probe:
            return
        self._probe = None
        if not isinstance(result, Failed):
            self._work(now)
        elif result.text != OVERLOADED:
            self._fail(result.text, now)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def check(self, now: float) -> None:
        """Send a probe if storage has failed, and note whether it answers at all."""
        if self._is_failing or self._is_suspect:
            self._send_probe(now)
        if self._is_failing:
            self._report(now)
        waiting = self._store.waiting
        if not waiting or self._store.answered != self._answered_before:
            self._answered_before = self._store.answered
            self._progress_at = now
            self.silent.end("storage answers again after {lasted}", now)
        elif now - self._progress_at >= SILENT:
            silent = now - self._progress_at
            text = f"storage has not answered for {silent:.0f} s; {waiting} requests wait"
            self.silent.begin(text, now, waiting=waiting)

    # --- for /readyz ------------------------------------------------------------------------------------------------

    @property
    def reason(self) -> str:
        """The reason why storage cannot store a message, as far as is known; "" if it can."""
        if self._is_failing:
            return f"storage fails: {self._reason}"
        return "storage does not answer" if self.silent.is_active else ""

    async def probed_reason(self, now: float) -> str:
        """Return `reason` after a probe, unless the last probe is recent."""
        wait = PROBE_AGAIN if self._is_failing else PROBE_AFTER
        if self._probe is not None or now - self._probed_at >= wait:
            answered = self._store.answered
            self._send_probe(now)
            done = asyncio.get_running_loop().create_future()
            self._waiting.append(done)
            await asyncio.wait([done], timeout=ANSWER_WITHIN)
            # A store with a long queue is slow, but it works.
            if not done.done() and self._store.answered == answered and not self.reason:
                return f"storage has not answered for {ANSWER_WITHIN:g} s"
        return self.reason

    # --- private ----------------------------------------------------------------------------------------------------

    def _send_probe(self, now: float) -> None:
        if self._probe is None:
            self._probe = Probe()
            self._probed_at = now
            self._store.submit(self._probe)

    def _fail(self, reason: str, now: float) -> None:
        if not self._is_failing and not self._is_suspect:
            self._rejected_before = self._rejected()
        self._is_failing, self._is_suspect = True, False
        self._reason = reason
        self._report(now)

    def _report(self, now: float) -> None:
        text = f"storage fails: {self._reason}; clients get `unavailable` until it works again"
        self.failing.begin(text, now, reason=self._reason)

    def _work(self, now: float) -> None:
        failed = self._rejected() - self._rejected_before
        if self._is_failing:
            text = "storage works again after {lasted}; {failed} requests of clients failed"
            self.failing.end(text, now, failed=failed)
        elif self._is_suspect and now - self._refusal_reported_at >= APART:
            self._refusal_reported_at = now
            text = f"storage could not carry out a request, but it works: {self._reason}"
            report(logging.WARNING, "storage_refused", text, reason=self._reason)
        self._is_failing = self._is_suspect = False

    def _rejected(self) -> int:
        return self._metrics.rejected[Code.UNAVAILABLE] + self._metrics.logins[Code.UNAVAILABLE]
