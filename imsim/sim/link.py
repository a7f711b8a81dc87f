"""A link: one direction of a connection between two nodes."""

from __future__ import annotations

from imsim.scenario import Stream
from imsim.scenario.sections import Link as LinkFields


class Link:
    """Delay lives here: latency, and what lost transmissions add. Frames keep their order, as TCP keeps it: one that
    is late holds up those behind it."""

    __slots__ = ("_constant", "_fields", "_last", "_stream")

    def __init__(self, fields: LinkFields, stream: Stream) -> None:
        self._fields = fields
        self._constant = fields.latency.constant if fields.loss == 0 else None
        self._stream = stream
        self._last = float("-inf")

    def arrival(self, now: float) -> float:
        """When a frame that leaves now, in seconds, will arrive. Calls in the order of leaving, unless the latency is
        constant: then nobody can get ahead of anybody, whatever the order of the calls."""
        if self._constant is not None:
            return now + self._constant
        latency = self._fields.latency.quantile(self._stream.next())
        while self._fields.loss and self._stream.next() < self._fields.loss:
            latency += self._fields.retransmit
        at = now + latency
        if at < self._last:
            at = self._last
        self._last = at
        return at
