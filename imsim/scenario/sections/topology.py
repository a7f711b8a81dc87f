"""What the service consists of."""

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
        raise ValueError(f"expected a class or a function of your own, got {shown(value)}")
    return value


#: `station(tier)` makes the station of one node, with `submit(now, demand, flow)`.
OwnStation = Annotated[Callable[[Any], Any], BeforeValidator(_own), PlainSerializer(reference, when_used="json")]


PLACEMENTS = ("hash", "rendezvous", "spread")


def _placement(value: object) -> object:
    value = resolved(value, AbsentPart)
    if not callable(value) and value not in PLACEMENTS:
        expected = ", ".join(map(repr, PLACEMENTS))
        raise ValueError(f"expected {expected} or a function of your own, got {shown(value)}")
    return value


#: `placement(name, nodes)` is the number, from 0, of the node that owns the conversation or user of this name.
Placement = Annotated[
    str | Callable[[str, int], int],
    BeforeValidator(_placement),
    PlainSerializer(lambda value: value if isinstance(value, str) else reference(value), when_used="json"),
]


#: The tiers in the order in which a message passes them: a name such as router0 is a node's.
TIERS = ("gateway", "router", "storage")


class Tier(Section):
    """The nodes of one kind: each has a queue, and workers that take from it."""

    ops: ClassVar[frozenset[str]]
    carriers: ClassVar[frozenset[str]]  # those of them that carry messages

    workers: int = Field(default=1, ge=1, description="operations that one node carries out at the same time")
    service: dict[str, SecondsDistribution] = Field(
        default={},
        description="operation -> time it keeps a worker, seconds or a duration. An operation that is not listed costs"
        " nothing and does not queue",
    )
    speed: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="how fast a worker is: all of the tier's service times are divided by it",
    )
    per_byte: dict[str, Seconds] = Field(
        default={},
        description="operation -> what each byte of the messages that it carries adds to its service time, seconds or"
        " a duration such as '10ns'",
    )
    queue: int | None = Field(
        default=None,
        ge=1,
        description="how many operations fit into one node, waiting or in service; what does not fit is dropped: a"
        " frame vanishes (its sender repeats it in time), a request to storage fails at once. Absent: no limit",
    )
    station: OwnStation | None = Field(
        default=None,
        description="Python only: your own station, a class called with this tier, once for each node. Its submit(now,"
        " demand, flow) tells when an operation will be done, or None if it is dropped; workers and queue are its own"
        " affair",
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
                f"expected at least workers ({self.workers}), as what is in service counts, too, got {self.queue};"
                " raise it, or have fewer workers",
            )
        return self


class Commit(Section):
    """Group commit: appends wait until several can be made durable at once."""

    batch: int = Field(default=100, ge=1, description="at most so many appends in one commit; as many start it at once")
    linger: Seconds = Field(
        default=0.0,
        description="how long the first append waits for others, seconds or a duration; 0: a commit takes what came"
        " during the one before it",
    )


class GatewayTier(Tier):
    """Gateways hold the connections: each frame of a client, whichever way it goes, is one operation."""

    ops = GATEWAY_OPS
    carriers = frozenset({"send", "push", "page", "sync_done", "history_page", "entered"})

    batch_interval: Seconds = Field(
        default=0.0,
        description="pushes to one connection wait so long for each other and then go as one operation; 0: none waits."
        " Keep it well below policies.push_timeout. (Simulated only: the live server has no such thing.)",
    )


class RouterTier(Tier):
    """Routers order conversations and know where users are: each frame that reaches one is one operation."""

    ops = ROUTER_OPS
    carriers = frozenset({"send", "deliver"})


class StorageTier(Tier):
    """Storages keep what is acknowledged: each request is one operation, and so is a commit."""

    ops = STORAGE_OPS | {"commit"}
    carriers = frozenset({"append", "inbox", "find", "get", "missed", "range"})

    commit: Commit | None = Field(
        default=None,
        description="group commit: appends wait for a common one, which costs the service time `commit` and that of"
        " each append in it. Absent: every append is a commit of its own",
    )

    @model_validator(mode="after")
    def _one_queue(self) -> Self:
        if self.commit is not None and self.station is not None:
            raise FieldError("commit", "not together with an own station, which can gather appends itself")
        return self


class Topology(Section):
    """What the service consists of. Simulated only: a live server is one process."""

    gateways: int = Field(default=1, ge=1, description="how many gateways")
    routers: int = Field(default=1, ge=1, description="how many routers, which own conversations and users")
    storages: int = Field(default=1, ge=1, description="how many storages, which own conversations and users")
    placement: Placement = Field(
        default="hash",
        description="which router and storage owns a conversation or a user: 'hash' (even, but another number of nodes"
        " moves nearly all), 'rendezvous' (even, and a new node takes only its share), 'spread' (by size, so that large"
        " groups do not meet), or in Python your own function(name, nodes) -> number of the node, from 0",
    )
    gateway: GatewayTier = Field(default=GatewayTier(), description="each gateway")
    router: RouterTier = Field(default=RouterTier(), description="each router")
    storage: StorageTier = Field(default=StorageTier(), description="each storage")

    def tiers(self) -> dict[str, tuple[int, Tier]]:
        """Return the number of nodes and the fields of each tier, by its name."""
        return {name: (getattr(self, f"{name}s"), getattr(self, name)) for name in TIERS}
