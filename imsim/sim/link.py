"""Links: one direction of a connection between two nodes. All network delay is here."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from imsim.scenario import Draws, Streams
from imsim.scenario.sections import ClientLink
from imsim.scenario.sections import Link as LinkFields
from imsim.sim.clock import Clock
from imsim.sim.sizes import frame_bytes

_MANY = 32  # a link remembers this many frames before it looks for frames to forget
_JITTER, _LOSS = 0, 1  # the numbers of the draws for a frame besides its latency
_NEVER = -math.inf

Arrive = Callable[[Any], object]
Carry = Callable[[float, Arrive, Any], None]

#: The way from one node to another: a link's `way`, and the function that receives a frame at the other end.
Hop = tuple[Carry, Arrive]

#: Schedules an arrival instead of the link: called with (leaves, parts, at, arrive, frame), see `Link.watch`.
Watch = Callable[[float, tuple[float, float, float], float, Arrive, Any], None]


class Medium:
    """The properties that the links of a network share: the delays and losses, their random draws and the clock.

    Each link draws its latencies from one of `streams`. `chances` gives the draws for single frames (jitter and loss),
    by the frame's position in that stream. So a change of jitter or loss does not change the latencies.
    `bandwidth`: bytes per second of each link, or None for no limit.
    """

    __slots__ = (
        "bandwidth",
        "chances",
        "clock",
        "constant",
        "is_plain",
        "jitter",
        "latency_of",
        "loss",
        "most",
        "retransmit",
        "streams",
    )

    def __init__(
        self, fields: LinkFields, clock: Clock, streams: Streams, chances: Draws, bandwidth: float | None = None
    ) -> None:
        self.clock = clock
        self.streams = streams
        self.chances = chances
        self.bandwidth = bandwidth
        self.latency_of = fields.latency.quantile
        self.jitter = None if fields.jitter.constant == 0 else fields.jitter
        self.loss = fields.loss
        self.retransmit = fields.retransmit
        most = fields.max_retransmits if isinstance(fields, ClientLink) else None
        self.most = math.inf if most is None else most
        self.is_plain = not (self.jitter or bandwidth)  # the delay depends on latency and loss only
        self.constant = fields.latency.constant if self.is_plain else None


class ClientNetwork(NamedTuple):
    """The network of some users' devices: the media of their links `up` to a gateway and `down` from it."""

    fields: ClientLink
    up: Medium
    down: Medium


class Link:
    """A link between a device and its gateway.

    Frames arrive in the order of the calls to `carry`, as with TCP: a late frame delays the frames behind it.
    """

    __slots__ = ("_free", "_last", "_medium", "_number", "_parts", "_watch", "loss", "on_broken")

    def __init__(self, medium: Medium, number: int) -> None:
        """`number`: the number of the link's stream."""
        self._medium = medium
        self._number = number
        self._free = _NEVER  # when the last frame is sent
        self._last = _NEVER  # when the last frame arrives
        self.loss = medium.loss
        #: Called with the time at which the sender gives up the connection. The link carries nothing after that time.
        self.on_broken: Callable[[float], object] | None = None
        #: Three times of the latest frame on a watched link: the start of its transmission, its arrival without loss
        #: and its arrival with loss.
        self._parts = (0.0, 0.0, 0.0)
        self._watch: Watch | None = None

    @property
    def gives_up(self) -> bool:
        """Whether a frame can be lost so often that the connection breaks."""
        return self._medium.most < math.inf

    def watch(self, watch: Watch) -> None:
        """Let `watch` schedule the arrivals from now on. It also receives the parts of each frame's delay."""
        self._watch = watch

    def forget(self) -> None:
        """Forget the frames that have not left: later frames need not wait for them."""
        self._free = self._last = _NEVER

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None:
        """Send a frame that leaves at the time `leaves`, in seconds. On its arrival, `arrive(frame)` is called."""
        medium = self._medium
        if medium.is_plain and self._watch is None:
            loss = self.loss
            if not loss and medium.constant is not None:
                # The latency is constant, so no frame can overtake another.
                medium.clock.call_at(leaves + medium.constant, arrive, frame)
                return
            name, u = medium.streams.draw(self._number)
            at = leaves + medium.latency_of(u)
            if loss and (u := medium.chances.at(name, _LOSS)) < loss:
                at += self._lost(u, leaves)
        else:
            at = self._arrival(leaves, frame)
        if at == math.inf:
            return
        if at < self._last:
            at = self._last
        self._last = at
        if self._watch is None:
            medium.clock.call_at(at, arrive, frame)
        else:
            self._watch(leaves, self._parts, at, arrive, frame)

    def _arrival(self, leaves: float, frame: Any) -> float:
        """Return the arrival time of a frame if none were ahead of it. Infinity: the connection breaks."""
        medium = self._medium
        begins = sent = leaves
        if medium.bandwidth is not None:
            begins = max(leaves, self._free)
            self._free = sent = begins + frame_bytes(frame) / medium.bandwidth
        name, u = medium.streams.draw(self._number)
        at = sent + medium.latency_of(u)
        if medium.jitter is not None:
            at += medium.jitter.quantile(medium.chances.at(name, _JITTER))
        lossless = at
        if self.loss and (u := medium.chances.at(name, _LOSS)) < self.loss:
            at += self._lost(u, sent)
        if self._watch is not None:
            self._parts = (begins, lossless, at)
        return at

    def _lost(self, u: float, sent: float) -> float:
        """Return the delay, in seconds, of a frame that is lost at least once. Infinity: the connection breaks."""
        medium = self._medium
        lost = int(math.log(u) / math.log(self.loss))  # geometric: each transmission is lost with probability `loss`
        if lost <= medium.most:
            return lost * medium.retransmit
        if self.on_broken is not None:
            self.on_broken(sent + (medium.most + 1) * medium.retransmit)
        return math.inf


