"""The queue of connections that are not logged in. It decides which of them the server serves next, and when."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Protocol

from imsim.live.turn import PAUSE, TurnBudget, never

PER_TURN = 4  # HTTP requests, handshakes and logins that the server handles in one turn of the event loop
QUIET_SHARES = 8  # the work of a turn while no user sends, in shares of PER_TURN: a few milliseconds
_BACKLOG = 32  # newcomers that wait, beyond which the server should not open more connections


class Newcomer(Protocol):
    """A connection that is not logged in."""

    def serve(self, *, waited: bool) -> None:
        """Handle one request that the client has sent. `waited` tells whether the request waited for its turn."""
        ...


class Admission:
    """The queue of newcomers whose data waits to be handled.

    It serves at most `per_turn` newcomers in one turn of the event loop. So a crowd of them does not delay the clients
    that are logged in. While `is_quiet()` is true, it serves more of them.

    After a crash, more clients may connect than the server can serve before they give up. So the queue serves the
    latest arrival first: the earliest are the next to give up, and if the server always served them, each client would
    have given up by its turn. Logins precede handshakes, because the server has already worked for them; but each turn
    keeps a place for a handshake or another HTTP request.
    """

    def __init__(self, per_turn: int = PER_TURN, is_quiet: Callable[[], bool] = never) -> None:
        self._logins: dict[Newcomer, None] = {}  # in the order of arrival
        self._requests: dict[Newcomer, None] = {}
        self._turn = TurnBudget(per_turn, self._serve_waiting, PAUSE, is_quiet, QUIET_SHARES * per_turn)

    def __len__(self) -> int:
        return len(self._logins) + len(self._requests)

    @property
    def is_behind(self) -> bool:
        """Whether the server should serve its newcomers before it opens more connections."""
        return len(self) >= _BACKLOG

    def submit(self, newcomer: Newcomer, *, is_open: bool) -> None:
        """Serve the newcomer now if this turn has room and nobody waits, otherwise later.

        `is_open` tells whether its handshake is complete, so that a login is expected.
        """
        if not len(self) and self._turn.take():
            newcomer.serve(waited=False)
        else:
            self.withdraw(newcomer)
            (self._logins if is_open else self._requests)[newcomer] = None
            self._turn.continue_later()

    def withdraw(self, newcomer: Newcomer) -> bool:
        """Remove the newcomer from the queue. Return whether it was there."""
        absent = object()
        return any(queue.pop(newcomer, absent) is not absent for queue in (self._logins, self._requests))

    def _serve_waiting(self) -> None:
        if self._requests and self._turn.take():
            self._requests.popitem()[0].serve(waited=True)
        for queue in (self._logins, self._requests):
            while queue and self._turn.take():
                queue.popitem()[0].serve(waited=True)


def has_hung_up(file: int) -> bool:
    """Return whether the peer of this socket has closed its side. It costs 2 us.

    Return False where the operating system does not report it (only Linux does). The end of the data reports it there.
    """
    if not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(file, select.POLLRDHUP)
    return bool(poll.poll(0))
