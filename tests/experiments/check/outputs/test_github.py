"""Annotations and summaries on GitHub, within its limits."""

from __future__ import annotations

from imsim.experiments.check.outputs import github
from imsim.experiments.check.result import CheckResult, Finding


def finding(name: str, verdict: str = "breached", **fields) -> Finding:
    return Finding(
        name, "delivery.p99", "<= 200 ms", verdict, 250.0, 240.0, 260.0, evidence="20 replications", **fields
    )


def test_each_budget_that_is_not_held_is_annotated():
    found = CheckResult("imsim.toml", [finding("a", "held"), finding("b", "undecided"), finding("c")])
    assert github.annotate(found) == [
        "::error title=breached%3A c::delivery.p99 <= 200 ms: 250 [240, 260] ms (20 replications)",
        "::warning title=undecided%3A b::delivery.p99 <= 200 ms: 250 [240, 260] ms (20 replications)",
    ]


def test_no_annotation_is_dropped_silently():
    found = CheckResult("imsim.toml", [*(finding(f"i{n}", "invalid") for n in range(20)), finding("worst")])
    lines = github.annotate(found)
    assert len(lines) == github.MOST
    assert "worst" in lines[0]
    assert lines[-1].startswith("::error title=12 more budgets::")


def test_text_cannot_end_a_command_or_a_cell():
    found = CheckResult("imsim.toml", [finding("a|b\n::stop::", reason="50%\nof <script>")])
    (line,) = github.annotate(found)
    assert "\n" not in line
    assert line.count("::") == 2
    assert "50%25%0Aof" in line
    assert "a\\|b ::stop::" in github.summary(found)
    assert "<script>" not in github.summary(found)


def test_summary_is_appended_within_its_limit(tmp_path):
    path = tmp_path / "summary.md"
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(path)}
    path.write_text("before\n")
    github.write(CheckResult("imsim.toml", [finding("x" * 2_000, "held")] * 1_000), environment)
    assert path.read_text().startswith("before\n### ✅ imsim check: held")
    assert path.stat().st_size < github.LONGEST
    assert "cut at the longest summary" in path.read_text()


def test_nothing_is_written_elsewhere():
    assert github.write(CheckResult("imsim.toml", [finding("a")]), {}) == []
