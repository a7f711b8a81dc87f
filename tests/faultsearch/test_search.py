"""The fault search itself: it is repeatable, meets its situations, checks independently, and reports its findings."""

from __future__ import annotations

import ast
import copy
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import pytest
from faultsearch import planted_bugs
from faultsearch.planted_bugs import ack_before_store
from faultsearch.regressions import REGRESSIONS, case_named

import imsim.faultsearch
from imsim.cli import main
from imsim.core import events, frames, storage
from imsim.core.client.client import Client
from imsim.core.exceptions import UsageError
from imsim.core.model import Message, Scene
from imsim.faultsearch import (
    KINDS,
    SOMETIMES,
    Fault,
    Outcome,
    Report,
    draw,
    explain,
    load,
    read,
    replay,
    run,
    save,
    search,
)
from imsim.faultsearch.app import _ACTIONS
from imsim.faultsearch.case_file import ARGUMENTS, check
from imsim.faultsearch.checks import INVARIANTS
from imsim.faultsearch.entries import ClientSent, Crashed, Entry, GatewaySent, Planned, Said, Started, Stored, Struck
from imsim.faultsearch.inject import INJECTIONS
from imsim.faultsearch.model.reference import ReferenceModel
from imsim.faultsearch.search import ENOUGH, PLANNED
from imsim.faultsearch.trace import about, digest
from imsim.scenario import Scenario

PAGE = Path(__file__).parents[2] / "docs" / "fault-search.md"

# --- the search ------------------------------------------------------------------------------------------------------


def test_seeds_hold_all_invariants():
    report = search(5000, 12)
    assert report.passed, str(report)


@pytest.mark.parametrize("name", REGRESSIONS)
def test_regression_case_holds_all_invariants(name):
    assert run(case_named(name)).violations == [], REGRESSIONS[name]["broke"]


def test_search_result_does_not_depend_on_the_number_of_jobs(monkeypatch):
    monkeypatch.setattr(sys.modules[search.__module__], "_BATCH", 2)
    one, two = search(0, 4, jobs=1), search(0, 4, jobs=2)
    assert (one.digest, one.met, one.broken) == (two.digest, two.met, two.broken)


