"""A link: one direction of a connection between two nodes. Delay lives here."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from imsim.scenario import Draws, Stream
from imsim.scenario.sections import ClientLink
from imsim.scenario.sections import Link as LinkFields
from imsim.sim.clock import Clock
from imsim.sim.sizes import frame_bytes

_MANY = 32  # frames of a link that are remembered before it looks which can be forgotten
_JITTER, _LOSS = 0, 1  # what is drawn for a frame besides its latency

Arrive = Callable[[Any], object]
Carry = Callable[[float, Arrive, Any], None]

#: The way from one node to another: a link's `way`, and what is called at the other end.
Hop = tuple[Carry, Arrive]

#: In place of scheduling an arrival: (leaves, parts, at, arrive, frame), see `Link.watch`.
Watch = Callable[[float, tuple[float, float, float], float, Arrive, Any], None]


class Link:
    """Between a device and its gateway. Frames keep the order in which `carry` is called, as TCP keeps it: one that is
    late holds up those behind it.

    `chances` is for what happens to single frames (jitter, loss); it is drawn by the position in `stream`, which is the
    latencies', so that more of the one leaves the other as it was. `bandwidth`: bytes per second; None: without limit.
    """

    __slots__ = (
        "_bandwidth",
        "_chances",
        "_clock",
        "_constant",
        "_fields",
        "_free",
        "_is_plain",
        "_jitter",
        "_last",
        "_latency",
        "_most",
        "_parts",
        "_stream",
        "_watch",
        "loss",
        "on_broken",
    )

    def __init__(
        self, fields: LinkFields, stream: Stream, clock: Clock, chances: Draws, bandwidth: float | None = None
    ) -> None:
        jitter = fields.jitter
        self._fields = fields
        self._stream = stream
        self._clock = clock
        self._chances = chances
        self._latency = fields.latency
        self._jitter = None if jitter.constant == 0 else jitter
        self._bandwidth = bandwidth
        most = fields.max_retransmits if isinstance(fields, ClientLink) else None
        self._most = math.inf if most is None else most
        self._free = -math.inf  # when the last frame is sent
        self._last = -math.inf  # when the last frame arrives
        self.loss = fields.loss
        #: Called with the time at which the sender gives the connection up; from then on nothing is carried.
        self.on_broken: Callable[[float], object] | None = None
        #: Of the latest frame, where it is watched: when it began to be sent, when it would have come without loss, and
        #: when with it.
        self._parts = (0.0, 0.0, 0.0)
        self._watch: Watch | None = None
        self._is_plain = False
        self._constant: float | None = None
        self.recompute()

    def recompute(self) -> None:
        """Choose the short way where nothing but the latency counts."""
        self._is_plain = not (self._watch or self.loss or self._jitter or self._bandwidth)
        self._constant = self._fields.latency.constant if self._is_plain else None

    def watch(self, watch: Watch) -> None:
        """From now on leave it to `watch` to schedule what arrives; it is also given the parts of the way."""
        self._watch = watch
        self.recompute()

    def forget(self) -> None:
        """What is still to leave will not: nothing waits for it."""
        self._free = self._last = -math.inf

    def way(self) -> Carry:
        """The shortest way to `carry`, as long as nothing is recomputed."""
        return self.carry if self._constant is None else self._clock.delay(self._constant)

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None:
        """Have `arrive(frame)` called when a frame arrives that leaves at the time `leaves`, in seconds."""
        if self._constant is not None:
            # No frame can get ahead of another, whatever the order of the calls.
            self._clock.call_at(leaves + self._constant, arrive, frame)
            return
        if self._is_plain:
            at = leaves + self._latency.quantile(self._stream.next())
        else:
            at = self._with_everything(leaves, frame)
            if at == math.inf:
                return
        if at < self._last:
            at = self._last
        self._last = at
        if self._watch is None:
            self._clock.call_at(at, arrive, frame)
        else:
            self._watch(leaves, self._parts, at, arrive, frame)

    def _with_everything(self, leaves: float, frame: Any) -> float:
        """When it would arrive if none were before it; infinity where the connection breaks."""
        begins = sent = leaves
        if self._bandwidth is not None:
            begins = max(leaves, self._free)
            self._free = sent = begins + frame_bytes(frame) / self._bandwidth
        name = self._stream.place
        at = sent + self._latency.quantile(self._stream.next())
        if self._jitter is not None:
            at += self._jitter.quantile(self._chances.at(name, _JITTER))
        unspoilt = at
        if self.loss and (u := self._chances.at(name, _LOSS)) < self.loss:
            lost = int(math.log(u) / math.log(self.loss))  # geometric: each transmission is lost with this chance
            if lost > self._most:
                if self.on_broken is not None:
                    self.on_broken(sent + (self._most + 1) * self._fields.retransmit)
                return math.inf
            at += lost * self._fields.retransmit
        if self._watch is not None:
            self._parts = (begins, unspoilt, at)
        return at


class NodeLink(Link):
    """Between two servers, which send to each other over one lasting connection. Frames keep the order in which they
    leave, which need not be that of the calls: where several workers are at it, what came later may be done earlier."""

    __slots__ = ("_latest", "_left", "_passed")

    def __init__(
        self, fields: LinkFields, stream: Stream, clock: Clock, chances: Draws, bandwidth: float | None = None
    ) -> None:
        super().__init__(fields, stream, clock, chances, bandwidth)
        self._left = -math.inf  # when the last of them leaves
        #: (leaves, before when none that leaves later arrives), ascending: those that may not have left yet.
        self._latest: list[tuple[float, float]] = []
        self._passed = -math.inf  # the same of those that have left, and are forgotten

    def carry(self, leaves: float, arrive: Arrive, frame: Any) -> None:
        # The same as above except for the order; a call for the part that differs would cost every hop.
        if self._constant is not None:
            self._clock.call_at(leaves + self._constant, arrive, frame)
            return
        if self._is_plain:
            at = leaves + self._latency.quantile(self._stream.next())
        else:
            at = self._with_everything(leaves, frame)
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
            self._clock.call_at(at, arrive, frame)
        else:
            self._watch(leaves, self._parts, at, arrive, frame)

    def _forget(self) -> None:
        gone = bisect_right(self._latest, (self._clock.now, math.inf))
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
