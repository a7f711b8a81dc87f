"""Where the time of each delivery went, and how busy the nodes were: a world that takes notes.

Whatever happens in a simulated world was caused by something before it. The clock of this world remembers that: a call
that is scheduled carries the chain of spans that led to it, to which links and stations add theirs. What a machine
keeps for later (a message that waits for its turn in the log, a push that is repeated, one that arrives before its
predecessor) is taken up again from where its own chain ended.

The rows are those of any other run. It costs about as much time again, and memory for every message on its way.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Message
from imsim.results import Tables
from imsim.results.spans import KINDS, node_table, span_table
from imsim.scenario import Plan, Scenario, Stream
from imsim.scenario.actor import intent_of
from imsim.scenario.sections import Link as LinkFields
from imsim.scenario.sections import Tier
from imsim.sim.clock import Clock
from imsim.sim.link import Link
from imsim.sim.nodes import (
    BatchingGatewayNode,
    ClientNode,
    Connection,
    GatewayNode,
    RouterNode,
    StorageNode,
)
from imsim.sim.nodes.commits import Answer
from imsim.sim.nodes.storage import Asked
from imsim.sim.nodes.work import Work
from imsim.sim.world import World

if TYPE_CHECKING:
    import pyarrow as pa

_OFFLINE, _LINK, _LINK_QUEUE, _RETRANSMIT, _QUEUE, _SERVICE, _RETRY, _HOLD = range(len(KINDS))


class Span:
    """One part of a chain: from the end of its parent to its own. `intent`: the message that the chain is about, from
    its intended time on; None if it is about none (a login, say). `since`: when the chain begins;
    `root_kind`: what was before it, for those who had to wait for it to begin."""

    __slots__ = ("end", "intent", "kind", "op", "parent", "root_kind", "since", "where")

    def __init__(self, parent: Span | None, end: float, kind: int, where: str, op: str, intent: int | None = None):
        self.parent = parent
        self.end = end
        self.kind = kind
        self.where = where
        self.op = op
        if parent is None:
            self.intent, self.since, self.root_kind = intent, end, kind
        else:
            self.intent, self.since, self.root_kind = parent.intent, parent.since, parent.root_kind

    def until(self, end: float, kind: int, where: str, op: str = "") -> Span:
        """The chain, longer by a span; itself if that would be none."""
        return Span(self, end, kind, where, op) if end > self.end else self

    def parts(self) -> list[Span]:
        """From the first to the last, without the beginning."""
        found, span = [], self
        while span.parent is not None:
            found.append(span)
            span = span.parent
        return found[::-1]


class Tracer:
    """`current` is the chain that led to what happens now; None where nothing did, as at a timer's call."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.current: Span | None = None
        self.wire: TracedLink | None = None  # the link that is about to schedule an arrival
        self.sent: dict[int, Span] = {}  # of each message, up to its latest sending
        self.visible: dict[int, Span] = {}  # up to when storage carried out its append, so that who asks can see it
        self.stored: dict[int, Span] = {}  # up to when its router knew that it is stored
        self.pushed: dict[tuple[int, int], Span] = {}  # by (message, device), up to when its gateway had it
        self.arrived: dict[tuple[int, int], Span] = {}  # up to when the device had it
        self._done: set[tuple[int, int]] = set()
        self._rows = array("q")
        self._names: dict[str, int] = {"": 0}

    def base(self, at: float) -> Span:
        """The current chain, or one that begins here."""
        return Span(None, at, _HOLD, "", "") if self.current is None else self.current

    def own(self, intent: int | None, known: Span | None, now: float, kind: int, where: str) -> Span | None:
        """The chain of this message: the current one if it is about it; else what is `known` of it, and a wait."""
        current = self.current
        if intent is None or known is None or (current is not None and current.intent == intent):
            return current
        return known.until(now, kind, where)

    def sends(self, intent: int, now: float) -> None:
        before = self.sent.get(intent)
        if before is not None:
            self.sent[intent] = before.until(now, _RETRY, "client", "send")
        elif intent < len(self._plan):
            root = Span(None, int(self._plan.at[intent]) / 1e9, _HOLD, "", "", intent)
            self.sent[intent] = root.until(now, _OFFLINE, "client", "send")

    def carried_out(self, request: storage.Request, result: storage.Result) -> None:
        if type(request) is storage.Append and type(result) is storage.Appended and self.current is not None:
            intent = intent_of(request.message.id_client)
            if intent is not None:
                self.visible.setdefault(intent, self.current)

    def comes(self, messages: Iterable[Message], device: int) -> None:
        """These messages are there, be it that they cannot be shown yet."""
        if self.current is not None:
            for message in messages:
                intent = intent_of(message.id_client)
                if intent is not None and (intent, device) not in self._done:
                    self.arrived.setdefault((intent, device), self.current)

    def shows(self, intent: int, device: int, now: float) -> None:
        key = (intent, device)
        if key in self._done or intent >= len(self._plan):
            return
        self._done.add(key)
        self.pushed.pop(key, None)
        arrived = self.arrived.pop(key, None)
        chain = self.current
        if chain is None or chain.intent != intent:
            chain = arrived or chain
        self._note(key, self._timeline(intent, chain, now), now)

    def _timeline(self, intent: int, chain: Span | None, now: float) -> list[tuple[float, int, str, str]]:
        """(end, kind, where, op) of what led to the message being shown now."""
        if chain is not None and chain.intent == intent:
            return [(s.end, s.kind, s.where, s.op) for s in chain.until(now, _HOLD, "client", "gap").parts()]
        # It came along with something else: an answer to a login or to a question. Its own way ends where that could
        # see it; from then on, it is the other's.
        own = self.stored.get(intent)
        if own is None or (chain is not None and own.end > chain.since):
            own = self.visible.get(intent) or self.sent.get(intent)
        found = [] if own is None else [(s.end, s.kind, s.where, s.op) for s in own.parts()]
        end = -np.inf if own is None else own.end
        if chain is not None:
            if chain.since > end:
                end = chain.since
                found.append((end, chain.root_kind, "client", "sync"))
            found += [(s.end, s.kind, s.where, s.op) for s in chain.parts() if s.end > end]
        return [*found, (now, _HOLD, "client", "gap")]

    def _note(self, key: tuple[int, int], timeline: list[tuple[float, int, str, str]], now: float) -> None:
        intent, device = key
        start, last = int(self._plan.at[intent]), round(now * 1e9)
        names, number = self._names, 0
        for seconds, kind, where, op in timeline:
            end = min(round(seconds * 1e9), last)
            if end > start:
                row = (intent, device, number, kind, names.setdefault(where, len(names)))
                self._rows.extend((*row, names.setdefault(op, len(names)), start, end))
                start, number = end, number + 1

    def table(self, deliveries: pa.Table) -> pa.Table:
        """The spans of these deliveries."""
        return span_table(self._plan, np.array(self._rows, np.int64).reshape(-1, 8), list(self._names), deliveries)


