"""Group commit: a storage makes many appends durable at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from imsim.core import storage
from imsim.scenario.sections.topology import Commit
from imsim.sim.clock import Clock
from imsim.sim.nodes.work import Work

#: Called when an append was carried out, with its result and the time when its commit is done (None: dropped).
Answer = Callable[[storage.Result, float | None], None]


class _Waiting(NamedTuple):
    since: float
    request: storage.Append
    answer: Answer
    kept: Any  # the return value of `Work.keep`


class GroupCommit:
    """A queue of appends that a storage commits together.

    A commit starts when the previous one is done and either `batch` appends wait or the first of them has waited for
    `linger`. It takes the first `batch` waiting appends. One worker does it: it takes the commit's own service time
    plus the service time of each append. The appends are carried out when the commit starts, so no request can read an
    append that still waits. They are done when the commit is done.
    """

    __slots__ = ("_clock", "_execute", "_fields", "_is_committing", "_waiting", "_work")

    def __init__(
        self, fields: Commit, work: Work, clock: Clock, execute: Callable[[storage.Request], storage.Result]
    ) -> None:
        self._fields = fields
        self._work = work
        self._clock = clock
        self._execute = execute
        self._waiting: deque[_Waiting] = deque()
        self._is_committing = False

    def __len__(self) -> int:
        """Return the number of waiting appends."""
        return len(self._waiting)

    def forget(self) -> GroupCommit:
        """Drop the waiting appends without an answer, as after a crash. Return a new queue to use instead."""
        self._waiting.clear()
        return GroupCommit(self._fields, self._work, self._clock, self._execute)

    def add(self, request: storage.Append, answer: Answer) -> None:
        now = self._clock.now
        self._waiting.append(_Waiting(now, request, answer, self._work.keep(now, request)))
        if not self._is_committing:
            self._start_or_wait(len(self._waiting) == 1)

    def _start_or_wait(self, is_new: bool) -> None:
        """Start a commit if one is due.

        `is_new`: the end of the linger time of the first append is not scheduled yet.
        """
        if not self._waiting:
            return
        due = self._waiting[0].since + self._fields.linger
        if len(self._waiting) >= self._fields.batch or self._clock.now >= due:
            self._start()
        elif is_new:
            self._clock.call_at(due, self._end_linger, None)

    def _end_linger(self, _: None) -> None:
        if not self._is_committing:
            self._start_or_wait(is_new=False)

    def _start(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(self._fields.batch, len(self._waiting)))]
        self._work.station.waited += sum(self._clock.now - append.since for append in taken)
        results = [self._execute(append.request) for append in taken]
        demands = [
            self._work.append_demand(append.request, result) for append, result in zip(taken, results, strict=True)
        ]
        _, done = self._work.commit(self._clock.now, taken[0].request, demands)
        self._is_committing = done is not None
        if done is not None:
            self._clock.call_at(done, self._done, None)
        for append, result in zip(taken, results, strict=True):
            self._work.resume(append.kept, result)
            append.answer(result, done)

    def _done(self, _: None) -> None:
        self._is_committing = False
        self._start_or_wait(is_new=True)
