"""The commands of budgets: check, and baseline with its subcommands."""

from __future__ import annotations

import json
import os

import click

from imsim import disk
from imsim.cli.options import JOBS, JSON, REPLICATIONS, examples

_FILE = click.argument("file", required=False)
_BASELINE = click.option(
    "--baseline", metavar="FILE", help="The baseline.  [default: imsim-baseline.json, beside the budgets]"
)


@click.command(epilog=examples("imsim check", "imsim check budgets.toml --undecided pass --json"))
@_FILE
@_BASELINE
@click.option(
    "--undecided",
    type=click.Choice(["fail", "pass"]),
    default="fail",
    show_default=True,
    help="Exit with 4, or with 0, if a budget is undecided.",
)
@click.option("--base", metavar="REF", help="Compare servers with this commit, built in a git worktree of its own.")
@click.option("--base-command", metavar="COMMAND", help="Compare servers with the one that this command starts.")
@click.option("--junit", metavar="FILE", help="Write the verdicts as JUnit XML.")
@click.option("--calibrate", is_flag=True, help="Compare each server with itself: what is the noise of this machine?")
@JOBS
@JSON
def check(
    file: str | None,
    baseline: str | None,
    undecided: str,
    base: str | None,
    base_command: str | None,
    junit: str | None,
    calibrate: bool,
    jobs: int,
    as_json: bool,
) -> None:
    """Judge the budgets of FILE: imsim.toml, or [tool.imsim] in pyproject.toml.

    The exit code is 0 if every budget is held, 3 if one is breached, 4 if one is undecided, 5 if a measurement is
    invalid, 2 for a wrong file, and 1 if the check could not run.
    """
    from imsim.api import ProgressBar
    from imsim.experiments.check import check as checks
    from imsim.experiments.check.outputs import github
    from imsim.experiments.check.outputs.junit import to_junit

    with ProgressBar(not as_json) as bar:
        if calibrate:
            floors = checks.calibrate(file, progress=bar.show)
            click.echo(json.dumps(floors) if as_json else _floors(floors))
            return
        found = checks.check(
            file, baseline=baseline, base=base, base_command=base_command, jobs=jobs, progress=bar.show
        )
    click.echo(json.dumps(found.to_json_dict()) if as_json else str(found))
    if junit:
        disk.write(junit, to_junit(found, undecided_passes=undecided == "pass").encode(), name="--junit")
    for line in github.write(found, os.environ):
        click.echo(line, err=as_json)
    raise click.exceptions.Exit(found.exit_code("pass" if undecided == "pass" else "fail"))


def _floors(floors: dict[str, dict[str, float]]) -> str:
    lines = [f"{name}: {metric} +{floor:.1%}" for name, one in floors.items() for metric, floor in one.items()]
    return "\n".join(["noise floor: smaller increases do not differ from noise on this machine", *lines])


@click.group(epilog=examples("imsim baseline save", "imsim baseline diff"))
def baseline() -> None:
    """Save, show and compare the results that relative budgets of simulated scenarios are compared with.

    The baseline is the file imsim-baseline.json, beside the budgets. Commit it.
    """


@baseline.command(epilog=examples("imsim baseline save", "imsim baseline save budgets.toml --replications 40"))
@_FILE
@_BASELINE
@REPLICATIONS
@JOBS
@JSON
def save(file: str | None, baseline: str | None, replications: int | None, jobs: int, as_json: bool) -> None:
    """Simulate the scenarios of the relative budgets of FILE, and write the baseline.

    There are 20 runs of each, unless --replications says otherwise: the most pairs of a check.
    """
    from imsim.api import ProgressBar
    from imsim.experiments.check.check import save_baseline

    with ProgressBar(not as_json) as bar:
        path = save_baseline(file, baseline=baseline, replications=replications, jobs=jobs, progress=bar.show)
    click.echo(json.dumps({"file": str(path)}) if as_json else f"wrote {path}")


@baseline.command("show", epilog=examples("imsim baseline show", "imsim baseline show --baseline old.json --json"))
@_FILE
@_BASELINE
@JSON
def show_baseline(file: str | None, baseline: str | None, as_json: bool) -> None:
    """Print the baseline: the scenarios, and the mean of each metric."""
    from imsim.experiments.check.check import read_baseline

    found = read_baseline(file, baseline)
    click.echo(json.dumps(found.to_json_dict()) if as_json else str(found))


@baseline.command(epilog=examples("imsim baseline diff", "imsim baseline diff budgets.toml --json"))
@_FILE
@_BASELINE
@JOBS
@JSON
def diff(file: str | None, baseline: str | None, jobs: int, as_json: bool) -> None:
    """Simulate the scenarios of the baseline again, and print what has changed. Nothing is judged or written."""
    from imsim.api import ProgressBar
    from imsim.experiments.check.check import diff_baseline

    with ProgressBar(not as_json) as bar:
        found = diff_baseline(file, baseline=baseline, jobs=jobs, progress=bar.show)
    click.echo(json.dumps({"changes": found}) if as_json else "\n".join(found) or "unchanged: all rows are equal")