class FreeLink:
    """A link that takes no time. Any number of connections can share it.

    Frames arrive in the order of the calls to `carry`. The frames that an arrival causes arrive before any other event.
    """

    __slots__ = ("_at", "_waiting", "loss", "on_broken")

    gives_up = False

    def __init__(self, clock: Clock) -> None:
        self._at = clock.delay(0.0)
        self._waiting: deque[tuple[Arrive, Any]] = deque()
        self.loss = 0.0
        self.on_broken: Callable[[float], object] | None = None

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None:
        if not self._waiting:
            self._at(leaves, self._arrive, None)
        self._waiting.append((arrive, frame))

    def _arrive(self, _: None) -> None:
        waiting = self._waiting
        while waiting:
            arrive, frame = waiting[0]
            arrive(frame)
            waiting.popleft()

    def forget(self) -> None:
        """Do nothing: a frame leaves at once, so there is none to forget."""


class NodeLink(Link):
    """A link between two servers, which have one permanent connection.

    Frames arrive in the order in which they leave. This can differ from the order of the calls to `carry`: with several
    workers, a later job can be done earlier.
    """

    __slots__ = ("_latest", "_left", "_passed")

    def __init__(self, medium: Medium, number: int) -> None:
        super().__init__(medium, number)
        self._left = _NEVER  # the latest time at which a frame leaves
        #: The frames that may not have left yet, as (leaves, bound), ascending: no frame that leaves later arrives
        #: before the bound.
        self._latest: list[tuple[float, float]] = []
        self._passed = _NEVER  # the bound of the frames that have left and are forgotten

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None:
        # Repeats `Link.carry` with another order of arrival: a method call for the order would slow down every hop.
        medium = self._medium
        if medium.is_plain and not self.loss and self._watch is None:
            if medium.constant is not None:
                medium.clock.call_at(leaves + medium.constant, arrive, frame)
                return
            _, u = medium.streams.draw(self._number)
            at = leaves + medium.latency_of(u)
        else:
            at = self._arrival(leaves, frame)
        if leaves < self._left:
            at = self._among_others(leaves, at)
        else:
            if at < self._last:
                at = self._last
            self._left, self._last = leaves, at
            self._latest.append((leaves, at))
            if len(self._latest) > _MANY:
                self._forget()
        if self._watch is None:
            medium.clock.call_at(at, arrive, frame)
        else:
            self._watch(leaves, self._parts, at, arrive, frame)

    def way(self) -> Carry:
        """Return the fastest function that does what `carry` does."""
        constant = None if self.loss or self._watch else self._medium.constant
        return self.carry if constant is None else self._medium.clock.delay(constant)

    def _forget(self) -> None:
        gone = bisect_right(self._latest, (self._medium.clock.now, math.inf))
        if gone:
            self._passed = self._latest[gone - 1][1]
            del self._latest[:gone]

    def _among_others(self, leaves: float, at: float) -> float:
        """Return the arrival time of a frame that leaves before frames of earlier calls. Adjust their bounds."""
        latest = self._latest
        position = bisect_right(latest, (leaves, math.inf))
        at = max(at, latest[position - 1][1] if position else self._passed)
        latest.insert(position, (leaves, at))
        for later in range(position + 1, len(latest)):
            if latest[later][1] >= at:
                return at
            # This frame is already scheduled and keeps its time. The bound is for the frames behind it.
            latest[later] = (latest[later][0], at)
        self._last = max(self._last, at)
        return at
