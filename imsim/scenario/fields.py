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
    """The fields of a scenario's file. Each value is checked on its own."""

    name: str = Field(
        default="custom",
        min_length=1,
        exclude=True,
        description="name of the preset, or of the file without its suffix; not a field of the file",
    )
    title: str = Field(
        default="",
        description="the question that the scenario answers, in one line; the heading of pictures and reports",
    )
    seed: int = Field(default=1, ge=0, description="seed of all random numbers: the same seed gives the same rows")
    duration: PositiveSeconds = Field(
        default=10.0, description="how long messages are sent, including the warm-up; seconds or a duration"
    )
    warmup: Seconds = Field(
        default=0.0, description="messages sent before this time are left out of statistics; less than duration"
    )
    drain: Seconds = Field(
        default=5.0, description="how long deliveries can still arrive after duration; seconds or a duration"
    )
    population: Population = Field(default=Population(), description="the users and their devices")
    conversations: Conversations = Field(default=Conversations(), description="the conversations of the users")
    workload: Workload = Field(default=Workload(), description="the messages of the users")
    network: Network = Field(default=Network(), description="the links between nodes (simulated only)")
    topology: Topology = Field(default=Topology(), description="the nodes of the service (simulated only)")
    faults: list[AnyFault] = Field(default=[], description="failures, and when they happen (simulated only)")
    policies: Policies = Field(default=Policies(), description="the behaviour of clients and servers")
    limits: Limits = Field(default=Limits(), description="the limits of queues, requests and rates")
    cost: Cost = Field(default=Cost(), description="the prices of the service (simulated only)")
