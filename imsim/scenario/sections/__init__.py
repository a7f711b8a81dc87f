"""The tables of a scenario's file, one module for each part of the system."""

from imsim.scenario.sections.base import Section
from imsim.scenario.sections.cost import Cost
from imsim.scenario.sections.faults import AnyFault, Fault
from imsim.scenario.sections.network import PROFILES, BackendLink, ClientLink, Link, Network
from imsim.scenario.sections.people import Conversations, Population, Sessions, Workload
from imsim.scenario.sections.policies import Limits, Policies
from imsim.scenario.sections.topology import Tier, Topology

__all__ = [
    "PROFILES",
    "AnyFault",
    "BackendLink",
    "ClientLink",
    "Conversations",
    "Cost",
    "Fault",
    "Limits",
    "Link",
    "Network",
    "Policies",
    "Population",
    "Section",
    "Sessions",
    "Tier",
    "Topology",
    "Workload",
]
