"""What the service consists of."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from imsim.core.frames import GATEWAY_OPS, ROUTER_OPS
from imsim.core.storage import STORAGE_OPS
from imsim.scenario.distributions import SecondsDistribution
from imsim.scenario.errors import FieldError, suggestion
from imsim.scenario.quantities import Seconds
from imsim.scenario.sections.base import Section


class Tier(Section):
    """The nodes of one kind: each has a queue, and workers that take from it."""

    ops: ClassVar[frozenset[str]]

    workers: int = Field(default=1, ge=1, description="operations that one node carries out at the same time")
    service: dict[str, SecondsDistribution] = Field(
        default={},
        description="operation -> time it keeps a worker, seconds or a duration. An operation that is not listed costs"
        " nothing and does not queue",
    )

    @field_validator("service", mode="before")
    @classmethod
    def _known_ops(cls, service: object) -> object:
        for op in service if isinstance(service, dict) else ():
            if op not in cls.ops:
                known = ", ".join(sorted(cls.ops))
                raise FieldError(op, f"unknown operation{suggestion(op, cls.ops)}; known here: {known}")
        return service


class GatewayTier(Tier):
    """Gateways hold the connections: each frame of a client, whichever way it goes, is one operation."""

    ops = GATEWAY_OPS

    batch_interval: Seconds = Field(
        default=0.0,
        description="pushes to one connection wait so long for each other and then go as one operation; 0: none waits."
        " Keep it well below policies.push_timeout. (Simulated only: the live server has no such thing.)",
    )


class RouterTier(Tier):
    """Routers order conversations and know where users are: each frame that reaches one is one operation."""

    ops = ROUTER_OPS


class StorageTier(Tier):
    """Storages keep what is acknowledged: each request is one operation."""

    ops = STORAGE_OPS


class Topology(Section):
    """What the service consists of. Simulated only: a live server is one process."""

    gateways: int = Field(default=1, ge=1, description="how many gateways")
    routers: int = Field(default=1, ge=1, description="how many routers; conversations and users are spread by hash")
    storages: int = Field(default=1, ge=1, description="how many storages; conversations are spread by hash")
    gateway: GatewayTier = Field(default=GatewayTier(), description="each gateway")
    router: RouterTier = Field(default=RouterTier(), description="each router")
    storage: StorageTier = Field(default=StorageTier(), description="each storage")
