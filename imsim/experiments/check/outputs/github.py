"""A check on GitHub Actions: annotations, and the summary of the job.

GitHub shows ten errors, ten warnings and ten notices of a step, and drops the others silently; a summary can have
1 MiB. (docs.github.com, "Workflow commands for GitHub Actions".)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imsim.experiments.check.result import CheckResult, Finding

#: The annotations of a kind that GitHub shows for a step.
MOST = 10

#: The bytes of a job's summary.
LONGEST = 1 << 20

_KINDS = {"breached": "error", "invalid": "error", "undecided": "warning"}
_MARKS = {"held": "✅", "breached": "❌", "undecided": "❔", "invalid": "⚠️"}


def annotate(found: CheckResult) -> list[str]:
    """Return the workflow commands that annotate a job: one for each budget that is not held, breaches first."""
    lines: list[str] = []
    for kind in ("error", "warning"):
        of_kind = [one for one in found.findings if _KINDS.get(one.verdict) == kind]
        of_kind.sort(key=lambda one: one.verdict != "breached")
        shown = of_kind if len(of_kind) <= MOST else of_kind[: MOST - 1]
        lines += [_command(kind, f"{one.verdict}: {one.name}", _detail(one)) for one in shown]
        if rest := len(of_kind) - len(shown):
            lines.append(_command(kind, f"{rest} more budgets", "the job's summary has all of them"))
    return lines


def summary(found: CheckResult) -> str:
    """Return the Markdown of a job's summary: the verdict, and a table of all budgets."""
    lines = [
        f"### {_MARKS[found.verdict]} imsim check: {found.verdict}",
        "",
        "| verdict | budget | limit | measured | evidence |",
        "|---|---|---|---|---|",
    ]
    for one in found.findings:
        cells = (one.name, one.limit, one.measured, ", ".join(filter(None, (one.evidence, one.reason))))
        lines.append(f"| {_MARKS[one.verdict]} {one.verdict} | {' | '.join(map(_cell, cells))} |")
    lines += ["", *(f"- {_cell(note)}" for note in found.notes)]
    size, kept = 0, []
    for line in lines:
        size += len(line.encode()) + 1
        if size > LONGEST - 100:
            kept.append("\n(cut at the longest summary that GitHub takes)")
            break
        kept.append(line)
    return "\n".join(kept) + "\n"


def write(found: CheckResult, environment: Mapping[str, str]) -> list[str]:
    """Append the summary to the file that GitHub Actions names, and return the annotations to print.

    Args:
        found: the result of the check.
        environment: the environment variables; without GITHUB_ACTIONS nothing happens.
    """
    if environment.get("GITHUB_ACTIONS") != "true":
        return []
    if path := environment.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(summary(found))
    return annotate(found)


def _detail(one: Finding) -> str:
    return f"{one.metric} {one.limit}: {one.measured} ({', '.join(filter(None, (one.evidence, one.reason)))})"


def _command(kind: str, title: str, text: str) -> str:
    """Return a workflow command. Its values escape the characters that would end them."""
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    head = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={head}::{escaped}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
