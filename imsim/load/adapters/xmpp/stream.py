"""The stanzas to the server: their acks by stream management (XEP-0198), and the answers to requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple
from xml.etree.ElementTree import Element

from imsim.load.adapters.interface import Acked, Out, Read, Received
from imsim.load.adapters.xmpp.stanzas import Refusal, escaped

ACK_REQUEST = b"<r xmlns='urn:xmpp:sm:3'/>"
_MOST_UNASKED = 32  # stanzas without an event, after which the stream requests an ack

Reply = Callable[[Element, float], list[Out]]


class Outgoing(NamedTuple):
    """A stanza to the server.

    ack: the event to report when the server has handled it; None: none.
    at: the time of `send`.
    """

    frame: str
    ack: Acked | Received | Read | None = None
    at: float = 0.0

    @property
    def message(self) -> str | None:
        """The id of the message that it carries, or None."""
        return self.ack.id if isinstance(self.ack, Acked | Received) else None


class Stream:
    """The stanzas of a session of the server, which can outlive a connection.

    Attributes:
        counts: whether the server and the device count stanzas. Without it, no stanza is kept.
        queue: the stanzas that the server has not acknowledged.
        handled: the count of stanzas from the server.
        requested: whether an ack request waits for its answer.
    """

    __slots__ = ("_acknowledged", "_last_id", "_replies", "counts", "handled", "queue", "requested")

    def __init__(self) -> None:
        self.queue: deque[Outgoing] = deque()
        self.counts = False
        self.handled = 0
        self.requested = False
        self._acknowledged = 0
        self._replies: dict[str, Reply] = {}  # by the id of the request
        self._last_id = 0

    def begin(self) -> None:
        """Begin to count, in a new session of the server."""
        self.counts = True
        self.handled = self._acknowledged = 0

    def pause(self) -> None:
        """Stop to count, because the connection ended. The queue remains."""
        self.counts = self.requested = False

    def forget_requests(self) -> None:
        """Forget the requests, because the session of the server ended."""
        self._replies.clear()

    def put(self, outgoing: Outgoing) -> list[Out]:
        """Return the frames for a stanza: with an ack request, unless one waits for its answer."""
        frame = outgoing.frame.encode()
        if not self.counts:
            return [frame]
        self.queue.append(outgoing)
        if self.requested or (outgoing.ack is None and len(self.queue) < _MOST_UNASKED):
            return [frame]
        self.requested = True
        return [frame, ACK_REQUEST]

    def answered(self, h: int) -> list[Out]:
        """Handle the answer to an ack request: return its events, and a new request if a message is left."""
        outs = self.acknowledge(h)
        self.requested = any(outgoing.ack for outgoing in self.queue)
        if self.requested:
            outs.append(ACK_REQUEST)
        return outs

    def acknowledge(self, h: int) -> list[Out]:
        """Take the stanzas that the server has handled off the queue, and return their events."""
        count = (h - self._acknowledged) & 0xFFFF_FFFF  # the counters wrap around
        if count > len(self.queue):
            raise Refusal(f"the server acknowledged {h} stanzas, but got {self._acknowledged + len(self.queue)}")
        self._acknowledged = h
        done = [self.queue.popleft().ack for _ in range(count)]
        return [ack for ack in done if ack is not None]

    def take(self) -> deque[Outgoing]:
        """Take all stanzas off the queue."""
        taken, self.queue = self.queue, deque()
        return taken

    def ask(self, kind: str, to: str, query: str, reply: Reply | None = None) -> list[Out]:
        """Return the frames for a request. `reply` is called with its answer."""
        self._last_id += 1
        id = f"q{self._last_id}"
        if reply:
            self._replies[id] = reply
        target = f" to='{escaped(to)}'" if to else ""
        return self.put(Outgoing(f"<iq xmlns='jabber:client' type='{kind}' id='{id}'{target}>{query}</iq>"))

    def replied(self, iq: Element, now: float) -> list[Out]:
        """Handle the answer to a request, or a request of the server, which gets an answer."""
        id = iq.get("id", "")
        if iq.get("type") in ("result", "error"):
            reply = self._replies.pop(id, None)
            return reply(iq, now) if reply else []
        sender = iq.get("from")
        head = f"<iq xmlns='jabber:client' id='{escaped(id)}'" + (f" to='{escaped(sender)}'" if sender else "")
        if iq.find("{urn:xmpp:ping}ping") is not None:
            return self.put(Outgoing(f"{head} type='result'/>"))
        error = "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        return self.put(Outgoing(f"{head} type='error'><error type='cancel'>{error}</error></iq>"))
