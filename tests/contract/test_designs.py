"""A test of the designs that the contract suite runs under."""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum

from contract.designs import DESIGNS
from contract.worlds import scenario_for

from imsim.core.policies import Policies


def test_designs_contain_every_value_of_every_policy():
    designs = [scenario_for(policies).core_policies() for policies in DESIGNS.values()]
    for field in fields(Policies):
        default = getattr(Policies(), field.name)
        if isinstance(default, StrEnum):
            assert {getattr(design, field.name) for design in designs} == set(type(default)), field.name