def test_trace_of_a_seed_is_the_same_in_another_process():
    """The hashes of texts differ between the processes."""
    program = "from imsim.faultsearch import replay; print(*[replay(seed).digest for seed in range(2)], hash('a'))"
    environment = {**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"}
    other = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    *digests, text_hash = other.stdout.split()
    assert digests == [replay(seed).digest for seed in range(2)]
    assert int(text_hash) != hash("a")


def test_another_seed_draws_another_case():
    assert draw(1) != draw(2)
    assert replay(1).digest != replay(2).digest


def test_scenario_gives_policies_and_topology():
    office = Scenario.load("office", {"topology.routers": 3, "policies.send_timeout": 1.5})
    case = draw(7, office)
    assert (case.routers, case.policies.send_timeout) == (3, 1.5)
    report = search(0, 4, scenario=office)
    assert report.passed, str(report)


def test_empty_search_is_refused():
    with pytest.raises(UsageError, match="count at least 1"):
        search(0, 0)
    with pytest.raises(UsageError, match="jobs: must be at least 1"):
        search(0, 1, jobs=0)


def test_failing_seeds_are_reported_at_once_and_an_interrupt_keeps_them(monkeypatch):
    ack_before_store(monkeypatch)
    monkeypatch.setattr(sys.modules[search.__module__], "_BATCH", 3)
    shown = []

    def broke(seed: int, invariant: str) -> None:
        shown.append((seed, invariant))
        if len(shown) == 2:
            raise KeyboardInterrupt

    report = search(0, 10**12, broke=broke)
    assert report.interrupted
    assert shown == list(report.broken.items())[:2]
    assert [failure.seed for failure in report.failures] == [shown[0][0]]
    assert str(report).endswith("interrupted: the report covers the seeds run until then")


# --- required faults and situations ----------------------------------------------------------------------------------


def _report(count: int, planned: int, *unmet: str, drawn: bool = True) -> Report:
    met = Counter({name: 1 for name in SOMETIMES if name not in unmet})
    return Report(0, drawn, count, met=met, planned=Counter(dict.fromkeys(KINDS, planned)))


def test_long_search_requires_every_fault_and_situation():
    report = _report(ENOUGH, 0, "conflict", "fault: partition")
    assert report.never == report.unmet == ["fault: partition", "conflict"]
    assert not report.passed
    assert "never met: conflict" in str(report)


def test_search_with_a_scenario_requires_every_kind_of_fault_and_lists_the_rest():
    report = _report(ENOUGH, 0, "conflict", "fault: partition", drawn=False)
    assert (report.never, report.unmet) == (["fault: partition"], ["fault: partition", "conflict"])
    assert "never met: fault: partition" in str(report)
    assert "not met, but not required in a search with a SCENARIO: conflict" in str(report)
    assert report.to_json()["unmet"] == report.unmet


@pytest.mark.parametrize("drawn", [True, False])
def test_short_search_requires_the_faults_that_it_planned_often(drawn):
    assert _report(ENOUGH - 1, PLANNED, "fault: partition", drawn=drawn).never == ["fault: partition"]
    assert _report(ENOUGH - 1, PLANNED - 1, "fault: partition", drawn=drawn).passed


def test_fault_that_hits_nothing_fails_a_short_search(monkeypatch):
    monkeypatch.setitem(INJECTIONS, "break", lambda world, fault: None)
    monkeypatch.setattr(sys.modules[search.__module__], "PLANNED", 3)
    planned = accumulate(any(fault.kind == "break" for fault in draw(seed).faults) for seed in count())
    enough = next(seeds for seeds, breaks in enumerate(planned, 1) if breaks == 3)
    report = search(0, enough)
    assert report.planned["break"] == 3
    assert report.never == ["fault: break"]


# --- cases -----------------------------------------------------------------------------------------------------------


def test_case_survives_json():
    case = draw(3)
    assert read(json.loads(json.dumps(case.to_json()))) == case


def test_case_can_be_edited():
    case = replace(draw(3), faults=(Fault(5.0, "router_crash", "router0", {"seconds": 1.0, "detect": 0.1}),))
    outcome = run(case)
    assert outcome.violations == []
    assert outcome.met["fault: router_crash"] == 1


def test_drawn_cases_are_valid():
    for seed in range(300):
        check(draw(seed))


def test_every_action_has_arguments_and_an_implementation():
    assert set(ARGUMENTS) == {*_ACTIONS, "leave", "come"}


HAND = {
    "devices": ["alice/d0", "bob/d0"],
    "duration": 5,
    "steps": [
        {
            "time": 1,
            "device": "alice/d0",
            "action": "send",
            "arguments": {"scene": "p2p", "to": "bob", "id": "m1", "content": "hello", "type": "text"},
        }
    ],
    "faults": [{"time": 1, "kind": "loss", "target": "bob/d0", "arguments": {"rate": 0.5, "seconds": 2}}],
}


def test_case_by_hand_needs_few_fields():
    outcome = run(read(HAND))
    assert outcome.violations == []
    assert any(type(e.subject) is events.Shown and e.subject.message.content == "hello" for e in outcome.trace)


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("devices", 0), "carol", "devices.0: must be USER/NAME"),
        (("devices", 0), "bob/d0", "devices.1: must be USER/NAME, each once"),
        (("devises",), [], "devises: unknown field (did you mean 'devices'?)"),
        (("duration",), "long", "duration: expected a number, got 'long'"),
        (("gateways",), 0, "gateways: expected at least 1, got 0"),
        (("kinds",), ["phone"], "kinds: must have one for each of 2 devices (got 1)"),
        (("policies",), {"ack": "never"}, "policies: ack: expected 'after_store' or 'after_receive', got 'never'"),
        (("policies",), {"akc": "never"}, "policies.akc: unknown policy 'akc' (did you mean 'ack'?)"),
        (("steps", 0, "time"), -1, "steps.0.time: must be from 0 s to 15 s (got -1)"),
        (("steps", 0, "device"), "alice/d7", "steps.0.device: unknown device 'alice/d7'"),
        (("steps", 0, "action"), "twin", "steps.0.action: unknown action 'twin'"),
        (("steps", 0, "arguments", "contents"), "", "steps.0 (send): arguments: contents: unknown field"),
        (("steps", 0, "arguments", "to"), "zoe", "steps.0 (send): arguments: to: unknown user 'zoe'"),
        (("steps", 0, "arguments", "type"), "image", "steps.0 (send): arguments: "),
        (("steps", 0, "arguments", "file"), {"event": "recall"}, "use the action change or amend instead of send"),
        (("steps", 0, "arguments"), {}, "steps.0 (send): arguments: scene: missing"),
        (("faults", 0, "time"), 500, "faults.0.time: must be from 0 s to 15 s (got 500)"),
        (("faults", 0, "kind"), "meteorite", "unknown kind 'meteorite'"),
        (("faults", 0, "target"), "gateway0", "faults.0.target: unknown target of loss 'gateway0'"),
        (("faults", 0, "arguments", "rate"), 7, "faults.0 (loss): arguments: rate: expected at most 1, got 7"),
        (("faults", 0, "arguments"), {"rate": 1}, "faults.0 (loss): arguments: seconds: missing"),
    ],
)
def test_mistake_in_a_case_is_reported_in_one_line(where, value, words):
    fields = copy.deepcopy(HAND)
    at = fields
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    with pytest.raises(UsageError) as refused:
        read(fields)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_fault_with_a_wrong_target_is_refused():
    with pytest.raises(UsageError, match="unknown target of router_crash 'gateway0'"):
        run(replace(draw(3), faults=(Fault(5.0, "router_crash", "gateway0", {"seconds": 1.0, "detect": 0.1}),)))


