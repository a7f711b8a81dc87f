"""The numbers that a server counts: plain integers and lists, because some of them change with each frame.

`exposition` converts them for Prometheus when somebody asks for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Protocol, get_args

from imsim.core import events, frames
from imsim.core.model import Code, Scene

#: The upper bounds of the buckets of each histogram, in seconds.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: The label for what a client sends under an unknown op, or not as a frame. So clients cannot add labels.
INVALID_OP = "invalid"

#: The reasons of an ended connection that have no code.
CLIENT_LEFT, NO_FILES = "client_left", "no_file_descriptor"

_MOST_SENDS = 1_000  # of a connection whose times are kept until the answer; beyond it, a send is not timed


class Peer(Protocol):
    """The part of a connection that belongs to its metrics."""

    sends: dict[str, float] | None  # the times of the sends that are not answered, by idClient
    end: str  # the reason why the server ended the connection, or ""

    @property
    def is_newcomer(self) -> bool:
        """Whether the client is not logged in."""
        ...


class Histogram:
    """A histogram of durations. `counts` has one element for each bound and one for longer durations."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Add a duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


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

    No count has users or conversations as labels, and all labels are known in advance.
    """

    __slots__ = (
        "_clock",
        "_epoch",
        "_notes",
        "bytes_received",
        "bytes_sent",
        "delivery",
        "disconnects",
        "end_to_end",
        "failures",
        "http",
        "logins",
        "loop_lag",
        "messages",
        "opened",
        "pushes",
        "received",
        "rejected",
        "repeated_pushes",
        "repeated_sends",
        "sent",
        "shed",
        "storage_failures",
        "storage_overloads",
        "store",
        "tokens_issued",
    )

    def __init__(self, clock: Callable[[], float], epoch: float) -> None:
        """`epoch` is the wall time, in seconds since 1970, at which `clock()` was 0."""
        self._clock = clock
        self._epoch = epoch
        codes = [code.value for code in Code]
        self.received = dict.fromkeys([*(frame.op for frame in get_args(frames.FromClient)), INVALID_OP], 0)
        self.sent = dict.fromkeys([frame.op for frame in get_args(frames.ToClient)], 0)
        self.bytes_received = 0
        self.bytes_sent = 0
        self.opened = 0  # WebSockets
        self.disconnects = dict.fromkeys([*codes, CLIENT_LEFT, NO_FILES], 0)  # reason -> WebSockets
        self.logins = dict.fromkeys(["ok", *codes], 0)
        self.rejected = dict.fromkeys(codes, 0)
        self.messages = dict.fromkeys([scene.value for scene in Scene], 0)
        self.pushes = 0  # first attempts
        self.repeated_pushes = 0
        self.repeated_sends = 0
        self.shed = 0
        self.store = Histogram()  # from the receipt of a send to its `stored`
        self.delivery = Histogram()  # from a push to its `delivered`
        self.end_to_end = Histogram()  # from the time of a message to its `delivered`
        self.loop_lag = Histogram()
        self.http: dict[tuple[str, int], int] = {}  # (path, status) -> requests
        self.tokens_issued = 0
        self.failures = {"accept": 0, "handshake": 0}  # of connections that did not open
        self.storage_failures = 0
        self.storage_overloads = 0
        #: The methods that note some of the frames to clients, by the type of the frame.
        self._notes: dict[type, Callable[[Peer, Any], None]] = {
            frames.Stored: self._stored,
            frames.Received: self._received_only,
            frames.Rejected: self._rejected,
            frames.LoggedIn: self._logged_in,
            frames.Refused: self._refused,
        }

    # --- frames -----------------------------------------------------------------------------------------------------

    def frame_received(self, peer: Peer, frame: frames.FromClient, size: int, now: float) -> None:
        """Count a frame of `size` bytes from a client."""
        self.received[frame.op] += 1
        self.bytes_received += size
        if type(frame) is frames.Send:
            if frame.resend:
                self.repeated_sends += 1
            sends = peer.sends
            if sends is None:
                peer.sends = {frame.id_client: now}
            elif len(sends) < _MOST_SENDS:
                sends.setdefault(frame.id_client, now)

    def invalid_received(self, size: int, op: str = INVALID_OP) -> None:
        """Count a message of a client that is not a valid frame. `op` is the one that it names."""
        self.received[op if op in self.received else INVALID_OP] += 1
        self.bytes_received += size

    def frame_sent(self, peer: Peer, frame: frames.ToClient, size: int) -> None:
        """Count a frame of `size` bytes to a client."""
        self.sent[frame.op] += 1
        self.bytes_sent += size
        note = self._notes.get(type(frame))
        if note is not None:
            note(peer, frame)

    def _stored(self, peer: Peer, frame: frames.Stored) -> None:
        since = peer.sends.pop(frame.id_client, None) if peer.sends else None
        if since is not None:
            self.store.observe(self._clock() - since)

    def _received_only(self, peer: Peer, frame: frames.Received) -> None:
        if frame.seq and peer.sends:  # the final answer, in a chatroom
            peer.sends.pop(frame.id_client, None)

    def _rejected(self, peer: Peer, frame: frames.Rejected) -> None:
        self.rejected[frame.code] += 1
        if peer.sends and frame.request == frames.Send.op:
            peer.sends.pop(frame.ref, None)

    def _logged_in(self, peer: Peer, frame: frames.LoggedIn) -> None:
        self.logins["ok"] += 1

    def _refused(self, peer: Peer, frame: frames.Refused) -> None:
        peer.end = frame.code
        self.disconnects[frame.code] += 1
        if peer.is_newcomer:
            self.logins[frame.code] += 1

    # --- events -----------------------------------------------------------------------------------------------------

    def event(self, event: events.ServerEvent) -> None:
        """Count an event of the core's server."""
        if isinstance(event, events.Pushed):
            if event.attempt == 1:
                self.pushes += 1
            else:
                self.repeated_pushes += 1
        elif isinstance(event, events.Delivered):
            self.delivery.observe(event.after)
            if event.message is not None:
                self.end_to_end.observe(max(0.0, self._epoch + self._clock() - event.message.time / 1000))
        elif isinstance(event, events.Committed):
            self.messages[event.message.scene] += 1
        else:
            self.shed += 1

    # --- connections and HTTP ---------------------------------------------------------------------------------------

    def opening_failed(self, step: str) -> None:
        """Count a connection that did not open: its "accept", or its "handshake" of TLS, failed."""
        self.failures[step] += 1

    def connection_lost(self, peer: Peer) -> None:
        """Count the end of a WebSocket, unless its reason has been counted."""
        if not peer.end:
            self.disconnects[CLIENT_LEFT] += 1

    def answered(self, path: str, status: int) -> None:
        """Count an answer over HTTP. `path` is one of the server's own paths, or another fixed text."""
        self.http[path, status] = self.http.get((path, status), 0) + 1
        if path == "/token" and status == 200:
            self.tokens_issued += 1
