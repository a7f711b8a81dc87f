"""The numbers that a server counts: plain integers and lists, because some of them change with each frame.

`exposition` converts them for Prometheus when somebody asks for them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import Protocol, get_args

from imsim.core import events, frames
from imsim.core.model import Code
from imsim.core.server import Server

#: The upper bounds of the buckets of each histogram, in seconds.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: The label for what a client sends under an unknown op, or not as a frame. So clients cannot add labels.
INVALID_OP = "invalid"

#: The reasons of an ended connection that have no code.
CLIENT_LEFT, NO_FILES = "client_left", "no_file_descriptor"

#: The frames to clients that contain a code, or are the result of a login.
NOTED = frozenset([frames.Rejected, frames.LoggedIn, frames.Refused])

_RECENT = 20_000  # durations that a histogram keeps until they are sorted into buckets


class Peer(Protocol):
    """The part of a connection that belongs to its metrics."""

    end: str  # the reason why the server ended the connection, or ""

    @property
    def is_newcomer(self) -> bool:
        """Whether the client is not logged in."""
        ...


class Histogram:
    """A histogram of durations. `counts` has one element for each bound and one for longer durations.

    To add a duration, append it to `recent`: that costs least. `sort` moves the recent durations into the buckets.
    """

    __slots__ = ("counts", "recent", "sum")

    def __init__(self, recent: deque[float] | None = None) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0
        self.recent = deque[float](maxlen=_RECENT) if recent is None else recent

    def sort(self) -> None:
        """Move the recent durations into the buckets."""
        if not self.recent:
            return
        # Searching the bounds in the sorted durations costs less than searching each duration in the bounds.
        durations = sorted(self.recent)
        self.recent.clear()
        self.sum += sum(durations)
        before = 0
        for bucket, bound in enumerate(BOUNDS):
            within = bisect_right(durations, bound, before)
            self.counts[bucket] += within - before
            before = within
        self.counts[-1] += len(durations) - before


def quantile(counts: list[int], share: float) -> float | None:
    """Return the quantile of a histogram's counts in seconds, interpolated within its bucket; None if it is empty.

    Beyond the last bound, it is the last bound.
    """
    rank = share * sum(counts)
    below = 0
    for index, count in enumerate(counts):
        if count and below + count >= rank:
            if index == len(BOUNDS):
                break
            lower = BOUNDS[index - 1] if index else 0.0
            return lower + (BOUNDS[index] - lower) * (rank - below) / count
        below += count
    return BOUNDS[-1] if rank else None


class Metrics:
    """The counts of a server since its start, and the methods with which the server updates them.

    The server changes the most frequent counts itself: a call would cost more than the count.

    No count has users or conversations as labels, and all labels are known in advance.
    """

    __slots__ = (
        "_machine",
        "chatroom_messages",
        "delivery",
        "disconnects",
        "failures",
        "http",
        "logins",
        "loop_lag",
        "opened",
        "received",
        "rejected",
        "repeated_pushes",
        "sent",
        "shed",
        "storage_failures",
        "storage_overloads",
        "store",
        "tokens_issued",
    )

    def __init__(self) -> None:
        codes = [code.value for code in Code]
        self.received = dict.fromkeys([*(frame.op for frame in get_args(frames.FromClient)), INVALID_OP], 0)
        self.sent = dict.fromkeys([frame.op for frame in get_args(frames.ToClient)], 0)
        self.opened = 0  # WebSockets
        self.disconnects = dict.fromkeys([*codes, CLIENT_LEFT, NO_FILES], 0)  # reason -> WebSockets
        self.logins = dict.fromkeys(["ok", *codes], 0)
        self.rejected = dict.fromkeys(codes, 0)
        self.chatroom_messages = 0
        self.repeated_pushes = 0
        self.shed = 0
        self._machine: Server | None = None
        self.store = Histogram()  # from the receipt of a send until its message is stored
        self.delivery = Histogram()  # from a push to its `delivered`
        self.loop_lag = Histogram()
        self.http: dict[tuple[str, int], int] = {}  # (path, status) -> requests
        self.tokens_issued = 0
        self.failures = {"accept": 0, "handshake": 0}  # of connections that did not open
        self.storage_failures = 0
        self.storage_overloads = 0

    def count(self, machine: Server) -> None:
        """Use the numbers that the core's server counts itself."""
        self._machine = machine
        self.delivery.recent = machine.delivery_times

    @property
    def repeated_sends(self) -> int:
        """The count of sends with resend = true."""
        return self._machine.repeated_sends if self._machine else 0

    # --- frames -----------------------------------------------------------------------------------------------------

    def invalid_received(self, op: str = INVALID_OP) -> None:
        """Count a message of a client that is not a valid frame. `op` is the one that it names."""
        self.received[op if op in self.received else INVALID_OP] += 1

    def note(self, peer: Peer, frame: frames.ToClient) -> None:
        """Count what a frame to a client says, if its type is in NOTED."""
        if isinstance(frame, frames.Rejected):
            self.rejected[frame.code] += 1
        elif isinstance(frame, frames.LoggedIn):
            self.logins["ok"] += 1
        elif isinstance(frame, frames.Refused):
            peer.end = frame.code
            self.disconnects[frame.code] += 1
            if peer.is_newcomer:
                self.logins[frame.code] += 1

    # --- events -----------------------------------------------------------------------------------------------------

    def event(self, event: events.ServerEvent) -> None:
        """Count an event of the core's server that is neither the first attempt of a push nor a stored message."""
        if isinstance(event, events.Pushed):
            self.repeated_pushes += 1
        elif isinstance(event, events.Committed):
            self.chatroom_messages += 1
        else:
            self.shed += 1

    def sort(self) -> None:
        """Sort recent durations into the buckets of the histograms."""
        for histogram in (self.store, self.delivery, self.loop_lag):
            histogram.sort()

    # --- connections and HTTP ---------------------------------------------------------------------------------------

    def opening_failed(self, step: str) -> None:
        """Count a connection that did not open: its "accept", or its "handshake" of TLS, failed."""
        self.failures[step] += 1

    def dropped(self, peer: Peer) -> None:
        """Count a WebSocket that the server ends to get a file descriptor."""
        peer.end = NO_FILES
        self.disconnects[NO_FILES] += 1

    def connection_lost(self, peer: Peer) -> None:
        """Count the end of a WebSocket, unless its reason has been counted."""
        if not peer.end:
            self.disconnects[CLIENT_LEFT] += 1

    def answered(self, path: str, status: int) -> None:
        """Count an answer over HTTP. `path` is one of the server's own paths, or another fixed text."""
        self.http[path, status] = self.http.get((path, status), 0) + 1
        if path == "/token" and status == 200:
            self.tokens_issued += 1
