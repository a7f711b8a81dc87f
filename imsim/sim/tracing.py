"""Tracing: records the spans of each delivery, which show where its time went.

Every event in a simulated world has a cause. A traced run records the causes: each call that its clock schedules
carries the chain of spans that led to it, and links and stations add their spans to the chain. A machine can keep a
message for later: it waits for its turn in the log, its push is repeated, or it arrives before its predecessor. The
message then continues from the end of its own chain.

The nodes do not know of the tracing. `Tracer` creates its own clocks, stations and link watches for them. The other
rows are equal to those of an untraced run. Tracing takes about half as much time again, and memory for every message.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Message
from imsim.core.timers import Timer
from imsim.results.spans import KINDS, span_table
from imsim.scenario import Plan
from imsim.scenario.actor import intent_of
from imsim.scenario.sections import Tier
from imsim.sim.clock import Clock, Ring
from imsim.sim.link import Arrive, Watch
from imsim.sim.nodes import DeviceNode
from imsim.sim.nodes.work import Work
from imsim.sim.outages import Sent

if TYPE_CHECKING:
    import pyarrow as pa

_OFFLINE, _LINK, _LINK_QUEUE, _RETRANSMIT, _QUEUE, _SERVICE, _RETRY, _HOLD = range(len(KINDS))

#: The operations that send a frame to a client: their only consequence is that the frame leaves.
_TO_CLIENT = frozenset(frame.op for frame in get_args(frames.ToClient))
_WITH_MESSAGES = (frames.Page, frames.SyncDone, frames.HistoryPage, frames.Entered)


class Span:
    """One part of a chain: the time from the end of its parent to its own end.

    The root of a chain has no parent and no length: it marks the beginning of the chain and is not a recorded span.

    intent: the message that the chain is about, from its intended time on. None for other chains, such as a login.
    since: the time at which the chain begins.
    root_kind: the kind of the wait before the beginning, for messages that had to wait for this chain.
    row: the row of the span in the recorded table. 0 for the root, -1 if the span is not recorded yet.
    """

    __slots__ = ("end", "intent", "kind", "op", "parent", "root_kind", "row", "since", "where")

    def __init__(self, parent: Span | None, end: float, kind: int, where: str, op: str, intent: int | None = None):
        self.parent = parent
        self.end = end
        self.kind = kind
        self.where = where
        self.op = op
        if parent is None:
            self.row = 0
            self.intent, self.since, self.root_kind = intent, end, kind
        else:
            self.row = -1
            self.intent, self.since, self.root_kind = parent.intent, parent.since, parent.root_kind

    def until(self, end: float, kind: int, where: str, op: str = "") -> Span:
        """Return the chain extended by a span up to `end`, or the chain itself if the span would have no length."""
        return Span(self, end, kind, where, op) if end > self.end else self

    def through(self, parts: Iterable[tuple[float, int]], where: str, op: str = "") -> Span:
        """Return the chain extended by a span for each (end, kind). Spans without length are left out."""
        span = self
        for end, kind in parts:
            if end > span.end:
                span = Span(span, end, kind, where, op)
        return span

    def parts(self) -> list[Span]:
        """Return the spans of the chain from first to last, without the root."""
        found, span = [], self
        while span.parent is not None:
            found.append(span)
            span = span.parent
        return found[::-1]


class Tracer:
    """Records the chains of a run.

    current: the chain that led to the present call. None if no chain did, as for the call of a timer.
    departing: the chain of the frame that is about to leave a gateway, if it is not `current`.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.current: Span | None = None
        self.departing: Span | None = None
        self.works: list[TracedWork] = []
        # The chain of each message up to a certain step.
        self.sent: dict[int, Span] = {}  # up to its latest send
        self.visible: dict[int, Span] = {}  # up to the time when storage carried out its append and others can read it
        self.stored: dict[int, Span] = {}  # up to the time when its router knew that it is stored
        self.pushed: dict[tuple[int, int], Span] = {}  # by (message, device), up to its arrival at the gateway
        self.arrived: dict[tuple[int, int], Span] = {}  # by (message, device), up to its arrival at the device
        self._done: set[tuple[int, int]] = set()
        self._shown = array("q")  # four values for each delivery, see `span_table`
        self._spans = array("q", (0, 0, 0, 0))  # for each recorded span: the row of its parent, kind, where, op
        self._ends = array("d", (0.0,))
        self._names = defaultdict[str, int](count().__next__)  # a new name receives the next number

    # --- the parts of a traced run ----------------------------------------------------------------------------------

    def clock(self, start: float) -> Clock:
        self._clock = TracingClock(start, self)
        return self._clock

    def work(self, tier: Tier, seed: int, kind: str, index: int, clock: Clock) -> Work:
        self.works.append(TracedWork(tier, seed, kind, index, clock, self))
        return self.works[-1]

    def link(self, where: str, work: Work | None) -> Watch:
        """Return the watch of a link. `work`: the work of the source node, or None if the source is a device."""
        return LinkTrace(self, self._clock, where, work)

    def client_frame(self, device: int, frame: Any) -> bool:
        """Record the arrival of a frame at a device. Return False: the device does not lose the frame."""
        if type(frame) is frames.Push:
            self._record_arrivals((frame.message,), device)
        elif isinstance(frame, _WITH_MESSAGES):
            self._record_arrivals(frame.messages, device)
        return False

    def client_event(self, client: DeviceNode, event: events.ClientEvent) -> None:
        if type(event) is events.Sent:
            if (intent := intent_of(event.id_client)) is not None:
                self._record_send(intent, client.now)
        elif type(event) is events.Shown and (intent := intent_of(event.message.id_client)) is not None:
            self._record_shown(intent, client.number, client.now)

    # --- chains -----------------------------------------------------------------------------------------------------

    def base(self, at: float) -> Span:
        """Return the current chain, or a new one that begins at the time `at`."""
        return Span(None, at, _HOLD, "", "") if self.current is None else self.current

    def own(self, intent: int | None, known: Span | None, now: float, kind: int, where: str) -> Span | None:
        """Return the chain of a message: the current one if it is about the message, otherwise `known` plus a wait."""
        current = self.current
        if intent is None or known is None or (current is not None and current.intent == intent):
            return current
        return known.until(now, kind, where)

    def pushes(self, intent: int | None, device: int, now: float, where: str) -> Span | None:
        """Return the chain of a push that a gateway sends, for the first time or again."""
        if intent is None:
            return self.current
        key = (intent, device)
        if self.current is not None and self.current.intent == intent:
            self.pushed[key] = self.current
        return self.own(intent, self.pushed.get(key), now, _RETRY, where)

    def _record_send(self, intent: int, now: float) -> None:
        before = self.sent.get(intent)
        if before is not None:
            self.sent[intent] = before.until(now, _RETRY, "client", "send")
        else:
            root = Span(None, int(self._plan.at[intent]) / 1e9, _HOLD, "", "", intent)
            self.sent[intent] = root.until(now, _OFFLINE, "client", "send")

    def _record_arrivals(self, messages: Iterable[Message], device: int) -> None:
        """Record the first arrival of these messages at a device. It may not be able to show them yet."""
        if self.current is not None:
            for message in messages:
                intent = intent_of(message.id_client)
                if intent is not None and (intent, device) not in self._done:
                    self.arrived.setdefault((intent, device), self.current)

    def _record_shown(self, intent: int, device: int, now: float) -> None:
        key = (intent, device)
        if key in self._done:
            return
        self._done.add(key)
        self.pushed.pop(key, None)
        arrived = self.arrived.pop(key, None)
        chain = self.current
        if chain is None or chain.intent != intent:
            chain = arrived or chain
        self._shown.extend((*key, self._row_of(self._until_shown(intent, chain, now)), round(now * 1e9)))

    def _until_shown(self, intent: int, chain: Span | None, now: float) -> Span:
        """Return the chain that ends when the message is shown, which is now."""
        if chain is not None and chain.intent == intent:
            return chain.until(now, _HOLD, "client", "gap")
        # The message arrived in the answer to a login or to another request. Its own chain ends at the time from which
        # the request could read it. From that time on, the chain of the request counts.
        own = self.stored.get(intent)
        if own is None or (chain is not None and own.end > chain.since):
            own = self.visible.get(intent) or self.sent.get(intent)
        found = own or Span(None, -np.inf, _HOLD, "", "")
        if chain is not None:
            found = found.until(chain.since, chain.root_kind, "client", "sync")
            for span in chain.parts():
                found = found.until(span.end, span.kind, span.where, span.op)
        return found.until(now, _HOLD, "client", "gap")

    def _row_of(self, span: Span) -> int:
        """Return the row of a span and record it if necessary. A span of several deliveries is recorded once."""
        last, new = span, []
        while span.row < 0:
            new.append(span)
            assert span.parent is not None
            span = span.parent
        row, names = span.row, self._names
        for span in reversed(new):
            self._spans.extend((row, span.kind, names[span.where], names[span.op]))
            span.row = row = len(self._ends)
            self._ends.append(span.end)
        return last.row

    def table(self, deliveries: pa.Table) -> pa.Table:
        """Return the table of the spans of these deliveries."""
        shown = np.array(self._shown, np.int64).reshape(-1, 4)
        spans = np.array(self._spans, np.int64).reshape(-1, 4)
        return span_table(self._plan, shown, spans, np.array(self._ends), list(self._names), deliveries)


