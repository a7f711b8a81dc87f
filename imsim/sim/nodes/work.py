"""How long a node takes over an operation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from imsim.core import storage
from imsim.scenario import Draws, Stream
from imsim.scenario.sections import Tier
from imsim.sim.station import Station

_OTHERS = 1 << 40  # draws for operations without a message are numbered from here, those of messages by intent


def intent_of(id_client: str) -> int | None:
    """The number in the plan of the message with this idClient; None for what the plan does not know."""
    return int(id_client) if id_client.isdigit() else None


class Work:
    """A node's station with the service times of its tier."""

    __slots__ = ("_draws", "_others", "_service", "station")

    def __init__(self, tier: Tier, seed: int, kind: str, index: int) -> None:
        self.station = Station(tier.workers)
        self._service = tier.service
        self._draws = {op: Draws(seed, "service", kind, op) for op in tier.service}
        self._others = {op: Stream(draws, _OTHERS + index) for op, draws in self._draws.items()}

    def done(self, now: float, op: str, flow: Any, intent: int | None = None, entity: int = 0) -> float:
        """When a worker will be done with an operation that comes now. Its demand is a property of (message, entity),
        whatever else happens, so that other designs meet the same."""
        distribution = self._service.get(op)
        if distribution is None:
            return now
        if intent is None:
            draw = self._others[op].next()
        else:
            draw = self._draws[op].at(intent, entity)
        return self.station.submit(now, distribution.quantile(draw), flow)

    def done_for_each(self, now: float, op: str, flow: Any, intent: int | None, entities: Iterable[int]) -> float:
        """The same for an operation that costs its service time once for each of `entities`."""
        if op not in self._service:
            return now
        return self.station.submit(now, self._demand(op, intent, entities), flow)

    def done_with_storage(self, now: float, request: storage.Request, result: storage.Result) -> float:
        """The same for a request of storage, of which the result says how much work it was."""
        op, intent = request.op, None
        if type(request) is storage.Append:
            intent = intent_of(request.message.id_client)
            rows = result.inbox_rows if type(result) is storage.Appended else 0
            if rows and "inbox" in self._service:
                demand = self._demand(op, intent, (0,)) + self._demand("inbox", intent, range(rows))
                return self.station.submit(now, demand, None)
        elif type(result) is storage.MissedPage and result.reads != 1:
            return self.done_for_each(now, op, None, None, range(result.reads))
        return self.done(now, op, None, intent)

    def _demand(self, op: str, intent: int | None, entities: Iterable[int]) -> float:
        distribution = self._service.get(op)
        if distribution is None:
            return 0.0
        if intent is None:
            others = self._others[op]
            return sum(distribution.quantile(others.next()) for _ in entities)
        draws = self._draws[op]
        return sum(distribution.quantile(draws.at(intent, entity)) for entity in entities)
