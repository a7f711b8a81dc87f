"""`imsim check` and `imsim baseline` on the command line: the verdict, the files and the exit codes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from small_scenario import SMALL

from imsim.cli import cli


@pytest.fixture
def imsim(tmp_path, monkeypatch):
    """Run a command in a folder with budgets."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str):
        return CliRunner().invoke(cli, arguments, catch_exceptions=False)

    return run


@pytest.fixture
def project(tmp_path):
    def write(limit: str, latency: str = "20ms") -> None:
        (tmp_path / "small.toml").write_text(SMALL.format(latency=latency))
        budget = f'[[budget]]\nname = "half"\nscenario = "small.toml"\nmetric = "delivery.p50"\n{limit}\n'
        (tmp_path / "imsim.toml").write_text(budget)

    return write


def test_verdict_is_first_and_sets_the_exit_code(imsim, project, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    project('max = "200ms"')
    held = imsim("check", "--jobs", "1")
    assert (held.exit_code, held.output.splitlines()[0]) == (0, "held: 1 held")
    project('max = "30ms"')
    breached = imsim("check", "--jobs", "1", "--junit", "budgets.xml")
    assert (breached.exit_code, breached.output.splitlines()[0]) == (3, "breached: 1 breached")
    assert breached.output.splitlines()[-1].startswith("::error title=breached%3A half::delivery.p50 <= 30 ms")
    assert 'failures="1"' in (tmp_path / "budgets.xml").read_text()
    assert "| ❌ breached | half |" in (tmp_path / "summary.md").read_text()


def test_undecided_check_fails_unless_it_may_pass(imsim, project):
    project('max = "1s"')
    options = ("--replications", "80", "--jobs", "1", "--json")
    mean = json.loads(imsim("replicate", "small.toml", *options).output)["metrics"]["delivery.p50"]["mean"]
    project(f'max = "{mean:.3f}ms"')
    assert imsim("check", "--jobs", "1").exit_code == 4
    assert imsim("check", "--jobs", "1", "--undecided", "pass").exit_code == 0


def test_baseline_is_saved_shown_and_compared(imsim, project):
    project('max_increase = "1%"')
    saved = imsim("baseline", "save", "--replications", "10", "--jobs", "1")
    assert (saved.exit_code, saved.output) == (0, "wrote imsim-baseline.json\n")
    assert "small.toml: delivery.p50: " in imsim("baseline", "show").output
    assert list(json.loads(imsim("baseline", "show", "--json").output)["subjects"]) == ["small.toml"]
    assert imsim("baseline", "diff", "--jobs", "1").output == "unchanged: all rows are equal\n"
    assert json.loads(imsim("baseline", "diff", "--jobs", "1", "--json").output) == {"changes": []}
    saved = imsim("baseline", "save", "--replications", "10", "--jobs", "1", "--json")
    assert json.loads(saved.output) == {"file": "imsim-baseline.json"}
    project('max_increase = "1%"', latency="21ms")
    assert imsim("baseline", "diff", "--jobs", "1").output.startswith("small.toml: delivery.p50: now - baseline is +")


def test_budget_of_a_run_is_compared_with_its_number(imsim, tmp_path):
    imsim("simulate", "office", "--duration", "1s")
    (folder,) = (tmp_path / "results").iterdir()
    budget = f'[[budget]]\nrun = "results/{folder.name}"\nmetric = "{{}}"\n{{}}\n'
    (tmp_path / "imsim.toml").write_text(
        budget.format("lost", "max = 0") + budget.format("delivery.p50", 'max = "1ms"')
    )
    found = json.loads(imsim("check", "--json").output)
    assert [one["verdict"] for one in found["budgets"]] == ["held", "breached"]


def test_live_budget_needs_what_it_compares_with(imsim, project, tmp_path):
    project('max_increase = "1%"\nserver = { command = "serve {port}" }')
    with pytest.raises(Exception, match=r"add --base REF \(a commit\) or --base-command COMMAND"):
        imsim("check")
    with pytest.raises(Exception, match="not together with --base"):
        imsim("check", "--base", "HEAD", "--base-command", "x")
    project('max = "1s"')
    with pytest.raises(Exception, match="no budget of a server"):
        imsim("check", "--base", "HEAD")
    with pytest.raises(Exception, match="no budget has a server, so there is no noise to measure"):
        imsim("check", "--calibrate")
