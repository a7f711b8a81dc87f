"""The scenario (who talks to whom, how often, over what) and the plan that follows from it.

Read in this order: `sections` and `fields` (what a file says), `consistency` (what must hold between fields), `model`
(the scenario), `distributions` (what varies), `arrivals` and `moments` (when messages come), `draws` (random numbers by
name), `workload` (the plan), `actor` (how a user's client carries it out).
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
from imsim.scenario.workload import Action, Entitled, OnlinePeriods, Plan, PlannedConversation, plan

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
