"""The fields of a scenario, with their defaults."""

from __future__ import annotations

from pydantic import Field

from imsim.scenario.quantities import PositiveSeconds, Seconds
from imsim.scenario.sections import (
    AnyFault,
    Conversations,
    Cost,
    Limits,
    Network,
    Policies,
    Population,
    Section,
    Topology,
    Workload,
)


class ScenarioFields(Section):
    """All that a scenario's file says, each value checked by itself."""

    name: str = Field(
        default="custom",
        min_length=1,
        exclude=True,
        description="the preset's name or the file's stem; not in the file",
    )
    title: str = Field(
        default="",
        description="one line: the question that the scenario answers; stands above its pictures and reports",
    )
    seed: int = Field(default=1, ge=0, description="of everything that is drawn: same seed, same rows")
    duration: PositiveSeconds = Field(
        default=10.0, description="for how long messages are sent, warm-up included; seconds or a duration"
    )
    warmup: Seconds = Field(
        default=0.0, description="messages of this first part do not count in statistics; below duration"
    )
    drain: Seconds = Field(
        default=5.0, description="how long deliveries may still arrive after duration; seconds or a duration"
    )
    population: Population = Field(default=Population(), description="who is there")
    conversations: Conversations = Field(default=Conversations(), description="who talks to whom")
    workload: Workload = Field(default=Workload(), description="how often, and how much")
    network: Network = Field(default=Network(), description="what lies between the nodes (simulated only)")
    topology: Topology = Field(default=Topology(), description="what the service consists of (simulated only)")
    faults: list[AnyFault] = Field(default=[], description="what goes wrong, and when (simulated only)")
    policies: Policies = Field(default=Policies(), description="how client and server behave")
    limits: Limits = Field(default=Limits(), description="where queues and requests end")
    cost: Cost = Field(default=Cost(), description="what the service costs to run (simulated only)")
