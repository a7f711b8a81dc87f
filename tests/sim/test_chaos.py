"""The fault search itself: it is repeatable, meets what it should, judges independently, and tells what it found."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sim.chaos_mutations import ack_before_store
from sim.chaos_regressions import REGRESSIONS, case_of

import imsim.sim.chaos
from imsim.cli import main
from imsim.core.exceptions import UsageError
from imsim.scenario import Scenario
from imsim.sim.chaos import KINDS, SOMETIMES, Case, Fault, draw, explain, replay, run, search
from imsim.sim.chaos.invariants import INVARIANTS

# --- the search ------------------------------------------------------------------------------------------------------


def test_two_hundred_seeds_hold_and_meet_everything():
    report = search(0, 200)
    assert report.passed, str(report)
    assert all(report.met[name] for name in SOMETIMES)


@pytest.mark.parametrize("name", REGRESSIONS)
def test_what_once_broke_holds(name):
    assert run(case_of(name)).violations == [], REGRESSIONS[name]["broke"]


def test_the_number_of_jobs_changes_nothing():
    one, two = search(0, 20, jobs=1), search(0, 20, jobs=2)
    assert (one.digest, one.met, one.broken) == (two.digest, two.met, two.broken)


def test_the_same_seed_leaves_the_same_trace_in_other_processes():
    program = "from imsim.sim.chaos import replay; print(*[replay(seed).digest for seed in range(5)])"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("0", "1")
    }
    assert digests == {" ".join(replay(seed).digest for seed in range(5))}


def test_another_seed_is_another_case():
    assert draw(1) != draw(2)
    assert replay(1).digest != replay(2).digest


def test_a_scenario_gives_policies_and_topology():
    office = Scenario.load("office", {"topology.routers": 3, "policies.send_timeout": 1.5})
    case = draw(7, office)
    assert (case.routers, case.policies.send_timeout) == (3, 1.5)
    report = search(0, 20, scenario=office)
    assert report.passed, str(report)


def test_an_empty_search_is_refused():
    with pytest.raises(UsageError, match="at least 1 seed"):
        search(0, 0)


# --- plans are data --------------------------------------------------------------------------------------------------


def test_a_plan_survives_json():
    case = draw(3)
    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case


def test_a_plan_can_be_written_by_hand():
    case = replace(draw(3), faults=(Fault(5.0, "router_crash", "r0", {"seconds": 1.0, "detect": 0.1}),))
    outcome = run(case)
    assert outcome.violations == []
    assert outcome.met["fault: router_crash"] == 1


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="unknown kind 'meteorite'"):
        Fault(1.0, "meteorite", "r0")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind):
    assert any(fault.kind == kind for seed in range(200) for fault in draw(seed).faults)


# --- judging ---------------------------------------------------------------------------------------------------------


def _imports(name: str) -> set[str]:
    module = Path(imsim.sim.chaos.__file__).with_name(name)
    return {
        f"{node.module}.{alias.name}" if node.module == "imsim.core" else node.module
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module.startswith("imsim")
    }


def test_the_ledger_knows_the_frames_and_nothing_else_of_the_core():
    assert _imports("rules.py") == {"imsim.core.model"}
    assert _imports("ledger.py") == {"imsim.core.frames", "imsim.core.model", "imsim.sim.chaos.rules"}


def test_every_invariant_says_what_it_is():
    names = [invariant.__name__ for invariant in INVARIANTS]
    assert len(names) == len(set(names))


def test_a_failure_is_made_small_and_told(monkeypatch):
    ack_before_store(monkeypatch)
    outcome = next(outcome for seed in range(100) if (outcome := replay(seed)).violations)
    failure = explain(outcome)
    small = failure.smallest
    assert small.violations[0].invariant == outcome.violations[0].invariant
    assert len(small.case.faults) <= 2
    assert len(small.case.steps) <= 3
    text = str(failure)
    assert f"imsim chaos --replay {failure.seed}" in text
    assert all(str(fault) in text for fault in small.case.faults)
    assert small.about(small.violations[0])


# --- the command -----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main(["chaos", *arguments])
    return int(exit.value.code or 0)


def test_the_command_searches(capsys):
    assert command("--seeds", "10", "--first", "5", "--jobs", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["first"], report["count"], report["broken"]) == (5, 10, {})


def test_the_command_fails_and_tells_how_to_see_it_again(capsys, monkeypatch):
    ack_before_store(monkeypatch)
    assert command("--seeds", "1", "--jobs", "1") == 1
    assert "replay: imsim chaos --replay 0" in capsys.readouterr().out
    assert command("--replay", "0") == 1
    assert "acks_survive" in capsys.readouterr().out


def test_the_command_replays_byte_for_byte(capsys):
    assert command("--replay", "4") == 0
    first = capsys.readouterr().out
    assert command("--replay", "4") == 0
    assert capsys.readouterr().out == first
    assert replay(4).digest in first


def test_fields_are_changed_of_a_scenario_only(capsys):
    assert command("--set", "policies.ack=after_store") == 2
    assert command("office", "--set", "policies.ack=after_receive", "--seeds", "3", "--jobs", "1") == 0