def test_unknown_kind_of_fault_is_refused():
    with pytest.raises(UsageError, match="unknown kind 'meteorite'"):
        Fault(1.0, "meteorite", "router0")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_is_drawn(kind):
    assert any(fault.kind == kind for seed in range(200) for fault in draw(seed).faults)


# --- checks ----------------------------------------------------------------------------------------------------------


def _imports(name: str) -> set[str]:
    module = Path(imsim.faultsearch.__file__).with_name("model") / name
    return {
        f"{node.module}.{alias.name}" if node.module == "imsim.core" else node.module
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module.startswith("imsim")
    }


def test_reference_model_imports_only_the_protocol_from_the_core():
    """It must not import internal frames either: machines may send each other wrong ones."""
    assert _imports("rules.py") == {"imsim.core.model"}
    assert _imports("reference.py") == {"imsim.core.frames", "imsim.core.model", "imsim.faultsearch.model.rules"}


def test_invariants_have_unique_names_and_docstrings():
    names = [invariant.__name__ for invariant in INVARIANTS]
    assert len(names) == len(set(names))
    assert all(invariant.__doc__ for invariant in INVARIANTS)


def test_failure_is_shrunk_and_explained(monkeypatch):
    ack_before_store(monkeypatch)
    outcome = next(outcome for seed in range(100) if (outcome := replay(seed)).violations)
    failure = explain(outcome)
    small = failure.smallest
    assert small.violations[0].invariant == outcome.violations[0].invariant
    assert len(small.case.faults) <= 2
    assert len(small.case.steps) <= 3
    text = str(failure)
    assert f"imsim faultsearch --replay {failure.seed}" in text
    assert all(str(fault) in text for fault in small.case.faults)
    devices = zip(small.case.devices, small.case.kinds, strict=True)
    assert all(f"{device} ({kind})" in text for device, kind in devices if kind)
    assert f"client {small.case.client_latency}" in text


def test_failure_of_an_edited_case_names_a_file_instead_of_the_seed(monkeypatch):
    ack_before_store(monkeypatch)
    case = draw(0)
    assert "--replay 0" in explain(run(case), runs=0).command
    assert "--case FILE" in explain(run(case.with_(faults=())), runs=0).command


def test_machine_that_raises_is_reported_with_its_last_entry(monkeypatch):
    def fails(self: Client, conversation: str, now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Client, "read", fails)
    failure = explain(replay(0), runs=0)
    assert failure.violation.invariant == "no_machine_raises"
    assert "ZeroDivisionError" in failure.violation.text
    assert failure.trace[-1] == str(failure.smallest.trace[-1])
    assert len(failure.trace) < 60


def test_check_that_raises_is_reported_as_a_violation(monkeypatch):
    def fails(*_: object) -> None:
        raise LookupError("confused")

    monkeypatch.setattr(ReferenceModel, "view", fails)
    report = search(0, 2)
    assert report.broken == {0: "check_raises", 1: "check_raises"}
    assert report.failures[0].command == "imsim faultsearch --replay 0"
    assert "confused" in str(report.failures[0])


#: Bugs whose violations are about messages, states, devices, users and chatrooms.
EXPLAINED = (
    "ack_before_store", "read_beyond_the_end", "fan_out_to_strangers", "own_messages_counted", "setting_dropped",
    "shown_twice", "room_keeps_devices_that_left", "resend_dropped",
)  # fmt: skip