class TracingClock(Clock):
    """What is scheduled carries the chain that led to it."""

    def __init__(self, initial_time: float, tracer: Tracer) -> None:
        super().__init__(initial_time)
        self._tracer = tracer

    def call_at(self, at: float, function: Callable[[Any], object], argument: Any) -> None:
        tracer = self._tracer
        chain, wire = tracer.current, tracer.wire
        if wire is not None:
            tracer.wire = None
            chain = wire.extended(chain, at)
        super().call_at(at, self._resume, (chain, function, argument))

    def _resume(self, call: tuple[Span | None, Callable[[Any], object], Any]) -> None:
        self._tracer.current, function, argument = call
        function(argument)


class TracedLink(Link):
    """Mixed into a kind of link, whose slots it must leave alone: see `_traced`."""

    __slots__ = ()

    if TYPE_CHECKING:
        tracer: Tracer
        where: str

        @property
        def leaves(self) -> float: ...

        @leaves.setter
        def leaves(self, value: float) -> None: ...

    def carry(self, leaves: float, arrive: Callable[[Any], object], frame: Any) -> None:
        self.leaves = leaves
        self.tracer.wire = self
        super().carry(leaves, arrive, frame)
        self.tracer.wire = None

    def extended(self, chain: Span | None, at: float) -> Span:
        begins, unspoilt, arrives = self.parts
        if chain is None:
            chain = Span(None, self.leaves, _HOLD, "", "")
        chain = chain.until(self.leaves, _HOLD, self.where).until(begins, _LINK_QUEUE, self.where)
        chain = chain.until(unspoilt, _LINK, self.where).until(arrives, _RETRANSMIT, self.where)
        return chain.until(at, _LINK_QUEUE, self.where)


@cache
def _traced(kind: Any) -> Any:
    return type(f"Traced{kind.__name__}", (TracedLink, kind), {"__slots__": ("leaves", "tracer", "where")})


