"""The drawn steps and faults: faults that can hit something, and steps that an application can take."""

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


def test_messages_have_every_attachment_and_reach_the_size_limit():
    sent = [step.arguments for seed in SEEDS for step in draw(seed).steps if step.action == "send"]
    assert {one["type"] for one in sent} == {*ATTACHMENTS, "text", "notification", "custom"}
    assert any("custom" in one and one["type"] == "text" for one in sent)
    assert {200, 201} <= {len(one["content"].encode()) for one in sent}


@pytest.mark.parametrize("kind", ["lag", "partition"])
def test_faults_between_nodes_name_other_nodes(kind):
    between = [fault for seed in range(300) for fault in draw(seed).faults if fault.kind == kind]
    assert between
    for fault in between:
        assert fault.arguments["others"]
        assert all("r" in (fault.target[0], other[0]) for other in fault.arguments["others"])


def test_case_without_a_wall_skew_has_none():
    fields = json.loads(json.dumps(draw(3).to_json()))
    del fields["wall_skew"]
    assert read(fields).wall_skew == 0.0
