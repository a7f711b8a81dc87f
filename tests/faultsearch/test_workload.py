"""What the fault search draws: faults that hit something, clocks that disagree, steps that an app can take."""

from __future__ import annotations

import json

import pytest

from imsim.faultsearch import draw, read
from imsim.faultsearch.app import _ACTIONS
from imsim.faultsearch.workload import ATTACHMENTS

SEEDS = range(60)


def test_every_action_is_drawn_and_no_other():
    drawn = {step.action for seed in SEEDS for step in draw(seed).steps}
    assert drawn == {*_ACTIONS, "leave", "come"}


def test_messages_carry_every_attachment_and_are_as_long_as_may_be():
    sent = [step.arguments for seed in SEEDS for step in draw(seed).steps if step.action == "send"]
    assert {one["type"] for one in sent} == {*ATTACHMENTS, "text", "notification", "custom"}
    assert any("custom" in one and one["type"] == "text" for one in sent)
    assert {200, 201} <= {len(one["content"].encode()) for one in sent}


@pytest.mark.parametrize("kind", ["lag", "partition"])
def test_what_lies_between_nodes_has_somebody_at_the_other_end(kind):
    between = [fault for seed in range(300) for fault in draw(seed).faults if fault.kind == kind]
    assert between
    for fault in between:
        assert fault.arguments["others"]
        assert all("r" in (fault.target[0], other[0]) for other in fault.arguments["others"])


def test_a_case_from_before_there_were_wall_clocks_has_none():
    fields = json.loads(json.dumps(draw(3).to_json()))
    del fields["wall_skew"]
    assert read(fields).wall_skew == 0.0
