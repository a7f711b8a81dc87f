"""Faults: the failures of a run, and when they happen. Simulated only."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from imsim.scenario.quantities import PositiveSeconds, Seconds
from imsim.scenario.sections.base import Section
from imsim.scenario.sections.topology import TIERS

_Share = Annotated[float, Field(gt=0, le=1)]


class _Fault(Section):
    at: Seconds = Field(description="when the fault begins, counted from the start of the run; seconds or a duration")


class NodeCrash(_Fault):
    """A node stops, loses its memory and restarts empty. Stored data is kept.

    Until `detect`, no peer notices: frames to the node vanish, and clients still try to connect to it. At `detect`, or
    when the node restarts before that, its peers see their connections break."""

    kind: Literal["node_crash"] = "node_crash"
    target: str = Field(description="a node, such as router1 (the first is router0), or a tier for all of its nodes")
    duration: PositiveSeconds = Field(default=5.0, description="time until the node restarts; seconds or a duration")
    detect: Seconds = Field(
        default=0.0,
        description="time until the peers of the node, including clients, notice the crash; they notice its restart at"
        " the latest. 0: a process died and its host closes the connections; more: the host stopped responding",
    )


class Partition(_Fault):
    """Two parts of the service cannot reach each other. Until `detect`, neither side notices."""

    kind: Literal["partition"] = "partition"
    target: str = Field(description="one side: a node, such as gateway0, or a tier")
    other: str = Field(description="the other side: a node or a tier")
    duration: PositiveSeconds = Field(default=5.0, description="length of the partition; seconds or a duration")
    detect: Seconds = Field(default=1.0, description="time until both sides notice; they notice its end at the latest")


class LossBurst(_Fault):
    """The networks of some users lose more transmissions than usual."""

    kind: Literal["loss_burst"] = "loss_burst"
    share: _Share = Field(default=1.0, description="share of the users (above 0, to 1)")
    loss: float = Field(default=0.3, gt=0, lt=1, description="probability of losing a transmission during the burst")
    duration: PositiveSeconds = Field(default=5.0, description="length of the burst; seconds or a duration")


class StorageStall(_Fault):
    """A storage accepts no requests until the stall ends. It finishes the requests that it has already accepted."""

    kind: Literal["storage_stall"] = "storage_stall"
    target: str = Field(default="storage", description="a storage, such as storage0, or storage for all of them")
    duration: PositiveSeconds = Field(default=1.0, description="length of the stall; seconds or a duration")


class SlowReader(_Fault):
    """Some devices stop reading. Their gateway closes a connection whose queue grows beyond limits.send_queue."""

    kind: Literal["slow_reader"] = "slow_reader"
    share: _Share = Field(default=0.1, description="share of the devices (above 0, to 1)")
    duration: PositiveSeconds = Field(
        default=10.0, description="how long the devices read nothing; seconds or a duration"
    )


class MassReconnect(_Fault):
    """Many connections break at one moment. Their devices reconnect as [policies] describes."""

    kind: Literal["mass_reconnect"] = "mass_reconnect"
    share: _Share = Field(default=1.0, description="share of the devices (above 0, to 1)")


Fault = NodeCrash | Partition | LossBurst | StorageStall | SlowReader | MassReconnect
AnyFault = Annotated[Fault, Field(discriminator="kind")]


def nodes_of(target: str, counts: dict[str, int]) -> list[tuple[str, int]] | None:
    """Return the nodes that a target names, as (tier, index); None if there is no such node.

    counts: the number of nodes in each tier.
    """
    found = re.fullmatch(rf"({'|'.join(TIERS)})(0|[1-9]\d*)?", target)
    if found is None:
        return None
    tier, index = found[1], found[2]
    if index is None:
        return [(tier, number) for number in range(counts[tier])]
    return [(tier, int(index))] if int(index) < counts[tier] else None