class TracingClock(Clock):
    """A clock that keeps with each scheduled call the chain that led to it. The calls of timers have no chain."""

    __slots__ = ("_tracer",)

    def __init__(self, initial_time: float, tracer: Tracer) -> None:
        super().__init__(initial_time)
        self._tracer = tracer

    def call_at(self, at: float, function: Arrive, argument: Any) -> None:
        super().call_at(at, self._resume, (self._tracer.current, function, argument))

    def call_after(self, chain: Span | None, at: float, function: Arrive, argument: Any) -> None:
        """Call `function(argument)` at the time `at`, with this chain instead of the current one."""
        super().call_at(at, self._resume, (chain, function, argument))

    def timer_at(self, at: float, ring: Ring, callback: Any, argument: Any) -> Timer:
        return super().timer_at(at, TracedRing(self._tracer, ring), callback, argument)

    def _resume(self, call: tuple[Span | None, Arrive, Any]) -> None:
        self._tracer.departing = None
        self._tracer.current, function, argument = call
        function(argument)


class TracedRing:
    """The owner of a timer in a traced run: it resets the chains before the timer's callback runs."""

    __slots__ = ("_ring", "_tracer")

    def __init__(self, tracer: Tracer, ring: Ring) -> None:
        self._tracer = tracer
        self._ring = ring

    def ring(self, timer: Timer) -> None:
        self._tracer.departing = self._tracer.current = None
        self._ring.ring(timer)


