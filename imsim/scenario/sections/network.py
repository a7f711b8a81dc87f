"""What lies between the nodes."""

from __future__ import annotations

from pydantic import Field

from imsim.scenario.distributions import Lognormal, SecondsDistribution
from imsim.scenario.quantities import PositiveSeconds
from imsim.scenario.sections.base import Section


class Link(Section):
    """A connection between two nodes; both directions are alike. Frames keep their order, as in TCP."""

    latency: SecondsDistribution = Field(description="one way, seconds or a duration")
    loss: float = Field(default=0.0, ge=0, lt=1, description="chance that a transmission is lost (0 to below 1)")
    retransmit: PositiveSeconds = Field(
        default=0.2, description="what each lost transmission adds to the latency, seconds or a duration"
    )


class ClientLink(Link):
    latency: SecondsDistribution = Field(
        default=Lognormal(median=0.015, p99=0.06), description="one way, seconds or a duration"
    )


class BackendLink(Link):
    latency: SecondsDistribution = Field(
        default=Lognormal(median=0.0003, p99=0.001), description="one way, seconds or a duration"
    )


class Network(Section):
    """What lies between the nodes. Simulated only: a live run has a network of its own."""

    client: ClientLink = Field(default=ClientLink(), description="between a device and its gateway")
    backend: BackendLink = Field(default=BackendLink(), description="between gateways, routers and storages")
