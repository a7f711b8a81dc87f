"""Scenarios (users, their messages, the service) and the plans that follow from them.

Read the modules in this order: `sections` and `fields` (the fields of a file), `consistency` (checks between fields),
`model` (the scenario), `distributions` (values that vary), `arrivals` and `moments` (times of messages), `draws`
(random numbers by name), `workload` (the plan), `actor` (how a user's client executes the plan).
"""

from imsim.scenario.distributions import (
    Constant,
    CustomDistribution,
    Distribution,
    Empirical,
    Exponential,
    Lognormal,
    Pareto,
    Uniform,
)
from imsim.scenario.draws import Draws, Stream, Streams, numbers
from imsim.scenario.model import LIVE_IGNORES, Scenario
from imsim.scenario.workload import Action, Entitled, Extra, OnlinePeriods, Plan, PlannedConversation, plan

__all__ = [
    "LIVE_IGNORES",
    "Action",
    "Constant",
    "CustomDistribution",
    "Distribution",
    "Draws",
    "Empirical",
    "Entitled",
    "Exponential",
    "Extra",
    "Lognormal",
    "OnlinePeriods",
    "Pareto",
    "Plan",
    "PlannedConversation",
    "Scenario",
    "Stream",
    "Streams",
    "Uniform",
    "numbers",
    "plan",
]