class LinkTrace:
    """The watch of a link: it adds the spans of the link to the chain of each frame."""

    __slots__ = ("_chain_of", "_clock", "_is_new", "_tracer", "_where", "_work")

    def __init__(self, tracer: Tracer, clock: TracingClock, where: str, work: Work | None) -> None:
        self._tracer = tracer
        self._clock = clock
        self._where = where
        self._work = work
        self._chain_of: Callable[[float, Any], Span | None] = {
            "uplink": self._from_client,
            "downlink": self._to_client,
            "router-storage": self._to_storage,
            "router-router": self._to_router,
            "router-gateway": self._to_gateway,
        }.get(where, self._current)
        self._is_new = True

    def __call__(self, leaves: float, parts: tuple[float, float, float], at: float, arrive: Arrive, frame: Any) -> None:
        begins, lossless, arrives = parts
        sent = frame.frame if type(frame) is Sent else frame
        where = self._where
        chain = self._chain_of(leaves, sent) or Span(None, leaves, _HOLD, "", "")
        way = ((leaves, _HOLD), (begins, _LINK_QUEUE), (lossless, _LINK), (arrives, _RETRANSMIT), (at, _LINK_QUEUE))
        chain = chain.through(way, where)
        if where == "storage-router":
            request, result = sent
            if type(request) is storage.Append and type(result) is storage.Appended:
                arrive, frame = self._stored, (request, arrive, frame)
        self._clock.call_after(chain, at, arrive, frame)

    def _stored(self, answer: tuple[storage.Append, Arrive, Any]) -> None:
        """Record that a message is stored when its router receives the answer."""
        request, arrive, frame = answer
        intent = intent_of(request.message.id_client)
        if intent is not None and self._tracer.current is not None:
            self._tracer.stored[intent] = self._tracer.current
        arrive(frame)

    def _current(self, leaves: float, frame: Any) -> Span | None:
        return self._tracer.current

    def _from_client(self, leaves: float, frame: Any) -> Span | None:
        if self._is_new:  # the first frame of a connection is the connection attempt
            self._is_new = False
            return Span(None, leaves, _OFFLINE, "", "")
        if type(frame) is frames.Send and (intent := intent_of(frame.id_client)) is not None:
            return self._tracer.sent.get(intent, self._tracer.current)
        return self._tracer.current

    def _to_client(self, leaves: float, frame: Any) -> Span | None:
        tracer = self._tracer
        chain, tracer.departing = tracer.departing, None
        return chain or tracer.current

    def _to_storage(self, leaves: float, asked: Any) -> Span | None:
        request = asked[1]
        if type(request) is storage.Append and (intent := intent_of(request.message.id_client)) is not None:
            assert isinstance(self._work, TracedWork)
            known = self._work.sends.pop(intent, None)
            return self._tracer.own(intent, known, leaves, _HOLD, self._work.name)
        return self._tracer.current

    def _to_router(self, leaves: float, frame: Any) -> Span | None:
        assert isinstance(self._work, TracedWork)
        return self._work.chain_of_delivery(leaves, frame)

    def _to_gateway(self, leaves: float, frame: Any) -> Span | None:
        if type(frame) is internal_frames.Down and type(frame.frame) is frames.Push:
            assert isinstance(self._work, TracedWork)
            intent = intent_of(frame.frame.message.id_client)
            known = None if intent is None else self._work.delivers.get(intent)
            return self._tracer.own(intent, known, leaves, _HOLD, self._work.name)
        return self._tracer.current


