"""The file of budgets: what it can contain, and what the errors say."""

from __future__ import annotations

import pytest

from imsim.core.exceptions import UsageError
from imsim.experiments.check.file import Budgets

BUDGET = '[[budget]]\nscenario = "office"\nmetric = "delivery.p99"\n'


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def of(text: str, name: str = "imsim.toml") -> Budgets:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return Budgets.read()

    return of


def test_budget_has_its_subject_metric_and_limit(read):
    (entry,) = read(BUDGET + 'max = "200ms"\nset = { "workload.rate" = 2 }\nwhere = { scene = "group" }').entries
    assert (entry.measure, entry.bound, entry.limit) == ("delivery.p99[scene=group]", 200.0, "<= 200 ms")
    assert entry.name == "office workload.rate=2: delivery.p99 scene=group <= 200 ms"


@pytest.mark.parametrize(
    ("limit", "bound", "text", "is_upper"),
    [
        ('max = "1.5s"', 1500.0, "<= 1500 ms", True),
        ('min = "5ms"', 5.0, ">= 5 ms", False),
        ('max_increase = "5%"', 1.05, "<= +5%", True),
        ("max_increase = 0.05", 1.05, "<= +5%", True),
        ('max_decrease = "2.5%"', 0.975, ">= -2.5%", False),
        ("max_increase = 0", 1.0, "<= +0%", True),
    ],
)
def test_limit_is_absolute_or_relative(read, limit, bound, text, is_upper):
    (entry,) = read(BUDGET + limit).entries
    assert (entry.bound, entry.limit, entry.is_upper) == (pytest.approx(bound), text, is_upper)


def test_budgets_are_found_in_pyproject(read):
    text = '[tool.imsim.server.chat]\ncommand = "serve {port}"\n[[tool.imsim.budget]]\nscenario = "office"\n'
    budgets = read(text + 'metric = "lost"\nmax = 0\nserver = "chat"', "pyproject.toml")
    assert budgets.server(budgets.entries[0]).command == "serve {port}"


def test_scenario_is_relative_to_the_file(read, tmp_path):
    (tmp_path / "mine.toml").write_text("seed = 7")
    budgets = read(BUDGET.replace("office", "mine.toml") + 'max = "1s"')
    assert budgets.scenario(budgets.entries[0]).seed == 7


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "imsim.toml: budget: missing"),
        (BUDGET, "budget.0.max: expected one of max, min, max_increase and max_decrease, got none"),
        (BUDGET + 'max = "1s"\nmin = "2s"', "got max and min"),
        (BUDGET + "max = 200", "budget.0.max: expected a duration with its unit, as in '200ms', got 200"),
        (BUDGET + 'max = "fast"', "budget.0.max: expected a duration such as"),
        (BUDGET + 'max_increase = "much"', "budget.0.max_increase: expected a share such as '5%' or 0.05, got 'much'"),
        (BUDGET + 'max = "1s"\nmaximum = 3', "budget.0.maximum: unknown field (did you mean 'max'?)"),
        (BUDGET.replace("delivery.p99", "p99") + 'max = "1s"', "budget.0.metric: unknown metric 'p99' (did you mean"),
        (BUDGET + 'max = "1s"\nwhere = { scene = "grup" }', "budget.0.where: where.scene: expected one of p2p, group"),
        (BUDGET + 'max = "1s"\nwhere = { sceen = "group" }', "budget.0.where: where.sceen: unknown column"),
        (BUDGET + 'max = "1s"\nrun = "results/x"', "budget.0.scenario: expected a scenario, or the folder of a run"),
        ('[[budget]]\nrun = "x"\nmetric = "lost"\nmax_increase = 0', "budget.0.max_increase: a run has no baseline"),
        ('[[budget]]\nrun = "x"\nmetric = "lost"\nmax = 0\nseed = 3', "budget.0.run: a run has been played already"),
        (BUDGET + 'max = "1s"\nserver = "chat"', "budget.0.server: no [server.chat] here; known: none"),
        (BUDGET + 'max = "1s"\nserver = { ready = "x" }', "url: expected an address, or a command"),
        (BUDGET + 'name = "a"\nmax = "1s"\n' + BUDGET + 'name = "a"\nmax = "2s"', "budget.1.name: 'a' is the name of"),
        ("[[budget]", "imsim.toml: not valid TOML"),
    ],
)
def test_error_names_the_field_and_the_remedy(read, text, error):
    with pytest.raises(UsageError) as caught:
        read(text)
    assert error in str(caught.value)


def test_file_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no budgets here: write an imsim\.toml"):
        Budgets.read()
    with pytest.raises(UsageError, match=r"other\.toml: no such file"):
        Budgets.read("other.toml")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'")
    with pytest.raises(UsageError, match=r"add a \[\[tool\.imsim\.budget\]\]"):
        Budgets.read("pyproject.toml")
