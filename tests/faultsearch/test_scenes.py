"""Scenes as data: each can be played, and a mistake in one is reported in one line."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from imsim.core.exceptions import UsageError
from imsim.faultsearch import Fault, draw, scenes
from imsim.faultsearch.case import Step
from imsim.faultsearch.case_file import check
from imsim.faultsearch.random import Random
from imsim.scenario import Draws, Stream

SCENES = scenes.read(files("imsim.faultsearch").joinpath("scenes.json").read_text(encoding="utf-8"))
CASE = next(case for seed in range(100) if (case := draw(seed)).gateways > 1 and case.routers > 1)


def play(scene: scenes.Scene, seed: int) -> tuple[list[Step], list[Fault]]:
    random = Random(Stream(Draws(seed, "scenes"), 0))
    rivals = [(CASE.devices[0], CASE.devices[1])]
    stage = scenes.Stage(random, CASE.devices, CASE.gateway_names, CASE.router_names, CASE.duration, rivals)
    stage.play(scene)
    return stage.steps, stage.faults


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_makes_a_valid_part_of_a_case(name):
    for seed in range(20):
        steps, faults = play(SCENES[name], seed)
        assert steps or faults
        assert bool(faults) <= ("faults" in SCENES[name].needs)
        check(CASE.with_(steps=tuple(steps), faults=tuple(fault for fault in faults if fault.time < CASE.duration)))
        assert play(SCENES[name], seed) == (steps, faults)


def test_scene_plays_its_group_and_then_its_steps_in_order():
    fields: dict[str, Any] = {
        "about": "",
        "probability": 1,
        "group": "g",
        "steps": [
            {"mark": True},
            {"since": 2, "by": {"device_of": "$other"}, "do": "send", "with": {"content": "by {other}"}, "wait": 0},
            {"pause": 1, "by": "other", "do": "read", "wait": 2},
            {
                "each": "event",
                "of": ["leave", "join"],
                "steps": [{"by": "other", "do": "change", "with": {"event": "$event"}}],
            },
        ],
    }
    (scene,) = scenes.read(json.dumps({"short": fields})).values()
    steps, _ = play(scene, 0)
    by_action: dict[str, list[Step]] = {}
    for step in steps:
        by_action.setdefault(step.action, []).append(step)
    (said,), made, reads, changes = (by_action[name] for name in ("send", "create_group", "read", "change"))
    assert list(by_action) == ["create_group", "send", "read", "change"]
    assert made[0].arguments == {
        "name": "g", "members": [made[0].user, said.user], "data": {"join": "open", "consent": False}
    }  # fmt: skip
    assert said.arguments == {
        "scene": "group", "to": "g", "id": "rare-1", "content": f"by {said.user}", "type": "text"
    }  # fmt: skip
    assert [device for device in CASE.devices if device.startswith(f"{said.user}/")] == [one.device for one in reads]
    assert 2.4 <= said.time - made[0].time <= 3.2
    assert (round(reads[0].time - said.time, 6), round(changes[0].time - reads[0].time, 6)) == (1, 2)
    assert {(one.arguments["id"], one.arguments["event"]) for one in changes} == {
        ("rare-2", "leave"),
        ("rare-3", "join"),
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probability": 2}, "scenes: short: probability: expected at most 1, got 2"),
        ({"needs": ["luck"]}, "scenes: short: needs.0: expected 'faults' or 'two gateways', got 'luck'"),
        ({"steps": [{"by": "one", "do": "sned"}]}, "scenes: short: steps.0: unknown do 'sned' (did you mean 'send'?)"),
        ({"steps": [{"repeat": 2, "stpes": []}]}, "scenes: short: steps.0: unknown field 'stpes'"),
        ({"steps": [{"shuffle": [{"fault": "x"}]}]}, "scenes: short: steps.0.shuffle.0: unknown fault 'x'"),
    ],
)
def test_mistake_in_a_scene_is_reported_in_one_line(change, words):
    fields = {"about": "", "probability": 1, "steps": [], **change}
    with pytest.raises(UsageError) as refused:
        scenes.read(json.dumps({"short": fields}))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_scene_file_that_is_not_json_is_refused():
    with pytest.raises(UsageError, match="scenes: not JSON"):
        scenes.read("{")


def test_scene_with_an_unknown_name_is_refused(monkeypatch):
    fields = {"about": "", "probability": 1, "steps": [{"by": "one", "do": "send", "with": {"content": "$nobody"}}]}
    monkeypatch.setattr(scenes, "_scenes", lambda: scenes.read(json.dumps({"short": fields})))
    with pytest.raises(UsageError, match="scenes: short: KeyError: 'nobody'"):
        draw(0)