@pytest.mark.parametrize("name", EXPLAINED)
def test_trace_of_an_explanation_is_about_the_violation_and_ends_there(name, monkeypatch):
    getattr(planted_bugs, name)(monkeypatch)
    outcome = next(outcome for seed in range(30) if (outcome := replay(seed)).violations)
    for violation in [*{v.invariant: v for v in outcome.violations}.values()][:3]:
        entries = outcome.about(violation)
        until = outcome.trace[: violation.at]
        assert 0 < len(entries) < len(until), violation
        assert violation.at is None or entries[-1] is until[-1]
        chosen = {id(entry) for entry in entries}
        assert [id(entry) for entry in until if id(entry) in chosen] == [id(entry) for entry in entries]  # in order
        names = _names_in(violation.text, outcome)
        for entry in entries:
            is_of_all = entry.is_global or isinstance(entry, Planned | Struck) or entry is until[-1]
            text = str(entry)
            assert is_of_all or any(n in text for n in names), f"{violation}: {text}"


def _names_in(text: str, outcome: Outcome) -> set[str]:
    """Return the names in the text: conversations, devices, users, and messages with their idClients."""
    names = set(re.findall(r"(?:p2p|group|system|chatroom):[\w:]+?(?=[:#]\d+\b|\W|$)|\w+/[\w.-]+", text))
    names |= {user for user in outcome.case.users if re.search(rf"\b{user}\b", text)}
    for entry in outcome.trace:
        message = entry.subject  # a chatroom message
        if isinstance(entry, Stored) and isinstance(entry.request, storage.Append):
            message = entry.request.message
        if isinstance(message, Message) and (message.id in text or message.id_client in text):
            names |= {message.id_client, message.conversation_id}
    return names


# --- the trace -------------------------------------------------------------------------------------------------------


def _message(seq: int, id_client: str, content: str = "", **fields: Any) -> Message:
    id = f"p2p:alice:bob:{seq}"
    return Message("p2p:alice:bob", seq, id, id_client, Scene.P2P, "text", "alice", "bob", 0, content, **fields)


def test_digest_depends_on_every_word():
    one = GatewaySent(1.0, "gateway0", "bob/d0", frames.Push(_message(1, "m1", "x" * 30 + "yes")))
    other = GatewaySent(1.0, "gateway0", "bob/d0", frames.Push(_message(1, "m1", "x" * 30 + "not")))
    amended = GatewaySent(1.0, "gateway0", "bob/d0", frames.Push(_message(1, "m1", "x" * 30 + "yes", amended=2)))
    assert len({digest([entry]) for entry in (one, other, amended)}) == 3
    assert digest([one]) == digest([replace(one, frame=frames.Push(_message(1, "m1", "x" * 30 + "yes")))])


def test_entry_shows_the_message_and_its_amendments():
    entry = GatewaySent(1.0, "gateway0", "bob/d0", frames.Push(_message(1, "m1", "hello")))
    assert "p2p:alice:bob#1[m1] 'hello'" in str(entry)
    entry = GatewaySent(1.0, "gateway0", "bob/d0", frames.Push(_message(1, "m1", recalled=True, amended=2)))
    assert "p2p:alice:bob#1[m1] recalled amended by #2" in str(entry)
    fault = Fault(1.0, "crash_on", "router0", {"op": "append", "moment": "done", "seconds": 1.0, "detect": 0.1})
    assert str(fault) in str(Planned(1.0, "router0", str(fault)))


TRACE: list[Entry] = [
    Started(0.1, "alice/d0"),
    ClientSent(1.0, "alice/d0", "gateway0", frames.Send("alice/d0-1", Scene.P2P, "bob", "one", "text")),
    Crashed(1.1, "router0"),
    GatewaySent(1.2, "gateway0", "alice/d0", frames.Stored("alice/d0-1", "p2p:alice:bob", "p2p:alice:bob:1", 1, 0)),
    GatewaySent(1.3, "gateway0", "alice/d0.2", frames.Push(_message(1, "alice/d0-1", "one"))),
    GatewaySent(1.4, "gateway0", "alice/d0.2", frames.Push(_message(12, "alice/d0-12", "two"))),
    ClientSent(1.5, "bob/d0", "gateway0", frames.Read("p2p:alice:bob", 1)),
    ClientSent(1.6, "bob/d0", "gateway0", frames.Read("group:team", 1)),
    Said(1.7, "router0", replace(_message(3, "group:team:1"), conversation_id="system:bob")),
    Said(1.8, "router0", replace(_message(4, "group:club:1"), conversation_id="system:bob")),
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("alice/d0-1 is not in storage", [1, 2, 3, 4]),
        ("p2p:alice:bob:1 came too soon", [1, 2, 3, 4]),  # and the sender's frame, which has only the idClient
        ("p2p:alice:bob#12 is lost", [5]),
        ("alice/d0 is not online", [0, 1, 2, 3]),  # neither alice/d0.2 nor alice/d0-12
        ("kept for bob: Place(conversation_id='p2p:alice:bob', version=1)", [6]),
        ("bob/phone is online 2 times", [6, 7]),
        ("group:team has no owner", [7, 8]),
        ("group:team#1 is lost", [8]),  # and the system message that followed, but no other message for its reader
        ("system:bob#4 is lost", [9]),
        ("p2p:alice:bob holds [1]", [3, 4, 5, 6]),
        ("a connection had 9 pushes", list(range(10))),
    ],
)
def test_about_returns_the_entries_about_a_text(text, shown):
    assert about(TRACE, text) == [TRACE[index] for index in shown]