class TracedWork(Work):
    """The work of a node in a traced run: it adds the spans of the node to the chains and records the jobs.

    jobs_of: four values for each job: the times of its arrival, start and end, and the number of jobs it counts as.
    drops_at: the arrival time of each dropped job.
    """

    __slots__ = (
        "_after", "_clock", "_crashes", "_latest", "_recorded", "_tracer", "delivers", "drops_at", "jobs_of", "sends",
    )  # fmt: skip

    def __init__(self, tier: Tier, seed: int, kind: str, index: int, clock: Clock, tracer: Tracer) -> None:
        super().__init__(tier, seed, kind, index, clock)
        self._tracer = tracer
        self._clock = clock
        self.jobs_of = array("d")
        self.drops_at = array("d")
        self._recorded = 0  # recorded jobs; a method below may call another, and must not record a job twice
        self._crashes: list[tuple[int, float]] = []  # (the number of recorded jobs at a crash, its time)
        self._latest: tuple[float, float | None] = (0.0, None)  # the start and the end of the latest operation
        self._after: Span | None = None  # the chain up to the end of the latest operation
        self.sends: dict[int, Span] = {}  # chains of messages up to their arrival at a router, until they are appended
        self.delivers: dict[int, Span] = {}  # chains of messages up to their arrival at the recipients' router

    def done(
        self, now: float, op: str, flow: Any, intent: int | None = None, entity: int = 0, carrier: Any = None
    ) -> float | None:
        tracer = self._tracer
        before = tracer.current
        if type(carrier) is frames.Push:
            tracer.current = tracer.pushes(intent, entity, now, self.name)
        busy = self.station.busy
        done = super().done(now, op, flow, intent, entity, carrier)
        self._worked(now, op, done, busy)
        if op in _TO_CLIENT:
            tracer.departing, tracer.current = None if done is None else tracer.current, before
        elif op == "send" and intent is not None and tracer.current is not None:
            self.sends.setdefault(intent, tracer.current)
        return done

    def done_for_each(
        self, now: float, op: str, flow: Any, intent: int | None, entities: Collection[int], carrier: Any = None
    ) -> float | None:
        busy = self.station.busy
        done = super().done_for_each(now, op, flow, intent, entities, carrier)
        self._worked(now, op, done, busy)
        if intent is not None and self._tracer.current is not None:
            self.delivers[intent] = self._tracer.current
        return done

    def done_with_storage(self, now: float, request: storage.Request, result: storage.Result) -> float | None:
        self._carried_out(request, result)
        busy = self.station.busy
        done = super().done_with_storage(now, request, result)
        self._worked(now, request.op, done, busy)
        return done

    def commit(self, now: float, first: storage.Append, demands: Sequence[float]) -> tuple[float, float | None]:
        begins, done = super().commit(now, first, demands)
        self._add_job(now, begins, done)
        return begins, done

    def keep(self, now: float, item: Any, entity: int = 0) -> tuple[Any, Span | None]:
        if type(item) is frames.Push:
            return item, self._tracer.pushes(intent_of(item.message.id_client), entity, now, self.name)
        return item, self.chain_of_delivery(now, item)

    def resume(self, kept: tuple[Any, Span | None], result: Any = None) -> None:
        """Resume an item. A push or an append is part of the latest operation. Another frame starts the next one."""
        item, chain = kept
        tracer, now, name = self._tracer, self._clock.now, self.name
        begins, done = self._latest
        if type(item) is frames.Push:
            if chain is not None:
                parts = ((now, _HOLD), (begins, _QUEUE), (begins if done is None else done, _SERVICE))
                chain = chain.through(parts, name, item.op)
            tracer.departing = chain or self._after
        elif type(item) is storage.Append:
            if chain is not None:
                tracer.current = chain.until(now, _QUEUE, name, "commit")
                self._carried_out(item, result)
                if done is not None:
                    tracer.current = tracer.current.through(((begins, _QUEUE), (done, _SERVICE)), name, "commit")
        else:
            tracer.current = chain

    def chain_of_delivery(self, now: float, frame: Any) -> Span | None:
        """Return the chain of a frame that a router delivers to another router, or to itself, for its users."""
        if type(frame) is not internal_frames.Deliver:
            return self._tracer.current
        intent = intent_of(frame.message.id_client)
        known = None if intent is None else self._tracer.stored.get(intent)
        return self._tracer.own(intent, known, now, _HOLD, self.name)

    def forget(self, now: float) -> None:
        super().forget(now)
        self._crashes.append((len(self.jobs_of) // 4, now))
        self.sends.clear()

    def jobs(self) -> npt.NDArray[np.float64]:
        """Return the arrival, start and end of each job and the number of jobs it counts as, as an array (4, n).

        A crash ends the jobs that are not done.
        """
        jobs = np.array(self.jobs_of).reshape(-1, 4)
        for jobs_before, at in self._crashes:
            np.minimum(jobs[:jobs_before, :3], at, out=jobs[:jobs_before, :3])
        return jobs.T

    def turn_away(self, now: float) -> None:
        super().turn_away(now)
        self._add_drops(now)

    def _carried_out(self, request: storage.Request, result: storage.Result) -> None:
        """Record that other requests can read the message of an append from now on."""
        tracer = self._tracer
        if type(request) is storage.Append and type(result) is storage.Appended and tracer.current is not None:
            intent = intent_of(request.message.id_client)
            if intent is not None:
                tracer.visible.setdefault(intent, tracer.current)

    def _worked(self, now: float, op: str, done: float | None, busy: float) -> None:
        """Record an operation that was accepted or dropped. `busy`: the station's `busy` before the operation."""
        tracer = self._tracer
        if done is not None and self.station.jobs == self._recorded:  # an operation without a service time, like most
            self._latest = (now, done)
        else:
            begins = now if done is None else max(now, done - (self.station.busy - busy))
            if self._add_job(now, begins, done) and done is not None:
                parts = ((now, _HOLD), (begins, _QUEUE), (done, _SERVICE))
                tracer.current = tracer.base(now).through(parts, self.name, op)
        self._after = tracer.current

    def _add_job(self, now: float, begins: float, done: float | None) -> bool:
        """Record a job or a drop. Return whether the operation is a job: operations without a service time are not."""
        self._latest = (now, done)
        if done is None:
            self._add_drops(now)
        elif self.station.jobs > self._recorded:
            self._latest = (begins, done)
            self.jobs_of.extend((now, begins, done, self.station.jobs - self._recorded))
            self._recorded = self.station.jobs
            return True
        return False

    def _add_drops(self, now: float) -> None:
        self.drops_at.extend([now] * (self.station.drops - len(self.drops_at)))
