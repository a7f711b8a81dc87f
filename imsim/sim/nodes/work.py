"""The work of a node: the service times of its operations, and the station that does them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from imsim.core import storage
from imsim.scenario import Constant, Distribution, Draws, numbers
from imsim.scenario.actor import intent_of
from imsim.scenario.sections import Tier
from imsim.sim.clock import Clock
from imsim.sim.sizes import carried_bytes
from imsim.sim.station import station_of

#: The random streams of renamed operations keep their first names, so a seed still gives the same rows.
_STREAMS = {"save_state": "save_place", "presence_update": "hint"}

_OTHERS = 1 << 40  # the first draw for operations without a message; those with a message are numbered by intent


class _Operation:
    """The service time of an operation. `others`: the draws for operations without a message."""

    __slots__ = ("constant", "draws", "others", "quantile")

    def __init__(self, times: Distribution, speed: float, draws: Draws, others: int) -> None:
        """`speed`: the service times are `times` divided by this."""
        quantile = times.quantile
        self.quantile: Callable[[float], float] = quantile if speed == 1 else lambda u: quantile(u) / speed
        self.constant = None if times.constant is None else self.quantile(0.5)
        self.draws = draws
        self.others = numbers(draws, others)

    def demand(self, intent: int | None, entity: int) -> float:
        """Return the service time, in seconds, for a message and an entity."""
        if self.constant is not None:
            return self.constant
        return self.quantile(next(self.others) if intent is None else self.draws.at(intent, entity))


class Work:
    """The station of a node, with the service times of its tier.

    Several methods return the time at which an operation will be done. They return None if the operation is dropped,
    which a full queue and a custom station can do.
    """

    __slots__ = (
        "_append_is_all", "_operations", "_per_byte", "_service", "name", "station", "tier", "workers",
    )  # fmt: skip

    def __init__(self, tier: Tier, seed: int, kind: str, index: int, clock: Clock) -> None:
        """`kind`: the name of the tier. `index`: the number of the node in it."""
        self.tier = kind
        self.name = f"{kind}{index}"
        self.workers = tier.workers
        self.station = station_of(tier, clock)
        self._per_byte = {op: seconds / tier.speed for op, seconds in tier.per_byte.items() if seconds}
        times = {**dict.fromkeys(self._per_byte, Constant(value=0.0)), **tier.service}
        self._operations = {
            op: _Operation(
                distribution, tier.speed, Draws(seed, "service", kind, _STREAMS.get(op, op)), _OTHERS + index
            )
            for op, distribution in times.items()
        }
        self._service = self._operations
        #: Whether an append costs its own service time only. In most scenarios it does.
        self._append_is_all = not self._per_byte and not {"inbox", "commit"} & self._service.keys()

    def set_free(self, free: bool) -> None:
        """Set whether operations take no time from now on."""
        self._service = {} if free else self._operations

    def takes(self, op: str) -> bool:
        """Return whether an operation takes time. If it takes none, it does not queue."""
        return op in self._service

    def wait(self, now: float, op: str) -> float:
        """Return how long an operation that arrives now will wait for a worker, in seconds."""
        return self.station.wait(now) if op in self._service else 0.0

    def done(
        self, now: float, op: str, flow: Any, intent: int | None = None, entity: int = 0, carrier: Any = None
    ) -> float | None:
        """Submit an operation that arrives at `now`. Return the time when a worker will be done with it.

        Its demand depends on (message, entity) only, so other designs get the same demand under the same seed.
        `carrier`: the frame whose bytes count.
        """
        operation = self._service.get(op)
        if operation is None:
            return now
        demand = operation.constant
        if demand is None:
            # Repeats `_Operation.demand`, because a method call is slow here.
            u = next(operation.others) if intent is None else operation.draws.at(intent, entity)
            demand = operation.quantile(u)
        if self._per_byte:
            demand += self._bytes_demand(op, carrier)
        return self.station.submit(now, demand, flow)

    def done_for_each(
        self, now: float, op: str, flow: Any, intent: int | None, entities: Collection[int], carrier: Any = None
    ) -> float | None:
        """Submit an operation that costs its service time and its bytes once for each of `entities`."""
        if op not in self._service:
            return now
        demand = self._demand(op, intent, entities)
        if self._per_byte:
            demand += self._bytes_demand(op, carrier) * len(entities)
        return self.station.submit(now, demand, flow)

    def done_with_storage(self, now: float, request: storage.Request, result: storage.Result) -> float | None:
        """Submit the work for a storage request. The result gives the number of rows that were read or written."""
        op = request.op
        if type(request) is storage.Append:
            if self._append_is_all:
                return self.done(now, op, None, intent_of(request.message.id_client))
            demand = self.append_demand(request, result) + self._commit_demand(request)
            return self.station.submit(now, demand, None) if demand else now
        if op not in self._service:
            return now
        reads = result.reads if type(result) is storage.MissedPage else 1
        demand = self._demand(op, None, range(reads)) + self._bytes_demand(op, result)
        return self.station.submit(now, demand, None)

    def forget(self, now: float) -> None:
        """Drop all operations that are not done, after a crash of the node."""
        self.station.forget(now)

    def turn_away(self, now: float) -> None:
        """Count an operation that is dropped because the queue is full."""
        self.station.drops += 1

    def append_demand(self, request: storage.Append, result: storage.Result) -> float:
        """Return the demand of an append in seconds, with its inbox rows but without its commit."""
        message = request.message
        intent = intent_of(message.id_client)
        demand = self._demand("append", intent, (0,)) + self._bytes_demand("append", message)
        rows = result.inbox_rows if type(result) is storage.Appended else 0
        if rows and "inbox" in self._service:
            demand += self._demand("inbox", intent, range(rows)) + self._bytes_demand("inbox", message) * rows
        return demand

    def commit(self, now: float, first: storage.Append, demands: Sequence[float]) -> tuple[float, float | None]:
        """Submit a commit of appends. Return the time when a worker starts it and the time when it is done.

        `first`: the first append of the commit. `demands`: the demands of all its appends.
        """
        demand = self._commit_demand(first) + sum(demands)
        done = self.station.submit(now, demand, None, len(demands))
        return now if done is None else max(now, done - demand), done

    def keep(self, now: float, item: Any, entity: int = 0) -> Any:
        """Note that `item` (a frame or an append) waits at this node. Return the argument for `resume`.

        Only traced runs use it (`imsim.sim.tracing`).
        """

    def resume(self, kept: Any, result: Any = None) -> None:
        """Resume an item that `keep` noted. `result`: the result of a request that was carried out."""

    def _commit_demand(self, first: storage.Append) -> float:
        """Return the demand, in seconds, of a commit without its appends. `first`: the first append of the commit."""
        return self._demand("commit", intent_of(first.message.id_client), (0,))

    def _demand(self, op: str, intent: int | None, entities: Iterable[int]) -> float:
        operation = self._service.get(op)
        return 0.0 if operation is None else sum(operation.demand(intent, entity) for entity in entities)

    def _bytes_demand(self, op: str, carrier: Any) -> float:
        seconds = self._per_byte.get(op)
        return seconds * carried_bytes(carrier) if seconds else 0.0