# --- the command -----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main(["faultsearch", *arguments])
    return int(exit.value.code or 0)


def test_command_searches(capsys):
    assert command("--seeds", "3", "--first", "5", "--jobs", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["first"], report["count"], report["broken"]) == (5, 3, {})


def test_command_fails_and_prints_the_replay_command(capsys, monkeypatch):
    ack_before_store(monkeypatch)
    assert command("--seeds", "1", "--jobs", "1") == 1
    shown = capsys.readouterr()
    assert "replay: imsim faultsearch --replay 0" in shown.out
    assert shown.err == "imsim: seed 0 breaks acks_survive\n"
    assert command("--replay", "0") == 1
    assert "acks_survive" in capsys.readouterr().out


def test_command_replays_a_seed_byte_for_byte(capsys):
    assert command("--replay", "4") == 0
    first = capsys.readouterr().out
    assert command("--replay", "4") == 0
    assert capsys.readouterr().out == first
    assert replay(4).digest in first


def test_command_sets_fields_of_a_scenario_only(capsys):
    assert command("--set", "policies.ack=after_store") == 2
    assert command("office", "--set", "policies.ack=after_receive", "--seeds", "3", "--jobs", "1") == 0


def test_command_runs_a_case_that_was_saved_and_edited(capsys, monkeypatch, tmp_path):
    ack_before_store(monkeypatch)
    file, explained = str(tmp_path / "case.json"), []

    def remember(*arguments: Any) -> Any:
        explained.append(explain(*arguments))
        return explained[-1]

    monkeypatch.setattr(imsim.faultsearch, "explain", remember)
    assert command("--replay", "0", "--save", file) == 1
    case = load(file)
    assert case == explained[0].smallest.case
    capsys.readouterr()
    assert command("--case", file) == 1
    assert f"replay: imsim faultsearch --case {file}" in capsys.readouterr().out
    monkeypatch.undo()
    save(case.with_(faults=(Fault(2.0, "break", case.devices[0]),)), file)
    assert command("--case", file, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["failure"], [fault["kind"] for fault in shown["case"]["faults"]]) == (None, ["break"])


def test_json_output_of_replay_can_be_loaded_as_a_case(capsys, tmp_path):
    assert command("--replay", "4", "--json") == 0
    file = tmp_path / "shown.json"
    file.write_text(capsys.readouterr().out)
    assert load(file) == draw(4)


def test_case_on_the_page_runs_and_crashes_its_router(tmp_path):
    (text,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    outcome = run(read(json.loads(text)))
    assert outcome.violations == []
    assert outcome.met["fault: crash_on"] == 1
    assert outcome.met["resend answered from storage"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--jobs", "0"), "jobs: must be at least 1"),
        (("--replay", "4", "--seeds", "7", "--jobs", "2"), "--replay runs one case; leave out --seeds, --jobs"),
        (("office", "--case", "case.json"), "--case runs one case; leave out SCENARIO"),
        (("--replay", "4", "--case", "case.json"), "leave out --case"),
        (("--save", "case.json"), "--save writes the case of one seed; add --replay SEED"),
        (("--case", "nowhere.json"), "cannot read nowhere.json"),
        (("--replay", "4", "--save", "nowhere/case.json"), "cannot write nowhere/case.json"),
    ],
)
def test_command_refuses_contradictory_arguments(arguments, words, capsys):
    assert command(*arguments) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert len(shown.splitlines()) == 1


def test_command_exits_quietly_when_its_reader_closes_the_pipe(capsys, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert command("--replay", "4") == 0
    assert capsys.readouterr().err == ""
