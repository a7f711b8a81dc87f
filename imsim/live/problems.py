"""Problems of a running server: one line in the log when one begins, and one when it ends.

Many errors reach only clients: a login is refused, a slow reader is disconnected, a request is answered `unavailable`.
These lines report them to the operator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

LOG = logging.getLogger("imsim.live.server")

QUIET = 10.0  # seconds without an occurrence after which a counted problem has ended
APART = 10.0  # seconds between the beginnings of two reports of the same problem, at least


class Problem:
    """A condition that begins and ends. `name` identifies it in JSON logs and in the metrics.

    A problem that returns within APART seconds of its last report is reported later, if it still exists then.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_active = False
        self._since = 0.0  # when it began
        self._reported_at = float("-inf")
        self._is_reported = False

    def begin(self, text: str, now: float, **fields: object) -> None:
        """Note that the problem exists. `text` describes it; `fields` are for JSON logs."""
        if not self.is_active:
            self.is_active = True
            self._since = now
        if not self._is_reported and now - self._reported_at >= APART:
            self._is_reported = True
            self._reported_at = now
            report(logging.WARNING, f"{self.name}_began", text, **fields)

    def end(self, text: str, now: float, **fields: object) -> None:
        """Note that the problem has ended. In the text, {lasted} stands for how long it lasted, {name} for a field."""
        if not self.is_active:
            return
        self.is_active = False
        if self._is_reported:
            self._is_reported = False
            lasted = now - self._since
            # The level of both lines is the same, so that a filter passes both.
            text = text.format(lasted=f"{lasted:.1f} s", **fields)
            report(logging.WARNING, f"{self.name}_ended", text, seconds=round(lasted, 3), **fields)


@dataclass(frozen=True)
class Watched:
    """A count that is a problem while it grows by `at_least` or more a second.

    `began` is the line at its beginning, with {count}; `ended` the one at its end, with {count} and {lasted}.
    """

    name: str
    count: Callable[[], int]
    began: str
    ended: str
    at_least: int = 1


class Counted:
    """A problem that consists of occurrences. It has ended when there were few of them for QUIET seconds."""

    def __init__(self, watched: Watched) -> None:
        self.problem = Problem(watched.name)
        self._watched = watched
        self._last = watched.count()
        self._before = self._last  # the count when the problem began
        self._latest = 0.0  # the time of the latest occurrences

    def check(self, now: float, seconds: float, *, is_explained: bool = False) -> None:
        """Compare the count with that of the last check, `seconds` ago.

        `is_explained` tells whether another problem explains the occurrences. Then they do not begin this one.
        """
        watched, problem = self._watched, self.problem
        count = watched.count()
        new, last, self._last = count - self._last, self._last, count
        if new >= max(1.0, watched.at_least * seconds) and not (is_explained and not problem.is_active):
            if not problem.is_active:
                self._before = last
            self._latest = now
            problem.begin(watched.began.format(count=new), now, count=new)
        elif problem.is_active and now - self._latest >= QUIET:
            total = count - self._before
            problem.end(watched.ended, now, count=total)


def report(level: int, event: str, text: str, **fields: object) -> None:
    """Write a line to the log of the server. `event` and `fields` are for JSON logs."""
    LOG.log(level, "%s", text, extra={"event": event, "fields": fields})
