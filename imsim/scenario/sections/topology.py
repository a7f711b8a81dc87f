"""The topology: the nodes of the service, their workers and their service times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from imsim.core.frames import GATEWAY_OPS
from imsim.core.internal_frames import ROUTER_OPS
from imsim.core.storage import STORAGE_OPS
from imsim.scenario.custom_parts import AbsentPart, reference, resolved
from imsim.scenario.distributions import SecondsDistribution
from imsim.scenario.errors import FieldError, suggestion
from imsim.scenario.quantities import Seconds, shown
from imsim.scenario.sections.base import Section


def _own(value: object) -> object:
    value = resolved(value, AbsentPart)
    if value is not None and not callable(value):
        raise ValueError(f"expected a Python class or function, got {shown(value)}")
    return value


#: `station(tier)` returns the station of one node, an object with the method `submit(now, demand, flow)`.
OwnStation = Annotated[Callable[[Any], Any], BeforeValidator(_own), PlainSerializer(reference, when_used="json")]


PLACEMENTS = ("hash", "rendezvous", "spread")


def _placement(value: object) -> object:
    value = resolved(value, AbsentPart)
    if not callable(value) and value not in PLACEMENTS:
        expected = ", ".join(map(repr, PLACEMENTS))
        raise ValueError(f"expected {expected} or a Python function, got {shown(value)}")
    return value


#: `placement(name, nodes)` returns the number (from 0) of the node that owns a conversation or a user.
Placement = Annotated[
    str | Callable[[str, int], int],
    BeforeValidator(_placement),
    PlainSerializer(lambda value: value if isinstance(value, str) else reference(value), when_used="json"),
]


#: The tiers in the order in which a message passes them: a name such as router0 is a node's.
TIERS = ("gateway", "router", "storage")


class Tier(Section):
    """The nodes of one kind. Each node has one queue, and workers that process its operations."""

    ops: ClassVar[frozenset[str]]
    carriers: ClassVar[frozenset[str]]  # the operations that carry messages

    workers: int = Field(default=1, ge=1, description="operations that one node processes at the same time")
    service: dict[str, SecondsDistribution] = Field(
        default={},
        description="operation -> service time, seconds or a duration. An operation that is not listed takes no time"
        " and does not queue",
    )
    speed: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="speed of a worker: all service times of the tier are divided by it",
    )
    per_byte: dict[str, Seconds] = Field(
        default={},
        description="operation -> additional service time for each byte of the messages that it carries, seconds or a"
        " duration such as '10ns'",
    )
    queue: int | None = Field(
        default=None,
        ge=1,
        description="most operations in one node, waiting and in service. Others are dropped: a frame vanishes (its"
        " sender repeats it after a timeout), and a request to storage fails at once. Absent: no limit",
    )
    station: OwnStation | None = Field(
        default=None,
        description="Python only: a custom station, a class that is called with this tier, once for each node. Its"
        " method submit(now, demand, flow) returns the time at which an operation will be done, or None if the"
        " operation is dropped. It decides itself about workers and queue",
    )

    @field_validator("service", mode="before")
    @classmethod
    def _known_ops(cls, service: object) -> object:
        for op in service if isinstance(service, dict) else ():
            if op not in cls.ops:
                known = ", ".join(sorted(cls.ops))
                raise FieldError(op, f"unknown operation{suggestion(op, cls.ops)}; known here: {known}")
        return service

    @field_validator("per_byte", mode="before")
    @classmethod
    def _known_carriers(cls, per_byte: object) -> object:
        for op in per_byte if isinstance(per_byte, dict) else ():
            if op not in cls.carriers:
                known = ", ".join(sorted(cls.carriers))
                raise FieldError(
                    op, f"expected an operation that carries messages{suggestion(op, cls.carriers)}: {known}"
                )
        return per_byte

    @model_validator(mode="after")
    def _room_for_all_workers(self) -> Self:
        if self.queue is not None and self.queue < self.workers and self.station is None:
            raise FieldError(
                "queue",
                f"expected at least workers ({self.workers}), because operations in service count, too, got"
                f" {self.queue}; raise queue or lower workers",
            )
        return self


class Commit(Section):
    """Group commit: several appends become durable with one commit."""

    batch: int = Field(
        default=100, ge=1, description="most appends in one commit; when that many wait, the commit starts"
    )
    linger: Seconds = Field(
        default=0.0,
        description="how long the first append waits for others, seconds or a duration; 0: a commit takes the appends"
        " that arrived during the previous commit",
    )


class GatewayTier(Tier):
    """The gateways, which hold the connections. Each frame from or to a client is one operation."""

    ops = GATEWAY_OPS
    carriers = frozenset({"send", "push", "page", "sync_done", "history_page", "entered"})

    batch_interval: Seconds = Field(
        default=0.0,
        description="pushes to one connection wait this long and are then sent together, as one operation; 0: no wait."
        " Keep it well below policies.push_timeout. (Simulated only: the live server has no batches.)",
    )


class RouterTier(Tier):
    """The routers, which order the messages of conversations and locate users. Each received frame is one operation."""

    ops = ROUTER_OPS
    carriers = frozenset({"send", "deliver"})


class StorageTier(Tier):
    """The storages, which make data durable. Each request is one operation, and so is each commit."""

    ops = STORAGE_OPS | {"commit"}
    carriers = frozenset({"append", "inbox", "find", "get", "missed", "range"})

    commit: Commit | None = Field(
        default=None,
        description="group commit: appends wait for a common commit, which takes the service time `commit` plus that"
        " of each of its appends. Absent: each append is its own commit",
    )

    @model_validator(mode="after")
    def _one_queue(self) -> Self:
        if self.commit is not None and self.station is not None:
            raise FieldError(
                "commit", "expected no commit with a custom station, which can group appends itself; remove one"
            )
        return self


class Topology(Section):
    """The nodes of the service. Simulated only: a live server is one process."""

    gateways: int = Field(default=1, ge=1, description="number of gateways")
    routers: int = Field(default=1, ge=1, description="number of routers, which own conversations and users")
    storages: int = Field(default=1, ge=1, description="number of storages, which own conversations and users")
    placement: Placement = Field(
        default="hash",
        description="how the owner of a conversation or a user is chosen among routers and storages: 'hash' (even, but"
        " a change of the number of nodes moves nearly all), 'rendezvous' (even, and a new node takes only its share),"
        " 'spread' (by size, so that large groups are on different nodes), or in Python a custom function(name, nodes)"
        " that returns the number of the node, from 0",
    )
    gateway: GatewayTier = Field(default=GatewayTier(), description="properties of each gateway")
    router: RouterTier = Field(default=RouterTier(), description="properties of each router")
    storage: StorageTier = Field(default=StorageTier(), description="properties of each storage")

    def tiers(self) -> dict[str, tuple[int, Tier]]:
        """Return the number of nodes and the fields of each tier, by its name."""
        return {name: (getattr(self, f"{name}s"), getattr(self, name)) for name in TIERS}
