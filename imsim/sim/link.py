"""A link: one direction of a connection between two nodes. Delay lives here."""

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

_MANY = 32  # frames of a link that are remembered before it looks which can be forgotten
_JITTER, _LOSS = 0, 1  # what is drawn for a frame besides its latency
_NEVER = -math.inf

Arrive = Callable[[Any], object]
Carry = Callable[[float, Arrive, Any], None]

#: The way from one node to another: a link's `way`, and what is called at the other end.
Hop = tuple[Carry, Arrive]

#: In place of scheduling an arrival: (leaves, parts, at, arrive, frame), see `Link.watch`.
Watch = Callable[[float, tuple[float, float, float], float, Arrive, Any], None]


class Medium:
    """What the links of a network have in common: how long frames take, and what that is drawn and scheduled with.

    Each link draws its latencies from one of `streams`. `chances` is for what happens to single frames (jitter, loss);
    it is drawn by the position in that stream, so that more of the one leaves the other as it was. `bandwidth`: bytes
    per second, of each link; None: without limit.
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
        self.is_plain = not (self.jitter or bandwidth)  # nothing but the latency counts, and loss
        self.constant = fields.latency.constant if self.is_plain else None


class ClientNetwork(NamedTuple):
    """What the devices of some users are connected by: of their links `up` to a gateway and `down` from it."""

    fields: ClientLink
    up: Medium
    down: Medium


class Link:
    """Between a device and its gateway. Frames keep the order in which `carry` is called, as TCP keeps it: one that is
    late holds up those behind it."""

    __slots__ = ("_free", "_last", "_medium", "_number", "_parts", "_watch", "loss", "on_broken")

    def __init__(self, medium: Medium, number: int) -> None:
        """`number`: of its stream."""
        self._medium = medium
        self._number = number
        self._free = _NEVER  # when the last frame is sent
        self._last = _NEVER  # when the last frame arrives
        self.loss = medium.loss
        #: Called with the time at which the sender gives the connection up; from then on nothing is carried.
        self.on_broken: Callable[[float], object] | None = None
        #: Of the latest frame, where it is watched: when it began to be sent, when it would have come without loss, and
        #: when with it.
        self._parts = (0.0, 0.0, 0.0)
        self._watch: Watch | None = None

    @property
    def gives_up(self) -> bool:
        """Whether a frame can be lost so often that the connection breaks."""
        return self._medium.most < math.inf

    def watch(self, watch: Watch) -> None:
        """From now on leave it to `watch` to schedule what arrives; it is also given the parts of the way."""
        self._watch = watch

    def forget(self) -> None:
        """What is still to leave will not: nothing waits for it."""
        self._free = self._last = _NEVER

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None:
        """Have `arrive(frame)` called when a frame arrives that leaves at the time `leaves`, in seconds."""
        medium = self._medium
        if medium.is_plain and self._watch is None:
            loss = self.loss
            if not loss and medium.constant is not None:
                # No frame can get ahead of another, whatever the order of the calls.
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
        """When it would arrive if none were before it; infinity where the connection breaks."""
        medium = self._medium
        begins = sent = leaves
        if medium.bandwidth is not None:
            begins = max(leaves, self._free)
            self._free = sent = begins + frame_bytes(frame) / medium.bandwidth
        name, u = medium.streams.draw(self._number)
        at = sent + medium.latency_of(u)
        if medium.jitter is not None:
            at += medium.jitter.quantile(medium.chances.at(name, _JITTER))
        unspoilt = at
        if self.loss and (u := medium.chances.at(name, _LOSS)) < self.loss:
            at += self._lost(u, sent)
        if self._watch is not None:
            self._parts = (begins, unspoilt, at)
        return at

    def _lost(self, u: float, sent: float) -> float:
        """By how much a frame is late that is lost at least once; infinity where the connection breaks."""
        medium = self._medium
        lost = int(math.log(u) / math.log(self.loss))  # geometric: each transmission is lost with this chance
        if lost <= medium.most:
            return lost * medium.retransmit
        if self.on_broken is not None:
            self.on_broken(sent + (medium.most + 1) * medium.retransmit)
        return math.inf


class FreeLink:
    """Takes no time. Any number of connections can share it: what one thing leads to comes in the order of the calls,
    before anything else happens."""

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
        """Nothing is ever still to leave."""


class NodeLink(Link):
    """Between two servers, which send to each other over one lasting connection. Frames keep the order in which they
    leave, which need not be that of the calls: where several workers are at it, what came later may be done earlier."""

    __slots__ = ("_latest", "_left", "_passed")

    def __init__(self, medium: Medium, number: int) -> None:
        super().__init__(medium, number)
        self._left = _NEVER  # when the last of them leaves
        #: (leaves, before when none that leaves later arrives), ascending: those that may not have left yet.
        self._latest: list[tuple[float, float]] = []
        self._passed = _NEVER  # the same of those that have left, and are forgotten

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None:
        # The same as above except for the order; a call for the part that differs would cost every hop.
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
        """The shortest way to `carry`."""
        constant = None if self.loss or self._watch else self._medium.constant
        return self.carry if constant is None else self._medium.clock.delay(constant)

    def _forget(self) -> None:
        gone = bisect_right(self._latest, (self._medium.clock.now, math.inf))
        if gone:
            self._passed = self._latest[gone - 1][1]
            del self._latest[:gone]

    def _among_others(self, leaves: float, at: float) -> float:
        """The same for one that leaves before others that were announced earlier."""
        latest = self._latest
        position = bisect_right(latest, (leaves, math.inf))
        at = max(at, latest[position - 1][1] if position else self._passed)
        latest.insert(position, (leaves, at))
        for later in range(position + 1, len(latest)):
            if latest[later][1] >= at:
                return at
            latest[later] = (latest[later][0], at)  # too late for that one, but not for those behind it
        self._last = max(self._last, at)
        return at
