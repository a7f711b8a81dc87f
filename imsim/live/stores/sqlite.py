"""A store in an SQLite file. One writer thread commits all waiting requests together (group commit)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from imsim.core.storage import Failed, Request, Result
from imsim.live.stores.tables import SqliteStorage

_Deliver = Callable[[list[tuple[Request, Result]]], None]
_Batch = tuple[_Deliver | None, list[Request]]

OVERLOADED = "storage is overloaded"  # the text of the result Failed if the queue is full

_LARGEST_COMMIT = 1_000  # requests; it limits how long an answer waits for its commit
_LONGEST_TAIL = 1_500  # messages that wait until they are moved to their conversations while no request waits
_ANSWERS_PER_TURN = 32  # delivered at least in one iteration of the event loop: see `_deliver_some`


class SqliteStore:
    """A store in the SQLite file `path`, which may be ":memory:".

    At most `limit` requests wait. A request beyond the limit is answered Failed and not carried out. With `synchronous`
    FULL, the data of an answered request survives a power failure; with NORMAL, it survives a crash of the process.
    `fanout` is "read" or "write", as in `imsim.core.storage.memory.MemoryStorage`.

    Raises: UsageError if `path` is not an imsim database; RunError if another process has it open.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: str = "FULL",
        fanout: str = "read",
        limit: int = 100_000,
    ) -> None:
        self.storage = SqliteStorage(path, synchronous=synchronous, fanout=fanout)
        self.overloads = 0  # requests that found the queue full
        self._limit = limit
        self._deliver: _Deliver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gathering: list[Request] = []  # submitted in this iteration of the loop
        self._submitted = 0
        self._answered = 0
        self._reported: deque[tuple[_Deliver | None, tuple[Request, Result]]] = deque()  # answers not delivered yet
        self._delivered_at: float | None = None  # when the last delivery ended, if answers are left
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self._thread: Thread | None = Thread(target=self._run, name="imsim-sqlite", daemon=True)
        self._thread.start()

    def start(self, deliver: _Deliver) -> None:
        self._hand_over()
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()

    def submit(self, request: Request) -> None:
        loop = self._loop
        assert loop is not None, "start the store first"
        self._submitted += 1
        if self._submitted - self._answered > self._limit:
            self.overloads += 1
            answers: list[tuple[Request, Result]] = [(request, Failed(OVERLOADED))]
            loop.call_soon(self._answer, self._deliver, answers)
            return
        if not self._gathering:
            loop.call_soon(self._hand_over)
        self._gathering.append(request)

    @property
    def log(self) -> str:
        return self.storage.log

    @property
    def latest_revocation(self) -> float:
        return self.storage.latest_revocation

    @property
    def idle(self) -> bool:
        return self._answered == self._submitted

    @property
    def waiting(self) -> int:
        return self._submitted - self._answered

    @property
    def answered(self) -> int:
        return self._answered

    async def flush(self) -> None:
        if not self.idle:
            done = asyncio.get_running_loop().create_future()
            self._flushes.append((self._submitted, done))
            await done

    def close(self) -> None:
        if self._thread is not None:
            self._hand_over()
            self._queue.put(None)
            self._thread.join()
            self._thread = None
            self.storage.close()

    # --- in the event loop ------------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        # Once per iteration: if each request woke the writer thread, the two threads would compete for the interpreter
        # lock.
        if self._gathering:
            self._queue.put((self._deliver, self._gathering))
            self._gathering = []

    def _answer(self, deliver: _Deliver | None, answers: list[tuple[Request, Result]]) -> None:
        self._reported.extend((deliver, answer) for answer in answers)
        if self._delivered_at is None:  # otherwise the next delivery is scheduled
            self._deliver_some()

    def _deliver_some(self) -> None:
        """Deliver the oldest answers, as many as this turn of the event loop may.

        A large commit must not delay the connections, so a turn delivers only some of its answers. But it goes on for
        as long as the rest of the last turn took. Otherwise a server with long turns would accept more requests than
        it answers.
        """
        began = time.monotonic()
        end = began if self._delivered_at is None else 2 * began - self._delivered_at
        while self._reported:
            self._deliver_next()
            if time.monotonic() >= end:
                break
        self._delivered_at = None
        if self._reported:
            self._delivered_at = time.monotonic()
            asyncio.get_running_loop().call_soon(self._deliver_some)

    def _deliver_next(self) -> None:
        answers: list[tuple[Request, Result]] = []
        reported = self._reported
        for _ in range(min(_ANSWERS_PER_TURN, len(reported))):
            self._answered += 1
            deliver, answer = reported.popleft()
            if deliver is not None and deliver == self._deliver:  # otherwise, the server that submitted it has ended
                answers.append(answer)
        try:
            if answers and self._deliver is not None:
                self._deliver(answers)
        finally:
            for target, done in self._flushes:
                if self._answered >= target and not done.done():
                    done.set_result(None)
            self._flushes = [(target, done) for target, done in self._flushes if not done.done()]

    # --- in the writer thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        queue, going = self._queue, True
        while going:
            batches: list[_Batch] = []
            size = 0
            while (not batches or not queue.empty()) and size < _LARGEST_COMMIT:
                taken = queue.get()
                if taken is None:
                    going = False
                    break
                batches.append(taken)
                size += len(taken[1])
            requests = [request for _, batch in batches for request in batch]
            if requests:
                results = iter(self.storage.execute_all(requests))
                for deliver, batch in batches:
                    self._report(deliver, [(request, next(results)) for request in batch])
                if queue.empty():
                    with suppress(sqlite3.Error):  # the messages remain where they are
                        self.storage.merge_tail(_LONGEST_TAIL)

    def _report(self, deliver: _Deliver | None, answers: list[tuple[Request, Result]]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the event loop has ended, and with it the server that submitted the requests
            self._loop.call_soon_threadsafe(self._answer, deliver, answers)
