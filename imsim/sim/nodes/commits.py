"""Group commit: a storage makes many appends durable at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from imsim.core import storage
from imsim.scenario.sections.topology import Commit
from imsim.sim.clock import Clock
from imsim.sim.nodes.work import Work

#: Called when an append was carried out, with its result, and when its commit will be done (None: dropped).
Answer = Callable[[storage.Result, float | None], None]


class _Waiting(NamedTuple):
    since: float
    request: storage.Append
    answer: Answer
    kept: Any  # by the node's work


class GroupCommit:
    """Appends wait for one commit. It starts when the one before it is done and either `batch` appends wait or the
    first of them has waited for `linger`; takes the first `batch` of those that wait; and keeps one worker for the
    commit's own service time and that of each append in it. They are carried out when it starts, so that no request can
    read what no commit has taken, and are done when it is."""

    __slots__ = ("_clock", "_execute", "_fields", "_under_way", "_waiting", "_work")

    def __init__(
        self, fields: Commit, work: Work, clock: Clock, execute: Callable[[storage.Request], storage.Result]
    ) -> None:
        self._fields = fields
        self._work = work
        self._clock = clock
        self._execute = execute
        self._waiting: deque[_Waiting] = deque()
        self._under_way = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def forget(self) -> GroupCommit:
        """The node crashes: what waits is never answered. Returns what replaces this one, which is of no use now."""
        self._waiting.clear()
        return GroupCommit(self._fields, self._work, self._clock, self._execute)

    def add(self, request: storage.Append, answer: Answer) -> None:
        now = self._clock.now
        self._waiting.append(_Waiting(now, request, answer, self._work.keep(now, request)))
        if not self._under_way:
            self._start_or_wait(len(self._waiting) == 1)

    def _start_or_wait(self, is_new: bool) -> None:
        """`is_new`: the alarm for the append that is the first now has not been set yet."""
        if not self._waiting:
            return
        due = self._waiting[0].since + self._fields.linger
        if len(self._waiting) >= self._fields.batch or self._clock.now >= due:
            self._start()
        elif is_new:
            self._clock.call_at(due, self._lingered, None)

    def _lingered(self, _: None) -> None:
        if not self._under_way:
            self._start_or_wait(is_new=False)

    def _start(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(self._fields.batch, len(self._waiting)))]
        self._work.station.waited += sum(self._clock.now - one.since for one in taken)
        results = [self._execute(one.request) for one in taken]
        demands = [self._work.append_demand(one.request, result) for one, result in zip(taken, results, strict=True)]
        _, done = self._work.commit(self._clock.now, taken[0].request, demands)
        self._under_way = done is not None
        if done is not None:
            self._clock.call_at(done, self._done, None)
        for one, result in zip(taken, results, strict=True):
            self._work.resume(one.kept, result)
            one.answer(result, done)

    def _done(self, _: None) -> None:
        self._under_way = False
        self._start_or_wait(is_new=True)
