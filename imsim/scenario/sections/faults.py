"""What goes wrong, and when. Simulated only."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from imsim.scenario.quantities import PositiveSeconds, Seconds
from imsim.scenario.sections.base import Section
from imsim.scenario.sections.topology import TIERS

_Share = Annotated[float, Field(gt=0, le=1)]


class _Fault(Section):
    at: Seconds = Field(description="when it begins, from the run's start; seconds or a duration")


class NodeCrash(_Fault):
    """A server is gone, with all that it had in memory, and comes back empty. What storage holds, stays.

    Until `detect` nobody knows: what is sent to it vanishes, and new connections are still tried with it. Then, or when
    it is back, all that had a connection to it see it break."""

    kind: Literal["node_crash"] = "node_crash"
    target: str = Field(description="a node, such as router1 (the first is router0), or a tier: all of its nodes")
    duration: PositiveSeconds = Field(default=5.0, description="for how long it is away")
    detect: Seconds = Field(
        default=0.0,
        description="after how long those that were connected to it (clients too) notice; at the latest when it is"
        " back. 0: a process that died, whose connections its host closes; more: a host that fell silent",
    )


class Partition(_Fault):
    """Two parts of the service do not reach each other; until `detect` neither side knows."""

    kind: Literal["partition"] = "partition"
    target: str = Field(description="the one side: a node, such as gateway0, or a tier")
    other: str = Field(description="the other side, likewise")
    duration: PositiveSeconds = Field(default=5.0, description="for how long")
    detect: Seconds = Field(default=1.0, description="after how long both sides notice; at the latest when it is over")


class LossBurst(_Fault):
    """The networks of some users lose more than usual."""

    kind: Literal["loss_burst"] = "loss_burst"
    share: _Share = Field(default=1.0, description="share of the users (above 0, to 1)")
    loss: float = Field(default=0.3, gt=0, lt=1, description="chance that a transmission is lost, for that time")
    duration: PositiveSeconds = Field(default=5.0, description="for how long")


class StorageStall(_Fault):
    """Storage takes no request until it is over; what it has taken on it finishes."""

    kind: Literal["storage_stall"] = "storage_stall"
    target: str = Field(default="storage", description="a storage, such as storage0; or storage: all of them")
    duration: PositiveSeconds = Field(default=1.0, description="for how long")


class SlowReader(_Fault):
    """Some devices read nothing; beyond limits.send_queue their gateway closes the connection."""

    kind: Literal["slow_reader"] = "slow_reader"
    share: _Share = Field(default=0.1, description="share of the devices (above 0, to 1)")
    duration: PositiveSeconds = Field(default=10.0, description="for how long")


class MassReconnect(_Fault):
    """Connections break at one moment, and their devices come back as their policies have it."""

    kind: Literal["mass_reconnect"] = "mass_reconnect"
    share: _Share = Field(default=1.0, description="share of the devices (above 0, to 1)")


Fault = NodeCrash | Partition | LossBurst | StorageStall | SlowReader | MassReconnect
AnyFault = Annotated[Fault, Field(discriminator="kind")]


def nodes_of(target: str, counts: dict[str, int]) -> list[tuple[str, int]] | None:
    """The nodes that a target names, as (tier, index); None if there is none. `counts`: how many each tier has."""
    found = re.fullmatch(rf"({'|'.join(TIERS)})(0|[1-9]\d*)?", target)
    if found is None:
        return None
    tier, index = found[1], found[2]
    if index is None:
        return [(tier, number) for number in range(counts[tier])]
    return [(tier, int(index))] if int(index) < counts[tier] else None
