"""Budgets of simulated scenarios: the same seeds give the same verdict, and a baseline finds a small change."""

from __future__ import annotations

import json

import pytest
from small_scenario import SMALL

from imsim.core.exceptions import UsageError
from imsim.experiments.check.check import check, save_baseline


@pytest.fixture
def project(tmp_path):
    """A folder with a scenario of a constant network latency, and a function that writes its budgets."""

    def write(*budgets: str, latency: str = "20ms") -> str:
        (tmp_path / "small.toml").write_text(SMALL.format(latency=latency))
        heads = (f'[[budget]]\nscenario = "small.toml"\n{one}\n' for one in budgets)
        (tmp_path / "imsim.toml").write_text("".join(heads))
        return str(tmp_path / "imsim.toml")

    return write


def run(file, **options):
    found = check(file, jobs=1, **options)
    return found, [finding.verdict for finding in found.findings]


def test_absolute_budgets_are_held_or_breached_by_their_interval(project):
    file = project(
        'metric = "delivery.p50"\nmax = "200ms"', 'metric = "delivery.p50"\nmax = "30ms"', 'metric = "lost"\nmax = 0'
    )
    found, verdicts = run(file)
    assert verdicts == ["held", "breached", "held"]
    assert (found.verdict, found.exit_code()) == ("breached", 3)
    assert str(found).startswith("breached: 2 held, 1 breached")
    assert json.dumps(run(file)[0].to_json_dict()) == json.dumps(found.to_json_dict())


def test_runs_are_lengthened_for_a_percentile(project):
    found, verdicts = run(project('metric = "delivery.p95"\nmax = "200ms"', 'metric = "delivery.p50"\nmax = "2s"'))
    assert verdicts == ["held", "held"]
    assert not found.findings[0].evidence.endswith(" 2 s")


def test_unchanged_scenario_is_held_at_any_margin(project):
    file = project('metric = "delivery.p50"\nmax_increase = "0%"')
    save_baseline(file, jobs=1)
    found, verdicts = run(file)
    assert verdicts == ["held"]
    assert found.findings[0].evidence == "unchanged: equal rows in 10 replications of 2 s"


def test_scenario_that_is_a_little_slower_is_breached(project):
    budget = 'metric = "delivery.p50"\nmax_increase = "1%"'
    save_baseline(project(budget), jobs=1)
    found, verdicts = run(project(budget, latency="20.6ms"))
    assert verdicts == ["breached"]
    assert found.findings[0].low > 0.01
    change = "the scenario has changed in network.client.latency: '20ms' -> '20.6ms'"
    assert found.findings[0].reason == f"beyond the limit; {change}"


def test_baseline_without_the_budget_is_invalid(project):
    save_baseline(project('metric = "delivery.p50"\nmax_increase = "1%"'), jobs=1)
    found, verdicts = run(project('metric = "ack.p50"\nmax_increase = "1%"'))
    assert verdicts == ["invalid"]
    assert "save it again with `imsim baseline save`" in found.findings[0].reason


def test_missing_and_broken_baselines_are_errors(project, tmp_path):
    file = project('metric = "delivery.p50"\nmax_increase = "1%"')
    with pytest.raises(UsageError, match=r"no such baseline; make it with `imsim baseline save`"):
        check(file)
    (tmp_path / "imsim-baseline.json").write_text("{}")
    with pytest.raises(UsageError, match="not a baseline"):
        check(file)
    with pytest.raises(UsageError, match="no budget of a simulated scenario has max_increase"):
        save_baseline(project('metric = "lost"\nmax = 0'))