class TracedWork(Work):
    """A node's station; `jobs_of` has for each job when it came, when it began, when it was done and as how many it
    counts; `drops_at` when one came that was dropped."""

    __slots__ = ("_crashes", "_noted", "delivers", "drops_at", "jobs_of", "sends", "tracer")

    def __init__(self, tier: Tier, seed: int, kind: str, index: int, clock: Clock, tracer: Tracer) -> None:
        super().__init__(tier, seed, kind, index, clock)
        self.tracer = tracer
        self.jobs_of = array("d")
        self.drops_at = array("d")
        self._noted = 0  # jobs of the station; one of the methods below may call another
        self._crashes: list[tuple[int, float]] = []  # how many were noted by then, and when
        self.sends: dict[int, Span] = {}  # of messages that came to a router and are not in the log, up to then
        self.delivers: dict[int, Span] = {}  # of messages that came to the router of their recipients

    def done(
        self, now: float, op: str, flow: Any, intent: int | None = None, entity: int = 0, carrier: Any = None
    ) -> float | None:
        busy = self.station.busy
        done = super().done(now, op, flow, intent, entity, carrier)
        self._worked(now, op, done, busy)
        if op == "send" and intent is not None and self.tracer.current is not None:
            self.sends.setdefault(intent, self.tracer.current)
        return done

    def done_for_each(
        self, now: float, op: str, flow: Any, intent: int | None, entities: Collection[int], carrier: Any = None
    ) -> float | None:
        busy = self.station.busy
        done = super().done_for_each(now, op, flow, intent, entities, carrier)
        self._worked(now, op, done, busy)
        if intent is not None and self.tracer.current is not None:
            self.delivers[intent] = self.tracer.current
        return done

    def done_with_storage(self, now: float, request: storage.Request, result: storage.Result) -> float | None:
        self.tracer.carried_out(request, result)
        busy = self.station.busy
        done = super().done_with_storage(now, request, result)
        self._worked(now, request.op, done, busy)
        return done

    def commit(self, now: float, first: storage.Append, demands: Sequence[float]) -> tuple[float, float | None]:
        begins, done = super().commit(now, first, demands)
        if done is None:
            self._note_drops(now)
        else:
            self.jobs_of.extend((now, begins, done, self.station.jobs - self._noted))
            self._noted = self.station.jobs
        return begins, done

    def forget(self, now: float) -> None:
        super().forget(now)
        self._crashes.append((len(self.jobs_of) // 4, now))

    def jobs(self) -> npt.NDArray[np.float64]:
        """Of each job when it came, began and was done, be it by a crash, and as how many it counts; shape (4, n)."""
        jobs = np.array(self.jobs_of).reshape(-1, 4)
        for count, at in self._crashes:
            np.minimum(jobs[:count, :3], at, out=jobs[:count, :3])
        return jobs.T

    def turn_away(self, now: float) -> None:
        super().turn_away(now)
        self._note_drops(now)

    def _note_drops(self, now: float) -> None:
        self.drops_at.extend([now] * (self.station.drops - len(self.drops_at)))

    def _worked(self, now: float, op: str, done: float | None, busy: float) -> None:
        """What the station took on since then was for this job."""
        if done is None:
            self._note_drops(now)
        elif self.station.jobs > self._noted:
            begins = max(now, done - (self.station.busy - busy))
            self.jobs_of.extend((now, begins, done, self.station.jobs - self._noted))
            self._noted = self.station.jobs
            chain = self.tracer.base(now).until(now, _HOLD, self.name, op)
            self.tracer.current = chain.until(begins, _QUEUE, self.name, op).until(done, _SERVICE, self.name, op)


class TracedClient(ClientNode):
    __slots__ = ()

    world: TracedWorld

    def _wake(self, armed: float) -> None:
        self.world.tracer.current = None
        super()._wake(armed)

    def connect(self) -> None:
        self.world.tracer.current = Span(None, self.now, _OFFLINE, "", "")
        super().connect()

    def send(self, frame: frames.FromClient) -> None:
        tracer = self.world.tracer
        before = tracer.current
        if type(frame) is frames.Send and (intent := intent_of(frame.id_client)) is not None:
            tracer.current = tracer.sent.get(intent, before)
        super().send(frame)
        tracer.current = before

    def from_gateway(self, frame: frames.ToClient) -> None:
        if type(frame) is frames.Push:
            self.world.tracer.comes((frame.message,), self.number)
        elif isinstance(frame, frames.Page | frames.SyncDone | frames.HistoryPage | frames.Entered):
            self.world.tracer.comes(frame.messages, self.number)
        super().from_gateway(frame)


class TracedGateway(GatewayNode):
    __slots__ = ()

    world: TracedWorld

    def _wake(self, armed: float) -> None:
        self.world.tracer.current = None
        super()._wake(armed)

    def send(self, connection: int, frame: frames.ToClient) -> None:
        tracer = self.world.tracer
        before = tracer.current
        target = self._connections.get(connection)
        if type(frame) is frames.Push and target is not None:
            intent = intent_of(frame.message.id_client)
            if intent is not None:
                key = (intent, target.client.number)
                if before is not None and before.intent == intent:
                    tracer.pushed[key] = before
                tracer.current = tracer.own(intent, tracer.pushed.get(key), self.now, _RETRY, self.name_of_node)
        super().send(connection, frame)
        tracer.current = before

    @property
    def name_of_node(self) -> str:
        return f"gateway{self.name[1:]}"


class TracedBatchingGateway(TracedGateway, BatchingGatewayNode):
    __slots__ = ()

    def _context(self) -> Span | None:
        return self.world.tracer.current

    def _leave(self, target: Connection, leaves: float, frame: frames.Push, context: Span | None) -> None:
        """All of them waited until now, and then for the same operation."""
        tracer, now, name = self.world.tracer, self.world.clock.now, self.name_of_node
        done = tracer.current
        if context is not None:
            begins = done.parent.end if done is not None and done.parent is not None and done.kind == _SERVICE else now
            waited = context.until(now, _HOLD, name, frame.op).until(begins, _QUEUE, name, frame.op)
            tracer.current = waited.until(leaves, _SERVICE, name, frame.op)
        super()._leave(target, leaves, frame, context)
        tracer.current = done


class TracedRouter(RouterNode):
    __slots__ = ("_chains",)

    world: TracedWorld

    def __init__(self, world: World, index: int) -> None:
        self._chains: deque[Span | None] = deque()  # of what is in `_local`
        super().__init__(world, index)

    def _wake(self, armed: float) -> None:
        self.world.tracer.current = None
        super()._wake(armed)

    def crash(self) -> None:
        super().crash()
        self._chains.clear()
        assert isinstance(self.work, TracedWork)
        self.work.sends.clear()

    def _drain(self) -> None:
        while self._local:
            self.world.tracer.current = self._chains.popleft()
            self._to_users(self._local.popleft(), self.now)

    def stored(self, answer: tuple[Any, storage.Request, storage.Result]) -> None:
        _, request, result = answer
        tracer = self.world.tracer
        if type(request) is storage.Append and type(result) is storage.Appended and tracer.current is not None:
            intent = intent_of(request.message.id_client)
            if intent is not None:
                tracer.stored[intent] = tracer.current
        super().stored(answer)

    def store(self, request: storage.Request) -> None:
        tracer = self.world.tracer
        before = tracer.current
        if type(request) is storage.Append and (intent := intent_of(request.message.id_client)) is not None:
            assert isinstance(self.work, TracedWork)
            known = self.work.sends.pop(intent, None)
            tracer.current = tracer.own(intent, known, self.now, _HOLD, f"router{self.index}")
        super().store(request)
        tracer.current = before

    def to_users(self, frame: internal_frames.Deliver | internal_frames.Opened) -> None:
        tracer = self.world.tracer
        before = tracer.current
        if type(frame) is internal_frames.Deliver:
            intent = intent_of(frame.message.id_client)
            known = None if intent is None else tracer.stored.get(intent)
            tracer.current = tracer.own(intent, known, self.now, _HOLD, f"router{self.index}")
        super().to_users(frame)
        self._keep_chain()
        tracer.current = before

    def to_user(self, user: str, frame: internal_frames.ToUsers) -> None:
        super().to_user(user, frame)
        self._keep_chain()

    def _keep_chain(self) -> None:
        while len(self._chains) < len(self._local):
            self._chains.append(self.world.tracer.current)

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        tracer = self.world.tracer
        before = tracer.current
        if type(frame) is internal_frames.Down and type(frame.frame) is frames.Push:
            assert isinstance(self.work, TracedWork)
            intent = intent_of(frame.frame.message.id_client)
            known = None if intent is None else self.work.delivers.get(intent)
            tracer.current = tracer.own(intent, known, self.now, _HOLD, f"router{self.index}")
        super().to_gateway(gateway, frame)
        tracer.current = before


class TracedStorage(StorageNode):
    __slots__ = ()

    world: TracedWorld

    def _committed(self, asked: Asked) -> Answer:
        tracer, clock = self.world.tracer, self.world.clock
        chain, answer = tracer.current, super()._committed(asked)
        where = f"storage{self.index}"

        def answered(result: storage.Result, begins: float, done: float | None) -> None:
            if chain is not None:
                tracer.current = chain.until(clock.now, _QUEUE, where, "commit")
                tracer.carried_out(asked[2], result)
                if done is not None:
                    begun = tracer.current.until(begins, _QUEUE, where, "commit")
                    tracer.current = begun.until(done, _SERVICE, where, "commit")
            answer(result, begins, done)

        return answered


class TracedWorld(World):
    client_class = TracedClient
    gateway_class = TracedGateway
    batching_gateway_class = TracedBatchingGateway
    router_class = TracedRouter
    storage_class = TracedStorage

    def __init__(self, scenario: Scenario, plan: Plan, *, seed: int | None = None) -> None:
        self.tracer = Tracer(plan)
        self.works: list[TracedWork] = []
        super().__init__(scenario, plan, seed=seed)

    def new_clock(self, at: float) -> Clock:
        return TracingClock(at, self.tracer)

    def new_link(
        self, kind: type[Link], fields: LinkFields, stream: Stream, where: str, bandwidth: float | None
    ) -> Any:
        make: Any = _traced(cast(Any, kind))
        link = make(fields, stream, self.clock, self.link_luck, bandwidth)
        link.tracer, link.where, link.is_measured = self.tracer, where, True
        link.recompute()
        return link

    def new_work(self, tier: Tier, kind: str, index: int) -> Work:
        work = TracedWork(tier, self.seed, kind, index, self.clock, self.tracer)
        self.works.append(work)
        return work

    def client_event(self, client: ClientNode, event: events.ClientEvent) -> None:
        if type(event) is events.Sent:
            if (intent := intent_of(event.id_client)) is not None:
                self.tracer.sends(intent, client.now)
        elif type(event) is events.Shown and (intent := intent_of(event.message.id_client)) is not None:
            self.tracer.shows(intent, client.number, client.now)
        super().client_event(client, event)

    def tables(self) -> Tables:
        tables, meter = super().tables(), self.meter
        if meter is None or tables.utilisation is None:
            return tables
        window = np.array([meter.since, meter.until])
        told = {name: dict(of_node) for name, of_node in tables.utilisation.items()}
        for work in self.works:
            came, began, _, _ = work.jobs()
            waited = float(_covered(came, began, window)[0])
            told[work.name]["queue"] = round(waited / (meter.until - meter.since), 6)
        return replace(tables, utilisation=told)

    def node_series(self, end: float, buckets: int = 100) -> pa.Table:
        """From time 0 to `end`, in so many parts: how busy each node was, how many jobs waited, came, were dropped."""
        edges = np.linspace(0.0, end, buckets + 1)
        width = end / buckets
        columns: list[list[Any]] = [[] for _ in range(7)]
        topology = self.scenario.topology
        for work in self.works:
            tier = work.name.rstrip("0123456789")
            came, began, done, counts = work.jobs()
            workers = getattr(topology, tier).workers
            parts = (
                [work.name] * buckets,
                [tier] * buckets,
                np.rint(edges[:-1] * 1e9).astype(np.int64),
                _covered(began, done, edges) / (width * workers),
                _covered(came, began, edges) / width,
                np.histogram(came, edges, weights=counts)[0].astype(np.int64),
                np.histogram(work.drops_at, edges)[0],
            )
            for column, values in zip(columns, parts, strict=True):
                column.extend(values)
        return node_table(columns)


def _covered(begin: Any, end: Any, edges: Any) -> Any:
    """How many seconds of the intervals lie in each bucket, all together."""

    def before(times: Any) -> Any:
        """For each edge, the sum over `times` of what lies between them and the edge."""
        times = np.sort(times)
        sums = np.concatenate(([0.0], np.cumsum(times)))
        count = np.searchsorted(times, edges)
        return count * edges - sums[count]

    return np.maximum(np.diff(before(begin) - before(end)), 0.0)  # but for rounding, it is anyway
